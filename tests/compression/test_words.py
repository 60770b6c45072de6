"""Chains as words: what is one, what stays, and what is left of a text without some of them."""

from __future__ import annotations

import random
import time

import pytest

from efficient_reasoning.compression.words import join_words, split_chunks, split_words

OVERTHOUGHT = (
    "First, 12+30=42. Wait, check: 42-30=12. Yes.\nThen 2*42=84.\nLet me redo it: 12+30=42, 2*42=84. The same."
)
TOLD = (
    "Natalia sold 48/2 = 24 clips in May, and (half of them) cost $9.50 each; 50% of 10r4 ...\n\n"
    'So \\frac{1}{2} of x = 5y -- a left-over, and/or "two" 12-year-old 3:4.\n- 1,200 people, she did.\n'
)


def kept(text: str, *left_out: str) -> str:
    words = split_words(text)
    return join_words(words, [word.text not in left_out for word in words])


@pytest.mark.parametrize("text", [OVERTHOUGHT, TOLD.rstrip(), "", "  a", "...", ", then", "日本 は 1 。"])
def test_all_words_are_the_text(text):
    words = split_words(text)
    assert join_words(words, [True] * len(words)) == text.strip()
    assert "".join(word.space + word.text for word in words) == text.rstrip()
    assert all(text[word.start : word.stop] == word.space + word.text for word in words)


def test_expressions_are_one_word_and_stay():
    fixed = [word.text for word in split_words(TOLD) if word.fixed]
    assert fixed == [
        "48/2 = 24", "$9.50", "50%", "10r4", "\\frac{1}{2}", "x = 5y", "12-year-old", "3:4", "- 1,200",
    ]  # fmt: skip


def test_a_letter_may_be_an_operator():
    assert [word.text for word in split_words("read 12 x 2 = 24 pages, x more")][:2] == ["read", "12 x 2 = 24"]
    assert split_words("5 x $3 = $15 for all")[0].text == "5 x $3 = $15"
    assert [word.text for word in split_words("20 gallons/set x 3 sets")] == ["20", "gallons/set", "x 3", "sets"]


def test_a_number_may_begin_with_its_point():
    assert [word.text for word in split_words("200(.30)=60, half .5 and 800 x .1 = 80.")] == [
        "200(.30)=60", ",", "half", ".5", "and", "800 x .1 = 80", ".",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("So x² + 3x = 10, and √16 = 4 too.", "x² + 3x = 10 √16 = 4"),
        ("thus (−3)² = 9 there", "(−3)² = 9"),
        ("half ½ × 8 = 4", "½ × 8 = 4"),
        ("area πr² of it", "πr²"),
        ("so 2 ∪ 5 ≡ 3", "2 ∪ 5 ≡ 3"),
    ],
)
def test_written_mathematics_stays(text, fixed):
    words = split_words(text)
    assert join_words(words, [word.fixed for word in words]) == fixed


@pytest.mark.parametrize("sign", list("+-*/=<>^×÷"))
def test_no_operator_is_left_out(sign):
    words = split_words(f"apples {sign} 3 and 3 {sign} apples, 4 {sign} 5")
    assert all(word.fixed for word in words if sign in word.text)


@pytest.mark.parametrize(
    ("text", "left_out", "rest"),
    [
        ("First, 1+1=2. Then 2+2=4.", ["First", "Then"], "1+1=2. 2+2=4."),
        ("First, 1+1=2.\nThen 2+2=4.", ["Then", "."], "First, 1+1=2\n2+2=4"),
        ("1+1=2. Yes.\nThen 2+2=4.", ["Yes"], "1+1=2.\nThen 2+2=4."),
        ("Ann sold clips, and bags.", ["clips", "bags"], "Ann sold, and."),
        ("Ann sold clips, bags.", ["bags"], "Ann sold clips."),
        ("She said (half of them).", ["of"], "She said (half them)."),
        ("so ;it is", [";"], "so it is"),
        ("lessons 15,17&19 are 3", ["&"], "lessons 15,17 19 are 3"),
        ("40 hours * $12/hour = $480", ["hours", "/hour"], "40 * $12 = $480"),
        ("One.\n\nTwo.\nThree.", ["Two", "."], "One\n\nThree"),
        ("Gone.", ["Gone", "."], ""),
    ],
)
def test_what_is_left(text, left_out, rest):
    assert kept(text, *left_out) == rest


def test_whatever_is_left_out_the_words_that_stay_are_whole():
    rng = random.Random(0)
    words = split_words(TOLD)
    for _ in range(500):
        stays = [word.fixed or rng.random() < 0.5 for word in words]
        rest = join_words(words, stays)
        assert [word.text for word in split_words(rest) if word.fixed] == [word.text for word in words if word.fixed]
        spoken = [word.text for word, stay in zip(words, stays, strict=True) if stay and not word.is_mark]
        assert [word.text for word in split_words(rest) if not word.is_mark] == spoken


def test_steps_keep_their_remarks():
    words = split_words(OVERTHOUGHT)
    steps = [OVERTHOUGHT[words[step[0]].start : words[step[-1]].stop] for step in split_chunks(OVERTHOUGHT, words)]
    assert steps == [
        "First, 12+30=42.",
        " Wait, check: 42-30=12. Yes.",
        "\nThen 2*42=84.",
        "\nLet me redo it: 12+30=42, 2*42=84. The same.",
    ]
    assert len(split_chunks(OVERTHOUGHT, words, "sentence")) == 6


def test_paragraphs_are_the_steps_of_long_chains():
    text = "Let me see. 1+1=2.\n\nYes.\n\nSo the answer is 2. I am sure of it, really."
    words = split_words(text)
    assert [len(step) for step in split_chunks(text, words)] == [8, 14]


@pytest.mark.parametrize(
    "unit", ["1", "a", "-", "\\", "{", " ", "( ", "1-", "a-", "\\a{", "$", "1 + ", "_", "x=", ".1", "1/a"]
)
def test_long_nonsense_takes_no_time(unit):
    text = unit * 20_000
    began = time.perf_counter()
    split_words(text)
    assert time.perf_counter() - began < 5
