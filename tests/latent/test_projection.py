"""What makes a latent of a hidden state, in training, in a folder, and in decoding."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AddedToken, AutoModelForCausalLM

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import LATENT_NAME, ReasoningMetadata, check_checkpoint, load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.hub.folder import checkpoint_files
from efficient_reasoning.inference.engine import Request, Sampling
from efficient_reasoning.latent.decoding import BOT, EOT, LATENT
from efficient_reasoning.latent.passes import Row, collate, read
from efficient_reasoning.latent.projection import LatentProjection, load_projection

ROOT = Path(__file__).parents[2]
WIDTH, STEPS = 16, 3  # of the tiny model, and latents of the checkpoint


def metadata_of(projection: LatentProjection) -> ReasoningMetadata:
    return ReasoningMetadata(
        "codi",
        "sft",
        latent_steps=STEPS,
        latent_projection=LATENT_NAME if projection.network is not None else None,
        latent_norm=projection.norm,
    )


def make(has_network: bool, norm: float | None) -> LatentProjection:
    torch.manual_seed(2)
    projection = LatentProjection(WIDTH, has_network, norm)
    with torch.no_grad():  # so that forgetting it shows
        for weight in projection.parameters():
            weight.add_(torch.randn_like(weight))
    return projection


@pytest.fixture(params=[(True, None), (False, 0.7), (True, 2.5)], ids=["network", "norm", "both"])
def projection(request):
    return make(*request.param)


@pytest.fixture
def checkpoint(tiny_model, tmp_path, projection):
    folder = tmp_path / "model"
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (BOT, LATENT, EOT)])
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3) if weight.ndim > 1 else weight  # so that answers differ
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    projection.save(folder)
    metadata_of(projection).save(folder)
    return folder


def test_a_network_is_two_layers_and_a_norm():
    projection, states = make(True, None), torch.randn(5, WIDTH)
    first, _, second, norm = projection.network
    hidden = torch.nn.functional.gelu(states @ first.weight.T + first.bias)
    made = hidden @ second.weight.T + second.bias
    made = (made - made.mean(-1, keepdim=True)) / (made.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(projection(states), made * norm.weight + norm.bias, atol=1e-5, rtol=1e-5)


def test_normalised_latents_have_the_norm_and_the_direction():
    states = torch.randn(4, 3, WIDTH) * 100
    made = make(False, 0.7)(states)
    torch.testing.assert_close(made.norm(dim=-1), torch.full((4, 3), 0.7))
    torch.testing.assert_close(made / 0.7, states / states.norm(dim=-1, keepdim=True))
    assert make(False, 0.7)(states.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(make(True, 2.5)(states).norm(dim=-1), torch.full((4, 3), 2.5))


def test_every_latent_of_a_pass_goes_through_it(checkpoint, projection):
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    batch = collate([Row([1, 2, 3], 4, [5]), Row([4], 2, [6, 7])], pad_id=0)
    latents = read(model, batch, projection).latents
    columns = batch.is_latent[:, batch.first_column :]
    if projection.norm is not None:
        torch.testing.assert_close(latents[columns].norm(dim=-1), torch.full((6,), projection.norm))
    first = model(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states[-1][0, -1]
    torch.testing.assert_close(latents[0, 0], projection(first), atol=1e-5, rtol=1e-5)
    untouched = batch.input_ids[1, batch.first_column : batch.first_column + 2]
    torch.testing.assert_close(latents[1, :2], model.get_input_embeddings()(untouched))


def test_a_loaded_folder_decodes_as_training_reads(checkpoint, projection):
    """The log-probabilities of the token behind the latents, and of the next."""
    reasoner = load_reasoner(str(checkpoint), device="cpu", dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").eval()
    bot, *_, eot = reasoner.latent_ids
    rng = random.Random(0)
    questions = [[rng.randrange(10, 60) for _ in range(length)] for length in (4, 9, 2)]
    requests = [Request([*ids, *reasoner.latent_ids], 2, Sampling(0), logprobs=True) for ids in questions]
    completions = reasoner.engine.generate(requests)
    rows = [Row([*ids, bot], STEPS, [eot, *one.ids], given=1) for ids, one in zip(questions, completions, strict=True)]
    with torch.no_grad():
        states = read(model, collate(rows, pad_id=0), projection).states
        expected = model.get_output_embeddings()(states[:, 1:3]).log_softmax(-1)
        other = model.get_output_embeddings()(read(model, collate(rows, pad_id=0)).states[:, 1:3]).log_softmax(-1)
    for one, logprobs, plain in zip(completions, expected, other, strict=True):
        chosen = logprobs[torch.arange(len(one.ids)), one.ids]
        assert one.ids[0] == int(logprobs[0].argmax())
        torch.testing.assert_close(torch.tensor(one.logprobs), chosen, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(plain[torch.arange(len(one.ids)), one.ids], chosen, atol=1e-3)


FROM_THE_HUB = """
from efficient_reasoning import load_reasoner, solve
reasoner = load_reasoner("org/latent")
assert (reasoner.backend, reasoner.latent_steps, reasoner.location) == ("graph", 3, "org/latent"), reasoner
print(solve(reasoner, "Compute 3 + 4.", max_new_tokens=6, temperature=0.0).completion_ids)
"""


def test_a_model_of_the_hub_decodes_as_its_folder(checkpoint, tmp_path):
    cache = tmp_path / "cache/hub/models--org--latent"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("0" * 40)
    shutil.copytree(checkpoint, cache / "snapshots" / ("0" * 40))
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", FROM_THE_HUB]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = solve(load_reasoner(str(checkpoint)), "Compute 3 + 4.", max_new_tokens=6, temperature=0.0)
    assert done.stdout.splitlines()[-1] == str(expected.completion_ids)


def test_a_folder_gives_back_what_was_saved(checkpoint, projection):
    metadata = ReasoningMetadata.load(checkpoint)
    loaded = load_projection(checkpoint, metadata, WIDTH)
    states = torch.randn(3, WIDTH)
    assert torch.equal(loaded(states), projection(states)) and loaded.norm == projection.norm
    written = (checkpoint / LATENT_NAME).is_file()
    assert written == (projection.network is not None)
    assert (checkpoint / LATENT_NAME in checkpoint_files(checkpoint)) == written


def test_a_checkpoint_without_projection_has_none(tiny_model):
    assert load_projection(tiny_model, ReasoningMetadata("coconut", "sft", latent_steps=3), WIDTH) is None


@pytest.mark.parametrize("projection", [make(True, None)], ids=["network"])
def test_what_is_missing_or_of_another_model_is_named(checkpoint, projection):
    def refused(sentence: str) -> None:
        with pytest.raises(BadInput, match=sentence) as caught:
            load_reasoner(str(checkpoint))
        assert "\n" not in str(caught.value)

    path = checkpoint / LATENT_NAME
    whole = path.read_bytes()
    path.unlink()
    refused(f"{LATENT_NAME} is missing, though reasoning.json names it; copy the checkpoint again")
    LatentProjection(WIDTH * 2, True).save(checkpoint)
    refused(f"{LATENT_NAME}: holds no projection of hidden states {WIDTH} wide; copy the checkpoint again")
    save_file({"other": torch.zeros(2)}, path)
    refused(f"{LATENT_NAME}: holds no projection of hidden states {WIDTH} wide; copy the checkpoint again")
    path.write_bytes(whole[:-5])
    refused(f"{LATENT_NAME}: truncated safetensors file")
    path.write_bytes(whole)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"the checkpoint has no weights \(\*.safetensors\)"):
        check_checkpoint(str(checkpoint))
