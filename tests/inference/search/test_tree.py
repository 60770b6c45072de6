"""Tree searches on a model that says another line for every seed, and a rater that thinks as much of it as it says."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.search.tree import allot
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import CLOSE, EOS, OPEN, TOKENIZER, assignment, encode, said
from tests.inference.search.crowd import Opinion

SEARCHES = {"rebase": {"width": 4}, "beam-search": {"width": 2, "expansions": 2}}


class Lines(MockEngine):
    """Thinks `depth` lines, each the last digit of its request's seed, and answers with the last of them."""

    def __init__(self, depth: int = 2):
        super().__init__(self._say, frozenset({EOS}), TOKENIZER.decode)
        self.depth = depth

    def _decode(self, request):
        self.digit = str(request.seed % 10)
        return super()._decode(request)

    def _say(self, so_far):
        response = said(so_far)
        if not response:
            return OPEN
        if CLOSE in response:
            answered = response[-1] != CLOSE
            return EOS if answered else encode(self._lines(so_far)[-1])[0]
        lines = self._lines(so_far)
        if response[-1] == OPEN or TOKENIZER.decode([response[-1]]) == "\n":
            return CLOSE if len(lines) == self.depth else encode(self.digit)[0]
        return encode("\n")[0]

    @staticmethod
    def _lines(so_far) -> list[str]:
        return TOKENIZER.decode(said(so_far)).removeprefix("<think>").partition("</think>")[0].splitlines()

    def paths(self) -> Counter[str]:
        """How often each beginning was gone on from, as digits."""
        return Counter("".join(self._lines(request.prompt_ids)) for request in self.requests)


def last_digit(text: str) -> float:
    return int(["0", *filter(str.isdigit, text)][-1]) / 10


def search(strategy: str, engine: MockEngine, budget_tokens: int | None = None, seed: int = 5, **parameters):
    given = dataclasses.replace(assignment(budget_tokens, max_new_tokens=60), seed=seed)
    rater = parameters.setdefault("verifier", Opinion(last_digit))
    [response] = run_all(TwoPassEngine(engine), [get_strategy(strategy, **parameters).solve(given)])
    return TOKENIZER.decode(response.ids), response, rater


@pytest.mark.parametrize(
    ("balance_temperature", "children"),
    [
        (0.01, {"8": 4}),
        # softmax of 5, 6, 7, 8: 0.03, 0.09, 0.24, 0.64 of four children
        (0.1, {"7": 1, "8": 3}),
        (100.0, {"5": 1, "6": 1, "7": 1, "8": 1}),
    ],
)
def test_rebase_gives_children_in_proportion_to_worth(balance_temperature, children):
    engine = Lines()
    text, response, rater = search("rebase", engine, width=4, balance_temperature=balance_temperature)
    paths = engine.paths()
    assert paths.pop("") == 4
    assert {path: count for path, count in paths.items() if len(path) == 1} == children
    # The second line is of seeds 9, 10, 11, 12, and "9" is worth most of what they vote for.
    assert text.endswith("\n9\n</think>9<|end|>")
    assert response.spend == engine.spent + rater.spent


def test_branches_that_are_done_keep_their_leaves():
    class Uneven(Lines):
        """Whose first line is a 5 thinks no second one."""

        def _say(self, so_far):
            self.depth = 1 if self._lines(so_far)[:1] == ["5"] else 3
            return super()._say(so_far)

    engine = Uneven()
    search("rebase", engine, width=4, balance_temperature=100.0)
    asked = engine.paths()
    assert asked[""] == 4
    of_length = Counter(len(path) for path in asked.elements())
    assert of_length[2] == 3  # one of four leaves was done before


def test_a_beam_search_keeps_the_best():
    engine = Lines()
    text, response, rater = search("beam-search", engine, width=1, expansions=3)
    paths = engine.paths()
    assert (paths[""], paths["7"], paths["5"], paths["6"]) == (3, 3, 0, 0)  # of seeds 5, 6, 7
    assert text == "<think>7\n9\n</think>9<|end|>"  # of seeds 8, 9, 10; none is done before the close
    assert response.spend == engine.spent + rater.spent


@pytest.mark.parametrize("strategy", SEARCHES)
def test_ties_are_broken_by_the_seed(strategy):
    answers = {
        search(strategy, Lines(1), seed=seed, verifier=Opinion(lambda text: 0.5), **SEARCHES[strategy])[0][-8]
        for seed in range(10, 40, 10)  # which say the same lines
    }
    assert len(answers) > 1


@pytest.mark.parametrize("strategy", SEARCHES)
def test_a_budget_that_holds_one_sample_is_that_sample_unrated(strategy):
    _, one, rater = search(strategy, Lines(), budget_tokens=20, **SEARCHES[strategy])
    [plain] = run_all(TwoPassEngine(Lines()), [get_strategy("budget-forcing").solve(assignment(20))])
    assert one == plain
    assert rater.asked == []


@pytest.mark.parametrize("strategy", SEARCHES)
@pytest.mark.parametrize("budget_tokens", [60, 75, 90, 150])
def test_endless_lines_are_closed_within_the_budget(strategy, budget_tokens):
    text, response, _ = search(
        strategy, Lines(1000), budget_tokens=budget_tokens, sample_tokens=15, **SEARCHES[strategy]
    )
    assert response.spend.tokens <= budget_tokens
    assert response.forced_close
    assert text.partition("</think>")[2]


@pytest.mark.parametrize("strategy", SEARCHES)
def test_without_answers_the_first_branch_is_returned(strategy):
    _, response, _ = search(strategy, Lines(1000), **SEARCHES[strategy])
    assert len(response.ids) == 60
    assert not response.finished


def test_what_stands_behind_a_blank_line_is_worth_what_stood_before_it():
    class Blank(Lines):
        def _say(self, so_far):
            response = TOKENIZER.decode(said(so_far))
            return encode("\n")[0] if response.endswith("\n") and response.count("\n") == 1 else super()._say(so_far)

        @staticmethod
        def _lines(so_far):
            return [line for line in Lines._lines(so_far) if line]

    engine = Blank()
    _, _, rater = search("rebase", engine, width=4, balance_temperature=0.01)
    assert not any(text.endswith("\n\n") for text in rater.asked)
    assert engine.paths()["8"] == 4 + 4  # the blank line, and the one behind it


def test_shares_are_whole_and_add_up():
    rng = random.Random(0)
    assert allot([0.5, 0.3, 0.2], 10, rng) == [5, 3, 2]
    assert allot([0.66, 0.34], 3, rng) == [2, 1]
    assert sorted(allot([1.0] * 3, 4, rng)) == [1, 1, 2]
    assert {tuple(allot([1.0] * 2, 1, random.Random(seed))) for seed in range(9)} == {(0, 1), (1, 0)}


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ("rebase", "Strategy 'rebase' needs verifier"),
        ("rebase?verifier=x&width=0", "width is 0"),
        ("rebase?verifier=x&balance_temperature=0", "balance_temperature is 0"),
        ("beam-search?verifier=x&expansions=0", "expansions is 0"),
    ],
)
def test_parameters_without_meaning_are_refused(strategy, sentence):
    with pytest.raises(BadInput, match=sentence):
        get_strategy(strategy)
