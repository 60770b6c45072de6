"""RL with length rewards on one overthinking model: every algorithm and formula, with its controls, and one table.

    python -m scripts.bench.rl BASE --out runs/rl [--only hull kimi#0] [--scale toy]

1. The base's traces are sampled once: they give the reference lengths of the rewards, the paid traces of O1-Pruner and
   the pairs of DAST. Everything trains from the base, with as many steps and responses.
2. Controls: `accuracy` is RL without a length term; shortest-correct SFT and DPO on length pairs are what offline RL
   has to beat; the base's strategies without training give the hull.
3. LCPO begins from the base after SFT on its own traces, at T 1, behind a budget drawn by lot, which they count down
   (`data budget_meter`): the sentence is known then, and so is what is left, and no row pairs a budget with a length.
   RL has to. It is tested in the range of the training and 25 % outside.

How arms run, and what the table says: `scripts/bench/arms.py`. OUT/budgets.md tells how budgets are kept.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.bench.arms import Arm, Arms, Bench, Scale, flags, hull, run_bench


@dataclass(frozen=True)
class RLScale(Scale):
    """Also how much RL.

    Attributes:
        rl_steps: of an online training.
        rl_batch_size: responses a step.
        steps_per_generation: with responses that were generated together.
        lcpo_steps: of LCPO, each of half of the responses that are generated together.
        num_generations: responses to a prompt.
        exact_budgets, max_budgets: in tokens; LCPO draws between the second and the last but one, the others are out
            of its range. What is to be kept exactly has to have room for a worked chain.
        limit_tokens: of DLER and ThinkPrune.
        easy: greatest difficulty at which the base overthinks.
    """

    rl_steps: int = 240
    rl_batch_size: int = 128
    steps_per_generation: int = 4
    lcpo_steps: int = 600
    num_generations: int = 8
    exact_budgets: tuple[int, ...] = (96, 128, 160, 192, 224, 256, 320)
    max_budgets: tuple[int, ...] = (60, 80, 96, 128, 160, 192, 240)
    limit_tokens: int = 112
    easy: int = 5


# Settings of `train_rl` that a training without generation does not know.
_ONLINE = (
    "num_generations", "steps_per_generation", "max_completion_length", "beta", "loss_type", "scale_rewards",
    "vllm_importance_sampling_correction", "guard_steps",
)  # fmt: skip
SCALES = {
    "full": RLScale(),
    "toy": RLScale("mixed", 24, 12, 4, 3, 8, 8, 1, 160, 4, 4, 8, 2, 4, 4, (12, 16, 32, 40), (12, 16, 32, 40), 48),
}


@dataclass
class RLBench(Bench):
    scale: RLScale

    def __post_init__(self) -> None:
        import torch

        if torch.cuda.is_available():
            self.backend = "graph?dtype=bfloat16"

    def train_rl(self, name: str, rows: Path, seed: int = 0, **settings: object) -> Path:
        """The folder of a model that `rl_length` has trained from the base."""
        folder = self.out / "models" / f"{name}-{seed}"
        quiet = self.quiet_options()
        options = quiet | {
            "model": self.base,
            "data": rows,
            "output_dir": folder,
            "max_steps": self.scale.rl_steps,
            "per_device_train_batch_size": self.scale.rl_batch_size,
            "steps_per_generation": self.scale.steps_per_generation,
            "num_generations": self.scale.num_generations,
            "max_completion_length": self.scale.max_new_tokens,
            "learning_rate": 3e-5,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 5,
            "beta": 0.0,
            "loss_type": "dr_grpo",
            "scale_rewards": "none",
            "vllm_importance_sampling_correction": quiet["bf16"],
            "guard_steps": 0,
            "logging_steps": 10,
            "seed": seed,
        }
        given = {key: value for key, value in (options | settings).items() if value is not None}
        with clock(self.out / "costs.jsonl", name, seed):
            self.command("train", "rl_length", *flags(given))
        return folder


@contextlib.contextmanager
def clock(path: Path, name: str, seed: int) -> Iterator[None]:
    """Log how many seconds a step takes, and how many of them generation."""
    from transformers import Trainer

    from efficient_reasoning.rl.rollouts import EngineRollouts

    steps: list[float] = []  # when each began
    rollouts: list[float] = []  # seconds of generation in each
    step, generate = Trainer.training_step, EngineRollouts.generate

    def timed_step(trainer, *arguments, **named):
        steps.append(time.perf_counter())
        rollouts.append(0.0)
        return step(trainer, *arguments, **named)

    def timed_generate(*arguments, **named):
        began = time.perf_counter()
        done = generate(*arguments, **named)
        rollouts[-1] += time.perf_counter() - began
        return done

    Trainer.training_step, EngineRollouts.generate = timed_step, timed_generate
    try:
        yield
    finally:
        Trainer.training_step, EngineRollouts.generate = step, generate
    cost = {"name": name, "seed": seed, "steps": len(steps)}
    if len(steps) > 2:  # the first one captures
        seconds = (steps[-1] - steps[1]) / (len(steps) - 2)
        cost |= {"seconds": seconds, "rollout_share": sum(rollouts[1:-1]) / (steps[-1] - steps[1])}
    with open(path, "a", encoding="utf-8") as log:
        log.write(json.dumps(cost) + "\n")


def online(name: str, reward: str, seed: int = 0, parameters: dict | None = None, **settings: object) -> Arm:
    """One reward and one algorithm, on the problems of the base's traces."""

    def arm(bench: RLBench) -> None:
        rows = bench.rows(f"{name}-{seed}", "reference_lengths", bench.traces)
        paid = {"reward": reward, "reward_parameters": json.dumps(parameters or {})}
        own = {key: bench.scale.limit_tokens if value == "limit" else value for key, value in settings.items()}
        bench.test(f"{name}#{seed}", bench.train_rl(name, rows, seed, **paid | own))

    return arm


def offline(seed: int, name: str = "o1_pruner", **own: object) -> Arm:
    """O1-Pruner on paid traces: three eighths of the responses that an online run sees, and none is generated."""

    def arm(bench: RLBench) -> None:
        rows = bench.rows(f"{name}-{seed}", "offline_rewards", bench.traces, seed=seed)
        settings = {"algorithm": "offline", "reward": "o1_pruner", "learning_rate": 1e-5, "max_length": 512}
        settings |= {
            "center_rewards": False,
            "max_steps": bench.scale.steps,
            "per_device_train_batch_size": bench.scale.batch_size,
        }
        settings |= dict.fromkeys(_ONLINE)
        bench.test(f"{name} offline#{seed}", bench.train_rl(name, rows, seed, **settings | own))

    return arm


def dler(seed: int) -> Arm:
    return online("dler", "accuracy", seed, algorithm="dler", max_completion_length="limit", scale_rewards="batch")


def pairs(name: str, method: str, objective: str, seed: int = 0, times: float = 0.5, **settings: object) -> Arm:
    """Preference pairs of the base's traces."""

    def arm(bench: RLBench) -> None:
        rows = bench.rows(f"{name}-{seed}", method, bench.traces, **settings)
        training = {"objective": objective, "times": times, "learning_rate": 5e-5, "per_device_train_batch_size": 32}
        bench.test(f"{name}#{seed}", bench.train(name, rows, seed, **training))

    return arm


def shortest(bench: RLBench) -> None:
    rows = bench.rows("shortest_correct", "shortest_correct", bench.traces)
    bench.test("shortest_correct", bench.train("shortest_correct", rows))


def lcpo(form: str, alpha: float, every_tokens: int) -> Arm:
    """Alpha is a token's weight against a correct answer; the paper's 0.0003 is for budgets of up to 4,000 tokens."""

    def arm(bench: RLBench) -> None:
        scale, label = bench.scale, f"lcpo_{form} {alpha} every {every_tokens}"
        budgets = scale.exact_budgets if form == "exact" else scale.max_budgets
        problems, low, high = 4 * scale.problems, budgets[1], budgets[-2]
        told = {"form": form, "min_budget_tokens": low, "max_budget_tokens": high}
        # Beyond the range of RL as well: no number that is asked for, or counted down to, is a new one.
        met = {"min_budget_tokens": budgets[0] // 2, "max_budget_tokens": budgets[-1] * 5 // 4}
        room = {"max_new_tokens": max(scale.max_new_tokens, budgets[-1] * 5 // 4)}
        name = f"lcpo_{form}-sft every {every_tokens}"

        def self_control(name: str, model: Path) -> None:
            """Ask for every budget, and enforce none."""
            from efficient_reasoning.compression.budgets import sentence_of

            for budget in budgets:
                asked = f" {sentence_of(form, budget)}"
                bench.test(f"{name} asked {budget}", model, samples=1, behind=asked, **room)

        def count_down() -> None:
            spread = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
            traces = bench.sample(f"{name}-traces", bench.base, problems, samples_per_problem=1, **spread)
            meter = told | met | {"model": bench.base, "every_tokens": every_tokens}
            self_control(name, bench.train(name, bench.rows(name, "budget_meter", traces, **meter), times=4))

        model = bench.once(bench.out / "models" / f"{name}-0" / "reasoning.json", count_down).parent
        rows = bench.out / "rows" / f"{label}.jsonl"
        drawn = told | {"model": bench.base, "task": scale.task, "num_problems": problems, "out": rows}
        bench.command("data", "length_budgets", *flags(drawn))
        paid = {"reward": f"lcpo_{form}", "learning_rate": 1.5e-4, "max_steps": scale.lcpo_steps}
        paid |= {"reward_parameters": json.dumps({"alpha": alpha}), "lr_scheduler_type": "cosine"}
        paid |= {"steps_per_generation": 2, "max_completion_length": room["max_new_tokens"]}
        paid |= {"per_device_train_batch_size": scale.rl_batch_size * scale.steps_per_generation // 2}
        model = bench.train_rl(label, rows, **paid | {"model": model})
        self_control(label, model)
        if form == "max":
            bench.test(f"{label} enforced", model, [f"l1-{form}"], budgets, samples=1)

    return arm


SEEDS = range(3)
ALPHAS = (0.05, 0.1, 0.2, 0.4)
ARMS: Arms = {
    "hull": hull,
    "base forced": lambda bench: bench.test("base forced", bench.base, budgets=bench.scale.max_budgets, samples=1),
    **{
        f"lcpo_{form} {alpha} every {every}": lcpo(form, alpha, every)
        for form in ("exact", "max")
        for alpha in (0.01, 0.03)
        for every in (0, 24)
    },
    "accuracy": online("accuracy", "accuracy"),
    **{
        f"kimi {weight}#{seed}": online(f"kimi {weight}", "kimi", seed, {"weight": weight})
        for weight in (0.05, 0.1)
        for seed in SEEDS
    },
    **{f"ppo#{seed}": online("ppo", "kimi", seed, {"weight": 0.1}, algorithm="ppo") for seed in SEEDS},
    **{
        f"arora_zanette {alpha}#{seed}": online(f"arora_zanette {alpha}", "arora_zanette", seed, {"alpha": alpha})
        for alpha in ALPHAS
        for seed in SEEDS
    },
    **{f"dler#{seed}": dler(seed) for seed in SEEDS},
    "thinkprune": online("thinkprune", "accuracy", max_completion_length="limit"),
    **{f"dast#{seed}": pairs("dast", "dast_pairs", "simpo", seed, 0.7, max_tokens=320) for seed in SEEDS},
    **{f"o1_pruner offline#{seed}": offline(seed) for seed in SEEDS},
    "o1_pruner centered": offline(0, "o1_pruner centered", center_rewards=True),
    "shortest_correct": shortest,
    "dpo": pairs("dpo", "long2short_pairs", "dpo"),
    "o1_pruner online": online("o1_pruner online", "o1_pruner", scale_rewards="batch"),
    "dast online": online("dast online", "dast", scale_rewards="batch"),
    "cosine": online("cosine", "cosine", scale_rewards="batch"),
    "shorter_better": online("shorter_better", "shorter_better", scale_rewards="batch"),
    "hapo": online("hapo", "hapo", scale_rewards="batch"),
    "laser_d": online("laser_d", "laser_d", scale_rewards="batch"),
}


def kept(out: Path) -> str:
    """How responses lie to the budget that was asked for, and is not enforced."""
    lines = [
        "| arm | budget | accuracy | tokens | mean error | longer | Spearman |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for path in (out / "points").glob("lcpo* asked *.npz"):
        arm, _, budget = path.stem.partition(" asked ")
        with np.load(path) as arrays:
            found.setdefault(arm, []).append((int(budget), arrays["budget-forcing@None"]))
    for arm, points in sorted(found.items()):
        points.sort(key=lambda point: point[0])
        asked = np.concatenate([np.full(values[..., 1].size, budget) for budget, values in points])
        got = np.concatenate([values[..., 1].ravel() for _, values in points])
        rank = np.corrcoef(ranks(asked), ranks(got))[0, 1]
        for budget, values in points:
            tokens = values[..., 1].astype(float)
            lines.append(
                f"| {arm} | {budget} | {values[..., 0].mean():.1%} | {tokens.mean():.1f} "
                f"| {np.abs(tokens - budget).mean():.1f} | {(tokens > budget).mean():.1%} | {rank:.3f} |"
            )
    return "\n".join(lines)


def ranks(values: np.ndarray) -> np.ndarray:
    """Of equal values the mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


if __name__ == "__main__":
    run_bench(RLBench, ARMS, SCALES, "runs/rl", __doc__, {"budgets.md": kept})
