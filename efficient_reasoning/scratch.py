"""What a model from scratch needs beside its weights: a tokenizer, a config that fits it, batches and a loss.

1. The tokenizer is a byte-level BPE with single digits: small, able to write any text, and good at arithmetic.
2. The think delimiters are added tokens, one id each.
3. The config is that of any architecture of transformers; a field that it does not have is refused, where
   transformers would keep it and ignore it.
4. Batches are padded on the right to few lengths.
5. The loss makes the answer without thinking worth learning, and leaves the choice to think as the data have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.thinking import KNOWN_DELIMITERS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

OPEN, CLOSE = KNOWN_DELIMITERS[0]
END, PAD = "<|end|>", "<|pad|>"


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` tokens (bytes, EOS, padding and delimiters, 260, are always there)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\n+|\s"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Not special: TRL decodes the text that rewards see without special tokens, and the delimiters would vanish.
    tokenizer.add_tokens([AddedToken(OPEN, special=False), AddedToken(CLOSE, special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left")


def build_config(architecture: Mapping[str, object], tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """The config of a model for this tokenizer.

    Args:
        architecture: `model_type` and fields of its config, as in a config.json.
        tokenizer: says how many tokens there are, and which of them end and pad.

    Raises:
        BadInput: an architecture or field that transformers does not know, or a value of the wrong type.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    model_type = architecture.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise BadInput(
            f"architecture: transformers has no model_type {model_type!r}; name one, such as qwen3 or llama."
        )
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": None}
    tokens |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    known = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])} - tokens.keys()
    for key in architecture.keys() - {"model_type"} - known:
        raise BadInput(f"architecture: {key!r} cannot be set in a {model_type}{near(key, known)}")
    try:
        return CONFIG_MAPPING[model_type](**{**architecture, **tokens})
    except StrictDataclassError as error:
        raise BadInput(f"architecture: {' '.join(str(error).split())}; correct it.") from None


def collate(rows: list[dict]) -> dict[str, Tensor]:
    """Pad on the right and send no mask: causal attention never looks there, and without one it runs fused.

    Batches are a multiple of 64 tokens long, so that `torch_compile` has few shapes to compile.
    """
    import torch

    columns = -(-max(len(row["input_ids"]) for row in rows) // 64) * 64
    padded = {"input_ids": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [fill] * (columns - len(row[name])) for row in rows])  # (B, T)
        for name, fill in padded.items()
    }


def completion_loss(logits: Tensor, labels: Tensor, empty_block: tuple[int, int], empty_weight: float) -> Tensor:
    """Summed cross-entropy; a token of an answer to an empty thinking block weighs `empty_weight`, any other 1.

    Those are a handful of tokens among the hundreds of verbose rows: unweighted, the model never learns to answer
    without thinking. A weight that depends only on what stands before a token leaves every probability calibrated;
    weighing rows alike does not, and the model comes to prefer the empty block.

    Args:
        logits: (B, T, V).
        labels: (B, T), -100 where nothing is learned.
        empty_block: the ids that open and close the thinking.
        empty_weight: at least 0.
    """
    from torch.nn.functional import cross_entropy

    before, labels = labels[:, :-1], labels[:, 1:]  # (B, T - 1)
    losses = cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, reduction="none")  # (B, T - 1), 0 at -100
    closes = (before == empty_block[0]) & (labels == empty_block[1])
    is_answer = closes.cumsum(1) > closes
    return losses.where(~is_answer, empty_weight * losses).sum()
