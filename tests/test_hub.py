"""What would go to the Hub: complete, loadable, clean, with a card that works; and the real upload calls over HTTP."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from efficient_reasoning.checkpoint import ReasoningMetadata, weights_fingerprint
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.summary import summarise, write_summary
from efficient_reasoning.files import write_json, write_jsonl
from efficient_reasoning.hub import publish, upload_folder, write_training_card

TOKEN = "hf_" + "Abcdefghij" * 3


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("saved") / "concise-tiny"
    words = ["<pad>", "<eos>", "<think>", "</think>", "Compute", ".", "+", *map(str, range(20))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def metadata() -> ReasoningMetadata:
    return ReasoningMetadata(
        "shortest_correct", "sft", base_model="Qwen/Qwen3-0.6B", data_fingerprint="0123abcd", seed=0
    )


@pytest.fixture
def model(saved_model, metadata, tmp_path) -> Path:
    """A training run's output, with all that must stay at home."""
    folder = tmp_path / "concise-tiny"
    folder.mkdir()
    for path in saved_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    metadata.save(folder)
    write_training_card(folder, metadata=metadata, metrics={"train_loss": 0.12345678})
    (folder / "checkpoint-10").mkdir()
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "run.json", "checkpoint-10/scheduler.pt"):
        (folder / name).write_text(f"{folder} {TOKEN}")
    return folder


@pytest.fixture
def run(saved_model, tmp_path, monkeypatch) -> Path:
    """An evaluation of that model at two points."""
    folder = tmp_path / "run"
    config = {
        "model": "concise-tiny",
        "strategies": ["budget-forcing"],
        "budgets": [None, 32],
        "samples_per_problem": 1,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "max_new_tokens": 24,
        "weights": weights_fingerprint(str(saved_model)),
    }
    samples = [
        {
            "id": f"p{i}",
            "question": f"Compute {i} + 7 .",
            "answer": str(i + 7),
            "task": "numeric",
            "metadata": {"family": "sums"},
            "strategy": "budget-forcing",
            "budget_tokens": budget,
            "correct": i % 10 != 0,
            "thinking_tokens": 20,
            "answer_tokens": 1,
            "total_tokens": 23 + i % 5,
            "truncated": False,
            "forced_close": budget is not None,
            "empty_answer": False,
            "spend": {"decoded_tokens": 24, "forced_tokens": 0, "masked_tokens": 0, "seconds": 0.1},
        }
        for budget in (None, 32)
        for i in range(50)
    ]
    write_jsonl(folder / "samples.jsonl", samples)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "environment.json", {"python": "3"})
    write_summary(folder, summarise(samples, config))
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_a_user_needs_and_nothing_else(run, model):
    folder = publish(run, model, "ORG/concise-tiny")
    assert folder == run / "hub"
    assert files_of(folder) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "reasoning.json",
        "evaluation/summary.json",
        "evaluation/curve.csv",
        "evaluation/curve.png",
        "evaluation/config.yaml",
        "evaluation/environment.json",
    }
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_card_has_valid_metadata_and_the_runs_numbers(run, model):
    from huggingface_hub import ModelCard

    card = ModelCard.load(publish(run, model, "ORG/concise-tiny") / "README.md")
    assert card.data.base_model == "Qwen/Qwen3-0.6B"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.model_name == "concise-tiny"
    results = {
        (result.metric_type, result.metric_args.get("budget_tokens")): result for result in card.data.eval_results
    }
    assert results["accuracy", None].metric_value == 0.9
    assert results["total_tokens", 32].metric_value == 25
    assert results["accuracy", 32].dataset_type == "sums"
    row = next(line for line in card.text.splitlines() if line.startswith("| budget-forcing | unlimited |"))
    assert "| 90.0 % [" in row and "| 25.0 [" in row and "| 0.0 % |" in row
    assert "(evaluation/curve.png)" in card.text
    assert "Measured on sums only" in card.text and "The licence of the base model applies" in card.text
    assert "{{" not in card.content and "{%" not in card.content


def test_the_licence_of_the_card_is_carried_over(run, model):
    from huggingface_hub import ModelCard

    card = ModelCard.load(model / "README.md")
    card.data.license = "apache-2.0"
    card.save(model / "README.md")
    published = ModelCard.load(publish(run, model, "ORG/concise-tiny") / "README.md")
    assert published.data.license == "apache-2.0"
    assert "licence of the base model applies" not in published.text


@pytest.mark.parametrize("temperature", [0.6, 0.0])
@pytest.mark.parametrize("chat_template", [None, "{% for m in messages %}{{ m.content }}{% endfor %} <think>"])
def test_the_cards_code_runs(run, model, capsys, chat_template, temperature):
    if chat_template:
        (model / "chat_template.jinja").write_text(chat_template)
    summary = json.loads((run / "summary.json").read_text())
    write_json(run / "summary.json", summary | {"config": summary["config"] | {"temperature": temperature}})
    folder = publish(run, model, "ORG/concise-tiny")
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    assert "'Compute 0 + 7 .'" in (folder / "README.md").read_text()
    scope = {}
    exec(code.replace('"ORG/concise-tiny"', repr(str(folder))), scope)
    assert scope["inputs"]["input_ids"].tolist() == [[4, 7, 6, 14, 5] + ([2] if chat_template else [])]
    assert capsys.readouterr().out.strip()


def test_publishing_again_replaces_the_folder(run, model):
    folder = publish(run, model, "ORG/first")
    publish(run, model, "ORG/second")
    assert "ORG/second" in (folder / "README.md").read_text()
    assert not any(path.name.startswith(".") for path in run.iterdir())


def test_a_folder_with_other_files_is_not_replaced(run, model, tmp_path):
    with pytest.raises(BadInput, match="holds other files, which would be lost"):
        publish(run, model, "ORG/concise-tiny", out=model)
    assert (model / "optimizer.pt").exists()


def test_a_run_of_other_weights_is_refused(run, model):
    """As after training again into the same folder, with the same rows and seed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="measured other weights than those in"):
        publish(run, model, "ORG/concise-tiny")


def test_paths_that_every_machine_has_may_leave(run, model):
    write_json(model / "generation_config.json", {"note": "#!/usr/bin/env python"})
    assert "generation_config.json" in files_of(publish(run, model, "ORG/concise-tiny"))


def cut(model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-100])


def widen(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"intermediate_size": 64})


def deepen(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2})


def leak_path(model: Path) -> None:
    ReasoningMetadata("shortest_correct", "sft", base_model="/data/ann/models/base").save(model)


def leak_token(model: Path) -> None:
    write_json(model / "generation_config.json", {"note": TOKEN})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "truncated safetensors"),
        (widen, "do not fit config.json .mismatched_keys"),
        (deepen, "do not fit config.json .missing_keys, such as model.layers.1"),
        (leak_path, "reasoning.json holds the path /data/ann/models/base of this machine"),
        (leak_token, "generation_config.json holds an access token"),
    ],
)
def test_what_is_not_fit_to_leave_leaves_nothing_behind(run, model, damage, message):
    damage(model)
    before = files_of(run)
    with pytest.raises(BadInput, match=message) as caught:
        publish(run, model, "ORG/concise-tiny")
    assert TOKEN not in str(caught.value)
    assert files_of(run) == before


@pytest.mark.parametrize("repo", ["a/b/c", "with space/x", "-ORG/x", ""])
def test_names_the_hub_does_not_take(run, model, repo):
    with pytest.raises(BadInput, match="write ORG/NAME"):
        publish(run, model, repo)


def test_the_training_card_says_what_it_does_not_know(model):
    from huggingface_hub import ModelCard

    card = ModelCard.load(model / "README.md")
    assert "Not measured yet" in card.text and "| train_loss | 0.123457 |" in card.text
    assert "# Qwen/Qwen3-0.6B + shortest_correct" in card.text
    assert card.data.to_dict().get("model-index") is None
    assert str(model.parent) not in card.content


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub's HTTP API as an upload of small files uses; `status` other than 200 refuses everything."""

    def do_GET(self):
        self.answer(404, {"error": "not found"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.status != 200:
            self.answer(self.server.status, {"error": "refused"})
        elif self.path == "/api/repos/create":
            self.answer(200, {"url": f"http://127.0.0.1:{self.server.server_port}/ORG/concise-tiny"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/ORG/concise-tiny/preupload/"):
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer(200, {"files": modes})
        elif self.path.startswith("/api/models/ORG/concise-tiny/commit/"):
            url = f"http://127.0.0.1:{self.server.server_port}/ORG/concise-tiny/commit/{'0' * 40}"
            self.answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url})
        else:
            self.answer(500, {"error": f"unexpected {self.path}"})

    def answer(self, status: int, value: dict) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub.constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.status, server.requests = 200, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # the test suite runs offline
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def test_a_dry_run_asks_the_hub_for_nothing(run, model, hub):
    publish(run, model, "ORG/concise-tiny", dry_run=True)
    assert hub.requests == []


@pytest.mark.parametrize(("public", "visibility"), [(False, "private"), (True, "public")])
def test_one_commit_carries_exactly_the_folder(run, model, hub, capsys, public, visibility):
    folder = publish(run, model, "ORG/concise-tiny", dry_run=False, public=public)
    created = [json.loads(body) for path, _, body in hub.requests if path == "/api/repos/create"]
    assert [(request["name"], request["organization"]) for request in created] == [("concise-tiny", "ORG")]
    assert created[0]["visibility"] == visibility
    commits = [body for path, _, body in hub.requests if "/commit/" in path]
    assert len(commits) == 1
    lines = [json.loads(line) for line in commits[0].splitlines()]
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert set(sent) == files_of(folder)
    assert base64.b64decode(sent["README.md"]) == (folder / "README.md").read_bytes()
    assert all(authorization == f"Bearer {TOKEN}" for path, authorization, _ in hub.requests if "/commit/" in path)
    assert TOKEN not in "".join(capsys.readouterr())
    assert not any(TOKEN in body for _, _, body in hub.requests)


def test_a_training_output_is_uploaded_without_its_states(model, hub):
    upload_folder(model, "ORG/concise-tiny")
    (commit,) = [body for path, _, body in hub.requests if "/commit/" in path]
    assert "optimizer" not in commit and "training_args" not in commit and "model.safetensors" in commit


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "hf auth login"), (403, "write permission"), (404, "check the spelling")]
)
def test_the_hubs_refusals_are_sentences(run, model, hub, capsys, status, remedy):
    hub.status = status
    with pytest.raises(BadInput, match=remedy) as caught:
        publish(run, model, "ORG/concise-tiny", dry_run=False)
    assert str(status) in str(caught.value) and TOKEN not in str(caught.value) + "".join(capsys.readouterr())
    assert (run / "hub" / "README.md").is_file()
