from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForTokenClassification

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer
from efficient_reasoning.contamination import TrainingProblems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference.engine import Rating
from efficient_reasoning.inference.search.verifier import load_verifier
from efficient_reasoning.traces import tokenizer_hash
from recipes.train_verifier import NO_VALUE, value_loss
from tests.recipes.running import ROOT, launch, logged, run, run_twice, weights


@pytest.fixture
def rows(tiny_model, tmp_path):
    """Two dozen sums, every other one wrong from its first line on, in digits that no right one has."""
    tokenizer = load_tokenizer(str(tiny_model))
    path = tmp_path / "step_values.jsonl"

    def row(a: int, right: bool) -> dict:
        result = 11 if right else 777
        prompt, completion = f"Compute {a} + 20.\n", f"<think>{result} = {result}\n</think>{result}"
        ids = [*tokenizer.encode(completion), tokenizer.eos_token_id]
        line_end = ids.index(tokenizer.encode("\n")[0])
        return {
            "prompt": prompt,
            "completion": completion,
            "prompt_ids": tokenizer.encode(prompt),
            "completion_ids": ids,
            "step_ends": [line_end, len(ids) - 1],
            "values": [0.75, 1.0] if right else [0.25, 0.0],
            "correct": right,
            "tokenizer_hash": tokenizer_hash(tokenizer),
            "method": "step_values",
            "source_id": str(a),
            "total_tokens": len(ids) - 1,
        }

    write_jsonl(path, [row(a, a % 2 == 0) for a in range(3, 27)])
    return path


def test_it_leaves_a_token_classifier_that_strategies_take(argv, rows, tmp_path):
    run("train_verifier", argv("train_verifier", data=rows, max_steps=40))
    folder = tmp_path / "run"
    model, report = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.id2label == {0: "wrong", 1: "right"}
    losses = [row["loss"] for row in logged(folder, 40)]
    # From the cross-entropy of a coin towards that of the shares with themselves: half of them H(1/4), the others 0.
    assert losses[0] == pytest.approx(0.69, abs=0.1)
    assert 0.28 < losses[-1] < 0.5
    metadata = ReasoningMetadata.load(folder)
    assert (metadata.stage, metadata.method, metadata.base_model) == ("verifier", "step_values", "tiny")
    assert (metadata.seed, metadata.trained_tokens) == (5, None)
    assert len(TrainingProblems.load(folder).hashes) == 24
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "run.json", "recipe.yaml"} <= names
    assert not {"optimizer.pt", "training_args.bin", ".unfinished"} & names
    verifier = load_verifier(str(folder))
    ratings = [
        Rating([*row["prompt_ids"], *row["completion_ids"]], len(row["prompt_ids"]), verifier)
        for row in list(read_jsonl(rows))[:2]
    ]
    wrong, right = (rated.values[-1] for rated in verifier.rate(ratings))
    assert wrong < 0.3 < 0.7 < right
    reasoner = load_reasoner("overthinker", device="cpu")
    result = solve(reasoner, "Compute 3 + 4.", f"best-of-n?verifier={folder}&samples=2", max_new_tokens=20)
    assert result.spend.rated_tokens > 0


def test_its_card_says_what_it_is_and_its_program_runs(argv, rows, tmp_path, capsys):
    run("train_verifier", argv("train_verifier", data=rows, max_steps=1))
    card = (tmp_path / "run/README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "AutoModelForCausalLM" not in card
    [program] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    capsys.readouterr()
    exec(program.replace("path/to/this/folder", str(tmp_path / "run")), {})
    assert 0 < float(capsys.readouterr().out) < 1


def test_it_writes_nothing_and_nobody_trains_it_to(argv, rows, tmp_path):
    run("train_verifier", argv("train_verifier", data=rows, max_steps=1))
    with pytest.raises(BadInput, match="a verifier, which rates responses and writes none"):
        load_reasoner(str(tmp_path / "run"), device="cpu")
    with pytest.raises(BadInput, match="a verifier"):
        run("sft_compress", argv("sft_compress", model=tmp_path / "run", output_dir=tmp_path / "sft"))


def test_a_run_that_was_cut_off_ends_with_the_same_weights(argv, rows, tmp_path, monkeypatch):
    def words(folder):
        return argv("train_verifier", data=rows, max_steps=4, output_dir=tmp_path / folder)

    run("train_verifier", words("uncut"))
    run_twice(monkeypatch, "train_verifier", words("cut"))
    assert weights(tmp_path / "cut") == weights(tmp_path / "uncut")


def test_the_loss_is_the_cross_entropy_with_the_share():
    logits = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    values = torch.tensor([[NO_VALUE, 0.25, 1.0], [0.0, NO_VALUE, NO_VALUE]])
    right = logits.softmax(-1)[..., 1]
    expected = -(0.25 * right[0, 1].log() + 0.75 * (1 - right[0, 1]).log())
    expected -= right[0, 2].log() + (1 - right[1, 0]).log()
    assert value_loss(logits, values).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_dry_run_says_what_it_would_cost(argv, rows, tmp_path, capsys):
    run("train_verifier", argv("train_verifier", data=rows, dry_run=True))
    out = capsys.readouterr().out
    assert "24 rows, 48 steps, mean value 0.500" in out
    assert "memory" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tokenizer_hash": "another"}, "row 2: its ids are of another tokenizer than that of tiny"),
        ({"step_ends": [3, 900]}, "row 2: step_ends do not fit"),
        ({"values": [0.5]}, "row 2: step_ends do not fit"),
        ({"values": [0.5, 1.5]}, r"row 2: values are \[0.5, 1.5\]; give shares"),
        ({"values": [0.5, "a"]}, r"row 2: values are .*'a'.*; give shares"),
        ({"step_ends": [3, "a"]}, "row 2: step_ends do not fit"),
        ({"completion_ids": [5, "a"]}, "row 2: its ids are no token ids"),
        ({"prompt_ids": [-1]}, "row 2: its ids are no token ids"),
    ],
)
def test_rows_that_do_not_fit_are_refused(argv, rows, change, sentence):
    lines = list(read_jsonl(rows))
    lines[1] |= change
    write_jsonl(rows, lines)
    with pytest.raises(BadInput, match=sentence):
        run("train_verifier", argv("train_verifier", data=rows))


def test_an_architecture_that_classifies_no_tokens_is_refused(argv, rows, tmp_path, tiny_model):
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_model.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "config.json").write_text(json.dumps({"model_type": "mamba2", "vocab_size": 400}))
    with pytest.raises(BadInput, match="classifies no tokens with a mamba2"):
        run("train_verifier", argv("train_verifier", model=base, data=rows))


def test_the_shipped_config_dry_runs(rows, tmp_path, capsys):
    config = ROOT / "configs/train_verifier/overthinker.yaml"
    command = f"# efficient-reasoning train train_verifier --config configs/train_verifier/{config.name}"
    assert config.read_text().startswith(command)
    words = ["--config", str(config), "--data", str(rows), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    run("train_verifier", [*words, "--dry_run"])
    assert "200 of 16 samples" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_leave_a_verifier(argv, rows, tmp_path):
    done = launch("train_verifier", argv("train_verifier", data=rows, max_steps=4, deepspeed="zero2"), tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    verifier = load_verifier(str(tmp_path / "run"))
    [row, *_] = read_jsonl(rows)
    [rated] = verifier.rate([Rating([*row["prompt_ids"], *row["completion_ids"]], len(row["prompt_ids"]), verifier)])
    assert all(0 < value < 1 for value in rated.values)
