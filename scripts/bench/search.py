"""What a vote that stops early, a switch between modes and a small model in front of a large one save, and lose.

    python -m scripts.bench.search overthinker --task mixed --out runs/search [--small FOLDER] [--only voting]
        [--temperature 1.9]

1. *Voting*: `adaptive-consistency` beside `self-consistency` of as many samples at most, which it draws in the same
   order with the same seeds. A simulation shuffles the answers of as many other samples of the same problems: what the
   rule would save if every answer came as often as it was measured to. (Drawn with replacement, answers that came once
   would come again and again.) With a temperature, nothing is cut off: of a model that is sure of its answers, a few
   samples say all.
2. *Switch*: a probe is fitted on problems of the training split, and solves those of the test split. An oracle takes
   the fast mode wherever that solves a problem as often as the slow one.
3. *Models*: cascade and SpecReason with a small model, their accuracy and operations beside the large one alone.
4. *Plan*: settings are chosen for budgets on problems of the validation split, and used on those of the test split,
   beside the best that hindsight finds there.
5. *Batches*: seconds for all problems together, through the scheduler, and one by one.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from efficient_reasoning import evaluate, load_reasoner
from efficient_reasoning.evaluation import plan
from efficient_reasoning.evaluation.metrics import auroc
from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap
from efficient_reasoning.files import read_jsonl, write_json
from efficient_reasoning.inference import Reasoner, solve_many
from efficient_reasoning.inference.search.voting import AdaptiveConsistency, leads
from efficient_reasoning.inference.switching.probe import Probe
from efficient_reasoning.problems import load_problems
from efficient_reasoning.traces import budget_label
from recipes import fit_probe

SLOW, FAST = "budget-forcing", "no-thinking"
VOTES = 40


class Run:
    """Samples of an evaluation run, by strategy and problem."""

    def __init__(self, folder: Path):
        self.samples: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
        for sample in read_jsonl(folder / "samples.jsonl"):
            self.samples[sample["strategy"]][sample["id"]].append(sample)

    def correct(self, strategy: str) -> np.ndarray:
        """Pass rate of each problem, in the order of their ids."""
        own = self.samples[strategy]
        return np.array([np.mean([one["correct"] for one in own[name]]) for name in sorted(own)])

    def spent(self, strategy: str, name: str = "tokens") -> np.ndarray:
        """Mean spend on each problem."""
        own = self.samples[strategy]
        return np.array([np.mean([_spent(one["spend"], name) for one in own[key]]) for key in sorted(own)])

    def change(self, before: str, after: str) -> dict[str, float | str]:
        """Of the accuracy, in points, paired by problem."""
        arms = self.correct(before), self.correct(after)
        change = paired_bootstrap(*arms, range(len(arms[0])), share=True)
        return {
            "points": 100 * change.mean,
            "low": 100 * change.low,
            "high": 100 * change.high,
            "mark": mark_of(change),
        }


def _spent(spend: Mapping, name: str) -> float:
    return spend["decoded_tokens"] + spend["forced_tokens"] if name == "tokens" else spend[name]


def run(
    reasoner: Reasoner, problems: Sequence[dict], strategies: Sequence[str], out: Path, samples: int = 1, **sampling
) -> Run:
    settings = {"samples_per_problem": samples, "max_new_tokens": 320, "seed": 1} | sampling
    evaluate(reasoner, problems, strategies=strategies, out=out, **settings)
    return Run(out)


def voting(reasoner: Reasoner, problems: Sequence[dict], out: Path, temperature: float | None) -> dict:
    fixed, adaptive = f"self-consistency?samples={VOTES}", f"adaptive-consistency?samples={VOTES}"
    sampling = {} if temperature is None else {"temperature": temperature, "top_p": 1.0, "top_k": 0}
    found = run(reasoner, problems, [fixed, adaptive], out / "voting", **sampling)
    drawn = found.spent(adaptive, "requests")
    # Others' luck: what each problem's answers were in samples of their own.
    answers = run(reasoner, problems, [SLOW], out / "answers", samples=VOTES, **sampling)
    single = answers.samples[SLOW]
    rng, rule = random.Random(0), AdaptiveConsistency(samples=VOTES)
    simulated = [
        np.mean([_simulate([one["final_answer"] for one in own], rule, rng) for _ in range(20)])
        for own in single.values()
    ]
    saved, possible = VOTES - drawn.mean(), VOTES - float(np.mean(simulated))
    return {
        "accuracy": {name: float(found.correct(name).mean()) for name in (fixed, adaptive)}
        | {"one sample": float(answers.correct(SLOW).mean())},
        "change": found.change(fixed, adaptive),
        "samples": float(drawn.mean()),
        "times fewer": VOTES / float(drawn.mean()),
        "simulated samples": float(np.mean(simulated)),
        "share of the possible saving": float(saved / possible),
        "tokens": {name: float(found.spent(name).mean()) for name in (fixed, adaptive)},
    }


def _simulate(answers: Sequence[str], rule: AdaptiveConsistency, rng: random.Random) -> int:
    """How many samples the rule draws when they give these answers, as many as it draws at most, in any order."""
    votes: Counter[str] = Counter()
    shuffled = rng.sample(answers, len(answers))
    for drawn in range(rule.round_samples, rule.samples + 1, rule.round_samples):
        votes.update(answer for answer in shuffled[drawn - rule.round_samples : drawn] if answer)
        first, second, *_ = [*sorted(votes.values(), reverse=True), 0, 0]
        if leads(first, second) > rule.confidence:
            return drawn
    return rule.samples


def switch(reasoner: Reasoner, problems: Sequence[dict], out: Path, model: str, training: Sequence[dict]) -> dict:
    run(reasoner, training, [FAST], out / "fast", samples=4)
    run(reasoner, training, [SLOW], out / "slow", samples=4)
    probe = out / "probe.safetensors"
    traces = [str(out / mode / "samples.jsonl") for mode in ("fast", "slow")]
    fit_probe.main(["--model", model, "--fast", traces[0], "--slow", traces[1], "--out", str(probe)])
    chosen = f"probe-switch?probe={probe}"
    found = run(reasoner, problems, [SLOW, FAST, chosen], out / "switch", samples=4)
    cost, fast, slow = found.spent(chosen), found.spent(FAST), found.spent(SLOW)
    oracle = np.where(found.correct(FAST) >= found.correct(SLOW), fast, slow)
    own = found.samples[FAST]
    read = reasoner.engine.read([own[name][0]["prompt_ids"] for name in sorted(own)])
    predicted = Probe.load(probe).predict(torch.stack([one.state for one in read])).numpy()  # (N, 2)
    return {
        "accuracy": {name: float(found.correct(name).mean()) for name in (SLOW, FAST, chosen)},
        "change": found.change(SLOW, chosen),
        "tokens": {
            name: float(each.mean())
            for name, each in {"slow": slow, "fast": fast, "switch": cost, "oracle": oracle}.items()
        },
        "share of the oracle's saving": float((slow - cost).sum() / (slow - oracle).sum()),
        "AUROC of fast is wrong": auroc(1 - predicted[:, 0], 1 - found.correct(FAST)),
    }


def models(reasoner: Reasoner, problems: Sequence[dict], out: Path, small: str) -> dict:
    chosen = [f"cascade?small={small}&threshold={each}" for each in (0.8, 0.9, 0.95)]
    chosen += [f"spec-reason?small={small}&threshold={each}" for each in (0.5, 0.7, 0.9)]
    found = run(reasoner, problems, [SLOW, *chosen], out / "models")
    alone = found.spent(SLOW, "flops").mean()
    return {
        name: {
            "accuracy": float(found.correct(name).mean()),
            "change": found.change(SLOW, name),
            "share of operations": float(found.spent(name, "flops").mean() / alone),
            "seconds": float(found.spent(name, "seconds").mean()),
        }
        for name in (SLOW, *chosen)
    }


def planning(reasoner: Reasoner, problems: Sequence[dict], out: Path, known: Sequence[dict]) -> dict:
    """By budget: what was chosen, what it came to, and what the best in hindsight would have."""
    strategies = [SLOW, FAST, "deer", "adaptive-consistency?samples=8"]
    probe = out / "probe.safetensors"  # of `switch`
    if probe.is_file():
        strategies += [f"probe-switch?probe={probe}&threshold={each}" for each in (0.02, 0.1, 0.3, 0.6)]
    runs = [out / "plan" / split for split in ("validation", "test")]
    for split, own in zip(runs, (known, problems), strict=True):
        settings = {"budgets": [48, 64, 96, 128, 192, None], "max_new_tokens": 320, "seed": 1}
        evaluate(reasoner, own, strategies=strategies, out=split, **settings)
    unseen = {(one.strategy, one.budget_tokens): one for one in plan([runs[1]], float("inf")).points}
    results = {}
    for budget in (20, 50, 80, 110, 140, 200, 400):
        chosen = plan([runs[0]], budget).chosen
        used = unseen[chosen.strategy, chosen.budget_tokens]
        best = max(one.accuracy for one in unseen.values() if one.cost <= budget)
        results[budget] = {
            "chosen": f"{chosen.strategy}, {budget_label(chosen.budget_tokens)}",
            "tokens": used.cost,
            "within": used.cost <= budget,
            "accuracy": used.accuracy,
            "best in hindsight": best,
        }
    return results


def batches(reasoner: Reasoner, problems: Sequence[dict]) -> dict:
    questions = [problem["question"] for problem in problems[:256]]
    seconds = {}
    for strategy in (f"adaptive-consistency?samples={VOTES}", SLOW):
        solve_many(reasoner, questions[:8], strategy, seeds=range(8), max_new_tokens=320)
        began = time.perf_counter()
        solve_many(reasoner, questions, strategy, seeds=range(len(questions)), max_new_tokens=320)
        together = time.perf_counter() - began
        began = time.perf_counter()
        for seed, question in enumerate(questions):
            solve_many(reasoner, [question], strategy, seeds=[seed], max_new_tokens=320)
        alone = time.perf_counter() - began
        seconds[strategy] = {"together": together, "one by one": alone, "times faster": alone / together}
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", default="mixed")
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--training-problems", type=int, default=2000)
    parser.add_argument("--temperature", type=float, help="of voting, with nothing cut off")
    parser.add_argument("--small")
    parser.add_argument("--only", nargs="+", choices=["voting", "switch", "models", "plan", "batches"])
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    arguments = parser.parse_args()
    reasoner, out = load_reasoner(arguments.model), arguments.out / arguments.task
    problems = load_problems(arguments.task, "test", arguments.problems, seed=1)
    parts = {
        "voting": lambda: voting(reasoner, problems, out, arguments.temperature),
        "switch": lambda: switch(
            reasoner,
            problems,
            out,
            arguments.model,
            load_problems(arguments.task, "train", arguments.training_problems, seed=1),
        ),
        "models": lambda: models(reasoner, problems, out, arguments.small),
        "plan": lambda: planning(
            reasoner, problems, out, load_problems(arguments.task, "validation", arguments.problems, seed=1)
        ),
        "batches": lambda: batches(reasoner, problems),
    }
    for part in arguments.only or [part for part in parts if part != "models" or arguments.small]:
        results = parts[part]()
        write_json(out / f"{part}.json", results)
        print(f"{part}: {json.dumps(results, indent=1)}", flush=True)


if __name__ == "__main__":
    main()
