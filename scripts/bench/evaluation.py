"""How fast evaluation is, and what survives when it is killed.

1. `--samples` samples of the embedded overthinker, unlimited, one command; then the report alone, from those samples.
2. A smaller run is killed (SIGKILL) at random `--kills` times and started again by the same command; its samples are
   compared with those of a run that nobody disturbed. Seconds apart, which are measured, every field has to be equal.

Writes one JSON file.

    python scripts/bench/evaluation.py --out runs/bench/evaluation.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SAMPLES_PER_PROBLEM = 2
KILL_SECONDS = (3, 20)  # after the start: before, in and behind the first chunks


def command(folder: Path, problems: int, budgets: str) -> list[str]:
    settings = ["--num-problems", str(problems), "--budgets", budgets, "--seed", "3", "--out", str(folder)]
    settings += ["--samples-per-problem", str(SAMPLES_PER_PROBLEM), "--task", "mixed"]
    return [sys.executable, "-m", "efficient_reasoning.cli", "evaluate", "--model", "overthinker", *settings]


def speed(folder: Path, samples: int) -> dict:
    from efficient_reasoning.evaluation import compare
    from efficient_reasoning.evaluation.summary import summarise, write_summary
    from efficient_reasoning.files import read_jsonl

    began = time.perf_counter()
    subprocess.run(command(folder, samples // SAMPLES_PER_PROBLEM, "none"), cwd=ROOT, check=True)
    evaluated = time.perf_counter()
    summary = json.loads((folder / "summary.json").read_text())
    summary |= summarise(read_jsonl(folder / "samples.jsonl"), summary["config"])
    write_summary(folder, summary)
    reported = time.perf_counter()
    compare([folder], folder / "comparison")
    compared = time.perf_counter()
    [point] = summary["points"]
    return {
        "samples": point["n"],
        "accuracy": point["accuracy"],
        "generated_tokens": point["generated_tokens"],
        "evaluate_seconds": evaluated - began,
        "report_seconds": reported - evaluated,
        "compare_seconds": compared - reported,
    }


def without_seconds(folder: Path) -> dict[tuple, dict]:
    from efficient_reasoning.files import read_jsonl

    rows = {}
    for row in read_jsonl(folder / "samples.jsonl"):
        del row["spend"]["seconds"], row["spend"]["peak_memory_bytes"]
        key = (row["strategy"], row["budget_tokens"], row["id"], row["sample_index"])
        rows.setdefault(key, []).append(row)
    return rows


def killing(folder: Path, problems: int, kills: int) -> dict:
    calm, disturbed = (command(folder / name, problems, "32,64,none") for name in ("calm", "disturbed"))
    subprocess.run(calm, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    rng, states = random.Random(0), Counter()
    while states["killed"] < kills:
        process = subprocess.Popen(disturbed, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(*KILL_SECONDS))
            # It was finished before its time came: begin anew, so that every kill meets a run under way.
            states["finished early"] += 1
            subprocess.run(["rm", "-r", str(folder / "disturbed")], check=True)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            states["killed"] += 1
            samples = folder / "disturbed" / "samples.jsonl"
            written = samples.read_bytes() if samples.is_file() else b""
            states["torn last line"] += bool(written) and not written.endswith(b"\n")
            lines = written.count(b"\n")
            print(f"kill {states['killed']}: {lines} samples on the disk", flush=True)
    subprocess.run(disturbed, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    expected, found = (without_seconds(folder / name) for name in ("calm", "disturbed"))
    return {
        **states,
        "samples": len(expected),
        "lost": len(expected.keys() - found.keys()),
        "doubled": sum(len(rows) > 1 for rows in found.values()),
        "different": sum(expected[key] != found[key] for key in expected.keys() & found.keys()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--kill-problems", type=int, default=800, help="of the run that is killed, at six samples each"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = {"killing": killing(Path(folder), args.kill_problems, args.kills)}
        print(report, flush=True)
        report["speed"] = speed(Path(folder) / "speed", args.samples)
    print(json.dumps(report, indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
