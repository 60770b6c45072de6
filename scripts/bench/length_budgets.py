"""What do the length budgets of inference save, and what do they cost? Every strategy on the embedded overthinker.

Writes one evaluation run, and prints its table. Spent tokens are all that was decoded or forced, thrown-away probes
included; total tokens are those of the response.

    python scripts/bench/length_budgets.py [--model overthinker] [--num-problems 400] [--out runs/length_budgets]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

STRATEGIES = ("budget-forcing", "dynasor", "no-thinking")
BUDGETS = (None, 140, 105, 70)


def main() -> None:
    from efficient_reasoning import evaluate, load_reasoner
    from efficient_reasoning.evaluation.summary import read_summary
    from efficient_reasoning.problems import load_problems

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="overthinker")
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/length_budgets"))
    args = parser.parse_args()
    for family in ("sums", "heads_and_legs"):
        problems = load_problems(family, "test", args.num_problems, seed=1)
        settings = {"strategies": STRATEGIES, "budgets": BUDGETS, "seed": 1}
        run = evaluate(load_reasoner(args.model), problems, **settings, out=args.out / family)
        print(f"\n| {family}: strategy | budget | accuracy [95 %] | total tokens | spent tokens |")
        print("|---|---:|---:|---:|---:|")
        for point in read_summary(run)["points"]:
            accuracy = [100 * point["accuracy"][key] for key in ("mean", "low", "high")]
            print(
                f"| `{point['strategy']}` | {point['budget_tokens'] or 'none'} | "
                f"{accuracy[0]:.1f} % [{accuracy[1]:.1f}, {accuracy[2]:.1f}] | {point['total_tokens']['mean']:.1f} | "
                f"{point['spent_tokens']['mean']:.1f} |"
            )


if __name__ == "__main__":
    main()
