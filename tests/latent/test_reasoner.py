"""A checkpoint that thinks in latents, through the front door."""

from __future__ import annotations

import dataclasses
import re
import shutil
from statistics import mean

import pytest
import torch
from transformers import AddedToken, AutoModelForCausalLM

from efficient_reasoning import cli, load_reasoner, solve
from efficient_reasoning.app.text import show_sample
from efficient_reasoning.audit.responses import from_sample
from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation import evaluate_model
from efficient_reasoning.evaluation.summary import generated_tokens, read_summary
from efficient_reasoning.files import read_jsonl
from efficient_reasoning.inference.engine import IN_LOOP
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.solve import solve_many
from efficient_reasoning.latent.decoding import BOT, EOT, LATENT
from efficient_reasoning.traces import shown_tokens


class InPasses:
    """An engine whose forced closes come in two passes, as those of one that recalls do."""

    def __init__(self, engine):
        self.generate, self.keeping = engine.generate, engine.keeping
        self.capabilities = engine.capabilities - {IN_LOOP}


class Counting:
    """An engine that remembers what it decoded for which request."""

    def __init__(self, engine):
        self.engine, self.capabilities, self.decoded = engine, engine.capabilities, []

    def generate(self, requests):
        completions = self.engine.generate(requests)
        self.decoded += zip(requests, completions, strict=True)
        return completions


QUESTIONS = ["Compute 34 + 27.", "Compute 5 - 3.", "Compute 34 + 27."]


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent") / "model"
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (BOT, LATENT, EOT)])
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ReasoningMetadata(method="coconut", stage="sft", base_model="tiny", latent_steps=3).save(folder)
    return str(folder)


def test_latents_stand_behind_every_prompt(checkpoint):
    reasoner = load_reasoner(checkpoint)
    assert (reasoner.backend, reasoner.latent_steps) == ("graph", 3)
    solutions = solve_many(reasoner, QUESTIONS, seeds=[1, 2, 1], max_new_tokens=12, temperature=0.0)
    for solution in solutions:
        markers = reasoner.tokenizer.convert_ids_to_tokens(solution.prompt_ids[-5:])
        assert markers == [BOT, LATENT, LATENT, LATENT, EOT]
        assert solution.spend.decoded_tokens == 3 + len(solution.completion_ids)
    assert solutions[0].completion_ids == solutions[2].completion_ids
    alone = solve(reasoner, QUESTIONS[1], seed=2, max_new_tokens=12, temperature=0.0)
    assert alone.completion_ids == solutions[1].completion_ids


def test_their_number_is_an_option_and_changes_what_is_decoded(checkpoint):
    decoded = set()
    for steps in (0, 1, 3, 8):
        reasoner = load_reasoner(checkpoint, f"graph?latent_steps={steps}")
        assert reasoner.latent_steps == steps
        solution = solve(reasoner, QUESTIONS[0], max_new_tokens=20, temperature=0.0)
        assert solution.spend.decoded_tokens == steps + len(solution.completion_ids)
        decoded.add(tuple(solution.completion_ids))
    assert len(decoded) > 1


@pytest.mark.parametrize(
    "strategy",
    [
        "budget-forcing",
        "budget-forcing?min_thinking_tokens=9",
        "no-thinking",
        "no-thinking?thought=so",
        "chain-of-draft",
        "deer",
        "dynasor?interval_tokens=3",
        "close-scaling",
        "tale-estimate?estimate_tokens=4",
        "tale-search",
    ],
)
def test_a_budget_holds_latents_once(checkpoint, strategy):
    reasoner = load_reasoner(checkpoint)
    counting = Counting(reasoner.engine)
    reasoner = dataclasses.replace(reasoner, engine=counting)
    for budget in (14, 60):
        counting.decoded.clear()
        solution = solve(reasoner, QUESTIONS[0], strategy, budget_tokens=budget, temperature=0.0)
        prompts = {tuple(one.prompt_ids[: len(one.prompt_ids) - one.offset]) for one, _ in counting.decoded}
        decoded = sum(completion.spend.decoded_tokens for _, completion in counting.decoded)
        assert solution.spend.decoded_tokens == decoded + 3 * len(prompts)
        assert solution.spend.tokens <= budget
        assert solution.latent_tokens == 3
    with pytest.raises(BadInput, match="budget_tokens is 3, and model takes 3 latents; give more, or fewer"):
        solve(reasoner, QUESTIONS[0], strategy, budget_tokens=3)


def test_a_recalled_response_is_charged_its_latents(checkpoint):
    reasoner = load_reasoner(checkpoint)
    recalling = reasoner.recalling()
    for budget in (60, 40, 20):
        spends = [
            solve(each, QUESTIONS[0], budget_tokens=budget, temperature=0.0).spend
            for each in (recalling, dataclasses.replace(reasoner, engine=InPasses(reasoner.engine)))
        ]
        for name in ("prompt_tokens", "computed_prompt_tokens", "decoded_tokens", "forced_tokens", "flops"):
            assert len({getattr(spend, name) for spend in spends}) == 1, name


def test_what_does_not_go_together_is_named(checkpoint, tiny_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(BadInput, match="cannot decode qwen3; take another model"):
        patch.setattr(GraphEngine, "can_decode", lambda *_: False)
        load_reasoner(checkpoint)
    with pytest.raises(BadInput, match="thinks in latents, which backend transformers does not decode; use graph"):
        load_reasoner(checkpoint, "transformers")
    with pytest.raises(BadInput, match="latent_steps is -1; give 0 or more"):
        load_reasoner(checkpoint, latent_steps=-1)
    with pytest.raises(BadInput, match="does not think in latents; leave out latent_steps"):
        load_reasoner(str(tiny_model), latent_steps=2)
    shutil.copytree(checkpoint, tmp_path / "model")
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path / "model")
    with pytest.raises(
        BadInput, match=r"its tokenizer has no <\|start-latent\|>, though it thinks in latents; copy it again"
    ):
        load_reasoner(str(tmp_path / "model"))


def test_lengths_that_people_read_count_latents_as_the_ledger_does(checkpoint, tmp_path, capsys):
    settings = {"strategies": ["budget-forcing"], "budgets": [40], "num_problems": 4}
    out = evaluate_model(checkpoint, ["sums"], **settings, out=tmp_path / "run")
    [point] = read_summary(out)["points"]
    samples = list(read_jsonl(out / "samples.jsonl"))
    assert all(sample["latent_tokens"] == 3 for sample in samples)
    assert all(
        sample["total_tokens"] == len(sample["completion_ids"]) - (not sample["truncated"]) for sample in samples
    )
    assert point["total_tokens"]["mean"] == point["generated_tokens"]["mean"]
    assert point["thinking_tokens"]["mean"] == pytest.approx(mean(one["thinking_tokens"] + 3 for one in samples))
    for sample in samples:
        assert shown_tokens(sample) == generated_tokens(sample) == from_sample(sample).total_tokens
        assert f"{shown_tokens(sample)} tokens, 3 of them latent" in show_sample(sample)
    capsys.readouterr()
    cli.main(["solve", "--model", checkpoint, "--max-new-tokens", "8", QUESTIONS[0]])
    assert re.search(r"\d+ tokens: 3 latent, \d+ thinking, \d+ answer", capsys.readouterr().err)
