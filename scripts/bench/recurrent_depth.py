"""What recurrent depth is worth: accuracy by steps and by test-time depth, beside two models of fixed depth.

    python -m scripts.bench.recurrent_depth --out runs/recurrent_depth [--only 'recurrent*'] [--scale toy] [--jobs 5]

1. All pre-train on `passing_8` (`configs/pretrain/recurrent_passing_8.yaml`), on the same rows in as many steps. Half
   of them have a chain, which teaches to look facts up. Measured is the answer behind an empty block: it takes one to
   seven look-ups, and has no tokens to make them in.
2. `same parameters` runs the same layers once. `same operations` is a Qwen3 with as many layers as the recurrent model
   goes through at its mean depth: as many operations a token, and several times the parameters.
3. The recurrent model answers at several depths, and at the largest with adaptive exit, whose iterations are counted.
   Decoding is greedy, on the same problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap
from efficient_reasoning.files import read_jsonl
from scripts.bench.arms import GREEDY, Arm, Arms, Bench, Scale, flags, run_bench

CONFIG = Path(__file__).parents[2] / "configs" / "pretrain" / "recurrent_passing_8.yaml"
SEEDS = 3  # of the recurrent model
DEPTHS = (1, 2, 4, 8, 12, 16, 24)
EXITS = (1e-4, 5e-4, 2e-3, 1e-2)  # nats, at the largest depth


@dataclass(frozen=True)
class DepthScale(Scale):
    """Also flags of the pre-training beside those of the config."""

    task: str = "passing_8"
    test_samples: int = 1  # greedy ones are all alike
    max_new_tokens: int = 8
    training: Mapping[str, object] = field(default_factory=dict)


SCALES = {
    "full": DepthScale(),
    "toy": DepthScale(
        test_problems=8,
        training={
            "num_rows": 64,
            "num_shards": 1,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "torch_compile": False,
            "bf16": False,
            "dataloader_num_workers": 0,
            "dataloader_pin_memory": False,
        },
    ),
}


class DepthBench(Bench):
    has_bases = True

    def prepare(self) -> None:
        """Every arm makes what it needs."""
        from efficient_reasoning.problems import load_problems

        self.problems = load_problems(self.scale.task, "test", self.scale.test_problems, seed=1)

    def pretrain(self, name: str, architecture: Mapping[str, object], seed: int) -> Path:
        folder = self.out / "models" / f"{name}-{seed}"
        if not (folder / "reasoning.json").is_file():
            shape = yaml.safe_dump(dict(architecture), default_flow_style=True, width=10_000).strip()
            options = {"output_dir": folder, "disable_tqdm": True, "seed": seed, "architecture": shape}
            options |= {"save_steps": 1000, "save_total_limit": 1}  # the same command goes on where it was cut
            self.command("train", "pretrain", "--config", CONFIG, *flags(options | self.scale.training))
        return folder

    def answer(self, name: str, model: Path, options: str = "") -> None:
        self.backend = f"transformers{options}"
        self.test(f"{name}{GREEDY}", model, ["no-thinking"])


# ---- the arms ----


def shape_of_config() -> dict:
    return yaml.safe_load(CONFIG.read_text())["architecture"]


def recurrent(seed: int) -> Arm:
    def arm(bench: DepthBench) -> None:
        model = bench.pretrain("recurrent", shape_of_config(), seed)
        for depth in DEPTHS:
            bench.answer(f"depth {depth:02}#{seed}", model, f"?depth={depth}")
        for exit_kl in EXITS:
            bench.answer(f"exit {exit_kl:g}#{seed}", model, f"?depth={DEPTHS[-1]}&exit_kl={exit_kl}")

    return arm


def same_parameters(bench: DepthBench) -> None:
    model = bench.pretrain("same parameters", shape_of_config() | {"mean_depth": 1, "depth_sigma": None}, 0)
    bench.answer("same parameters#0", model)


def same_operations(bench: DepthBench) -> None:
    shape = shape_of_config()
    around, core = (shape.pop(f"num_{part}_layers") for part in ("prelude", "core"))
    layers = around + core * shape.pop("mean_depth") + shape.pop("num_coda_layers")
    del shape["backprop_depth"]
    bench.answer(
        "same operations#0",
        bench.pretrain("same operations", shape | {"model_type": "qwen3", "num_hidden_layers": layers}, 0),
    )


ARMS: Arms = {
    **{f"recurrent#{seed}": recurrent(seed) for seed in range(SEEDS)},
    "same parameters#0": same_parameters,
    "same operations#0": same_operations,
}


# ---- the table ----


def by_steps(out: Path) -> str:
    """Accuracy of every point by the steps of a problem, over the seeds, its iterations a token, and the change from
    the largest depth without an exit."""
    found: dict[str, list[tuple[list, list]]] = {}  # of each seed, correct and steps of each problem
    iterations: dict[str, list[float]] = {}
    for path in sorted((out / "evaluation").glob("*.jsonl")):
        traces = sorted(read_jsonl(path), key=lambda trace: trace["id"])
        name = path.stem.removesuffix(GREEDY).partition("#")[0]
        found.setdefault(name, []).append(
            ([trace["correct"] for trace in traces], [trace["difficulty"] for trace in traces])
        )
        spends = [trace["spend"] for trace in traces]
        run, decoded = (sum(spend[kind] for spend in spends) for kind in ("core_iterations", "decoded_tokens"))
        iterations.setdefault(name, []).append(run / decoded)
    steps = sorted({step for seeds in found.values() for _, own in seeds for step in own})
    lines = [
        f"| | seeds | accuracy | {' | '.join(f'{step} steps' for step in steps)} "
        "| iterations a token | change from the largest depth [95 %] |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in steps)} | ---: | --- |",
    ]
    largest = found.get(f"depth {DEPTHS[-1]:02}")
    for name, seeds in found.items():
        correct, difficulty = (np.array(values) for values in zip(*seeds, strict=True))  # (seeds, problems)
        cells = [f"{correct[difficulty == step].mean():.1%}" for step in steps]
        change = ""
        if largest and len(largest) == len(seeds):
            clusters = np.broadcast_to(np.arange(correct.shape[1]), correct.shape).ravel()
            before = np.array([own for own, _ in largest], float).ravel()
            paired = paired_bootstrap(before, correct.astype(float).ravel(), clusters, resamples=4000)
            change = f"{100 * paired.mean:+.2f} [{100 * paired.low:+.2f}, {100 * paired.high:+.2f}] {mark_of(paired)}"
        lines.append(
            f"| {name} | {len(seeds)} | {correct.mean():.1%} | {' | '.join(cells)} "
            f"| {np.mean(iterations[name]):.1f} | {change} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_bench(DepthBench, ARMS, SCALES, "runs/recurrent_depth", __doc__, more={"table.md": by_steps})
