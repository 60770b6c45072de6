"""How often a shortcut picks the right candidate of `graph_paths` or `prosqa`; 50 % is chance.

python scripts/bench/graph_shortcuts.py                            # 2,000 problems of each family
python scripts/bench/graph_shortcuts.py file:prosqa/valid.json     # ProsQA's own

A shortcut rates a candidate, and the higher rating wins; where both are rated the same, half a point. None looks at
who is asked about but the last two.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from efficient_reasoning.problems.graph_paths import read

NUM_PROBLEMS = 2_000


def distances(edges: Sequence[tuple[str, str]], start: str) -> dict[str, int]:
    """Hops from a node to all that it reaches."""
    found, border = {start: 0}, {start}
    while border:
        border = {target for source, target in edges if source in border} - found.keys()
        found |= dict.fromkeys(border, max(found.values()) + 1)
    return found


def ratings(question: str) -> dict[str, list[float]]:
    """Of both candidates, by shortcut."""
    edges, name, candidates = read(question)
    names = sorted({source for source, _ in edges if source[0].isupper()})
    targets = [target for _, target in edges]
    away = [distances(edges, one) for one in names]
    backwards = [(target, source) for source, target in edges]
    ignored = distances([*edges, *backwards], name)
    far = len(edges)
    rated = {
        "edges in": targets.count,
        "edges out": [source for source, _ in edges].count,
        "mentions": [node for edge in edges for node in edge].count,
        "first mention is later": targets.index,
        "last mention is later": lambda one: -targets[::-1].index(one),
        "named last": candidates.index,
        "reached by more names": lambda one: sum(one in found for found in away),
        "reached from more nodes": lambda one: len(distances(backwards, one)),
        "farther from the nearest name": lambda one: min(found.get(one, far) for found in away),
        "farther from the farthest name": lambda one: max(found.get(one, 0) for found in away),
        "farther from all names together": lambda one: sum(found.get(one, far) for found in away),
        "first mention nearer to the asked name's": lambda one: (
            -abs(targets.index(one) - [source for source, _ in edges].index(name))
        ),
        "nearer to the asked name, edges both ways": lambda one: -ignored.get(one, far),
    }
    return {shortcut: [rate(candidate) for candidate in candidates] for shortcut, rate in rated.items()}


def scores(problems: Sequence[Mapping]) -> dict[str, float]:
    """The share of problems that each shortcut answers right."""
    points: dict[str, list[float]] = {}
    for problem in problems:
        is_second = problem["answer"].endswith(f" {read(problem['question'])[2][1]}.")
        for shortcut, (first, second) in ratings(problem["question"]).items():
            ahead = 0.5 + 0.5 * ((second > first) - (second < first))
            points.setdefault(shortcut, []).append(ahead if is_second else 1 - ahead)
    return {shortcut: mean(won) for shortcut, won in points.items()}


def main() -> None:
    from efficient_reasoning.problems import graph_paths, load_problems, prosqa

    tasks = sys.argv[1:] or [prosqa.NAME, *graph_paths.FAMILIES]
    columns = [scores(load_problems(task, "test", NUM_PROBLEMS)) for task in tasks]
    print(f"| higher is right | {' | '.join(tasks)} |")
    print(f"|---|{'---:|' * len(tasks)}")
    for shortcut in columns[0]:
        print(f"| {shortcut} | {' | '.join(f'{100 * column[shortcut]:.1f} %' for column in columns)} |")


if __name__ == "__main__":
    main()
