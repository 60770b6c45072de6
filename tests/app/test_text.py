from __future__ import annotations

import html
from html.parser import HTMLParser

import pytest

from efficient_reasoning.app.stream import Growing
from efficient_reasoning.app.text import escape, show_response, show_sample
from tests.app.conftest import make_sample

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</div></details><b>out</b>",
    "**bold** [link](javascript:alert(1)) # title",
    "${alert(1)} {{constructor}} @children `x` \\u003c",
    "&lt;b&gt; \"quoted\" 'text'",
]


class Reader(HTMLParser):
    """What a browser would make of it: the tags, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_written_is_shown_letter_by_letter(attack):
    shown = show_sample(
        make_sample("s", 64, 1, question=attack, answer=attack, thinking=attack, final_answer=attack, id=attack)
    )
    reader = Reader(shown)
    assert reader.text.count(attack) == 5
    assert {tag for tag, _ in reader.tags} <= {
        "article", "div", "span", "section", "h4", "details", "summary", "dl", "dt", "dd",
    }  # fmt: skip
    assert not any(letter in escape(attack) for letter in "<>${}@`\\")
    assert html.unescape(escape(attack)) == attack


def test_thinking_is_folded_and_counted():
    sample = make_sample("s", None, 3, thinking_tokens=1234, answer_tokens=5, correct=False, truncated=True)
    reader = Reader(show_sample(sample))
    [details] = [attributes for tag, attributes in reader.tags if tag == "details"]
    assert "open" not in details
    assert "Thinking 1,234 tokens" in reader.text
    assert "Answer 5 tokens" in reader.text
    for words in ("wrong", "cut off", "unlimited", "2 forced", "Compute 3 + 3."):
        assert words in reader.text


def test_a_response_that_grows_is_open_while_it_thinks():
    def is_open(growing):
        return any(tag == "details" and "open" in attributes for tag, attributes in Reader(growing).tags)

    assert is_open(show_response("m", Growing("so", "", True, 1, 0, 2)))
    assert not is_open(show_response("m", Growing("so", "20", False, 1, 1, 4)))


def test_a_refusal_is_a_sentence():
    reader = Reader(show_response("<m>", "budget_tokens is <3>; give at least 8."))
    assert "<m>" in reader.text
    assert "budget_tokens is <3>; give at least 8." in reader.text
