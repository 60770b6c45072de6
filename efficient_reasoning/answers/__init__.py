"""Answers: the only place that extracts and verifies them; rewards, data tools and evaluation all ask here.

1. A verifier is a pair. `extract` takes the answer out of the text after the thinking, in a form such that equal
   answers are often equal strings (votes are counted on it); `check` compares it with what the problem carries.
2. A problem's `task` names its verifier, and only full credit counts:

       exact             the same text, white space, case and a final full stop aside
       numeric           the last number of the text equals the gold number, exactly
       math              the last \\boxed{} is mathematically equal to the gold answer (math-verify)
       json              the last JSON object of the text equals the gold object
       gym:NAME          the scorer of reasoning-gym's data set NAME gives 1.0
       unit_tests        the last ```python block passes metadata.tests in a sandboxed process
       agrees_with_base  no gold answer: the majority of metadata.base_answers says the same
       judge             an OpenAI-compatible model says CORRECT

3. An answer never raises: an empty one, an odd one, one that hangs or crashes its scorer is wrong. A problem that
   cannot be verified (no gold answer, unknown task, package not installed) raises `BadInput` as soon as an answer is
   compared with it; `check_problems` finds out before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from efficient_reasoning.answers import agreement, code, gym, json_object, judge, matching, mathematics
from efficient_reasoning.errors import BadInput, near

__all__ = ["check_problems", "extract_answer", "verify", "verify_many"]


class _Verifier(NamedTuple):
    extract: Callable[[str], str | None]
    check: Callable[[Mapping, str], bool]


_VERIFIERS = {
    "exact": _Verifier(matching.extract_text, matching.same_text),
    "numeric": _Verifier(matching.extract_number, matching.same_number),
    "math": _Verifier(mathematics.extract, mathematics.check),
    "json": _Verifier(json_object.extract, json_object.check),
    "unit_tests": _Verifier(code.extract, code.check),
    "agrees_with_base": _Verifier(agreement.extract, agreement.check),
    "judge": _Verifier(judge.extract, judge.check),
}
# Verifiers that read nothing but the answer. For them, other metadata of training rows would only be padding: a table
# has one type for a column, and fills every row's metadata up with the keys of all the others.
ANSWER_ALONE = ("exact", "numeric", "math")
# An answer that every verifier reads, and no problem minds: what it raises is the problem's fault.
_PROBE = "```python\nNone\n```\n\\boxed{0}\n{}"
_GYM = _Verifier(gym.extract, gym.check)


def _verifier(task: str) -> _Verifier:
    if isinstance(task, str) and task.startswith(gym.PREFIX):
        return _GYM
    if not isinstance(task, str) or task not in _VERIFIERS:
        raise BadInput(f"Unknown task {task!r}{near(str(task), [*_VERIFIERS, 'gym:NAME'])}")
    return _VERIFIERS[task]


def extract_answer(task: str, answer_text: str) -> str | None:
    """Take the final answer out of the text after the thinking; None when there is none.

    Raises:
        BadInput: no verifier has the name `task`.
    """
    return _verifier(task).extract(answer_text)


def verify(problem: Mapping, answer_text: str) -> bool:
    """Whether the text after the thinking answers the problem, by the verifier that `problem["task"]` names.

    Blocks for as long as the verifier takes: microseconds for exact, numeric, json and agrees_with_base, milliseconds
    for math, gym and unit_tests (after a second for the first of math or gym), but up to their time limit
    (`TIMEOUT_SECONDS` of each module) when the answer hangs. Safe to call from any thread.

    Raises:
        BadInput: an unknown task, a problem without what its verifier needs, a package or server that is missing.
    """
    if "task" not in problem:
        raise BadInput(f"Problem {problem.get('id')!r} has no task; name one of {', '.join(_VERIFIERS)}, gym:NAME.")
    verifier = _verifier(problem["task"])
    answer = verifier.extract(answer_text)
    return answer is not None and verifier.check(problem, answer)


def verify_many(problems: Sequence[Mapping], answer_texts: Sequence[str]) -> list[bool]:
    """`verify` for many pairs, in order; the processes and requests of slow verifiers run beside each other.

    Raises:
        BadInput: as `verify`, at the first problem that cannot be verified; what has not begun is dropped.
    """
    from concurrent.futures import ThreadPoolExecutor

    # Threads suffice: the work is in other processes, or on a server. Two at least, to overlap waiting with work.
    with ThreadPoolExecutor(max_workers=max(2, min(8, os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda pair: verify(*pair), zip(problems, answer_texts, strict=True)))


def check_problems(problems: Sequence[Mapping]) -> None:
    """Raise what `verify` would raise in the middle of a run, before it starts.

    Takes a wrong answer to each problem; those of `judge` are not tried, because their server may charge for it.

    Raises:
        BadInput: as `verify`.
    """
    tried = [problem for problem in problems if problem.get("task") != "judge"]
    verify_many(tried, [_PROBE] * len(tried))
