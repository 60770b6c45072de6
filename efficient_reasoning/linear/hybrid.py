"""From a Qwen3 to a hybrid that transformers and vLLM serve as it is: the text model of Qwen3.5 (after 2408.15237).

1. Layers that keep softmax compute what they computed: Qwen3.5's attention has a gate of its own, which stands at one
   half, and an output projection of twice the weights makes up for it. Norms, MLPs and embeddings are the same.
2. The others become gated DeltaNet (arXiv 2412.06464) with the projections of the attention that they replace: those
   of queries, keys and values, a group's repeated for each of its heads, and the output's. Convolutions pass every
   token on, half-lives go from a few to some hundred tokens, and what else attention has no weights for is random.
3. That is where training begins, and not a model that works yet: `HybridTrainer` draws it to its teacher.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from efficient_reasoning.errors import BadInput

ATTENTION, DELTA = "full_attention", "linear_attention"
_DECAYS = (1e-3, 1e-1)  # of a state, a token, at start: half-lives of 700 and of 7 tokens


def to_hybrid(model: PreTrainedModel, softmax_layers: Collection[int]) -> Qwen3_5ForCausalLM:
    """A hybrid that begins from a Qwen3; its weights are copies.

    Args:
        model: a Qwen3 all of whose layers attend to everything before them.
        softmax_layers: numbers of layers that stay as they are, the first one 0.

    Raises:
        BadInput: another architecture, or layers that mean nothing.
    """
    config = model.config
    name = config.name_or_path or config.model_type
    check_hybrid(name, config, softmax_layers)
    heads, head_dim = config.num_attention_heads, config.head_dim
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    same += ("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps")
    same += ("tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "dtype")
    kinds = [ATTENTION if number in softmax_layers else DELTA for number in range(config.num_hidden_layers)]
    hybrid = Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            **{key: getattr(config, key) for key in same},
            rope_parameters={**config.rope_parameters, "partial_rotary_factor": 1.0},
            layer_types=kinds,
            linear_num_key_heads=heads,
            linear_num_value_heads=heads,
            linear_key_head_dim=head_dim,
            linear_value_head_dim=head_dim,
        )
    ).to(model.device, model.dtype)
    with torch.no_grad():
        hybrid.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)
        hybrid.get_output_embeddings().weight.copy_(model.get_output_embeddings().weight)
        _copy_norm(hybrid.model.norm, model.model.norm)
        for new, old in zip(hybrid.model.layers, model.model.layers, strict=True):
            _copy_norm(new.input_layernorm, old.input_layernorm)
            _copy_norm(new.post_attention_layernorm, old.post_attention_layernorm)
            new.mlp.load_state_dict(old.mlp.state_dict())
            if hasattr(new, "self_attn"):
                _keep_attention(new.self_attn, old.self_attn)
            else:
                _replace_attention(new.linear_attn, old.self_attn)
    hybrid.generation_config = model.generation_config
    return hybrid.train(model.training)


def check_hybrid(name: str, config: PretrainedConfig, softmax_layers: Collection[int]) -> None:
    """Whether `to_hybrid` takes a model of this config.

    Raises:
        BadInput: it does not.
    """
    if config.model_type != "qwen3" or set(config.layer_types) != {ATTENTION} or config.attention_bias:
        raise BadInput(f"{name}: is no Qwen3 with full attention; only that becomes a hybrid.")
    layers = range(config.num_hidden_layers)
    if not set(softmax_layers) < set(layers):
        raise BadInput(
            f"softmax_layers is {sorted(softmax_layers)}, and {name} has layers 0 to {layers[-1]}, of which one at "
            "least must become a state; correct it."
        )


def _copy_norm(new: nn.Module, old: nn.Module) -> None:
    new.weight.copy_(old.weight - 1)  # Qwen3.5 scales by one plus the weight


def _keep_attention(new: nn.Module, old: nn.Module) -> None:
    query = old.q_proj.weight.unflatten(0, (-1, old.head_dim))  # (H, D, width)
    new.q_proj.weight.copy_(torch.cat([query, torch.zeros_like(query)], 1).flatten(0, 1))
    new.k_proj.weight.copy_(old.k_proj.weight)
    new.v_proj.weight.copy_(old.v_proj.weight)
    new.o_proj.weight.copy_(2 * old.o_proj.weight)
    _copy_norm(new.q_norm, old.q_norm)
    _copy_norm(new.k_norm, old.k_norm)


def _replace_attention(new: nn.Module, old: nn.Module) -> None:
    groups = old.num_key_value_groups

    def for_each_head(weight: torch.Tensor) -> torch.Tensor:
        return weight.unflatten(0, (-1, old.head_dim)).repeat_interleave(groups, 0).flatten(0, 1)

    projected = [old.q_proj.weight, for_each_head(old.k_proj.weight), for_each_head(old.v_proj.weight)]
    new.in_proj_qkv.weight.copy_(torch.cat(projected))
    new.out_proj.weight.copy_(old.o_proj.weight)
    new.conv1d.weight.zero_()
    new.conv1d.weight[..., -1] = 1
    low, high = map(math.log, _DECAYS)
    decay = torch.linspace(low, high, new.num_v_heads, device=new.dt_bias.device).exp()
    new.A_log.zero_()
    new.dt_bias.copy_(torch.log(torch.expm1(decay)))  # softplus gives it back
