"""The main job on two CPU cores: an overthinking model in, a concise one out, with the curve to prove it.

Every step below is one command of the toolkit, printed before it runs; here they share a process, so that torch is
imported once. A run that was cut goes on where it stopped; a finished one shows its results again.

    bash scripts/quickstart.sh [--fast]
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Threads that spin while they wait starve each other as soon as a second program wants a core, and those that do not
# spin at all take long to wake: some microseconds of it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# The bars of loading and tokenising flash by; those of sampling, training and evaluating stay.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
warnings.simplefilter("ignore", FutureWarning)  # of libraries about their own next versions


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    folder: str
    minutes: str
    test_problems: int
    train_problems: int
    samples_per_problem: int
    sft_steps: int
    rl_steps: int
    rl_batch_size: int


FULL = Scale("runs/quickstart", "about 6 minutes", 800, 400, 8, 30, 18, 128)
FAST = Scale("runs/quickstart-fast", "under a minute", 60, 24, 4, 4, 2, 16)
BUDGET_SHARES = (1 / 4, 3 / 8, 1 / 2, 3 / 4)
STEPS = 10
TEST_SEED = 1
REPO = "your-name/concise-overthinker"


class Progress:
    """Numbers the steps, tells the time, and shows what each runs as the command it is."""

    def __init__(self):
        self.step = 0
        self.began = time.perf_counter()

    def announce(self, text: str) -> None:
        self.step += 1
        minutes, seconds = divmod(int(time.perf_counter() - self.began), 60)
        print(f"\n[{self.step}/{STEPS}, {minutes}:{seconds:02}] {text}", flush=True)

    def show(self, *command: object) -> None:
        print(f"  $ efficient-reasoning {shlex.join(map(str, command))}", flush=True)


def run_program(progress: Progress, kind: str, name: str, config: str, **overrides: object) -> None:
    """Show a recipe or data tool as a command and run it in this process."""
    arguments = ["--config", config]
    for key, value in overrides.items():
        arguments += [f"--{key}", str(value)]
    progress.show("train" if kind == "recipes" else "data", name, *arguments)
    importlib.import_module(f"{kind}.{name}").main(arguments)


def run_evaluation(progress: Progress, label: str, model: str, scale: Scale, budgets: Sequence[int | None]) -> Path:
    """Show and run one evaluation; the run folder is named after the label."""
    from efficient_reasoning import evaluate, load_reasoner
    from efficient_reasoning.problems import load_problems

    out = Path(scale.folder) / "evaluation" / label
    written = ",".join("none" if budget is None else str(budget) for budget in budgets)
    flags = ["--budgets", written, "--num-problems", scale.test_problems, "--seed", TEST_SEED, "--out", out]
    progress.show("evaluate", "--model", model, "--task", "mixed", *flags)
    problems = load_problems("mixed", "test", scale.test_problems, TEST_SEED)
    return evaluate(load_reasoner(model), problems, budgets=budgets, seed=TEST_SEED, out=out)


def unlimited_tokens(run: Path) -> float | None:
    """Mean total tokens of a run's unlimited point; None where the run has not got there."""
    from efficient_reasoning.evaluation.summary import read_summary

    if not (run / "summary.json").is_file():
        return None
    [point] = [point for point in read_summary(run)["points"] if point["budget_tokens"] is None]
    return point["total_tokens"]["mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a minute's worth of every step, for the tests")
    scale = FAST if parser.parse_args().fast else FULL
    os.chdir(ROOT)
    folder = scale.folder
    print(f"Make the embedded overthinker concise on this machine's CPU ({scale.minutes} on two cores).")
    print(f"Everything is written to {folder}; stop with Ctrl-C, go on with the same command.", flush=True)

    from efficient_reasoning.evaluation import compare
    from efficient_reasoning.hub import publish

    progress = Progress()
    progress.announce("Evaluate the overthinker")
    baseline = Path(folder) / "evaluation" / "overthinker"
    if unlimited_tokens(baseline) is None:
        run_evaluation(progress, "overthinker", "overthinker", scale, [None])
    mean_tokens = unlimited_tokens(baseline)
    budgets = [None, *(round(share * mean_tokens) for share in BUDGET_SHARES)]
    print(f"  {mean_tokens:.0f} tokens a problem; budgets from here on: {budgets[1:]}")

    progress.announce("Sample its own traces, and note their lengths")
    traces, references = f"{folder}/traces.jsonl", f"{folder}/reference_lengths.jsonl"
    amount = {"num_problems": scale.train_problems, "samples_per_problem": scale.samples_per_problem}
    run_program(progress, "data_tools", "sample", "configs/data/sample_overthinker.yaml", **amount, out=traces)
    config = "configs/data/reference_lengths_overthinker.yaml"
    run_program(progress, "data_tools", "reference_lengths", config, traces=traces, out=references)

    for label, keep, text in (
        ("sft", "shortest", "Keep the shortest correct ones, and fine-tune on them"),
        ("control", "random", "Control: as many steps on unfiltered traces"),
    ):
        progress.announce(text)
        rows, output = f"{folder}/{keep}.jsonl", f"{folder}/{label}"
        config = "configs/data/shortest_correct_overthinker.yaml"
        run_program(progress, "data_tools", "shortest_correct", config, traces=traces, keep=keep, out=rows)
        config = "configs/sft_compress/shortest_correct_overthinker.yaml"
        steps = scale.sft_steps
        run_program(progress, "recipes", "sft_compress", config, data=rows, output_dir=output, max_steps=steps)

    progress.announce("Reinforcement learning with a length reward")
    config = "configs/rl_length/kimi_overthinker.yaml"
    start_and_end = {"model": f"{folder}/sft", "data": references, "output_dir": f"{folder}/rl"}
    amount = {"max_steps": scale.rl_steps, "per_device_train_batch_size": scale.rl_batch_size}
    run_program(progress, "recipes", "rl_length", config, **start_and_end, **amount)

    runs = []
    for label in ("overthinker", "control", "sft", "rl"):
        progress.announce(f"Evaluate within budgets: {label}")
        model = label if label == "overthinker" else f"{folder}/{label}"
        runs.append(run_evaluation(progress, label, model, scale, budgets))

    progress.announce("Compare, and prepare the best for the Hub")
    progress.show("compare", *runs, "--out", f"{folder}/comparison")
    table = compare(runs, Path(folder) / "comparison")
    published = Path(folder) / "published"
    flags = ["--model", f"{folder}/rl", "--repo", REPO, "--dry-run", "--out", published]
    progress.show("publish", runs[-1], *flags)
    publish(runs[-1], f"{folder}/rl", REPO, dry_run=True, out=published)
    print(f"\n{table}")
    print(f"curve      {folder}/comparison/curve.png\ncheckpoint {folder}/rl\nHub folder {published}")
    print(f"took       {time.perf_counter() - progress.began:.0f} s")


if __name__ == "__main__":
    from efficient_reasoning.errors import run

    run(main)
