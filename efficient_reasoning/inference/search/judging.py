"""Asking a rater about responses, and what strategies that have one share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Rated, Rater, Rating
from efficient_reasoning.inference.search.steps import step_ends
from efficient_reasoning.inference.strategy import Assignment, Exchange, Response

if TYPE_CHECKING:
    from efficient_reasoning.inference.reasoner import Reasoner

Aggregate = Literal["last", "min", "product"]
AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda values: values[-1],
    "min": min,
    "product": math.prod,
}
Verified = TypeVar("Verified")  # a strategy with a `verifier`


def bind_verifier(strategy: Verified, reasoner: Reasoner) -> Verified:
    """The same strategy with its verifier loaded, where it names one.

    Raises:
        BadInput: no verifier, one of another tokenizer, or a reasoner with latents, which no verifier reads.
    """
    if strategy.verifier is None:
        return strategy
    if reasoner.latent_ids:
        raise BadInput(f"{reasoner.name} thinks in latents or pauses, which no verifier reads; leave out verifier.")
    if not isinstance(strategy.verifier, str):
        return strategy
    from efficient_reasoning.inference.others import check_tokenizer
    from efficient_reasoning.inference.search.verifier import load_verifier

    verifier = load_verifier(strategy.verifier)
    check_tokenizer(reasoner, verifier)
    return replace(strategy, verifier=verifier)


def judge(rater: Rater, assignment: Assignment, responses: Sequence[Response]) -> Exchange[list[Rated]]:
    """What a rater says of each response at the ends of its steps, and what that cost."""
    prompt_ids = assignment.prompt_ids
    rated = yield [Rating([*prompt_ids, *response.ids], len(prompt_ids), rater) for response in responses]
    return [
        replace(one, values=[one.values[end] for end in step_ends(assignment.thinking, response.ids, prompt_ids)])
        for one, response in zip(rated, responses, strict=True)
    ]
