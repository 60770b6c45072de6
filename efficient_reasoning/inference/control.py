"""Control: ask with the text that a model was trained to take for "this kind of chain, please".

TokenSkip (arXiv 2502.12067) puts a ratio behind the question, C3oT (arXiv 2412.11664) a condition; here each is one
text, such as "<|short|>", which the training has made one token. A budget holds whatever the model makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import ask
from efficient_reasoning.inference.strategy import Assignment, Steps, think_limit


@dataclass(frozen=True)
class Control:
    """Put a text behind the question.

    Args:
        text: as the training rows have it in their column `control`.
    """

    text: str

    def solve(self, assignment: Assignment) -> Steps:
        """One request.

        Raises:
            BadInput: the text is more than one token, so that the model was not trained on it; or the budget is not
                larger than its reserve for the answer.
        """
        tokenizer = assignment.thinking.tokenizer
        if len(tokenizer.encode(self.text, add_special_tokens=False)) != 1:
            added = sorted(tokenizer.get_added_vocab())
            raise BadInput(f"The model knows no control {self.text!r}; its added tokens are {', '.join(added)}.")
        return (yield from ask(assignment, assignment.question + self.text, think_limit(assignment)))
