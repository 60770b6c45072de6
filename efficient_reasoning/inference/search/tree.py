"""What tree searches share: branches that grow step by step, and a budget that they never outgrow.

1. A round takes every branch that is to grow one step further, as often as it was chosen. Whose thinking is over goes
   on to its end in the same round, and all are rated where they stand then.
2. Under a budget, a round shares out evenly what is left of it. A step leaves the reserve of an answer in its share,
   so that whoever goes on can still close and answer, as long as no more grow in the next round than go on from this
   one, or than the rest of the budget `holds`.
3. No branch is longer than one sample may be (`Sampler`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from efficient_reasoning.inference.engine import Completion, Rater, Rating, Request
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.search.samples import Sampler, choose
from efficient_reasoning.inference.search.steps import line_ends, until_step
from efficient_reasoning.inference.strategy import Exchange, Response, think_limit


@dataclass(eq=False)
class Branch:
    """A response that is being written, or that has been.

    Attributes:
        response: charged with what was decoded from the root to its end.
        value: P(right) at the end of its last step.
        is_over: it does not grow any more.
        seed: of what is decoded in this round.
        end_tokens: what the response may have spent when this round is over.
    """

    response: Response = field(default_factory=Response)
    value: float = 0.0
    is_over: bool = False
    seed: int = 0
    end_tokens: int = 0

    @property
    def room_tokens(self) -> int:
        return self.end_tokens - self.response.spend.tokens


class Tree:
    """The branches of one problem.

    Args:
        sampler: bounds one of them as it bounds a sample, and all of them as it bounds all samples.
        rater: says what they are worth.

    Attributes:
        spend: of all branches, those that were given up included.
    """

    def __init__(self, sampler: Sampler, rater: Rater):
        self.own, self.budget_tokens, self.rater = sampler.assignment, sampler.budget_tokens, rater
        self.spend = Ledger()
        self._reserve_tokens = self.own.limit_tokens - think_limit(self.own)
        self._drawn = 0

    def holds(self, count: int) -> int:
        """How many of so many branches the rest of the budget takes one step further, and then to an answer."""
        if self.budget_tokens is None:
            return count
        return min(count, (self.budget_tokens - self.spend.tokens) // (2 * self._reserve_tokens))

    def grow(self, parents: Sequence[Branch], counts: Sequence[int]) -> Exchange[list[Branch]]:
        """Take each branch one step further, so many times; what came of it, rated."""
        share_tokens = self.own.limit_tokens
        if self.budget_tokens is not None:
            share_tokens = (self.budget_tokens - self.spend.tokens) // sum(counts)
        grown = []
        for parent, count in zip(parents, counts, strict=True):
            end_tokens = min(self.own.limit_tokens, parent.response.spend.tokens + share_tokens)
            for _ in range(count):
                response = replace(parent.response, ids=list(parent.response.ids))
                # Over, unless its step ends with a line.
                grown.append(Branch(response, parent.value, True, self.own.seed + self._drawn, end_tokens))
                self._drawn += 1
        yield from self._step(grown)
        yield from self._finish([branch for branch in grown if branch.is_over and not branch.response.finished])
        yield from self._rate(grown)
        return grown

    def result(self, branches: Sequence[Branch]) -> Response:
        """What branches that are over vote for with their values, charged with the whole tree."""
        chosen = choose(self.own, [one.response for one in branches], [one.value for one in branches])
        return replace(chosen, spend=self.spend)

    def _step(self, branches: Sequence[Branch]) -> Exchange[None]:
        """Go on to the end of a line; who thinks there goes on in the next round."""
        thinking, prompt_ids = self.own.thinking, self.own.prompt_ids
        asked = []
        for branch in branches:
            if (room_tokens := branch.room_tokens - self._reserve_tokens) > 0:
                asked.append((branch, until_step(self.own.request(branch.response.ids, room_tokens), thinking)))
        completions = yield from self._decode(asked)
        for (branch, _), completion in zip(asked, completions, strict=True):
            thinks = bool(thinking.close(branch.response.ids, prompt_ids))
            branch.is_over = not (completion.stopped and thinks)

    def _finish(self, branches: Sequence[Branch]) -> Exchange[None]:
        """Go on to the end, with an answer; under a budget, thinking closes before its reserve."""
        yield from self._decode(
            [
                (branch, self.own.request(branch.response.ids, room_tokens, room_tokens - self._reserve_tokens))
                for branch in branches
                if (room_tokens := branch.room_tokens) > 0
            ]
        )

    def _decode(self, asked: Sequence[tuple[Branch, Request]]) -> Exchange[list[Completion]]:
        completions = yield [replace(request, seed=branch.seed) for branch, request in asked]
        for (branch, _), completion in zip(asked, completions, strict=True):
            branch.response.append(completion)
            self.spend += completion.spend
        return completions

    def _rate(self, branches: Sequence[Branch]) -> Exchange[None]:
        """Those that are over, or at the end of a line; behind a blank one, what was said before still holds."""
        thinking, prompt_ids = self.own.thinking, self.own.prompt_ids

        def is_at_end(ids: list[int]) -> bool:
            return line_ends(thinking, ids, prompt_ids)[-1:] == [len(ids) - 1]

        asked = [branch for branch in branches if branch.is_over or is_at_end(branch.response.ids)]
        rated = yield [self._rating(branch.response.ids) for branch in asked]
        for branch, one in zip(asked, rated, strict=True):
            [branch.value] = one.values
            self.spend += one.spend

    def _rating(self, ids: Sequence[int]) -> Rating:
        """Asks about the last of the ids: what the rater said of those before is known."""
        before = [*self.own.prompt_ids, *ids[:-1]]
        return Rating([*before, ids[-1]], len(before), self.rater, offset=len(ids) - 1)


def allot(weights: Sequence[float], total: int, rng: random.Random) -> list[int]:
    """Whole shares of a total in proportion to weights: rounded down, and the rest by the largest remainders."""
    quotas = [total * weight / sum(weights) for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(weights)), key=lambda index: (counts[index] - quotas[index], rng.random()))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
