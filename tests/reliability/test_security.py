"""What other people's files may not do: run code, leave their folder, or take a secret along."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from efficient_reasoning.checkpoint import check_checkpoint
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.environment import environment
from efficient_reasoning.files import write_json
from efficient_reasoning.inference import load_reasoner
from efficient_reasoning.merging import load_parent
from efficient_reasoning.training import load_base


@dataclass
class Own:
    """What a program has of its own."""

    model: str = "m"


ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("efficient_reasoning", "data_tools", "recipes") for path in (ROOT / folder).rglob("*.py")
]
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
ARCHIVES = {"tarfile", "zipfile"}  # whose members may be called ../../anything
# Code of an answer, in its sandbox, and an expression that the program has drawn itself.
EVALUATES = {"answers/sandbox.py", "problems/list_functions.py"}


# ---- what the source may not say ----


def dangers(source: str, place: str = "") -> list[str]:
    """Calls and imports that run, unpack or pass to a shell what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += sorted({name.split(".")[0] for name in names} & (PICKLES | ARCHIVES))
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
            last = name.rpartition(".")[2]
            found += [name] if name in SHELLS or last == "unpack_archive" else []
            found += [name] if name in ("eval", "exec") and not place.endswith(tuple(EVALUATES)) else []
            found += [name] if name == "torch.load" and options.get("weights_only") != "True" else []
            found += [name] if last in ("unsafe_load", "full_load", "load_all") else []
            found += [name] if name == "yaml.load" and options.get("Loader") != "_yaml_loader()" else []
            found += [
                f"{name}({key}={value})"
                for key, value in options.items()
                if (key, value) in {("shell", "True"), ("allow_pickle", "True"), ("trust_remote_code", "True")}
            ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path):
    assert dangers(path.read_text(encoding="utf-8"), str(path)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from dill import loads", ["dill"]),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=False)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("yaml.load(text, Loader=yaml.Loader)", ["yaml.load"]),
        ("yaml.unsafe_load(text)", ["yaml.unsafe_load"]),
        ("np.load(path, allow_pickle=True)", ["np.load(allow_pickle=True)"]),
        ("subprocess.run(f'rm {name}', shell=True)", ["subprocess.run(shell=True)"]),
        ("os.system(command)", ["os.system"]),
        ("import tarfile", ["tarfile"]),
        ("shutil.unpack_archive(path, folder)", ["shutil.unpack_archive"]),
        (
            "AutoModel.from_pretrained(name, trust_remote_code=True)",
            ["AutoModel.from_pretrained(trust_remote_code=True)"],
        ),
        ("eval(text)", ["eval"]),
        ("model.eval()", []),
        ("subprocess.run(['rm', name])", []),
    ],
)
def test_the_search_sees_what_it_should(source, found):
    assert dangers(source) == found


def test_yaml_that_names_code_runs_none(tmp_path):
    path, target = tmp_path / "a.yaml", tmp_path / "written"
    path.write_text(f"model: !!python/object/apply:os.mkdir ['{target}']\n")
    with pytest.raises(BadInput, match="line 1: could not determine a constructor"):
        parse(Own, argv=["--config", str(path)])
    parse(
        Own,
        argv=[
            "--model",
            f"!!python/object/apply:os.mkdir ['{target}']",
        ],
    )
    assert not target.exists()


def test_trust_is_off_unless_asked():
    for trainer in ("trl:SFTConfig", "trl:GRPOConfig", "trl:DPOConfig"):
        words = ["--model", "m", "--output_dir", "out", "--bf16=false", "--use_cpu"]
        _, config = parse(Own, trainer, words)
        assert not getattr(config, "trust_remote_code", False)


# ---- checkpoints from others ----


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.target),)


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_weights_in_a_pickle_are_not_run(folder, tmp_path):
    target = tmp_path / "written"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(Exception) as refused:
        load_reasoner(str(folder), "graph", device="cpu")
    assert not target.exists(), refused


def test_code_in_a_checkpoint_is_not_run(folder, tmp_path):
    target = tmp_path / "written"
    (folder / "modeling_theirs.py").write_text(f"import os\nos.mkdir({str(target)!r})\nclass Theirs: pass\n")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_theirs.Theirs", "AutoModelForCausalLM": "modeling_theirs.Theirs"}
    write_json(folder / "config.json", config | {"auto_map": auto_map})
    load_base(str(folder))
    load_reasoner(str(folder), "transformers", device="cpu")
    write_json(folder / "config.json", config | {"auto_map": auto_map, "model_type": "theirs", "architectures": ["X"]})
    with pytest.raises(Exception) as refused:
        load_reasoner(str(folder), "transformers", device="cpu")
    assert not target.exists(), refused


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/stolen.safetensors", "a/../../stolen.safetensors"])
def test_an_index_names_no_file_outside_its_folder(folder, tmp_path, name):
    shutil.copy(folder / "model.safetensors", tmp_path / "stolen.safetensors")
    (folder / "a").mkdir()
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": name}})
    for load in (check_checkpoint, load_parent):
        with pytest.raises(BadInput, match=r"is missing, though model\.safetensors\.index\.json names it"):
            load(str(folder))


# ---- secrets ----


def test_the_environment_of_a_run_holds_no_secret(monkeypatch):
    secrets = {name: f"{name.lower()}-of-mine" for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "PASSWORD")}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    told = json.dumps(environment())
    assert not [name for name, value in secrets.items() if value in told or name in told]
