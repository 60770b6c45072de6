"""The tail of the recipes: a run is claimed, cut, resumed and saved whole; a dry run says what it would cost."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from efficient_reasoning.cards import write_training_card
from efficient_reasoning.checkpoint import ReasoningMetadata, check_checkpoint
from efficient_reasoning.errors import BadInput
from efficient_reasoning.training import (
    FinetuningArguments,
    RecipeArguments,
    finish,
    load_base,
    start,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@dataclass(kw_only=True)
class Arguments(RecipeArguments):
    data: str = "rows.jsonl"


class Interrupt(TrainerCallback):
    """What Ctrl-C does after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def arguments_of(output: Path, **changes) -> TrainingArguments:
    defaults = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 3}
    fixed = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
    return TrainingArguments(output_dir=str(output), **fixed, **(defaults | changes))


def make_trainer(model: Path, config: TrainingArguments, callbacks=()) -> Trainer:
    """Dropout and a shuffled data set make the weights depend on the state of every generator."""
    rows = [{"input_ids": torch.arange(i, i + 9), "labels": torch.arange(i, i + 9)} for i in range(40)]
    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(model, attention_dropout=0.3, attn_implementation="eager"),
        args=config,
        train_dataset=rows,
        processing_class=load_base(str(model)).tokenizer,
        callbacks=list(callbacks),
    )


def train(model: Path, output: Path, callbacks=(), **changes) -> None:
    train_as(arguments_of(output, **changes), model, callbacks)


def train_as(config: TrainingArguments, model: Path, callbacks=()) -> None:
    start(Arguments(), config)
    finish(make_trainer(model, config, callbacks), ReasoningMetadata(method="test", stage="sft", base_model="tiny"))


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory) -> Path:
    """The checkpoint of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_model, output)
    return output


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# ---- saving ----


def test_a_finished_run_holds_a_checkpoint_and_no_leftovers(whole):
    check_checkpoint(str(whole))
    names = {path.name for path in whole.iterdir()}
    assert {"reasoning.json", "README.md", "run.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"training_args.bin", "optimizer.pt", ".unfinished"} & names
    metadata = ReasoningMetadata.load(whole)
    assert (metadata.method, metadata.base_model, metadata.seed) == ("test", "tiny", 3)
    assert "test" in (whole / "README.md").read_text()


@pytest.fixture
def small_disk():
    """`small_disk(True)`: no file can grow beyond 4 KiB, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(full: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]) if full else limits)

    yield fill
    fill(False)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_leaves_no_half_written_checkpoint(tiny_model, whole, tmp_path, small_disk):
    class FillTheDisk(TrainerCallback):
        def on_train_end(self, *_, **__):
            small_disk(True)

    with pytest.raises(BadInput, match=r"run: the disk does not take the checkpoint \(.*; make room"):
        train(tiny_model, tmp_path / "run", [FillTheDisk()])
    checkpoints = {f"checkpoint-{step}" for step in (2, 4, 6)}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "run.json", "recipe.yaml", *checkpoints}
    small_disk(False)
    train(tiny_model, tmp_path / "run")  # the same command again
    assert weights(tmp_path / "run") == weights(whole)


def test_a_save_that_dies_half_way_leaves_the_earlier_files(tiny_model, whole, tmp_path, monkeypatch):
    """Killed without a chance to clean up."""
    output = tmp_path / "run"
    train(tiny_model, output, max_steps=2)
    before = weights(output)
    (output / ".unfinished").mkdir()  # a save that was killed before

    class Killed(BaseException):
        """No `except Exception` sees it."""

    def die(self, folder, **_):
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise Killed

    trainer = make_trainer(tiny_model, arguments_of(output, save_strategy="no"))
    monkeypatch.setattr(Trainer, "save_model", die)
    with pytest.raises(Killed):
        finish(trainer, ReasoningMetadata(method="test", stage="sft"))
    assert weights(output) == before
    check_checkpoint(str(output))


# ---- resuming ----


@pytest.mark.parametrize("step", [1, 2, 5])
def test_the_same_command_resumes_to_the_same_weights(tiny_model, whole, tmp_path, step):
    output = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, output, [Interrupt(step)])
    assert not (output / "model.safetensors").exists()
    assert (output / "checkpoint-2").is_dir() == (step > 2)
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            steps.append(state.global_step)

    train(tiny_model, output, [Count()])
    assert steps == list(range(step // 2 * 2 + 1 if step > 2 else 1, 7))
    assert weights(output) == weights(whole)


@pytest.mark.parametrize("kept", ["everything", "checkpoints"])
def test_a_finished_run_again_changes_nothing(tiny_model, tmp_path, kept):
    """Also when it was cut between last step and save; at a constant rate, since one of 0 would hide a step."""
    output = tmp_path / "run"
    constant = {"lr_scheduler_type": "constant"}
    train(tiny_model, output, **constant)
    before = weights(output)
    if kept == "checkpoints":
        for path in output.iterdir():
            if path.is_file() and path.name != "run.json":
                path.unlink()
    train(tiny_model, output, **constant)
    assert weights(output) == before


# ---- claiming a folder ----


def test_another_configuration_is_refused(tiny_model, whole):
    with pytest.raises(BadInput, match=r"run: holds a run that differs in learning_rate, seed; choose another"):
        train(tiny_model, whole, seed=4, learning_rate=1.0)
    with pytest.raises(BadInput, match="differs in data"):
        start(Arguments(data="other.jsonl"), arguments_of(whole))
    with pytest.raises(BadInput, match="differs in weight_decay"):
        start(Arguments(), arguments_of(whole, weight_decay=0.5))
    start(Arguments(), arguments_of(whole, logging_steps=7, save_steps=3))  # these decide nothing


@pytest.mark.parametrize(("changed", "named"), [("rows.jsonl", "contents of data"), ("base", "model weights")])
def test_files_that_changed_under_their_names_are_refused(tiny_model, tmp_path, changed, named):
    import shutil

    base, rows, output = tmp_path / "base", tmp_path / "rows.jsonl", tmp_path / "run"
    shutil.copytree(tiny_model, base)
    rows.write_text("{}\n")
    arguments = FinetuningArguments(model=str(base), data=str(rows))
    start(arguments, arguments_of(output))
    (output / "checkpoint-2").mkdir()
    start(arguments, arguments_of(output))
    target = base / "model.safetensors" if changed == "base" else rows
    target.write_bytes(target.read_bytes() + b" ")
    with pytest.raises(BadInput, match=f"differs in {named}"):
        start(arguments, arguments_of(output))


def test_a_folder_without_weights_holds_nothing_back(tmp_path):
    """The first attempt named a file that is not there; the second, with the right one, must not be refused."""
    start(Arguments(data="wrong.jsonl"), arguments_of(tmp_path / "run"))
    start(Arguments(data="right.jsonl"), arguments_of(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == "right.jsonl"


def test_starting_seeds_every_generator(tmp_path):
    start(Arguments(), arguments_of(tmp_path / "a"))
    first = torch.rand(3)
    start(Arguments(), arguments_of(tmp_path / "b"))
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("pinned", [True, False])
def test_batches_of_pinned_memory_wait_for_no_step(tiny_model, tmp_path, pinned):
    class Look(TrainerCallback):
        def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
            seen.append(train_dataloader._non_blocking)

    seen, config = [], arguments_of(tmp_path / "run", max_steps=1)
    config.dataloader_pin_memory = pinned  # on a CPU its default is taken back
    train_as(config, tiny_model, [Look()])
    assert seen == [pinned]


def test_no_gradient_comes_from_an_attention_that_makes_it_no_number(tmp_path):
    torch.backends.cuda.enable_cudnn_sdp(True)
    start(Arguments(), arguments_of(tmp_path / "run"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


# ---- pushing ----


def test_only_what_hub_py_names_is_pushed(tiny_model, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    # It would make a repository that is public unless told otherwise.
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda *_, **__: calls.append("the trainer made a repository"))
    monkeypatch.setattr(Trainer, "push_to_hub", lambda *_, **__: calls.append("the trainer pushed"))
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda *_, **__: calls.append("the trainer pushed"))
    monkeypatch.setattr(
        "efficient_reasoning.hub.upload_folder", lambda folder, repo, public: calls.append((folder, repo, public))
    )
    train(tiny_model, tmp_path / "run", max_steps=2, push_to_hub=True, hub_model_id="me/tiny")
    train(tiny_model, tmp_path / "public", max_steps=2, push_to_hub=True, hub_private_repo=False)
    assert calls == [(tmp_path / "run", "me/tiny", False), (tmp_path / "public", "public", True)]


def test_what_cannot_be_pushed_is_said_before_the_training(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    with pytest.raises(BadInput, match="--hub_model_id 'a/b/c' is no name for the Hub"):
        train(tiny_model, tmp_path / "run", push_to_hub=True, hub_model_id="a/b/c")
    with pytest.raises(BadInput, match="hub_token would lie in the run's files"):
        train(tiny_model, tmp_path / "run", push_to_hub=True, hub_token="hf_" + "b" * 30)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(BadInput, match="no access token"):
        train(tiny_model, tmp_path / "run", push_to_hub=True, hub_model_id="me/tiny")
    assert not (tmp_path / "run").exists()


# ---- the recipe that is published ----


def test_a_run_leaves_the_config_that_trains_it_again(tmp_path):
    """Without folders of this machine, and without what says nothing about the weights."""
    from efficient_reasoning.config import parse
    from recipes.rl_length import LengthRewardArguments

    rows, output = str(tmp_path / "rows.jsonl"), tmp_path / "run"
    settings = {"model": "overthinker", "data": rows, "reward": "kimi", "reward_parameters": "{weight: 0.1}"}
    settings |= {"seed": 3, "bf16": "false", "learning_rate": 5e-5, "per_device_train_batch_size": 4}
    settings |= {"num_generations": 4, "max_completion_length": 99, "logging_steps": 7, "output_dir": output}
    settings |= {"vllm_importance_sampling_clip_max": "null"}
    parsed = parse(LengthRewardArguments, "trl:GRPOConfig", words_of(settings))
    start(*parsed)
    written = (output / "recipe.yaml").read_text()
    assert written.startswith("# efficient-reasoning train rl_length --config recipe.yaml --output_dir FOLDER\n")
    assert "data: rows.jsonl\n" in written and str(tmp_path) not in written and "logging" not in written
    again = {"config": output / "recipe.yaml", "data": rows, "logging_steps": 7, "output_dir": output}
    arguments, config = parse(LengthRewardArguments, "trl:GRPOConfig", words_of(again))
    assert arguments == parsed[0]
    assert config.to_dict() == parsed[1].to_dict()


def words_of(settings: dict) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; give at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; give at least 1"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001; give at least 0"),
        ({"max_steps": 0}, "max_steps is 0, which trains nothing; give more than 0"),
        ({"max_steps": -1, "num_train_epochs": 0.0}, "num_train_epochs is 0, which trains nothing"),
        ({"resume_from_checkpoint": "run/one"}, "resume_from_checkpoint is run/one, .*; leave it out"),
        ({"resume_from_checkpoint": "false"}, "is false, .*; leave it out, and name another output_dir to begin anew"),
    ],
)
def test_settings_that_do_not_do_what_they_say_are_refused(tmp_path, changes, sentence):
    config = arguments_of(tmp_path)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(BadInput, match=sentence):
        start(Arguments(), config)


@pytest.mark.parametrize("kind", ["latent_steps", "pause_steps"])
def test_latents_are_not_dropped_without_a_word(tiny_model, tmp_path, kind):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    ReasoningMetadata(method="coconut", stage="sft", **{kind: 2}).save(model)
    assert load_base(str(model), trains_latents=True).path == str(model)
    with pytest.raises(BadInput, match="thinks in latents or pauses, which only sft_latent trains"):
        load_base(str(model))


def test_the_first_base_model_and_its_licence_outlive_the_stages(tiny_model, tmp_path):
    first, rows = tmp_path / "first", [{"prompt": "Compute 1 + 2.\n", "completion": "3"}]
    shutil.copytree(tiny_model, first)
    (first / "README.md").write_text("---\nlicense: mit\n---\n")
    metadata = load_base(str(first)).metadata_of(rows, stage="sft", method="c3ot", controls=["<|b|>", "<|a|>"])
    metadata.trained_budget_range = (16, 128)
    assert metadata.controls == ["<|a|>", "<|b|>"]
    assert (metadata.base_model, metadata.earlier_methods, metadata.licence) == ("first", [], "mit")
    second = tmp_path / "second"
    shutil.copytree(tiny_model, second)
    metadata.save(second)
    write_training_card(second, metadata=metadata, metrics={})
    metadata = load_base(str(second)).metadata_of(rows, stage="rl", method="grpo kimi")
    assert (metadata.base_model, metadata.earlier_methods) == ("first", ["c3ot"])
    assert (metadata.controls, metadata.trained_budget_range) == (["<|a|>", "<|b|>"], (16, 128))
    assert metadata.licence == "mit"
    write_training_card(second, metadata=metadata, metrics={})
    card = (second / "README.md").read_text()
    assert "license: mit" in card and "licence of the base model" not in card
    assert "method `c3ot`, then `grpo kimi`, stage rl, started from **first**" in card
