"""A few hundred of the cases that scripts/reliability/fuzz.py makes by the thousand, and that it sees what is lost."""

from __future__ import annotations

import json
import random
import time

import pytest

from efficient_reasoning.errors import BadInput
from scripts.reliability import fuzz, hostile

COUNTS = {"answers": 48, "configs": 145, "rows": 51}


@pytest.mark.parametrize("target", COUNTS)
def test_nothing_is_lost(monkeypatch, target):
    monkeypatch.setattr(fuzz, "ANSWER_LIMIT_SECONDS", 1.0)
    tallies = fuzz.run(target, COUNTS[target], seed=1)
    assert sum(tally.tried for tally in tallies.values()) == COUNTS[target]
    assert {kind: tally.lost for kind, tally in tallies.items() if tally.lost} == {}


@pytest.mark.parametrize("target", COUNTS)
def test_what_is_not_damaged_works(monkeypatch, target):
    """Else everything would be refused at the door, and nothing tried behind it."""
    monkeypatch.setattr(hostile, "answer", lambda rng, right: right)
    monkeypatch.setattr(hostile, "yaml_file", lambda rng, text, keys: text.encode())
    monkeypatch.setattr(hostile, "json_lines", lambda rng, rows: "\n".join(map(json.dumps, rows)).encode())
    makers = len(fuzz.TARGETS[target]())
    tallies = fuzz.run(target, makers)
    assert {kind: (tally.refused, tally.lost) for kind, tally in tallies.items() if tally.valid != 1} == {}


def crash():
    raise KeyError("a")


def refuse():
    raise BadInput("a.jsonl: no rows in it; give some.")


def refuse_without_a_word():
    raise BadInput("")


def leave():
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("case", "lost"),
    [
        (refuse, None),
        (str, None),
        (crash, "KeyError"),
        (leave, "SystemExit"),
        (refuse_without_a_word, "no sentence"),
        (lambda: time.sleep(10), "Overran"),
    ],
)
def test_only_a_sentence_or_an_end_is_not_lost(case, lost):
    tally = fuzz.fuzz({"kind": lambda rng: case}, 1, limit_seconds=0.2)["kind"]
    assert tally.tried == 1
    assert [reason.startswith(lost) for reason in tally.lost] == ([True] if lost else [])
    assert (tally.valid, tally.refused) == (int(case is str), int(case in (refuse, refuse_without_a_word)))


def test_a_refused_answer_is_lost():
    with pytest.raises(RuntimeError, match="refused: Unknown task"):
        fuzz._verify({"id": "p", "task": "numerc"}, "7")


def test_a_case_follows_from_its_seed_and_number():
    def texts(start: int, seed: int = 0) -> list[str]:
        made = []
        fuzz.fuzz({"kind": lambda rng: lambda: made.append(hostile.answer(rng, "so 7"))}, 20, seed, start)
        return made

    assert texts(0)[10:] == texts(10)[:10]
    assert texts(0) != texts(0, seed=1)


def test_the_table_adds_up():
    tallies = fuzz.fuzz({"a": lambda rng: refuse, "b": lambda rng: crash}, 5)
    assert fuzz.table(tallies).splitlines()[2:] == [
        "| a | 3 | 3 | 0 | 0 | 0.0 s |",
        "| b | 2 | 0 | 0 | 2 | 0.0 s |",
        "| all | 5 | 3 | 0 | 2 | 0.0 s |",
    ]


@pytest.mark.parametrize("make", [hostile.json_lines, hostile.yaml_file])
def test_files_are_damaged_in_many_ways(make):
    given = ([{"a": 1, "b": "x"}],) if make is hostile.json_lines else ("a: 1\nb: x\n", ["a", "b"])
    assert len({make(random.Random(seed), *given) for seed in range(200)}) > 120
