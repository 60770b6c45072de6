"""From a model with softmax attention to one with a window and a state; its own weights stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from efficient_reasoning.errors import BadInput
from efficient_reasoning.linear.configuration_linearized import LINEAR, SOFTMAX, LinearizedConfig
from efficient_reasoning.linear.modeling_linearized import LinearizedForCausalLM

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")  # decoders that `LinearizedModel` has all parts of

# Of the config, what is another's in the new one.
_REPLACED = {"model_type", "architectures", "auto_map", "layer_types", "sliding_window", "transformers_version"}


def check_convertible(name: str, config: PretrainedConfig) -> None:
    """Whether a model's attention can be replaced.

    Raises:
        BadInput: it has a window, sinks or soft-capping of its own, or parts that are not known.
    """
    if config.model_type == LinearizedConfig.model_type:
        raise BadInput(f"{name}: is linearized already; name the model that it was made from.")
    if any(value for key, value in config.to_dict().items() if key.endswith("softcapping")):
        raise BadInput(f"{name}: caps its scores or logits softly, which is not converted; take another model.")
    if config.model_type == "gpt_oss":
        raise BadInput(f"{name}: has attention sinks, which are not converted; take a model without them.")
    kinds = set(getattr(config, "layer_types", None) or [SOFTMAX])
    if kinds != {SOFTMAX} or getattr(config, "sliding_window", None) is not None:
        raise BadInput(
            f"{name}: not all of its layers attend to everything before them ({', '.join(sorted(kinds))}, "
            f"sliding_window {getattr(config, 'sliding_window', None)}); take a model whose layers do."
        )
    if config.model_type not in ARCHITECTURES:
        raise BadInput(f"{name}: is a {config.model_type}; models of {', '.join(ARCHITECTURES)} can be linearized.")


def check_shape(name: str, config: PretrainedConfig, window_tokens: int, softmax_layers: Collection[int]) -> None:
    """Whether a model can get this window, and keep these layers.

    Raises:
        BadInput: a window or layers that mean nothing.
    """
    layers = range(config.num_hidden_layers)
    if not set(softmax_layers) < set(layers):
        raise BadInput(
            f"softmax_layers is {sorted(softmax_layers)}, and {name} has layers 0 to {layers[-1]}, of which one at "
            "least must be linearized; correct it."
        )
    if window_tokens < 2:
        raise BadInput(f"window_tokens is {window_tokens}; give at least 2.")


def linearize(
    model: PreTrainedModel, window_tokens: int, softmax_layers: Collection[int] = ()
) -> LinearizedForCausalLM:
    """The same model with linearized attention, its feature maps and gates as they are before any training.

    Args:
        model: of one of `ARCHITECTURES`; its weights are handed on, not copied.
        window_tokens: that a query sees by softmax, itself included; at least 2.
        softmax_layers: numbers of layers that stay as they are, the first one 0.

    Raises:
        BadInput: as `check_convertible`, a window or layers that mean nothing, or heads that do not fit.
    """
    config = model.config
    name = config.name_or_path or config.model_type
    check_convertible(name, config)
    check_shape(name, config, window_tokens, softmax_layers)
    layers = range(config.num_hidden_layers)
    attention = model.base_model.layers[0].self_attn
    known = {each.name for each in dataclasses.fields(LinearizedConfig)} - _REPLACED
    kept = {key: value for key, value in config.to_dict().items() if key in known}
    try:
        converted = LinearizedConfig(
            **kept
            | {
                "layer_types": [SOFTMAX if number in softmax_layers else LINEAR for number in layers],
                "sliding_window": window_tokens,
                "head_dim": attention.head_dim,
                "qk_norm": hasattr(attention, "q_norm"),
                "attention_bias": attention.q_proj.bias is not None,
                "attention_output_bias": attention.o_proj.bias is not None,
            }
        )
    except StrictDataclassError as error:
        raise BadInput(f"{name}: {error.__cause__}") from None
    with no_init_weights():
        student = LinearizedForCausalLM(converted)
    missing, unexpected = student.load_state_dict(model.state_dict(), strict=False, assign=True)
    own = ("query_map.weight", "key_map.weight", "gate")
    left = unexpected + [each for each in missing if not each.endswith(own)]
    if left:
        raise BadInput(f"{name}: {left[0]} has no place in the linearized model; take another model.")
    student.tie_weights()
    student.generation_config = model.generation_config
    return student.train(model.training)
