"""NoThinking: open and close an empty block, so that the model answers at once (arXiv 2504.09858)."""

from __future__ import annotations

from dataclasses import dataclass

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.strategy import Assignment, Response, Steps


@dataclass(frozen=True)
class NoThinking:
    """Answer without thinking; the forced block counts towards the budget."""

    def solve(self, assignment: Assignment) -> Steps:
        """One pass.

        Raises:
            BadInput: the budget leaves no token for the answer.
        """
        response = Response(forced_close=True)
        response.force(assignment.thinking.close([], assignment.prompt_ids))
        rest_tokens = assignment.limit_tokens - len(response.ids)
        if rest_tokens < 1:
            raise BadInput(f"budget_tokens is {assignment.limit_tokens}; an empty thinking block takes them all.")
        [completion] = yield [assignment.request(response.ids, rest_tokens)]
        response.append(completion)
        return response
