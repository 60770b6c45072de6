"""Budget forcing: when the thinking has used up its share of the budget, close it and let the model answer.

s1: Simple test-time scaling (arXiv 2501.19393), its upper bound. The answer keeps a reserve of the budget; thinking
that ends on its own leaves what is left to the answer. Without a budget the model simply thinks to its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from efficient_reasoning.inference.strategy import Assignment, Response, Steps, answer_reserve


@dataclass(frozen=True)
class BudgetForcing:
    """Bound the tokens of one chain.

    Args:
        answer_reserve_tokens: part of the budget kept for closing the thinking and answering; by default an eighth of
            the budget, and at least an empty block plus four tokens.
    """

    answer_reserve_tokens: int | None = None

    def solve(self, assignment: Assignment) -> Steps:
        """Two passes at most: think, then, if the chain is not over, close it where needed and answer.

        Raises:
            BadInput: the reserve does not hold what it may have to force, or the budget is not larger than it.
        """
        response = Response()
        if assignment.budget_tokens is None:
            [completion] = yield [assignment.request([], assignment.limit_tokens)]
            response.append(completion)
            return response

        budget_tokens = assignment.budget_tokens
        reserve_tokens = answer_reserve(assignment, self.answer_reserve_tokens)
        [completion] = yield [assignment.request([], budget_tokens - reserve_tokens)]
        response.append(completion)
        if not response.finished:
            close = assignment.thinking.close(response.ids, assignment.prompt_ids)
            response.force(close)
            response.forced_close = bool(close)
            [completion] = yield [assignment.request(response.ids, budget_tokens - len(response.ids))]
            response.append(completion)
        return response
