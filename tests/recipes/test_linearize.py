from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.checkpoint import ReasoningMetadata, load_model, load_tokenizer
from efficient_reasoning.errors import BadInput
from tests.recipes.running import launch, logged, run, run_twice, weights

OWN = ("query_map.weight", "key_map.weight", "gate")
FILES = {"configuration_linearized.py", "modeling_linearized.py"}


@pytest.fixture
def linearize(argv, tiny_model, data):
    """`linearize(stage, key=value, ...)`: a command line."""

    def build(stage: str, **changes) -> list[str]:
        options = {"model": tiny_model, "data": data / "sft.jsonl", "stage": stage, "window_tokens": 4}
        return argv("linearize", **options | {"gradient_checkpointing": False} | changes)

    return build


@pytest.fixture
def transferred(linearize, tmp_path):
    run("linearize", linearize("transfer", output_dir=tmp_path / "transferred"))
    return tmp_path / "transferred"


def finetune(linearize, transferred, **changes) -> list[str]:
    return linearize("finetune", **{"model": transferred, "window_tokens": None} | changes)


def test_the_transfer_trains_feature_maps_and_gates(transferred, tiny_model):
    before, after = load_file(tiny_model / "model.safetensors"), load_file(transferred / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    own = {name: tensor for name, tensor in after.items() if name not in before}
    assert len(own) == 3 and all(name.endswith(OWN) for name in own)
    assert not torch.equal(own["model.layers.0.self_attn.gate"], torch.full((2,), -2.197))
    metadata = ReasoningMetadata.load(transferred)
    assert (metadata.method, metadata.base_model, metadata.stage) == ("attention_transfer", "tiny", "sft")
    losses = [row["loss"] for row in logged(transferred)]
    assert losses[-1] < losses[0]


def test_finetuning_trains_the_projections_and_merges_them(transferred, linearize, tmp_path):
    run("linearize", finetune(linearize, transferred, kl_coef=0.5))
    before, after = (load_file(folder / "model.safetensors") for folder in (transferred, tmp_path / "run"))
    assert before.keys() == after.keys()
    changed = {name.rpartition(".self_attn.")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}_proj.weight" for name in "qkvo"}
    assert {"cross_entropy", "kl"} <= logged(tmp_path / "run")[0].keys()
    metadata = ReasoningMetadata.load(tmp_path / "run")
    assert (metadata.method, metadata.earlier_methods) == ("linearize", ["attention_transfer"])
    assert {path.name for path in (tmp_path / "run").glob("*.py")} == FILES
    assert "trust_remote_code=True" in (tmp_path / "run/README.md").read_text()


def test_finetuning_without_a_transfer_is_the_control(linearize, tmp_path, tiny_model):
    run("linearize", linearize("finetune"))
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "run"))
    layer = "model.layers.0.self_attn"
    assert torch.equal(after[f"{layer}.query_map.weight"], torch.eye(8).repeat(2, 1, 1))
    assert not torch.equal(after[f"{layer}.q_proj.weight"], before[f"{layer}.q_proj.weight"])


# In a process that knows nothing of this toolkit, beside an installation of fla that does not work.
PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left", trust_remote_code=True)
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, output_loading_info=True)
assert not any(report.values()), report
ids = tokenizer(["Compute 3 + 4.\\n", "Compute 13 + 24 - 5.\\n"], return_tensors="pt", padding=True)
print(json.dumps(model.generate(**ids, max_new_tokens=30, do_sample=False).tolist()))
assert "efficient_reasoning" not in sys.modules
"""


def test_a_process_without_this_toolkit_gives_the_same_tokens(transferred, tmp_path):
    (tmp_path / "broken/fla").mkdir(parents=True)
    (tmp_path / "broken/fla/__init__.py").write_text("raise RuntimeError('built for another CUDA')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "broken"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", PLAIN, str(transferred)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_model(str(transferred), "cpu"), load_tokenizer(str(transferred))
    ids = tokenizer(["Compute 3 + 4.\n", "Compute 13 + 24 - 5.\n"], return_tensors="pt", padding=True)
    expected = model.generate(**ids, max_new_tokens=30, do_sample=False).tolist()
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.parametrize("recipe", ["sft_compress", "rl_length"])
def test_what_later_stages_make_of_it_has_its_code(transferred, argv, tmp_path, recipe):
    run(recipe, argv(recipe, model=transferred, gradient_checkpointing=True))
    assert {path.name for path in (tmp_path / "run").glob("*.py")} == FILES
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(report.values())


def test_it_is_solved_with(transferred):
    by_graph, plain = (load_reasoner(str(transferred), backend, device="cpu") for backend in ("auto", "transformers"))
    assert by_graph.backend == "graph"
    results = [
        solve(reasoner, "Compute 3 + 4.", strategy="budget-forcing", budget_tokens=60, temperature=0.0)
        for reasoner in (by_graph, plain)
    ]
    assert results[0].completion_ids == results[1].completion_ids
    assert 0 < results[0].spend.tokens <= 60
    for model, draft in (("overthinker", str(transferred)), (str(transferred), "overthinker")):
        with pytest.raises(BadInput, match="state of linearized takes back no token of a draft; leave out draft"):
            load_reasoner(model, backend="transformers", device="cpu", draft=draft)


@pytest.mark.parametrize("stage", ["transfer", "finetune"])
def test_a_cut_run_is_resumed_by_the_same_command(linearize, transferred, tmp_path, monkeypatch, stage):
    changes = {"max_steps": 5} | ({"model": transferred, "window_tokens": None} if stage == "finetune" else {})
    run("linearize", linearize(stage, output_dir=tmp_path / "whole", **changes))
    run_twice(monkeypatch, "linearize", linearize(stage, **changes))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_gradient_checkpointing_changes_nothing(linearize, transferred, tmp_path):
    further = {"model": transferred, "window_tokens": None, "kl_coef": 1.0}
    for stage, changes in (("transfer", {}), ("finetune", further)):
        found = []
        for checkpointing in (False, True):
            output = tmp_path / f"{stage}_{checkpointing}"
            run("linearize", linearize(stage, output_dir=output, gradient_checkpointing=checkpointing, **changes))
            found.append(load_file(output / "model.safetensors"))
        for name, tensor in found[0].items():
            torch.testing.assert_close(found[1][name], tensor, atol=1e-5, rtol=1e-4)


def test_mixed_precision_comes_to_nearly_the_same(linearize, transferred, tmp_path):
    further = {"model": transferred, "window_tokens": None, "kl_coef": 1.0}
    for stage, changes in (("transfer", {}), ("finetune", further)):
        losses = []
        for bf16 in (False, True):
            output = tmp_path / f"{stage}_{bf16}"
            run("linearize", linearize(stage, output_dir=output, bf16=bf16, gradient_checkpointing=bf16, **changes))
            losses.append([row["loss"] for row in logged(output)])
            weights = load_file(output / "model.safetensors").values()
            assert {tensor.dtype for tensor in weights} == {torch.float32}
        assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]


def test_a_dry_run_trains_nothing(linearize, tmp_path, capsys):
    run("linearize", linearize("transfer", dry_run=True))
    assert "24 rows" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        ("transfer", {"window_tokens": None}, "has softmax attention; give window_tokens, such as 64"),
        ("transfer", {"window_tokens": 1}, "window_tokens is 1; give at least 2"),
        ("transfer", {"softmax_layers": 0}, "has layers 0 to 0, of which one at least must be linearized"),
        ("transfer", {"softmax_layers": 3}, "has layers 0 to 0"),
        ("transfer", {"softmax_layers": 3, "dry_run": True}, "has layers 0 to 0"),
        ("transfer", {"window_tokens": 1, "dry_run": True}, "window_tokens is 1; give at least 2"),
        ("transfer", {"kl_coef": 1.0}, "kl_coef is of stage finetune; leave it out"),
        ("finetune", {"kl_coef": -1.0}, "kl_coef at least 0"),
        ("finetune", {"lora_rank": 0}, "lora_rank must be at least 1"),
        ("transfer", {"packing": True}, "read packed rows as one text; leave packing and padding_free out"),
    ],
)
def test_bad_values_get_one_sentence(linearize, stage, changes, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        run("linearize", linearize(stage, **changes))
    assert "\n" not in str(caught.value)


def test_a_linearized_model_is_not_linearized_again(linearize, transferred, tmp_path):
    with pytest.raises(BadInput, match="is linearized already; name the model that it was made from"):
        run("linearize", linearize("transfer", model=transferred))
    with pytest.raises(BadInput, match="is linearized already; leave out window_tokens and softmax_layers"):
        run("linearize", linearize("finetune", model=transferred))
    run("linearize", finetune(linearize, transferred))
    with pytest.raises(BadInput, match="has no teacher in it; give kl_coef with the checkpoint of stage transfer"):
        run("linearize", finetune(linearize, tmp_path / "run", output_dir=tmp_path / "more", kl_coef=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["transfer", "finetune"])
def test_two_processes(linearize, tmp_path, stage):
    words = linearize(stage, deepspeed="zero2", **({"kl_coef": 1.0} if stage == "finetune" else {}))
    done = launch("linearize", words, tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run/model.safetensors").values())


def test_a_hybrid_comes_near_its_teacher_and_needs_no_code_of_ours(linearize, argv, tmp_path, data):
    shape = "{model_type: qwen3, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, "
    shape += "num_key_value_heads: 1, head_dim: 8, intermediate_size: 16, tie_word_embeddings: true}"
    run("pretrain", argv("pretrain", output_dir=tmp_path / "teacher", architecture=shape))
    changes = {"model": tmp_path / "teacher", "window_tokens": None, "softmax_layers": "[1]", "max_steps": 20}
    run("linearize", linearize("hybrid", **changes))
    losses = [row["loss"] for row in logged(tmp_path / "run", 20)]
    assert 0 < sum(losses[-3:]) < 0.8 * sum(losses[:3])
    metadata = ReasoningMetadata.load(tmp_path / "run")
    assert (metadata.method, metadata.base_model, metadata.stage) == ("hybrid", "teacher", "sft")
    assert not list((tmp_path / "run").glob("*.py"))
    assert "trust_remote_code" not in (tmp_path / "run/README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.model_type == "qwen3_5_text"
    assert solve(load_reasoner(str(tmp_path / "run")), "Compute 3 + 4.", max_new_tokens=4).spend.decoded_tokens
    run("sft_compress", argv("sft_compress", model=tmp_path / "run", output_dir=tmp_path / "next", max_steps=1))


def test_a_hybrid_has_no_window(linearize):
    with pytest.raises(BadInput, match="window_tokens is of the other stages: a hybrid has no window"):
        run("linearize", linearize("hybrid"))
