"""What a verifier needs from a problem, or one sentence that says what is missing."""

from __future__ import annotations

from collections.abc import Mapping

from efficient_reasoning.errors import BadInput


def place(problem: Mapping) -> str:
    """How messages name a problem."""
    return f"Problem {problem.get('id')!r} (task {problem['task']})"


def gold(problem: Mapping) -> str:
    """The problem's gold answer."""
    if problem.get("answer") is None or not str(problem["answer"]).strip():
        raise BadInput(f"{place(problem)} has no answer; give it one, or use task agrees_with_base or judge.")
    return str(problem["answer"])


def metadata(problem: Mapping, key: str, meaning: str) -> object:
    """`problem["metadata"][key]`; empty counts as missing."""
    value = (problem.get("metadata") or {}).get(key)
    if not value:
        raise BadInput(f"{place(problem)} has no metadata.{key}; put {meaning} there.")
    return value
