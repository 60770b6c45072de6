"""Budget forcing: close the thinking when its share of the budget is used up, or make it go on when it ends too early.

s1: Simple test-time scaling (arXiv 2501.19393). The answer keeps a reserve of the budget; thinking that ends on its
own leaves what is left to the answer. With `min_thinking_tokens`, a close that comes earlier is taken back and "Wait"
put in its place, at most `waits` times. Without a budget the model simply thinks to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Request
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import Assignment, Exchange, Response, Steps, think_limit
from efficient_reasoning.thinking import ThinkingFormat


@dataclass(frozen=True)
class BudgetForcing:
    """Bound the tokens of one chain.

    Args:
        answer_reserve_tokens: part of the budget kept for closing the thinking and answering; by default an eighth of
            the budget, and at least an empty block plus four tokens.
        min_thinking_tokens: thinking that is closed earlier goes on; 0 lets it end when it likes.
        waits: how often it is made to go on, at most.
        wait_text: what makes it go on.
    """

    answer_reserve_tokens: int | None = None
    min_thinking_tokens: int = 0
    waits: int = 2
    wait_text: str = "Wait"

    def __post_init__(self) -> None:
        for name in ("min_thinking_tokens", "waits"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} is {getattr(self, name)}; give 0 or more.")

    def solve(self, assignment: Assignment) -> Steps:
        """One request, or with `min_thinking_tokens` one more for each time the thinking is closed too early.

        Raises:
            BadInput: the reserve does not hold what it may have to force, or the budget is not larger than it.
        """
        response, think_tokens = Response(), think_limit(assignment, self.answer_reserve_tokens)
        for _ in range(self.waits if self.min_thinking_tokens else 0):
            if not (yield from self._lengthen(assignment, response, think_tokens)):
                break
        yield from finish(assignment, response, think_tokens)
        return response

    def _lengthen(self, assignment: Assignment, response: Response, think_tokens: int) -> Exchange[bool]:
        """Think up to the next close, and put "Wait" in its place if it came too early; whether it did."""
        thinking, prompt_ids = assignment.thinking, assignment.prompt_ids
        room_tokens = think_tokens - response.spend.tokens
        if room_tokens <= 0:
            return False
        [completion] = yield [until_close(assignment.request(response.ids, room_tokens), thinking)]
        response.append(completion)
        thought = thinking.split(response.ids, prompt_ids).thinking_ids
        if not completion.stopped or len(thought) >= self.min_thinking_tokens:
            return False
        before = thinking.reopen(response.ids)
        # A close may be the first that comes of a block.
        opening = [] if thinking.phases(before, prompt_ids)[-1] == "thinking" else thinking.open(prompt_ids)
        wait = [*opening, *thinking.tokenizer.encode(self.wait_text, add_special_tokens=False)]
        if think_tokens - response.spend.tokens <= len(wait):
            return False
        response.ids = before
        response.force(wait)
        return True


def until_close(request: Request, thinking: ThinkingFormat) -> Request:
    """The same request, which ends with the thinking: at the close delimiter, or where it is spelled."""
    if thinking.has_single_ids:
        return replace(request, stop_ids=frozenset(thinking.close_ids))
    return replace(request, stop_strings=(thinking.close_text,))


def finish(assignment: Assignment, response: Response, think_tokens: int) -> Exchange[None]:
    """Let the response go on to its end: under a budget, thinking until `think_tokens` are spent in all."""
    spent_tokens = response.spend.tokens
    room_tokens = assignment.limit_tokens - spent_tokens
    if not response.finished and room_tokens > 0:
        [completion] = yield [assignment.request(response.ids, room_tokens, think_tokens - spent_tokens)]
        response.append(completion)


def ask(assignment: Assignment, question: str, think_tokens: int, spend: Ledger | None = None) -> Steps:
    """The response to another wording of the question, bounded as by budget forcing.

    Args:
        assignment: which has the question in its own words.
        question: the other wording.
        think_tokens: under a budget, what may be spent before the thinking is closed.
        spend: what has been spent already.
    """
    response = Response(spend=spend or Ledger(), prompt_ids=assignment.render(question))
    yield from finish(replace(assignment, prompt_ids=response.prompt_ids), response, think_tokens)
    return response
