"""Log-probabilities in chunks are those of the whole logits, gradients included."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from efficient_reasoning.rl.logprobs import mean_logprobs, token_logprobs

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
MODELS = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "softcapped": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.5)),
    "lora": lambda: get_peft_model(MODELS["llama"](), LoraConfig(r=2, target_modules="all-linear")),
}
IDS = torch.arange(24).view(3, 8) % 50
MASK = torch.ones_like(IDS)
COUNTED = torch.zeros(3, 8, dtype=torch.bool)
COUNTED[0, 3:7] = True
COUNTED[1, 1:] = True


def whole(model) -> torch.Tensor:
    logprobs = model(input_ids=IDS, attention_mask=MASK).logits[:, :-1].float().log_softmax(-1)
    return logprobs.gather(2, IDS[:, 1:, None])[..., 0][COUNTED[:, 1:]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_tokens", [1, 4, 1024])
def test_they_are_those_of_the_whole_logits(name, chunk_tokens):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = []
    for logprobs in (token_logprobs(model, IDS, MASK, COUNTED, chunk_tokens), whole(model)):
        gradients.append(torch.autograd.grad(logprobs.square().sum(), parameters, allow_unused=True))
        assert logprobs.shape == (11,)
    torch.testing.assert_close(token_logprobs(model, IDS, MASK, COUNTED, chunk_tokens), whole(model))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_no_more_logits_stand_in_memory_than_a_chunk_has():
    model, seen = MODELS["qwen3"]().eval(), []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    token_logprobs(model, IDS, MASK, COUNTED, chunk_tokens=4)
    assert seen == [(4, 50), (4, 50), (3, 50)]


def test_the_mean_of_a_row_is_over_what_counts_in_it():
    means = mean_logprobs(torch.arange(11.0), COUNTED)
    assert means.tolist() == [1.5, 7.0, 0.0]
    nothing = torch.zeros_like(COUNTED)
    logprobs = token_logprobs(MODELS["qwen3"]().eval(), IDS, MASK, nothing)
    assert mean_logprobs(logprobs, nothing).tolist() == [0.0, 0.0, 0.0]
