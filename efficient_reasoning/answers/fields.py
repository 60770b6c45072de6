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
    given = problem.get("metadata")
    value = given.get(key) if isinstance(given, Mapping) else None
    if not value:
        raise BadInput(f"{place(problem)} has no metadata.{key}; put {meaning} there.")
    return value


def texts(problem: Mapping, key: str, meaning: str) -> list[str]:
    """`problem["metadata"][key]`, one text or a list of them, as a list."""
    value = metadata(problem, key, meaning)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadInput(f"{place(problem)}: metadata.{key} is no list of texts; put {meaning} there.")
    return value
