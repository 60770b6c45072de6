"""Values of steps, from a model whose continuations are known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest

from data_tools.step_values import main, step_values
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference import Reasoner, load_reasoner
from efficient_reasoning.inference.engine import single_samples
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.traces import tokenizer_hash
from tests.data_tools.written import written


@pytest.fixture(scope="module")
def mock() -> Reasoner:
    return load_reasoner("overthinker", backend="mock")


class Guesser(MockEngine):
    """Closes the thinking at once; right (7) in every sample so many of four as the last digit that was thought."""

    def generate(self, requests):
        singles = single_samples(requests)
        self.samples = {id(one): number % 4 for number, one in enumerate(singles)}
        self.requests += requests
        return [self._decode(one) for one in singles]

    def _decode(self, request):
        self.number = self.samples[id(request)]
        return super()._decode(request)


@pytest.fixture
def guesser(mock) -> Callable[[], Reasoner]:
    def guesser() -> Reasoner:
        thinking, eos = mock.thinking, min(mock.thinking.eos_ids)

        def rule(ids):
            text = mock.tokenizer.decode(ids, skip_special_tokens=False)
            _, _, chain = text.partition("<think>")
            chain, close, answer = chain.partition("</think>")
            if not close:
                return thinking.close_ids[0]
            right = engine.number < int(chain.strip()[-1])
            return eos if answer else mock.tokenizer.encode("7" if right else "8")[0]

        engine = Guesser(rule, thinking.eos_ids, mock.tokenizer.decode)
        return dataclasses.replace(mock, engine=engine)

    return guesser


def trace(mock, chain: str, answer: str = "7", problem: str = "a", seed: int = 0, **changes) -> dict:
    changes = {"correct": answer == "7"} | changes
    row = written(mock.thinking, problem, "What?", chain, answer, seed, **changes)
    return row | {"answer": "7", "tokenizer_hash": tokenizer_hash(mock.tokenizer)}


def texts(mock, row: dict) -> list[str]:
    return [mock.tokenizer.decode(row["completion_ids"][: end + 1]) for end in row["step_ends"]]


def values(rows, engine, **settings) -> list[list[float]]:
    return [row["values"] for row in step_values(rows, engine, continuations=4, **settings)]


def test_a_step_is_worth_the_share_of_right_continuations_and_the_end_what_it_is(mock, guesser):
    rows = [trace(mock, "3\n1\n4"), trace(mock, "2\n", answer="8", seed=1)]
    first, second = sorted(step_values(rows, guesser(), continuations=4), key=lambda row: -row["correct"])
    assert texts(mock, first) == ["<think>3\n", "<think>3\n1\n", "<think>3\n1\n4</think>7<|end|>"]
    assert (first["values"], second["values"]) == ([0.75, 0.25, 1.0], [0.5, 0.0])
    assert first | {"values": [], "step_ends": []} == {
        **{name: rows[0][name] for name in ("prompt", "completion", "prompt_ids", "completion_ids", "total_tokens")},
        "step_ends": [],
        "values": [],
        "correct": True,
        "tokenizer_hash": tokenizer_hash(mock.tokenizer),
        "method": "step_values",
        "source_id": "a",
    }


def test_what_was_cut_off_has_no_end(mock, guesser):
    cut = trace(mock, "3\n1\n4", truncated=True, correct=False)
    rejected = Counter()
    rows = [cut, trace(mock, "4", truncated=True, problem="b")]
    assert values(rows, guesser(), rejected=rejected) == [[0.75, 0.25]]
    assert rejected == {"truncated before the end of a step": 1}


def test_a_continuation_has_the_rest_of_the_room_and_luck_of_its_own(mock, guesser):
    engine = guesser()
    [row] = step_values([trace(mock, "3\n1\n4")], engine, continuations=4, max_new_tokens=30)
    first, second = engine.engine.requests
    assert (first.prompt_ids, first.offset, first.n) == (row["prompt_ids"] + row["completion_ids"][:3], 3, 4)
    assert [first.max_new_tokens, second.max_new_tokens] == [27, 25]
    assert len({row.get("seed"), first.seed, second.seed}) == 3
    # No room is left behind the second step.
    assert values([trace(mock, "3\n1\n4")], guesser(), max_new_tokens=5) == [[0.75, 1.0]]


def test_traces_and_steps_are_drawn_by_lot(mock, guesser):
    rows = [trace(mock, "1\n2\n3\n" + "1\n" * seed, problem="a", seed=seed) for seed in range(8)]
    drawn = list(step_values(rows, guesser(), continuations=4, traces_per_problem=3, steps_per_trace=2))
    assert [len(row["values"]) for row in drawn] == [3, 3, 3]
    assert all(row["step_ends"] == sorted(row["step_ends"]) for row in drawn)
    others = list(step_values(rows, guesser(), continuations=4, traces_per_problem=3, steps_per_trace=2, seed=1))
    assert [row["completion_ids"] for row in others] != [row["completion_ids"] for row in drawn]


def test_models_that_no_verifier_could_read_are_refused(mock, guesser):
    with pytest.raises(BadInput, match="of another tokenizer"):
        values([trace(mock, "3\n") | {"tokenizer_hash": "another"}], guesser())
    latent = dataclasses.replace(guesser(), latent_ids=(1, 2, 3))
    with pytest.raises(BadInput, match="thinks in latents or pauses"):
        values([trace(mock, "3\n")], latent)


def test_the_command_goes_on_where_it_was_stopped(mock, tmp_path, capsys):
    path, out = tmp_path / "traces.jsonl", tmp_path / "rows.jsonl"
    write_jsonl(path, [trace(mock, "3\n1\n4", problem=f"p{n}") for n in range(20)])
    words = ["--traces", str(path), "--model", "overthinker", "--backend", "mock", "--continuations", "2"]
    main([*words, "--out", str(out)])
    assert "20 rows from 20 problems" in capsys.readouterr().out
    assert {row["source_id"] for row in read_jsonl(out)} == {f"p{n}" for n in range(20)}
    with pytest.raises(BadInput, match="differ in seed"):
        main([*words, "--out", str(out), "--seed", "1"])


def test_settings_without_meaning_are_refused(tmp_path):
    with pytest.raises(BadInput, match="continuations is 0"):
        main(["--traces", "x", "--model", "overthinker", "--out", "y", "--continuations", "0"])
