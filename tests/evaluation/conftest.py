"""A reasoner without a model: what it answers follows from its seed, its skill and its budget."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from efficient_reasoning import inference
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.evaluation import summary
from efficient_reasoning.inference import Strategy, get_strategy
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.thinking import ThinkingFormat


@pytest.fixture
def problems() -> list[dict]:
    """40 sums of three difficulties, with floors."""
    return [
        {
            "id": f"sum-{i}",
            "question": f"Compute {i} + {i}.",
            "answer": str(2 * i),
            "task": "numeric",
            "difficulty": 3 + i % 3,
            "metadata": {"family": "sums", "floor_tokens": 10 + i % 3},
        }
        for i in range(40)
    ]


@functools.cache
def thinking_format() -> ThinkingFormat:
    return ThinkingFormat.from_tokenizer(load_tokenizer(resolve_model("overthinker")))


class FakeReasoner(SimpleNamespace):
    """`skill` is the share of correct answers without a budget; `thinking_tokens` the mean length of its thoughts."""

    def __init__(self, name: str = "fake", skill: float = 0.9, thinking_tokens: int = 60):
        super().__init__(
            name=name,
            location=name,
            metadata=None,
            weights="0123abcd",
            context_tokens=None,
            calls=[],
            backend="fake",
            decodes_elsewhere=False,
            latent_ids=(),
            latent_steps=0,
        )
        self.engine = SimpleNamespace(capabilities=frozenset())
        self.skill, self.thinking_tokens = skill, thinking_tokens
        self.thinking = thinking_format()
        self.tokenizer = self.thinking.tokenizer

    def strategy(self, name: str) -> Strategy:
        return get_strategy(name)

    def recalling(self) -> FakeReasoner:
        return self

    def solve(self, question: str, budget: int | None, seed: int) -> SimpleNamespace:
        wanted = self.thinking_tokens + seed % 11 - 5
        thinking = wanted if budget is None else min(wanted, budget - 3)
        luck = seed / 2**31
        correct = luck < self.skill * thinking / wanted
        total = int(question.split()[1]) * 2
        answer = "" if luck > 0.995 else str(total if correct else total + 1)
        return SimpleNamespace(
            answer=answer,
            thinking="so " * thinking,
            prompt_ids=[1],
            completion_ids=list(range(thinking + 3)),
            truncated=False,
            forced_close=thinking < wanted,
            thinking_tokens=thinking,
            answer_tokens=1,
            total_tokens=thinking + 3,
            latent_tokens=0,
            spend=Ledger(requests=1, prompt_tokens=1, decoded_tokens=thinking + 4, seconds=0.01),
        )


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs without their pictures, which take longer to draw than a fake run takes to make."""
    for name in ("draw_curve", "draw_coverage"):
        monkeypatch.setattr(summary, name, lambda summaries, path, title: None)


@pytest.fixture
def fake_reasoner(monkeypatch) -> Callable[..., FakeReasoner]:
    """`fake_reasoner(name=..., skill=...)`, which inference understands for this test: its responses are solutions."""

    def respond_many(reasoner, questions: Sequence[str], *, strategy, budget_tokens, seeds, progress, **sampling):
        reasoner.calls.append((strategy, budget_tokens, list(questions), list(seeds), sampling))
        progress(len(questions))
        return [reasoner.solve(question, budget_tokens, seed) for question, seed in zip(questions, seeds, strict=True)]

    monkeypatch.setattr(inference, "respond_many", respond_many)
    monkeypatch.setattr(inference, "take_apart", lambda thinking, solution: solution)
    return FakeReasoner
