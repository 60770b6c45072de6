"""Early exit by answer probes: stop thinking once the answer no longer changes.

Dynasor (arXiv 2412.20993): every `interval_tokens` of thinking the block is closed on trial and the model made to
answer, greedily. When `equal_probes` probes in a row give the same finished answer, that probe is the response. Other
probes are thrown away, but not for free: what they decode and force is in the ledger, and a budget bounds it with the
rest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.budget_forcing import finish
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import Assignment, Response, Steps, think_limit


@dataclass(frozen=True)
class Dynasor:
    """Probe the answer while thinking.

    Args:
        interval_tokens: thinking between two probes.
        equal_probes: equal answers in a row that end the thinking.
        probe_tokens: most tokens of a probe's answer; one that is not finished by then agrees with none.
    """

    interval_tokens: int = 32
    equal_probes: int = 2
    probe_tokens: int = 16

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise BadInput(f"{name} is {value}; give at least 1.")

    def solve(self, assignment: Assignment) -> Steps:
        """Two requests an interval: think on, and probe.

        Raises:
            BadInput: the budget is not larger than its reserve for the answer.
        """
        response, think_tokens = Response(), think_limit(assignment)
        last_answer, equal = None, 0
        while (room_tokens := think_tokens - response.spend.tokens) > 0:
            [completion] = yield [assignment.request(response.ids, min(self.interval_tokens, room_tokens))]
            response.append(completion)
            close = assignment.thinking.close(response.ids, assignment.prompt_ids)
            if response.finished or not close:
                break
            if think_tokens - response.spend.tokens <= len(close) + self.probe_tokens:
                continue  # no room for a probe: the rest is for thinking
            [probe] = yield [assignment.probe([*response.ids, *close], self.probe_tokens)]
            response.spend += probe.spend + Ledger(forced_tokens=len(close))
            answer = probe.ids if probe.finished else None
            equal = equal + 1 if answer is not None and answer == last_answer else 1
            last_answer = answer
            if answer is not None and equal == self.equal_probes:
                response.ids += [*close, *probe.ids]
                response.finished = response.forced_close = True
                return response
        yield from finish(assignment, response, think_tokens)
        return response
