"""Logs as servers, batches and people write them, one line at a time."""

from __future__ import annotations

import json

import pytest

from efficient_reasoning.audit.logs import read_logs
from efficient_reasoning.audit.responses import IDS, TEXT, USAGE
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.thinking import ThinkingFormat

QUESTION = "Compute 3 + 4."
ROW = {"question": QUESTION, "answer": "7"}


@pytest.fixture(scope="module")
def thinking():
    return ThinkingFormat.from_tokenizer(load_tokenizer(resolve_model("overthinker")))


def choice(content="7", reasoning=None, reason="stop", **more) -> dict:
    message = {"role": "assistant", "content": content} | ({"reasoning_content": reasoning} if reasoning else {})
    return {"index": 0, "message": message, "finish_reason": reason} | more


def usage(total: int, thinking: int | None = None) -> dict:
    details = {} if thinking is None else {"completion_tokens_details": {"reasoning_tokens": thinking}}
    return {"prompt_tokens": 5, "completion_tokens": total} | details


def chat(*choices, **more) -> dict:
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": list(choices)} | more


@pytest.fixture
def log(tmp_path):
    """Read these lines, with the options of `read_logs`; `query` maps columns."""

    def read(*lines, query="", **options):
        path = tmp_path / "log.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return read_logs(f"{path}{query}", **options)

    return read


def asked(text: str = QUESTION) -> dict:
    return {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]}


def test_a_chat_reply_with_its_request_beside_it(log):
    line = chat(choice("It is 7.", "3+4=7", "length"), usage=usage(20, 12), answer="7", **asked())
    [response] = log(line).responses
    assert response.problem | {"metadata": None} == {
        "id": "chatcmpl-1",
        "question": QUESTION,
        "answer": "7",
        "task": "numeric",
        "metadata": None,
    }
    assert (response.answer, response.total_tokens, response.thinking_tokens) == ("It is 7.", 20, 12)
    assert (response.counted_by, response.truncated, response.correct) == (USAGE, True, None)


@pytest.mark.parametrize(
    "line",
    [
        {"request": asked(), "response": chat(choice(), usage=usage(9)), "answer": "7"},
        {"request": {"body": asked()}, "response": {"body": chat(choice(), usage=usage(9))}, "answer": "7"},
        {
            "request": asked([{"type": "text", "text": QUESTION}]),
            "response": chat(choice(), usage=usage(9)),
            "answer": "7",
        },
        {**ROW, "response": chat(choice([{"type": "text", "text": "7"}]), usage=usage(9))},
        {**ROW, "choices": [{"text": "7", "finish_reason": "stop"}], "usage": usage(9)},
        {**ROW, "completion": "7", "usage": usage(9), "finish_reason": "stop"},
        {**asked(), "response": "7", "answer": "7", "usage": usage(9), "finish_reason": "stop"},
        {"prompt": asked()["messages"], "completion": [{"role": "assistant", "content": "7"}], "answer": "7"}
        | {"usage": usage(9), "finish_reason": "stop"},
        {"messages": [*asked()["messages"], {"role": "assistant", "content": "7"}], "answer": "7"}
        | {"usage": usage(9), "finish_reason": "stop"},
    ],
)
def test_other_places_for_the_same(log, line):
    [response] = log(line).responses
    assert (response.problem["question"], response.problem["answer"]) == (QUESTION, "7")
    assert (response.answer, response.total_tokens, response.truncated) == ("7", 9, False)


def test_the_reasoning_may_be_called_reasoning(log, thinking):
    line = chat({"message": {"content": "7", "reasoning": "3+4=7"}}, **asked(), answer="7")
    [response] = log(line, thinking=thinking).responses
    assert thinking.tokenizer.decode(response.ids) == "<think>3+4=7</think>7"
    assert (response.thinking_tokens, response.total_tokens, response.counted_by) == (5, 8, TEXT)


def test_thinking_that_never_ended_is_not_closed(log, thinking):
    line = chat(choice(None, "3+4=", "length"), **asked(), answer="7")
    [response] = log(line, thinking=thinking).responses
    assert thinking.tokenizer.decode(response.ids) == "<think>3+4="
    assert (response.answer, response.truncated, response.total_tokens) == ("", True, 5)


def test_a_message_in_a_row_may_have_reasoning(log, thinking):
    message = {"role": "assistant", "content": "7", "reasoning_content": "3+4=7"}
    [response] = log({"messages": [*asked()["messages"], message], "answer": "7"}, thinking=thinking).responses
    assert (response.problem["question"], response.answer, response.thinking_tokens) == (QUESTION, "7", 5)


def test_a_batch_and_its_answers(log, tmp_path):
    (tmp_path / "gold.jsonl").write_text(
        '{"id": "a", "question": "q a", "answer": "7"}\n{"id": "b", "question": "q b", "answer": "8"}\n'
    )
    lines = [
        {
            "id": "batch_1",
            "custom_id": "b",
            "response": {"status_code": 200, "body": chat(choice("8"), usage=usage(3))},
            "error": None,
        },
        {"id": "batch_2", "custom_id": "a", "response": None, "error": {"message": "expired"}},
        {"id": "batch_3", "custom_id": "a", "response": {"status_code": 500, "body": {"error": {}}}, "error": None},
    ]
    read = log(*lines, answers_file=tmp_path / "gold.jsonl")
    assert [response.problem["question"] for response in read.responses] == ["q b"]
    assert read.failures == 2
    with pytest.raises(
        BadInput, match=r"line 1: neither its id nor its question is in .*gold\.jsonl; add the problem"
    ):
        log(lines[0] | {"custom_id": "c"}, answers_file=tmp_path / "gold.jsonl")


def test_answers_are_joined_by_question_too(log, tmp_path):
    (tmp_path / "gold.jsonl").write_text(json.dumps(ROW | {"answer": "#### 7"}) + "\n")
    [response] = log(
        chat(choice(), usage=usage(3), **asked(f" {QUESTION}\n")), answers_file=tmp_path / "gold.jsonl"
    ).responses
    assert (response.problem["answer"], response.problem["task"]) == ("7", "numeric")


def test_responses_of_one_question_belong_together(log):
    lines = [
        ROW | {"completion": "6", "usage": usage(4)},
        ROW | {"question": "Compute 1 + 1.", "answer": "2", "completion": "2", "usage": usage(4)},
        chat(choice("7"), usage=usage(5), answer="7", **asked("Compute  3 + 4.")),
    ]
    first, other, second = log(*lines).responses
    assert first.problem["id"] == second.problem["id"] != other.problem["id"]


def test_several_responses_a_line(log, thinking):
    line = ROW | {"completions": ["<think>3+4=7</think>7", [{"role": "assistant", "content": "6"}]]}
    right, wrong = log(line, thinking=thinking).responses
    assert (right.answer, right.thinking_tokens, right.total_tokens) == ("7", 5, 8)
    assert (wrong.answer, wrong.thinking_tokens, wrong.total_tokens) == ("6", 0, 1)
    assert right.problem["id"] == wrong.problem["id"]
    assert [
        one.answer for one in log(chat(choice("7"), choice("8"), **asked(), answer="7"), thinking=thinking).responses
    ] == ["7", "8"]


def test_usage_of_several_choices_is_the_length_of_none(log):
    with pytest.raises(BadInput, match=r"line 1: no length of its own .*--tokenizer FOLDER_OR_ID"):
        log(chat(choice("7"), choice("8"), usage=usage(30), **asked(), answer="7"))


def test_columns_are_mapped(log, thinking):
    line = {"stem": QUESTION, "key": "so it is: 7", "a": {"text": "7"}, "b": {"text": "8", "is_correct": False}}
    query = "?question=stem&answer=key&completion=a.text,b.text&task=numeric"
    assert [response.answer for response in log(line, query=query, thinking=thinking).responses] == ["7", "8"]
    with pytest.raises(BadInput, match=r"line 1: no column 'a\.txt' among stem, key, a, b"):
        log(line, query="?question=stem&answer=key&completion=a.txt", thinking=thinking)
    with pytest.raises(BadInput, match="unknown key 'completions' behind the question mark, did you mean completion"):
        log(line, query="?completions=a.text", thinking=thinking)


def test_ids_of_a_line_are_its_length(log, thinking):
    ids = thinking.tokenizer.encode("<think>3+4=7</think>7<|end|>")
    line = chat(choice("7", "3+4=7", token_ids=ids), usage=usage(99), **asked(), answer="7")
    [response] = log(line, thinking=thinking).responses
    assert (response.total_tokens, response.thinking_tokens, response.counted_by) == (8, 5, IDS)
    [response] = log(line).responses
    assert (response.total_tokens, response.counted_by) == (9, IDS)  # nobody knows which of them ends it


def test_the_prompts_ids_may_open_the_thinking(log, thinking):
    ids = {
        name: thinking.tokenizer.encode(text)
        for name, text in (("token_ids", "3+4"), ("prompt_token_ids", "?<think>"))
    }
    [response] = log(chat(choice("3+4", **ids), **asked(), answer="7"), thinking=thinking).responses
    assert (response.thinking_tokens, response.answer) == (3, "")


def test_thinking_that_a_server_hides_is_counted_and_not_read(log, thinking):
    line = chat(choice("7"), usage=usage(50, 40), **asked(), answer="7")
    [response] = log(line, thinking=thinking).responses
    assert (response.total_tokens, response.thinking_tokens, response.ids) == (50, 40, None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>6</think>7<think>8</think>9", "9"),
        ("<think>6?</think>\n7", "\n7"),
        ("6?</think>7", "7"),
        ("<think>7", ""),
        ("◁think▷6◁/think▷7", "7"),
        ("7", "7"),
    ],
)
def test_the_answer_is_what_follows_the_thinking_also_without_a_tokenizer(log, text, answer):
    [response] = log(ROW | {"completion": text, "usage": usage(9)}).responses
    assert response.answer == answer


def sample(budget=None, **more) -> dict:
    return ROW | {
        "id": "s",
        "task": "numeric",
        "difficulty": 2,
        "metadata": {},
        "strategy": "budget-forcing",
        "budget_tokens": budget,
        "completion_ids": [5, 6],
        "prompt_ids": [1],
        "final_answer": "7",
        "correct": True,
        "total_tokens": 2,
        "thinking_tokens": 0,
        "truncated": False,
        "floor_tokens": 1,
        "first_correct_tokens": 1,
        "settled_tokens": 1,
        "loops": False,
        **more,
    }


def test_samples_of_an_evaluation_are_taken_as_they_are(log):
    read = log(sample(), sample(64, correct=False))
    [response] = read.responses
    assert read.left_out == 1
    assert (response.correct, response.first_correct_tokens, response.floor_tokens, response.is_read) == (
        True,
        1,
        1,
        True,
    )
    assert (response.problem["difficulty"], response.counted_by) == (2, IDS)
    assert log(sample(64)).responses[0].total_tokens == 2  # a single point may have a budget
    with pytest.raises(BadInput, match="all of its points have a budget"):
        log(sample(64), sample(32))


def test_lines_of_all_kinds_in_one_file(log, thinking):
    lines = [sample(), ROW | {"completion": "7"}, "", chat(choice(), usage=usage(4), **asked(), answer="7")]
    assert [response.counted_by for response in log(*lines, thinking=thinking).responses] == [IDS, TEXT, USAGE]


def test_another_verifier_for_logs_without_answers(log):
    lines = [chat(choice("7"), usage=usage(4), id=f"chat-{i}", **asked()) for i in range(2)]
    responses = log(*lines, verifier="agrees_with_base").responses
    assert {response.problem["task"] for response in responses} == {"agrees_with_base"}
    bare = log(chat(choice("7"), usage=usage(4)), verifier="agrees_with_base").responses[0]
    assert bare.problem["id"] == "chatcmpl-1"
    again = log(sample(), verifier="judge").responses[0]
    assert (again.problem["task"], again.correct, again.is_read) == ("judge", None, False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no response in it"),
        (["", "{"], "line 2: not valid JSON"),
        (["[]"], "line 1: expected a JSON object, found list"),
        ([{}], r"line 1: neither choices nor a completion among its columns \(none\)"),
        ([ROW], "line 1: neither choices nor a completion among its columns question, answer; map one"),
        ([ROW | {"completion": "7"}], "line 1: no length of its own"),
        ([ROW | {"completion": 7, "usage": usage(3)}], "line 1: a response is int, not a text"),
        ([sample(correct="yes")], 'line 1: its correct is "yes", as in no trace'),
        ([sample(truncated=0)], "line 1: its truncated is 0, as in no trace"),
        ([sample(thinking_tokens=None)], "line 1: its thinking_tokens is null, as in no trace"),
        ([sample(latent_tokens="2")], 'line 1: its latent_tokens is "2", as in no trace'),
        ([sample(completion_ids=["<think>"])], "line 1: its completion_ids are no token ids"),
        ([ROW | {"choices": "7"}], "line 1: its choices are no list of objects"),
        ([ROW | {"choices": []}], "no response in it"),
        (
            [{"question": "q", "completion": "7"}],
            r"line 1: no answer .*--answers FILE, or --verifier agrees_with_base",
        ),
        ([chat(choice(), usage=usage(4), answer="7")], "line 1: no question .*log the request's messages too"),
        ([chat(choice(), usage=usage(4, 5), answer="7", **asked())], "line 1: usage says 5 reasoning_tokens of 4"),
        ([chat(choice(), usage=usage(-4), answer="7", **asked())], "line 1: usage says completion_tokens -4"),
        ([chat(choice(), usage=usage("4"), answer="7", **asked())], "line 1: usage says completion_tokens '4'"),
        (
            [
                ROW | {"id": 1, "completion": "7", "usage": usage(3)},
                ROW | {"id": 1, "question": "?", "completion": "7"},
            ],
            "line 2: its id '1' is that of another question",
        ),
    ],
)
def test_what_is_no_log_is_named(log, lines, message):
    with pytest.raises(BadInput, match=message):
        log(*lines)


def test_a_missing_file():
    with pytest.raises(BadInput, match=r"nowhere\.jsonl: no such file"):
        read_logs("nowhere.jsonl?task=numeric")
