from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from efficient_reasoning import cli

ROOT = Path(__file__).parents[1]

RECIPE = '''"""Shorten chains.

More about it.
"""

import signal
import sys
import time

if "wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print("waiting", flush=True)
    time.sleep(60)
print("recipe", sys.argv[1:])
sys.exit(5 if "fail" in sys.argv else 0)
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A source tree with one recipe and one data tool, in a path with a space in it."""
    root = tmp_path_factory.mktemp("source tree")
    (root / "efficient_reasoning").mkdir()
    for name in ("__init__", "errors", "config", "cli"):
        shutil.copy(ROOT / "efficient_reasoning" / f"{name}.py", root / "efficient_reasoning")
    for folder, name in (("recipes", "shorten"), ("data_tools", "select")):
        (root / folder).mkdir()
        (root / folder / f"{name}.py").write_text(RECIPE, encoding="utf-8")
    return root


def command(root, *words):
    """How to run the front door of a tree, from elsewhere."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    return {"args": [sys.executable, "-m", "efficient_reasoning.cli", *words], "env": environment, "cwd": "/"}


def call(root, *words):
    return subprocess.run(**command(root, *words), capture_output=True, text=True)


def refused(capsys, *words):
    """The sentence that a bad command line ends with."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# ---- speed ----


def test_help_is_instant():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(**command(ROOT, "--help"), capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


@pytest.mark.parametrize("name", ["solve", "evaluate", "compare", "audit", "app", "publish", "env"])
def test_help_of_a_command_imports_nothing_heavy(name):
    code = f"""
import sys
from efficient_reasoning import cli
try:
    cli.main([{name!r}, "--help"])
finally:
    print("heavy:", sorted({{"torch", "transformers", "trl", "numpy", "yaml"}} & set(sys.modules)))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"usage: efficient-reasoning {name}" in done.stdout
    assert "heavy: []" in done.stdout


# ---- train, data ----


@pytest.mark.parametrize(("words", "name"), [(["train"], "shorten"), (["data", "--help"], "select")])
def test_programs_are_listed_without_running_them(tree, words, name):
    done = call(tree, *words)
    assert done.returncode == 0
    assert f"{name:<20} Shorten chains.\n" in done.stdout
    assert "recipe [" not in done.stdout


@pytest.mark.parametrize(
    ("words", "path"), [(["train", "shorten"], "recipes/shorten.py"), (["data", "select"], "data_tools/select.py")]
)
def test_program_gets_its_words_and_the_command_is_printed(tree, words, path):
    done = call(tree, *words, "--config", "a b.yaml", "--alpha=-1", "--budgets", "1", "-2", "--help")
    assert done.stdout == "recipe ['--config', 'a b.yaml', '--alpha=-1', '--budgets', '1', '-2', '--help']\n"
    shown = f"{sys.executable} '{tree / path}' --config 'a b.yaml' --alpha=-1 --budgets 1 -2 --help\n"
    assert done.stderr == shown
    assert subprocess.run(done.stderr, shell=True, capture_output=True, text=True).stdout == done.stdout


def test_exit_code_of_the_recipe_is_passed_on(tree):
    assert call(tree, "train", "shorten", "fail").returncode == 5


def test_signal_reaches_the_recipe(tree):
    running = command(tree, "train", "shorten", "wait")
    with subprocess.Popen(**running, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 7


def test_unknown_program_is_named_with_the_near_ones(tree):
    done = call(tree, "train", "shroten", "--config", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'shroten' is not among the recipes, did you mean shorten?\n"
    assert "is not among the data tools, did you mean select?" in call(tree, "data", "selct").stderr


@pytest.fixture
def launched(tree, tmp_path, monkeypatch):
    """Run `train` up to the moment of launching, with a `deepspeed` beside the interpreter; give the command."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("python", "deepspeed"):
        (bin_folder / name).touch()
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.setattr("efficient_reasoning.config._PACKAGE", tree / "efficient_reasoning")
    commands = []
    monkeypatch.setattr(os, "execv", lambda path, command: commands.append(command))

    def launch(*words):
        cli.main(["train", *words])
        return [word.replace(f"{bin_folder}/", "").replace(f"{tree}/recipes/", "") for word in commands.pop()]

    return launch


def test_several_gpus_and_hosts_go_through_deepspeed(launched, tmp_path):
    (tmp_path / "hosts").touch()
    hosts = str(tmp_path / "hosts")
    assert launched("shorten", "--a", "b") == ["python", "shorten.py", "--a", "b"]
    assert launched("shorten", "--num-gpus", "2", "--a", "b") == [
        "deepspeed", "--num_gpus", "2", "shorten.py", "--a", "b",
    ]  # fmt: skip
    assert launched("--num_gpus=1", "shorten") == ["deepspeed", "--num_gpus", "1", "shorten.py"]
    assert launched("shorten", "--hostfile", hosts, "--num-gpus", "8") == [
        "deepspeed", "--hostfile", hosts, "--num_gpus", "8", "shorten.py",
    ]  # fmt: skip


def test_bad_launches_are_refused(launched, capsys, tmp_path):
    assert "'0' is not a whole number of at least 1" in refused(capsys, "train", "shorten", "--num-gpus", "0")
    assert "hosts: no such file" in refused(capsys, "train", "shorten", "--hostfile", str(tmp_path / "hosts"))
    (tmp_path / "bin" / "deepspeed").unlink()
    assert "install it with `pip install deepspeed`" in refused(capsys, "train", "shorten", "--num-gpus", "2")


# ---- solve, evaluate, compare, publish, env ----


def solution(question, seed):
    return SimpleNamespace(
        thinking=f"about {question}",
        answer=f"{seed}",
        truncated=False,
        thinking_tokens=3,
        answer_tokens=1,
        total_tokens=6,
        latent_tokens=0,
        spend=SimpleNamespace(tokens=6, as_dict=lambda: {"decoded_tokens": 6}),
    )


@pytest.fixture
def rooms(monkeypatch):
    """The rooms behind the commands, replaced by ones that write down what they were called with."""
    calls = {}

    def room(name, **functions):
        monkeypatch.setitem(sys.modules, f"efficient_reasoning.{name}", SimpleNamespace(**functions))

    def solve_many(reasoner, questions, *, seeds, progress, **settings):
        calls["solve"] = (reasoner, settings)
        return [solution(question, seed) for question, seed in zip(questions, seeds, strict=True)]

    def recorder(name, result):
        def record(*words, **settings):
            calls[name] = (words, settings)
            return result

        return record

    def load_reasoner(model, backend, adapter_scale):
        return f"{backend} reasoner of {model}" + ("" if adapter_scale is None else f" at {adapter_scale}")

    known = {"budget-forcing": None, "cascade": None, "deer": None, "no-thinking": None}
    room("inference", load_reasoner=load_reasoner, solve_many=solve_many, STRATEGIES=known)
    room("evaluation", evaluate_model=recorder("evaluate", Path("run")), compare=recorder("compare", "a table"))
    room("app", serve=recorder("app", None))
    room("hub", publish=recorder("publish", Path("to_upload")))
    room("problems", FAMILIES={"sums": None}, MIXED="mixed")
    return calls


SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 512}


def test_solve_a_question(rooms, capsys):
    words = ["solve", "--model", "m", "--strategy", "deer", "--budget-tokens", "64", "--seed", "4", "1 + 1?"]
    cli.main([*words, "--backend", "openai"])
    assert rooms["solve"] == ("openai reasoner of m", {"strategy": "deer", "budget_tokens": 64, **SAMPLING})
    shown = capsys.readouterr()
    cli.main([*words, "--adapter_scale", "-0.5"])
    assert rooms["solve"][0] == "auto reasoner of m at -0.5"
    assert shown.out == "about 1 + 1?\n\n4\n"
    assert "6 tokens: 3 thinking, 1 answer" in shown.err


@pytest.mark.parametrize("to_file", [False, True])
def test_solve_a_file_keeps_its_columns(rooms, capsys, tmp_path, to_file):
    (tmp_path / "in.jsonl").write_text('{"question": "a", "answer": "gold"}\n{"question": "b"}\n')
    out = tmp_path / "out.jsonl"
    cli.main(
        ["solve", "--model", "m", "--file", str(tmp_path / "in.jsonl"), *(["--out", str(out)] if to_file else [])]
    )
    text = out.read_text() if to_file else capsys.readouterr().out
    first, second = map(json.loads, text.splitlines())
    assert (first["question"], first["answer"], first["thinking"], first["final_answer"]) == (
        "a",
        "gold",
        "about a",
        "0",
    )
    assert (second["final_answer"], second["total_tokens"], second["spend"]) == ("1", 6, {"decoded_tokens": 6})


def test_solve_reads_the_turns_before_a_question(rooms, tmp_path, capsys):
    turn = {"role": "user", "content": "Take 3."}
    row = {"question": "Add 4.", "metadata": {"earlier_turns": [turn]}}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    cli.main(["solve", "--model", "m", "--file", str(tmp_path / "in.jsonl")])
    thinking = json.loads(capsys.readouterr().out)["thinking"]
    assert thinking == f"about {[turn, {'role': 'user', 'content': 'Add 4.'}]}"


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("sums", ["sums"]),
        ("sums,mixed,gym:chain_sum", ["sums", "mixed", "gym:chain_sum"]),
        ("file:a.jsonl?question=stem,ask&answer=key,sums", ["file:a.jsonl?question=stem,ask&answer=key", "sums"]),
        ("file:a,b.jsonl,hub:org/name", ["file:a,b.jsonl", "hub:org/name"]),
    ],
)
def test_tasks_are_split_where_a_task_begins(rooms, tmp_path, text, tasks):
    cli.main(["evaluate", "--model", "m", "--task", text, "--num_problems=2", "--seed", "0", "--out", str(tmp_path)])
    assert rooms["evaluate"][0] == ("m", tasks)


@pytest.mark.parametrize(
    ("text", "strategies"),
    [
        (
            "control?text=<|short|>,budget-forcing?wait_text=Hmm, wait&waits=1,deer",
            ["control?text=<|short|>", "budget-forcing?wait_text=Hmm, wait&waits=1", "deer"],
        ),
        (
            "deer,cascade?small=runs/small,with,commas&samples=2,no-thinking",
            ["deer", "cascade?small=runs/small,with,commas&samples=2", "no-thinking"],
        ),
        ("deer,no-thinkin", ["deer", "no-thinkin"]),
        ("deer?threshold=0.9,casade?small=m", ["deer?threshold=0.9", "casade?small=m"]),
    ],
)
def test_strategies_are_split_where_a_name_begins(rooms, tmp_path, text, strategies):
    cli.main(["evaluate", "--model", "m", "--task", "sums", "--strategy", text, "--out", str(tmp_path)])
    assert rooms["evaluate"][1]["strategies"] == strategies


def test_evaluate(rooms, capsys, tmp_path):
    cli.main([
        "evaluate", "--model", "m", "--task", "sums,gym:chain_sum", "--strategy", "a,b", "--budgets", "64,none",
        "--num-problems", "9", "--samples-per-problem", "2", "--temperature", "0", "--seed", "3",
        "--out", str(tmp_path),
    ])  # fmt: skip
    words, settings = rooms["evaluate"]
    assert words == ("m", ["sums", "gym:chain_sum"])
    assert settings == SAMPLING | {
        "strategies": ["a", "b"], "budgets": [64, None], "num_problems": 9, "samples_per_problem": 2,
        "temperature": 0.0, "seed": 3, "backend": "auto", "adapter_scale": None, "off_target": None, "out": tmp_path,
    }  # fmt: skip
    assert capsys.readouterr().out == "run\n"


@pytest.mark.parametrize("files", [[], ["mine.jsonl", "b.jsonl?answer=key"]])
def test_evaluate_off_target(rooms, files):
    cli.main(["evaluate", "--model", "m", "--task", "sums", "--out", "a", "--off-target", *files])
    assert rooms["evaluate"][1]["off_target"] == files


def test_evaluate_without_limits(rooms, tmp_path):
    cli.main(["evaluate", "--model", "m", "--task", "sums", "--out", str(tmp_path)])
    _, settings = rooms["evaluate"]
    assert (settings["strategies"], settings["budgets"]) == (["budget-forcing"], [None])


def test_compare(rooms, capsys, tmp_path):
    cli.main(["compare", str(tmp_path), str(tmp_path), "--out", "table"])
    assert rooms["compare"] == (([tmp_path, tmp_path], Path("table")), {})
    assert capsys.readouterr().out == "a table\n"


def test_app(rooms, tmp_path):
    cli.main(["app", str(tmp_path), str(tmp_path), "--model", "m", "n", "--port", "7000"])
    assert rooms["app"] == (([tmp_path, tmp_path], ["m", "n"], 7000), {})


def test_publish(rooms, capsys, tmp_path):
    cli.main(["publish", str(tmp_path), "--model", "m", "--repo", "org/name", "--dry-run"])
    words, settings = rooms["publish"]
    assert words == (tmp_path, "m", "org/name")
    assert settings == {
        "dry_run": True,
        "public": False,
        "out": None,
        "with_samples": False,
        "with_data": None,
        "benchmark": None,
        "trust_remote_code": False,
    }
    assert capsys.readouterr().out == "to_upload\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("trian", "invalid choice: 'trian'"),
        ("solve q", "the following arguments are required: --model"),
        ("solve --model m", 'takes a "question" or --file'),
        ("solve --model m q --file {file}", 'takes a "question" or --file'),
        ("solve --model m q --budget-tokens 0", "'0' is not a whole number of at least 1"),
        ("solve --model m q --budget-tokens -5", "'-5' is not a whole number of at least 1"),
        ("solve --model m q --budget-tokens many", "'many' is not a whole number of at least 1"),
        ("solve --model m q --temperature nan", "'nan' is not a number of at least 0"),
        ("solve --model m q --top-p inf", "'inf' is not a number of at least 0"),
        ("solve --model m --file nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("solve --model m --file {file}", "problems.jsonl, line 2: no text under question"),
        ("solve --model m --seed 9223372036854775808 q", "is more than 9223372036854775807, the largest seed"),
        ("evaluate --model m --task sums --out o --budgets 64,0", "'0' is not a whole number of at least 1"),
        ("evaluate --model m --task sums --out o --budgets 64,", "'' is not a whole number of at least 1"),
        ("evaluate --model m --task sums", "the following arguments are required: --out"),
        ("compare nowhere", "nowhere: no such folder"),
        ("app nowhere", "nowhere: no such folder"),
        ("publish nowhere --model m --repo a/b", "nowhere: no such folder"),
    ],
)
def test_bad_command_line(rooms, capsys, tmp_path, line, message):
    (tmp_path / "problems.jsonl").write_text('{"question": "a"}\n{"answer": "b"}\n')
    words = [word.replace("{file}", str(tmp_path / "problems.jsonl")) for word in line.split()]
    assert message in refused(capsys, *words)
    assert not rooms


def test_env_tells_versions_and_what_is_missing(capsys, monkeypatch):
    from importlib import metadata

    def version(package):
        if package in ("torch", "gradio"):
            raise metadata.PackageNotFoundError(package)
        return f"9.9 of {package}"

    monkeypatch.setattr(metadata, "version", version)
    cli.main(["env"])
    rows = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines())
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert rows["torch"] == rows["gradio (extra app)"] == "not installed"
    assert rows["transformers"] == "9.9 of transformers"
    assert "devices" not in rows


def test_env_knows_the_extras_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: value for name, value in setup["options.extras_require"].items() if name != "dev"}
    assert {name: re.split("[<>=]", value)[0] for name, value in extras.items()} == cli.EXTRAS
