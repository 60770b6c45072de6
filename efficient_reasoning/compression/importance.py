"""How much each token of a chain of thought matters, by one of two measures.

1. *Self-information* (Selective Context, arXiv 2304.12102): -log p(token | the chain before it), in nats, under the
   model whose chain it is. What can be guessed from what stands before it can be left out. The model does not see the
   question: behind it, a well trained model expects everything that it says, and nothing tells a step that brings in
   new numbers from its third check.
2. *A token classifier* gives the probability that a token stays: LLMLingua-2's (arXiv 2403.12968), or one trained on
   the traces at hand (`token_classifier`). It reads both sides of a token, and needs no model that writes.

Ratings belong to tokens of whoever rates; they come with their place in the text, so that another tokenizer's tokens,
and whole words, can be rated by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from efficient_reasoning.compression.words import Word
from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from efficient_reasoning.inference import Reasoner

LLMLINGUA_2 = "microsoft/llmlingua-2-xlm-roberta-large-meetingbank"
_KEEP = 1  # the label of a token that stays
_MAX_WINDOW = 512
_WINDOWS = 32  # of one forward pass
_CHAINS = 16


class Rating(NamedTuple):
    """How much the text from character `start` to `stop` matters; more is more."""

    start: int
    stop: int
    value: float


class Importance(Protocol):
    """Anything that rates tokens.

    Attributes:
        weights: fingerprint of its model; None for a model of the Hub.
    """

    weights: str | None

    def rate(self, texts: Sequence[str]) -> list[list[Rating] | None]:
        """The tokens of each text, in order; None of a text that is too long for the model."""
        ...


class SelfInformation:
    """Nats of each token of the target model, given those before it and an empty question.

    Args:
        reasoner: whose engine can score.

    Raises:
        BadInput: its engine cannot.
    """

    def __init__(self, reasoner: Reasoner):
        from efficient_reasoning.inference.engine import SCORE
        from efficient_reasoning.prompts import encode_prompt, make_prompt

        if SCORE not in reasoner.engine.capabilities:
            raise BadInput(f"{reasoner.name}: backend {reasoner.backend} cannot rate text; take transformers.")
        self.reasoner = reasoner
        self.weights = reasoner.weights
        prompt_ids = encode_prompt(reasoner.tokenizer, make_prompt(reasoner.tokenizer, ""))
        self._prefix = [*prompt_ids, *reasoner.thinking.open(prompt_ids)]

    def rate(self, texts: Sequence[str]) -> list[list[Rating] | None]:
        encoded = [_encode(self.reasoner.tokenizer, text) for text in texts]
        lengths = [len(ids) for ids, _ in encoded]
        longest = (self.reasoner.context_tokens or math.inf) - len(self._prefix)
        ratings: list[list[Rating] | None] = [[] if length <= longest else None for length in lengths]
        order = sorted((i for i, length in enumerate(lengths) if 0 < length <= longest), key=lengths.__getitem__)
        for begin in range(0, len(order), _CHAINS):  # of about one length, because all are padded to the longest
            chosen = order[begin : begin + _CHAINS]
            scores = self.reasoner.engine.score([(self._prefix, encoded[i][0]) for i in chosen])
            for i, score in zip(chosen, scores, strict=True):
                places = encoded[i][1]
                ratings[i] = [Rating(*place, -nats) for place, nats in zip(places, score.logprobs, strict=True)]
        return ratings


class TokenClassifier:
    """The probability that a token stays, of a token-classification model with the labels 0 (drop) and 1 (keep).

    A long text is read in windows that overlap by half; of each the middle counts.

    Args:
        model: folder or Hub id.
        device: "cpu", "cuda", ...; None takes a GPU when there is one.

    Raises:
        BadInput: no such model, or one of another kind.
    """

    def __init__(self, model: str = LLMLINGUA_2, device: str | None = None):
        from efficient_reasoning.checkpoint import load_tokenizer, weights_fingerprint

        if not Path(model).is_dir() and (Path(model).is_absolute() or model.startswith((".", "~"))):
            raise BadInput(f"{model}: no such folder of a token classifier; check importance_model.")
        self.tokenizer = load_tokenizer(model)
        self.model = _load_classifier(model, device)
        self.weights = weights_fingerprint(model)

    def rate(self, texts: Sequence[str]) -> list[list[Rating]]:
        import torch

        overlap = self.window // 2
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.window,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        rated: list[list[Rating]] = [[] for _ in texts]
        for begin in range(0, len(encoded["input_ids"]), _WINDOWS):
            windows = slice(begin, begin + _WINDOWS)
            ids = encoded["input_ids"][windows]
            longest = max(map(len, ids))
            padding = [longest - len(row) for row in ids]
            input_ids = [row + [self.tokenizer.pad_token_id] * count for row, count in zip(ids, padding, strict=True)]
            mask = [[1] * len(row) + [0] * count for row, count in zip(ids, padding, strict=True)]
            with torch.inference_mode():
                logits = self.model(
                    input_ids=torch.tensor(input_ids, device=self.model.device),
                    attention_mask=torch.tensor(mask, device=self.model.device),
                ).logits  # (N, T, 2)
            kept = logits.float().softmax(-1)[:, :, _KEEP].tolist()
            for text, places, special, values in zip(
                encoded["overflow_to_sample_mapping"][windows],
                encoded["offset_mapping"][windows],
                encoded["special_tokens_mask"][windows],
                kept,
                strict=True,
            ):
                window = [
                    Rating(*place, value)
                    for place, is_special, value in zip(places, special, values, strict=False)
                    if not is_special
                ]
                if rated[text]:  # of what two windows have read, each rates the half that is nearer to its middle
                    window = window[overlap // 2 :]
                    del rated[text][len(rated[text]) - (overlap - overlap // 2) :]
                rated[text] += window
        return rated

    @cached_property
    def window(self) -> int:
        """Most tokens that are read at once, special ones included."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or _MAX_WINDOW
        return min(_MAX_WINDOW, positions)


def _load_classifier(model: str, device: str | None) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.from_pretrained(model)
    if not any("TokenClassification" in name for name in config.architectures or []) or config.num_labels != 2:
        raise BadInput(f"{model}: no token classifier with two labels; give LLMLingua-2's, or one trained here.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return AutoModelForTokenClassification.from_pretrained(model).to(device).eval()


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text and their places in it, in characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["input_ids"], encoded["offset_mapping"]


def word_values(words: Sequence[Word], ratings: Sequence[Rating]) -> list[float]:
    """The mean rating of the tokens in each word; 0 for a word that has none."""
    values, first = [], 0
    for word in words:
        while first < len(ratings) and ratings[first].stop <= word.start:
            first += 1
        inside = []
        for rating in ratings[first:]:
            if rating.start >= word.stop:
                break
            inside.append(rating.value)
        values.append(sum(inside) / len(inside) if inside else 0.0)
    return values


def word_tokens(tokenizer: PreTrainedTokenizerBase, text: str, words: Sequence[Word]) -> list[int]:
    """How many tokens of the text begin in each word and the white space in front of it."""
    _, places = _encode(tokenizer, text)
    starts = iter(place[0] for place in places)
    start, counts = next(starts, None), []
    for word in words:
        count = 0
        while start is not None and start < word.stop:
            count, start = count + 1, next(starts, None)
        counts.append(count)
    return counts
