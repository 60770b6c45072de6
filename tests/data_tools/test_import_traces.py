"""Other people's traces: grouped, rendered, verified, and what is wrong with them said."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter

import pytest

from data_tools import sample
from data_tools.import_traces import CHUNK_RESPONSES, import_traces, main
from data_tools.shortest_correct import shortest_correct
from efficient_reasoning import answers
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.compression import refusal, tool
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl
from efficient_reasoning.thinking import ThinkingFormat
from efficient_reasoning.traces import read_traces, tokenizer_hash

R1_TEMPLATE = (  # opens the block, as DeepSeek-R1's and Qwen3.5's
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)


def thinking_with(template: str | None) -> ThinkingFormat:
    tokenizer = copy.deepcopy(load_tokenizer(resolve_model("overthinker")))
    tokenizer.chat_template = template
    return ThinkingFormat.from_tokenizer(tokenizer, "<think>", "</think>")


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    return thinking_with(None)


def row(*completions: str, number: int = 3, **columns) -> dict:
    return {
        "question": f"Compute {number} + 4.",
        "answer": str(number + 4),
        "completions": list(completions),
    } | columns


@pytest.fixture
def traces_of(thinking):
    """The traces of these rows, and what was rejected and noted."""

    def read(*rows, thinking=thinking, **options) -> tuple[list[dict], Counter, Counter]:
        rejected, noted = Counter(), Counter()
        counts = {"rejected": rejected, "noted": noted}
        found = list(import_traces(rows, thinking=thinking, tokenizer_hash="h", **counts, **options))
        return found, rejected, noted

    return read


@pytest.fixture
def run(tmp_path):
    """The program over these rows; its traces."""

    def run(rows: list[dict], *words: str, query: str = "") -> list[dict]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / "traces.jsonl"
        main(["--source", f"{tmp_path}/rows.jsonl{query}", "--model", "overthinker", "--out", str(out), *words])
        return list(read_traces(out))

    return run


def test_a_trace_has_all_that_a_sampled_one_has(thinking, run):
    [right, wrong] = run([row("<think>3+4=7</think>7", "<think>3+4=8.\nNo, 7.</think>8", id=5, model="m")])
    assert right["completion"] == "<think>3+4=7</think>7"
    assert thinking.tokenizer.decode(right["completion_ids"]) == "<think>3+4=7</think>7<|end|>"
    assert thinking.tokenizer.decode(right["prompt_ids"]) == right["prompt"] == "Compute 3 + 4.\n"
    expected = {
        "id": "5",
        "question": "Compute 3 + 4.",
        "answer": "7",
        "task": "numeric",
        "metadata": {},
        "thinking": "3+4=7",
        "final_answer": "7",
        "thinking_tokens": 5,
        "answer_tokens": 1,
        "total_tokens": 8,
        "correct": True,
        "truncated": False,
        "first_correct_tokens": 7,
        "model": "m",
        "seed": 0,
        "tokenizer_hash": tokenizer_hash(thinking.tokenizer),
    }
    assert {key: right[key] for key in expected} == expected
    assert (wrong["id"], wrong["seed"], wrong["correct"]) == ("5", 1, False)
    assert wrong["first_correct_tokens"] == len(thinking.tokenizer.encode("<think>3+4=8.\nNo, 7.</think>"))
    assert [one["completion"] for one in shortest_correct([right, wrong])] == [right["completion"]]


def test_what_a_model_sampled_comes_back_as_it_was(tmp_path, run):
    out = tmp_path / "sampled.jsonl"
    sample.main(["--config", "data/sample_overthinker", "--num_problems", "6", "--out", str(out)])
    sampled = list(read_jsonl(out))
    kept = ("id", "question", "answer", "task", "difficulty", "metadata", "completion")
    imported = run([{key: trace[key] for key in kept} for trace in sampled])
    unknown = ("spend", "seed", "strategy", "model", "temperature")
    for trace in (*sampled, *imported):
        for key in unknown:
            trace.pop(key, None)
    assert imported == sampled


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("<think>\n\n3+4=7\n\n</think>\n\n7\n", "<think>3+4=7</think>7"),
        ("3+4=7\n</think>\n\n7", "<think>3+4=7</think>7"),
        ("◁think▷3+4=7◁/think▷ 7", "<think>3+4=7</think>7"),
        ("<|begin_of_thought|>\n3+4=7<|end_of_thought|>7<|end|>", "<think>3+4=7</think>7"),
        ("<think></think>7", "<think></think>7"),
        ("<think> </think> 7", "<think></think>7"),
        ("<think>3</think> 4 <think>5</think>7", "<think>3</think> 4 <think>5</think>7"),
        ("<think>\n3+4", "<think>3+4"),
        ("So 7", "So 7"),
    ],
)
def test_a_response_is_written_as_the_model_would(traces_of, written, text):
    [[trace], _, _] = traces_of(row(written))
    assert trace["completion"] == text


def test_thinking_that_stands_apart_comes_between_the_delimiters(traces_of):
    apart = {"question": "q", "answer": "7", "completion": "\n\n7", "reasoning_content": "3+4=7\n"}
    cut = apart | {"completion": None, "finish_reason": "length"}
    [[whole, begun], _, _] = traces_of(apart, cut)
    assert (whole["completion"], whole["truncated"]) == ("<think>3+4=7</think>7", False)
    assert (begun["completion"], begun["truncated"], begun["total_tokens"]) == ("<think>3+4=7", True, 6)


def test_a_template_that_opens_the_block_has_its_opening_in_the_prompt(traces_of):
    thinking = thinking_with(R1_TEMPLATE)
    rows = [row("<think>3+4=7</think>7", "7", "<think>\n3+", messages=None)]
    [[whole, bare, cut], _, noted] = traces_of(*rows, thinking=thinking)
    assert whole["prompt"] == [{"role": "user", "content": "Compute 3 + 4."}]
    assert whole["completion"] == [{"role": "assistant", "content": "<think>\n3+4=7\n</think>\n\n7"}]
    decode = thinking.tokenizer.decode
    assert decode(whole["prompt_ids"]).endswith("assistant: <think>\n")
    assert decode(whole["completion_ids"]) == "3+4=7\n</think>\n\n7<|end|>"
    # Without a block, one that is empty: else all of it would be thinking.
    assert (bare["final_answer"], bare["thinking_tokens"], bare["correct"]) == ("7", 0, True)
    assert (cut["thinking"], cut["truncated"]) == ("3+", True)
    assert noted == {"without a think block": 1, "with an unclosed think block": 1, "cut off": 1, "correct": 2}


def test_what_is_special_about_traces_is_noted_and_data_tools_refuse_it(traces_of, thinking):
    texts = ["<think>3+4=7</think>7", "7", "<think></think>7", "<think>3</think><think>4</think>7", "<think>3+4=7"]
    traces, rejected, noted = traces_of(row(*texts))
    assert noted == {
        "correct": 4,
        "without a think block": 1,
        "with empty thinking": 1,
        "with several think blocks": 1,
        "with an unclosed think block": 1,
        "cut off": 1,
    }
    refused = [refusal(trace, thinking) for trace in traces]
    assert refused == [None, "no thinking", "no thinking", "several blocks", "truncated"]
    assert not rejected


def test_responses_to_one_question_come_together(run):
    rows = [row(f"<think>{j}</think>7", number=i) for j in range(3) for i in range(20)]
    random.Random(0).shuffle(rows)
    rows[7]["question"] = f"  {rows[7]['question']}\n"
    traces = run(rows)
    assert [trace["id"] for trace in traces] == [name for i in range(20) for name in [traces[3 * i]["id"]] * 3]
    assert len({trace["id"] for trace in traces}) == 20
    assert [trace["seed"] for trace in traces] == [0, 1, 2] * 20
    said = {}
    for one in rows:
        said.setdefault(one["question"].strip(), []).append(one["completions"][0])
    assert list(said) == [trace["question"] for trace in traces[::3]]  # in the order of their first rows
    assert [trace["completion"] for trace in traces] == [text for texts in said.values() for text in texts]


def test_ids_of_rows_are_used_where_they_tell_questions_apart(run, tmp_path):
    assert [trace["id"] for trace in run([row("7", id="a"), row("8", number=4, id="b"), row("6", id="c")])] == [
        *("a", "a", "b")
    ]
    (tmp_path / "traces.jsonl").unlink()
    (tmp_path / "traces.jsonl.report.json").unlink()
    same = [trace["id"] for trace in run([row("7", id="a"), row("8", number=4, id="a")])]
    assert len(set(same)) == 2 and all(name.startswith("rows-") for name in same)


def test_earlier_turns_belong_to_the_question(run):
    before = [{"role": "user", "content": "Take 3."}, {"role": "assistant", "content": "<think>so</think>I have 3."}]
    asked = {"role": "user", "content": "Add 4."}
    message = {"role": "assistant", "content": "<think>3+4=7</think>7"}
    rows = [{"messages": [*turns, asked, message], "answer": "7"} for turns in (before, [], before)]
    one, two, three = run(rows)
    assert one["id"] == two["id"] != three["id"]
    assert one["metadata"] == {"earlier_turns": before}
    assert one["prompt"] == "Take 3.\n<think>so</think>I have 3.\nAdd 4.\n" and three["prompt"] == "Add 4.\n"


def test_ids_of_a_log_are_kept_where_they_are_of_this_tokenizer(traces_of, thinking):
    encode = thinking.tokenizer.encode
    text = "<think>3+4=7</think>7<|end|>"
    odd = [*encode("<think>3+4="), *encode("7"), *encode("</think>"), *encode("7<|end|>")]
    message = {"content": "7", "reasoning_content": "3+4=7"}
    reply = {"choices": [{"message": message, "finish_reason": "stop", "token_ids": odd}], "answer": "7"}
    reply |= {"messages": [{"role": "user", "content": "q"}], "prompt_token_ids": encode("User: q")}
    [[trace], _, _] = traces_of(reply)
    assert (trace["completion_ids"], trace["prompt_ids"]) == (odd, encode("User: q"))
    foreign = json.loads(json.dumps(reply))
    for ids in ([3, 4, 5], [10**6], []):
        foreign["choices"][0]["token_ids"] = ids
        [[trace], _, _] = traces_of(foreign)
        assert trace["completion_ids"] == encode(text)


# ---- verdicts ----


def test_gold_answers_come_before_the_verdicts_of_rows(traces_of):
    labels = {"correctness_math_verify": [True, False]}
    traces, _, _ = traces_of(row("6", "7", **labels))
    assert [trace["correct"] for trace in traces] == [False, True]
    traces, _, _ = traces_of(row("6", "7", **labels, answer=None), row("8", number=1, answer=None, is_correct=False))
    assert [trace["correct"] for trace in traces] == [True, False, False]
    # What later answers must agree with: what the rows call correct; where nothing is, nothing is right.
    assert [answers.verify(traces[0], text) for text in ("It is 6.", "7")] == [True, False]
    assert not answers.verify(traces[2], "8")


def test_without_answers_the_majority_of_a_question_is_right(traces_of):
    unanswered = {"answer": None}
    rows = [
        row("<think>x</think>So 7.", "\\boxed{7}", "8", "<think>x", **unanswered),
        row("7", number=4, **unanswered),
        row("7", "8", number=5, **unanswered),
        row("<think>", "", number=6, **unanswered),
    ]
    traces, rejected, noted = traces_of(*rows, verifier="agrees_with_base")
    assert [trace["correct"] for trace in traces] == [True, True, False, False]
    assert rejected == {
        "with no other response to agree with": 2,
        "of questions with a tie": 2,
        "without a response": 1,
    }
    assert noted["correct"] == 2
    assert answers.verify(traces[0], "7") and not answers.verify(traces[0], "8")


def test_one_backslash_makes_the_answers_mathematics(run):
    pytest.importorskip("math_verify")
    rows = [row("<think>.</think>\\boxed{7.0}"), row("\\boxed{0.5}", number=1, answer="$\\frac{1}{2}$")]
    assert [(trace["task"], trace["correct"]) for trace in run(rows)] == [("math", True)] * 2


def test_a_gold_answer_that_cannot_be_read_costs_its_traces_alone(traces_of):
    traces, rejected, _ = traces_of(row("7"), row("7", number=1, answer="seven"), mapping={"task": "numeric"})
    assert [trace["correct"] for trace in traces] == [True]
    assert rejected == {"with a gold answer that its verifier cannot read": 1}


def test_a_judge_that_is_not_there_is_said_at_once(traces_of, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(BadInput, match="no judge at ''; set OPENAI_BASE_URL"):
        traces_of(row("7", answer=None), verifier="judge")


# ---- bad input ----


def test_rows_that_cannot_be_used_are_counted_and_the_first_shown(run, capsys, tmp_path):
    bad = [
        {"answer": "7", "completion": "7"},
        row("7", question=None),
        row("7", question=["q"]),
        row("7", answer=None),
        row("7", answer={"a": 1}),
        {"question": "q", "answer": "7"},
        {"custom_id": "c", "response": None, "error": {"message": "expired"}},
        row(),
        row(7),
        {"question": "q", "answer": "7", "completion": "7", "usage": {"completion_tokens": 9, "reasoning_tokens": 5}},
        row("7", task="algebra"),
        row("<think>\ud800</think>7"),
    ]
    [trace] = run([*bad, row("<think>a</think>7", None, "")])
    assert trace["correct"]
    out, err = capsys.readouterr()
    assert "1 rows from 2 problems" in out
    for count, kind in (
        *((3, "without a question"), (2, "without a gold answer"), (6, "without a response")),
        *((1, "with thinking that the server hid"), (1, "with columns that no problem has")),
        (1, "with broken characters"),
    ):
        assert f"{count} {kind}" in out
    assert "rows.jsonl, line 1: no question among its columns answer; map one (?question=COLUMN)." in err
    assert "line 4: column 'answer' holds null, no answer; map one (?answer=COLUMN), or give --verifier" in err
    assert "line 9: a response is int, not a text" in err and "line 11: Unknown task 'algebra'" in err
    assert err.count("rows.jsonl, line") == 10
    report = json.loads((tmp_path / "traces.jsonl.report.json").read_text())
    assert (report["rejected"]["without a response"], report["noted"]) == (6, {"correct": 1})


def test_a_source_without_a_single_trace_leaves_no_file(run, tmp_path):
    with pytest.raises(BadInput, match=r"traces\.jsonl: none of 1 problems gives a row \(1 without a question\)"):
        run([row("7", question=None)])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


# ---- large sources ----


def test_an_interrupted_import_goes_on(run, tmp_path, monkeypatch):
    rows = [row(f"<think>{j}</think>{i + 4}", number=i) for j in range(2) for i in range(9)]
    whole = run(rows)
    for path in tmp_path.glob("traces*"):
        path.unlink()
    monkeypatch.setattr(tool, "CHUNK_PROBLEMS", 2)
    verify_many, calls = answers.verify_many, []

    def interrupted(problems, texts):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return verify_many(problems, texts)

    monkeypatch.setattr(answers, "verify_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(rows)
    assert not (tmp_path / "traces.jsonl").exists()
    assert run(rows) == whole
    assert sum(calls) == 18 + 4
    with pytest.raises(BadInput, match=r"traces\.jsonl: holds rows that differ in source"):
        run(rows[:3])


def test_rows_are_read_as_they_are_needed(thinking):
    asked = []

    def rows():
        for number in range(1000):
            asked.append(number)
            yield row("<think>a</think>7", number=number)

    traces = import_traces(rows(), thinking=thinking, tokenizer_hash="h")
    next(traces)
    assert len(asked) <= CHUNK_RESPONSES + 1


@pytest.mark.parametrize("source", ["train.parquet", "?split=train", "hub:?split=train"])
def test_tables_are_read_like_lines(source, run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [row(f"<think>{j}</think>7", number=i) for j in range(2) for i in range(3)]
    by_lines = run(rows)
    folder = tmp_path / "folder"
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    where = f"hub:{folder}{source[4:]}" if source.startswith("hub:") else f"{folder}/{source}"
    main(["--source", where, "--model", "overthinker", "--out", str(tmp_path / "table.jsonl")])
    by_table = list(read_jsonl(tmp_path / "table.jsonl"))
    assert [trace | {"id": ""} for trace in by_table] == [trace | {"id": ""} for trace in by_lines]


def test_the_first_line_of_the_config_is_its_command():
    from efficient_reasoning.config import find_config

    first_line = find_config("data/import_traces_openr1").read_text().splitlines()[0]
    assert first_line == "# efficient-reasoning data import_traces --config configs/data/import_traces_openr1.yaml"
