"""Chains that are cut off, the control."""

from __future__ import annotations

from collections import Counter

import pytest

from data_tools.truncated import main, truncated
from efficient_reasoning.compression.tokenizer import load_thinking
from efficient_reasoning.config import find_config
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.thinking import ThinkingFormat
from tests.data_tools.written import written

CHAIN = "First, 12+30=42. Wait, check: 42-30=12. Yes.\nFinally, 42-7=35. Wait, check: 35+7=42. Yes."


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    return load_thinking("overthinker")


def trace(thinking: ThinkingFormat, problem: str, seed: int = 0, **changes) -> dict:
    return written(thinking, problem, "Compute 12 + 30 - 7.", CHAIN, "35", seed, **changes)


@pytest.mark.parametrize("keep_ratio", [1.0, 0.7, 0.5])
def test_the_end_of_the_chain_goes_and_the_answer_stays(thinking, keep_ratio):
    [row] = truncated([trace(thinking, "a")], thinking=thinking, keep_ratio=keep_ratio)
    assert row["keep_ratio"] == pytest.approx(keep_ratio, abs=0.03)
    chain = row["completion"].removeprefix("<think>").removesuffix("</think>35")
    assert CHAIN.startswith(chain) and (chain == CHAIN) == (keep_ratio == 1)


def test_the_lot_does_not_depend_on_the_order_of_the_file(thinking):
    traces = [trace(thinking, "a", seed, prompt=f"{seed}\n") for seed in range(8)]
    [row], [again] = (list(truncated(each, thinking=thinking)) for each in (traces, traces[::-1]))
    assert row == again


def test_what_gives_no_row_is_counted_and_a_strange_tokenizer_refused(thinking):
    rejected = Counter()
    traces = [trace(thinking, "a", correct=False), trace(thinking, "b")]
    assert list(truncated(traces, thinking=thinking, rejected=rejected, keep_ratio=0.01)) == []
    assert rejected == {"wrong": 1, "no thinking left": 1}
    with pytest.raises(BadInput, match="problem 'a': its ids are of another tokenizer"):
        list(truncated([trace(thinking, "a", tokenizer_hash="another")], thinking=thinking))


def test_from_the_shipped_config(thinking, tmp_path):
    write_jsonl(tmp_path / "traces.jsonl", [trace(thinking, "a")])
    config = str(find_config("data/truncated_overthinker"))
    out = tmp_path / "rows.jsonl"
    main(["--config", config, "--traces", str(tmp_path / "traces.jsonl"), "--out", str(out)])
    assert [row["method"] for row in read_jsonl(out)] == ["truncated"]
    with pytest.raises(BadInput, match="keep_ratio is 0; give a share"):
        main(["--config", config, "--keep_ratio", "0"])
