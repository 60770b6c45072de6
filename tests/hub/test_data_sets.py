"""Samples and training rows beside the model: on request, checked alike, linked from its card."""

from __future__ import annotations

import json

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_jsonl
from efficient_reasoning.hub import publish
from tests.hub.hub_server import TOKEN, files_of

NAME = "ORG/concise-tiny"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "shortest.jsonl"
    write_jsonl(path, [{"prompt": "Compute 1 + 2 .\n", "completion": "<think> 3 </think> 3", "method": "m"}] * 3)
    return path


def test_both_are_built_beside_the_folder(run, model, rows):
    from huggingface_hub import DatasetCard

    folder = publish(run, model, NAME, with_samples=True, with_data=rows)
    samples, data = run / "hub-samples", run / "hub-data"
    assert files_of(samples) == {"README.md", "samples.jsonl"} and files_of(data) == {"README.md", "rows.jsonl"}
    assert (samples / "samples.jsonl").read_bytes() == (run / "samples.jsonl").read_bytes()
    assert (data / "rows.jsonl").read_bytes() == rows.read_bytes()
    card = DatasetCard.load(samples / "README.md")
    assert card.data.configs == [{"config_name": "default", "data_files": "samples.jsonl"}]
    assert "`samples.jsonl`, 100 lines." in card.text
    assert "| `total_tokens` | length of the whole completion |" in card.text
    assert "50 problems, one sample a problem and point" in card.text
    assert "budget-forcing (unlimited), budget-forcing (32 tokens)" in card.text
    for name in ("samples", "data"):
        assert f"https://huggingface.co/datasets/{NAME}-{name}" in (folder / "README.md").read_text()
    publish(run, model, NAME, with_samples=True, with_data=rows)


def test_the_data_set_loads(run, model, tmp_path):
    from datasets import load_dataset

    publish(run, model, NAME, with_samples=True)
    loaded = load_dataset(str(run / "hub-samples"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 100 and loaded[0]["total_tokens"] == 23


def test_without_a_request_there_is_none(run, model):
    folder = publish(run, model, NAME)
    assert not any(path.name.startswith("hub-") for path in run.iterdir())
    assert "datasets/" not in (folder / "README.md").read_text()


def test_they_go_up_as_data_sets_before_the_card_that_links_them(run, model, rows, hub):
    publish(run, model, NAME, dry_run=False, with_samples=True, with_data=rows)
    assert set(hub.repositories) == {("datasets", f"{NAME}-samples"), ("datasets", f"{NAME}-data"), ("models", NAME)}
    for (kind, name), repository in hub.repositories.items():
        assert repository.private and len(repository.commits) == 1
        if kind == "datasets":
            folder = run / f"hub-{name.rpartition('-')[2]}"
            assert set(repository.files) == files_of(folder) | {".gitattributes"}
    assert "/models/" in hub.lines("/commit/")[-1]


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "/home/ann/problems.jsonl",
        f"a line\n{TOKEN}",
        f"a cell\t{TOKEN}",
        "a line\n/home/ann/rows",
        "a\nC:\\Users\\ann",
    ],
)
def test_a_leak_in_a_line_is_refused(run, model, rows, secret):
    with rows.open("a") as stream:
        stream.write(json.dumps({"prompt": "a", "note": secret}) + "\n")
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 4 holds") as caught:
        publish(run, model, NAME, with_data=rows)
    assert TOKEN not in str(caught.value)
    assert not (run / "hub-data").exists() and not (run / "hub").exists()


def test_files_that_are_no_rows_are_refused(run, model, tmp_path):
    for name, text, message in (
        ("rows.csv", "a,b", "takes a .jsonl file"),
        ("empty.jsonl", "", "no rows in it"),
        ("torn.jsonl", '{"a": 1}\n{"a"', "line 2: not valid JSON"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match=message):
            publish(run, model, NAME, with_data=tmp_path / name)


def test_a_folder_with_other_files_is_not_replaced(run, model):
    (run / "hub-samples").mkdir()
    (run / "hub-samples" / "notes.md").write_text("mine")
    with pytest.raises(BadInput, match="hub-samples: holds other files"):
        publish(run, model, NAME, with_samples=True)
    assert (run / "hub-samples" / "notes.md").read_text() == "mine"
