"""Close scaling: while the model thinks, add a constant to the logit of its close delimiter.

Each unit of `close_bias` multiplies the odds of ending the thinking here and now by e (at temperature 1), so a model
that already leans to its answer gets there sooner. Raising that probability is one of the early stops of "Answer
Convergence as a Signal for Early Stopping in Reasoning" (arXiv 2506.02536); ThinkBrake (arXiv 2510.00546) shows that
comparing the close with the likeliest token amounts to such a bonus. A negative bias makes thinking longer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import finish, until_close
from efficient_reasoning.inference.engine import LOGIT_BIAS
from efficient_reasoning.inference.strategy import Assignment, Response, Steps, think_limit


@dataclass(frozen=True)
class CloseScaling:
    """Make the end of the thinking likelier.

    Args:
        close_bias: added to the logit of the close delimiter until it is drawn.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGIT_BIAS})

    close_bias: float = 2.0

    def solve(self, assignment: Assignment) -> Steps:
        """Two requests: think under the bias, and answer without it, lest the answer be full of closes.

        Raises:
            BadInput: the close delimiter is several tokens, or the budget is not larger than its reserve for the
                answer.
        """
        thinking = assignment.thinking
        if len(thinking.close_ids) > 1:
            raise BadInput(
                f"Strategy 'close-scaling' needs a close delimiter of one token, and {thinking.close_text!r} is "
                f"{len(thinking.close_ids)}; use budget-forcing."
            )
        response, think_tokens = Response(), think_limit(assignment)
        request = until_close(assignment.request([], think_tokens), thinking)
        [completion] = yield [replace(request, logit_bias={thinking.close_ids[0]: self.close_bias})]
        response.append(completion)
        yield from finish(assignment, response, think_tokens)
        return response
