"""What latents cost: a training step and decoding, beside the passes of Coconut's released code.

    python scripts/bench/latent.py --out results.json [--device cuda] [--tiny]

1. *As released*: a cache that is cut and handed on, hidden states of all layers and logits of all positions in every
   pass, and embeddings that are taken apart into Python lists to put a latent among them. Evaluation runs problem by
   problem, and reads everything again for every token. It is written again here, to be timed.
2. Both compute the same: losses, gradients and greedy tokens are compared before anything is timed.
3. A model of the shape of GPT-2 with random weights; questions of 180 to 240 tokens, latents, and a short answer.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import DynamicCache, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from efficient_reasoning.files import write_json
from efficient_reasoning.inference.engine import Request, Sampling
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.latent.decoding import Latents
from efficient_reasoning.latent.passes import IGNORED, Row, collate, completion_loss

BOT, LATENT, END = 2, 3, 4


def build(tiny: bool, device: str) -> PreTrainedModel:
    shape = (64, 2, 2, 500) if tiny else (768, 12, 12, 50257)
    width, layers, heads, vocabulary = shape
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).to(device)


def draw_rows(count: int, latents: int, vocabulary: int) -> list[Row]:
    rng = random.Random(0)

    def tokens(number: int) -> list[int]:
        return [rng.randrange(5, vocabulary) for _ in range(number)]

    def row() -> Row:
        return Row([*tokens(rng.randint(180, 240)), BOT], latents, tokens(rng.randint(8, 12)), given=1)

    return [row() for _ in range(count)]


# ---- as released ----


def released_loss(model: PreTrainedModel, rows: list[Row]) -> torch.Tensor:
    """Rows whose latents stand at the same place, padded on the left."""
    ids, mask, labels = released_batch(rows, model.device)
    places = (ids[0] == LATENT).nonzero()[:, 0].tolist()
    logits, _ = released_passes(model, ids, mask, places)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def released_batch(rows: list[Row], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    before = max(len(row.prompt_ids) for row in rows)
    whole = [[*row.prompt_ids, *[LATENT] * row.latents, *row.completion_ids] for row in rows]
    left = [before - len(row.prompt_ids) for row in rows]
    width = max(pad + len(ids) for pad, ids in zip(left, whole, strict=True))
    ids, mask, labels = (torch.full((len(rows), width), value) for value in (0, 0, IGNORED))
    for number, (row, pad, each) in enumerate(zip(rows, left, whole, strict=True)):
        ids[number, pad : pad + len(each)] = torch.tensor(each)
        mask[number, pad : pad + len(each)] = 1
        learnt = row.completion_ids[row.given :]
        labels[number, pad + len(each) - len(learnt) : pad + len(each)] = torch.tensor(learnt)
    return ids.to(device), mask.to(device), labels.to(device)


def released_passes(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, places: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, S, V) and inputs (B, S, D); a pass ends before each latent."""
    embedded = model.get_input_embeddings()(ids)  # (B, S, D)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, logits, begin = DynamicCache(config=model.config), [], 0
    for end in [*places, ids.shape[1]]:
        output = model(
            inputs_embeds=embedded[:, begin:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, begin:end],
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        logits.append(output.logits)
        if end < ids.shape[1]:
            pieces = [[embedded[row, place] for place in range(ids.shape[1])] for row in range(len(ids))]
            for row in range(len(ids)):
                pieces[row][end] = output.hidden_states[-1][row, -1]
            embedded = torch.stack([torch.stack(row) for row in pieces])
        begin = end
    return torch.cat(logits, 1), embedded


@torch.no_grad()
def released_decode(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    """Greedy tokens of one problem."""
    ids = torch.tensor([prompt], device=model.device)
    places = (ids[0] == LATENT).nonzero()[:, 0].tolist()
    logits, inputs = released_passes(model, ids, torch.ones_like(ids), places)
    decoded = [int(logits[0, -1].argmax())]
    while len(decoded) < new_tokens and END not in decoded:
        token = torch.tensor([[decoded[-1]]], device=model.device)
        inputs = torch.cat([inputs, model.get_input_embeddings()(token)], 1)
        decoded.append(int(model(inputs_embeds=inputs, use_cache=False).logits[0, -1].argmax()))
    return decoded


# ---- side by side ----


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median of several calls, behind one that warms up."""

    def timed() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    timed()
    return statistics.median(timed() for _ in range(repeats))


def step(model: PreTrainedModel, loss_of: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = loss_of()
    loss.backward()
    return loss.item(), model.get_input_embeddings().weight.grad.clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a small model and few problems")
    parser.add_argument("--latents", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model = build(arguments.tiny, arguments.device)
    batch_size, problems, new_tokens = (8, 16, 8) if arguments.tiny else (arguments.batch_size, 64, 12)
    rows = draw_rows(max(batch_size, problems), arguments.latents, model.config.vocab_size)
    some = rows[:batch_size]
    batch = collate(some, 0).to(arguments.device)

    def ours() -> tuple[float, torch.Tensor]:
        return step(model, lambda: completion_loss(model, batch))

    def released() -> tuple[float, torch.Tensor]:
        return step(model, lambda: released_loss(model, some))

    (loss, gradient), (other_loss, other_gradient) = ours(), released()
    torch.testing.assert_close(loss, other_loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, other_gradient, atol=1e-4, rtol=1e-3)
    results = {"step": {"released": seconds(released, arguments.repeats), "ours": seconds(ours, arguments.repeats)}}

    model.eval()
    prompts = [[*row.prompt_ids, *[LATENT] * row.latents, row.completion_ids[0]] for row in rows[:problems]]
    few = prompts[: 4 if arguments.tiny else 8]
    began = time.perf_counter()
    expected = [released_decode(model, prompt, new_tokens) for prompt in few]
    released_seconds = (time.perf_counter() - began) / len(few)
    engine = GraphEngine(model, frozenset({END}), 0, latents=Latents(BOT, LATENT))
    requests = [Request(prompt, new_tokens, Sampling(0)) for prompt in prompts]
    decoded = [one.ids for one in engine.generate(requests)]
    if decoded[: len(few)] != expected:
        raise SystemExit("The engine decodes other tokens than the released passes.")
    together = seconds(lambda: engine.generate(requests), arguments.repeats) / len(requests)
    alone = seconds(lambda: [engine.generate([request]) for request in requests[:8]], arguments.repeats) / 8
    results["seconds_per_problem"] = {"released": released_seconds, "together": together, "alone": alone}
    results["ratios"] = {
        "step": results["step"]["released"] / results["step"]["ours"],
        "evaluation": released_seconds / together,
        "batch": alone / together,
    }
    print({name: round(value, 2) for name, value in results["ratios"].items()})
    write_json(arguments.out, results | {"device": arguments.device, "latents": arguments.latents})


if __name__ == "__main__":
    main()
