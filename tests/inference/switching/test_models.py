"""Two models: who is asked, what is kept of the small one's work, and who pays."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch

from efficient_reasoning import load_reasoner
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy, solve_many
from efficient_reasoning.inference.engine import SCORE
from efficient_reasoning.inference.others import load_small
from efficient_reasoning.inference.recall import RecallingEngine
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.inference.switching.probe import Probe
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import (
    CLOSE,
    EOS,
    LINES,
    OPEN,
    OTHER,
    PLAIN,
    TOKENIZER,
    WORD,
    BiasedEngine,
    assignment,
    bound,
    encode,
    reasoner_of,
)

[LINE] = encode("\n")
ASKED = encode("so so\n")  # as both models are asked
LARGE = [OPEN, WORD, WORD, CLOSE, *encode("7"), EOS]
SMALL = [OPEN, OTHER, CLOSE, *encode("8"), EOS]


def written(so_far) -> list[int]:
    return so_far[len(ASKED) :]


def engine(ids, confidence=lambda response, token: 1.0) -> BiasedEngine:
    return BiasedEngine(
        lambda so_far: [*ids[len(written(so_far)) :][:1], WORD, OTHER],
        frozenset({EOS}),
        TOKENIZER.decode,
        lambda so_far, token: confidence(written(so_far), token),
    )


def run(strategy: str, large: BiasedEngine, small: BiasedEngine, budget_tokens: int | None = None, **parameters):
    """The response; what it is charged with is what both engines charged."""
    chosen = bound(strategy, large, PLAIN, small, small="small", **parameters)
    given = assignment(budget_tokens, prompt_ids=ASKED, max_new_tokens=60)
    [response] = run_all(TwoPassEngine(large), [chosen.solve(given)])
    uncounted = {"forced_tokens": 0, "rated_tokens": 0}
    assert dataclasses.replace(response.spend, **uncounted) == large.spent + small.spent
    return response


# ---- cascade ----


@pytest.mark.parametrize(("confidence", "expected"), [(0.95, SMALL), (0.85, LARGE)])
def test_the_large_model_is_asked_where_the_small_one_is_not_sure(confidence, expected):
    small = engine(SMALL, lambda response, token: confidence)
    response = run("cascade", engine(LARGE), small)
    assert response.ids == expected
    assert response.spend.tokens == len(SMALL) + (len(LARGE) if expected is LARGE else 0)


class Divided(BiasedEngine):
    """Says 8 for even seeds, and 9 for others."""

    def __init__(self):
        super().__init__(self._say, frozenset({EOS}), TOKENIZER.decode)

    def _decode(self, request):
        self.answer = "89"[request.seed % 2]
        return super()._decode(request)

    def _say(self, so_far):
        return [[OPEN, OTHER, CLOSE, *encode(self.answer), EOS][len(written(so_far))], WORD]


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, "89"), (0.6, "7")])
def test_several_samples_are_as_sure_as_they_agree(threshold, expected):
    response = run("cascade", engine(LARGE), Divided(), samples=4, threshold=threshold)
    assert TOKENIZER.decode(PLAIN.split(response.ids).answer_ids) in expected


def test_samples_without_an_answer_agree_on_nothing():
    small = engine([OPEN, *[WORD] * 100])
    assert run("cascade", engine(LARGE), small, samples=3, threshold=0.01).ids == LARGE


def test_forced_tokens_make_nobody_sure():
    thinks = engine([OPEN, *[OTHER] * 100], lambda response, token: 0.89 if token != CLOSE else 1.0)
    [completion] = yield_one(thinks, budget_tokens=12)
    assert completion.mean_probability == pytest.approx(0.89)
    assert completion.was_closed and 0.0 in completion.logprobs


def yield_one(model: BiasedEngine, budget_tokens: int):
    given = assignment(budget_tokens, prompt_ids=ASKED)
    request = given.request([], budget_tokens, budget_tokens - 6)
    return TwoPassEngine(model).generate([dataclasses.replace(request, logprobs=True)])


def test_an_answer_that_was_cut_off_is_no_answer():
    assert run("cascade", engine(LARGE), engine([OPEN, *[WORD] * 100])).ids == LARGE


def test_a_budget_that_holds_one_answer_is_the_large_models():
    small = engine(SMALL)
    assert run("cascade", engine(LARGE), small, budget_tokens=10).ids == LARGE
    assert not small.requests


@pytest.mark.parametrize(("confidence", "expected"), [(0.95, SMALL), (0.85, LARGE)])
def test_a_claim_behind_the_answer_says_how_sure_the_small_model_is(confidence, expected):
    """Its last token alone; how probable the response and the rest of the claim are says nothing."""
    behind = [*SMALL[:-1], *encode(" so")]
    small = engine(SMALL, lambda response, token: confidence if (response, token) == (behind, OTHER) else 0.1)
    response = run("cascade", engine(LARGE), small, claim=" so7")
    assert response.ids == expected
    assert response.spend.rated_tokens == len(ASKED) + len(behind) + 1
    assert response.spend.tokens == len(SMALL) + (len(LARGE) if expected is LARGE else 0)


def test_an_answer_that_was_cut_off_claims_nothing():
    response = run("cascade", engine(LARGE), engine([OPEN, *[WORD] * 100]), claim="7")
    assert response.ids == LARGE
    assert response.spend.rated_tokens == 0


def test_a_claim_is_read_and_nothing_else_again(tiny_model, monkeypatch):
    """By the small model: what it decoded is held, though it ended."""
    large, small = load_reasoner(str(tiny_model), "graph", device="cpu"), load_reasoner("overthinker", device="cpu")
    monkeypatch.setattr("efficient_reasoning.inference.others.load_other", lambda name: small)
    settings = {"seeds": [1, 2], "max_new_tokens": 200}
    questions = ["Compute 34 + 27 - 15.", "Compute 34 + 27 - 15 + 88."]
    for reasoner in (large, large.recalling()):
        solutions = solve_many(reasoner, questions, "cascade?small=s&threshold=0", claim="7", **settings)
        for solution in solutions:
            assert not solution.truncated
            read = len(solution.prompt_ids) + len(solution.completion_ids)
            assert solution.spend.rated_tokens == read
            assert solution.spend.prompt_tokens == len(solution.prompt_ids) + read
            assert solution.spend.computed_prompt_tokens == len(solution.prompt_ids) + 2


# ---- router ----


@pytest.mark.parametrize(("bias", "expected"), [(1.0, LARGE), (-1.0, SMALL)])
def test_a_probe_of_the_small_model_says_who_is_asked(tmp_path, bias, expected):
    probe = tmp_path / "probe.safetensors"
    Probe(torch.zeros(2, 1), torch.tensor([0.0, bias]), None, 0.0).save(probe)
    large, small = engine(LARGE), engine(SMALL)
    response = run("router", large, small, probe=str(probe))
    assert response.ids == expected
    assert not (small if expected is LARGE else large).requests


# ---- spec-reason ----

STEPS = [OPEN, WORD, LINE, WORD, LINE, WORD, CLOSE]


def test_steps_that_the_large_model_would_have_written_are_kept():
    large, small = engine([*STEPS, *encode("7"), EOS]), engine([*STEPS, *encode("8"), EOS])
    response = run("spec-reason", large, small)
    assert response.ids == [*STEPS, *encode("7"), EOS]  # the answer is the large model's
    assert [request.offset for request in large.requests] == [len(STEPS)]


def test_an_improbable_step_is_rewritten_and_the_small_model_goes_on_from_there():
    own = [OPEN, WORD, LINE, OTHER, OTHER, LINE, WORD, CLOSE, *encode("7"), EOS]
    drafted = [OPEN, WORD, LINE, WORD, WORD, LINE, WORD, CLOSE, *encode("8"), EOS]

    def confidence(response, token):
        return 0.1 if len(response) in (3, 4) else 0.9

    large, small = engine(own, confidence), engine(drafted)
    response = run("spec-reason", large, small)
    assert response.ids == own
    step, answer = large.requests
    assert (step.offset, answer.offset) == (3, 8)
    assert [request.offset for request in small.requests] == [0, 6]
    # Of the first draft of eight tokens five were thrown away.
    assert response.spend.decoded_tokens == len(own) + 5


def test_a_small_model_that_ends_without_a_close_does_not_end_the_response():
    large = engine(LARGE)
    response = run("spec-reason", large, engine([OPEN, WORD, EOS, EOS, EOS, EOS]))
    assert response.ids == LARGE


def test_a_chain_is_as_long_as_it_may_be_whatever_was_thrown_away():
    large = engine([OPEN, *[WORD, LINE] * 10, CLOSE, *encode("7"), EOS], lambda response, token: 0.5)
    response = run("spec-reason", large, engine([OPEN, *[OTHER] * 100]), draft_tokens=8)
    assert response.finished
    assert response.spend.tokens > 60


# ---- which models ----


ASKING = {"cascade": {}, "router": {"probe": "x"}, "spec-reason": {}}  # a small model


@pytest.mark.parametrize("strategy", ASKING)
def test_a_small_model_that_is_the_large_one_is_refused(strategy):
    with pytest.raises(BadInput, match="The small model is large itself; give a smaller one"):
        bound(strategy, engine(LARGE), PLAIN, small="large", **ASKING[strategy])


@pytest.mark.parametrize("strategy", ASKING)
def test_a_small_model_of_another_tokenizer_is_refused(strategy):
    with pytest.raises(BadInput, match="small and large have different tokenizers"):
        stranger = dataclasses.replace(reasoner_of(engine(SMALL), PLAIN, "small"), thinking=LINES)
        with mock.patch("efficient_reasoning.inference.others.load_other", lambda name: stranger):
            get_strategy(strategy, small="small", **ASKING[strategy]).bind(reasoner_of(engine(LARGE), PLAIN))


def test_the_small_model_is_charged_as_the_large_one_is(monkeypatch):
    small = reasoner_of(engine(SMALL), PLAIN, "small")
    monkeypatch.setattr("efficient_reasoning.inference.others.load_other", lambda name: small)
    large = reasoner_of(engine(LARGE), PLAIN)
    assert load_small("small", large, ()) is small
    assert isinstance(load_small("small", large.recalling(), ()).engine, RecallingEngine)


def test_a_backend_that_lacks_something_is_named(monkeypatch):
    lacking = engine(SMALL)
    lacking.capabilities = frozenset()
    monkeypatch.setattr(
        "efficient_reasoning.inference.others.load_other", lambda name: reasoner_of(lacking, PLAIN, name)
    )
    with pytest.raises(BadInput, match="small runs on backend mock, which has no score"):
        load_small("small", reasoner_of(engine(LARGE), PLAIN), {SCORE})


@pytest.mark.parametrize(
    ("strategy", "parameters", "named"),
    [
        ("cascade", {"samples": 0}, "samples is 0"),
        ("cascade", {"threshold": 1.1}, "threshold is 1.1"),
        ("cascade", {"claim": ""}, "claim is empty"),
        ("cascade", {"claim": "7", "samples": 2}, "claim is asked of one sample, and samples is 2"),
        ("spec-reason", {"draft_tokens": 0}, "draft_tokens is 0"),
        ("spec-reason", {"threshold": -1.0}, "threshold is -1"),
    ],
)
def test_parameters_without_meaning_are_refused(strategy, parameters, named):
    with pytest.raises(BadInput, match=named):
        run(strategy, engine(LARGE), engine(SMALL), **parameters)
