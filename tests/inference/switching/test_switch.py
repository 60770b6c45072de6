"""System switch: what decides between the modes, and what it costs to ask."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.inference.switching.probe import Probe
from tests.inference.minds import (
    CLOSE,
    EOS,
    LINES,
    OPEN,
    PLAIN,
    PROMPT,
    TOKENIZER,
    WORD,
    BiasedEngine,
    assignment,
    bound,
    reasoner_of,
    script,
    solved,
)

THINKS = [OPEN, WORD, WORD, CLOSE, WORD, EOS]
AT_ONCE = [OPEN, CLOSE]


@pytest.mark.parametrize(("probability", "response"), [(0.4, THINKS), (0.6, AT_ONCE)])
def test_the_model_thinks_where_it_would_not_leave_the_block_empty(probability, response):
    def confidence(ids, token):
        return probability if token == CLOSE else 0.1  # the open is not asked about

    found = solved("control-switch", script(THINKS), assignment(None), confidence)
    assert found.response.ids[: len(response)] == response
    assert found.response.spend.rated_tokens == len(PROMPT) + 2


def test_delimiters_of_several_ids_are_asked_for_whole():
    engine = BiasedEngine(script(THINKS), frozenset({EOS}), TOKENIZER.decode, lambda ids, token: 0.5)
    [response] = run_all(
        engine, [bound("control-switch", engine, LINES, threshold=0.7).solve(assignment(None, LINES))]
    )
    closing = len(LINES.closing())
    assert response.ids[:2] == THINKS[:2]
    assert 1 - 0.5**closing > 0.7 > 1 - 0.5


def probe_file(tmp_path, weight: float, bias: float, threshold: float = 0.0, weights: str | None = None) -> str:
    """Promises the slow mode a gain that grows with the length of the prompt, where the weight is positive."""
    path = tmp_path / "probe.safetensors"
    Probe(torch.tensor([[0.0], [weight]]), torch.tensor([0.0, bias]), weights, threshold).save(path)
    return str(path)


@pytest.mark.parametrize(("bias", "response"), [(-2.0, THINKS), (-4.0, AT_ONCE)])
def test_a_probe_decides_by_what_it_promises(tmp_path, bias, response):
    probe = probe_file(tmp_path, 1.0, bias)  # a state is the length of the prompt, 3
    found = solved("probe-switch", script(THINKS), assignment(None), probe=probe)
    assert found.response.ids[: len(response)] == response
    assert found.response.spend == found.engine.spent + Ledger(
        rated_tokens=len(PROMPT), forced_tokens=found.response.spend.forced_tokens
    )


def test_a_given_threshold_counts_before_that_of_the_file(tmp_path):
    probe = probe_file(tmp_path, 1.0, -2.0, threshold=0.9)
    assert solved("probe-switch", script(THINKS), assignment(None), probe=probe).response.ids[:2] == AT_ONCE
    found = solved("probe-switch", script(THINKS), assignment(None), probe=probe, threshold=0.1)
    assert found.response.ids == THINKS


def test_a_probe_of_other_weights_is_refused(tmp_path):
    probe = probe_file(tmp_path, 1.0, 0.0, weights="another")
    engine = BiasedEngine(script(THINKS), frozenset({EOS}))
    reasoner = reasoner_of(engine, PLAIN)
    with pytest.raises(BadInput, match="was fitted on another model than large"):
        get_strategy("probe-switch", probe=probe).bind(dataclasses.replace(reasoner, weights="its own"))


def test_what_is_no_probe_is_refused(tmp_path):
    path = tmp_path / "probe.safetensors"
    path.write_text("{}")
    for name in (path, tmp_path / "absent"):
        with pytest.raises(BadInput, match="no probe; fit one with"):
            solved("probe-switch", script(THINKS), assignment(None), probe=str(name))


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [("control-switch", {}), ("probe-switch", {"probe": "p"}), ("spec-reason", {"small": "s"})],
)
def test_a_model_of_latents_is_refused(strategy, parameters):
    engine = BiasedEngine(script(THINKS), frozenset({EOS}))
    reasoner = reasoner_of(engine, PLAIN)
    with pytest.raises(BadInput, match=f"thinks in latents or pauses, which {strategy} does not read"):
        get_strategy(strategy, **parameters).bind(dataclasses.replace(reasoner, latent_ids=(1, 2, 3)))


def test_a_threshold_that_is_no_probability_is_refused():
    with pytest.raises(BadInput, match="threshold is 2"):
        get_strategy("control-switch", threshold=2.0)
