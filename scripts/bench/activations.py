"""How near do the sums of a dry run come to what a step holds in memory?

One forward and backward pass of small Llama, Qwen2 and Qwen3 models on a CPU: the bytes of the tensors that autograd
keeps, and the most that is allocated at a time over weights and gradients, each beside its estimate. Counting tensors
needs no GPU; what a GPU adds are the workspaces of its kernels, and fragments. Prints a table.

    python -m scripts.bench.activations [--family llama qwen2 qwen3] [--attention sdpa eager] [--tokens 512]
"""

from __future__ import annotations

import argparse
from itertools import product

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from efficient_reasoning.training.activations import (
    AUTOCAST,
    BF16,
    FAMILIES,
    FP32,
    MicroBatch,
    Precision,
    activations,
)

PRECISIONS = {"fp32": FP32, "autocast": AUTOCAST, "bf16": BF16}
# With tiles few: what a CPU folds a tile with, in place of a kernel, is no part of what a GPU holds.
WORDS = {True: 600, False: 128}


def small_model(family: str, attention: str, precision: Precision, vocab_size: int) -> PreTrainedModel:
    """A model of the family whose widths differ from each other."""
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(torch.bfloat16 if precision is BF16 else torch.float32).train()


def measured(model: PreTrainedModel, batch: MicroBatch, precision: Precision, checkpointing: bool) -> tuple[int, int]:
    """Bytes that autograd keeps of a forward pass, and the most that a step allocates over weights and gradients."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not batch.whole_logits:
        add_fused_lm_head(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(model.config.vocab_size, (batch.rows, batch.tokens))
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    inputs["attention_mask"][0, : int(batch.masked)] = 0
    inputs |= {} if batch.whole_logits else {"fused_lm_head": True}

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is AUTOCAST):
            return model(**inputs).loss

    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        first = loss()
    kept_bytes = sum(kept.values())  # while the graph stands, so that no address serves twice
    first.backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss().backward()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return kept_bytes, peak


def estimated(model: PreTrainedModel, batch: MicroBatch, precision: Precision, checkpointing: bool) -> tuple[int, int]:
    """What `activations` says of both; under autocast with the weights' copies, whole or of the layer at work."""
    found = activations(model.config, batch, precision, checkpointing)
    copies = 2 * model.num_parameters() * (precision is AUTOCAST)
    at_work = copies // model.config.num_hidden_layers if checkpointing else copies
    kept = found.kept + (0 if checkpointing else copies)
    if batch.whole_logits:  # log-probabilities, which are gone before the first layer's turn
        kept += batch.rows * batch.tokens * model.config.vocab_size * 4
    return kept, found.kept + max(found.loss + copies, found.backward + at_work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--attention", nargs="+", choices=("sdpa", "eager"), default=("sdpa", "eager"))
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    torch.manual_seed(0)
    print("| family | attention | rows x tokens | precision | checkpointing | logits | kept | peak |")
    print("|---|---|---|---|---|---|---:|---:|")
    shapes = [(1, args.tokens, False), (2, args.tokens // 2, True)]
    for family, attention, shape, name, checkpointing, whole in product(
        args.family, args.attention, shapes, PRECISIONS, (False, True), (True, False)
    ):
        batch = MicroBatch(*shape, whole)
        model = small_model(family, attention, PRECISIONS[name], vocab_size=WORDS[whole])
        found = measured(model, batch, PRECISIONS[name], checkpointing)
        said = estimated(model, batch, PRECISIONS[name], checkpointing)
        ratios = " | ".join(f"{a / b:.2f}" for a, b in zip(said, found, strict=True))
        size = f"{batch.rows} x {batch.tokens}{', masked' if batch.masked else ''}"
        head = "whole" if whole else "tiles"
        print(f"| {family} | {attention} | {size} | {name} | {'yes' if checkpointing else 'no'} | {head} | {ratios} |")


if __name__ == "__main__":
    main()
