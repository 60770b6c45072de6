"""A dry run says what a run would cost."""

from __future__ import annotations

from transformers import AutoModelForCausalLM, TrainingArguments

from efficient_reasoning.training import dry_run, load_base

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


def test_a_limit_may_hold_for_the_prompt_too(tiny_model, tmp_path, capsys):
    config = config_of()
    rows = [ROW | {"total_tokens": tokens} for tokens in (90, 95, 96, 100)]
    assert costs(capsys, tiny_model, rows, config, limit_tokens=100)["clipped"].startswith("0.0%")
    table = costs(capsys, tiny_model, rows, config, limit_tokens=100, limit_has_prompt=True)
    assert table["clipped"].startswith("75.0%")
    assert costs(capsys, tiny_model, rows, config, limit_tokens=None)["clipped"].startswith("0.0%")


def test_without_a_length_column_the_share_is_unknown(tiny_model, tmp_path, capsys):
    rows = [{key: ROW[key] for key in ("prompt", "completion")}] * 8
    table = costs(capsys, tiny_model, rows, config_of(), limit_tokens=100)
    assert table["clipped"] == "unknown (the rows have no length column)"
    tokenizer = load_base(str(tiny_model)).tokenizer
    tokens = sum(len(tokenizer(ROW[key])["input_ids"]) for key in ("prompt", "completion"))
    assert f"about {4 * tokens:,} tokens each" in table["steps"]
