"""Problems: `{id, question, answer, task, difficulty, metadata}`, where `task` names the verifier of `answers`.

1. Built-in families draw problems and write their own worked chains: `sums`, `heads_and_legs`, `gsm_symbolic` with the
   extra `gym`, `graph_paths` and its variations, `prosqa`, `passing_N` among N people, `multiplication_N` of N
   digits, `list_functions` in Python; `mixed` draws from the first two in turn. They are split *by problem*: a hash of
   the problem decides between train, validation and test, so that no draw with any seed can carry a test problem into
   training.
2. `gym:NAME` is any reasoning-gym data set, `file:PATH` a JSONL file, `hub:NAME` a data set of the Hub.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.problems import (
    graph_paths,
    gsm_symbolic,
    heads_and_legs,
    list_functions,
    multiplication,
    passing,
    prosqa,
    sums,
)
from efficient_reasoning.problems.chains import Style

Split = Literal["train", "validation", "test"]
FIELDS = ("id", "question", "answer", "task", "difficulty", "metadata")  # of a problem


class Family(Protocol):
    """A module, or an object where there are variations of one idea."""

    def draw(self, rng: random.Random) -> dict: ...

    def split_key(self, problem: dict) -> str: ...

    def chain(self, problem: dict, style: Style, rng: random.Random) -> str: ...


FAMILIES: dict[str, Family] = {
    "sums": sums,
    "heads_and_legs": heads_and_legs,
    "gsm_symbolic": gsm_symbolic,
    **graph_paths.FAMILIES,
    prosqa.NAME: prosqa,
    **multiplication.FAMILIES,
    **passing.FAMILIES,
    "list_functions": list_functions,
}
MIXED = "mixed"
_MIXED_FAMILIES = ("sums", "heads_and_legs")
_MOST_DRAWS = 5_000  # in vain, after which a family counts as exhausted


def split_of(key: str) -> Split:
    """80 % of all problems are for training, 10 % for validation, 10 % for testing."""
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def draw_problems(task: str, split: Split, seed: int = 0) -> Iterator[dict]:
    """Draw distinct problems of a built-in family, `mixed` from two families in turn, until one has no new ones."""
    families = [(name, FAMILIES[name]) for name in (_MIXED_FAMILIES if task == MIXED else (task,))]
    rngs = {name: random.Random(f"{name}/{split}/{seed}") for name, _ in families}
    seen: set[str] = set()
    while True:
        for name, family in families:
            draws = (family.draw(rngs[name]) for _ in range(_MOST_DRAWS))
            problem = next((draw for draw in draws if _is_new(family, draw, split, seen)), None)
            if problem is None:
                return
            seen.add(problem["question"])
            yield {"id": _identity(name, problem["question"]), **problem}


def _is_new(family: Family, problem: dict, split: Split, seen: set[str]) -> bool:
    return problem["question"] not in seen and split_of(family.split_key(problem)) == split


def family_of(problem: Mapping) -> str | None:
    """The built-in family that drew the problem; None for others, which may call anything in their rows a family."""
    name = (problem.get("metadata") or {}).get("family")
    ours = isinstance(name, str) and name in FAMILIES and problem.get("id") == _identity(name, problem["question"])
    return name if ours else None


def _identity(name: str, question: str) -> str:
    return f"{name}-{hashlib.blake2b(question.encode(), digest_size=6).hexdigest()}"


def load_tasks(tasks: Sequence[str], split: Split = "test", num_problems: int = 500, seed: int = 0) -> list[dict]:
    """`load_problems` of several tasks, `num_problems` of each.

    Rows without ids are called after their file. Where files of one name meet, their folders stand before all their
    ids: `gsm8k/test.jsonl` and `svamp/test.jsonl` give gsm8k-test-0 and svamp-test-0.
    """
    loaded = [load_problems(task, split, num_problems, seed) for task in tasks]
    counts = Counter(name for problems in loaded for name in {problem["id"] for problem in problems})
    for task, problems in zip(tasks, loaded, strict=True):
        kind, _, path = task.partition(":")
        folder = Path(path.rpartition("?")[0] or path).parent.name
        if kind == "file" and folder and any(counts[problem["id"]] > 1 for problem in problems):
            for problem in problems:
                problem["id"] = f"{folder}-{problem['id']}"
    return [problem for problems in loaded for problem in problems]


def load_problems(task: str, split: Split = "test", num_problems: int = 500, seed: int = 0) -> list[dict]:
    """Load problems by the name of their source.

    Args:
        task: of `FAMILIES`, or "mixed", "gym:NAME", "file:PATH" or "hub:NAME".
        split: for the built-in families a part of the problem space; for `hub:` the split's name.
        num_problems: how many at most; a file or Hub data set gives its first ones.
        seed: of the draw; ignored for files and the Hub.

    Raises:
        BadInput: unknown source, missing file, missing columns.
    """
    if num_problems < 1:
        raise BadInput(f"num_problems is {num_problems}; ask for at least one problem.")
    kind, colon, name = task.partition(":")
    if colon:
        from efficient_reasoning.problems import adapters

        sources = {"gym": adapters.from_gym, "file": adapters.from_file, "hub": adapters.from_hub}
        if kind not in sources:
            raise BadInput(f"Unknown kind of task {kind!r} in {task!r}{near(kind, sources)}")
        return sources[kind](name, split=split, num_problems=num_problems, seed=seed)
    if task not in (*FAMILIES, MIXED):
        raise BadInput(f"Unknown task {task!r}{near(task, [*FAMILIES, MIXED, 'gym:NAME', 'file:PATH', 'hub:NAME'])}")
    problems = list(islice(draw_problems(task, split, seed), num_problems))
    if len(problems) < num_problems:
        raise BadInput(f"{task}: has only {len(problems)} {split} problems, not {num_problems}; ask for fewer.")
    return problems
