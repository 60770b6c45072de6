"""What a window and a few global tokens save in training: seconds forward and backward against full attention.

    python scripts/bench/local_global.py --out results.json [--device cuda] [--tiny]

1. *Right*: logits and gradients through FlexAttention are those under the same mask written out, in float32, for rows
   that are whole, packed, and padded on the left. Nothing is timed before that holds.
2. *Layer*: one layer's attention in the shape of Qwen3-0.6B's (GQA 16/8, heads of 128, bf16): full, by
   `scaled_dot_product_attention`; full through FlexAttention, which tells the kernel from what is left out; the window
   through FlexAttention; and the window under a mask that is written out.
3. *Model*: forward and backward of four such layers with a vocabulary of 8,192, as a Qwen3 and with the window.

The longest rows come first, each length is in the file once it is measured, and the same command goes on behind it.
Seconds are medians. Each length is compiled for itself, as for rows of one length; what the first run takes,
compilation included, and what it takes to make a mask, once for all layers, stand apart. FlexAttention has no backward
pass on a CPU: there, full attention is compared with the mask written out alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask

from efficient_reasoning.files import write_json
from efficient_reasoning.window_global import WindowGlobalConfig, WindowGlobalForCausalLM, modeling_window_global
from efficient_reasoning.window_global.modeling_window_global import attend, window_global_mask

TOLERANCE = 1e-3  # of the norm of a difference over the norm of what it is from


@dataclass(frozen=True)
class Scale:
    """Shape of the model, what a query sees, lengths of rows, and how often each is measured."""

    width: int
    layers: int
    heads: tuple[int, int]
    head_dim: int
    window: int
    num_global: int
    lengths: tuple[int, ...]
    repetitions: int


FULL = Scale(1024, 4, (16, 8), 128, 1024, 4, (512, 1024, 4096, 8192, 16384, 32768), 20)
TINY = Scale(64, 2, (4, 2), 16, 24, 4, (64, 128), 3)


def build(scale: Scale, is_full: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 8192,
        "hidden_size": scale.width,
        "intermediate_size": 3 * scale.width,
        "num_hidden_layers": scale.layers,
        "num_attention_heads": scale.heads[0],
        "num_key_value_heads": scale.heads[1],
        "head_dim": scale.head_dim,
        "max_position_embeddings": max(scale.lengths),
        "tie_word_embeddings": True,
    }
    if is_full:
        return Qwen3ForCausalLM(Qwen3Config(**shape))
    return WindowGlobalForCausalLM(
        WindowGlobalConfig(**shape, window_tokens=scale.window, num_global_tokens=scale.num_global)
    )


def check(scale: Scale, device: str) -> dict[str, float]:
    """Largest relative difference of logits and gradients between FlexAttention and a mask, by the kind of rows."""
    model = build(scale).to(device).train()
    tokens = 2 * scale.window + 77  # no whole number of blocks
    ids = torch.randint(8192, (2, tokens), device=device)
    padding = torch.ones_like(ids)
    padding[0, : tokens // 3] = 0
    packed = torch.cat([torch.arange(tokens // 2), torch.arange(tokens - tokens // 2)])[None].to(device)
    differences = {}
    for name, given in {
        "whole": {},
        "packed": {"position_ids": packed},
        "padded": {"attention_mask": padding},
    }.items():
        found = []
        for threshold in (0, math.inf):
            modeling_window_global.FLEX_TOKENS = threshold
            model.zero_grad()
            logits = model(ids, use_cache=False, **given).logits[padding.bool()]
            logits.logsumexp(-1).sum().backward()
            found.append([logits.detach(), *(weight.grad.clone() for weight in model.parameters())])
        differences[name] = max(
            ((one - other).norm() / other.norm()).item() for one, other in zip(*found, strict=True)
        )
    if not max(differences.values()) < TOLERANCE:
        sys.exit(f"FlexAttention and the mask differ by {differences}.")
    return differences


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def measure(forward: Callable[[], torch.Tensor], repetitions: int) -> dict[str, float]:
    """Seconds of the first run and, behind it, medians; peak memory on CUDA, in bytes."""

    def both() -> None:
        forward().backward()

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = {"first_seconds": timed(both)}
    result["forward_seconds"] = statistics.median(timed(forward) for _ in range(repetitions))
    result["seconds"] = statistics.median(timed(both) for _ in range(repetitions))
    if torch.cuda.is_available():
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def say(tokens: int, part: str, name: str, measured: dict[str, float]) -> None:
    first = f"{measured['first_seconds']:.1f} s at first"
    print(f"{tokens:,} tokens, {part}, {name}: {1000 * measured['seconds']:.2f} ms, {first}", flush=True)


def measure_layer(model: PreTrainedModel, tokens: int, scale: Scale) -> dict[str, dict]:
    device, dtype = model.device, model.dtype
    layer, on_cuda = model.model.layers[0].self_attn, device.type == "cuda"
    query, key, value = (
        torch.randn(1, heads, tokens, scale.head_dim, device=device, dtype=dtype, requires_grad=True)
        for heads in (scale.heads[0], scale.heads[1], scale.heads[1])
    )

    def mask(threshold: float) -> torch.Tensor | BlockMask:
        modeling_window_global.FLEX_TOKENS = threshold
        return window_global_mask(model.config, query[0, :1], None)

    masks: dict[str, Callable] = {"full": lambda: None}
    if on_cuda:
        masks["full, flex"] = lambda: flex_attention_mask(1, tokens, tokens, device=device)
        masks["window, flex"] = lambda: mask(0)
    masks["window, mask"] = lambda: mask(math.inf)
    results = {}
    for name, make in masks.items():
        make()  # compiles
        seconds, made = timed(make), make()
        function = sdpa_attention_forward if made is None else attend

        def forward(function: Callable = function, made: torch.Tensor | BlockMask | None = made) -> torch.Tensor:
            return function(layer, query, key, value, made, scaling=layer.scaling)[0].sum()

        results[name] = measure(forward, scale.repetitions) | {"mask_seconds": seconds}
        say(tokens, "layer", name, results[name])
    return results


def measure_model(models: dict[str, PreTrainedModel], tokens: int, scale: Scale) -> dict[str, dict]:
    modeling_window_global.FLEX_TOKENS = 0
    results = {}
    for name, model in models.items():
        ids = torch.randint(8192, (1, tokens), device=model.device)

        def forward(model: PreTrainedModel = model, ids: torch.Tensor = ids) -> torch.Tensor:
            return model(ids, labels=ids, use_cache=False).loss

        results[name] = measure(forward, scale.repetitions)
        say(tokens, "model", name, results[name])
        model.zero_grad()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a small model and few tokens")
    arguments = parser.parse_args()
    scale, device = TINY if arguments.tiny else FULL, arguments.device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    results: dict = {"torch": torch.__version__, "layer": {}, "model": {}}
    if arguments.out.is_file():
        results = json.loads(arguments.out.read_text())
    if device == "cuda" and "difference" not in results:
        results["difference"] = check(scale, device)
        print(f"Relative differences: {results['difference']}", flush=True)
        write_json(arguments.out, results)
    models = {"full": build(scale, is_full=True), "window": build(scale)}
    models = {name: model.to(device, dtype).train() for name, model in models.items()}
    for tokens in sorted(scale.lengths, reverse=True):
        torch.compiler.reset()
        for part, work in (
            ("layer", lambda tokens: measure_layer(models["window"], tokens, scale)),
            ("model", lambda tokens: measure_model(models, tokens, scale)),
        ):
            measured = results[part].get(str(tokens))
            if measured is None:
                measured = results[part][str(tokens)] = work(tokens)
                write_json(arguments.out, results)
            full = measured["full"]["seconds"]
            for name, one in measured.items():
                ratio = f"{full / one['seconds']:.2f} times as fast as full"
                print(f"{tokens:,} tokens, {part}, {name}: {ratio}", flush=True)


if __name__ == "__main__":
    main()
