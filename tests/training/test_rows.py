"""Training rows: whole or named by their line, mixed, counted."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.training import fingerprint, load_pairs, load_prompts, load_rows, load_turns
from efficient_reasoning.training.rows import budget_range, mix, summary

MESSAGES = [{"role": "user", "content": "a"}]
ROW = {"prompt": "Compute 1 + 2.\n", "completion": "<think>1 + 2 = 3</think>3", "total_tokens": 10}


def test_rows_come_back_as_they_were_written(tmp_path):
    """A table fills objects up with each other's keys; a verifier would see them."""
    rows = [
        {"prompt": "a", "metadata": {"entry": {"x": 1, "when": {"monday": 1}}}},
        {"prompt": [{"role": "user", "content": "b"}][0]["content"], "metadata": {"entry": {"y": "2"}}},
        {"prompt": "c", "metadata": None},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(load_rows(str(tmp_path / "rows.jsonl"), ("prompt",))) == rows


def test_a_column_that_the_first_row_lacks_is_one(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [ROW, ROW | {"control": "<|x|>", "adapter_scale": 0.5}])
    first, second = load_rows(str(tmp_path / "rows.jsonl"), ("prompt",))
    assert (first["control"], second["control"]) == (None, "<|x|>")
    assert (first["adapter_scale"], second["adapter_scale"]) == (None, 0.5)


def test_parquet_is_read_too(tmp_path):
    Dataset.from_list([ROW, ROW]).to_parquet(tmp_path / "rows.parquet")
    assert list(load_rows(str(tmp_path / "rows.parquet"), ("prompt", "completion"))) == [ROW, ROW]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b"', r"rows\.jsonl, line 2: not valid JSON"),
        ('{"prompt": "a", "answer": "1"}\n\n["b"]\n', r"rows\.jsonl, line 3: expected a JSON object"),
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b"}\n', r"rows\.jsonl, line 2: no 'answer'; every row needs"),
        (
            '{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": 2}\n',
            r"line 2: answer is number, but str before",
        ),
        ('{"prompt": "a", "answer": null}\n', r"rows\.jsonl, line 1: no 'answer'"),
        ('{"prompt": " ", "answer": "1"}\n', r"rows\.jsonl, line 1: no 'prompt'"),
        ('{"prompt": [], "answer": "1"}\n', r"rows\.jsonl, line 1: no 'prompt'"),
        ("\n", r"rows\.jsonl: no training rows in it"),
        ('{"prompt": "a", "answer": "1", "n": 9223372036854775808}\n', r"rows\.jsonl: a whole number of more than 64"),
        (
            '{"prompt": "a", "answer": "1", "m": {"n": [1e9, -9223372036854775809]}}\n',
            "a whole number of more than 64",
        ),
        (
            '{"prompt": "a", "answer": "1", "total_tokens": "16"}\n',
            "line 1: total_tokens is str; give a number of tok",
        ),
        ('{"prompt": "a", "answer": "1", "source_tokens": [3]}\n', "line 1: source_tokens is list; give a number of"),
    ],
)
def test_bad_rows_are_named_by_their_line(tmp_path, text, sentence):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(BadInput, match=sentence):
        load_rows(str(tmp_path / "rows.jsonl"), ("prompt", "answer"))


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"rows\.jsonl: no such file of training rows"):
        load_rows(str(tmp_path / "rows.jsonl"), ("prompt",))
    Dataset.from_list([ROW]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match=r"rows\.parquet: column 'answer' is missing; the file has prompt, completion"):
        load_rows(str(tmp_path / "rows.parquet"), ("prompt", "answer"))


@pytest.mark.parametrize("empty", [None, " "])
def test_a_row_of_a_table_that_lacks_something_is_named_by_its_number(tmp_path, empty):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": empty}]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match=r"rows\.parquet, row 2: no 'answer'; every row needs prompt, answer"):
        load_rows(str(tmp_path / "rows.parquet"), ("prompt", "answer"))


@pytest.mark.parametrize(
    ("prompt", "template", "sentence"),
    [
        (MESSAGES, None, "its rows are messages, and tiny has no chat template; write them as text"),
        ([1, 2], None, "tiny has no chat template; write them as text"),
        ([1, 2], "{{ messages }}", "row 1: its prompt is no list of messages"),
        (3, "{{ messages }}", "row 1: its prompt is no list of messages"),
    ],
)
def test_prompts_are_text_or_messages_that_can_be_rendered(tmp_path, prompt, template, sentence):
    tokenizer = SimpleNamespace(chat_template=template, name_or_path="tiny")
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": prompt}])
    with pytest.raises(BadInput, match=f"rows.jsonl.*{sentence}"):
        load_prompts(str(tmp_path / "rows.jsonl"), ("prompt",), tokenizer)
    for known in ("a", MESSAGES):
        write_jsonl(tmp_path / "rows.jsonl", [{"prompt": known}])
        tokenizer.chat_template = None if known == "a" else "{{ messages }}"
        [row] = load_prompts(str(tmp_path / "rows.jsonl"), ("prompt",), tokenizer)
        assert row["prompt"] == known


def test_conversations_become_one_row_a_turn(tmp_path):
    tokenizer = SimpleNamespace(chat_template="{{ messages }}")
    turns = [{"role": role, "content": role + place} for place in "12" for role in ("user", "assistant")]
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}, {"messages": turns[:2]}])
    rows = list(load_turns(str(tmp_path / "rows.jsonl"), tokenizer))
    assert [row["completion"] for row in rows] == [[turns[1]], [turns[3]], [turns[1]]]
    assert [row["prompt"] for row in rows] == [turns[:1], turns[:3], turns[:1]]
    write_jsonl(tmp_path / "rows.jsonl", [ROW])
    assert list(load_turns(str(tmp_path / "rows.jsonl"), tokenizer)) == [ROW]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"messages": MESSAGES}], "row 1: messages: no assistant turn follows a user's"),
        ([{"messages": [{"content": "a"}]}], "row 1: messages: not a list of messages"),
        (
            [{"messages": [*MESSAGES, {"role": "assistant", "content": None}]}],
            "row 1: messages: not a list of messages",
        ),
        ([{"messages": "a"}], "row 1: messages: not a list of messages"),
        ([{"messages": MESSAGES}, ROW], "line 2: no 'messages'"),
        ([{"prompt": chr(0xD83D), "completion": "a"}], "half of a surrogate pair"),
    ],
)
def test_bad_conversations_are_named(tmp_path, rows, sentence):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match=rf"rows\.jsonl(, |: ){sentence}"):
        load_turns(str(tmp_path / "rows.jsonl"), SimpleNamespace(chat_template="x"))


def test_a_call_of_tools_needs_no_content(tmp_path, tiny_model):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [*MESSAGES, call]}])
    rows = load_turns(str(tmp_path / "rows.jsonl"), SimpleNamespace(chat_template="x"))
    assert summary(rows, load_tokenizer(str(tiny_model))) == "1 rows, mean tokens 0.0"


@pytest.mark.parametrize(
    ("row", "template", "sentence"),
    [
        ({"chosen": "b"}, None, "line 1: no 'rejected'; every row needs prompt, chosen, rejected"),
        ({"chosen": "b", "rejected": " "}, None, "line 1: no 'rejected'"),
        ({"chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"}, "x", "prompt is text, and the rest"),
        ({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}, None, "this tokenizer has no chat template"),
    ],
)
def test_bad_pairs_are_named(tmp_path, row, template, sentence):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"} | row])
    with pytest.raises(BadInput, match=sentence):
        load_pairs(str(tmp_path / "rows.jsonl"), SimpleNamespace(chat_template=template, name_or_path=""))


def test_general_rows_are_spread_evenly():
    rows = [{"prompt": f"p{n}", "completion": "c", "method": "m", "adapter_scale": n / 8} for n in range(8)]
    general = [{"prompt": f"g{n}", "completion": "c", "extra": 1} for n in range(2)]
    mixed = list(mix(rows, general, {"adapter_scale": 1.0}))
    assert [row["prompt"] for row in mixed] == ["p0", "p1", "g0", "p2", "p3", "p4", "p5", "g1", "p6", "p7"]
    assert [row["adapter_scale"] for row in mixed][:4] == [0, 0.125, 1.0, 0.25]
    assert mixed[0].keys() == {"prompt", "completion", "adapter_scale"}


def test_text_and_messages_are_not_mixed():
    with pytest.raises(BadInput, match="general_data and data: one holds text and the other messages"):
        mix([ROW], [{"prompt": MESSAGES, "completion": MESSAGES}], {})


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"total_tokens": [10, 20]}, "2 rows, mean tokens 15.0"),
        (
            {"total_tokens": [10, 20], "source_tokens": [40, 50], "method": ["b", "a"]},
            "2 rows of a + b, mean tokens 45.0 -> 15.0",
        ),
        ({"control": ["<|y|>", None], "total_tokens": [10, 20]}, "2 rows, mean tokens 15.0, controls <|y|>"),
        ({"completion": ["123", "1"]}, "2 rows, mean tokens 2.0"),
        (
            {"completion": ["123", "1"], "total_tokens": [9, None], "source_tokens": [5, None]},
            "2 rows, mean tokens 2.0",
        ),
        ({"chosen": ["123", "1"], "rejected": ["1234", "12"]}, "2 rows, mean tokens 2.0, rejected 3.0"),
    ],
)
def test_a_run_says_in_one_line_what_it_trains_on(tiny_model, columns, said):
    rows = Dataset.from_dict({"prompt": ["a", "b"]} | columns)
    assert summary(rows, load_tokenizer(str(tiny_model))) == said


def test_the_fingerprint_follows_the_rows_alone(tmp_path):
    rows = [ROW, ROW | {"total_tokens": 11}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    loaded = load_rows(str(tmp_path / "rows.jsonl"), ("prompt",))
    assert fingerprint(loaded) == fingerprint(Dataset.from_list(rows)) == fingerprint(rows)
    assert fingerprint(loaded) != fingerprint(rows[::-1])


@pytest.mark.parametrize(("budgets", "expected"), [([96, None, 16], (16, 96)), ([None, None], None), ([64], (64, 64))])
def test_the_range_of_budgets(budgets, expected):
    assert budget_range(Dataset.from_list([{"budget_tokens": tokens} for tokens in budgets])) == expected
    assert budget_range(Dataset.from_list([{"prompt": "a"}])) is None


@pytest.mark.parametrize("budgets", [["64", "128"], [16.5], [0], [True]])
def test_budgets_that_are_no_numbers_of_tokens_are_refused(budgets):
    rows = Dataset.from_list([{"budget_tokens": tokens} for tokens in budgets])
    with pytest.raises(BadInput, match=r"budget_tokens is .*; give whole numbers of at least 1"):
        budget_range(rows)


@pytest.mark.parametrize("chosen", [[{"role": "assistant"}], [{"role": "assistant", "content": None}], [], [{}]])
def test_messages_of_every_row_have_a_text(tmp_path, chosen):
    turns = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    rows = [{"prompt": turns[0], "chosen": answer, "rejected": turns[1]} for answer in (turns[1], chosen)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    tokenizer = SimpleNamespace(chat_template="{{ messages }}", name_or_path="tiny")
    with pytest.raises(BadInput, match=r"pairs\.jsonl, (row|line) 2: "):
        load_pairs(str(tmp_path / "pairs.jsonl"), tokenizer)
