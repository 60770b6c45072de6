"""What do the length budgets of inference save, and what do they cost? Every strategy on the embedded overthinker.

Writes evaluation runs, and prints their tables. Spent tokens are all that was decoded or forced, thrown-away probes
included; total tokens are those of the response. Of the shares, "closed" is by force, and "went on" the part of all
responses that were closed by force and still did not come to an end.

    python scripts/bench/length_budgets.py [--model overthinker] [--num-problems 400] [--out runs/length_budgets]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

FAMILIES = ("sums", "heads_and_legs")
BUDGETS = (140, 105, 70)
STRATEGIES = (
    "budget-forcing",
    "dynasor",
    "deer",
    "close-scaling",
    "no-thinking",
    "chain-of-draft",
    "tale-estimate",
    "tale-search",
)
# The last ones write the budget into the prompt, so they cannot do without one.
RUNS = {"any": (STRATEGIES, (None, *BUDGETS)), "budgets": (("l1-exact", "l1-max"), BUDGETS)}
MIN_THINKING_TOKENS = (0, 150, 200, 250)
COLUMNS = "strategy | budget | accuracy [95 %] | total tokens | spent tokens | closed | went on | empty | within"


def main() -> None:
    from efficient_reasoning import evaluate, load_reasoner
    from efficient_reasoning.evaluation.summary import read_summary
    from efficient_reasoning.problems import load_problems

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="overthinker")
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/length_budgets"))
    args = parser.parse_args()
    reasoner = load_reasoner(args.model)
    for family in FAMILIES:
        problems = load_problems(family, "test", args.num_problems, seed=1)
        print(f"\n| {family}: {COLUMNS} |\n|---|" + 8 * "---:|")
        for name, (strategies, budgets) in RUNS.items():
            settings = {"strategies": strategies, "budgets": budgets, "seed": 1}
            for point in read_summary(evaluate(reasoner, problems, **settings, out=args.out / family / name))[
                "points"
            ]:
                print(row(point))
        lengthen(reasoner, problems)


def lengthen(reasoner, problems: list[dict]) -> None:
    """Budget forcing the other way round: a table of thinking that may not end early, without a budget."""
    from efficient_reasoning.answers import verify_many
    from efficient_reasoning.inference import solve_many

    print("\n| min_thinking_tokens | accuracy | thinking tokens | spent tokens |\n|---:|---:|---:|---:|")
    for least in MIN_THINKING_TOKENS:
        solutions = solve_many(
            reasoner,
            [problem["question"] for problem in problems],
            strategy="budget-forcing",
            seeds=range(len(problems)),
            min_thinking_tokens=least,
        )
        accuracy = mean(verify_many(problems, [solution.answer for solution in solutions]))
        thinking = mean(solution.thinking_tokens for solution in solutions)
        spent = mean(solution.spend.tokens for solution in solutions)
        print(f"| {least} | {100 * accuracy:.1f} % | {thinking:.1f} | {spent:.1f} |")


def row(point: dict) -> str:
    """A line of the table."""
    accuracy, low, high = (f"{100 * point['accuracy'][key]:.1f}" for key in ("mean", "low", "high"))
    shares = [point[f"{name}_share"] for name in ("forced_close", "kept_reasoning", "empty_answer", "within_budget")]
    cells = [
        f"`{point['strategy']}`",
        str(point["budget_tokens"] or "none"),
        f"{accuracy} % [{low}, {high}]",
        f"{point['total_tokens']['mean']:.1f}",
        f"{point['spent_tokens']['mean']:.1f}",
        *(f"{100 * share:.1f} %" for share in shares),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
