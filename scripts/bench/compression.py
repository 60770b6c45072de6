"""Every compression method on one overthinking model, with its controls: rows, training, evaluation, one table.

    python scripts/bench/compression.py BASE --out runs/compression [--only hull merge tale] [--scale small]

1. The base's own traces are sampled once, as they are in the test; every data tool makes its rows of them, every arm
   trains from the base. What leaves out parts of one chain a problem takes greedy ones: those hold no slips.
2. Controls: as many steps on uncompressed traces, correct ones or any, and on traces cut off after as many tokens.
3. All arms solve the same test problems with the same seeds. The base's strategies without training give the hull.

An arm is a line of commands of the toolkit, logged in OUT/commands.txt; they run in one of a few processes, which
import everything once. The same command again runs the arms that are not done yet.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import re
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap

RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
ADAPTER_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
GREEDY = " greedy"  # ends the names of points that are compared with the base's greedy one
_SEED = re.compile(r"#\d+")  # the training seed in the name of a run


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    task: str = "gsm_symbolic"
    problems: int = 4000
    slow_problems: int = 1600  # for tools that ask the model about each
    samples: int = 8
    steps: int = 150
    batch_size: int = 64
    test_problems: int = 2000
    test_samples: int = 2
    max_new_tokens: int = 320
    easy: int = 6  # greatest difficulty that step skipping is trained on


SCALES = {
    "full": Scale(),  # the 15M overthinker of gsm_symbolic, on a GPU
    "small": Scale("mixed", 1000, 400, 8, 150, 32, 400, 1, easy=4),  # the embedded overthinker, on a CPU: hours
    "toy": Scale("mixed", 24, 12, 4, 3, 8, 8, 1, easy=4),  # everything runs, and nothing is learnt
}


@dataclass
class Bench:
    """What an arm works with, in whichever process."""

    base: str
    out: Path
    scale: Scale
    problems: list[dict]  # of the test

    def command(self, *words: object) -> None:
        """One command of the toolkit."""
        kind, name, *argv = map(str, words)
        began = time.perf_counter()
        importlib.import_module(f"{'recipes' if kind == 'train' else 'data_tools'}.{name}").main(argv)
        self.tidy()
        self.log(f"{kind} {name}", argv, began)

    def log(self, name: str, argv: Sequence[str], began: float) -> None:
        with open(self.out / "commands.txt", "a", encoding="utf-8") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            seconds = time.perf_counter() - began
            log.write(f"efficient-reasoning {name} {shlex.join(argv)}  # {seconds:.0f} s\n")

    @staticmethod
    def tidy() -> None:
        import torch

        gc.collect()
        torch.cuda.empty_cache()

    def sample(self, name: str, model: Path | str, problems: int, **settings: object) -> Path:
        scale, path = self.scale, self.out / f"{name}.jsonl"
        options = {"task": scale.task, "num_problems": problems, "samples_per_problem": scale.samples}
        options |= {"max_new_tokens": scale.max_new_tokens, "out": path, "model": model} | SAMPLING | settings
        self.command("data", "sample", *flags(options))
        return path

    def rows(self, name: str, method: str, traces: Sequence[Path] | Path, **settings: object) -> Path:
        path = self.out / "rows" / f"{name}.jsonl"
        self.command("data", method, *flags({"traces": traces, "out": path} | settings))
        return path

    def train(self, name: str, rows: Path, seed: int = 0, times: float = 1, **settings: object) -> Path:
        """The folder of a model that `sft_compress` has trained from the base, `times` the steps of the scale."""
        import torch

        folder, on_gpu = self.out / "models" / f"{name}-{seed}", torch.cuda.is_available()
        options = {
            "model": self.base,
            "data": rows,
            "output_dir": folder,
            "max_steps": max(1, round(times * self.scale.steps)),
            "per_device_train_batch_size": self.scale.batch_size,
            # All weights at 3e-4 forget: 4.7 points less accuracy on uncompressed traces already.
            "lora_rank": 32,
            "lora_alpha": 64,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": self.scale.steps // 10,
            "max_length": 512,
            "bf16": on_gpu,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": on_gpu,
            "logging_steps": 30,
            "save_steps": 10_000,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": seed,
        }
        self.command("train", "sft_compress", *flags(options | settings))
        return folder

    def test(
        self,
        name: str,
        model: Path | str,
        strategies: Sequence[str] = ("budget-forcing",),
        budgets: Sequence[int | None] = (None,),
        adapter_scale: float | None = None,
        samples: int | None = None,
    ) -> None:
        """Let a model solve the test problems; OUT/points/NAME.npz holds what counts of it."""
        from efficient_reasoning import load_reasoner
        from efficient_reasoning.traces import read_traces, sample_traces

        path, points = self.out / "evaluation" / f"{name}.jsonl", self.out / "points" / f"{name}.npz"
        if points.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        points.parent.mkdir(parents=True, exist_ok=True)
        sample_traces(
            load_reasoner(str(model), adapter_scale=adapter_scale),
            self.problems,
            strategies=strategies,
            budgets=budgets,
            samples_per_problem=samples or self.scale.test_samples,
            **SAMPLING | ({"temperature": 0.0} if name.endswith(GREEDY) else {}),
            max_new_tokens=self.scale.max_new_tokens,
            seed=1,
            path=path,
            config_path=path.with_suffix(".yaml"),
        )
        save_points(read_traces(path), points, {problem["id"]: i for i, problem in enumerate(self.problems)})
        self.tidy()

    def wait(self, path: Path) -> Path:
        """A file that another arm writes, which stands before this one in the queue."""
        while not path.is_file():
            time.sleep(1)
        return path


def flags(options: dict[str, object]) -> list[str]:
    return [
        str(word)
        for key, value in options.items()
        for word in (f"--{key}", *(value if isinstance(value, (list, tuple)) else [value]))
    ]


# ---- the arms ----

Arm = Callable[[Bench, Path, Path], None]  # the base's traces, and those of fewer problems


def fine_tuned(name: str, seed: int, method: str, is_slow: bool = False, **settings: object) -> Arm:
    """One data tool and one training; keys that begin with `train_` are the recipe's."""
    own = {key: value for key, value in settings.items() if not key.startswith("train_")}
    training = {key.removeprefix("train_"): value for key, value in settings.items() if key.startswith("train_")}

    def arm(bench: Bench, traces: Path, few: Path) -> None:
        needs_model = {"model": bench.base} if method not in ("shortest_correct", "long2short_pairs") else {}
        rows = bench.rows(f"{name}-{seed}", method, few if is_slow else traces, **needs_model, **own)
        bench.test(f"{name}#{seed}", bench.train(name, rows, seed, **training))

    return arm


def token_skip(name: str, importance: str) -> Arm:
    """All ratios of one chain of every problem: six controls take many rows, and long."""

    def arm(bench: Bench, traces: Path, few: Path) -> None:
        from efficient_reasoning.compression import by_problem
        from efficient_reasoning.compression.token_classifier import train_token_classifier
        from efficient_reasoning.compression.tokenizer import load_thinking
        from efficient_reasoning.traces import read_traces

        settings = {"level": "chunk", "importance": importance, "all_ratios": True}
        if importance == "classifier":
            settings["importance_model"] = bench.out / "classifier"
            groups = by_problem(read_traces(traces))
            train_token_classifier(groups, load_thinking(bench.base), settings["importance_model"])
        rows = bench.rows(name, "token_skip", bench.out / "greedy.jsonl", model=bench.base, **settings)
        controls = [f"control?text=<|keep {ratio:g}|>" for ratio in RATIOS]
        model = bench.train(name, rows, times=4)
        for point in (name, name + GREEDY):
            bench.test(point, model, controls, samples=1)

    return arm


def uncompressed_long(bench: Bench, traces: Path, few: Path) -> None:
    """The control of `token_skip`: as many steps on whole chains of the same."""
    rows = bench.rows("uncompressed long", "truncated", bench.out / "greedy.jsonl", model=bench.base, keep_ratio=1.0)
    model = bench.train("uncompressed long", rows, times=4)
    for point in ("uncompressed long", "uncompressed long" + GREEDY):
        bench.test(point, model, samples=1)


def first_correct(bench: Bench, traces: Path, few: Path) -> None:
    """Also the source of chains that are shorter than any of the base's."""
    rows = bench.rows("first_correct-0", "first_correct", traces, model=bench.base)
    model = bench.train("first_correct", rows)
    bench.sample("short", model, bench.scale.problems, samples_per_problem=2)
    bench.test("first_correct#0", model)


def c3ot(seed: int) -> Arm:
    """The short chains are the base's, or those of the model that `first_correct` has trained."""

    def arm(bench: Bench, traces: Path, few: Path) -> None:
        bench.wait(bench.out / "points" / "first_correct#0.npz")
        rows = bench.rows(f"c3ot-{seed}", "c3ot", [traces, bench.out / "short.jsonl"], model=bench.base)
        controls = ["control?text=<|short|>", "control?text=<|long|>"][: 1 if seed else 2]
        model = bench.train("c3ot", rows, seed, times=2)
        bench.test(f"c3ot#{seed}", model, controls)

    return arm


PREFERENCES = {"times": 0.5, "per_device_train_batch_size": 32}  # 150 steps at 1e-4 run away
DPO = {"objective": "dpo", "learning_rate": 5e-5} | PREFERENCES
SIMPO = {"objective": "simpo", "learning_rate": 5e-5} | PREFERENCES
VALVE = {"adapter": "keep"}


def cot_valve(bench: Bench, traces: Path, few: Path) -> None:
    """A direction from short chains; chains of several lengths along it; trained again with a scale a row."""
    valve = bench.train("cot_valve", bench.rows("cot_valve_short", "first_correct", traces, model=bench.base), **VALVE)
    levels = [
        bench.sample(f"valve-{scale}", valve, bench.scale.slow_problems, adapter_scale=scale, samples_per_problem=2)
        for scale in (0.0, 0.33, 0.67, 1.0)
    ]
    bench.rows("cot_valve_plus", "cot_valve", levels)
    cot_valve_plus(0)(bench, traces, few)
    for scale in ADAPTER_SCALES:
        bench.test(f"cot_valve {scale}", valve, adapter_scale=scale, samples=1)


def cot_valve_plus(seed: int) -> Arm:
    def arm(bench: Bench, traces: Path, few: Path) -> None:
        rows = bench.wait(bench.out / "rows" / "cot_valve_plus.jsonl")
        plus = bench.train("cot_valve_plus", rows, seed, times=2, **VALVE)
        bench.test(f"cot_valve_plus 1.0#{seed}", plus, adapter_scale=1.0)
        for scale in () if seed else (0.0, 0.25, 0.5, 0.75, 1.25, 1.5):
            bench.test(f"cot_valve_plus {scale}#{seed}", plus, adapter_scale=scale, samples=2)

    return arm


def merge(bench: Bench, traces: Path, few: Path) -> None:
    short = bench.train("merge_short", bench.rows("merge_short", "shortest_correct", traces), seed=7)
    for kind in ("average", "task_arithmetic", "ties", "dare"):
        folder = bench.out / "models" / f"merge-{kind}"
        options = {"long": bench.base, "short": short, "merge": kind, "output_dir": folder}
        weights = [0.25, 0.5, 0.75, 1.0] if kind in ("average", "ties") else [0.5, 1.0]
        bench.command(
            "train",
            "merge",
            *flags(options | {"weights": weights} | ({} if kind == "average" else {"base": bench.base})),
        )
        for weight in weights:
            bench.test(f"merge {kind} {weight}", folder / f"weight_{weight:g}", samples=2)


def step_skip(bench: Bench, traces: Path, few: Path) -> None:
    """Numbers of steps as orders, then twice fewer steps than before, each time from the base; easy problems alone."""
    easy = bench.out / "easy.jsonl"
    with open(few, encoding="utf-8") as lines, open(easy, "w", encoding="utf-8") as out:
        out.writelines(line for line in lines if json.loads(line)["difficulty"] <= bench.scale.easy)
    training = {"times": 2}
    rows = bench.rows("step_skip-0", "step_skip", easy, stage="initial", model=bench.base, max_traces=4)
    model = bench.train("step_skip-0", rows, **training)
    bench.test("step_skip 0", model, samples=2)
    for iteration in (1, 2):
        skip = {"stage": "skip", "model": model, "max_skip": 2 * iteration, "max_traces": 4, "plain": "fewest"}
        skip |= {"samples_per_question": 2, "max_new_tokens": bench.scale.max_new_tokens}
        rows = bench.rows(f"step_skip-{iteration}", "step_skip", easy, **skip)
        model = bench.train(f"step_skip-{iteration}", rows, **training)
        bench.test(f"step_skip {iteration}", model, samples=2)


def tale(bench: Bench, traces: Path, few: Path) -> None:
    """Budgets in the prompt, the search for the least, and training on what it finds."""
    rows = bench.rows("tale-initial", "tale", few, stage="initial", model=bench.base)
    searcher = bench.train("tale-initial", rows, times=2)
    bench.test("tale sft", bench.train("tale_sft", bench.rows("tale-sft", "tale", few, model=searcher)), samples=2)
    pairs = bench.rows("tale-dpo", "tale", few, model=searcher, objective="dpo")
    bench.test("tale dpo", bench.train("tale_dpo", pairs, **DPO), samples=2)


def spirit(order: str) -> Arm:
    def arm(bench: Bench, traces: Path, few: Path) -> None:
        # Asked for a length instead (`keep_ratio` 0.6), it drops equations that the answer needs.
        settings = {"model": bench.base, "order": order, "max_perplexity_ratio": 1.25, "steps_per_round": 2}
        rows = bench.rows(f"spirit {order}", "spirit", bench.out / "few_greedy.jsonl", **settings)
        bench.test(f"spirit {order}", bench.train(f"spirit {order}", rows))

    return arm


def hull(bench: Bench, traces: Path, few: Path) -> None:
    """What the base does without training."""
    bench.test("base", bench.base, samples=4)
    bench.test("base" + GREEDY, bench.base, samples=1)
    bench.test("base budgets", bench.base, budgets=[48, 64, 80, 96, 112, 128, 160], samples=1)
    free = ["no-thinking", "chain-of-draft", "deer", "dynasor", "close-scaling", "close-scaling?close_bias=4"]
    bench.test("base free", bench.base, free, samples=1)


def recipe(settings: dict[str, object]) -> dict[str, object]:
    return {f"train_{key}": value for key, value in settings.items()}


SEEDS = range(3)
ARMS: dict[str, Arm] = {
    "hull": hull,
    "cot_valve": cot_valve,
    "token_skip": token_skip("token_skip", "classifier"),
    "spirit": spirit("perplexity"),
    "random steps": spirit("random"),
    "step_skip": step_skip,
    "first_correct#0": first_correct,
    **{f"shortest_correct#{seed}": fine_tuned("shortest_correct", seed, "shortest_correct") for seed in SEEDS},
    **{f"uncompressed#{seed}": fine_tuned("uncompressed", seed, "truncated", keep_ratio=1.0) for seed in SEEDS},
    **{f"first_correct#{seed}": fine_tuned("first_correct", seed, "first_correct") for seed in (1, 2)},
    **{f"cot_valve_plus#{seed}": cot_valve_plus(seed) for seed in (1, 2)},
    **{f"c3ot#{seed}": c3ot(seed) for seed in SEEDS},
    "tale": tale,
    "merge": merge,
    "dpo": fine_tuned("dpo", 0, "long2short_pairs", **recipe(DPO)),
    "dpo 2e-5": fine_tuned("dpo 2e-5", 0, "long2short_pairs", **recipe(DPO | {"learning_rate": 2e-5})),
    "first_correct + reflection": fine_tuned("fcs_reflection", 0, "first_correct", keep="fcs_reflection"),
    "simpo": fine_tuned("simpo", 0, "first_correct", pairs=True, **recipe(SIMPO)),
    "simpo 2e-5": fine_tuned("simpo 2e-5", 0, "first_correct", pairs=True, **recipe(SIMPO | {"learning_rate": 2e-5})),
    "uncompressed long": uncompressed_long,
    "token_skip self-information": token_skip("token_skip self-information", "self_information"),
    "truncated 0.7": fine_tuned("truncated 0.7", 0, "truncated", keep_ratio=0.7),
    "truncated 0.5": fine_tuned("truncated 0.5", 0, "truncated", keep_ratio=0.5),
    "unfiltered": fine_tuned("unfiltered", 0, "shortest_correct", keep="random"),
    "all weights": fine_tuned(
        "shortest_correct all weights", 0, "shortest_correct", train_lora_rank=0, train_learning_rate=1e-4
    ),
}


# ---- the processes ----


def work(
    bench: Bench, queue: multiprocessing.Queue, traces: Path, few: Path, number: int, gpu: str, jobs: int
) -> None:
    """Run arms until none is left; what they print goes to a log."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # the trainers would take all that they see
    import torch

    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    if torch.cuda.is_available():  # each keeps to its share, instead of to what it once took
        torch.cuda.set_per_process_memory_fraction(0.9 / jobs)
    with open(bench.out / f"log{number}.txt", "w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        while (name := queue.get()) is not None:
            began, state = time.perf_counter(), "done"
            print(f"==== {name}", flush=True)
            try:
                ARMS[name](bench, traces, few)
            except Exception:
                traceback.print_exc()
                state = "failed"
            with open(bench.out / "arms.txt", "a", encoding="utf-8") as arms:
                arms.write(f"{name}: {state}, {time.perf_counter() - began:.0f} s\n")


def end_with(parent: int) -> None:
    """Nobody else ends a process whose parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run_arms(bench: Bench, names: Sequence[str], jobs: int) -> None:
    """Sample the base, then share the arms out."""
    import torch

    scale = bench.scale
    traces = bench.sample("traces", bench.base, scale.problems)
    few = head(traces, bench.out / "few.jsonl", scale.slow_problems * scale.samples)
    greedy = bench.sample("greedy", bench.base, scale.problems, samples_per_problem=1, temperature=0.0)
    head(greedy, bench.out / "few_greedy.jsonl", scale.slow_problems)
    log = bench.out / "arms.txt"
    done = {line.partition(": done")[0] for line in log.read_text().splitlines()} if log.is_file() else set()
    names = [name for name in names if name not in done]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for name in [*names, *[None] * jobs]:
        queue.put(name)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",")
    workers = [
        context.Process(target=work, args=(bench, queue, traces, few, number, gpus[number % len(gpus)], jobs))
        for number in range(jobs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def head(source: Path, path: Path, count: int) -> Path:
    """A file of the first `count` lines of another."""
    with open(source, encoding="utf-8") as lines, open(path, "w", encoding="utf-8") as out:
        out.writelines(itertools.islice(lines, count))
    return path


def save_points(traces: Iterable[dict], path: Path, order: dict[str, int]) -> None:
    """Per strategy and budget: (problems, samples, columns); correct, tokens, difficulty, floor, equations."""
    columns: dict[str, dict[tuple[int, int], tuple]] = {}
    for trace in traces:
        spent = trace["spend"]["decoded_tokens"] + trace["spend"]["forced_tokens"]
        ends = not trace["truncated"]  # the end token is decoded, and is no token of the response
        point = columns.setdefault(f"{trace['strategy']}@{trace['budget_tokens']}", {})
        equations = trace["thinking"].count("=")
        row = (trace["correct"], spent - ends, trace["difficulty"] or 0, trace["floor_tokens"] or 0, equations)
        point[order[trace["id"]], trace["sample_index"]] = row
    arrays = {}
    for name, cells in columns.items():
        samples = 1 + max(sample for _, sample in cells)
        arrays[name] = np.array([cells[cell] for cell in sorted(cells)], np.uint16).reshape(len(order), samples, -1)
    np.savez_compressed(path, **arrays)


# ---- the table ----


def table(out: Path, easy: int) -> str:
    """Every point beside the base: accuracy, tokens, paired changes, removable share, height over the hull, equations
    a problem, and the change of accuracy on problems of more than `easy` difficulty."""
    points: dict[tuple[str, str], list[np.ndarray]] = {}  # seeds of (arm, strategy@budget)
    for path in sorted((out / "points").glob("*.npz")):
        with np.load(path) as arrays:
            for point, values in arrays.items():
                points.setdefault((_SEED.sub("", path.stem), point), []).append(values)
    [sampled] = points["base", "budget-forcing@None"]
    free = [seeds[0] for (arm, _), seeds in points.items() if arm.split()[0] == "base"]
    front = upper_hull([(values[..., 1].mean(), values[..., 0].mean()) for values in free])
    lines = [
        "| arm | strategy | seeds | accuracy | tokens | change | accuracy change [95 %] | removable | over hull "
        "| equations | larger |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (arm, point), values in sorted(points.items(), key=lambda item: item[0]):
        base = points["base" + GREEDY, "budget-forcing@None"][0] if arm.endswith(GREEDY) else sampled
        floor, tokens = base[..., 3].mean(), base[..., 1].mean()
        stacked = np.stack(values)  # (seeds, problems, samples, columns)
        shape = seeds, problems, samples = stacked.shape[:3]
        clusters = np.broadcast_to(np.arange(problems)[:, None], shape).ravel()
        drawn = np.broadcast_to(np.arange(seeds)[:, None, None], shape).ravel() if seeds > 1 else None
        before = np.broadcast_to(base[:, :samples, 0], shape).ravel()
        after = stacked[..., 0].ravel()
        change = paired_bootstrap(before, after, clusters, seeds=drawn, share=True, resamples=4000)
        accuracy, mean = stacked[..., 0].mean(), stacked[..., 1].mean()
        larger = base[:, 0, 2] > easy
        gain = stacked[:, larger, :, 0].mean() - base[larger, :samples, 0].mean()
        over = accuracy - np.interp(mean, *zip(*front, strict=True))
        removable = (tokens - mean) / (tokens - floor)
        named = point.removesuffix("@None").replace("|", "\\|")
        lines.append(
            f"| {arm} | {named} | {seeds} | {accuracy:.1%} | {mean:.1f} | {mean / tokens - 1:+.1%} "
            f"| {100 * change.mean:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}] {mark_of(change)} "
            f"| {removable:.0%} | {100 * over:+.1f} | {stacked[..., 4].mean():.1f} | {100 * gain:+.1f} |"
        )
    return "\n".join(lines)


def upper_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The concave hull of (tokens, accuracy) points from above, from (0, 0) on: mixing two reaches what is between."""
    front: list[tuple[float, float]] = [(0.0, 0.0)]
    for x, y in sorted(points):
        while len(front) > 1 and is_below(front[-1], front[-2], (x, y)):
            front.pop()
        front.append((x, y))
    best = max(range(len(front)), key=lambda index: front[index][1])
    return front[: best + 1]


def is_below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether the point lies on or below the line between two others."""
    return (point[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (point[0] - left[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder of the base, or overthinker")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--jobs", type=int, default=5, help="arms side by side, on all GPUs together")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much of everything")
    parser.add_argument("--table", action="store_true", help="only write the table of what is there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scale = SCALES[arguments.scale]
    if not arguments.table:
        from efficient_reasoning.problems import load_problems

        problems = load_problems(scale.task, "test", scale.test_problems, 1)
        bench = Bench(arguments.base, arguments.out, scale, problems)
        run_arms(bench, arguments.only, arguments.jobs)
        with contextlib.suppress(FileNotFoundError):
            print((arguments.out / "arms.txt").read_text())
    text = table(arguments.out, scale.easy)
    (arguments.out / "table.md").write_text(text + "\n")
    print(text, file=sys.stdout)


if __name__ == "__main__":
    main()
