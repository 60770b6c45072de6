"""TALE: let the model say how many tokens a question needs, or search for it (arXiv 2412.18547).

1. The prompt asks to "use less than n tokens". `tale-estimate` (TALE-EP) asks the model for n first, which costs one
   short request without thinking; an estimate that holds no number leaves the question as it is.
2. `tale-search` begins with the question as it is and halves n, from the length of that response, as long as the
   answer stays the same and comes with fewer tokens; the paper compares with the gold answer, which nobody knows here
   (the data tool `tale` does).
3. Estimates and attempts are in the ledger, and a budget bounds them with the response.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import ask, finish
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import Assignment, Exchange, Response, Steps, final_answer, think_limit

ESTIMATE = (
    "Task: Analyze the given question and estimate the minimum number of tokens required to generate a complete and "
    "accurate response. Please Give the response by strictly following this format: [[budget]], for example, "
    "Budget: [[12]].\n\nBelow is the question:\n\nQuestion: "
)


@dataclass(frozen=True)
class TaleEstimate:
    """Ask how many tokens it takes, then ask for that.

    Args:
        estimate_tokens: most tokens of the estimate; a budget without so much room for thinking goes without.
    """

    estimate_tokens: int = 16

    def __post_init__(self) -> None:
        if self.estimate_tokens < 1:
            raise BadInput(f"estimate_tokens is {self.estimate_tokens}; give at least 1.")

    def solve(self, assignment: Assignment) -> Steps:
        """Two requests: the estimate, and the response.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        thinking, think_tokens = assignment.thinking, think_limit(assignment)
        question, spend = assignment.question, Ledger()
        asked = replace(assignment, prompt_ids=assignment.render(f"{ESTIMATE}{question}"))
        close = thinking.close([], asked.prompt_ids)
        if think_tokens > len(close) + self.estimate_tokens + assignment.latents:
            [estimate] = yield [asked.probe(close, self.estimate_tokens)]
            spend = estimate.spend + Ledger(forced_tokens=len(close))
            if assignment.budget_tokens is not None:  # the response has latents of its own
                assignment = replace(assignment, budget_tokens=assignment.budget_tokens - assignment.latents)
                think_tokens -= assignment.latents
            if number := re.search(r"\d+", thinking.tokenizer.decode(estimate.ids)):
                # More than there is would only mislead.
                question = question + budget_text(min(int(number[0]), think_tokens - spend.tokens))
        return (yield from ask(assignment, question, think_tokens, spend))


@dataclass(frozen=True)
class TaleSearch:
    """Halve the tokens that are asked for while the answer stays the same and gets cheaper."""

    def solve(self, assignment: Assignment) -> Steps:
        """One request, and one for each halving; the cheapest response that agrees with the first is returned.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        first = Response()
        yield from finish(assignment, first, think_limit(assignment))
        answer = final_answer(assignment, first)
        if answer is None:
            return first
        best, _ = yield from halve(assignment, first, lambda attempt: final_answer(assignment, attempt) == answer)
        return best


def halve(
    assignment: Assignment, first: Response, is_right: Callable[[Response], bool]
) -> Exchange[tuple[Response, int | None]]:
    """Ask for half as many tokens as a response took, and for half of that, while it helps (the paper's search).

    Args:
        assignment: the question; its budget, if any, bounds `first` and all attempts together.
        first: the response to the question as it is.
        is_right: whether a response, which ended, is.

    Returns:
        the cheapest right response, which is `first` where no attempt was right with fewer tokens than the one before,
        charged with all attempts; and the tokens that were asked for it, None for `first`.
    """
    best, found, spend = first, None, first.spend
    tokens = assignment.thinking.count(first.ids, assignment.prompt_ids).total_tokens // 2
    while best.finished and tokens:
        # An attempt that is no cheaper is no use, so it need not be decoded to its end.
        room_tokens = len(best.ids) - 1
        if assignment.budget_tokens is not None:
            room_tokens = min(room_tokens, assignment.budget_tokens - assignment.latents - spend.tokens)
        if room_tokens < 1:
            break
        told = replace(assignment, prompt_ids=assignment.render(assignment.question + budget_text(tokens)))
        [completion] = yield [told.request([], room_tokens)]
        attempt = Response(prompt_ids=told.prompt_ids)
        attempt.append(completion)
        spend += attempt.spend
        if not attempt.finished or not is_right(attempt):
            break
        best, found, tokens = attempt, tokens, tokens // 2
    best.spend = spend
    return best, found


def budget_text(tokens: int) -> str:
    """What stands behind a question to ask for so few tokens."""
    return f"\nLet's think step by step and use less than {tokens} tokens:"
