"""SpecReason: a small model writes the steps, and the large one rewrites those that it would not have written.

1. The small model thinks ahead; the large one reads all of it in one pass, and steps are kept up to the first whose
   tokens it finds improbable (arXiv 2504.07891, where it gives a mark from 0 to 9 instead; models that follow no
   instructions give none). It writes that step itself, and the small model goes on from there.
2. Reading many tokens at once takes a model about as long as decoding one, so where most steps are kept the large one
   takes few steps of its own. It writes the answer.
3. What the small model wrote and was not kept is thrown away, but not for free.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import finish, until_close
from efficient_reasoning.inference.engine import SCORE, Likelihood, Rating
from efficient_reasoning.inference.others import check_latents, hand_over, load_small
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.search.samples import check_samples
from efficient_reasoning.inference.strategy import Assignment, Bound, Exchange, Response, Steps, think_limit
from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class SpecReason:
    """Let a small model write the steps that the large one would have written.

    Args:
        small: folder or Hub id.
        threshold: geometric mean of the large model's probabilities of a step's tokens below which it rewrites it.
        draft_tokens: most tokens that the small model thinks ahead.
    """

    needs: ClassVar[frozenset[str]] = frozenset({SCORE})

    small: str
    threshold: float = 0.7
    draft_tokens: int = 128

    def __post_init__(self) -> None:
        check_samples(draft_tokens=self.draft_tokens)
        if not 0 <= self.threshold <= 1:
            raise BadInput(f"threshold is {self.threshold}; give a probability.")

    def bind(self, reasoner: Reasoner) -> Bound:
        """Raise BadInput for a small model that is the large one, or has another tokenizer, and for latents."""
        check_latents(reasoner, "spec-reason")
        small = load_small(self.small, reasoner, ())
        return Bound(functools.partial(self._solve, small, Likelihood(reasoner.engine)))

    def _solve(self, small: Reasoner, likelihood: Likelihood, assignment: Assignment) -> Steps:
        """A draft, a rating, and where a step was not kept a request to the large model, until the thinking is over.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        response, theirs = Response(), hand_over(assignment, small)
        think_tokens = think_limit(assignment)
        while (room_tokens := think_tokens - response.spend.tokens) > 0 and _is_thinking(assignment, response):
            thrown_tokens = yield from self._draft(theirs, likelihood, assignment, response, room_tokens)
            if assignment.budget_tokens is None:  # a chain is as long as it may be, whatever was thrown away
                assignment = replace(assignment, max_new_tokens=assignment.max_new_tokens + thrown_tokens)
                think_tokens = assignment.max_new_tokens
            room_tokens = think_tokens - response.spend.tokens
            if thrown_tokens and room_tokens > 0:
                request = until_close(assignment.request(response.ids, room_tokens), assignment.thinking)
                [step] = yield [replace(request, stop_ids=request.stop_ids | assignment.thinking.break_ids)]
                response.append(step)
                if response.finished:
                    break
        yield from finish(assignment, response, think_tokens)
        return response

    def _draft(
        self,
        theirs: Assignment,
        likelihood: Likelihood,
        assignment: Assignment,
        response: Response,
        room_tokens: int,
    ) -> Exchange[int]:
        """Add what the small model thinks ahead to the response, up to a step to rewrite; how much is thrown away."""
        request = theirs.request(response.ids, min(room_tokens, self.draft_tokens))
        [draft] = yield [until_close(request, theirs.thinking)]
        ids = draft.ids[:-1] if draft.finished else draft.ids  # to end is the large model's to decide
        kept: list[int] = []
        spend = draft.spend
        if ids:
            before = [*assignment.prompt_ids, *response.ids]
            [rated] = yield [Rating([*before, *ids], len(before), likelihood, offset=len(response.ids))]
            spend += rated.spend
            for step, logprobs in _steps(assignment.thinking, ids, rated.values):
                if math.exp(sum(logprobs) / len(step)) < self.threshold:
                    break
                kept += step
        response.ids += kept
        response.spend += spend
        return len(draft.ids) - len(kept)


def _is_thinking(assignment: Assignment, response: Response) -> bool:
    return assignment.thinking.phases(response.ids, assignment.prompt_ids)[-1] in ("unbegun", "thinking")


def _steps(
    thinking: ThinkingFormat, ids: Sequence[int], logprobs: Sequence[float]
) -> Iterator[tuple[Sequence[int], Sequence[float]]]:
    """The lines of a draft, each with the log-probabilities of its tokens; the last may be a part of one."""
    ends = [place for place, token in enumerate(ids, 1) if token in thinking.break_ids]
    for begin, end in itertools.pairwise(sorted({0, *ends, len(ids)})):
        yield ids[begin:end], logprobs[begin:end]
