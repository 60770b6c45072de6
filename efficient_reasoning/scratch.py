"""What a model from scratch needs beside its weights: a tokenizer, a config that fits it, batches and a loss.

1. The tokenizer is a byte-level BPE with single digits: small, able to write any text, and good at arithmetic. Or it
   has a token for each word, digit, sign and line break: then lengths count words, and other words are unknown to it.
   Or it is that of a model.
2. The think delimiters are added tokens, one id each.
3. The config is that of any architecture of transformers, or one of our own; a field that it does not have is
   refused, where transformers would keep it and ignore it.
4. Rows are ids with labels, and batches are padded on the right to few lengths.
5. The loss makes the answer without thinking worth learning, and leaves the choice to think as the data have it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.thinking import KNOWN_DELIMITERS

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

OPEN, CLOSE = KNOWN_DELIMITERS[0]
END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<unk>"
_DELIMITERS = re.compile(f"{re.escape(OPEN)}|{re.escape(CLOSE)}")


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, kind: Literal["bpe", "words"] = "bpe"
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens.

    Args:
        texts: to learn from, whole rows.
        vocab_size: with end, padding and delimiters. A BPE always has 260: these and the bytes.
        kind: "bpe" of bytes, or "words", of which the most frequent are kept and others read as `<unk>`.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokenizer = {"bpe": _train_bpe, "words": _train_words}[kind](texts, vocab_size - 2)
    # Not special: TRL decodes the text that rewards see without special tokens, and the delimiters would vanish.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (OPEN, CLOSE)])
    unknown = {"unk_token": UNKNOWN} if kind == "words" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left", **unknown
    )


def _train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\n+|\s"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((_DELIMITERS.sub("", text) for text in texts), trainer)
    return tokenizer


def _train_words(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """The space before a word belongs to it, and the first word of a line gets one: else words had two tokens each."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(r"(?<![^\n])(?=\S)"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]|\s"), "isolated")
    begins = Regex(f"(?:^|(?<={re.escape(OPEN)})|(?<={re.escape(CLOSE)})) ")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(begins, "")])
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=[PAD, END, UNKNOWN], show_progress=False)
    parts = (part for text in texts for part in _DELIMITERS.split(text.removesuffix(END)))
    tokenizer.train_from_iterator(parts, trainer)
    return tokenizer


def make_tokenizer(name: str, texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer trained on texts (`train_tokenizer`), or that of a model, with the think delimiters added to it.

    Args:
        name: "bpe", "words", or the folder or Hub id of a model.
        texts, vocab_size: for a tokenizer that is trained.

    Raises:
        BadInput: no such model, or one whose tokenizer has no end token.
    """
    from tokenizers import AddedToken

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model

    if name in ("bpe", "words"):
        return train_tokenizer(texts, vocab_size, name)
    tokenizer = load_tokenizer(resolve_model(name))
    if tokenizer.eos_token_id is None:
        raise BadInput(f"tokenizer: {name} has no end token, and rows could not end; name another.")
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (OPEN, CLOSE)])
    return tokenizer


def build_config(architecture: Mapping[str, object], tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The config of a model for this tokenizer.

    Args:
        architecture: `model_type` and fields of its config, as in a config.json.
        tokenizer: says how many tokens there are, and which of them end and pad.

    Raises:
        BadInput: an architecture or field that transformers does not know, or a value of the wrong type.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    import efficient_reasoning.recurrent
    import efficient_reasoning.window_global  # noqa: F401, which make their architectures known

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


def encode(rows: list[dict], tokenizer: PreTrainedTokenizerFast, max_row_tokens: int) -> Dataset:
    """Token ids of prompt and completion, and labels that leave the prompt out; without the rows that are too long."""
    from datasets import Dataset

    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    texts = [row["completion"].removesuffix(END) for row in rows]  # another model's end is another one
    ended = ([*ids, tokenizer.eos_token_id] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    encoded = [
        {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
        for prompt, completion in zip(prompts, ended, strict=True)
        if len(prompt) + len(completion) <= max_row_tokens
    ]
    if not encoded:
        raise BadInput(f"max_row_tokens is {max_row_tokens}, and every row is longer; raise it.")
    return Dataset.from_list(encoded)


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
    closed = closes.cumsum(1)
    # Where nothing is learned, another row begins: several may be packed into one sequence.
    closed_in_row = closed - closed.where(labels == -100, 0).cummax(1).values
    is_answer = closed_in_row > closes.long()
    return losses.where(~is_answer, empty_weight * losses).sum()
