"""Control tokens: a text behind the question, such as `<|short|>`, that steers the length as one token.

Rows name theirs under `control`. A token that the tokenizer does not have is added, not special (it stays in decoded
text), starts as the mean of the tokens that spelt the text so far, and is trained. A later stage finds it in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def controls_of(rows: Iterable[Mapping]) -> list[str]:
    """The distinct controls of rows, sorted.

    Raises:
        BadInput: one that is no text, or that does not stand in the prompt of its row.
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


def add_controls(tokenizer: PreTrainedTokenizerBase, controls: Iterable[str]) -> dict[int, list[int]]:
    """Make each control one token of the tokenizer, in place.

    Returns:
        the ids of the new ones, each with the ids that the text had before.
    """
    from transformers import AddedToken

    before = {control: tokenizer(control, add_special_tokens=False)["input_ids"] for control in controls}
    tokenizer.add_tokens([AddedToken(control, normalized=False, special=False) for control in before])
    ids = {tokenizer.convert_tokens_to_ids(control): old for control, old in before.items()}
    return {new: old for new, old in ids.items() if old != [new]}


def embed_controls(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new: Mapping[int, list[int]]) -> None:
    """Give new tokens (`add_controls`) the mean embedding of the tokens that they replace, in place.

    The table grows only where it has no row left: many models pad theirs.
    """
    import torch
    from peft.utils.integrations import gather_params_ctx  # does nothing but under ZeRO-3

    if not new:
        return
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad(), gather_params_ctx(tables, modifier_rank=0):
        for weight in {id(table): table for table in tables}.values():  # (V, D), one where they are tied
            for token, old in new.items():
                weight[token] = weight[old].mean(0)
