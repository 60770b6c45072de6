"""The two losses of attention transfer (LoLCATs, arXiv 2410.10254), and that of hybrids.

1. `transfer_loss`: hidden states are the teacher's, those of softmax in all layers. What each linearized layer's own
   attention makes of the same queries, keys and values is to come close to what softmax makes of them.
2. `finetuning_loss`: the student reads by itself. Next tokens count, and on request the teacher's view of them.
   The teacher is the student with softmax in all layers, and without adapters: no second model stands beside it.
3. `mutual_kl_loss`: a hybrid's distribution beside that of the model that it was made from.

Legend: B rows, T tokens, N labelled tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask

from efficient_reasoning.linear.modeling_linearized import (
    LinearizedAttention,
    LinearizedForCausalLM,
    LinearizedModel,
)

IGNORED = -100  # a label that does not count
Watcher = Callable[[LinearizedAttention, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


@torch.no_grad()
def teacher_states(
    model: LinearizedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, watch: Watcher | None = None
) -> torch.Tensor:
    """Last hidden states (B, T, D) of the model with softmax in all layers.

    Args:
        model: without adapters, or with adapters that are switched off.
        input_ids, attention_mask: (B, T).
        watch: called in each linearized layer, with gradients switched on, with its attention, its queries, keys and
            values, and what softmax makes of them (B, T, H, D / H).
    """
    hidden = model.embed_tokens(input_ids)
    positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    mask = create_causal_mask(
        config=model.config,
        inputs_embeds=hidden,
        attention_mask=attention_mask,
        past_key_values=None,
        position_ids=positions,
    )
    rotation = model.rotary_emb(hidden, positions)
    for layer in model.layers:
        attention = layer.self_attn
        projected = attention.project(layer.input_layernorm(hidden), rotation)
        output = attention.softmax(*projected, mask)
        if watch is not None and isinstance(attention, LinearizedAttention):
            with torch.enable_grad():
                watch(attention, *projected, output)
        hidden = hidden + attention.o_proj(output.flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.norm(hidden)


def transfer_loss(model: LinearizedForCausalLM, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over linearized layers of the squared error of attention's outputs, over the variance of the teacher's.

    Outputs are taken before the output projection; padding does not count. 0 is the teacher itself, and 1 no better
    than its mean.

    Args:
        model: whose feature maps and gates take gradients.
        input_ids, attention_mask: (B, T).
    """
    valid = attention_mask.bool()
    checkpointing = model.training and model.model.layers[0].gradient_checkpointing
    losses = []

    def loss_of(
        attention: LinearizedAttention,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        wanted: torch.Tensor,
    ) -> torch.Tensor:
        output, _ = attention.attend(query, key, value, valid)
        wanted = wanted[valid].float()  # (N, H, D / H)
        error = (output.transpose(1, 2)[valid].float() - wanted).square().mean()
        return error / wanted.var(0).mean()

    def watch(*seen) -> None:
        if checkpointing:
            losses.append(checkpoint(loss_of, *seen, use_reentrant=False))
        else:
            losses.append(loss_of(*seen))

    teacher_states(model.model, input_ids, attention_mask, watch)
    return torch.stack(losses).mean()


def finetuning_loss(
    model: LinearizedForCausalLM,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    kl_coef: float,
    without_adapters: Callable,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean negative log-likelihood of the labelled tokens, in nats, plus kl_coef times KL(teacher || student).

    Args:
        model: the student.
        input_ids, attention_mask: (B, T).
        labels: (B, T), `IGNORED` where nothing is to be learnt.
        kl_coef: 0 leaves the teacher out.
        without_adapters: gives a context in which the model has its own weights.

    Returns:
        The loss, and its parts, `cross_entropy` and `kl`, detached.
    """
    labelled = labels[:, 1:] != IGNORED
    wanted = labels[:, 1:][labelled]  # (N,)
    states = model.model(input_ids, attention_mask, use_cache=False).last_hidden_state
    logits = model.lm_head(states[:, :-1][labelled]).float()  # (N, V)
    count = max(1, len(wanted))
    loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / count
    parts = {"cross_entropy": loss.detach()}
    if kl_coef:
        with torch.no_grad(), without_adapters():
            states = teacher_states(model.model, input_ids, attention_mask)
            teacher = model.lm_head(states[:, :-1][labelled]).float().log_softmax(-1)
        kl = torch.nn.functional.kl_div(logits.log_softmax(-1), teacher, reduction="sum", log_target=True) / count
        loss = loss + kl_coef * kl
        parts["kl"] = kl.detach()
    return loss, parts


def mutual_kl_loss(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean over the labelled tokens of half of KL(teacher || student) and half of KL(student || teacher), in nats.

    A student that knows nothing yet learns from the former; the latter keeps it from what the teacher would not say.

    Args:
        model: the student.
        teacher: of the same tokenizer.
        input_ids, attention_mask: (B, T).
        labels: (B, T), `IGNORED` where nothing is to be learnt.

    Returns:
        The loss, and its parts, `forward_kl` and `reverse_kl`, detached.
    """
    labelled = labels[:, 1:] != IGNORED

    def logprobs(each: PreTrainedModel) -> torch.Tensor:
        states = each.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return each.get_output_embeddings()(states[:, :-1][labelled]).float().log_softmax(-1)  # (N, V)

    with torch.no_grad():
        wanted = logprobs(teacher)
    own = logprobs(model)
    count = max(1, len(own))
    forward = (wanted.exp() * (wanted - own)).sum() / count
    reverse = (own.exp() * (own - wanted)).sum() / count
    return (forward + reverse) / 2, {"forward_kl": forward.detach(), "reverse_kl": reverse.detach()}
