"""NoThinking: force a block without a thought in it, so that the model answers at once (arXiv 2504.09858).

The paper's block says "Okay, I think I have finished thinking."; an empty one costs less and does the same for models
that were trained with empty blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import ForcedClose
from efficient_reasoning.inference.strategy import Assignment, Response, Steps


@dataclass(frozen=True)
class NoThinking:
    """Answer without thinking; the forced block counts towards the budget.

    Args:
        thought: what stands in the block.
    """

    thought: str = ""

    def solve(self, assignment: Assignment) -> Steps:
        """One request.

        Raises:
            BadInput: the budget leaves no token for the answer.
        """
        thinking, response = assignment.thinking, Response()
        if self.thought:
            response.force(thinking.open(assignment.prompt_ids))
            response.force(thinking.tokenizer.encode(self.thought, add_special_tokens=False))
        room_tokens = assignment.limit_tokens - response.spend.tokens
        if len(thinking.close(response.ids, assignment.prompt_ids)) >= room_tokens:
            block = "this thinking block" if self.thought else "an empty thinking block"
            name = "max_new_tokens" if assignment.budget_tokens is None else "budget_tokens"
            less = " without latents" if assignment.latents and assignment.budget_tokens is not None else ""
            raise BadInput(f"{name} is {assignment.limit_tokens}{less}; {block} takes them all.")
        request = assignment.request(response.ids, room_tokens)
        # Also without a budget, under which alone `request` closes anything.
        [completion] = yield [replace(request, forced_close=ForcedClose(0, thinking))]
        response.append(completion)
        return response
