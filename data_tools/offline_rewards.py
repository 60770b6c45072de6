"""Pay traces that are there already: rows for RL without generation, as in O1-Pruner.

1. O1-Pruner (arXiv 2501.12570) samples K traces a problem from the reference model, pays each by how much shorter than
   their mean and how much more often right than their share it is, and trains on two of them, drawn by lot. Means are
   over all K; so K is 16 in the paper.
2. Any other length reward that compares the traces of a problem, or looks at one alone, pays in the same way.
3. A trace that was cut off counts in the means, with the length that it reached, and is wrong. It gives no row: it has
   no end to learn.

    efficient-reasoning data offline_rewards --config configs/data/offline_rewards_overthinker.yaml
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.chains import whole_row
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.rewards import Rollouts, check_parameters, pay


@dataclass(kw_only=True)
class OfflineRewardsArguments(CompressionArguments):
    """What pays, and how many rows."""

    reward: str = field(default="o1_pruner", metadata={"help": "Name of the length reward."})
    reward_parameters: dict = field(
        default_factory=dict, metadata={"help": "Parameters of the reward, such as {accuracy_weight: 1.0}."}
    )
    rows_per_problem: int = field(default=2, metadata={"help": "Traces of a problem to train on, drawn by lot."})
    seed: int = field(default=0, metadata={"help": "Of the lot."})

    def __post_init__(self) -> None:
        if self.rows_per_problem < 1:
            raise BadInput(f"rows_per_problem is {self.rows_per_problem}; give at least 1.")
        check_parameters(self.reward, self.reward_parameters)


def offline_rewards(
    rows: Iterable[Mapping],
    engine: None = None,
    *,
    rejected: Counter[str] | None = None,
    reward: str = "o1_pruner",
    reward_parameters: Mapping[str, object] | None = None,
    rows_per_problem: int = 2,
    seed: int = 0,
) -> Iterator[dict]:
    """Up to `rows_per_problem` rows a problem.

    Args:
        rows: traces, those of a problem together.
        engine: not needed; every data tool has it.
        rejected: counts problems that give no row.
        reward: name of a length reward without a memory.
        reward_parameters: of its formula.
        rows_per_problem: traces to train on.
        seed: of the lot; what is drawn does not depend on the other problems.

    Yields:
        `prompt`, `completion`, `reward`, `paid_by` (the reward's name), `method`, `keep_ratio` (total tokens /
        `source_tokens`), `source_id`, `source_tokens` (mean of the problem's traces), `total_tokens`.

    Raises:
        BadInput: an unknown reward, or one that needs what traces do not have.
    """
    rejected = Counter() if rejected is None else rejected
    for group in by_problem(rows):
        lengths = np.array([trace["total_tokens"] for trace in group], np.float64)
        correct = np.array([trace["correct"] and not trace["truncated"] for trace in group], np.float64)
        columns = {"reference_tokens": lengths.mean(), "reference_accuracy": correct.mean()}
        same = {name: [float(value)] * len(group) for name, value in columns.items()}
        ids = [trace["completion_ids"][: trace["total_tokens"]] for trace in group]  # without EOS
        rollouts = Rollouts(correct, lengths, np.zeros(len(group), np.int64), same, ids)
        paid = pay(reward, rollouts, **reward_parameters or {})
        ended = [index for index, trace in enumerate(group) if not trace["truncated"]]
        if not ended:
            rejected["truncated"] += 1
            continue
        lot = random.Random(f"{seed}/{group[0]['id']}")
        for index in sorted(lot.sample(ended, min(rows_per_problem, len(ended)))):
            payment = {"reward": float(paid[index]), "paid_by": reward}
            yield whole_row(group[index], columns["reference_tokens"], method="offline_rewards", **payment)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(OfflineRewardsArguments, argv=argv, doc=__doc__)

    compress(arguments, offline_rewards)


if __name__ == "__main__":
    run(main)
