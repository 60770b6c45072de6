"""Examples in front of a question: which ones, and how each kind of tokenizer reads them."""

from __future__ import annotations

import copy

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.few_shot import Examples
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.prompts import encode_prompt, make_prompt
from efficient_reasoning.thinking import ThinkingFormat

PLAIN_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
STRIPPING_TEMPLATE = (  # as DeepSeek-R1's
    "{% for message in messages %}{{ message.role }}: {{ message.content.split('</think>')[-1] }}\n{% endfor %}"
)


def row(number: int, **changes) -> dict:
    return {
        "prompt": f"{number}+1?\n",
        "completion": f"<think>{number}+1</think>{number + 1}",
        "source_id": "s",
    } | changes


def problem(number: int, **metadata) -> dict:
    return {"id": f"p{number}", "question": f"{number}+1?", "answer": "", "task": "numeric", "metadata": metadata}


def thinking_with(template: str | None) -> ThinkingFormat:
    tokenizer = copy.deepcopy(load_tokenizer(resolve_model("overthinker")))
    tokenizer.chat_template = template
    return ThinkingFormat.from_tokenizer(tokenizer, "<think>", "</think>")


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    return thinking_with(None)


@pytest.fixture
def examples(thinking, tmp_path):
    def make(rows: list[dict], num_examples: int = 2, thinking: ThinkingFormat = thinking, seed: int = 0) -> Examples:
        write_jsonl(tmp_path / "rows.jsonl", rows)
        return Examples(tmp_path / "rows.jsonl", num_examples, thinking, seed)

    return make


def test_the_draw_follows_from_seed_and_problem_and_never_holds_the_problem(examples):
    drawn = {number: examples(list(map(row, range(6)))).ask(problem(number)) for number in range(6)}
    for number, turns in drawn.items():
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
        asked = [turn["content"] for turn in turns[::2]]
        assert asked[-1] == f"{number}+1?" and len(set(asked)) == 3
    assert drawn[0] == examples(list(map(row, range(6)))).ask(problem(0))
    others = examples(list(map(row, range(6))), seed=1)
    assert [others.ask(problem(number)) for number in range(6)] != list(drawn.values())


def test_each_number_of_examples_can_be_had_from_one_row_more(examples):
    for number in range(3):
        asked = {turn["content"] for turn in examples(list(map(row, range(3)))).ask(problem(number))[::2]}
        assert asked == {"0+1?", "1+1?", "2+1?"}
    with pytest.raises(BadInput, match=r"rows\.jsonl: has 2 solved problems; 3 are needed"):
        examples(list(map(row, range(2))))
    with pytest.raises(BadInput, match="num_examples is 0"):
        examples(list(map(row, range(2))), num_examples=0)


def test_of_several_solutions_the_shortest_right_one_is_shown(examples):
    rows = [
        row(0, completion="<think>0+1, that is one more than 0</think>1"),
        row(0),
        row(0, completion="2", correct=False),
        row(0, completion="<think>", truncated=True),
    ]
    shown = examples([*rows, row(1)], num_examples=1).ask(problem(1))
    assert shown[1]["content"] == "<think>0+1</think>1"


def test_the_shortest_has_the_fewest_tokens(examples):
    """Not the fewest letters: a word is one token, and a number as many as it has digits."""
    words, digits = (
        row(0, completion="<think>Finally Finally</think>1"),
        row(0, completion="<think>0+1=000001</think>1"),
    )
    assert examples([digits, words, row(1)], 1).ask(problem(1))[1]["content"] == words["completion"]


def test_a_control_belongs_to_the_row_and_not_to_the_example(examples):
    rows = [row(number, prompt=f"{number}+1?<|short|>\n", control="<|short|>") for number in range(2)]
    assert examples(rows, num_examples=1).ask(problem(1))[0]["content"] == "0+1?"


def test_without_a_chat_template_examples_are_lines(examples, thinking):
    asked = examples([row(0), row(1)], num_examples=1).ask(problem(1))
    assert make_prompt(thinking.tokenizer, asked) == "0+1?\n<think>0+1</think>1\n1+1?\n"


@pytest.mark.parametrize(
    ("template", "shown"),
    [(PLAIN_TEMPLATE, "<think>0+1</think>1"), (STRIPPING_TEMPLATE, "0+1\n\n1")],
)
def test_a_template_that_strips_thinking_still_shows_the_chain(examples, template, shown):
    thinking = thinking_with(template)
    messages = [
        {"prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": f"{number}+1?"}]}
        | {"completion": [{"role": "assistant", "content": row(number)["completion"]}]}
        for number in range(2)
    ]
    system = {"role": "system", "content": "Be brief."}
    asked = examples(messages, 1, thinking).ask(problem(1, earlier_turns=[system]))
    text = thinking.tokenizer.decode(encode_prompt(thinking.tokenizer, asked))
    assert text == f"system: Be brief.\nuser: 0+1?\nassistant: {shown}\nuser: 1+1?\n"


@pytest.mark.parametrize("total_tokens", [None, "7", [7]])
def test_lengths_that_are_no_numbers_are_counted_anew(examples, total_tokens):
    rows = [row(0), row(1, total_tokens=total_tokens), row(1), row(2)]
    assert len(examples(rows, 1).ask(problem(0))) == 3


@pytest.mark.parametrize(
    "bad", [{"prompt": None}, {"prompt": []}, {"completion": ""}, {"completion": [3]}, {"prompt": [{}]}]
)
def test_rows_that_show_nothing_are_named(examples, bad):
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 2: no prompt and completion in it"):
        examples([row(0), row(1, **bad), row(2)])
