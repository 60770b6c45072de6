"""A dry run says what a run would cost."""

from __future__ import annotations

import re

from transformers import AutoModelForCausalLM, TrainingArguments

from efficient_reasoning.config import find_config
from efficient_reasoning.training import dry_run, load_base
from efficient_reasoning.training.adapters import lora_config

ROW = {"prompt": "Compute 1 + 2.\n", "completion": "<think>1 + 2 = 3</think>3", "total_tokens": 10}


def config_of(**changes) -> TrainingArguments:
    return TrainingArguments(per_device_train_batch_size=4, use_cpu=True, report_to="none", **changes)


def costs(capsys, model, rows, config, **limits) -> dict[str, str]:
    from datasets import Dataset

    dry_run(load_base(str(model)), Dataset.from_list(rows), config, **limits)
    return {line[:8].strip(): line[9:] for line in capsys.readouterr().out.splitlines()}


def test_a_dry_run_says_what_a_run_would_cost(tiny_model, tmp_path, capsys):
    config = config_of(num_train_epochs=3, gradient_accumulation_steps=2)
    rows = [ROW] * 15 + [ROW | {"total_tokens": 300}] * 5
    table = costs(capsys, tiny_model, rows, config, limit_tokens=100)
    parameters = AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    prompt_tokens = len(load_base(str(tiny_model)).tokenizer(ROW["prompt"])["input_ids"])
    assert table.pop("memory").startswith(f"{parameters * 16 / 2**20:,.0f} MiB of model states")
    assert table == {
        "model": f"qwen3, {parameters:,} parameters",
        "rows": "20",
        # 3 steps of 8 for the 20 rows of an epoch
        "steps": f"9 of 8 samples, about {8 * (prompt_tokens + 10):,} tokens each",
        "clipped": "25.0% of the rows, longer than 100 tokens",
    }
    assert not (tmp_path / "run").exists()


def peak_of(table: dict[str, str]) -> float:
    return float(re.search(r"([\d,]+) MiB at the peak of a step", table["memory"])[1].replace(",", ""))


def test_a_dry_run_says_what_a_step_holds_at_its_peak(tiny_model, capsys):
    rows = [ROW | {"total_tokens": 400}] * 8

    def table_of(limit=300, rows=rows, **changes):
        limits = {"limit_tokens": limit, "limit_has_prompt": True} | changes
        return costs(capsys, tiny_model, rows, config_of(), **limits)

    table = table_of()
    assert "reads 4 x 300 tokens at a time" in table["memory"]
    assert "reads 4 x 40" in table_of(limit=1000)["memory"]  # the longest there are, and their prompt
    assert peak_of(table) > peak_of(table_of(limit=100))
    assert peak_of(table_of(whole_logits=True)) < peak_of(table)  # of few words, less than TRL's tiles
    pairs = [{"prompt": "a\n", "chosen": "1" * 350, "rejected": "1" * 350, "total_tokens": 350}] * 8
    assert "reads 8 x 300 tokens at a time" in table_of(rows=pairs)["memory"]
    assert table_of(own_layers=True)["memory"].endswith("without ZeRO; activations come on top")


def test_under_zero_a_dry_run_says_what_more_processes_would_take(tiny_model, capsys):
    config = config_of()
    config.deepspeed = str(find_config("zero2"))
    table = costs(capsys, tiny_model, [ROW] * 8, config, limit_tokens=None)
    assert "of model states a process with ZeRO" in table["memory"]
    assert re.search(r"\([\d,]+ MiB of 2, [\d,]+ MiB of 4, [\d,]+ MiB of 8 processes\)$", table["memory"])


def test_a_limit_may_hold_for_the_prompt_too(tiny_model, tmp_path, capsys):
    config = config_of()
    rows = [ROW | {"total_tokens": tokens} for tokens in (90, 95, 96, 100)]
    assert costs(capsys, tiny_model, rows, config, limit_tokens=100)["clipped"].startswith("0.0%")
    table = costs(capsys, tiny_model, rows, config, limit_tokens=100, limit_has_prompt=True)
    assert table["clipped"].startswith("75.0%")
    assert costs(capsys, tiny_model, rows, config, limit_tokens=None)["clipped"].startswith("0.0%")


def test_without_a_length_column_responses_are_counted(tiny_model, capsys):
    rows = [{key: ROW[key] for key in ("prompt", "completion")}] * 6
    rows += [rows[0] | {"completion": "1" * 100}] * 2
    table = costs(capsys, tiny_model, rows, config_of(), limit_tokens=90)
    assert table["clipped"] == "25.0% of the rows, longer than 90 tokens"
    tokenizer = load_base(str(tiny_model)).tokenizer
    tokens = sum(len(tokenizer(ROW[key])["input_ids"]) for key in ("prompt", "completion"))
    assert f"about {4 * tokens:,} tokens each" in table["steps"]


def test_rows_for_reinforcement_may_have_no_length(tiny_model, capsys):
    table = costs(capsys, tiny_model, [{"prompt": "a\n", "answer": "1"}] * 8, config_of(), limit_tokens=98)
    assert table["clipped"] == "unknown (the rows have no length column)"
    assert "about 400 tokens each" in table["steps"]


def test_a_pair_costs_both_its_responses(tiny_model, capsys):
    rows = [{"prompt": "a\n", "chosen": "1" * 3, "rejected": "1" * 5, "total_tokens": 3}] * 4
    rows += [rows[0] | {"rejected": "1" * 50}] * 4
    table = costs(capsys, tiny_model, rows, config_of(), limit_tokens=20, limit_has_prompt=True)
    assert table["clipped"] == "50.0% of the rows, longer than 20 tokens"
    assert f"about {4 * (2 + 3 + 2 + 5)} tokens each" in table["steps"]


def test_what_is_not_trained_has_no_gradients_and_no_moments(tiny_model, capsys):
    parameters = AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    table = costs(capsys, tiny_model, [ROW] * 8, config_of(), limit_tokens=None, with_reference=True)
    assert table["memory"].startswith(f"{parameters * 20 / 2**20:,.0f} MiB")
    table = costs(capsys, tiny_model, [ROW] * 8, config_of(), limit_tokens=None, lora=lora_config(4, 32.0, 0.0))
    # Query and output are 16 by 16, key and value 16 by 8, the three of the MLP 16 by 16: rank 4 times both sides.
    trained = 4 * (2 * 32 + 2 * 24 + 3 * 32)
    assert table["model"] == f"qwen3, {parameters + trained:,} parameters, {trained:,} trained"
