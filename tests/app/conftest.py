"""Run folders without a model: samples that are written down, and the summary that follows from them."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from efficient_reasoning.evaluation.summary import summarise
from efficient_reasoning.files import write_json
from efficient_reasoning.traces import FORMAT

POINTS = (("budget-forcing", 64), ("budget-forcing", None), ("no-thinking", None))


def make_sample(strategy: str, budget: int | None, number: int, **changes) -> dict:
    """Lengths and verdict follow from the arguments by lot."""
    lot = random.Random(f"{strategy}/{budget}/{number}")
    thinking, answer = lot.randint(0, 99), lot.randint(1, 4)
    return {
        "id": f"sum-{number}",
        "question": f"Compute {number} + {number}.",
        "answer": str(2 * number),
        "task": "numeric",
        "thinking": f"{number} und nochmal {number}: äöü ✓",
        "final_answer": str(2 * number),
        "correct": lot.random() < 0.7,
        "truncated": lot.random() < 0.2,
        "forced_close": lot.random() < 0.2,
        "empty_answer": False,
        "thinking_tokens": thinking,
        "answer_tokens": answer,
        "total_tokens": thinking + answer + 2,
        "strategy": strategy,
        "budget_tokens": budget,
        "seed": number,
        "first_correct_tokens": None,
        "settled_tokens": None,
        "loops": False,
        "spend": {
            "requests": 1,
            "prompt_tokens": 9,
            "decoded_tokens": thinking + answer + 1,
            "forced_tokens": 2,
            "masked_tokens": 0,
            "flops": 1e6,
            "seconds": 0.01,
            "peak_memory_bytes": 0,
        },
    } | changes


def write_run(folder: Path, samples: list[dict]) -> Path:
    """`folder` as a finished run of these samples."""
    folder.mkdir(parents=True)
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (folder / "samples.jsonl").write_text(text, encoding="utf-8")
    points = dict.fromkeys((sample["strategy"], sample["budget_tokens"]) for sample in samples)
    config = {"model": folder.name, "format": FORMAT}
    config |= {"strategies": list(dict.fromkeys(s for s, _ in points)), "budgets": []}
    summary = {"config": config, "points": [], "statistics": {"level": 0.95}}
    for strategy, budget in points:
        own = [sample for sample in samples if (sample["strategy"], sample["budget_tokens"]) == (strategy, budget)]
        summary["points"] += summarise(own, config | {"strategies": [strategy], "budgets": [budget]})["points"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_json(folder / "summary.json", summary)
    return folder


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """`make_run("name", num_problems=30)`: a finished run with three points."""

    def make(name: str = "run", num_problems: int = 30, **changes) -> Path:
        samples = [make_sample(*point, number, **changes) for number in range(num_problems) for point in POINTS]
        return write_run(tmp_path / name, samples)

    return make


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find
