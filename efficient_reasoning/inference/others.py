"""Other models that a strategy asks beside the one that it was given: smaller ones, judges.

A strategy names them by path or Hub id, as a parameter. They read and write the same token ids, so that what one has
begun another can go on with, and a response is one sequence of ids, whoever wrote it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.reasoner import Reasoner, load_reasoner
from efficient_reasoning.inference.recall import RecallingEngine
from efficient_reasoning.inference.strategy import Assignment
from efficient_reasoning.prompts import encode_prompt, make_prompt


@functools.lru_cache(maxsize=4)  # strategies are made anew for every chunk of problems
def load_other(model: str, backend: str = "auto") -> Reasoner:
    """Another model, which stays loaded.

    Raises:
        BadInput: as `load_reasoner`, and a model that thinks in latents or pauses.
    """
    reasoner = load_reasoner(model, backend)
    if reasoner.latent_ids:
        raise BadInput(f"{model} thinks in latents or pauses, which only the model that is asked may; take another.")
    return reasoner


def load_small(model: str, reasoner: Reasoner, needs: Collection[str]) -> Reasoner:
    """A model to ask in place of the one that was given.

    Args:
        model: folder or Hub id.
        reasoner: the large one.
        needs: capabilities that the small one's engine must have.

    Raises:
        BadInput: it is the large one, has another tokenizer, or its backend lacks a capability.
    """
    small = load_other(model)
    if small.location == reasoner.location or (small.weights and small.weights == reasoner.weights):
        raise BadInput(f"The small model is {reasoner.name} itself; give a smaller one.")
    check_tokenizer(reasoner, small)
    if missing := sorted(frozenset(needs) - small.engine.capabilities):
        raise BadInput(f"{model} runs on backend {small.backend}, which has no {' and '.join(missing)}.")
    # Charged as the large one is: a recalling engine reads prompts anew at a forced close.
    return small.recalling() if isinstance(reasoner.engine, RecallingEngine) else small


def check_tokenizer(reasoner: Reasoner, other: Reasoner) -> None:
    """Refuse a model whose token ids mean something else.

    Raises:
        BadInput: vocabularies or think delimiters differ.
    """
    same_ids = reasoner.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    if not same_ids or reasoner.thinking.empty() != other.thinking.empty():
        raise BadInput(
            f"{other.name} and {reasoner.name} have different tokenizers, and one could not read what the other "
            "writes; take two models of one family."
        )


def check_latents(reasoner: Reasoner, strategy: str) -> None:
    """Refuse a model whose prompts a strategy would have read in one pass, which knows no latents.

    Raises:
        BadInput: it thinks in latents or pauses.
    """
    if reasoner.latent_ids:
        raise BadInput(
            f"{reasoner.name} thinks in latents or pauses, which {strategy} does not read; take another model."
        )


def hand_over(assignment: Assignment, other: Reasoner) -> Assignment:
    """The same problem, for another model: its prompt in that one's words, its requests to that one's engine."""

    def render(question: str) -> list[int]:
        messages = [*assignment.history, {"role": "user", "content": question}]
        return encode_prompt(other.tokenizer, make_prompt(other.tokenizer, messages))

    return replace(
        assignment,
        prompt_ids=render(assignment.question),
        thinking=other.thinking,
        render=render,
        latents=0,
        engine=other.closing_engine,
    )
