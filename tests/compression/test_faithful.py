"""Whether a shorter chain still says what the long one said."""

from __future__ import annotations

import time

import pytest

from efficient_reasoning.compression.faithful import unfaithful

QUESTION = "Natalia sold 48 clips in April, and half as many in May. How many in all?"
LONG = "She sold 48/2 = 24 clips in May. Wait, check: 24*2=48. Yes.\nIn all she sold 48+24 = $72.\n"


@pytest.mark.parametrize(
    ("short", "fault"),
    [
        ("48/2=24\n48+24=72", None),
        ("Half of 48 is 24, and 48 + 24 = 72.", None),
        ("1. 48 / 2 = 24\n2. 48 + 24 = 72\nThe answer is \\boxed{72}.", None),
        ("48+24=72", None),  # 24 is there, as an operand
        ("48/2=24\n48+24=73", "a number invented"),  # wrong arithmetic makes no number
        ("48/2=24\n25+48=73\n24+48=72", "a number invented"),
        ("48*3=144, 144/2=72, and 24", None),  # another way, whose numbers are worked out
        ("48+24=72\n#### 73", "another answer"),
        ("48/2=24", "a number lost"),  # the answer
        ("She sold 48 and half of it: 72.", "a number lost"),  # what the answer is made of
        ("The answer is 24. No: the answer is 72.", None),
        ("So the answer is 72, for 24 + 48 = 72, and 72 - 24 = 48.", None),
        ("With 24 the answer is clear.\nIt is 72.", None),
    ],
)
def test_numbers(short, fault):
    assert unfaithful(short, LONG, QUESTION, "72") == fault


def test_only_what_the_answer_comes_from_has_to_stay():
    long = "First 30+12=42. Is 30*12=360 of use? No. 42-2=40."
    assert unfaithful("30+12=42, 42-2=40", long, "30, 12 and 2?", "40") is None
    assert unfaithful("30, 40", long, "30, 12 and 2?", "40") == "a number lost"


def test_a_wrong_equation_of_the_long_chain_need_not_stay():
    long = "47+28=65. Wait, check: 65-28=37. Not 47. So 47+28=75. 75+20=95."
    assert unfaithful("47+28=75, 75+20=95", long, "47 + 28 + 20", "95") is None


@pytest.mark.parametrize(
    "equation",
    ["10/3=3.33", "20/3=6.66", "20/3=6.67", "20% * 50 = 10", "(2+3) × 14 = 70", "$1,200 ÷ 3 = $400", ".5*50=25.0"],
)
def test_right_results_are_worked_out(equation):
    long = "From 10, 3, 20, 50, 14, 1200 and 0.5 comes 999."
    assert unfaithful(f"{equation}, so 999", long, "", "999") is None


@pytest.mark.parametrize("equation", ["10/3=3.34", "50/0=50.5", "2**14=16384", "50+-=77", "50=77", "x+50=77"])
def test_other_results_are_not(equation):
    assert unfaithful(f"{equation}, so 999", "From 10, 3, 50 and 14 comes 999.", "", "999") == "a number invented"


@pytest.mark.parametrize(
    ("short", "answer", "fault"),
    [
        ("So it is Tuesday.", "Tuesday", None),
        ("So it is Wednesday.", "Tuesday", "the answer lost"),
        ("A week later.", "Thursday", None),  # the long chain does not say it either
        ("x = -4, so Tuesday", "-4", None),
    ],
)
def test_answers_of_all_kinds(short, answer, fault):
    assert unfaithful(short, "Two days after Sunday: on a tuesday, x = -4.", "", answer) == fault


def test_a_loop_of_digits_or_brackets_takes_no_time():
    began = time.process_time()
    for text in ("1" * 20_000, "1+" * 20_000 + "=1", "(" * 20_000 + "=2", "-" * 190 + "1=1", "(" * 150 + "1=1"):
        assert unfaithful(f"{text} 7", f"{text} 7", text, "7") is None
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("short", "answer", "fault"),
    [
        (r"so \boxed{A}", "B", "another answer"),
        (r"so \boxed{B}", "B", None),
        ("The answer is A", "B", "another answer"),
        ("The answer is (B).", "B", None),
        (r"\boxed{x^2-1}", "$x^2+1$", "another answer"),
        (r"\boxed{x^2 + 1}", "$x^2+1$", None),
        ("So the answer is 1/4.", "3/4", "another answer"),
        ("So the answer is 3/4.", "3/4", None),
        ("3-8 = 5, answer is 5", "-5", "another answer"),
        ("3-8 = -5. The answer is -5.", "-5", None),
        ("The answer is 5 dollars, of 8.", "5", None),
    ],
)
def test_whoever_states_an_answer_states_the_right_one(short, answer, fault):
    assert unfaithful(short, r"From 3, 8, 1/4, 3/4 and 5 it is \boxed{B}.", "", answer) == fault
