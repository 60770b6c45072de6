"""Where answers stand in a response: cuts, candidates and loops that can be counted by hand."""

from __future__ import annotations

import random
import time

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from efficient_reasoning import answers
from efficient_reasoning.overthinking import LOOP_TOKENS, Reader, Reading, kept_share, loops
from efficient_reasoning.thinking import ThinkingFormat

EOS = "<eos>"
THINKING = "<think>5-3=2. Not so: 5+3=8.\nCheck: 8-3=5. Yes.</think>8"


def thinking_format(single: bool = True) -> ThinkingFormat:
    """Every byte is an id, so that tokens are characters; the delimiters too where they are `single`."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    if single:
        tokenizer.add_tokens([AddedToken(text, special=False) for text in ("<think>", "</think>", "。")])
    return ThinkingFormat.from_tokenizer(tokenizer, "<think>", "</think>")


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(thinking_format())


def problem(answer: str | None = "8", task: str = "numeric", **metadata) -> dict:
    return {"id": f"{task}-{answer}", "question": "5+3?", "answer": answer, "task": task, "metadata": metadata}


def read(reader: Reader, text: str, of: dict, prompt: str = "", ended: bool = True) -> Reading:
    """The reading of a response whose answer is what follows the thinking."""
    encode = reader.thinking.tokenizer.encode
    ids, prompt_ids = encode(text + EOS * ended), encode(prompt)
    answer = reader.thinking.tokenizer.decode(reader.thinking.split(ids, prompt_ids).answer_ids)
    return reader.read(ids, prompt_ids, of, answers.verify(of, answer))


def length(text: str) -> int:
    """Tokens of a text: a delimiter is one."""
    return len(text.replace("</think>", "|").replace("<think>", "|"))


@pytest.mark.parametrize("single", [True, False])
def test_tokens_up_to_the_first_right_sentence(single):
    reader = Reader(thinking_format(single))
    first = "<think>5-3=2. Not so: 5+3=8.\n"
    expected = length(first) if single else len(first)
    # The sentence ends at its full stop, before the line does: what follows is white space.
    assert read(reader, THINKING, problem()) == Reading(expected - 1, expected - 1, False)


def test_a_wrong_response_had_its_own_answer_early_and_may_have_been_right_once(reader):
    text = "<think>It is 8. No, it is 7. Yes, 7.</think>7"
    right, settled = length("<think>It is 8."), length("<think>It is 8. No, it is 7.")
    assert read(reader, text, problem()) == Reading(right, settled, False)
    assert read(reader, text, problem("9")) == Reading(None, settled, False)


def test_an_answer_that_no_thought_said_stands_at_the_end(reader):
    text = "<think>Hm.\n</think>8"
    assert read(reader, text, problem()) == Reading(length(text), length(text), False)


def test_the_end_of_the_thinking_is_a_cut_and_its_delimiter_no_part_of_it(reader):
    expected = length("<think>Well. yes</think>")
    assert read(reader, "<think>Well. yes</think>Yes", problem("yes", "exact")).first_correct_tokens == expected


def test_the_answer_is_searched_where_nothing_was_thought(reader):
    text = "She has 3 left.\nSo she makes 8.\nA: 8"
    assert read(reader, text, problem()).first_correct_tokens == length("She has 3 left.\nSo she makes 8.")


def test_a_prompt_may_open_the_thinking(reader):
    text = "It is 8. Yes.\n</think>\n\n8"
    assert read(reader, text, problem(), prompt="? <think>\n") == Reading(8, 8, False)


@pytest.mark.parametrize("text", ["<think>It is 8. But", "<think>It is 8. But</think>"])
def test_without_a_final_answer_nothing_settles(reader, text):
    assert read(reader, text, problem(), ended=False) == Reading(length("<think>It is 8."), None, False)


def test_nothing_was_said(reader):
    assert read(reader, "", problem()) == Reading(None, None, False)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("It is 0.8 or so. It is 8. ok 8", "It is 0.8 or so. It is 8."),  # 0.8 is one number
        ("8. Count them. It is 8! ok 8", "8. Count them. It is 8!"),  # an item's number is no answer
        ("We count:\n**8.** Of 9.\n8.\nok 8", "We count:\n**8.** Of 9.\n8.\n"),
        ("它是8。对 8", "它是8。"),
        ('He said "it is 8." So 8', 'He said "it is 8."'),
    ],
)
def test_where_sentences_end(reader, text, first):
    expected = len(reader.thinking.tokenizer.encode(first))
    assert read(reader, text, problem()).first_correct_tokens == expected


def test_math_is_asked_about_boxes_and_knows_numbers_itself(reader, monkeypatch):
    asked = []

    def verify(of, text):
        asked.append(text)
        return text == "\\boxed{x+1}"

    monkeypatch.setattr("efficient_reasoning.overthinking.answers.verify", verify)
    encode = reader.thinking.tokenizer.encode
    numbers = "<think>So 7. Or 8. Surely.</think>\\boxed{8.0}"
    first = length("<think>So 7. Or 8.")
    assert reader.read(encode(numbers), [], problem("8", "math"), True) == Reading(first, first, False)
    assert asked == []
    first = "<think>So \\boxed{x-1}. No 8. Now \\boxed{x+1}."
    text = f"{first} Or \\boxed{{x-1}}. Again \\boxed{{x-1}}.</think>\\boxed{{x+2}}"
    expected = Reading(length(first), length(text), False)
    assert reader.read(encode(text), [], problem("x+1", "math"), False) == expected
    assert asked == ["\\boxed{x-1}", "\\boxed{x+1}"]
    assert reader.read(encode(text), [], problem("x+1", "math"), False) == expected
    assert len(asked) == 2  # what was verified is remembered


def test_an_answer_in_the_wrong_form_is_wrong_wherever_it_stands(reader):
    ids = reader.thinking.tokenizer.encode("<think>So 8. Yes.</think>8")
    first = length("<think>So 8.")
    assert reader.read(ids, [], problem("8", "math"), False) == Reading(None, first, False)


@pytest.mark.parametrize("task", ["judge", "unit_tests"])
def test_what_costs_too_much_to_ask_is_not_searched(reader, task, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.overthinking.answers.verify", lambda *_: pytest.fail("was asked"))
    ids = reader.thinking.tokenizer.encode("<think>It is 8. Yes.</think>It is 8.")
    total = len(ids)
    assert reader.read(ids, [], problem(task=task), True) == Reading(total, total, False)
    assert reader.read(ids, [], problem(task=task), False) == Reading(None, total, False)


def test_gold_of_gym_may_be_a_number_or_tagged(reader, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.overthinking.answers.verify", lambda of, text: text == "a b")
    encode = reader.thinking.tokenizer.encode
    text = "<think>Is it 8? Yes.</think>The answer is 8"
    assert reader.read(encode(text), [], problem("8", "gym:x"), True) == Reading(
        length("<think>Is it 8?"), length("<think>Is it 8?"), False
    )
    text = "<think>a b. <answer>a b</answer>. Hm.</think><answer>b</answer>"
    first = length("<think>a b. <answer>a b</answer>.")
    assert reader.read(encode(text), [], problem("a b", "gym:x"), False) == Reading(first, length(text), False)


def test_a_reader_remembers_verdicts_only_up_to_a_point(reader, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.overthinking._MOST_VERDICTS", 3)
    for number in range(20):
        text = f"<think>It is {number}. Or 4. Or 8. Or 5.</think>5"
        assert read(reader, text, problem(id=f"p{number}")).first_correct_tokens is not None
        assert len(reader._verdicts) <= 3


def test_without_gold_answers_the_majority_is_right(reader):
    of = problem(None, "agrees_with_base", base_answers=["8", "8", "7"])
    assert read(reader, THINKING, of).first_correct_tokens == length("<think>5-3=2. Not so: 5+3=8.")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7] * 64, True),
        ([7] * 63, False),
        ([7] * 63 + [8] + [7] * 63, False),
        (list(range(22)) * 3, True),
        (list(range(22)) * 2 + list(range(20)), False),  # the third time is not whole
        (list(range(8)) * 8 + [99], True),  # it came out of the loop
        ([99, *list(range(32)) * 3, 98, 97], True),
        (list(range(100)) + [5, 6] * 31 + list(range(100)), False),  # 62 ids
        (list(range(40)) * 2, False),
        ([i * i % 101 for i in range(101)], False),
        ([], False),
    ],
)
def test_what_a_loop_is(ids, expected):
    assert loops(ids) is expected


def test_the_share_up_to_the_first_correct_answer():
    cases = {(20, 100): 0.2, (60, 60): 1.0, (None, 50): 1.0, (None, 0): 1.0, (0, 0): 1.0}
    for (first, total), share in cases.items():
        assert kept_share({"first_correct_tokens": first, "total_tokens": total}) == pytest.approx(share)


def test_loops_are_those_that_a_search_of_every_period_finds():
    """Short alphabets repeat by accident, long ones only where a block was put several times."""
    rng = random.Random(3)
    found = set()
    for _ in range(80):
        letters, period = rng.choice((2, 5, 1000)), rng.randint(1, 60)
        block = [rng.randrange(letters) for _ in range(period)]
        times = rng.randint(1, 6)
        around = [[rng.randrange(letters) for _ in range(rng.randint(0, 60))] for _ in range(2)]
        ids = [*around[0], *(block * times), *block[: rng.randint(0, period)], *around[1]]
        expected = any(
            all(ids[i] == ids[i + p] for i in range(start, start + max(3 * p, LOOP_TOKENS) - p))
            for p in range(1, len(ids) // 3 + 1)
            for start in range(len(ids) - max(3 * p, LOOP_TOKENS) + 1)
        )
        assert loops(ids) == expected
        found.add(expected)
    assert found == {True, False}


def test_long_responses_are_searched_in_no_time():
    ids = random.Random(1).choices(range(150_000), k=32_000)
    began = time.perf_counter()
    assert not loops(ids)
    assert loops(ids + list(range(400)) * 3)
    assert time.perf_counter() - began < 0.5
