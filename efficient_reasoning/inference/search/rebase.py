"""REBASE: a tree whose branches get children in proportion to what a verifier thinks of them (arXiv 2408.00724).

1. Every round takes the branches that still think one step further. Of the `width` leaves, those that are not done yet
   are shared out among them by softmax(value / balance_temperature): a promising branch gets several children, a bad
   one none. Unlike a beam search, the tree keeps branches of middling value, each with its share.
2. Branches that are done vote for their answers with their values.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Rater
from efficient_reasoning.inference.reasoner import Reasoner
from efficient_reasoning.inference.search.judging import bind_verifier
from efficient_reasoning.inference.search.samples import Sampler, check_samples
from efficient_reasoning.inference.search.tree import Branch, Tree, allot
from efficient_reasoning.inference.strategy import Assignment, Steps


@dataclass(frozen=True)
class Rebase:
    """Let branches grow by what they are worth, and vote.

    Args:
        verifier: folder or Hub id, or a rater.
        width: leaves of the tree; under a budget, as many as it holds at most.
        balance_temperature: small ones give all children to the best branch, large ones to each as many.
        sample_tokens: under a budget, most tokens of a branch; by default `max_new_tokens`.
    """

    verifier: str | Rater
    width: int = 8
    balance_temperature: float = 0.1
    sample_tokens: int | None = None

    def __post_init__(self) -> None:
        check_samples(width=self.width, sample_tokens=self.sample_tokens)
        if self.balance_temperature <= 0:
            raise BadInput(f"balance_temperature is {self.balance_temperature}; give more than 0.")

    def bind(self, reasoner: Reasoner) -> Rebase:
        return bind_verifier(self, reasoner)

    def solve(self, assignment: Assignment) -> Steps:
        """One request or two and a rating for each branch of a round; a tree of one leaf is a chain, and is not rated.

        Raises:
            BadInput: the budget does not hold one sample.
        """
        sampler = Sampler.of(assignment, self.sample_tokens)
        leaves = sampler.held(self.width)
        if leaves == 1:
            return (yield from sampler.only())
        tree, rng = Tree(sampler, self.verifier), random.Random(assignment.seed)
        growing, done = [Branch()], []
        while growing:
            highest = max(branch.value for branch in growing)
            weights = [math.exp((branch.value - highest) / self.balance_temperature) for branch in growing]
            grown = yield from tree.grow(growing, allot(weights, leaves - len(done), rng))
            done += [branch for branch in grown if branch.is_over]
            growing = [branch for branch in grown if not branch.is_over]
        return tree.result(done)
