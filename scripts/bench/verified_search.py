"""What does search with a verifier buy, and what does it cost? Accuracy against operations, all counted.

All strategies solve the same problems with the same seeds, at each width; samples are shared between them, and charged
to each. Where a larger model is named, its greedy decoding stands beside them. Writes evaluation runs, prints a table.

    python scripts/bench/verified_search.py --verifier runs/quickstart/verifier [--model overthinker] [--large MODEL]
        [--task sums] [--temperature 1.0] [--num-problems 400] [--widths 2 4 8] [--out runs/verified_search]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

STRATEGIES = {
    "self-consistency": "self-consistency?samples={width}",
    "best-of-n, own likelihood": "best-of-n?samples={width}",
    "best-of-n": "best-of-n?samples={width}&verifier={verifier}",
    "best-of-n, min": "best-of-n?samples={width}&aggregate=min&verifier={verifier}",
    "weighted-vote, own likelihood": "weighted-vote?samples={width}",
    "weighted-vote": "weighted-vote?samples={width}&verifier={verifier}",
    "rebase": "rebase?width={width}&verifier={verifier}",
    "beam-search": "beam-search?width={half}&expansions=2&verifier={verifier}",
}


def main() -> None:
    from efficient_reasoning import evaluate, load_reasoner
    from efficient_reasoning.evaluation.summary import read_summary
    from efficient_reasoning.problems import load_problems

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="overthinker")
    parser.add_argument("--verifier", required=True)
    parser.add_argument("--large")
    parser.add_argument("--task", default="sums")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("runs/verified_search"))
    args = parser.parse_args()
    problems = load_problems(args.task, "test", args.num_problems, seed=1)
    drawn = {"temperature": args.temperature, "top_p": 1.0, "top_k": 0}
    named = {
        form.format(width=width, half=max(1, width // 2), verifier=args.verifier): f"{name} | {width}"
        for name, form in STRATEGIES.items()
        for width in args.widths
    }
    runs = [(args.model, "small", {"budget-forcing": "one sample | 1"} | named, drawn)]
    if args.large:
        runs.append((args.large, "large", {"budget-forcing": "larger model, greedy | 1"}, {"temperature": 0.0}))
    print("| strategy | samples, leaves | accuracy [95 %] | spent tokens | GFLOP a problem |")
    print("|---|---:|---:|---:|---:|")
    for model, folder, names, sampling in runs:
        settings = {"strategies": list(names), "max_new_tokens": args.max_new_tokens, "seed": 1} | sampling
        run = evaluate(load_reasoner(model), problems, **settings, out=args.out / folder)
        for point in read_summary(run)["points"]:
            print(row(names[point["strategy"]], point))


def row(name: str, point: dict) -> str:
    """A line of the table."""
    accuracy, low, high = (f"{100 * point['accuracy'][key]:.1f}" for key in ("mean", "low", "high"))
    spent, gigaflops = point["spent_tokens"]["mean"], point["flops"]["mean"] / 1e9
    return f"| {name} | {accuracy} % [{low}, {high}] | {spent:.1f} | {gigaflops:.2f} |"


if __name__ == "__main__":
    main()
