"""Does GRPO earn the same with the engine's rollouts as with TRL's own generation?

The embedded overthinker learns kimi's length reward: 60 steps of 128 completions of at most 256 tokens, three seeds an
arm, all runs side by side, a process each. A seed sets the order of the problems, alike in both arms, and all chance.

What counts is the mean over a run's last 20 steps. Of the arms' means over seeds it prints the difference and its
standard error, from the spread of the seeds within each arm. Kimi's reward compares a response with its group's, so it
hardly moves when all of them become shorter: tokens and accuracy are compared as well. Writes one JSON file, with all
curves.

    python scripts/bench/rollout_rewards.py --out runs/bench/rollout_rewards.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

ARMS = ("trl", "engine")
SEEDS = (0, 1, 2)
CURVES = ("reward", "completions/mean_length", "accuracy")


def train(arm: str, seed: int, steps: int, completions: int, new_tokens: int) -> dict:
    """One run: what it logged at every step."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.prompts import make_prompt
    from efficient_reasoning.rewards import get_length_reward
    from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer
    from efficient_reasoning.rl.rollouts import EngineRollouts
    from efficient_reasoning.training import load_base

    base = load_base("overthinker")
    on_gpu = torch.cuda.is_available()
    rows = Dataset.from_list(
        [
            {"prompt": make_prompt(base.tokenizer, one["question"]), "answer": one["answer"], "task": one["task"]}
            for one in load_problems("mixed", "train", completions // 8 * steps, 0)
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder,
            per_device_train_batch_size=completions,
            num_generations=8,
            max_completion_length=new_tokens,
            max_steps=steps,
            temperature=1.0,
            learning_rate=5e-5,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=2,
            beta=0.0,
            loss_type="dr_grpo",
            scale_rewards="none",
            bf16=on_gpu,
            use_cpu=not on_gpu,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=seed,
        )
        kind, rollouts = GRPOTrainer, None
        if arm == "engine":
            kind, rollouts = CorrectedGRPOTrainer, EngineRollouts(base.thinking, config)
        trainer = kind(
            base.path,
            get_length_reward("kimi", thinking=base.thinking),
            config,
            train_dataset=rows,
            processing_class=base.tokenizer,
            rollout_func=rollouts,
        )
        trainer.remove_callback(PrinterCallback)  # six runs would print over each other
        began = time.perf_counter()
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = [name for name in logged[0] if name in CURVES or name.startswith("sampling/")]
    return {
        "arm": arm,
        "seed": seed,
        "seconds": time.perf_counter() - began,
        "curves": {name: [entry[name] for entry in logged] for name in names},
    }


def compared(runs: list[dict], name: str, last: int) -> dict:
    """The engine's mean over seeds less TRL's, of what a run logs under this name in its last steps."""
    means = {arm: [statistics.mean(run["curves"][name][-last:]) for run in runs if run["arm"] == arm] for arm in ARMS}
    difference = statistics.mean(means["engine"]) - statistics.mean(means["trl"])
    error = math.sqrt(sum(statistics.variance(of_seeds) / len(of_seeds) for of_seeds in means.values()))
    return {
        "means_of_seeds": means,
        "difference": difference,
        "standard_error": error,
        "within_2_standard_errors": abs(difference) <= 2 * error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--last", type=int, default=20, help="steps at the end that count")
    parser.add_argument("--jobs", type=int, default=len(ARMS) * len(SEEDS), help="runs side by side")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU: four steps, the last two count")
    args = parser.parse_args()
    steps, last, completions, new_tokens = args.steps, args.last, 128, 256
    if args.tiny:
        steps, last, completions, new_tokens = 4, 2, 16, 160
    os.environ["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // args.jobs))  # read by the processes when they begin
    report = {"steps": steps, "last": last, "completions": completions, "new_tokens": new_tokens, "runs": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        # TRL's runs first: they take longest.
        pending = [pool.submit(train, arm, seed, steps, completions, new_tokens) for arm in ARMS for seed in SEEDS]
        for done in as_completed(pending):
            run = done.result()
            report["runs"].append(run)
            args.out.write_text(json.dumps(report, indent=1) + "\n")
            print(f"{run['arm']}, seed {run['seed']}: {run['seconds']:.0f} s", flush=True)
    report["runs"].sort(key=lambda run: (run["arm"], run["seed"]))
    for name in CURVES:
        result = report[name] = compared(report["runs"], name, last)
        verdict = "within" if result["within_2_standard_errors"] else "NOT within"
        print(
            f"{name}: engine - TRL = {result['difference']:+.4f}, standard error {result['standard_error']:.4f}: "
            f"{verdict} 2 standard errors"
        )
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
