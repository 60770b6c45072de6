"""The folder that would go to the Hub: complete, loadable, clean, and with a card that works."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from efficient_reasoning import cli
from efficient_reasoning.checkpoint import LATENT_NAME, ReasoningMetadata, load_tokenizer, weights_fingerprint
from efficient_reasoning.contamination import training_problems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_json, write_jsonl
from efficient_reasoning.hub import example, publish
from efficient_reasoning.hub import folder as hub_folder
from efficient_reasoning.latent.decoding import BOT, EOT, LATENT
from efficient_reasoning.latent.projection import LatentProjection
from tests.hub.hub_server import TOKEN, files_of

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %} <think>"
SWITCH = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking %} <think>{% else %} <think> </think>{% endif %}"
)


def card_of(folder):
    from huggingface_hub import ModelCard

    return ModelCard.load(folder / "README.md")


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


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
        "recipe.yaml",
        "evaluation/summary.json",
        "evaluation/curve.csv",
        "evaluation/curve.png",
        "evaluation/config.yaml",
        "evaluation/environment.json",
        "evaluation/example.json",
    }
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_card_has_the_runs_numbers(run, model):
    card = card_of(publish(run, model, "ORG/concise-tiny"))
    assert card.data.base_model == "Qwen/Qwen3-0.6B"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.model_name == "concise-tiny"
    results = {
        (result.metric_type, result.metric_args.get("budget_tokens")): result for result in card.data.eval_results
    }
    assert results["accuracy", None].metric_value == 0.9
    assert results["total_tokens", 32].metric_value == 15
    assert results["accuracy", 32].dataset_type == "sums"
    row = next(line for line in card.text.splitlines() if line.startswith("| budget-forcing | unlimited |"))
    assert "| 90.0 % [" in row and "| 25.0 [" in row and "| 0.0 % |" in row
    assert "(evaluation/curve.png)" in card.text
    assert "The licence of the base model applies" in card.text
    assert "{{" not in card.content and "{%" not in card.content


def test_the_card_says_what_was_not_checked(run, model):
    text = card_of(publish(run, model, "ORG/concise-tiny")).text
    assert "- Measured on sums. Other tasks, languages, tool calls, conversations of several turns" in text
    assert "- Whether it was trained on the problems that it was measured on was not checked." in text
    assert "## Off target" not in text


def test_the_card_shows_what_was_checked(run, model):
    accuracy, tokens = ({"mean": mean, "low": mean / 2, "high": 2 * mean} for mean in (0.25, 40.0))
    checks = {
        "tool_calls": {"n": 24, "accuracy": accuracy, "total_tokens": tokens},
        "languages": {"not_checked": "its prompts are too long"},
    }
    write_json(run / "off_target.json", {"checks": checks})
    summary = json.loads((run / "summary.json").read_text())
    known = {"checked": True, "problems": 50, "trained_on": 3, "examples": ["p1"], "unknown": ["Qwen/Qwen3-0.6B"]}
    write_json(run / "summary.json", summary | {"contamination": known})
    folder = publish(run, model, "ORG/concise-tiny")
    text = card_of(folder).text
    assert "| tool_calls | 24 | 25.0 % [12.5, 50.0] | 40.0 [20.0, 80.0] |" in text
    assert "| languages |  | not checked: its prompts are too long |  |" in text
    assert (
        "- 3 of the 50 problems that it was measured on are among those that it was trained on; what Qwen/Qwen3-0.6B"
        in text
    )
    assert json.loads((folder / "evaluation" / "off_target.json").read_text())["checks"].keys() == checks.keys()


def test_the_record_of_training_problems_goes_along(run, model):
    training_problems([{"question": "Compute 1 + 7 ."}]).save(model)
    assert (publish(run, model, "ORG/concise-tiny") / "training_problems.json").is_file()


def test_the_metadata_is_what_the_hub_takes(run, model, hub):
    """Its YAML becomes the same `EvalResult`s again, and passes the check that an upload asks for.

    That check runs on the Hub; here it is a stand-in with the documented rules of the model-index.
    """
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

    card = card_of(publish(run, model, "ORG/concise-tiny"))
    index = eval_results_to_model_index("concise-tiny", card.data.eval_results)
    assert card.data.to_dict()["model-index"] == index
    assert model_index_to_eval_results(index) == ("concise-tiny", card.data.eval_results)
    assert ModelCardData(**card.data.to_dict(), ignore_metadata_errors=False).eval_results == card.data.eval_results
    card.validate()
    [body] = [json.loads(body) for line, _, body in hub.requests if line == "POST /api/validate-yaml"]
    assert body == {"repoType": "model", "content": card.content}
    card.data.eval_results[0].metric_value = "high"
    with pytest.raises(ValueError, match="model-index"):
        card.validate()


def test_a_model_of_another_making_is_published_too(run, model):
    """Without reasoning.json, recipe and card; then in shards."""
    from transformers import AutoModelForCausalLM

    for name in ("reasoning.json", "recipe.yaml", "README.md"):
        (model / name).unlink()
    folder = publish(run, model, "ORG/concise-tiny")
    assert not {"reasoning.json", "recipe.yaml"} & files_of(folder)
    assert "A reasoning model, measured with efficient-reasoning." in card_of(folder).text
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="8KB")
    (model / "model.safetensors").unlink()
    summary = json.loads((run / "summary.json").read_text())
    config = summary["config"] | {"weights": weights_fingerprint(str(model))}
    write_json(run / "summary.json", summary | {"config": config})
    files = files_of(publish(run, model, "ORG/concise-tiny"))
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= files
    assert "model.safetensors" not in files


def test_modeling_files_ride_along_where_the_architecture_is_its_own(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    code = "from transformers import Qwen3ForCausalLM\n\n\nclass TinyForCausalLM(Qwen3ForCausalLM):\n    pass\n"
    (model / "modeling_tiny.py").write_text(code)
    (model / "plot.py").unlink()
    change_config(auto_map={"AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"})(model)
    with pytest.raises(
        BadInput, match=r"modeling_tiny\.py is code that this toolkit did not write.*--trust-remote-code"
    ):
        publish(run, model, "ORG/concise-tiny")
    folder = publish(run, model, "ORG/concise-tiny", trust_remote_code=True)
    assert "modeling_tiny.py" in files_of(folder)
    card = (folder / "README.md").read_text()
    assert "was not checked: its architecture is one of its own" in card
    [program] = blocks(card, "python")
    names = {}
    exec(program.replace('"ORG/concise-tiny"', repr(str(folder))), names)
    assert type(names["model"]).__name__ == "TinyForCausalLM"


def test_code_of_another_repository_is_foreign_too(run, model):
    for path in model.glob("*.py"):
        path.unlink()
    change_config(auto_map={"AutoModelForCausalLM": "stranger/code--modeling_tiny.TinyForCausalLM"})(model)
    with pytest.raises(BadInput, match="stranger/code is code that this toolkit did not write"):
        publish(run, model, "ORG/concise-tiny")


def test_the_recipe_and_the_size_are_in_the_card(run, model):
    card = card_of(publish(run, model, "ORG/concise-tiny"))
    parameters = example.count_parameters(model)
    assert parameters * 4 < (model / "model.safetensors").stat().st_size < parameters * 4 + 4096
    assert f"Size: {parameters:,} parameters" in card.text
    assert blocks(card.text, "yaml") == ["# efficient-reasoning train sft_compress\nlearning_rate: 0.0003\n"]


def test_the_licence_of_the_card_is_carried_over(run, model):
    card = card_of(model)
    card.data.license = "apache-2.0"
    card.save(model / "README.md")
    published = card_of(publish(run, model, "ORG/concise-tiny"))
    assert published.data.license == "apache-2.0"
    assert "licence of the base model applies" not in published.text


# ---- the adapter ----


@pytest.fixture
def with_adapter(model, metadata):
    """What training with `adapter: keep` leaves beside the weights."""
    from peft import LoraConfig, get_peft_model

    from efficient_reasoning.checkpoint import load_model

    adapted = get_peft_model(load_model(str(model), device="cpu"), LoraConfig(r=2, target_modules="all-linear"))
    adapted.peft_config["default"].base_model_name_or_path = "Qwen/Qwen3-0.6B"
    adapted.save_pretrained(model / "adapter")
    metadata.adapter = "adapter"
    metadata.save(model)
    return model / "adapter"


def test_the_adapter_goes_along_and_the_card_says_how_to_scale_it(run, model, with_adapter):
    folder = publish(run, model, "ORG/concise-tiny")
    names = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert {name for name in files_of(folder) if name.startswith("adapter")} == names  # PEFT leaves a card, too
    assert names <= hub_folder.hub_files(folder).keys()
    assert hub_folder.is_replaced("adapter/adapter_model.safetensors")
    assert ReasoningMetadata.load(folder).adapter == "adapter"
    command = "efficient-reasoning solve --model ORG/concise-tiny --adapter-scale 0.5 'Compute 5 + 7 .'"
    assert command in (folder / "README.md").read_text()


def test_a_run_of_another_scale_does_not_speak_for_the_checkpoint(run, model, with_adapter):
    summary = json.loads((run / "summary.json").read_text())
    config = summary["config"] | {"weights": weights_fingerprint(str(model), 0.5)}
    write_json(run / "summary.json", summary | {"config": config})
    with pytest.raises(
        BadInput, match=r"run: measured an adapter at scale 0\.5; make a checkpoint of that scale with"
    ):
        publish(run, model, "ORG/concise-tiny")


def test_a_model_is_shown_with_the_control_that_it_was_measured_with(run, model, metadata, plain_transformers):
    """Here, in plain transformers and on its card."""
    for name in ("samples.jsonl", "config.yaml", "summary.json"):
        path = run / name  # "+" is one token
        path.write_text(path.read_text().replace("budget-forcing", "control?text=+"))
    metadata.controls = ["+", "Compute"]
    metadata.save(model)
    folder = publish(run, model, "ORG/concise-tiny")
    assert json.loads((folder / "evaluation" / "example.json").read_text())["question"] == "Compute 5 + 7 .+"
    card = (folder / "README.md").read_text()
    assert 'question = "Compute 5 + 7 .+"' in card
    assert "as one token, as an order for how much to think: `+`, `Compute`." in card
    assert "solve --model ORG/concise-tiny --strategy 'control?text=+' 'Compute 5 + 7 .'" in card


def test_without_an_adapter_the_card_does_not_speak_of_one(run, model):
    card = (publish(run, model, "ORG/concise-tiny") / "README.md").read_text()
    assert "adapter" not in card and "by a control" not in card


def spoil_adapter_config(**changes):
    def spoil(adapter):
        config = json.loads((adapter / "adapter_config.json").read_text())
        write_json(adapter / "adapter_config.json", config | changes)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_adapter_config(base_model_name_or_path="/home/me/model"), "adapter_config.json, line .*/home/me/model"),
        (spoil_adapter_config(r=3), r"concise-tiny/adapter: does not fit the weights \(size mismatch"),
        (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "concise-tiny: its folder adapter/ is not"),
    ],
)
def test_an_adapter_that_is_not_fit_to_leave_is_refused(run, model, with_adapter, spoil, message):
    spoil(with_adapter)
    with pytest.raises(BadInput, match=message):
        publish(run, model, "ORG/concise-tiny")
    assert not (run / "hub").exists()


# ---- the example ----


@pytest.mark.parametrize("template", [None, TEMPLATE, SWITCH])
def test_the_program_in_the_card_gives_the_example(run, model, capsys, template):
    """Token for token, whatever the template's own default is, and whatever settings our engine does not know."""
    config = json.loads((model / "generation_config.json").read_text())
    write_json(model / "generation_config.json", config | {"repetition_penalty": 5.0, "do_sample": True, "top_k": 3})
    if template:
        (model / "chat_template.jinja").write_text(template)
    folder = publish(run, model, "ORG/concise-tiny")
    made = json.loads((folder / "evaluation" / "example.json").read_text())
    assert made["question"] == "Compute 5 + 7 ." == example.choose_question(run)
    assert made["prompt_ids"] == [4, 12, 6, 14, 5] + ([2] if template else [])
    assert made["settings"]["max_new_tokens"] == 24 >= len(made["completion_ids"]) > 0
    [program] = blocks((folder / "README.md").read_text(), "python")
    assert "do_sample=False, max_new_tokens=24, repetition_penalty=1.0)" in program
    capsys.readouterr()
    names = {}
    exec(program.replace('"ORG/concise-tiny"', repr(str(folder))), names)
    assert names["output"].tolist() == [made["prompt_ids"] + made["completion_ids"]]
    assert capsys.readouterr().out == made["text"] + "\n"


def test_a_process_without_the_toolkit_finds_it(run, model):
    folder = publish(run, model, "ORG/concise-tiny")
    made = json.loads((folder / "evaluation" / "example.json").read_text())
    assert "ModuleNotFoundError" in example.run_program("import efficient_reasoning", "ORG/concise-tiny", folder)
    [program] = blocks((folder / "README.md").read_text(), "python")
    assert example.run_program("import os; os._exit(9)", "ORG/concise-tiny", folder) == "exit code 9"
    asked = "import os; assert not {'HF_TOKEN', 'PYTHONPATH'} & set(os.environ) and not os.listdir()\n" + program
    found = example.run_program(asked, "ORG/concise-tiny", folder)
    assert found == {"prompt": made["prompt_ids"], "response": made["completion_ids"]}


def test_a_checkpoint_that_answers_otherwise_in_plain_transformers_is_refused(run, model, plain_transformers):
    config = json.loads((model / "generation_config.json").read_text())
    ids = list(range(4, 32))
    write_json(model / "generation_config.json", config | {"bad_words_ids": [[token] for token in ids]})
    with pytest.raises(BadInput, match="plain transformers comes to another response than our engine, from token"):
        publish(run, model, "ORG/concise-tiny")
    assert not (run / "hub").exists()


def test_what_does_not_fit_into_memory_is_not_checked_and_the_card_says_so(run, model, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1e9))
    folder = publish(run, model, "ORG/concise-tiny")
    assert not (folder / "evaluation" / "example.json").exists()
    card = (folder / "README.md").read_text()
    assert "was not checked: in float32 it takes 1.1 GB of memory, and 1.0 GB were free." in card
    assert "do_sample=True, temperature=0.6" in card and "float32" not in blocks(card, "python")[0]


def test_a_latent_projection_goes_along(run, model, metadata):
    metadata.latent_steps, metadata.latent_projection = 3, LATENT_NAME
    metadata.save(model)
    with pytest.raises(BadInput, match=f"{LATENT_NAME} is missing, though reasoning.json names it; copy the check"):
        publish(run, model, "ORG/concise-tiny")
    summary = json.loads((run / "summary.json").read_text())

    def measured_with(projection: LatentProjection) -> None:
        projection.save(model)
        config = summary["config"] | {"weights": weights_fingerprint(str(model))}
        write_json(run / "summary.json", summary | {"config": config})

    measured_with(LatentProjection(32, has_network=True))
    with pytest.raises(BadInput, match="holds no projection of hidden states 16 wide"):
        publish(run, model, "ORG/concise-tiny")
    measured_with(LatentProjection(16, has_network=True))
    folder = publish(run, model, "ORG/concise-tiny")
    assert (folder / LATENT_NAME).read_bytes() == (model / LATENT_NAME).read_bytes()
    assert ReasoningMetadata.load(folder).latent_projection == LATENT_NAME and hub_folder.is_replaced(LATENT_NAME)


def test_latent_thinking_is_not_checked(run, model, metadata):
    metadata.latent_steps = 3
    metadata.save(model)
    card = (publish(run, model, "ORG/concise-tiny") / "README.md").read_text()
    assert "What was measured is not this program: it thinks in latent steps, which plain transformers leaves" in card
    assert "it was not checked" not in card and "vllm serve" not in card
    assert "latents, thinking and answer" in card and "loads it without its latents" in card


def test_pauses_are_checked_in_plain_transformers(run, model, metadata, plain_transformers):
    from transformers import AddedToken, AutoModelForCausalLM

    tokenizer = load_tokenizer(str(model))
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (BOT, LATENT, EOT)])
    tokenizer.save_pretrained(model)
    weights = AutoModelForCausalLM.from_pretrained(model)
    weights.resize_token_embeddings(len(tokenizer))
    weights.save_pretrained(model)
    metadata.pause_steps = 3
    metadata.save(model)
    summary = json.loads((run / "summary.json").read_text())
    config = summary["config"] | {"weights": weights_fingerprint(str(model))}
    write_json(run / "summary.json", summary | {"config": config})
    folder = publish(run, model, "ORG/concise-tiny")
    card, repeated = (folder / "README.md").read_text(), json.loads((folder / example.EXAMPLE_NAME).read_text())
    assert 'pauses = "<|start-latent|>" + 3 * "<|latent|>" + "<|end-latent|>"' in blocks(card, "python")[0]
    assert tokenizer.convert_ids_to_tokens(repeated["prompt_ids"])[-5:] == [BOT, *[LATENT] * 3, EOT]
    assert "token for token; it was checked" in card and "vllm serve" not in card


# ---- the operating points ----


def test_the_points_worth_using_come_with_their_commands(run, model, monkeypatch):
    folder = publish(run, model, "ORG/concise-tiny")
    rows = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| best accuracy")]
    assert rows == ["| best accuracy | budget-forcing | 32 tokens | 90.0 % | 14.0 |"]
    point = {"strategy": "budget-forcing", "budget_tokens": 32, "accuracy": 0.9, "total_tokens": 15.0}
    assert ReasoningMetadata.load(folder).operating_points == [point]
    solve, server, request = blocks((folder / "README.md").read_text(), "bash")
    parsed = []
    monkeypatch.setattr(cli, "_solve", parsed.append)
    [words] = [shlex.split(line) for line in solve.splitlines() if not line.startswith("#")]
    cli.main(words[1:])
    settings = {name: getattr(parsed[0], name) for name in ("model", "strategy", "budget_tokens", "max_new_tokens")}
    assert settings == {
        "model": "ORG/concise-tiny",
        "strategy": "budget-forcing",
        "budget_tokens": 32,
        "max_new_tokens": 24,
    }
    assert parsed[0].question == "Compute 5 + 7 ."
    served = shlex.split(server)
    assert served[:3] == ["vllm", "serve", "ORG/concise-tiny"]
    assert "efficient_reasoning.inference.vllm_processor:ThinkingProcessor" in served
    body = json.loads(shlex.split(request, comments=True)[-1])
    # An eighth of the budget is kept for the answer, and at least both delimiters and four tokens.
    assert body["max_tokens"] == 32 and body["vllm_xargs"] == {"close_after_tokens": 26}
    assert body["prompt"] == "Compute 5 + 7 .\n"
    (model / "chat_template.jinja").write_text(SWITCH)
    folder = publish(run, model, "ORG/concise-tiny")
    request = blocks((folder / "README.md").read_text(), "bash")[-1]
    body = json.loads(shlex.split(request, comments=True)[-1])
    assert "/v1/chat/completions" in request and body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["messages"] == [{"role": "user", "content": "Compute 5 + 7 ."}]


# ---- what is refused ----


def test_publishing_again_replaces_the_folder(run, model):
    folder = publish(run, model, "ORG/first")
    publish(run, model, "ORG/second")
    assert "ORG/second" in (folder / "README.md").read_text()
    assert not any(path.name.startswith(".") for path in run.iterdir())


def test_a_folder_with_other_files_is_not_replaced(run, model):
    with pytest.raises(BadInput, match="holds other files, which would be lost"):
        publish(run, model, "ORG/concise-tiny", out=model)
    assert (model / "optimizer.pt").exists()


def test_a_training_folder_that_holds_its_run_is_not_replaced(run, model):
    run = run.rename(model / "evaluation")
    with pytest.raises(BadInput, match="holds other files, which would be lost"):
        publish(run, model, "ORG/concise-tiny", out=model)
    assert (model / "optimizer.pt").exists() and (run / "samples.jsonl").exists()
    assert "evaluation/samples.jsonl" not in hub_folder.hub_files(model)


def test_what_is_no_folder_is_not_replaced(run, model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for out in (".", "file", "link"):
        with pytest.raises(BadInput, match="name a new folder with --out"):
            publish(run, model, "ORG/concise-tiny", out=out, with_samples=True)


@pytest.mark.parametrize("question", ["Compute 1 + 7 .\n```\nand\n````\nmore", "-1+7"])
def test_a_question_may_hold_anything(run, model, question):
    """Its lines close no block of the card, and its minus begins no option."""
    samples = [sample | {"question": question} for sample in read_jsonl(run / "samples.jsonl")]
    write_jsonl(run / "samples.jsonl", samples)
    card = (publish(run, model, "ORG/concise-tiny") / "README.md").read_text()
    local, _, server = re.findall(r"^(`{3,})bash\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)
    assert (local[1].count("\nefficient-reasoning"), server[1].count("\ncurl")) == (1, 1)
    [command, *_] = re.split("^# .*\n", local[1], flags=re.MULTILINE)[1:]
    assert cli._parser().parse_args(shlex.split(command)[1:]).question == question


def test_a_run_of_other_weights_is_refused(run, model):
    """As after training again into the same folder, with the same rows and seed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 1}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="measured other weights than those in"):
        publish(run, model, "ORG/concise-tiny")


def test_paths_that_every_machine_has_may_leave(run, model):
    config = json.loads((model / "generation_config.json").read_text())
    write_json(model / "generation_config.json", config | {"note": "#!/usr/bin/env python"})
    assert "generation_config.json" in files_of(publish(run, model, "ORG/concise-tiny"))


def cut(model):
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-100])


def change_config(**settings):
    def change(model):
        config = json.loads((model / "config.json").read_text())
        write_json(model / "config.json", config | settings)

    return change


def note(name, text):
    def write(model):
        path = model / name
        path.write_text(path.read_text() + text)

    return write


def leak_path(model):
    ReasoningMetadata("shortest_correct", "sft", base_model="/data/ann/models/base").save(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "truncated safetensors"),
        (change_config(intermediate_size=64), "do not fit config.json .mismatched_keys"),
        (
            change_config(num_hidden_layers=2, layer_types=["full_attention"] * 2),
            "do not fit config.json .missing_keys, such as model.layers.1",
        ),
        (leak_path, "reasoning.json, line 4 holds the path /data/ann/models/base of this machine"),
        (note("recipe.yaml", f"hub: {TOKEN}\n"), "recipe.yaml, line 3 holds an access token or key"),
        (note("recipe.yaml", "key: sk-" + "a1B2" * 6), "recipe.yaml, line 3 holds an access token or key"),
        (note("recipe.yaml", "-----BEGIN RSA PRIVATE KEY-----"), "holds an access token or key"),
        (note("recipe.yaml", "data: /home/ann/rows.jsonl"), "line 3 holds the path /home/ann/rows.jsonl"),
        (note("recipe.yaml", "task: file:/home/ann/rows.jsonl"), "line 3 holds the path file:/home/ann"),
        (note("recipe.yaml", r"data: C:\Users\ann"), "holds the path"),
    ],
)
def test_what_is_not_fit_to_leave_leaves_nothing_behind(run, model, damage, message):
    damage(model)
    before = files_of(run)
    with pytest.raises(BadInput, match=message) as caught:
        publish(run, model, "ORG/concise-tiny")
    assert TOKEN not in str(caught.value)
    assert files_of(run) == before


def test_a_tokenizer_that_needs_what_stays_behind_is_refused(run, model, monkeypatch):
    (model / "chat_template.jinja").write_text(TEMPLATE)
    patterns = [pattern for pattern in hub_folder._CHECKPOINT if pattern != "chat_template.*"]
    monkeypatch.setattr(hub_folder, "_CHECKPOINT", patterns)
    with pytest.raises(BadInput, match="its tokenizer has other chat template"):
        publish(run, model, "ORG/concise-tiny")


@pytest.mark.parametrize("repo", ["a/b/c", "with space/x", "-ORG/x", ""])
def test_names_the_hub_does_not_take(run, model, repo):
    with pytest.raises(BadInput, match="write ORG/NAME"):
        publish(run, model, repo)


def test_the_training_card_says_what_it_does_not_know(model):
    card = card_of(model)
    assert "Not measured yet" in card.text and "| train_loss | 0.123457 |" in card.text
    assert "# Qwen/Qwen3-0.6B + shortest_correct" in card.text
    assert card.data.to_dict().get("model-index") is None
    assert str(model.parent) not in card.content
    [program] = blocks(card.text, "python")
    exec(program.replace('"path/to/this/folder"', repr(str(model))), {})


def test_the_overthinker_is_ready_to_be_published(tmp_path, run, plain_transformers):
    """Its example is solved to the end: the run's question is one of its own."""
    from efficient_reasoning.checkpoint import resolve_model

    summary = json.loads((run / "summary.json").read_text())
    config = summary["config"] | {"weights": weights_fingerprint(resolve_model("overthinker")), "max_new_tokens": 512}
    write_json(run / "summary.json", summary | {"config": config})
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    rows = [row | {"question": "Chickens and rabbits: 24 heads and 56 legs. How many chickens?"} for row in rows]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = publish(run, "overthinker", "ORG/overthinker", out=tmp_path / "published")
    made = json.loads((folder / "evaluation" / "example.json").read_text())
    assert made["text"].endswith("</think>20<|end|>")
