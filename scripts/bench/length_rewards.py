"""Which length reward does best in the quickstart's RL step? Same start, same steps, same problems.

Start: the quickstart's SFT checkpoint and reference lengths (`bash scripts/quickstart.sh` makes them). `accuracy` is
the control without a length term. Writes an evaluation run a reward and their comparison to runs/length_rewards.

    python scripts/bench/length_rewards.py [REWARD ...]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

START, ROWS = "runs/quickstart/sft", "runs/quickstart/reference_lengths.jsonl"
OUT = Path("runs/length_rewards")
REWARDS = {
    "accuracy": {},
    "arora_zanette": {"alpha": 0.1},
    "kimi": {"weight": 0.1},
    "o1_pruner": {},
}


def main() -> None:
    from efficient_reasoning import evaluate, load_reasoner
    from efficient_reasoning.evaluation import compare
    from efficient_reasoning.problems import load_problems
    from recipes import rl_length

    problems = load_problems("mixed", "test", 600, seed=1)
    runs = [evaluate(load_reasoner(START), problems, seed=1, out=OUT / "evaluation" / "sft")]
    seconds = {}
    for name in sys.argv[1:] or REWARDS:
        began = time.perf_counter()
        arguments = ["--config", "configs/rl_length/kimi_overthinker.yaml", "--model", START, "--data", ROWS]
        arguments += ["--reward", name, "--reward_parameters", json.dumps(REWARDS[name])]
        rl_length.main([*arguments, "--output_dir", str(OUT / name)])
        seconds[name] = round(time.perf_counter() - began)
        runs.append(evaluate(load_reasoner(str(OUT / name)), problems, seed=1, out=OUT / "evaluation" / name))
    print(compare(runs, OUT / "comparison"))
    print(f"seconds of training: {seconds}")


if __name__ == "__main__":
    main()
