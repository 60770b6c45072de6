"""Beam search over steps: of all that branches could say next, keep what a verifier thinks best (arXiv 2408.03314).

Every round takes the beams that still think one step further, each `expansions` times, and keeps the `width` best of
what came of it; one that is done stays. In the end, those that are done vote for their answers with their values.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from efficient_reasoning.inference.engine import Rater
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.search.judging import bind_verifier
from efficient_reasoning.inference.search.samples import Sampler, check_samples
from efficient_reasoning.inference.search.tree import Branch, Tree, allot
from efficient_reasoning.inference.strategy import Assignment, Steps


@dataclass(frozen=True)
class BeamSearch:
    """Keep the best beams of every step.

    Args:
        verifier: folder or Hub id, or a rater.
        width: beams that are kept.
        expansions: next steps that each of them tries. Under a budget, all beams together try as many as it holds.
        sample_tokens: under a budget, most tokens of a beam; by default `max_new_tokens`.
    """

    verifier: str | Rater
    width: int = 4
    expansions: int = 4
    sample_tokens: int | None = None

    def __post_init__(self) -> None:
        check_samples(width=self.width, expansions=self.expansions, sample_tokens=self.sample_tokens)

    def bind(self, reasoner: Reasoner) -> BeamSearch:
        return bind_verifier(self, reasoner)

    def solve(self, assignment: Assignment) -> Steps:
        """One request or two and a rating for each branch of a round; where only one may grow, it is not rated.

        Raises:
            BadInput: the budget does not hold one sample.
        """
        sampler = Sampler.of(assignment, self.sample_tokens)
        most = sampler.held(self.width * self.expansions)
        if most == 1:
            return (yield from sampler.only())
        tree, rng = Tree(sampler, self.verifier), random.Random(assignment.seed)
        beams, done, count = [Branch()], [], most
        while beams:
            grown = yield from tree.grow(beams, allot([1.0] * len(beams), count, rng))
            grown.sort(key=lambda branch: (-branch.value, rng.random()))
            kept = grown[: self.width - len(done)]
            done += [branch for branch in kept if branch.is_over]
            beams = [branch for branch in kept if not branch.is_over]
            count = max(len(beams), tree.holds(min(most, len(beams) * self.expansions)))
        return tree.result(done)
