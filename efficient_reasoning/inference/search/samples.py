"""Samples of one problem, drawn together, and a budget that is shared out among them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import finish
from efficient_reasoning.inference.engine import Completion
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import Assignment, Exchange, Response, Steps, final_answer, think_limit


@dataclass(frozen=True)
class Sampler:
    """Draws samples of a problem within its budget.

    Attributes:
        budget_tokens: of all samples together; None for no budget.
        assignment: of one sample.
        logprobs: whether samples bring their log-probabilities.
    """

    budget_tokens: int | None
    assignment: Assignment
    logprobs: bool = False

    @classmethod
    def of(cls, assignment: Assignment, sample_tokens: int | None = None, logprobs: bool = False) -> Sampler:
        """Bound the samples of a problem.

        Args:
            assignment: its budget is that of all samples together.
            sample_tokens: under a budget, most tokens of one; by default `max_new_tokens`. A smaller budget is that of
                the only sample.
            logprobs: whether samples bring their log-probabilities.

        Raises:
            BadInput: one sample has no room for an answer.
        """
        if assignment.budget_tokens is not None:
            most_tokens = sample_tokens or assignment.max_new_tokens
            own = replace(assignment, budget_tokens=min(assignment.budget_tokens, most_tokens))
            if own.budget_tokens < assignment.budget_tokens and most_tokens <= (
                least := len(own.thinking.empty()) + 4
            ):
                raise BadInput(
                    f"A sample may take {most_tokens} tokens, and {least} are reserved for its answer; "
                    "raise sample_tokens or max_new_tokens."
                )
        else:
            own = assignment
        think_limit(own)
        return cls(assignment.budget_tokens, own, logprobs)

    def held(self, count: int, spent_tokens: int = 0) -> int:
        """How many of so many samples the budget holds, when so much of it is spent."""
        if self.budget_tokens is None:
            return count
        return min(count, (self.budget_tokens - spent_tokens) // self.assignment.budget_tokens)

    def only(self) -> Steps:
        """One sample, where there is no room for another, or no need: what budget forcing gives."""
        response = Response()
        yield from finish(self.assignment, response, think_limit(self.assignment))
        return response

    def draw(self, count: int, responses: list[Response]) -> Exchange[list[Completion]]:
        """Add so many samples to the responses, or as many as the budget still holds; those that came."""
        own = self.assignment
        count = self.held(count, sum(response.spend.tokens for response in responses))
        if count < 1:
            return []
        request = own.request([], own.limit_tokens, think_limit(own))
        completions = yield [replace(request, n=count, seed=own.seed + len(responses), logprobs=self.logprobs)]
        for completion in completions:
            response = Response()
            response.append(completion)
            responses.append(response)
        return completions


def check_samples(**counts: int | None) -> None:
    """Refuse a number of samples, or of their tokens, below 1.

    Raises:
        BadInput: the parameter is named.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise BadInput(f"{name} is {value}; give at least 1.")


def agreement(assignment: Assignment, responses: Sequence[Response]) -> float:
    """Share of the responses that give the commonest answer."""
    votes = Counter(final_answer(assignment, response) for response in responses)
    del votes[None]
    return max(votes.values(), default=0) / len(responses)


def choose(assignment: Assignment, responses: Sequence[Response], weights: Sequence[float] | None = None) -> Response:
    """The shortest of the responses that give the winning answer, charged with all of them.

    An answer's votes are the weights of the responses that give it, 1 each by default; of equal ones, and of responses
    of equal length, one is drawn by the seed of the problem, so that the order of the samples decides nothing.
    Responses without an answer do not vote; where nobody votes, the first is returned.
    """
    answers = [final_answer(assignment, response) for response in responses]
    votes: Counter[str] = Counter()
    for answer, weight in zip(answers, weights or [1.0] * len(answers), strict=True):
        if answer is not None:
            votes[answer] += weight
    chosen = responses[0]
    if votes:
        rng, most = random.Random(assignment.seed), max(votes.values())
        winner = rng.choice(sorted(answer for answer in votes if votes[answer] == most))
        own = [response for response, answer in zip(responses, answers, strict=True) if answer == winner]
        least = min(len(response.ids) for response in own)
        chosen = rng.choice(sorted((one for one in own if len(one.ids) == least), key=lambda one: one.ids))
    return replace(chosen, spend=sum((response.spend for response in responses), Ledger()))
