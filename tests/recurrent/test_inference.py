"""A checkpoint of recurrent depth through the front door: depth is a budget like any other."""

from __future__ import annotations

import json
import shutil

import pytest
from torch.utils.flop_counter import FlopCounterMode

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Request, Sampling
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.solve import solve_many

QUESTIONS = ["Compute 34 + 27.", "Compute 5 - 3 + 41 - 7.", "Compute 34 + 27."]
GREEDY = Sampling(temperature=0)


def test_depth_is_an_option_and_changes_what_is_said(checkpoint):
    said = set()
    for option, depth in (("", 4), ("?depth=1", 1), ("?depth=9", 9)):
        reasoner = load_reasoner(checkpoint, f"transformers{option}")
        assert reasoner.name == ("model" if depth == 4 else f"model at depth {depth}")
        solution = solve(reasoner, QUESTIONS[0], max_new_tokens=12, temperature=0.0)
        assert solution.spend.core_iterations == depth * solution.spend.decoded_tokens
        said.add(tuple(solution.completion_ids))
    assert len(said) > 1
    assert load_reasoner(checkpoint, depth=2, exit_kl=5e-4).name == "model at depth 2, exit_kl 0.0005"
    assert load_reasoner(checkpoint).backend == "transformers"


@pytest.mark.parametrize("options", ["", "?exit_kl=0.01&depth=8"])
def test_what_a_request_gets_and_pays_does_not_depend_on_its_batch(checkpoint, options):
    reasoner = load_reasoner(checkpoint, f"transformers{options}")
    settings = {"strategy": "budget-forcing", "budget_tokens": 20, "temperature": 0.0}
    together = solve_many(reasoner, QUESTIONS, seeds=[1, 2, 3], **settings)
    for question, seed, expected in zip(QUESTIONS, (1, 2, 3), together, strict=True):
        alone = solve(load_reasoner(checkpoint, f"transformers{options}"), question, seed=seed, **settings)
        assert alone.completion_ids == expected.completion_ids
        assert alone.spend.core_iterations == expected.spend.core_iterations
        assert alone.spend.flops == expected.spend.flops
    recalling = reasoner.recalling()
    solve_many(recalling, QUESTIONS, seeds=[1, 2, 3], **settings | {"budget_tokens": 40})
    for one, other in zip(solve_many(recalling, QUESTIONS, seeds=[1, 2, 3], **settings), together, strict=True):
        assert (one.completion_ids, one.spend.flops) == (other.completion_ids, pytest.approx(other.spend.flops))
        assert one.spend.core_iterations == other.spend.core_iterations


@pytest.mark.parametrize("exit_kl", [None, 0.01])
def test_operations_are_those_that_torch_counts(checkpoint, exit_kl):
    reasoner = load_reasoner(checkpoint, "transformers", depth=6, **({} if exit_kl is None else {"exit_kl": exit_kl}))
    model, flops = reasoner.engine.model, DecodingFlops.of(reasoner.engine.model)
    model.set_attn_implementation("eager")  # torch counts nothing inside the fused kernel of a CPU
    prompt = list(range(10, 20))
    with FlopCounterMode(display=False) as counter:
        [completion] = reasoner.engine.generate([Request(prompt, 10, GREEDY)])
    masked = (len(prompt) ** 2 - len(prompt)) / 2 * flops.attention  # torch counts what the mask throws away
    assert completion.spend.flops + masked == pytest.approx(counter.get_total_flops(), rel=0.001)
    if exit_kl == 0.01:
        assert 6 + 2 * 9 <= completion.spend.core_iterations < 6 * 10


def test_what_does_not_go_together_is_named(checkpoint, tiny_model):
    with pytest.raises(BadInput, match="depth is 0; give at least 1 iteration"):
        load_reasoner(checkpoint, "transformers?depth=0")
    with pytest.raises(BadInput, match="Backend graph has no option 'depth'"):
        load_reasoner(checkpoint, "graph?depth=3")
    with pytest.raises(BadInput, match="backend graph cannot decode recurrent_depth; use transformers"):
        load_reasoner(checkpoint, "graph")
    with pytest.raises(BadInput, match="is not of recurrent depth; leave out depth and exit_kl"):
        load_reasoner(str(tiny_model), "transformers?depth=3&exit_kl=0.1")
    with pytest.raises(BadInput, match="is of recurrent depth, which takes no draft; leave out draft"):
        load_reasoner(checkpoint, "transformers", draft=str(tiny_model))


def test_a_checkpoint_of_another_version_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 2}))
    with pytest.raises(BadInput, match=r"config\.json: .*format_version is 2, and this code knows 1; update"):
        load_reasoner(str(folder))
