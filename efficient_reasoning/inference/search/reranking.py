"""Re-ranking: draw several samples, and let a verifier choose among them, or weigh their votes.

1. `best-of-n` returns the sample that is rated highest (arXiv 2110.14168). Of a process verifier (arXiv 2305.20050)
   the values at the ends of a sample's steps are taken together: the last one, the smallest, or their product.
2. `weighted-vote` lets every sample vote for its answer with its value (arXiv 2206.02336).
3. Without a verifier a sample's value is its own likelihood, the geometric mean of the probabilities of its tokens,
   which costs nothing more.
4. Samples without an answer neither win nor vote. A single sample is not rated: there is nothing to choose.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import LOGPROBS, Completion, Rater
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.search.judging import AGGREGATES, Aggregate, bind_verifier, judge
from efficient_reasoning.inference.search.samples import Sampler, check_samples, choose
from efficient_reasoning.inference.strategy import Assignment, Exchange, Response, Steps, final_answer


@dataclass(frozen=True)
class Reranking:
    """Draw samples, and rate them.

    Args:
        samples: under a budget, as many as it holds at most.
        verifier: folder or Hub id, or a rater; None to take a sample's own likelihood.
        aggregate: what is made of a verifier's values of a sample: "last", "min" or "product".
        sample_tokens: under a budget, most tokens of one; by default `max_new_tokens`.
    """

    samples: int = 8
    verifier: str | Rater | None = None
    aggregate: Aggregate = "last"
    sample_tokens: int | None = None

    def __post_init__(self) -> None:
        check_samples(samples=self.samples, sample_tokens=self.sample_tokens)
        if self.verifier is None and self.aggregate != "last":
            raise BadInput(f"aggregate is {self.aggregate}, of a verifier's values; give verifier, or leave it out.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({LOGPROBS} if self.verifier is None else ())

    def bind(self, reasoner: Reasoner) -> Reranking:
        return bind_verifier(self, reasoner)

    def _rated(self, assignment: Assignment) -> Exchange[tuple[list[Response], list[float]]]:
        """Samples, and what they are worth; a single one is not rated."""
        sampler = Sampler.of(assignment, self.sample_tokens, logprobs=self.verifier is None)
        responses, completions = [], []
        while drawn := (yield from sampler.draw(self.samples - len(responses), responses)):
            completions += drawn
        if len(responses) == 1:
            return responses, [1.0]
        return responses, (yield from self._values(assignment, responses, completions))

    def _values(
        self, assignment: Assignment, responses: Sequence[Response], completions: Sequence[Completion]
    ) -> Exchange[list[float]]:
        """What each response is worth; ratings are charged to it."""
        if self.verifier is None:
            return [one.mean_probability for one in completions]
        rated = yield from judge(self.verifier, assignment, responses)
        for response, one in zip(responses, rated, strict=True):
            response.spend += one.spend
        return [AGGREGATES[self.aggregate](one.values) for one in rated]


@dataclass(frozen=True)
class BestOfN(Reranking):
    """Return the sample with the highest value; of several, one by the seed of the problem."""

    def solve(self, assignment: Assignment) -> Steps:
        """One request for all samples, under a budget more for what they leave of it, and a rating of each.

        Raises:
            BadInput: the budget does not hold one sample.
        """
        responses, values = yield from self._rated(assignment)
        able = [index for index, response in enumerate(responses) if final_answer(assignment, response) is not None]
        chosen = responses[0]
        if able:
            most = max(values[index] for index in able)
            best = sorted((responses[index] for index in able if values[index] == most), key=lambda one: one.ids)
            chosen = random.Random(assignment.seed).choice(best)
        return replace(chosen, spend=sum((response.spend for response in responses), Ledger()))


@dataclass(frozen=True)
class WeightedVote(Reranking):
    """Let samples vote with their values; the shortest that gives the winning answer is returned."""

    def solve(self, assignment: Assignment) -> Steps:
        """As `BestOfN.solve`."""
        responses, values = yield from self._rated(assignment)
        return choose(assignment, responses, values)
