"""What does it save to hold keys and values between the calls of a search, and does it change anything?

Each strategy solves the same problems with the same seeds in runs that hold what they read, and in runs in which model
and verifier read everything from its beginning; responses have to be equal. Prints a table, and writes it as JSON.

    python -m scripts.bench.prefixes --verifier runs/quickstart/verifier [--model overthinker] [--small MODEL]
        [--task mixed] [--num-problems 50] [--width 4] [--only rebase deer] [--out runs/bench/prefixes.json]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

from efficient_reasoning import load_reasoner
from efficient_reasoning.answers import verify_many
from efficient_reasoning.files import write_json
from efficient_reasoning.inference import Ledger, Reasoner, solve_many
from efficient_reasoning.inference.engine import Rater
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.search.verifier import load_verifier
from efficient_reasoning.problems import load_problems

STRATEGIES = {
    "budget-forcing": "budget-forcing",
    "weighted-vote": "weighted-vote?samples={width}",
    "rebase": "rebase?width={width}",
    "beam-search": "beam-search?width={half}&expansions=2",
    "deer": "deer",
    "dynasor": "dynasor",
    "spec-reason": "spec-reason?small={small}",
}
VERIFIED = ("weighted-vote", "rebase", "beam-search")
REPEATS = 3


class Forgetting:
    """An engine whose runs hold nothing."""

    def __init__(self, engine: GraphEngine):
        self.engine, self.capabilities = engine, engine.capabilities
        self.generate, self.score, self.flops = engine.generate, engine.score, engine.flops

    @property
    def spent(self) -> Ledger:
        return self.engine.spent


class ForgettingRater:
    """A rater whose runs hold nothing."""

    def __init__(self, rater: Rater):
        self.rate = rater.rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="overthinker")
    parser.add_argument("--verifier", required=True)
    parser.add_argument("--small")
    parser.add_argument("--task", default="mixed")
    parser.add_argument("--num-problems", type=int, default=50)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/prefixes.json"))
    args = parser.parse_args()
    holding = load_reasoner(args.model, "graph")
    verifier = load_verifier(args.verifier)
    arms = {
        "read anew": (replace(holding, engine=Forgetting(holding.engine)), ForgettingRater(verifier)),
        "held": (holding, verifier),
    }
    problems = load_problems(args.task, "test", args.num_problems, seed=1)
    named = {"width": args.width, "half": max(1, args.width // 2), "small": args.small}
    chosen = args.only or [name for name in STRATEGIES if args.small or name != "spec-reason"]
    report = {}
    print(
        "| strategy | accuracy | equal | decoded | read | computed | held | GFLOP | held | others' | held | s | held |"
    )
    print("|---|" + 12 * "---:|")
    for name in chosen:
        strategy = STRATEGIES[name].format(**named)
        # By turns: other work on the machine must not favour one of them.
        runs = [
            {
                arm: measure(own, strategy, problems, rater if name in VERIFIED else None)
                for arm, (own, rater) in arms.items()
            }
            for _ in range(REPEATS)
        ]
        report[name] = {
            arm: last | {"seconds": median(run[arm]["seconds"] for run in runs)} for arm, last in runs[-1].items()
        }
        print(row(name, *report[name].values()), flush=True)
    write_json(args.out, report)


def measure(reasoner: Reasoner, strategy: str, problems: list[dict], verifier: Rater | None) -> dict:
    """At T 1 with nothing cut off; means a problem, and the seconds that all of them take together."""
    questions, seeds = [problem["question"] for problem in problems], range(len(problems))
    settings = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 256}
    settings |= {"verifier": verifier} if verifier else {}
    before, began = reasoner.engine.spent, time.perf_counter()
    solutions = solve_many(reasoner, questions, strategy, seeds=seeds, **settings)
    seconds, spends = time.perf_counter() - began, [solution.spend for solution in solutions]
    return {
        "accuracy": mean(verify_many(problems, [solution.answer for solution in solutions])),
        "ids": [solution.completion_ids for solution in solutions],
        "decoded_tokens": mean(spend.decoded_tokens for spend in spends),
        # Prompts, and what is read to be rated.
        "prompt_tokens": mean(spend.prompt_tokens for spend in spends),
        "computed_prompt_tokens": mean(spend.computed_prompt_tokens for spend in spends),
        "gigaflops": mean(spend.flops for spend in spends) / 1e9,
        "own_gigaflops": (reasoner.engine.spent.flops - before.flops) / len(problems) / 1e9,
        "seconds": seconds,
    }


def row(name: str, anew: dict, held: dict) -> str:
    """A line of the table."""
    equal = sum(one == other for one, other in zip(anew["ids"], held["ids"], strict=True))
    cells = [f"{100 * held['accuracy']:.1f} %", f"{equal} of {len(held['ids'])}"]
    cells += [f"{held[key]:.0f}" for key in ("decoded_tokens", "prompt_tokens")]
    cells += [f"{arm['computed_prompt_tokens']:.0f}" for arm in (anew, held)]
    cells += [f"{arm['own_gigaflops']:.2f}" for arm in (anew, held)]
    cells += [f"{arm['gigaflops'] - arm['own_gigaflops']:.2f}" for arm in (anew, held)]
    cells += [f"{arm['seconds']:.1f}" for arm in (anew, held)]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
