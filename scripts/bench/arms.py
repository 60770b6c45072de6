"""Many short trainings from one base, side by side, and one table: what the larger benches share.

1. An arm is a line of commands of the toolkit, logged in OUT/commands.txt. Arms run in one of a few processes, which
   import everything once, on all GPUs. The same command again runs the arms that are not done yet.
2. All arms solve the same test problems with the same seeds; OUT/points holds what counts of each point.
3. The table compares with the base on these problems, and with the hull of what the base does without training.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import gc
import importlib
import itertools
import multiprocessing
import os
import re
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.evaluation.metrics import accuracy_efficiency_score
from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap

SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
GREEDY = " greedy"  # ends the names of points that are compared with the base's greedy one
_SEED = re.compile(r"#\d+")  # the training seed in the name of a run


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        task: what is solved.
        problems, samples: of the base's traces.
        slow_problems: those of them for what takes long.
        steps, batch_size: of a training.
        test_problems, test_samples, max_new_tokens: of a test.
        easy: greatest difficulty of a problem that is not large.
    """

    task: str = "gsm_symbolic"
    problems: int = 4000
    slow_problems: int = 1600
    samples: int = 8
    steps: int = 150
    batch_size: int = 64
    test_problems: int = 2000
    test_samples: int = 2
    max_new_tokens: int = 320
    easy: int = 6


@dataclass
class Bench:
    """What an arm works with, in whichever process."""

    base: str
    out: Path
    scale: Scale
    problems: list[dict]  # of the test

    backend = "auto"  # of what is sampled and tested
    # Bases of its own, instead of one that is given: it writes its own tables, and its arms pass over what is there.
    has_bases = False

    @property
    def traces(self) -> Path:
        return self.out / "traces.jsonl"

    @property
    def few(self) -> Path:
        """The traces of fewer problems, for what takes long."""
        return self.out / "few.jsonl"

    def prepare(self) -> None:
        """What all arms need, before they are shared out."""
        self.sample("traces", self.base, self.scale.problems)
        head(self.traces, self.few, self.scale.slow_problems * self.scale.samples)

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
        options |= {"max_new_tokens": scale.max_new_tokens, "out": path, "model": model}
        options |= {"backend": self.backend} | SAMPLING | settings
        self.command("data", "sample", *flags(options))
        return path

    def rows(self, name: str, method: str, traces: Sequence[Path] | Path, **settings: object) -> Path:
        path = self.out / "rows" / f"{name}.jsonl"
        self.command("data", method, *flags({"traces": traces, "out": path} | settings))
        return path

    @staticmethod
    def quiet_options() -> dict[str, object]:
        """What all trainings share: precision and memory of the device, no checkpoint on the way, nothing reported."""
        import torch

        on_gpu = torch.cuda.is_available()
        return {
            "bf16": on_gpu,
            "dataloader_pin_memory": on_gpu,
            "gradient_checkpointing": False,
            "save_steps": 100_000,
            "report_to": "none",
            "disable_tqdm": True,
        }

    def train(self, name: str, rows: Path, seed: int = 0, times: float = 1, **settings: object) -> Path:
        """The folder of a model that `sft_compress` has trained from the base, `times` the steps of the scale."""
        folder = self.out / "models" / f"{name}-{seed}"
        options = self.quiet_options() | {
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
            "logging_steps": 30,
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
        behind: str = "",
        problems: Sequence[dict] | None = None,
        max_new_tokens: int | None = None,
        backend: str = "",
    ) -> None:
        """Let a model solve the test problems, or others, with a text behind each; OUT/points/NAME.npz holds what
        counts."""
        from efficient_reasoning import load_reasoner
        from efficient_reasoning.traces import read_traces, sample_traces

        path, points = self.out / "evaluation" / f"{name}.jsonl", self.out / "points" / f"{name}.npz"
        problems = self.problems if problems is None else problems
        if points.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        points.parent.mkdir(parents=True, exist_ok=True)
        sample_traces(
            load_reasoner(str(model), backend or self.backend, adapter_scale=adapter_scale),
            [problem | {"question": problem["question"] + behind} for problem in problems],
            strategies=strategies,
            budgets=budgets,
            samples_per_problem=samples or self.scale.test_samples,
            **SAMPLING | ({"temperature": 0.0} if name.endswith(GREEDY) else {}),
            max_new_tokens=max_new_tokens or self.scale.max_new_tokens,
            seed=1,
            path=path,
            config_path=path.with_suffix(".yaml"),
        )
        save_points(read_traces(path), points, {problem["id"]: i for i, problem in enumerate(problems)})
        self.tidy()

    def once(self, path: Path, make: Callable[[], None]) -> Path:
        """A file that the first arm which needs it makes, while others wait."""
        locks = self.out / "locks"
        for folder in (locks, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with open(locks / "-".join(path.relative_to(self.out).parts), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                make()
        return path

    def wait(self, path: Path) -> Path:
        """A file that another arm writes, which stands before this one in the queue."""
        while not path.is_file():
            time.sleep(1)
        return path


Arm = Callable[[Bench], None]
Arms = Mapping[str, Arm]


def flags(options: dict[str, object]) -> list[str]:
    return [
        str(word)
        for key, value in options.items()
        for word in (f"--{key}", *(value if isinstance(value, (list, tuple)) else [value]))
    ]


def hull(bench: Bench) -> None:
    """What the base does without training."""
    bench.test("base", bench.base, samples=4)
    bench.test("base" + GREEDY, bench.base, samples=1)
    bench.test("base budgets", bench.base, budgets=[48, 64, 80, 96, 112, 128, 160, 192, 240], samples=1)
    free = ["no-thinking", "chain-of-draft", "deer", "dynasor", "close-scaling", "close-scaling?close_bias=4"]
    bench.test("base free", bench.base, free, samples=1)


def run_bench(
    kind: type[Bench],
    arms: Arms,
    scales: Mapping[str, Scale],
    out: str,
    doc: str,
    more: Mapping[str, Callable[[Path], str]] | None = None,
    last: Sequence[str] = (),
) -> None:
    """A bench as a program; `arms` is what the program calls ARMS, of which `last` run one by one behind all others;
    `more` are further tables of what is in OUT."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if not kind.has_bases:
        parser.add_argument("base", help="folder of the base, or overthinker")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="ARM", help="names or patterns, such as 'kimi*'")
    parser.add_argument("--jobs", type=int, default=5, help="arms side by side, on all GPUs together")
    parser.add_argument("--scale", choices=scales, default="full", help="how much of everything")
    parser.add_argument("--table", action="store_true", help="only write the table of what is there")
    arguments = parser.parse_args()
    names = [name for name in arms if any(fnmatch.fnmatchcase(name, only) for only in arguments.only)]
    for only in arguments.only:
        if not fnmatch.filter(arms, only):
            parser.error(f"no arm is called {only}; there are {', '.join(arms)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    scale = scales[arguments.scale]
    if not arguments.table:
        if kind.has_bases:
            bench = kind("", arguments.out, scale, [])
        else:
            from efficient_reasoning.problems import load_problems

            problems = load_problems(scale.task, "test", scale.test_problems, 1)
            bench = kind(arguments.base, arguments.out, scale, problems)
        bench.prepare()
        run_arms(bench, [name for name in names if name not in last], arguments.jobs)
        run_arms(bench, [name for name in names if name in last], 1)
        with contextlib.suppress(FileNotFoundError):
            print((arguments.out / "arms.txt").read_text())
    tables = {} if kind.has_bases else {"table.md": lambda out: table(out, scale.easy)}
    for name, write in {**tables, **(more or {})}.items():
        text = write(arguments.out)
        (arguments.out / name).write_text(text + "\n")
        print(text)


# ---- the processes ----


def work(bench: Bench, queue: multiprocessing.Queue, number: int, gpu: str, jobs: int) -> None:
    """Run arms until none is left; what they print goes to a log."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # the trainers would take all that they see
    import torch

    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    if torch.cuda.is_available():  # each keeps to its share, instead of to what it once took
        torch.cuda.set_per_process_memory_fraction(0.9 / jobs)
    arms: Arms = sys.modules["__main__"].ARMS  # of the program, which is imported here once more
    with open(bench.out / f"log{number}.txt", "w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        while (name := queue.get()) is not None:
            began, state = time.perf_counter(), "done"
            print(f"==== {name}", flush=True)
            try:
                arms[name](bench)
            except Exception:
                traceback.print_exc()
                state = "failed"
            with open(bench.out / "arms.txt", "a", encoding="utf-8") as done:
                done.write(f"{name}: {state}, {time.perf_counter() - began:.0f} s\n")


def end_with(parent: int) -> None:
    """Nobody else ends a process whose parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run_arms(bench: Bench, names: Sequence[str], jobs: int) -> None:
    """Share out the arms that are not done yet."""
    import torch

    log = bench.out / "arms.txt"
    done = {line.partition(": done")[0] for line in log.read_text().splitlines()} if log.is_file() else set()
    names = [name for name in names if name not in done or bench.has_bases]
    jobs = min(jobs, len(names))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for name in [*names, *[None] * jobs]:
        queue.put(name)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",")
    workers = [
        context.Process(target=work, args=(bench, queue, number, gpus[number % len(gpus)], -(-jobs // len(gpus))))
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
        row = (trace["correct"], spent - ends, trace.get("difficulty") or 0, trace["floor_tokens"] or 0, equations)
        point[order[trace["id"]], trace["sample_index"]] = row
    arrays = {}
    for name, cells in columns.items():
        samples = 1 + max(sample for _, sample in cells)
        arrays[name] = np.array([cells[cell] for cell in sorted(cells)], np.uint16).reshape(len(order), samples, -1)
    np.savez_compressed(path, **arrays)


# ---- the table ----


def table(out: Path, easy: int) -> str:
    """Every point beside the base: accuracy, tokens, paired changes, removable share, AES, height over the hull and
    equations a problem; the change of tokens on problems of at most `easy` difficulty, and of tokens and accuracy on
    the larger ones."""
    points: dict[tuple[str, str], list[np.ndarray]] = {}  # seeds of (arm, strategy@budget)
    for path in sorted((out / "points").glob("*.npz")):
        with np.load(path) as arrays:
            for point, values in arrays.items():
                points.setdefault((_SEED.sub("", path.stem), point), []).append(values)
    if ("base", "budget-forcing@None") not in points:
        return "The arm `hull` measures what the others are compared with; run it for a table."
    [sampled] = points["base", "budget-forcing@None"]
    free = [seeds[0] for (arm, _), seeds in points.items() if arm.split()[0] == "base"]
    front = upper_hull([(values[..., 1].mean(), values[..., 0].mean()) for values in free])
    lines = [
        "| arm | strategy | seeds | accuracy | tokens | change | accuracy change [95 %] | removable | AES | over hull "
        "| equations | easy: change | larger: change | accuracy |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
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
        cuts = [stacked[:, these, :, 1].mean() / base[these, :, 1].mean() - 1 for these in (~larger, larger)]
        score = accuracy_efficiency_score((tokens, base[..., 0].mean()), (mean, accuracy))
        over = accuracy - np.interp(mean, *zip(*front, strict=True))
        removable = (tokens - mean) / (tokens - floor)
        named = point.removesuffix("@None").replace("|", "\\|")
        lines.append(
            f"| {arm} | {named} | {seeds} | {accuracy:.1%} | {mean:.1f} | {mean / tokens - 1:+.1%} "
            f"| {100 * change.mean:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}] {mark_of(change)} "
            f"| {removable:.0%} | {score:+.2f} | {100 * over:+.1f} | {stacked[..., 4].mean():.1f} "
            f"| {cuts[0]:+.1%} | {cuts[1]:+.1%} | {100 * gain:+.1f} |"
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
