"""Choosing among samples whose worth is known."""

from __future__ import annotations

import math

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from efficient_reasoning.inference.engine import LOGPROBS
from tests.inference.minds import EOS, PLAIN, encode, said
from tests.inference.search.crowd import Crowd, Opinion, vote

RERANKINGS = ("best-of-n", "weighted-vote")


def by_answer(**values: float) -> Opinion:
    """Looks at the answer alone, of which the last letter of a name tells it: `by_answer(a7=0.3)`."""
    worth = {name[-1]: value for name, value in values.items()}
    return Opinion(lambda text: worth.get(text.removesuffix("<|end|>")[-1], 0.0))


def test_the_highest_value_wins_and_ratings_are_charged():
    rater = by_answer(a7=0.3, a8=0.2, a9=0.9)
    answer, response, engine = vote("best-of-n", ["7", "7", "9", "8"], samples=4, verifier=rater)
    assert answer == "9"
    assert len(rater.asked) == 4
    assert response.spend == engine.spent + rater.spent
    assert response.spend.rated_tokens == rater.spent.rated_tokens > 0


@pytest.mark.parametrize(("value", "winner"), [(0.5, "7"), (0.7, "9")])  # against 2 * 0.3
def test_votes_weigh_what_they_are_worth(value, winner):
    rater = by_answer(a7=0.3, a9=value)
    answer, response, engine = vote("weighted-vote", ["7", "7", "9"], samples=3, verifier=rater)
    assert answer == winner
    assert response.spend == engine.spent + rater.spent


def test_a_tie_is_broken_by_the_seed():
    def winners(answers):
        rater = Opinion(lambda text: 0.5)
        return {seed: vote("best-of-n", answers, seed=seed, samples=2, verifier=rater)[0] for seed in range(20)}

    assert set(winners(["7", "8"]).values()) == {"7", "8"}


@pytest.mark.parametrize("strategy", RERANKINGS)
def test_a_sample_without_an_answer_does_not_win(strategy):
    rater = Opinion(lambda text: 0.1 if text.endswith("<|end|>") else 0.9)
    assert vote(strategy, ["", "7", ""], samples=3, verifier=rater)[0] == "7"
    answer, response, _ = vote(strategy, ["", ""], samples=2, verifier=rater)
    first = vote("budget-forcing", [""])[1]
    assert (answer, response.ids) == ("", first.ids)


class Liner(Crowd):
    """The i-th sample thinks the i-th of these chains, and its answer is i."""

    def __init__(self, chains: list[str], seed: int = 5):
        super().__init__(chains, seed)

    def _say(self, so_far):
        whole = [*encode(PLAIN.write(self.answers[self.number], str(self.number))), EOS]
        return [whole[len(said(so_far))]]


@pytest.mark.parametrize(("aggregate", "winner"), [("last", "0"), ("min", "1"), ("product", "2")])
def test_values_of_steps_are_taken_together(aggregate, winner):
    # Each line is named after its value in tenths, and the answers after the samples.
    values = {"2\n": 0.2, "5\n": 0.5, "7\n": 0.7, "0<|end|>": 0.9, "1<|end|>": 0.6, "2<|end|>": 0.45}
    rater = Opinion(lambda text: next((value for end, value in values.items() if text.endswith(end)), math.nan))
    engine = Liner(["2\n", "5\n", "7\n"])  # 0.2 and 0.9, 0.5 and 0.6, 0.7 and 0.45
    parameters = {"samples": 3, "verifier": rater, "aggregate": aggregate}
    assert vote("best-of-n", engine, **parameters)[0] == winner


@pytest.mark.parametrize(
    ("strategy", "winner"),
    [("best-of-n", "9"), ("weighted-vote", "7")],  # 0.9 alone is more than 0.5, and less than 0.5 twice
)
def test_without_a_verifier_likely_samples_are_worth_more(strategy, winner):
    engine = Crowd(["7", "7", "9"], 5)
    engine.confidence = lambda ids, token: 0.9 if engine.number == 2 else 0.5
    answer, response, _ = vote(strategy, engine, samples=3)
    assert answer == winner
    assert response.spend == engine.spent
    assert all(request.logprobs for request in engine.requests)


def test_log_probabilities_are_needed_without_a_verifier():
    assert get_strategy("best-of-n").needs == {LOGPROBS}
    assert get_strategy("best-of-n", verifier=by_answer()).needs == frozenset()


@pytest.mark.parametrize("strategy", RERANKINGS)
def test_a_budget_that_holds_one_sample_is_that_sample_unrated(strategy):
    rater = by_answer(a7=0.5)
    one = vote(strategy, ["7", "8"], budget_tokens=20, verifier=rater)[1]
    assert one == vote("budget-forcing", ["7", "8"], budget_tokens=20)[1]
    assert rater.asked == []


def test_parameters_without_meaning_are_refused():
    with pytest.raises(BadInput, match="samples is 0"):
        get_strategy("best-of-n", samples=0)
    with pytest.raises(BadInput, match="aggregate must be one of last, min, product"):
        get_strategy("best-of-n?aggregate=mean")
    with pytest.raises(BadInput, match="aggregate is min, of a verifier's values; give verifier"):
        get_strategy("best-of-n?aggregate=min")
