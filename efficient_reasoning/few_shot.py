"""Examples in front of a question: solved problems as earlier turns, drawn for each problem.

1. A model that has just read short solutions writes shorter ones itself, without training. Trained on the shortest
   correct of those, it does so without having read any (Self-Training Elicits Concise Reasoning, arXiv 2502.20122).
2. The draw depends on the seed and the problem alone, and never holds the problem itself.
3. Chat templates strip the thinking of earlier turns (DeepSeek-R1, Qwen3), and without its chain an example shows
   nothing. There the chain stands in the turn without delimiters.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import digest, read_numbered_jsonl
from efficient_reasoning.prompts import conversation
from efficient_reasoning.thinking import ThinkingFormat


class Examples:
    """Solved problems to draw from.

    Args:
        path: JSONL file of training rows or traces. Wrong and truncated traces are no examples; of several solutions
            of one problem the shortest is.
        num_examples: how many stand in front of each question.
        thinking: the delimiters of the tokenizer that renders them.
        seed: of the draw.

    Attributes:
        settings: what the traces of a run depend on.

    Raises:
        BadInput: a row without a question and its solution (its line is named), or too few of them.
    """

    def __init__(self, path: str | Path, num_examples: int, thinking: ThinkingFormat, seed: int = 0):
        if num_examples < 1:
            raise BadInput(f"num_examples is {num_examples}; give at least 1.")
        shortest: dict[str, tuple[int, list[dict]]] = {}
        shows_chains = _shows_chains(thinking)
        for number, row in read_numbered_jsonl(path):
            if row.get("correct") is False or row.get("truncated"):
                continue
            asked, solution = _question(row), _text(row.get("completion"))
            if not asked or not solution:
                raise BadInput(
                    f"{path}, line {number}: no prompt and completion in it; give training rows or traces as examples."
                )
            if not shows_chains:
                solution = _without_delimiters(solution, thinking)
            turns = [*asked, {"role": "assistant", "content": solution}]
            tokens = row.get("total_tokens")
            if not isinstance(tokens, int):  # not counted yet, or by nobody who counts tokens
                tokens = len(thinking.tokenizer.encode(solution, add_special_tokens=False))
            if _key(asked) not in shortest or tokens < shortest[_key(asked)][0]:
                shortest[_key(asked)] = tokens, turns
        if len(shortest) <= num_examples:
            raise BadInput(
                f"{path}: has {len(shortest):,} solved problems; {num_examples + 1} are needed for {num_examples} "
                "beside each other problem."
            )
        self._pool = {key: turns for key, (_, turns) in shortest.items()}
        self._keys = list(self._pool)
        self._num_examples, self._seed = num_examples, seed
        self.settings = {"examples": digest([path]), "num_examples": num_examples}

    def ask(self, problem: Mapping) -> list[dict]:
        """The messages that end with the problem's question, the examples behind a system message."""
        asked = conversation(problem)
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        # One more is drawn, in place of the problem itself.
        rng = random.Random(f"{self._seed}/examples/{problem['id']}")
        drawn = [key for key in rng.sample(self._keys, self._num_examples + 1) if key != _key(turns[-1:])]
        before = [turn for key in drawn[: self._num_examples] for turn in self._pool[key]]
        start = int(turns[0]["role"] == "system")
        return [*turns[:start], *before, *turns[start:]]


def _question(row: Mapping) -> list[dict]:
    """The turns that a row's prompt asks with, but for a system message and a control behind the question."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt.removesuffix("\n")}]
    if not isinstance(prompt, list) or not prompt or not all(_text([turn]) for turn in prompt):
        return []
    control = str(row.get("control") or "")
    last = {**prompt[-1], "content": prompt[-1]["content"].removesuffix(control)}
    return [turn for turn in [*prompt[:-1], last] if turn.get("role") != "system"]


def _text(completion: object) -> str:
    """A completion as text, from a row with or without messages; empty where it is neither."""
    if isinstance(completion, list) and completion and isinstance(completion[-1], Mapping):
        completion = completion[-1].get("content")
    return completion if isinstance(completion, str) else ""


def _key(turns: list[dict]) -> str:
    """What tells one problem from another: its last question, white space aside."""
    return " ".join(turns[-1]["content"].split())


def _shows_chains(thinking: ThinkingFormat) -> bool:
    """Whether the thinking of an earlier turn is still in the prompt."""
    tokenizer = thinking.tokenizer
    if not tokenizer.chat_template:
        return True
    question = {"role": "user", "content": "question"}
    answer = {"role": "assistant", "content": thinking.write("probe", "answer")}
    return "probe" in tokenizer.apply_chat_template([question, answer, question], tokenize=False)


def _without_delimiters(solution: str, thinking: ThinkingFormat) -> str:
    parts = solution.replace(thinking.open_text, "").split(thinking.close_text)
    return "\n\n".join(part.strip() for part in parts if part.strip())
