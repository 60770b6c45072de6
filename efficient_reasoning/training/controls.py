"""Control tokens: a text behind the question, such as `<|short|>`, that steers the length as one token.

Rows name theirs under `control`. A token that the tokenizer does not have is added, not special (it stays in decoded
text), starts somewhere among the other tokens, and is trained. A later stage finds it in place.

Where a token starts matters: as the mean of the pieces that spelt it, `<|keep 0.5|>` lies next to `<|keep 0.6|>`, and
a short training leaves them so near to each other that the model heeds neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def controls_of(rows: Iterable[Mapping]) -> list[str]:
    """The distinct controls of rows, sorted.

    Raises:
        BadInput: one that is no text, that does not stand in the prompt of its row, or that cannot be asked for.
    """
    found = set()
    for number, row in enumerate(rows, start=1):
        control = row.get("control")
        if control is None:
            continue
        prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
        if not isinstance(control, str) or not control.strip() or control not in prompt:
            raise BadInput(
                f"Training row {number}: its control {control!r} does not stand in its prompt; append it to the "
                "question, or leave the column empty."
            )
        if bad := [character for character in "&`\n" if character in control]:
            raise BadInput(
                f"Training row {number}: its control {control!r} holds {bad[0]!r}, which no command line or card can "
                "repeat; write another."
            )
        found.add(control)
    return sorted(found)


def without_control(row: Mapping) -> Mapping:
    """The row with the prompt that it would have without its control."""
    control, prompt = row.get("control"), row["prompt"]
    if not control:
        return row
    if isinstance(prompt, str):
        return {**row, "prompt": prompt.replace(control, "")}
    return {**row, "prompt": [*prompt[:-1], prompt[-1] | {"content": prompt[-1]["content"].replace(control, "")}]}


def add_controls(tokenizer: PreTrainedTokenizerBase, controls: Iterable[str]) -> list[int]:
    """Make each control one token of the tokenizer, in place, and return the ids of the new ones."""
    from transformers import AddedToken

    unknown = tokenizer.unk_token_id  # which tokenizers of whole words make of any other
    encoded = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in controls}
    new = [text for text, ids in encoded.items() if len(ids) > 1 or ids == [unknown]]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in new])
    return tokenizer.convert_tokens_to_ids(new)


def embed_controls(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: Sequence[int]) -> None:
    """Give new tokens (`add_controls`) embeddings as others have them, in place.

    They are drawn, per dimension, with the mean and the deviation of the table. The text decides the draw, and not
    which other texts are new.

    The table grows only where it has no row left: many models pad theirs.
    """
    import torch
    from peft.utils.integrations import gather_params_ctx  # does nothing but under ZeRO-3

    if not new:
        return
    old_rows = min(new)
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad(), gather_params_ctx(tables, modifier_rank=0):
        for weight in {id(table): table for table in tables}.values():  # (V, D), one where they are tied
            mean, deviation = weight[:old_rows].float().mean(0), weight[:old_rows].float().std(0)
            for token in new:
                text = tokenizer.convert_ids_to_tokens(token)
                seed = int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "big")
                draw = torch.Generator().manual_seed(seed)
                noise = torch.randn(weight.shape[1], generator=draw).to(weight.device)
                weight[token] = (mean + deviation * noise).to(weight.dtype)
