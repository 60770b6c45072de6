"""Runs that are killed at any moment, and go on: is what they leave what an uninterrupted run leaves?

    python scripts/reliability/kill.py --out runs/kill [--trials 5] [--seed 0] [--recipe sft_compress ...]

1. Each recipe trains the embedded overthinker once without interruption: LoRA with dropout, CODI with rows of random
   stages, GRPO whose responses are drawn for four steps and whose reward remembers, and attention transfer.
2. Each trial draws a step and a share of a step's seconds, waits for them, kills the process with SIGKILL, looks
   whether it left processes behind, and starts the same command again.
3. Equal means: the weights bit by bit, and of the last checkpoint the optimizer's moments, the schedule, the state of
   every random generator, all that rewards and guards remember, and every number that was logged. Only times and TRL's
   count of tokens, which begins anew, are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
import torch

from efficient_reasoning.files import write_json, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
COMMON = {
    "model": "overthinker",
    "max_steps": 12,
    "save_steps": 3,
    "logging_steps": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "max_length": 256,
    "bf16": "false",
    "use_cpu": "true",
    "gradient_checkpointing": "false",
    "dataloader_pin_memory": "false",
    "disable_tqdm": "true",
    "report_to": "none",
    "seed": 7,
}
RECIPES = {
    "sft_compress": {"data": "sft.jsonl", "lora_rank": 4, "lora_dropout": 0.3},
    "sft_latent": {
        "data": "chains.jsonl",
        "method": "codi",
        "uniform_prob": 0.3,
        "step_coef": 1.0,
        "max_length": None,
    },
    "rl_length": {
        "data": "rl.jsonl",
        "reward": "hapo",
        "num_generations": 4,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "save_steps": 4,
        "max_completion_length": 160,
        "max_length": None,
        "guard_steps": 0,
    },
    "linearize": {"data": "sft.jsonl", "stage": "transfer", "window_tokens": 8},
}
_NOT_COMPARED = re.compile(r"time|per_second|num_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=5, help="of each recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    write_rows(arguments.out)
    rows = []
    print("| recipe | killed at step | continued from | left behind | equal |\n| --- | ---: | ---: | ---: | --- |")
    for recipe in arguments.recipe:
        rng = random.Random(f"{arguments.seed}/{recipe}")
        whole = arguments.out / recipe / "whole"
        seconds = uninterrupted(recipe, arguments.out, whole)
        for trial in range(arguments.trials):
            output = arguments.out / recipe / str(trial)
            killed = None
            while killed is None:  # it may come to its end first
                killed = kill(recipe, arguments.out, output, rng, seconds)
            step, orphans = killed
            said = train(recipe, arguments.out, output)
            found = re.search(r"going on from checkpoint-(\d+)", said)
            start = int(found[1]) if found else 0
            differing = compare(whole, output)
            rows.append([recipe, step, start, orphans, ", ".join(differing)])
            print(f"| {recipe} | {step} | {start} | {orphans} | {rows[-1][-1] or 'yes'} |", flush=True)
    write_json(arguments.out / "kill.json", rows)
    lost = sum(bool(row[-1]) for row in rows)
    print(f"\n{len(rows)} killed, {len(rows) - lost} survived, {lost} lost")
    sys.exit(bool(lost))


def write_rows(folder: Path) -> None:
    from data_tools import chain_steps

    sums = [(a, a + 20) for a in range(3, 51)]
    write_jsonl(
        folder / "sft.jsonl",
        (
            {"prompt": f"Compute {a} + {b}.\n", "completion": f"<think>{a} + {b} = {a + b}</think>{a + b}<|end|>"}
            for a, b in sums
        ),
    )
    write_jsonl(
        folder / "rl.jsonl",
        ({"prompt": f"Compute {a} + {b}.\n", "answer": str(a + b), "task": "numeric"} for a, b in sums),
    )
    chains = folder / "chains.jsonl"
    if not chains.exists():
        chain_steps.main(["--task", "sums", "--model", "overthinker", "--num_problems", "48", "--out", str(chains)])


def command(recipe: str, folder: Path, output: Path) -> list[str]:
    settings = COMMON | RECIPES[recipe] | {"output_dir": output}
    settings["data"] = folder / settings["data"]
    words = [word for key, value in settings.items() if value is not None for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "efficient_reasoning.cli", "train", recipe, *words]


def start(recipe: str, folder: Path, output: Path, stdout: int = subprocess.PIPE) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output.with_suffix(".log"), "a") as log:
        words = command(recipe, folder, output)
        return subprocess.Popen(words, env=environment, stdout=stdout, stderr=log, text=True)


def steps(process: subprocess.Popen) -> Iterator[float]:
    """The moment of every step that is logged."""
    return (time.perf_counter() for line in process.stdout if line.startswith("{'loss'"))


def uninterrupted(recipe: str, folder: Path, output: Path) -> float:
    """Train; the median seconds of a step."""
    process = start(recipe, folder, output)
    moments = list(steps(process))
    if process.wait():
        sys.exit(f"{recipe}: failed without being killed, see {output.with_suffix('.log')}")
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(moments))


def kill(recipe: str, folder: Path, output: Path, rng: random.Random, seconds: float) -> tuple[int, int] | None:
    """Start, and kill between first and last step.

    Returns:
        The last step that was logged, and how many processes were left behind; None where the run ended by itself.
    """
    process = start(recipe, folder, output)
    moments = steps(process)
    for _ in range(wanted := rng.randrange(1, COMMON["max_steps"])):
        next(moments)
    time.sleep(rng.uniform(0, seconds))
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    step = wanted + sum(1 for _ in moments)
    if process.wait() == 0:
        return None
    _, alive = psutil.wait_procs(children, timeout=15)
    return step, len(alive)


def train(recipe: str, folder: Path, output: Path) -> str:
    process = start(recipe, folder, output)
    return process.communicate()[0]


def compare(whole: Path, output: Path) -> list[str]:
    """What two runs left otherwise: names of files, and of parts of the trainer's state."""
    differing = [
        path.name
        for path in sorted(whole.glob("*.safetensors"))
        if not (output / path.name).is_file() or path.read_bytes() != (output / path.name).read_bytes()
    ]
    last = f"checkpoint-{COMMON['max_steps']}"
    if not (output / last).is_dir():
        return [*differing, last]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        one, other = (torch.load(folder / last / name, weights_only=False) for folder in (whole, output))
        if not equal(one, other):
            differing.append(name)
    one, other = (json.loads((folder / last / "trainer_state.json").read_text()) for folder in (whole, output))
    for state in (one, other):
        for entry in state["log_history"]:
            for key in [key for key in entry if _NOT_COMPARED.search(key)]:
                del entry[key]
    return differing + [key for key in ("log_history", "stateful_callbacks") if one[key] != other[key]]


def equal(one: object, other: object) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else one == other


if __name__ == "__main__":
    main()
