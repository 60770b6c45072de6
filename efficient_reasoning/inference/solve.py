"""From a question to an answer: run a strategy, take the response apart.

reasoner = load_reasoner("overthinker")
result = solve(reasoner, "Compute 34 + 27 - 15 + 88.", strategy="budget-forcing", budget_tokens=64)
result.answer, result.thinking, result.spend.tokens
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Sampling
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.strategy import (
    Assignment,
    Response,
    charge_latents,
    run_all,
)
from efficient_reasoning.prompts import encode_prompt, make_prompt
from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class Solution:
    """A response, taken apart. Lengths are token ids without EOS; forced tokens are part of the total.

    Attributes:
        answer: text after the thinking; empty when the thinking never ended.
        thinking: text of the thinking.
        prompt_ids, completion_ids: as the model read and wrote them; EOS kept.
        truncated: the response was cut off before EOS.
        forced_close: the thinking was closed from outside.
        thinking_tokens, answer_tokens, total_tokens: of the completion; delimiters count only in the total.
        latent_tokens: latents, or pauses, that were read or decoded before it; in no other length, and in `spend`.
        spend: everything the strategy made the model do.
    """

    answer: str
    thinking: str
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool
    forced_close: bool
    thinking_tokens: int
    answer_tokens: int
    total_tokens: int
    spend: Ledger
    latent_tokens: int = 0

    @property
    def kept_reasoning(self) -> bool:
        """The model went on past a forced close, up to the end of its budget."""
        return self.forced_close and self.truncated


def solve(
    reasoner: Reasoner,
    question: str | Sequence[dict],
    strategy: str = "budget-forcing",
    budget_tokens: int | None = None,
    **options,
) -> Solution:
    """Solve one question; `options` are those of `solve_many`, with `seed` in place of `seeds`."""
    seed = options.pop("seed", 0)
    [solution] = solve_many(reasoner, [question], strategy, budget_tokens, seeds=[seed], **options)
    return solution


def solve_many(
    reasoner: Reasoner,
    questions: Sequence[str | Sequence[dict]],
    strategy: str = "budget-forcing",
    budget_tokens: int | None = None,
    **options,
) -> list[Solution]:
    """Solve many questions together, which is how an engine is fast; `options` are those of `respond_many`."""
    responses = respond_many(reasoner, questions, strategy, budget_tokens, **options)
    return [take_apart(reasoner.thinking, response) for response in responses]


def respond_many(
    reasoner: Reasoner,
    questions: Sequence[str | Sequence[dict]],
    strategy: str = "budget-forcing",
    budget_tokens: int | None = None,
    *,
    seeds: Sequence[int],
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 20,
    max_new_tokens: int = 512,
    progress: Callable[[int], object] | None = None,
    **parameters,
) -> list[Response]:
    """The responses to many questions, each with its prompt; `take_apart` makes solutions of them, now or elsewhere.

    Args:
        reasoner: from `load_reasoner`.
        questions: texts, or conversations that end with a question; the prompt is rendered as in training.
        strategy: a name that `get_strategy` knows.
        budget_tokens: most tokens to decode or force a question, latents and pauses included; None for no budget.
        seeds: one a question.
        temperature, top_p, top_k: see `Sampling`.
        max_new_tokens: most tokens of one chain when there is no budget; latents and pauses are none.
        progress: told how many more questions are done.
        parameters: of the strategy.

    Raises:
        BadInput: unknown strategy, a budget or limit below one token, or a budget the strategy cannot keep.
    """
    sampling = Sampling(temperature, top_p, top_k)
    assignments = assign(reasoner, questions, budget_tokens, max_new_tokens, sampling, seeds)
    plan = reasoner.strategy(strategy, **parameters)
    steps = [charge_latents(plan.solve(assignment), assignment.latents) for assignment in assignments]
    responses = run_all(reasoner.closing_engine, steps, progress)
    for assignment, response in zip(assignments, responses, strict=True):
        response.prompt_ids = response.prompt_ids or assignment.prompt_ids
    return responses


def check_request(
    reasoner: Reasoner,
    question: str | Sequence[dict],
    strategy: str,
    budget_tokens: int | None,
    max_new_tokens: int,
    sampling: Sampling,
) -> None:
    """Raise what `solve_many` would raise of these arguments, without decoding a token."""
    [assignment] = assign(reasoner, [question], budget_tokens, max_new_tokens, sampling, [0])
    next(reasoner.strategy(strategy).solve(assignment))


def assign(
    reasoner: Reasoner,
    questions: Sequence[str | Sequence[dict]],
    budget_tokens: int | None,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Assignment]:
    """What strategies are given for these questions; arguments and errors are those of `solve_many`."""
    if budget_tokens is not None and budget_tokens < 1:
        raise BadInput(f"budget_tokens is {budget_tokens}; give at least 1, or none for no limit.")
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens is {max_new_tokens}; give at least 1.")
    if budget_tokens is not None and reasoner.latent_steps:  # each is a step of the model like any other
        if budget_tokens <= reasoner.latent_steps:
            kind = "latents" if reasoner.metadata.latent_steps else "pauses"
            raise BadInput(
                f"budget_tokens is {budget_tokens}, and {reasoner.name} takes {reasoner.latent_steps} {kind}; give "
                "more, or fewer latent_steps."
            )
        budget_tokens -= reasoner.latent_steps
    histories = [[] if isinstance(question, str) else question[:-1] for question in questions]
    questions = [question if isinstance(question, str) else question[-1]["content"] for question in questions]
    if not all(question.strip() for question in questions):
        raise BadInput("A question is empty; write one.")

    def render(history: Sequence[dict], question: str) -> list[int]:
        messages = [*history, {"role": "user", "content": question}]
        return [*encode_prompt(reasoner.tokenizer, make_prompt(reasoner.tokenizer, messages)), *reasoner.latent_ids]

    renders = [functools.partial(render, history) for history in histories]
    # Samples of one question stand together, and rendering takes longer than decoding a few tokens.
    prompts: list[list[int]] = []
    for index, question in enumerate(questions):
        is_again = index > 0 and (histories[index], question) == (histories[index - 1], questions[index - 1])
        prompts.append(prompts[-1] if is_again else renders[index](question))
    for prompt_ids, question in zip(prompts, questions, strict=True):
        if reasoner.context_tokens is not None and len(prompt_ids) >= reasoner.context_tokens:
            raise BadInput(
                f"The question {question[:30]!r}... takes {len(prompt_ids):,} tokens, and {reasoner.name} reads "
                f"{reasoner.context_tokens:,}; shorten it."
            )
    given = (reasoner.thinking, budget_tokens, max_new_tokens, sampling)
    return [
        Assignment(prompt_ids, *given, seed, question, render, reasoner.latent_steps, history)
        for prompt_ids, seed, question, render, history in zip(
            prompts, seeds, questions, renders, histories, strict=True
        )
    ]


def take_apart(thinking: ThinkingFormat, response: Response) -> Solution:
    """A response of `respond_many`, as thinking and answer."""
    split, count = thinking.take_apart(response.ids, response.prompt_ids)
    return Solution(
        answer=thinking.tokenizer.decode(split.answer_ids, skip_special_tokens=True),
        thinking=thinking.tokenizer.decode(split.thinking_ids, skip_special_tokens=True),
        prompt_ids=response.prompt_ids,
        completion_ids=response.ids,
        truncated=not response.finished,
        forced_close=response.forced_close,
        thinking_tokens=count.thinking_tokens,
        answer_tokens=count.answer_tokens,
        total_tokens=count.total_tokens,
        spend=response.spend,
        latent_tokens=response.latent_tokens,
    )
