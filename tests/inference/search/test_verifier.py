"""The verifier: what it reads, what it charges, and whom it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForTokenClassification

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import get_strategy
from efficient_reasoning.inference.engine import Rating
from efficient_reasoning.inference.search import verifier as module
from efficient_reasoning.inference.search.verifier import LABELS, load_verifier


def make_verifier(folder, base, labels=LABELS):
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    model = AutoModelForTokenClassification.from_pretrained(
        base, id2label=names, label2id={label: number for number, label in names.items()}
    )
    model.save_pretrained(folder)
    load_tokenizer(str(base)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> str:
    return make_verifier(tmp_path_factory.mktemp("verifier"), tiny_model)


def test_it_says_of_each_id_what_it_knows_by_then(folder, monkeypatch):
    verifier = load_verifier(folder)
    rows = [[5, 6, 7, 8, 9], [7, 8], [9, 8, 7, 6, 5, 4, 3]]
    begins = [1, 2, 4]  # of the second, nothing is asked
    ratings = [Rating(ids, begin, verifier) for ids, begin in zip(rows, begins, strict=True)]
    together = verifier.rate(ratings)
    for ids, begin, rated in zip(rows, begins, together, strict=True):
        expected = [
            verifier.model(torch.tensor([ids[: place + 1]])).logits[0, -1].softmax(-1)[1].item()
            for place in range(begin, len(ids))
        ]
        assert rated.values == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(module, "_TOKENS", 8)  # one or two to a pass
    for rated, again in zip(together, verifier.rate(ratings), strict=True):
        assert again.values == pytest.approx(rated.values, abs=1e-6)


def test_all_that_it_reads_is_charged(folder):
    verifier = load_verifier(folder)
    verifier.model.set_attn_implementation("eager")  # torch counts nothing inside the fused kernel of a CPU
    [rated] = verifier.rate([Rating(list(range(20, 32)), 4, verifier)])
    spend = rated.spend
    assert (spend.prompt_tokens, spend.computed_prompt_tokens, spend.rated_tokens) == (12, 12, 12)
    assert (spend.requests, spend.tokens) == (1, 0)
    assert spend.seconds > 0 and spend.peak_memory_bytes > 0
    with FlopCounterMode(display=False) as counter:
        verifier.model(torch.arange(20, 32)[None], use_cache=False)
    # Torch counts the half of attention that is masked, too; and some versions turn positions to angles by a product.
    masked = 12 * 11 / 2 * verifier.flops.attention
    assert spend.flops == pytest.approx(counter.get_total_flops() - masked, rel=3e-3)


def test_strategies_load_it_by_its_folder(folder):
    reasoner = load_reasoner("overthinker", "mock", script=("7\n7\n", "7"))
    for strategy in ("best-of-n", "weighted-vote", "rebase", "beam-search"):
        result = solve(reasoner, "What is 3 + 4?", f"{strategy}?verifier={folder}&sample_tokens=40", 200)
        assert result.answer == "7"
        assert 0 < result.spend.tokens <= 200
        assert result.spend.rated_tokens > 0
    assert load_verifier(folder) is load_verifier(folder)


@pytest.mark.parametrize("strategy", ["best-of-n", "weighted-vote", "rebase", "beam-search"])
def test_one_of_another_tokenizer_is_refused(folder, strategy):
    stranger = load_reasoner("overthinker", "mock")
    stranger.tokenizer.add_tokens(["<another>"])
    with pytest.raises(BadInput, match="different tokenizers"):
        solve(stranger, "What?", f"{strategy}?verifier={folder}", 60)


def test_a_folder_may_be_called_as_a_number():
    assert get_strategy("best-of-n?verifier=100").verifier == "100"


def test_what_is_no_verifier_is_refused(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="no verifier; `efficient-reasoning train train_verifier` makes one"):
        load_verifier(str(tiny_model))
    with pytest.raises(BadInput, match="no verifier"):
        load_verifier(make_verifier(tmp_path, tiny_model, ("drop", "keep")))
