"""A probe from traces of two modes, used by a strategy, on the embedded model."""

from __future__ import annotations

import pytest

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference.switching.probe import Probe
from efficient_reasoning.problems import load_problems
from efficient_reasoning.traces import sample_traces
from recipes import fit_probe


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Of 32 problems, without thinking and with it."""
    folder, problems = tmp_path_factory.mktemp("traces"), load_problems("mixed", "train", 32, seed=0)
    for strategy in ("no-thinking", "budget-forcing"):
        sample_traces(
            load_reasoner("overthinker"),
            problems,
            strategies=[strategy],
            budgets=[None],
            samples_per_problem=2,
            temperature=0.6,
            top_p=1.0,
            top_k=0,
            max_new_tokens=256,
            seed=0,
            path=folder / f"{strategy}.jsonl",
            config_path=folder / f"{strategy}.yaml",
        )
    return folder


def fit(traces, out, *options: str) -> None:
    fast, slow = (str(traces / f"{name}.jsonl") for name in ("no-thinking", "budget-forcing"))
    fit_probe.main(["--model", "overthinker", "--fast", fast, "--slow", slow, "--out", str(out), *options])


def test_a_probe_keeps_the_cost_that_was_asked_for(traces, tmp_path, capsys):
    out = tmp_path / "probe.safetensors"
    fit(traces, out, "--mean_cost", "60")
    [switch] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("switch")]
    assert float(switch.split(" at ")[1].split()[0]) <= 60
    reasoner = load_reasoner("overthinker")
    assert Probe.load(out).weights == reasoner.weights
    solution = solve(reasoner, "Compute 3 + 4.", f"probe-switch?probe={out}")
    assert solution.spend.rated_tokens == len(solution.prompt_ids)
    assert solution.spend.flops > 0


def test_without_a_cost_it_loses_no_more_than_it_may(traces, tmp_path, capsys):
    fit(traces, tmp_path / "probe.safetensors", "--accuracy_loss", "0.05")
    accuracy = {
        line.split(":")[0]: float(line.split()[1].rstrip("%"))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("slow", "switch"))
    }
    assert accuracy["switch"] >= accuracy["slow"] - 5


def test_the_smallest_share_that_is_held_out_is_a_problem(traces, tmp_path, capsys):
    fit(traces, tmp_path / "probe.safetensors", "--held_out_share", "0.001")
    assert "31 problems fitted, 1 held out" in capsys.readouterr().out


def test_what_cannot_be_fitted_is_refused(traces, tmp_path):
    out = tmp_path / "probe.safetensors"
    with pytest.raises(BadInput, match="the fast mode alone takes"):
        fit(traces, out, "--mean_cost", "1")
    others = tmp_path / "others.jsonl"
    write_jsonl(others, ({**row, "id": "other"} for row in read_jsonl(traces / "no-thinking.jsonl")))
    with pytest.raises(BadInput, match="have no problem in common; sample the same ones"):
        fit(traces, out, "--fast", str(others))
    with pytest.raises(BadInput, match=r"held_out_share is 1\.0"):
        fit(traces, out, "--held_out_share", "1.0")
    with pytest.raises(BadInput, match="Backend mock shows no hidden states"):
        fit(traces, out, "--backend", "mock")
    with pytest.raises(BadInput, match=r"accuracy_loss is -0\.5"):
        fit(traces, out, "--accuracy_loss", "-0.5")
    write_jsonl(others, ({**row, "tokenizer_hash": "other"} for row in read_jsonl(traces / "no-thinking.jsonl")))
    with pytest.raises(BadInput, match="its ids are of another tokenizer than that of model"):
        fit(traces, out, "--fast", str(others))
    rows = ({**row, "spend": {**row["spend"], "flops": 0.0}} for row in read_jsonl(traces / "no-thinking.jsonl"))
    write_jsonl(others, rows)
    with pytest.raises(BadInput, match=r"others\.jsonl: what wrote it knows no flops; take another cost"):
        fit(traces, out, "--fast", str(others), "--cost", "flops")
    assert not out.exists()
