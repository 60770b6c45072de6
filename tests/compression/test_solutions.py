"""Where a chain has come to its answer."""

from __future__ import annotations

import random
import re

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.compression.solutions import solution_stops
from efficient_reasoning.overthinking import Reader
from efficient_reasoning.problems import FAMILIES


@pytest.fixture(scope="module")
def reader() -> Reader:
    folder = resolve_model("overthinker")
    return Reader(thinking_format(folder, load_tokenizer(folder)))


def trace(reader: Reader, chain: str, answer: str, task: str = "numeric") -> dict:
    thinking = reader.thinking
    ids = thinking.tokenizer.encode(thinking.write(chain, answer))
    return {
        "id": f"{chain} {answer}",
        "task": task,
        "answer": answer,
        "prompt_ids": thinking.tokenizer.encode("Compute.\n"),
        "completion_ids": [*ids, *thinking.eos_ids],
        "total_tokens": len(ids),
        "correct": True,
    }


def kept(reader: Reader, chain: str, answer: str, complete: bool = True, task: str = "numeric") -> list[str]:
    """The chain up to each stop."""
    row = trace(reader, chain, answer, task)
    stops = solution_stops(row, reader, complete)
    thoughts = [reader.thinking.split(row["completion_ids"][:stop], row["prompt_ids"]).thinking_ids for stop in stops]
    return [reader.thinking.tokenizer.decode(ids).rstrip() for ids in thoughts]


BY_ACCIDENT = "First, 134-20=114. Wait, check: 114+20=134. Yes.\nThen 114-99=15.\nFinally, 15+119=134. Yes."
SAME_NUMBERS = "All: 20*2=40.\nExtra: 60-40=20.\nSo rabbits: 20/2=10.\nSo chickens: 20-10=10. Yes."
TWICE = "First, 3+4=7.\nFinally, 7+5=12. Wait, check: 12-5=7. Yes.\nLet me redo it: 3+4=7, 7+5=12. The same."


@pytest.mark.parametrize(
    ("chain", "answer", "ends"),
    [
        (BY_ACCIDENT, "134", ["15+119=134."]),  # numbers follow the hit that the answer still needs
        (SAME_NUMBERS, "10", ["20-10=10."]),  # no number does, but the answer comes in another way
        (TWICE, "12", ["Finally, 7+5=12.", "7+5=12."]),
        ("So 7+5=12.\nIt is 12. Indeed 12.", "12", ["So 7+5=12."]),  # to say it again is no reflection
        ("So 7+5=12. And 5+7=12. Really 12.", "12", ["5+7=12."]),  # which might be the way, the first an accident
        ("So 1,000+234=1,234. Check: 1234-234=1000. It is 1,234.", "1234", ["=1,234.", "It is 1,234."]),
        ("Easy.", "12", []),
        ("It is 13. No.", "12", []),
    ],
)
def test_a_solution_ends_where_nothing_new_follows(reader, chain, answer, ends):
    texts = kept(reader, chain, answer)
    assert len(texts) == len(ends)
    assert all(text.endswith(end) and chain.startswith(text) for text, end in zip(texts, ends, strict=True))


def test_the_first_hit_on_request(reader):
    assert kept(reader, BY_ACCIDENT, "134", complete=False)[0].endswith("check: 114+20=134.")
    assert kept(reader, SAME_NUMBERS, "10", complete=False)[0].endswith("20/2=10.")


def test_an_answer_without_numbers(reader):
    assert kept(reader, "A or B? B\nIt has 2 legs: 1+1=2.\nB\nSo\n", "B", task="exact") == [
        "A or B? B\nIt has 2 legs: 1+1=2.\nB"
    ]


@pytest.mark.parametrize(("family", "seed"), [("sums", 4), ("heads_and_legs", 0), ("gsm_symbolic", 1)])
def test_no_step_of_a_worked_solution_is_lost(reader, family, seed):
    if family == "gsm_symbolic":
        pytest.importorskip("reasoning_gym")
    rng = random.Random(seed)
    lost_at_first, lengths = 0, []
    for _ in range(40):
        problem = FAMILIES[family].draw(rng)
        chain = FAMILIES[family].chain(problem, "verbose", rng).strip()
        needed = set(FAMILIES[family].chain(problem, "equations", rng).split())

        def equations(text: str) -> set[str]:
            return set(re.findall(r"\d+[-+*/]\d+=\d+", text))

        solution = kept(reader, chain, problem["answer"])[0]
        assert needed <= equations(solution), problem["question"]
        lost_at_first += not needed <= equations(kept(reader, chain, problem["answer"], complete=False)[0])
        lengths.append(len(solution) / len(chain))
    assert lost_at_first > 0, "the draw has no accident in it, and so tests nothing"
    assert sum(lengths) / len(lengths) < 0.85
