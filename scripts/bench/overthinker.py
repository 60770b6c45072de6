"""How well an overthinker knows its problems, and how much it overthinks: the table of its card.

python scripts/bench/overthinker.py [CHECKPOINT [TASK ...]]        # the embedded one, and its two families
python scripts/bench/overthinker.py runs/gsm_symbolic_15m gsm_symbolic
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

MODES = (("budget-forcing", 0.0), ("budget-forcing", 0.6), ("budget-forcing", 1.0), ("no-thinking", 0.0))
NUM_PROBLEMS = 500
SEED = 1


def main() -> None:
    from efficient_reasoning import load_reasoner
    from efficient_reasoning.answers import verify_many
    from efficient_reasoning.inference import solve_many
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.scribes import floor_tokens

    checkpoint, *tasks = sys.argv[1:] or ["overthinker"]
    reasoner = load_reasoner(checkpoint)
    print(f"{NUM_PROBLEMS} test problems a task, seed {SEED}, one sample each, top-p 0.95, top-k 20")
    for task in tasks or ("sums", "heads_and_legs"):
        problems = load_problems(task, "test", NUM_PROBLEMS, SEED)
        floors = [floor_tokens(problem, reasoner.thinking) for problem in problems]
        floor = mean(floors)
        levels = {
            level: [place for place, problem in enumerate(problems) if problem["difficulty"] == level]
            for level in sorted({problem["difficulty"] for problem in problems})
        }
        sizes = ", ".join(f"{len(places)} of difficulty {level}" for level, places in levels.items())
        print(f"{task}: floor {floor:.1f} tokens; {sizes}")
        for strategy, temperature in MODES:
            solutions = solve_many(
                reasoner,
                [problem["question"] for problem in problems],
                strategy=strategy,
                seeds=range(NUM_PROBLEMS),
                temperature=temperature,
            )
            accuracy = mean(verify_many(problems, [solution.answer for solution in solutions]))
            tokens = mean(solution.total_tokens for solution in solutions)
            empty = mean(solution.thinking_tokens == 0 for solution in solutions)
            ratios = ", ".join(
                f"{level}: {sum(solutions[p].total_tokens for p in places) / sum(floors[p] for p in places):.1f}"
                for level, places in levels.items()
            )
            print(
                f"  {strategy:<15} T {temperature}: accuracy {accuracy:.1%}, {tokens:.1f} tokens "
                f"({tokens / floor:.1f} times the floor), {empty:.1%} empty blocks; by difficulty {ratios}"
            )


if __name__ == "__main__":
    main()
