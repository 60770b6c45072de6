"""What tokens matter: self-information, classifiers, and one that is trained here."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForTokenClassification

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.compression import token_classifier
from efficient_reasoning.compression.importance import (
    Rating,
    SelfInformation,
    TokenClassifier,
    word_tokens,
    word_values,
)
from efficient_reasoning.compression.token_classifier import align, is_trained_on, train_token_classifier
from efficient_reasoning.compression.words import split_words
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import load_reasoner
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.thinking import ThinkingFormat

CHAIN = "First, 12+30=42. Wait, check: 42-30=12. Yes.\nFinally, 42*2=84."


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    folder = resolve_model("overthinker")
    return thinking_format(folder, load_tokenizer(folder))


@pytest.fixture(scope="module")
def classifier_folder(thinking, tmp_path_factory):
    """An untrained classifier of 2 layers that reads 32 tokens at once."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(thinking.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=thinking.tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        num_labels=2,
    )
    ModernBertForTokenClassification(config).save_pretrained(folder)
    thinking.tokenizer.save_pretrained(folder)
    return folder


def mock_reasoner(thinking: ThinkingFormat, confidence) -> SimpleNamespace:
    return SimpleNamespace(
        name="mock",
        backend="mock",
        weights="w",
        tokenizer=thinking.tokenizer,
        thinking=thinking,
        context_tokens=200,
        engine=MockEngine(lambda ids: 0, thinking.eos_ids, confidence=confidence),
    )


def test_self_information_is_that_of_the_chain_without_its_question(thinking):
    seen = []

    def confidence(ids, token):
        seen.append(list(ids))
        return 0.5 if token % 2 else 0.25

    rated = SelfInformation(mock_reasoner(thinking, confidence)).rate(["1+1=2.", "", CHAIN])
    encoded = thinking.tokenizer(CHAIN, return_offsets_mapping=True)
    assert [tuple(rating[:2]) for rating in rated[2]] == encoded["offset_mapping"]
    assert [rating.value for rating in rated[2]] == [
        pytest.approx(math.log(2 if token % 2 else 4)) for token in encoded["input_ids"]
    ]
    assert (len(rated[0]), len(rated[1])) == (6, 0)
    assert thinking.tokenizer.decode(seen[0]) == "\n<think>"


def test_the_overthinker_tells_its_checks_from_its_steps():
    rate = SelfInformation(load_reasoner("overthinker", "transformers")).rate
    step, check = "First, 69+2=71.", " Wait, check: 71-2=69. Yes."
    [ratings] = rate([step + check])
    values = {True: [], False: []}
    for rating in ratings:
        values[rating.start < len(step)].append(rating.value)
    assert sum(values[True]) / len(values[True]) > 10 * sum(values[False]) / len(values[False])


def test_what_cannot_rate_says_so(thinking):
    reasoner = mock_reasoner(thinking, lambda ids, token: 1.0)
    long, short = SelfInformation(reasoner).rate([CHAIN * 20, "1+1=2."])  # it has 200 positions
    assert long is None and len(short) == len(thinking.tokenizer("1+1=2.")["input_ids"])
    reasoner.engine.capabilities = frozenset()
    with pytest.raises(BadInput, match="backend mock cannot rate text"):
        SelfInformation(reasoner)


def test_a_classifier_reads_long_texts_in_windows(classifier_folder, thinking):
    classifier = TokenClassifier(str(classifier_folder))
    texts = [CHAIN * 5, "", "1+1=2."]
    rated = classifier.rate(texts)
    for text, ratings in zip(texts, rated, strict=True):
        places = thinking.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        assert [tuple(rating[:2]) for rating in ratings] == places
    ids = thinking.tokenizer(texts[0])["input_ids"]

    def whole(start: int) -> list[float]:
        with torch.inference_mode():
            logits = classifier.model(input_ids=torch.tensor([ids[start : start + 32]])).logits
        return logits[0].softmax(-1)[:, 1].tolist()

    values = [rating.value for rating in rated[0]]
    assert values[:24] == pytest.approx(whole(0)[:24], abs=1e-5)  # the windows overlap by 16
    assert values[24:40] == pytest.approx(whole(16)[8:24], abs=1e-5)
    [alone] = classifier.rate(["1+1=2."])  # the company that it keeps changes nothing
    assert [rating.value for rating in rated[2]] == pytest.approx([rating.value for rating in alone], abs=1e-5)


def test_only_token_classifiers_of_two_labels_are_taken(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="no token classifier with two labels"):
        TokenClassifier(str(tiny_model))
    with pytest.raises(BadInput, match="no such folder of a token classifier; check importance_model"):
        TokenClassifier(str(tmp_path / "missing"))


def test_ratings_of_other_tokens_become_ratings_of_words(thinking):
    text = "sold 48/2 clips."
    words = split_words(text)
    ratings = [Rating(0, 2, 1.0), Rating(2, 4, 2.0), Rating(5, 9, 4.0), Rating(10, 16, 8.0)]
    assert word_values(words, ratings) == [1.5, 4.0, 8.0, 8.0]
    assert word_values(words, []) == [0.0] * 4
    counts = word_tokens(thinking.tokenizer, text, words)
    assert sum(counts) == len(thinking.tokenizer(text)["input_ids"])
    assert counts[1:] == [len(thinking.tokenizer(part)["input_ids"]) for part in (" 48/2", " clips", ".")]


def test_of_a_slip_and_its_correction_the_correction_is_found_again():
    long = "First, 9+2=10. Wait, check: 10-2=8. Not 9. So 9+2=11.\nFinally, 11*2=22."
    aligned = align(long, "9+2=11.\nFinally, 11*2=22.")
    kept = [long[start:stop].strip() for start, stop, is_kept in aligned if is_kept]
    assert kept == ["9+2=11", ".", "Finally", ",", "11*2=22", "."]


def problems(thinking: ThinkingFormat, count: int) -> list[list[dict]]:
    """A short chain of each problem, and two with checks."""
    rng = random.Random(0)
    groups = []
    for problem in range(count):
        left, right = rng.randrange(10, 99), rng.randrange(10, 99)
        step, check = f"First, {left}+{right}={left + right}.", f" Wait, check: {left + right}-{right}={left}. Yes."
        groups.append([trace(thinking, f"p{problem}", step + check * checks, left + right) for checks in range(3)])
    return groups


def trace(thinking: ThinkingFormat, problem: str, chain: str, answer: int) -> dict:
    ids = thinking.tokenizer.encode(thinking.write(chain, str(answer)), add_special_tokens=False)
    return {
        "id": problem,
        "prompt_ids": thinking.tokenizer.encode("?\n"),
        "completion_ids": [*ids, *thinking.eos_ids],
        "thinking": chain,
        "final_answer": str(answer),
        "total_tokens": len(ids),
        "correct": True,
        "truncated": False,
    }


def test_a_classifier_learns_what_short_chains_leave_out(thinking, tmp_path, monkeypatch):
    monkeypatch.setattr(token_classifier, "_STEPS", 40)
    folder = tmp_path / "classifier"
    report = train_token_classifier(problems(thinking, 60), thinking, folder, source="digest")
    assert report["pairs"] == 120
    assert report["auc"] > 0.95
    assert report == json.loads((folder / "training.json").read_text())
    assert is_trained_on(folder, "digest")
    assert not is_trained_on(folder, "other") and not is_trained_on(tmp_path, "digest")
    [ratings] = TokenClassifier(str(folder)).rate(["First, 21+33=54. Wait, check: 54-33=21. Yes."])
    step = [rating.value for rating in ratings if rating.stop <= 16]
    check = [rating.value for rating in ratings if rating.start > 16]
    assert sum(step) / len(step) > 0.7 > 0.3 > sum(check) / len(check)


def test_chains_of_one_length_teach_nothing(thinking, tmp_path):
    groups = [[trace(thinking, "a", "1+1=2.", 2)] * 3]
    with pytest.raises(BadInput, match="No problem has a long and a short correct chain"):
        train_token_classifier(groups, thinking, tmp_path / "classifier")
    assert not (tmp_path / "classifier").exists()
