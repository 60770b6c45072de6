"""CODI's and SIM-CoT's losses beside those of passes without cache and padding, a row at a time."""

from __future__ import annotations

import copy
import random
from itertools import chain

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Curriculum, Example, Markers
from efficient_reasoning.latent.objectives import LossWeights, Shown, StepDecoder, losses
from efficient_reasoning.latent.passes import collate
from efficient_reasoning.latent.projection import LatentProjection

MARKERS = Markers([40, 41], [42, 43], 44, 45, 46)
END, VOCABULARY, WIDTH = 47, 50, 32
SMALL = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
CONFIGS = {
    "qwen3": Qwen3Config(**SMALL, **HEADS, head_dim=8, tie_word_embeddings=True),
    "llama": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=False),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=128),
}
SIZES = [(7, (3, 1, 2), 2), (2, (4,), 1), (11, (2, 2, 2, 2, 3), 3), (4, (1, 1), 2)]  # question, steps, answer


def examples() -> list[Example]:
    rng = random.Random(0)

    def draw(count: int) -> list[int]:
        return [rng.randrange(40) for _ in range(count)]

    return [Example(draw(q), [draw(step) for step in steps], [*draw(a), END]) for q, steps, a in SIZES]


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32).eval()
    with torch.no_grad():  # so that a wrong mask or position shows
        for weight in model.parameters():
            weight.mul_(1.5) if weight.ndim > 1 else weight
    return model


@pytest.fixture
def projection():
    torch.manual_seed(1)
    return LatentProjection(WIDTH, has_network=True)


def shown(
    curriculum: Curriculum, stage: int = 0, order=(0, 1, 2, 3), columns: int | None = None, pad: int = 0
) -> Shown:
    own = [examples()[index] for index in order]
    rows = [curriculum.row(example, stage, MARKERS, random.Random(0)) for example in own]
    teacher = [curriculum.teacher_row(example, MARKERS) for example in own]
    return Shown(
        rows,
        collate(rows, pad, columns),
        collate(teacher, pad) if None not in teacher else None,
        torch.tensor([len(example.answer_ids) for example in own]),
        curriculum.latents_per_step,
    )


def plain_states(model, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return model.base_model(inputs_embeds=inputs, use_cache=False, output_hidden_states=True).hidden_states


def embedded(model, ids: list[int]) -> torch.Tensor:
    return model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))


def plain_latents(model, example: Example, count: int, make) -> torch.Tensor:
    """Embedded question, marker and latents (1, C, D); everything from the beginning for each latent."""
    inputs = embedded(model, [*example.question_ids, MARKERS.bot_id])
    for _ in range(count):
        inputs = torch.cat([inputs, make(plain_states(model, inputs)[-1][:, -1:])], 1)
    return inputs


def plain_nll(model, states: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Of ids (N,), each predicted by one of states (1, N, D)."""
    logits = model.get_output_embeddings()(states[0])
    return -logits.log_softmax(-1)[torch.arange(len(ids)), ids]


def plain_codi(model, projection, latents: int, weights: LossWeights) -> torch.Tensor:
    student_nll, teacher_nll, students, teachers = [], [], [], []
    for example in examples():
        close = [*MARKERS.open_ids, *MARKERS.close_ids, *example.answer_ids]
        before = plain_latents(model, example, latents, projection)
        inputs = torch.cat([before, embedded(model, [MARKERS.eot_id, *close])], 1)
        layers = plain_states(model, inputs)
        begin = before.shape[1]  # of the end marker, behind which all is learnt
        student_nll.append(plain_nll(model, layers[-1][:, begin : begin + len(close)], close))
        students.append(torch.stack([layer[0, begin + 4] for layer in layers[1:]]))  # 4 tokens of delimiters
        words = list(chain.from_iterable(example.step_ids))
        response = [*MARKERS.open_ids, *words, *MARKERS.close_ids, *example.answer_ids]
        layers = plain_states(model, embedded(model, [*example.question_ids, *response]))
        asked = len(example.question_ids)
        teacher_nll.append(plain_nll(model, layers[-1][:, asked - 1 : -1], response))
        teachers.append(torch.stack([layer[0, asked + len(words) + 3] for layer in layers[1:]]))
    student, teacher = torch.stack(students, 1), torch.stack(teachers, 1).detach()  # (L, B, D)
    apart = (student - teacher).abs()
    huber = torch.where(apart < 1, apart.square() / 2, apart - 0.5)
    distillation = torch.stack([huber[layer].mean() / teacher[layer].std() for layer in range(len(huber))]).mean()
    loss = torch.cat(student_nll).mean() + weights.teacher * torch.cat(teacher_nll).mean()
    return loss + weights.distillation * distillation


def plain_steps(model, decoder_model, c: int, targets: list[list[list[int]]], latents: list[int]) -> torch.Tensor:
    """SIM-CoT's decoder as a whole language model, on one step of one example at a time."""
    nll = []
    for example, steps, count in zip(examples(), targets, latents, strict=True):
        found = plain_latents(model, example, count, lambda state: state)[:, len(example.question_ids) + 1 :]
        for number, step in enumerate(steps):
            prefix = found[:, number * c : (number + 1) * c]
            inputs = torch.cat([prefix, embedded(decoder_model, step)], 1)
            states = plain_states(decoder_model, inputs)[-1][:, c - 1 : -1]
            nll.append(plain_nll(decoder_model, states, step))
    return torch.cat(nll).mean()


def gradients(*modules) -> list[torch.Tensor]:
    found = [weight.grad.clone() for module in modules for weight in module.parameters() if weight.grad is not None]
    for module in modules:
        module.zero_grad()
    return found


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(0.5, 20.0), LossWeights(2.0, 0.0)])
def test_codi_is_that_of_plain_passes(model, projection, weights):
    loss, parts = losses(model, shown(Curriculum("codi", 5, max_stage=4)), weights, projection)
    loss.backward()
    found = gradients(model, projection)
    expected = plain_codi(model, projection, 4, weights)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    same(found, gradients(model, projection))
    assert len(found) == len(list(model.parameters())) + len(list(projection.parameters()))
    assert ("distillation_loss" in parts) == (weights.distillation > 0)
    assert not any(part.requires_grad for part in parts.values())


def test_the_teacher_is_not_moved_by_distillation(projection):
    """Its states are constants: where distillation alone has weight, words of chains get no gradient."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"], dtype=torch.float32)  # whose head has its own weights
    own = shown(Curriculum("codi", 5, max_stage=2))
    in_chains = {token for example in examples() for token in chain.from_iterable(example.step_ids)}
    elsewhere = {token for row in own.rows for token in (*row.prompt_ids, *row.completion_ids)}
    only_in_chains = sorted(in_chains - elsewhere)
    assert only_in_chains
    for weights, moved in ((LossWeights(0.0, 1.0), False), (LossWeights(1.0, 0.0), True)):
        losses(model, own, weights, projection)[0].backward()
        assert bool(model.get_input_embeddings().weight.grad[only_in_chains].any()) == moved
        model.zero_grad()


def test_a_batch_is_the_same_in_any_order_and_padding(model, projection):
    curriculum, weights = Curriculum("codi", 5, max_stage=3), LossWeights(step=1.0)
    decoder = StepDecoder(model)
    one = losses(model, shown(curriculum), weights, projection, decoder)
    other = losses(model, shown(curriculum, order=(2, 0, 3, 1), columns=5, pad=9), weights, projection, decoder)
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert set(one[1]) == {"teacher_loss", "distillation_loss", "step_loss"}
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("c", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_sim_cot_is_that_of_plain_passes(model, c, stage):
    """In stage 3 no step is left, and the second step's latents stand for all that follows, too."""
    curriculum = Curriculum("sim_cot", 5, max_stage=2, latents_per_step=c)
    own, decoder, weights = shown(curriculum, stage), StepDecoder(model), LossWeights(step=0.7)
    with torch.no_grad():
        for weight in decoder.parameters():  # so that it is told from the model
            weight.mul_(1.1)
    whole = copy.deepcopy(model)
    whole.base_model.load_state_dict(decoder.trunk.state_dict())
    if decoder.head is not None:
        whole.get_output_embeddings().load_state_dict(decoder.head.state_dict())
    targets = [[list(step) for step in example.step_ids[:stage]] for example in examples()]
    if stage == 3:
        targets = [
            [list(steps[0]), list(chain.from_iterable(steps[1:]))][: len(steps)]
            for steps in (example.step_ids for example in examples())
        ]
    loss, parts = losses(model, own, weights, None, decoder)
    loss.backward()
    found, of_decoder = gradients(model), gradients(decoder)

    plain = plain_steps(model, whole, c, targets, [c * min(stage, 2)] * 4)
    torch.testing.assert_close(parts["step_loss"], plain, atol=1e-5, rtol=1e-5)
    answer = losses(model, own, LossWeights())[0]
    (answer + 0.7 * plain).backward()
    torch.testing.assert_close(loss, answer + 0.7 * plain, atol=1e-5, rtol=1e-5)
    same(found, gradients(model))
    same(of_decoder, [weight.grad for weight in whole.parameters() if weight.grad is not None])


def test_the_decoder_shares_no_weights_with_the_model(model):
    held = {weight.data_ptr() for weight in model.parameters()}
    assert not any(weight.data_ptr() in held for weight in StepDecoder(model).parameters())


def test_latents_of_nothing_still_run_the_decoder(model):
    """Another process may have steps to decode, and gradients are waited for."""
    decoder, curriculum = StepDecoder(model), Curriculum("sim_cot", 5, max_stage=2)
    loss, parts = losses(model, shown(curriculum, 0, columns=2), LossWeights(step=1.0), None, decoder)
    loss.backward()
    assert parts["step_loss"] == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in decoder.parameters())


@pytest.mark.parametrize("name", ["teacher", "distillation", "step"])
def test_negative_weights_are_named(name):
    for value in (-1.0, float("nan")):
        with pytest.raises(BadInput, match=f"{name}_coef is {value}; give 0 or more"):
            LossWeights(**{name: value})
