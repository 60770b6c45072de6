"""DEER: at each transition of the thinking, try out an answer, and stop if the model is sure of it.

Dynamic Early Exit in Reasoning Models (arXiv 2504.15895). A model that writes "Wait" is about to begin another
thought. There the block is closed on trial and the model made to answer, greedily. Its confidence is the geometric
mean of the probabilities of the answer's tokens; above `threshold` the trial is the answer, else the thinking goes on
as if nothing had happened. Trials that are thrown away are in the ledger, and a budget bounds them with the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import finish
from efficient_reasoning.inference.engine import LOGPROBS, Completion
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import Assignment, Response, Steps, think_limit


@dataclass(frozen=True)
class Deer:
    """Stop thinking when a trial answer is certain.

    Args:
        threshold: confidence above which the thinking ends; at 1 it never does.
        transitions: texts that begin another thought.
        trial_tokens: most tokens of a trial answer. One that is certain but not finished by then is continued.
    """

    needs: ClassVar[frozenset[str]] = frozenset({LOGPROBS})

    threshold: float = 0.95
    transitions: tuple[str, ...] = ("Wait", "Alternatively", "Hmm")
    trial_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise BadInput(f"threshold is {self.threshold}; give a confidence in [0, 1].")
        if not all(self.transitions):
            raise BadInput(f"transitions are {self.transitions}; give texts.")
        if self.trial_tokens < 1:
            raise BadInput(f"trial_tokens is {self.trial_tokens}; give at least 1.")

    def solve(self, assignment: Assignment) -> Steps:
        """Two requests a transition: think up to it, and try to answer.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        thinking, response, think_tokens = assignment.thinking, Response(), think_limit(assignment)
        while (room_tokens := think_tokens - response.spend.tokens) > 0:
            request = assignment.request(response.ids, room_tokens)
            [completion] = yield [replace(request, stop_strings=self.transitions)]
            response.append(completion)
            if not completion.stopped or not thinking.close(response.ids, assignment.prompt_ids):
                break
            thought = response.ids[: len(response.ids) - self._transition_length(assignment, completion)]
            close = thinking.close(thought, assignment.prompt_ids)
            if think_tokens - response.spend.tokens <= len(close) + self.trial_tokens:
                break  # no room for a trial: the rest is for thinking
            [trial] = yield [replace(assignment.probe([*thought, *close], self.trial_tokens), logprobs=True)]
            response.spend += trial.spend + Ledger(forced_tokens=len(close))
            if _confidence(trial) > self.threshold:
                response.ids = [*thought, *close, *trial.ids]
                response.finished, response.forced_close = trial.finished, True
                break
        yield from finish(assignment, response, think_tokens)
        return response

    def _transition_length(self, assignment: Assignment, completion: Completion) -> int:
        """How many of the last ids spell the transition, from its first letter on: a trial comes before it."""
        decode, ids = assignment.thinking.tokenizer.decode, completion.ids
        text, length = decode(ids), 0
        begin = max(text.rfind(transition) for transition in self.transitions)
        while len(decode(ids[: len(ids) - length])) > begin:
            length += 1
        return length


def _confidence(trial: Completion) -> float:
    """Geometric mean of the probabilities of the answer's tokens, EOS aside."""
    logprobs = trial.logprobs[: len(trial.ids) - trial.finished]
    return math.exp(sum(logprobs) / len(logprobs))
