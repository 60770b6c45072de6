"""Pre-training on a stream through the recipe: a run that was cut goes on at the very row."""

from __future__ import annotations

import json
import shutil

import pytest

from efficient_reasoning.contamination import TrainingProblems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.training.chains import write_rows
from efficient_reasoning.training.sources import open_source
from tests.recipes.running import check_output, launch, logged, run, run_twice, weights

SHARES = {"plain": 0.8, "empty": 0.2}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two files: `rows/*.jsonl` of prompts and completions, and one of texts beside them."""
    folder = tmp_path_factory.mktemp("streams")
    chains = write_rows("sums", 90, SHARES, seed=0)
    for shard in range(2):
        write_jsonl(folder / "rows" / f"{shard}.jsonl", chains[shard::2])
    write_jsonl(folder / "texts.jsonl", ({"text": row["prompt"] + row["completion"]} for row in chains))
    return folder


@pytest.fixture
def streamed(argv, rows):
    """`streamed(key=value, ...)`: six steps, of which each takes some of the 90 rows, and begin a second epoch."""

    def build(**changes) -> list[str]:
        settings = {"data": rows / "rows", "num_rows": None, "shuffle_rows": 16, "max_steps": 6, "save_steps": 2}
        return argv("pretrain", **(settings | {"per_device_train_batch_size": 8} | changes))

    return build


def test_it_leaves_a_model_that_others_load(streamed, tmp_path, rows):
    run("pretrain", streamed())
    metadata = check_output(tmp_path / "run")
    assert (metadata.method, metadata.stage, metadata.trained_tokens) == ("pretrain", "pretrain", None)
    assert metadata.data_fingerprint == open_source(str(rows / "rows")).fingerprint
    record = TrainingProblems.load(tmp_path / "run")
    assert (len(record.hashes), record.unknown) == (0, ("run",))
    assert all(row["loss"] > 0 for row in logged(tmp_path / "run", 6))
    places = [json.loads((tmp_path / f"run/checkpoint-{step}/stream_0.json").read_text()) for step in (2, 4, 6)]
    assert places[0]["places"] != places[1]["places"]
    assert places[2]["places"][0][0] > 0  # another epoch


CUT = [
    {},
    {"dataloader_num_workers": 2},
    {"dataloader_num_workers": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    {"packing": False},
]


@pytest.mark.parametrize("changes", CUT, ids=lambda changes: "-".join(changes) or "plain")
def test_a_cut_run_goes_on_with_the_very_batches(streamed, tmp_path, monkeypatch, changes):
    """A dropout besides: what it draws has to go on, too."""
    shape = (
        "{model_type: qwen3, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, "
    )
    shape += "head_dim: 8, intermediate_size: 16, tie_word_embeddings: true, attention_dropout: 0.1}"
    changes = {**changes, "architecture": shape}
    run("pretrain", streamed(output_dir=tmp_path / "whole", **changes))
    run_twice(monkeypatch, "pretrain", streamed(**changes))
    assert [row["step"] for row in logged(tmp_path / "run", 6)] == [1, 2, 3, 4, 5, 6]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_the_order_follows_from_the_seed_of_the_data(streamed, tmp_path):
    for name, changes in (("one", {}), ("two", {"data_seed": 5}), ("three", {"data_seed": 6})):
        run("pretrain", streamed(output_dir=tmp_path / name, max_steps=1, **changes))
    assert weights(tmp_path / "one") == weights(tmp_path / "two") != weights(tmp_path / "three")


def test_texts_with_the_tokenizer_of_a_model(streamed, tmp_path, rows, tiny_model):
    run("pretrain", streamed(data=rows / "texts.jsonl", tokenizer=tiny_model, max_steps=2))
    check_output(tmp_path / "run")
    vocabularies = [
        json.loads((folder / "tokenizer.json").read_text())["model"] for folder in (tmp_path / "run", tiny_model)
    ]
    assert vocabularies[0] == vocabularies[1]


def test_a_dry_run_counts(streamed, tmp_path, capsys):
    run("pretrain", [*streamed(max_row_tokens=128), "--dry_run"])
    table = {line[:8].strip(): line[9:] for line in capsys.readouterr().out.splitlines()}
    assert table["rows"] == "streamed"
    steps, tokens = table["steps"].removesuffix(" tokens each").split(" of 8 samples, about ")
    assert steps == "6" and 0.9 * 8 * 128 < float(tokens.replace(",", "")) <= 8 * 128
    assert table["clipped"].endswith("% of the first rows, longer than 128 tokens or empty, are left out")
    assert not (tmp_path / "run").exists()


# ---- bad input ----

MAMBA = "{model_type: mamba, hidden_size: 16, num_hidden_layers: 1, state_size: 4}"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "sums"}, "task is for a task, and data is given; leave one of them out"),
        ({"num_rows": 5}, "num_rows is for a task, and data is given; leave one of them out"),
        ({"data": None}, "shuffle_rows is for data, and none is given; leave one of them out"),
        ({"shuffle_rows": 0}, "shuffle_rows is 0; give at least 1"),
        ({"max_row_tokens": 0}, "max_row_tokens is 0; give at least 2"),
        ({"max_steps": None}, "max_steps is missing, and a stream has no end of its own"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy is sequential, and a stream is shuffled"),
        ({"data": "no.jsonl"}, r"no\.jsonl: no .jsonl or .parquet file there"),
        ({"max_row_tokens": 5}, r"all longer than max_row_tokens \(5\); raise that"),
        ({"max_row_tokens": 5, "dataloader_num_workers": 1}, r"^\S+rows: too few rows .* \(5\); raise that"),
        ({"architecture": MAMBA}, "packing: mamba would read packed rows as one text; set packing to false"),
        ({"tokenizer": "/no/such/model"}, "/no/such/model: no such checkpoint folder"),
    ],
)
def test_bad_values_get_one_sentence(streamed, changes, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        run("pretrain", streamed(**changes))
    assert "\n" not in str(caught.value)


def test_states_are_trained_on_rows_of_their_own(streamed, tmp_path):
    run("pretrain", streamed(architecture=MAMBA, packing=False, max_steps=2))
    assert all(row["loss"] > 0 for row in logged(tmp_path / "run", 2))


def test_a_run_does_not_go_on_with_other_rows(streamed, tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, read_jsonl(rows / "texts.jsonl"))
    run("pretrain", streamed(data=path, max_steps=2))
    write_jsonl(path, list(read_jsonl(rows / "texts.jsonl"))[1:])
    with pytest.raises(BadInput, match=r"holds a run that differs in contents of data; choose another output_dir"):
        run("pretrain", streamed(data=path, max_steps=2))


def test_a_run_goes_on_with_as_many_readers(streamed, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(BadInput, match="go on with as many"):
        run_twice(patch, "pretrain", streamed())
        (tmp_path / "run" / "reasoning.json").unlink()
        run("pretrain", streamed(dataloader_num_workers=2))
    (tmp_path / "run/checkpoint-6/stream_0.json").unlink()
    run("pretrain", streamed())
    assert "checkpoint-6 has no stream_0.json; going on from checkpoint-4." in capsys.readouterr().out


# ---- two processes ----


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, "zero2"])
def test_two_processes_go_on_with_the_very_batches(streamed, tmp_path, deepspeed):
    """The second time, the checkpoint behind the last step is gone, as after a kill."""
    argv = streamed(deepspeed=deepspeed, save_steps=3)
    done = launch("pretrain", argv, tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    check_output(tmp_path / "run")
    whole = weights(tmp_path / "run")
    shares = [json.loads((tmp_path / f"run/checkpoint-3/stream_{rank}.json").read_text()) for rank in range(2)]
    assert all(share["processes"] == 2 for share in shares)
    for path in (tmp_path / "run").iterdir():
        if path.name not in ("run.json", "checkpoint-3"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = launch("pretrain", argv, tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert weights(tmp_path / "run") == whole
    (tmp_path / "run" / "reasoning.json").unlink()
    with pytest.raises(BadInput, match="holds a run that differs in number of processes; choose another"):
        run("pretrain", argv)
