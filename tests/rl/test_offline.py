"""Offline RL: the clipped ratio by hand, and its frozen reference."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from efficient_reasoning.checkpoint import load_model, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.rl.offline import OfflineConfig, OfflineTrainer, standardized

ROWS = [
    {
        "prompt": f"Compute {a} + 4.\n",
        "completion": f"<think>{a}+4={a + 4}{'. Wait, check' * (a % 3)}</think>{a + 4}<|end|>",
        "reward": float(2 - a % 3),
        "paid_by": "o1_pruner",
    }
    for a in range(2, 26)
]


def build(model: str, folder: Path, rows=ROWS, **settings) -> OfflineTrainer:
    options = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1}
    options |= {"gradient_checkpointing": False, "disable_tqdm": True, "per_device_train_batch_size": 4}
    config = OfflineConfig(**options | settings)
    data = Dataset.from_list(rows).select_columns(["prompt", "completion", "reward"])
    return OfflineTrainer(
        load_model(model, "cpu"), args=config, train_dataset=data, processing_class=load_tokenizer(model)
    )


def test_the_loss_is_that_of_a_clipped_geometric_mean(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path)
    model = trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    logprobs = logits[:, :-1].log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    counted = (batch["labels"][:, 1:] != -100).float()
    means = (logprobs * counted).sum(1) / counted.sum(1)
    moved = torch.tensor([0.1, 0.5, -0.1, -0.5])  # of the log ratio
    trainer.reference[batch["row"]] = (means - moved).detach()
    expected = 0.0
    for advantage, change in zip(batch["advantage"].tolist(), moved.tolist(), strict=True):
        ratio = math.exp(change)
        expected -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage) / 4
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bf16", [True, False])
def test_it_computes_in_the_precision_that_is_asked_for(tiny_model, tmp_path, bf16):
    trainer = build(tiny_model, tmp_path, bf16=bf16)
    found = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear) and module is not trainer.model.get_output_embeddings():
            module.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    trainer.train()
    assert found == {torch.bfloat16 if bf16 else torch.float32}


def test_the_reference_is_the_model_before_the_first_step(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, learning_rate=1e-2, max_steps=3, logging_steps=1)
    before = torch.tensor(trainer.take_reference())
    assert (before < 0).all()
    trainer.train()
    torch.testing.assert_close(trainer.reference, before)
    assert trainer.state.log_history[0]["ratio"] == pytest.approx(1, abs=1e-4)
    assert trainer.state.log_history[2]["ratio"] != pytest.approx(1, abs=1e-3)


def test_a_row_that_is_too_long_is_left_out_and_not_cut(tiny_model, tmp_path, capsys):
    lengths = [len(row["input_ids"]) for row in build(tiny_model, tmp_path).train_dataset]
    assert "Left out" not in capsys.readouterr().out
    limit = sorted(lengths)[len(lengths) // 2]
    trainer = build(tiny_model, tmp_path, max_length=limit)
    kept = [i for i, length in enumerate(lengths) if length <= limit]
    assert [len(row["input_ids"]) for row in trainer.train_dataset] == [lengths[i] for i in kept]
    assert [row["row"] for row in trainer.train_dataset] == kept
    said = f"Left out {24 - len(kept)} of 24 rows, which are longer than max_length, {limit} tokens.\n"
    assert capsys.readouterr().out.count(said) == 1
    trainer.train()


def test_rewards_are_standardized_over_the_rows_that_are_left(tiny_model, tmp_path):
    lengths = [len(row["input_ids"]) for row in build(tiny_model, tmp_path).train_dataset]
    trainer = build(tiny_model, tmp_path, max_length=sorted(lengths)[len(lengths) // 2])
    kept = [ROWS[row["row"]]["reward"] for row in trainer.train_dataset]
    assert 0 < len(kept) < len(ROWS)
    assert [row["advantage"] for row in trainer.train_dataset] == standardized(kept)


def test_when_most_rows_are_too_long_it_does_not_begin(tiny_model, tmp_path):
    lengths = [len(row["input_ids"]) for row in build(tiny_model, tmp_path).train_dataset]
    longer = sum(length > min(lengths) for length in lengths)
    sentence = f"max_length is {min(lengths)}, and {longer} of 24 rows are longer and would be left out; raise it"
    with pytest.raises(BadInput, match=sentence):
        build(tiny_model, tmp_path, max_length=min(lengths))


def test_rewards_are_brought_to_mean_0_and_deviation_1():
    assert standardized([1, 3]) == [-1, 1]
    assert standardized([1, 3], center=False) == [1, 3]
    for rewards in ([1.0, None], [1.0, float("nan")], ["high", 1]):
        with pytest.raises(BadInput, match="The reward of some row is no number"):
            standardized(rewards)
    with pytest.raises(BadInput, match="All rows have the same reward"):
        standardized([0.5, 0.5])
