"""Does a model keep packed rows apart? It is asked: the second of two rows must not feel what the first one says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import SFTConfig


def check_packing(model: PreTrainedModel, config: SFTConfig) -> None:
    """Refuse packing, or batches without padding, where rows would be trained on as one text.

    Attention tells rows apart by their positions. Recurrent layers do not without kernels of their own, and
    `packing_strategy: wrapped` cuts rows wherever a block ends.

    Raises:
        BadInput: rows would be mixed.
    """
    if not (config.packing or config.padding_free):
        return
    if config.packing and config.packing_strategy == "wrapped":
        raise BadInput("packing_strategy is wrapped, which joins and cuts rows; leave it out.")
    if "flash" not in (model.config._attn_implementation or "") and not keeps_rows_apart(model):
        raise BadInput(
            f"packing: {model.config.model_type} would read packed rows as one text; leave packing and padding_free "
            "out, or set model_init_kwargs: {attn_implementation: flash_attention_2}."
        )


def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether the logits of a row stay the same when the row before it changes; False where ZeRO-3 hides them."""
    import torch
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        return False
    was_training, first, second = model.training, (range(1, 5), range(5, 9)), range(2, 8)
    positions = torch.tensor([[*range(4), *range(6)]], device=model.device)
    logits = []
    model.eval()
    with torch.no_grad():
        for row in first:
            ids = torch.tensor([[*row, *second]], device=model.device)
            logits.append(model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 4:])  # (6, V)
    model.train(was_training)
    return torch.allclose(*logits, atol=1e-4)
