"""Batches of a stream: packed rows train as rows of their own do, and workers take turns."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import TrainingArguments

from efficient_reasoning.files import write_jsonl
from efficient_reasoning.scratch import CLOSE, OPEN, build_config, completion_loss, make_tokenizer
from efficient_reasoning.training.chains import write_rows
from efficient_reasoning.training.sources import open_source
from efficient_reasoning.training.stream_trainer import Loader
from efficient_reasoning.training.streaming import Stream

QWEN3 = {"model_type": "qwen3", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
QWEN3 |= {"num_key_value_heads": 1, "intermediate_size": 16}
LOCAL = {"model_type": "gemma3_text", **dict(list(QWEN3.items())[1:]), "layer_types": ["sliding_attention"] * 2}
LOCAL |= {"sliding_window": 16, "query_pre_attn_scalar": 8}
RECURRENT = {"model_type": "recurrent_depth", "hidden_size": 16, "intermediate_size": 16, "num_prelude_layers": 1}
RECURRENT |= {"num_core_layers": 1, "num_coda_layers": 1, "num_attention_heads": 2, "head_dim": 8, "mean_depth": 2}


def loader(folder, packing: bool, batch_size: int, **changes) -> Loader:
    rows = write_rows("sums", 60, {"plain": 0.6, "empty": 0.4}, seed=0)
    write_jsonl(folder / "rows.jsonl", rows)
    tokenizer = make_tokenizer("bpe", [row["prompt"] + row["completion"] for row in rows], 300)
    source = open_source(str(folder))
    stream = Stream(source, tokenizer, max_row_tokens=128, shuffle_rows=60, packing=packing, seed=0)
    config = TrainingArguments(str(folder / "run"), use_cpu=True, bf16=False, report_to="none", **changes)
    return Loader(stream, config, batch_size, checkpoint=None)


@pytest.mark.parametrize("architecture", [QWEN3, LOCAL, RECURRENT], ids=lambda shape: shape["model_type"])
def test_packed_rows_train_as_rows_of_their_own_do(tmp_path, architecture):
    """The loss of a whole epoch, with answers to empty blocks that weigh more than others."""
    from transformers import AutoModelForCausalLM

    totals = []
    for packing in (True, False):
        batches = loader(tmp_path, packing, batch_size=1)
        tokenizer = batches.stream.tokenizer
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(build_config(architecture, tokenizer)).eval()
        block, total, count = tuple(tokenizer.convert_tokens_to_ids([OPEN, CLOSE])), 0.0, 0
        for batch in batches:
            if batches.state["places"][0].epoch:
                break
            labels = batch.pop("labels")
            with torch.no_grad():
                total += completion_loss(model(**batch).logits, labels, block, empty_weight=20.0).item()
            count += 1
        totals.append((total, count))
    (packed, sequences), (single, rows) = totals
    assert rows == 60 and sequences < 40
    assert packed == pytest.approx(single, rel=1e-5)


def test_a_batch_has_positions_of_rows_and_padding(tmp_path):
    batches = loader(tmp_path, True, batch_size=2)
    sequences = list(islice(batches.stream.sequences(0, 1, batches.state["places"][0]), 2))
    batch = next(iter(batches))
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape == (2, 128)
    for positions, sequence in zip(batch["position_ids"].tolist(), sequences, strict=True):
        lengths = [*sequence["seq_lengths"], 128 - len(sequence["input_ids"])]
        assert positions == [position for length in lengths for position in range(length)]


def test_workers_take_turns(tmp_path):
    """Two workers have every other row each, and a loader goes on with the one whose turn it is."""
    whole = [batch["input_ids"].tolist() for batch in islice(loader(tmp_path, True, 2, dataloader_num_workers=2), 7)]
    assert len({str(batch) for batch in whole}) == 7
    for taken in (1, 4):
        first = loader(tmp_path, True, 2, dataloader_num_workers=2)
        for _ in islice(first, taken):
            pass
        first.save(tmp_path / "checkpoint")
        again = Loader(first.stream, first.config, 2, str(tmp_path / "checkpoint"))
        assert [batch["input_ids"].tolist() for batch in islice(again, 7 - taken)] == whole[taken:]
