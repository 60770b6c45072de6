"""How fast is the engine, beside `generate` and beside what the memory's bandwidth allows?

Random weights in the shapes of real models, and so many end tokens that sampling at T 1 stops after about a hundred
tokens: lengths vary as those of a model do. Tokens behind the end are not counted. Writes one JSON file.

    python scripts/bench/engine.py --out runs/bench/engine.json [--models 15m,smollm2-135m] [--rows 512]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# hidden_size, intermediate_size, layers, heads, key-value heads, head_dim, vocabulary
SHAPES = {
    "15m": ("qwen3", 384, 1024, 8, 6, 3, 64, 2048),
    "smollm2-135m": ("llama", 576, 1536, 30, 9, 3, 64, 49152),
    "tiny": ("qwen3", 64, 128, 2, 4, 2, 32, 512),
}
PAD = 0
NEW_TOKENS = 192
MEAN_TOKENS = 110


def build(name: str, dtype):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary = SHAPES[name]
    config = AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    ends = random.Random(0).sample(range(1, vocabulary), round(vocabulary / MEAN_TOKENS))
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), ends


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(1, vocabulary) for _ in range(rng.randint(40, 100))] for _ in range(count)]


def sync() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function, repeats: int = 3) -> tuple[float, object]:
    """Median seconds of the repeats after one to warm up, and what the last one returned."""
    began = time.perf_counter()
    result = function()
    sync()
    first = time.perf_counter() - began
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        sync()
        seconds.append(time.perf_counter() - began)
    print(f"    first {first:.2f} s, then {', '.join(f'{s:.3f}' for s in seconds)} s", flush=True)
    return statistics.median(seconds), result


def generate(model, rows: list[list[int]], ends: list[int], new_tokens: int, **settings) -> list[list[int]]:
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=new_tokens, eos_token_id=ends, pad_token_id=PAD, **settings
        )
    stops = set(ends)
    tails = output[:, longest:].tolist()
    return [tail[: next((i + 1 for i, token in enumerate(tail) if token in stops), len(tail))] for tail in tails]


def generate_batch(model, rows: list[list[int]], ends: list[int], new_tokens: int, **settings) -> list[list[int]]:
    """transformers' continuous batching, with CUDA graphs where there are any."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    config = GenerationConfig(max_new_tokens=new_tokens, eos_token_id=ends, pad_token_id=PAD, **settings)
    graphs = ContinuousBatchingConfig(use_cuda_graph=model.device.type == "cuda")
    output = model.generate_batch(rows, generation_config=config, continuous_batching_config=graphs)
    return [one.generated_tokens for one in output.values()]


def tokens_of(completions) -> int:
    return sum(len(getattr(one, "ids", one)) for one in completions)


def same_as_generate(name: str, engine_class) -> dict:
    """Greedy tokens in fp32 against `generate`; a random model, so logits are nearly tied and a few rows may part."""
    import torch

    from efficient_reasoning.inference import Request, Sampling

    model, ends = build(name, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)  # sharp enough that rounding decides nothing
    rows = prompts(96, model.config.vocab_size)
    expected = generate(model, rows, ends, 100, do_sample=False)
    engine = engine_class(model, frozenset(ends), PAD, rows=32)
    completions = engine.generate([Request(row, 100, Sampling(0)) for row in rows])
    equal = sum(one.ids == other for one, other in zip(completions, expected, strict=True))
    return {"equal_rows": equal, "rows": len(rows), "tokens": tokens_of(completions)}


def step_seconds(engine, length: int, steps: int = 200) -> float:
    """One step of all rows, each of which owns `length` columns."""
    [loop] = engine._loops.values()
    import torch

    with torch.inference_mode():
        rows = loop.all_rows
        rows.done.fill_(False)
        rows.counts.fill_(1)
        rows.limits.fill_(1 << 30)
        loop.cache.lengths.fill_(max(1, length - steps // 2))
        loop.cache.at = loop.cache.columns - steps - 1
        loop.cache.column.fill_(loop.cache.at)
        loop.eos.fill_(-1)
        rows.uniform.fill_(0.5)
        sync()
        began = time.perf_counter()
        for _ in range(steps):
            rows.counts.fill_(1)
            loop.step()
        sync()
        return (time.perf_counter() - began) / steps


def bandwidth() -> float:
    """Bytes a second of a large copy on the device, read and written."""
    import torch

    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    sync()
    began = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    sync()
    return 20 * 2 * source.nbytes / (time.perf_counter() - began)


def measure(name: str, args) -> dict:
    import torch

    from efficient_reasoning.inference import Request, Sampling
    from efficient_reasoning.inference.graph_engine import GraphEngine

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model, ends = build(name, dtype)
    vocabulary = model.config.vocab_size
    rows = prompts(args.rows, vocabulary)
    sampling = Sampling(1.0, 1.0, 0)
    requests = [Request(row, NEW_TOKENS, sampling, seed) for seed, row in enumerate(rows)]
    result = {"parameters": sum(p.numel() for p in model.parameters()), "rows": args.rows}

    print(f"{name}: generate", flush=True)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    seconds, out = timed(lambda: generate(model, rows, ends, NEW_TOKENS, **settings), 1)
    result["generate"] = {"seconds": seconds, "tokens": tokens_of(out), "tokens_per_second": tokens_of(out) / seconds}
    print(f"{name}: generate_batch", flush=True)
    seconds, out = timed(lambda: generate_batch(model, rows, ends, NEW_TOKENS, **settings), 1)
    result["generate_batch"] = {"seconds": seconds, "tokens": tokens_of(out)}
    result["generate_batch"]["tokens_per_second"] = tokens_of(out) / seconds
    drawn = None
    for label, compile_step in (("graph", False), ("graph compiled", True)):
        if compile_step and not (on_gpu and name in args.compiled.split(",")):
            continue
        print(f"{name}: {label}", flush=True)
        engine = GraphEngine(model, frozenset(ends), PAD, rows=args.rows, compile_step=compile_step)
        seconds, out = timed(partial(engine.generate, requests))
        drawn = drawn or out
        same = sum(one.ids == other.ids for one, other in zip(out, drawn, strict=True))
        entry = {"seconds": seconds, "tokens": tokens_of(out), "tokens_per_second": tokens_of(out) / seconds}
        entry["rows_equal_to_uncompiled"] = same
        result[label] = entry
        more = [
            Request(row, NEW_TOKENS, sampling, seed) for seed, row in enumerate(prompts(8 * args.rows, vocabulary))
        ]
        engine = GraphEngine(model, frozenset(ends), PAD, rows=2 * args.rows, compile_step=compile_step)
        seconds, out = timed(partial(engine.generate, more), 4)
        contexts = sum(
            len(request.prompt_ids) * len(one.ids) + len(one.ids) * (len(one.ids) + 1) // 2
            for request, one in zip(more, out, strict=True)
        )
        length = contexts / tokens_of(out)
        entry["queue"] = {
            "requests": len(more),
            "rows": 2 * args.rows,
            "tokens_per_second": tokens_of(out) / seconds,
            "mean_length": length,
        }
        if on_gpu:
            entry["steps"] = []
            for own in (round(length), 200, 300):
                step = step_seconds(engine, own)
                config = model.config
                column = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2
                bytes_ = 2 * result["parameters"] + 2 * args.rows * own * column
                share = bytes_ / step / args.bandwidth
                entry["steps"].append({"length": own, "seconds": step, "bytes": bytes_, "share_of_bandwidth": share})
            engine._loops.clear()
    return result


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--models", default="15m,smollm2-135m")
    parser.add_argument("--compiled", default="15m", help="models whose step is measured compiled, too")
    parser.add_argument("--rows", type=int, default=512)
    args = parser.parse_args()
    from efficient_reasoning.inference.graph_engine import GraphEngine

    on_gpu = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = False
    report = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "bandwidth": bandwidth() if on_gpu else None,
    }
    args.bandwidth = report["bandwidth"]
    print(report, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.models.split(","):
        report[name] = {"greedy": same_as_generate(name, GraphEngine)}
        print(name, report[name], flush=True)
        report[name] |= measure(name, args)
        print(json.dumps(report[name], indent=1), flush=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
