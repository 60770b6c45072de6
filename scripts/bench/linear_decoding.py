"""What a window and a state save in decoding: tokens a second, memory a row, and steps behind contexts of any length.

    python scripts/bench/linear_decoding.py --out results.json [--device cuda] [--only NAME ...] [--tiny]
        [--compile --batches 4096 --contexts]

1. One model of the shape of SmolLM2-135M (GQA 9/3, heads of 64; 8,192 tokens, since none is read), random weights in
   bf16, three times: softmax in all layers, linearized in all, and in three of four. All decode in captured steps of
   the graph engine, whose softmax reads no more of the cache than a row has.
2. *Throughput*: prompts of 128 tokens and 4,096 new ones, each at the batch that served best behind half of them. The
   largest batch that is tried is what half of the free memory holds.
3. *Context*: seconds of a step behind prompts of any length. The two models *break even* where a step takes as long
   for each row.
4. *Bound*: what a step of the linearized one has to move, weights, windows, and states twice, at the bandwidth that a
   copy reaches on this device, over the time that the step takes.

What is measured stands in the file at once, and the same command goes on behind it. A compiled step takes a minute for
each batch and context before it is timed; `--batches` and `--contexts` leave most of them out.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from efficient_reasoning.files import write_json
from efficient_reasoning.inference.engine import Request, Sampling
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.memory import rows_that_fit
from efficient_reasoning.linear.conversion import linearize

NO_END = frozenset({-1})
VOCABULARY = 8192
NAMES = ("softmax", "linearized", "linearized 3:1")


@dataclass(frozen=True)
class Scale:
    """Shape of the model, tokens of requests, batches and contexts."""

    width: int
    layers: int
    heads: tuple[int, int]
    window: int
    prompt_tokens: int
    new_tokens: int
    batches: Sequence[int]
    contexts: Sequence[int]
    context_batch: int
    probe_tokens: int


FULL = Scale(
    576, 30, (9, 3), 64, 128, 4096, (64, 256, 512, 1024, 2048, 4096), (128, 512, 1024, 4096, 16384, 32000), 256, 64
)
TINY = Scale(64, 4, (2, 1), 16, 16, 32, (4, 8), (32, 64), 4, 8)


def build(scale: Scale, device: str) -> PreTrainedModel:
    torch.manual_seed(0)
    heads, key_value_heads = scale.heads
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=scale.width,
        intermediate_size=scale.width * 8 // 3,
        num_hidden_layers=scale.layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=scale.width // heads,
        max_position_embeddings=1 << 16,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval()


def engine_of(model: PreTrainedModel, rows: int, compiles: bool = False) -> GraphEngine:
    """All rows end together, so nobody need look often at what has ended, which takes a copy of what they decoded."""
    return GraphEngine(model, NO_END, 0, rows=rows, stride=16, compile_step=compiles)


def requests(
    count: int, prompt_tokens: int, new_tokens: int, vocabulary: int, one_prompt: bool = False
) -> list[Request]:
    rng = random.Random(0)

    def prompt() -> list[int]:
        return [rng.randrange(5, vocabulary) for _ in range(prompt_tokens)]

    first = prompt()
    return [Request(first if one_prompt else prompt(), new_tokens, Sampling(0)) for _ in range(count)]


def timed(engine: GraphEngine, wanted: list[Request]) -> float:
    """Seconds that all requests take, prompts included."""
    synchronize()
    began = time.perf_counter()
    engine.generate(wanted)
    synchronize()
    return time.perf_counter() - began


def step_seconds(engine: GraphEngine, count: int, context: int, tokens: int) -> float:
    """Of one step of so many rows behind a context that they share, that of prompts left out."""
    vocabulary = engine.model.config.vocab_size
    long, short = (requests(count, context, new, vocabulary, one_prompt=True) for new in (3 * tokens, tokens))
    engine.generate(long)  # captures
    return (timed(engine, long) - timed(engine, short)) / (2 * tokens)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(1 << (30 if device == "cuda" else 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(8):
        synchronize()
        began = time.perf_counter()
        target.copy_(source)
        synchronize()
        best = max(best, 2 * source.nbytes / (time.perf_counter() - began))
    return best


def measure(name: str, scale: Scale, device: str, compiles: bool, result: dict, save: Callable[[], None]) -> None:
    """Measure what `result` does not hold yet, and save it point by point."""
    bandwidth = result.setdefault("bandwidth", copy_bandwidth(device))
    model = build(scale, device)
    if name != "softmax":
        kept = range(3, scale.layers, 4) if "3:1" in name else ()
        model = linearize(model, scale.window, kept).to(device, model.dtype)
    of_column, of_row = GraphEngine(model, NO_END, 0).cache_bytes
    bytes_at = {tokens: of_row + of_column * tokens for tokens in (4096, 4224, 16384)}
    result |= {"row_bytes": {str(tokens): bytes_ for tokens, bytes_ in bytes_at.items()}}
    result.setdefault("rows_at_4224", rows_that_fit(bytes_at[4224], model.device))
    weights = sum(weight.nbytes for weight in model.parameters())
    moved_of_row = 0
    if not of_column:  # windows are read, states read and written
        attention = model.model.layers[0].self_attn
        window = 2 * scale.window * attention.head_dim * next(model.parameters()).element_size()
        moved_of_row = 2 * of_row - window * scale.heads[1] * scale.layers
    middle = scale.prompt_tokens + scale.new_tokens // 2
    # What a loop for all of the tokens takes, with room to move: no row may have to wait for another to end.
    most = rows_that_fit(of_row + of_column * (scale.prompt_tokens + scale.new_tokens + 512), model.device)
    steps = result.setdefault("steps", {})
    tried = sorted({min(batch, most) for batch in scale.batches})
    for batch in tried:
        if str(batch) in steps or "best_batch" in result:
            continue
        engine = engine_of(model, batch, compiles)
        seconds = step_seconds(engine, batch, middle, scale.probe_tokens)
        bound = (weights + batch * moved_of_row) / bandwidth if moved_of_row else None
        steps[str(batch)] = {"seconds": seconds, "tokens_per_second": batch / seconds, "bound_seconds": bound}
        share = f", {bound / seconds:.0%} of the bound of {1000 * bound:.2f} ms" if bound else ""
        say(name, f"batch {batch}: {1000 * seconds:.2f} ms a step, {batch / seconds:,.0f} tokens/s{share}")
        save()
        del engine
        tidy()
    if "best_batch" not in result:
        best = int(max(steps, key=lambda batch: steps[batch]["tokens_per_second"]))
        engine = engine_of(model, best, compiles)
        wanted = requests(best, scale.prompt_tokens, scale.new_tokens, VOCABULARY)
        engine._loop_for(wanted, 1)  # as large as they need it; what is captured for few tokens serves them, too
        engine.generate(requests(best, scale.prompt_tokens, 4, VOCABULARY))
        seconds = timed(engine, wanted)
        result |= {"best_batch": best, "tokens_per_second": best * scale.new_tokens / seconds, "seconds": seconds}
        save()
        del engine
        tidy()
    best, speed = result["best_batch"], result["tokens_per_second"]
    say(name, f"{scale.prompt_tokens} + {scale.new_tokens}, batch {best}: {speed:,.0f} tokens/s")
    contexts = result.setdefault("contexts", {})
    for context in scale.contexts:
        if str(context) in contexts:
            continue
        rows = min(scale.context_batch, rows_that_fit(of_row + of_column * (context + 1024), model.device))
        engine = engine_of(model, rows, compiles)
        seconds = step_seconds(engine, rows, context, scale.probe_tokens)
        contexts[str(context)] = {"batch": rows, "seconds": seconds}
        say(name, f"behind {context} tokens, batch {rows}: {1000 * seconds:.2f} ms a step")
        save()
        del engine
        tidy()


def row_seconds(contexts: Mapping[str, Mapping]) -> dict[int, float]:
    """Of a step, for each row, by the tokens before it."""
    return {int(context): one["seconds"] / one["batch"] for context, one in contexts.items()}


def break_even(softmax: Mapping[int, float], other: Mapping[int, float]) -> str:
    """The context from which on softmax takes longer for each row, of `row_seconds`, on a line between two of them."""
    before = None
    for context in sorted(softmax):
        ahead = softmax[context] - other[context]
        if ahead >= 0:
            if before is None:
                return f"below {context} tokens"
            first, lag = before
            return f"at {first + lag / (ahead + lag) * (context - first):.0f} tokens"
        before = context, -ahead
    return f"above {context} tokens"


def summarize(results: Mapping[str, Mapping]) -> None:
    """What a model saves beside softmax."""
    softmax = results["softmax"]
    for name in NAMES[1:]:
        one = results.get(name)
        if one is None:
            continue
        ratio = one["tokens_per_second"] / softmax["tokens_per_second"]
        say(name, f"{ratio:.2f} times the tokens a second of softmax")
        for tokens in ("4096", "16384"):
            say(name, f"{softmax['row_bytes'][tokens] / one['row_bytes'][tokens]:.1f} times smaller at {tokens}")
        say(name, f"{one['rows_at_4224'] / softmax['rows_at_4224']:.1f} times the rows at 4,224 tokens")
        if one["contexts"]:
            seconds = row_seconds(one["contexts"])
            long = [value for context, value in seconds.items() if context >= min(1024, max(seconds))]
            say(name, f"from 1,024 tokens before it on, a step takes {max(long) / min(long) - 1:.1%} longer at most")
            say(name, f"breaks even with softmax {break_even(row_seconds(softmax['contexts']), seconds)}")
        shares = [step["bound_seconds"] / step["seconds"] for step in one["steps"].values() if step["bound_seconds"]]
        if shares:
            say(name, f"{max(shares):.0%} of the bandwidth's bound at best")


def tidy() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def say(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="of the models")
    parser.add_argument("--batches", type=int, nargs="+", help="to try, as far as they fit")
    parser.add_argument("--contexts", type=int, nargs="*", help="to time steps behind, in tokens")
    parser.add_argument("--compile", action="store_true", help="let torch.compile fuse steps")
    parser.add_argument("--tiny", action="store_true", help="a small model and few tokens")
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("batches", "contexts")}
    scale = TINY if arguments.tiny else FULL
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})
    results: dict = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    results["torch"] = torch.__version__
    for name in arguments.only:
        result = results.setdefault(name, {})
        measure(name, scale, arguments.device, arguments.compile, result, lambda: write_json(arguments.out, results))
        tidy()
    if "softmax" in results:
        summarize(results)


if __name__ == "__main__":
    main()
