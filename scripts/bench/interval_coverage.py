"""Do 95 % intervals hold the truth in 95 % of runs? Simulated evaluations, whose truth is known.

Problems differ in difficulty (a beta distribution), which all samples of a problem, and both arms of a comparison,
share. Writes one JSON file.

    python scripts/bench/interval_coverage.py --out runs/bench/interval_coverage.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# problems, samples of each, mean accuracy
SCENARIOS = [(200, 4, 0.7), (500, 1, 0.9), (500, 4, 0.95), (2000, 1, 0.99)]
CHANGE = -0.01


def coverage(problems: int, samples: int, accuracy: float, trials: int) -> dict:
    from tqdm import tqdm

    from efficient_reasoning.evaluation.statistics import bootstrap, paired_bootstrap, paired_ratio

    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(problems), samples)
    hits = np.zeros(3)
    for _ in tqdm(range(trials), desc=f"{problems} x {samples} at {accuracy}", mininterval=5):
        # The second arm is worse by CHANGE on each problem that leaves room for it, in the mean exactly.
        difficulty = rng.beta(2 * accuracy, 2 * (1 - accuracy), size=problems)
        first = rng.random((problems, samples)) < difficulty[:, None]
        flips = rng.random((problems, samples)) < -CHANGE / accuracy
        second = first & ~flips
        lengths = np.exp(rng.normal(5, 0.5, size=(problems, 1)) + rng.normal(0, 0.3, size=(problems, samples)))
        shorter = lengths * np.exp(rng.normal(-0.5, 0.2, size=(problems, samples)))
        intervals = (
            bootstrap(first.ravel(), clusters, share=True, resamples=2000),
            paired_bootstrap(first.ravel(), second.ravel(), clusters, share=True, resamples=2000),
            paired_ratio(lengths.ravel(), shorter.ravel(), clusters, resamples=2000),
        )
        truths = (accuracy, CHANGE, np.exp(-0.5 + 0.2**2 / 2) - 1)
        hits += [one.low <= truth <= one.high for one, truth in zip(intervals, truths, strict=True)]
    shares = dict(zip(("accuracy", "accuracy_change", "tokens_change"), (hits / trials).tolist(), strict=True))
    return {"problems": problems, "samples": samples, "accuracy": accuracy, "trials": trials, "coverage": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--trials", type=int, default=4000)
    args = parser.parse_args()
    report = [coverage(*scenario, args.trials) for scenario in SCENARIOS]
    for row in report:
        print({key: value for key, value in row.items() if key != "coverage"}, row["coverage"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
