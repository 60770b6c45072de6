"""Every compression method on one overthinking model, with its controls: rows, training, evaluation, one table.

    python scripts/bench/compression.py BASE --out runs/compression [--only shortest_correct c3ot] [--toy]

1. The base's own traces are sampled once; every data tool makes its rows of them, every arm trains from the base.
2. Controls: as many steps on uncompressed traces, and on traces that are cut off after as many tokens.
3. All arms solve the same test problems with the same seeds. The base's strategies without training give the hull.

Every step is a command of the toolkit, logged in OUT/commands.txt with what it printed in OUT/logs. What is done is
not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap
from efficient_reasoning.files import write_json


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    task: str = "gsm_symbolic"
    problems: int = 6000
    slow_problems: int = 2000  # for tools that ask the model about each
    samples: int = 8
    steps: int = 150
    batch_size: int = 128
    seeds: int = 3
    test_problems: int = 2000
    test_samples: int = 4
    max_new_tokens: int = 320


TOY = Scale("mixed", 24, 12, 4, 4, 8, 1, 16, 1, 320)
RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ARM = re.compile(r"(?<=[a-z])-\d(?=$|-)")  # the seed in the name of a run
HEADLINE = ("uncompressed", "shortest_correct", "first_correct", "c3ot", "cot_valve_plus")


@dataclass
class Run:
    """One model as it is evaluated."""

    name: str
    model: Path | str
    strategies: list[str] = field(default_factory=lambda: ["budget-forcing"])
    budgets: list[int | None] = field(default_factory=lambda: [None])
    adapter_scale: float | None = None


class Bench:
    """Runs commands, remembers what is done, gathers what is to be evaluated."""

    def __init__(self, base: str, out: Path, scale: Scale, cpu: bool):
        self.base, self.out, self.scale, self.cpu = base, out, scale, cpu
        self.runs: list[Run] = []
        self.failed: list[str] = []
        self._lock = threading.Lock()
        (out / "logs").mkdir(parents=True, exist_ok=True)

    def command(self, label: str, *words: object) -> None:
        """One command of the toolkit; its output goes to a log."""
        command = [sys.executable, "-m", "efficient_reasoning.cli", *map(str, words)]
        began = time.perf_counter()
        with open(self.out / "logs" / f"{label}.txt", "a", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ, check=False)
        seconds = time.perf_counter() - began
        with self._lock:
            with open(self.out / "commands.txt", "a", encoding="utf-8") as log:
                log.write(f"efficient-reasoning {shlex.join(map(str, words))}  # {seconds:.0f} s\n")
            print(f"{label}: {seconds:.0f} s" + f", failed ({done.returncode})" * bool(done.returncode), flush=True)
            if done.returncode:
                self.failed.append(label)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, label)

    def sample(self, name: str, model: Path | str, problems: int, *words: object) -> Path:
        scale, path = self.scale, self.out / f"{name}.jsonl"
        settings = ["--task", scale.task, "--num_problems", problems, "--samples_per_problem", scale.samples]
        settings += ["--max_new_tokens", scale.max_new_tokens, "--out", path, *words]
        self.command(f"sample-{name}", "data", "sample", "--model", model, *settings)
        return path

    def rows(self, name: str, method: str, traces: Sequence[Path], **settings: object) -> Path:
        path = self.out / "rows" / f"{name}.jsonl"
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        self.command(f"rows-{name}", "data", method, "--traces", *traces, "--out", path, *words)
        return path

    def train(self, name: str, rows: Path, seed: int = 0, **settings: object) -> Path:
        folder = self.out / "models" / f"{name}-{seed}"
        options = {
            "max_steps": self.scale.steps,
            "per_device_train_batch_size": self.scale.batch_size,
            "learning_rate": 3e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": self.scale.steps // 10,
            "max_length": 512,
            "bf16": not self.cpu,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": not self.cpu,
            "logging_steps": 25,
            "save_steps": 10_000,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": seed,
        } | settings
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        model = ["--model", self.base, "--data", rows, "--output_dir", folder]
        self.command(f"train-{name}-{seed}", "train", "sft_compress", *model, *words)
        return folder

    def test(self, name: str, model: Path | str, **settings: object) -> None:
        with self._lock:
            self.runs.append(Run(name, model, **settings))


def seeds_of(bench: Bench, name: str) -> range:
    return range(bench.scale.seeds if name in HEADLINE else 1)


def fine_tuned(name: str, method: str, **settings: object) -> Callable[[Bench, Path], None]:
    """An arm of one data tool and one training; keys that begin with `train_` are the recipe's."""

    def arm(bench: Bench, traces: Path) -> None:
        own = {key: value for key, value in settings.items() if not key.startswith("train_")}
        training = {key.removeprefix("train_"): value for key, value in settings.items() if key.startswith("train_")}
        rows = bench.rows(name, method, [traces], **own)
        for seed in seeds_of(bench, name):
            bench.test(f"{name}-{seed}", bench.train(name, rows, seed, **training))

    return arm


def token_skip(bench: Bench, traces: Path) -> None:
    settings = {"model": bench.base, "level": "chunk", "all_ratios": True, "importance": "self_information"}
    rows = bench.rows("token_skip", "token_skip", [traces], **settings)
    controls = [f"control?text=<|keep {ratio}|>" for ratio in RATIOS]
    bench.test("token_skip-0", bench.train("token_skip", rows), strategies=controls)


def c3ot(bench: Bench, traces: Path) -> None:
    rows = bench.rows("c3ot", "c3ot", [traces], model=bench.base)
    for seed in seeds_of(bench, "c3ot"):
        controls = ["control?text=<|short|>", "control?text=<|long|>"]
        bench.test(f"c3ot-{seed}", bench.train("c3ot", rows, seed), strategies=controls)


def cot_valve(bench: Bench, traces: Path) -> None:
    """A direction from short chains; chains of several lengths along it; trained again with a scale a row."""
    lora = {"lora_rank": 32, "lora_alpha": 64, "adapter": "keep", "learning_rate": 1e-3}
    short = bench.rows("cot_valve_short", "shortest_correct", [traces])
    valve = bench.train("cot_valve", short, **lora)
    for scale in SCALES:
        bench.test(f"cot_valve-{scale}", valve, adapter_scale=scale)
    levels = [
        bench.sample(f"valve-{scale}", valve, bench.scale.slow_problems, "--adapter_scale", scale)
        for scale in (0.0, 0.33, 0.67, 1.0)
    ]
    mixed = bench.rows("cot_valve_plus", "cot_valve", levels, levels=4)
    for seed in seeds_of(bench, "cot_valve_plus"):
        plus = bench.train("cot_valve_plus", mixed, seed, **lora)
        for scale in SCALES if seed == 0 else (1.0,):
            bench.test(f"cot_valve_plus-{seed}-{scale}", plus, adapter_scale=scale)


def merge(bench: Bench, traces: Path) -> None:
    short = bench.train("merge_short", bench.rows("merge_short", "shortest_correct", [traces]), seed=7)
    weights = ["0.25", "0.5", "0.75", "1.0"]
    for kind in ("average", "task_arithmetic", "ties", "dare"):
        folder = bench.out / "models" / f"merge-{kind}"
        parents = ["--long", bench.base, "--short", short, *(["--base", bench.base] if kind != "average" else [])]
        bench.command(
            f"merge-{kind}", "train", "merge", *parents, "--merge", kind, "--weights", *weights, "--output_dir", folder
        )
        for weight in weights if kind in ("average", "ties") else weights[1:2]:
            bench.test(f"merge_{kind}-{weight}", folder / f"weight_{float(weight):g}")


def hull(bench: Bench, traces: Path) -> None:
    """What the base does without training."""
    bench.test("base", bench.base)
    bench.test("base-budgets", bench.base, budgets=[48, 64, 80, 96, 112, 128, 160])
    free = ["no-thinking", "chain-of-draft", "deer", "dynasor", "close-scaling", "close-scaling?close_bias=4"]
    bench.test("base-free", bench.base, strategies=free)


ARMS: dict[str, Callable[[Bench, Path], None]] = {
    "hull": hull,
    "uncompressed": fine_tuned("uncompressed", "shortest_correct", keep="random"),
    "shortest_correct": fine_tuned("shortest_correct", "shortest_correct"),
    "first_correct": fine_tuned("first_correct", "first_correct"),
    "c3ot": c3ot,
    "cot_valve": cot_valve,
    "token_skip": token_skip,
    "merge": merge,
}


# ---- evaluation ----


def evaluate_part(bench: Bench, runs: Sequence[Run]) -> None:
    """Let models solve the test problems; OUT/points/NAME.npz holds what counts of it."""
    from efficient_reasoning import load_reasoner
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.traces import read_traces, sample_traces

    scale = bench.scale
    problems = load_problems(scale.task, "test", scale.test_problems, 1)
    for run in runs:
        path, points = bench.out / "evaluation" / f"{run.name}.jsonl", bench.out / "points" / f"{run.name}.npz"
        if points.is_file():
            continue
        path.parent.mkdir(exist_ok=True)
        points.parent.mkdir(exist_ok=True)
        sample_traces(
            load_reasoner(str(run.model), adapter_scale=run.adapter_scale),
            problems,
            strategies=run.strategies,
            budgets=run.budgets,
            samples_per_problem=scale.test_samples,
            temperature=0.6,
            top_p=0.95,
            top_k=20,
            max_new_tokens=scale.max_new_tokens,
            seed=1,
            path=path,
            config_path=path.with_suffix(".yaml"),
        )
        save_points(read_traces(path), points, {problem["id"]: index for index, problem in enumerate(problems)})


def save_points(traces: Iterable[dict], path: Path, order: dict[str, int]) -> None:
    """Per strategy and budget: whether each sample is correct, and what it took, as (problems, samples)."""
    columns: dict[str, dict[tuple[int, int], tuple]] = {}
    for trace in traces:
        spent = trace["spend"]["decoded_tokens"] + trace["spend"]["forced_tokens"]
        point = columns.setdefault(f"{trace['strategy']}@{trace['budget_tokens']}", {})
        row = (
            trace["correct"],
            spent,
            trace["difficulty"] or 0,
            trace["floor_tokens"] or 0,
            trace["thinking"].count("="),
        )
        point[order[trace["id"]], trace["sample_index"]] = row
    arrays = {}
    for name, cells in columns.items():
        samples = 1 + max(sample for _, sample in cells)
        arrays[name] = np.array([cells[cell] for cell in sorted(cells)], np.uint16).reshape(len(order), samples, -1)
    np.savez_compressed(path, **arrays)


# ---- the table ----


def table(out: Path) -> str:
    """Every point beside the base: accuracy, tokens, paired changes, removable share, height over the hull."""
    points: dict[tuple[str, str], list[np.ndarray]] = {}  # seeds of (arm, strategy@budget)
    for path in sorted((out / "points").glob("*.npz")):
        with np.load(path) as arrays:
            for point, values in arrays.items():
                points.setdefault((ARM.sub("", path.stem), point), []).append(values)
    base = points["base", "budget-forcing@None"][0]
    free = [values for (arm, _), [values] in points.items() if arm.startswith("base")]
    hull = upper_hull([(values[..., 1].mean(), values[..., 0].mean()) for values in free])
    floor, tokens = base[..., 3].mean(), base[..., 1].mean()
    lines = [
        "| arm | strategy | seeds | accuracy | tokens | change | accuracy change [95 %] | removable | over hull |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, point), values in sorted(points.items(), key=lambda item: item[0]):
        stacked = np.stack(values)  # (seeds, problems, samples, columns)
        seeds, problems, samples, _ = stacked.shape
        shape = (seeds, problems, samples)
        clusters = np.broadcast_to(np.arange(problems)[:, None], shape).ravel()
        drawn = np.broadcast_to(np.arange(seeds)[:, None, None], shape).ravel() if seeds > 1 else None
        before = np.broadcast_to(base[..., 0], shape).ravel()
        change = paired_bootstrap(before, stacked[..., 0].ravel(), clusters, seeds=drawn, share=True, resamples=4000)
        accuracy, mean = stacked[..., 0].mean(), stacked[..., 1].mean()
        over = accuracy - np.interp(mean, *zip(*hull, strict=True))
        removable = (tokens - mean) / (tokens - floor)
        lines.append(
            f"| {arm} | {point.replace('|', chr(92) + '|').replace('@None', '')} | {seeds} | {accuracy:.1%} "
            f"| {mean:.1f} | {mean / tokens - 1:+.1%} | {100 * change.mean:+.2f} [{100 * change.low:+.2f}, "
            f"{100 * change.high:+.2f}] {mark_of(change)} | {removable:.0%} | {100 * over:+.1f} |"
        )
    return "\n".join(lines)


def upper_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The concave hull of (tokens, accuracy) points from above, from (0, 0) on: mixing two reaches what is between."""
    hull: list[tuple[float, float]] = [(0.0, 0.0)]
    for x, y in sorted(points):
        while len(hull) > 1 and is_below(hull[-1], hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    best = max(range(len(hull)), key=lambda index: hull[index][1])
    return hull[: best + 1]


def is_below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether the point lies on or below the line between two others."""
    return (point[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (point[0] - left[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder of the base, or overthinker")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=5, help="commands side by side")
    parser.add_argument("--toy", action="store_true", help="a little of everything, on the CPU")
    parser.add_argument("--part", type=int, nargs=2, help=argparse.SUPPRESS)  # of the evaluations, in a process
    parser.add_argument("--table", action="store_true", help="only write the table of what is there")
    arguments = parser.parse_args()
    import torch

    bench = Bench(arguments.base, arguments.out, TOY if arguments.toy else Scale(), not torch.cuda.is_available())
    plan = arguments.out / "runs.json"
    if arguments.part:
        runs = [Run(**run) for run in json.loads(plan.read_text())]
        evaluate_part(bench, runs[arguments.part[0] :: arguments.part[1]])
        return
    if not arguments.table:
        traces = bench.sample("traces", bench.base, bench.scale.problems)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            arms = {name: pool.submit(ARMS[name], bench, traces) for name in arguments.only}
            for name, arm in arms.items():
                if arm.exception():
                    print(f"{name}: {arm.exception()!r}", flush=True)
        write_json(plan, [vars(run) | {"model": str(run.model)} for run in bench.runs])
        own = [sys.executable, *sys.argv]
        parts = [[*own, "--part", str(part), str(arguments.jobs)] for part in range(arguments.jobs)]
        for process in [subprocess.Popen(part) for part in parts]:
            process.wait()
    text = table(arguments.out)
    (arguments.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
