"""Voting: the answer that most samples give.

1. Self-consistency (arXiv 2203.11171) draws a fixed number of samples.
2. Adaptive consistency (arXiv 2305.11860) draws a few at a time, and stops when it is sure which answer would win in
   the end: with v1 and v2 votes for the two commonest answers, and a uniform prior of the share p of the first among
   both,

       P(p > 1/2 | v1, v2) = 1 - I_1/2(v1 + 1, v2 + 1) = P(Binomial(v1 + v2 + 1, 1/2) <= v1) > confidence.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.search.samples import Sampler, check_samples, choose
from efficient_reasoning.inference.strategy import Assignment, Response, Steps, final_answer


@dataclass(frozen=True)
class SelfConsistency:
    """Draw samples and let them vote.

    Args:
        samples: under a budget, as many as it holds at most.
        sample_tokens: under a budget, most tokens of one; by default `max_new_tokens`.
    """

    samples: int = 8
    sample_tokens: int | None = None

    def __post_init__(self) -> None:
        check_samples(samples=self.samples, sample_tokens=self.sample_tokens)

    def solve(self, assignment: Assignment) -> Steps:
        """One request for all samples; under a budget, more for what they leave of it.

        Raises:
            BadInput: the budget does not hold one sample.
        """
        sampler, responses = Sampler.of(assignment, self.sample_tokens), []
        while (yield from sampler.draw(self.samples - len(responses), responses)):
            continue
        return choose(assignment, responses)


@dataclass(frozen=True)
class AdaptiveConsistency:
    """Draw samples until their vote is certain.

    Args:
        samples: at most; under a budget, as many as it holds.
        confidence: probability above which the leading answer wins, in [0, 1); 1 draws all samples.
        round_samples: drawn at a time.
        sample_tokens: under a budget, most tokens of one; by default `max_new_tokens`.
    """

    samples: int = 40
    confidence: float = 0.95
    round_samples: int = 4
    sample_tokens: int | None = None

    def __post_init__(self) -> None:
        check_samples(samples=self.samples, round_samples=self.round_samples, sample_tokens=self.sample_tokens)
        if not 0 <= self.confidence <= 1:
            raise BadInput(f"confidence is {self.confidence}; give a probability.")

    def solve(self, assignment: Assignment) -> Steps:
        """One request a round.

        Raises:
            BadInput: the budget does not hold one sample.
        """
        sampler, responses = Sampler.of(assignment, self.sample_tokens), []
        while not self._is_certain(assignment, responses):
            count = min(self.round_samples, self.samples - len(responses))
            if not (yield from sampler.draw(count, responses)):
                break
        return choose(assignment, responses)

    def _is_certain(self, assignment: Assignment, responses: list[Response]) -> bool:
        votes = Counter(final_answer(assignment, response) for response in responses)
        del votes[None]
        first, second, *_ = [*sorted(votes.values(), reverse=True), 0, 0]
        return bool(responses) and leads(first, second) > self.confidence


def leads(first: int, second: int) -> float:
    """Probability that an answer with `first` votes is commoner than one with `second`."""
    drawn = first + second + 1
    return sum(math.comb(drawn, votes) for votes in range(first + 1)) / 2**drawn
