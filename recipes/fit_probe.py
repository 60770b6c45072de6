"""Fit a probe that says from the question alone whether to think about it, or which of two models is to.

1. Two files of traces say how often the fast and the slow mode solve each problem, and what they spend: one model
   without thinking and with it, or a small and a large model.
2. The model reads the questions once, and a linear probe of its last hidden state learns both pass rates
   (ThinkSwitcher, arXiv 2505.14183). Of two models the small one reads.
3. On problems that it has not seen, the threshold is calibrated: the most accurate that keeps a mean cost, or the
   cheapest that loses no more than so much accuracy to the slow mode.

    efficient-reasoning train fit_probe --config configs/fit_probe/overthinker.yaml
    efficient-reasoning solve --model overthinker --strategy "probe-switch?probe=runs/quickstart/probe.safetensors" ...
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from efficient_reasoning.thinking import ThinkingFormat


@dataclass(kw_only=True)
class FitProbeArguments:
    """What to read, and what the switch may cost."""

    model: str = field(metadata={"help": "Folder or Hub id of the model that reads the questions."})
    fast: str = field(metadata={"help": "JSONL file of its traces in the fast mode, as `data sample` writes them."})
    slow: str = field(metadata={"help": "JSONL file of traces of the same problems in the slow mode."})
    out: str = field(metadata={"help": "File of the probe."})
    backend: str = field(default="auto", metadata={"help": "What reads: graph or transformers."})
    cost: Literal["tokens", "flops", "seconds"] = field(default="tokens", metadata={"help": "What is saved."})
    mean_cost: float | None = field(default=None, metadata={"help": "Most that a problem may cost, as a mean."})
    accuracy_loss: float = field(
        default=0.01, metadata={"help": "Without mean_cost: share of accuracy that may be lost to the slow mode."}
    )
    held_out_share: float = field(default=0.25, metadata={"help": "Of the problems, for the threshold."})
    seed: int = field(default=0, metadata={"help": "Of which problems these are."})

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1:
            raise BadInput(f"held_out_share is {self.held_out_share}; give a share between 0 and 1.")
        if not 0 <= self.accuracy_loss <= 1:
            raise BadInput(f"accuracy_loss is {self.accuracy_loss}; give a share of 0 to 1.")


class Mode(NamedTuple):
    """What one mode made of a problem: a row of all its samples."""

    prompt_ids: list[int]
    accuracy: float
    cost: float


def read_mode(path: str, cost: str, thinking: ThinkingFormat) -> dict[str, Mode]:
    """By the id of the problem.

    Raises:
        BadInput: a trace of another tokenizer, or one whose cost its engine did not know.
    """
    from efficient_reasoning.compression.tokenizer import same_tokenizer
    from efficient_reasoning.traces import read_traces

    samples = defaultdict(list)
    for trace in same_tokenizer(read_traces(path), thinking):
        spend = trace["spend"]
        tokens = spend["decoded_tokens"] + spend["forced_tokens"]
        spent = tokens if cost == "tokens" else spend[cost]
        if not spent:
            raise BadInput(f"{path}: what wrote it knows no {cost}; take another cost, or graph or transformers.")
        samples[trace["id"]].append((trace["prompt_ids"], trace["correct"], spent))
    return {
        name: Mode(own[0][0], float(np.mean([right for _, right, _ in own])), float(np.mean([c for *_, c in own])))
        for name, own in samples.items()
    }


def main(argv: list[str] | None = None) -> None:
    arguments = parse(FitProbeArguments, argv=argv, doc=__doc__)
    import dataclasses

    import torch

    from efficient_reasoning.evaluation.metrics import auroc
    from efficient_reasoning.inference import load_reasoner
    from efficient_reasoning.inference.engine import HIDDEN
    from efficient_reasoning.inference.others import check_latents
    from efficient_reasoning.inference.switching.probe import fit, sweep

    reasoner = load_reasoner(arguments.model, arguments.backend)
    if HIDDEN not in reasoner.engine.capabilities:
        raise BadInput(f"Backend {reasoner.backend} shows no hidden states; use graph or transformers.")
    check_latents(reasoner, "a probe")
    fast, slow = (read_mode(path, arguments.cost, reasoner.thinking) for path in (arguments.fast, arguments.slow))
    names = sorted(fast.keys() & slow.keys())
    if not names:
        raise BadInput(f"{arguments.fast} and {arguments.slow} have no problem in common; sample the same ones.")
    states = torch.stack(
        [one.state for one in reasoner.engine.read([fast[name].prompt_ids for name in names])]
    )  # (N, D)
    modes = np.array([[mode[name][1:] for name in names] for mode in (fast, slow)])  # (2, N, 2)
    rates = torch.tensor(modes[..., 0].T, dtype=torch.float32)  # (N, 2)

    order = np.random.default_rng(arguments.seed).permutation(len(names))
    held_out, fitted = np.split(order, [math.ceil(arguments.held_out_share * len(names))])
    probe = fit(states[fitted], rates[fitted], reasoner.weights)
    predicted = probe.predict(states[held_out]).numpy()  # (N, 2)
    points = sweep(predicted[:, 1] - predicted[:, 0], *modes[:, held_out])
    if arguments.mean_cost is not None:
        allowed = [point for point in points if point.cost <= arguments.mean_cost]
        if not allowed:
            raise BadInput(
                f"mean_cost is {arguments.mean_cost:g}, and the fast mode alone takes {points[0].cost:g}; give more."
            )
        chosen = max(allowed, key=lambda point: (point.accuracy, -point.cost))
    else:
        enough = [point for point in points if point.accuracy >= points[-1].accuracy - arguments.accuracy_loss]
        chosen = min(enough, key=lambda point: point.cost)
    dataclasses.replace(probe, threshold=chosen.threshold).save(arguments.out)
    ranked = auroc(1 - predicted[:, 0], 1 - modes[0, held_out, 0])
    print(
        f"{len(fitted):,} problems fitted, {len(held_out):,} held out; AUROC of the fast mode's errors {ranked:.3f}."
    )
    for name, point in (("fast", points[0]), ("slow", points[-1]), ("switch", chosen)):
        share = f", {point.slow_share:.1%} slow" if name == "switch" else ""
        print(f"{name}: {point.accuracy:.1%} at {point.cost:.4g} {arguments.cost}{share}")
    print(Path(arguments.out))


if __name__ == "__main__":
    run(main)
