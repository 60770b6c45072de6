"""A small token classifier, trained on what the long chains of a problem share with its shortest correct one.

1. LLMLingua-2 (arXiv 2403.12968) lets a large model shorten texts, and labels each of their words by whether it is in
   the short version. Here a model's own traces are both: of a problem that was solved several times, the shortest
   correct chain is the short version of all the others. An equation counts as one word, so that of a slip and its
   correction it is the correction that is found again.
2. What learns the labels is a ModernBERT of two layers over the target model's own tokens: it sees what follows a
   token, too. A minute on a CPU is enough, and the folder is one that `importance.TokenClassifier` loads.
3. Problems held out tell how well it sorts: the area under the ROC curve of its probabilities.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from efficient_reasoning.compression.chains import refusal
from efficient_reasoning.compression.words import split_words
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import atomic_folder, write_json
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    import torch

REPORT_NAME = "training.json"
_MAX_TOKENS = 1 << 20  # of all pairs; more take longer and teach little
_WINDOW = 512
_LONG = 2000  # words, from which on frequent ones are not aligned by themselves, which would take too long
_BATCH_TOKENS = 2048
_STEPS = 200
_LEARNING_RATE = 3e-3
_HELD_OUT = 0.1  # of the problems
_IGNORED = -100  # what the loss leaves out


class _Example(NamedTuple):
    ids: list[int]
    labels: list[int]  # 1 keep, 0 drop


def train_token_classifier(
    groups: Iterable[Sequence[Mapping]], thinking: ThinkingFormat, folder: str | Path, source: str = "", seed: int = 0
) -> dict:
    """Train a classifier and save it, whole or not at all.

    Args:
        groups: the traces of each problem.
        thinking: the delimiters and the tokenizer of the model whose chains are to be shortened.
        folder: of the new checkpoint; `training.json` in it holds what is returned.
        source: digest of the traces' files.
        seed: of weights, batches and the problems held out.

    Returns:
        `source`, `pairs`, `tokens`, `kept_share` of the labels, `auc` on the problems held out (None without any).

    Raises:
        BadInput: no problem has a long and a short correct chain.
    """
    import torch
    from transformers import ModernBertConfig, ModernBertForTokenClassification

    learnt, held_out, pairs = _examples(groups, thinking, random.Random(seed))
    tokenizer = thinking.tokenizer
    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        global_attn_every_n_layers=1,
        max_position_embeddings=_WINDOW,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        id2label={0: "drop", 1: "keep"},
        label2id={"drop": 0, "keep": 1},
    )
    model = ModernBertForTokenClassification(config)
    _fit(model, learnt, tokenizer.pad_token_id, random.Random(seed))
    labels = [label for example in learnt + held_out for label in example.labels]
    report = {
        "source": source,
        "pairs": pairs,
        "tokens": len(labels),
        "kept_share": sum(labels) / len(labels),
        "auc": _auc(model.eval(), held_out, tokenizer.pad_token_id) if held_out else None,
    }
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        write_json(unfinished / REPORT_NAME, report)
    return report


def is_trained_on(folder: str | Path, source: str) -> bool:
    """Whether a folder holds a classifier of the traces with this digest."""
    path = Path(folder) / REPORT_NAME
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("source") == source


def align(long: str, short: str) -> list[tuple[int, int, bool]]:
    """Which words of a long chain are those of a short one, in order: (start, stop, whether it is), in characters."""
    words, target = split_words(long), [word.text for word in split_words(short)]
    matcher = SequenceMatcher(None, [word.text for word in words], target, autojunk=len(words) > _LONG)
    found = {block.a + i for block in matcher.get_matching_blocks() for i in range(block.size)}
    return [(word.start, word.stop, place in found) for place, word in enumerate(words)]


def _examples(
    groups: Iterable[Sequence[Mapping]], thinking: ThinkingFormat, rng: random.Random
) -> tuple[list[_Example], list[_Example], int]:
    """Windows to learn from and windows held out, and the number of pairs behind them."""
    learnt: list[_Example] = []
    held_out: list[_Example] = []
    pairs = tokens = 0
    for group in groups:
        fit = sorted((row for row in group if refusal(row, thinking) is None), key=lambda row: row["total_tokens"])
        if not fit or fit[-1]["total_tokens"] == fit[0]["total_tokens"]:
            continue
        place = held_out if rng.random() < _HELD_OUT else learnt
        for row in fit:
            found = _labelled(row["thinking"], fit[0]["thinking"], thinking.tokenizer)
            place += found
            tokens += sum(len(example.ids) for example in found)
            pairs += row["total_tokens"] > fit[0]["total_tokens"]
        if tokens >= _MAX_TOKENS:
            break
    if not learnt:
        raise BadInput(
            "No problem has a long and a short correct chain for a token classifier to learn from; sample each "
            "problem more often, or take another importance."
        )
    return learnt, held_out, pairs


def _labelled(long: str, short: str, tokenizer) -> list[_Example]:
    encoded = tokenizer(long, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    aligned = iter(align(long, short))
    _, stop, is_kept = next(aligned)
    labels = []
    for start, _ in encoded["offset_mapping"]:
        while start >= stop:
            _, stop, is_kept = next(aligned, (0, len(long) + 1, False))
        labels.append(int(is_kept))
    ids = encoded["input_ids"]
    return [_Example(ids[i : i + _WINDOW], labels[i : i + _WINDOW]) for i in range(0, len(ids), _WINDOW)]


def _fit(model: torch.nn.Module, examples: Sequence[_Example], pad_id: int, rng: random.Random) -> None:
    import torch
    from tqdm import tqdm

    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_STEPS)
    model.train()
    for _ in tqdm(range(_STEPS), desc="token classifier", unit="step"):
        batch: list[_Example] = []
        while len(batch) * max((len(example.ids) for example in batch), default=0) < _BATCH_TOKENS:
            batch.append(rng.choice(examples))
        input_ids, mask, labels = _tensors(batch, pad_id)
        logits = model(input_ids=input_ids, attention_mask=mask).logits  # (N, T, 2)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _tensors(batch: Sequence[_Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and labels, each (N, T), padded on the right."""
    import torch

    longest = max(len(example.ids) for example in batch)
    padding = [longest - len(example.ids) for example in batch]
    pairs = list(zip(batch, padding, strict=True))
    return (
        torch.tensor([example.ids + [pad_id] * count for example, count in pairs]),
        torch.tensor([[1] * len(example.ids) + [0] * count for example, count in pairs]),
        torch.tensor([example.labels + [_IGNORED] * count for example, count in pairs]),
    )


def _auc(model: torch.nn.Module, examples: Sequence[_Example], pad_id: int) -> float | None:
    """How often a kept token is rated above one that is not, over all tokens; None where one kind is missing."""
    import torch

    scores, truth = [], []
    with torch.inference_mode():
        for begin in range(0, len(examples), 16):
            input_ids, mask, labels = _tensors(examples[begin : begin + 16], pad_id)
            logits = model(input_ids=input_ids, attention_mask=mask).logits
            scores.append((logits[..., 1] - logits[..., 0])[labels != _IGNORED])
            truth.append(labels[labels != _IGNORED])
    score, kept = torch.cat(scores), torch.cat(truth).bool()
    ranks = score.argsort().argsort().double() + 1
    positive, negative = int(kept.sum()), int((~kept).sum())
    if not positive or not negative:
        return None
    return float((ranks[kept].sum() - positive * (positive + 1) / 2) / (positive * negative))
