"""Sequential revision: show the model what it answered, ask it to check that, and let all its answers vote.

Each round asks the question again with the last answer behind it, which is a chain of its own (arXiv 2408.03314). A
model that never met such a sentence need not mind it. No verifier is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from efficient_reasoning.inference.budget_forcing import ask
from efficient_reasoning.inference.search.samples import Sampler, check_samples, choose
from efficient_reasoning.inference.strategy import Assignment, Steps, final_answer, think_limit


@dataclass(frozen=True)
class SequentialRevision:
    """Answer, and revise the answer.

    Args:
        rounds: answers in all; under a budget, as many as it holds at most.
        sample_tokens: under a budget, most tokens of a round; by default `max_new_tokens`.
    """

    rounds: int = 3
    sample_tokens: int | None = None

    def __post_init__(self) -> None:
        check_samples(rounds=self.rounds, sample_tokens=self.sample_tokens)

    def solve(self, assignment: Assignment) -> Steps:
        """One request a round; a response without an answer, which leaves nothing to revise, is the last.

        Raises:
            BadInput: the budget does not hold one sample.
        """
        sampler = Sampler.of(assignment, self.sample_tokens)
        own = sampler.assignment
        responses = [(yield from sampler.only())]
        while len(responses) < self.rounds and final_answer(own, responses[-1]) is not None:
            spent_tokens = sum(response.spend.tokens for response in responses)
            if sampler.held(1, spent_tokens + own.latents) < 1:  # another prompt has latents of its own
                break
            prompt_ids = responses[-1].prompt_ids or own.prompt_ids
            answer_ids = own.thinking.split(responses[-1].ids, prompt_ids).answer_ids
            answer = own.thinking.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()
            again = replace(own, seed=own.seed + len(responses))
            responses.append((yield from ask(again, own.question + revision_text(answer), think_limit(own))))
        return choose(own, responses)


def revision_text(answer: str) -> str:
    """What stands behind a question to have an answer to it checked."""
    return f"\nAn earlier answer was: {answer}\nCheck it, and correct it if it is wrong."
