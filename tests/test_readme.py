"""What the README promises: its paths exist, its commands parse, its Python runs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from efficient_reasoning import cli, config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = "".join(text for language, text in BLOCKS if language == "bash").replace("\\\n", " ")
COMMANDS = [line for line in SHELL.splitlines() if line.startswith("efficient-reasoning ")]
SEARCH = (ROOT / "docs/search.md").read_text(encoding="utf-8").replace("\\\n", " ")
SEARCH_COMMANDS = re.findall(r"^    (efficient-reasoning .*)", SEARCH, re.MULTILINE)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Parsed(Exception):
    """The arguments are read, and the work would start now."""


def links(page: Path) -> set[Path]:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    return {page.parent / target for target in targets if "://" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    assert not [path for path in links(page) if not path.exists()]


def test_every_path_exists():
    folders = "recipes|configs|scripts|docs|data_tools|efficient_reasoning|tests"
    paths = re.findall(rf"\b(?:{folders})/[\w./-]*\w", README)
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= set(paths)
    assert ROOT / "LICENSE" in links(ROOT / "README.md")
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_commands_are_found():
    assert {line.split()[1] for line in COMMANDS} == {
        "audit",
        "data",
        "train",
        "evaluate",
        "compare",
        "app",
        "publish",
    }


@pytest.mark.parametrize("line", [*COMMANDS, *SEARCH_COMMANDS], ids=lambda line: " ".join(line.split()[1:3]))
def test_every_command_parses(line, monkeypatch):
    def stop(arguments):
        raise Parsed

    def parse_only(*words, **settings):
        config.parse(*words, **settings)
        raise Parsed

    def launch(kind, usage, words, launcher):
        path = config.recipe_path(words[0], kind)
        monkeypatch.setattr("sys.argv", [str(path)])
        program = importlib.import_module(f"{kind}.{words[0]}")
        monkeypatch.setattr(program, "parse", parse_only)
        program.main(words[1:])

    monkeypatch.setattr(cli, "_launch", launch)
    monkeypatch.setattr(config, "_build_trainer_config", lambda cls, values: cls)  # it would look for a GPU
    for name in ("_audit", "_solve", "_evaluate", "_compare", "_app", "_publish"):
        monkeypatch.setattr(cli, name, stop)
    monkeypatch.setattr(cli, "_folder", Path)  # the folders come from the commands before
    with pytest.raises(Parsed):
        cli._dispatch(shlex.split(line)[1:])


def test_the_python_example_runs(capsys):
    [code] = [text for language, text in BLOCKS if language == "python"]
    names = {}
    exec(code, names)
    result, reward = names["result"], names["reward"]
    assert result.answer in capsys.readouterr().out
    assert 0 < result.spend.tokens <= 128
    # Two responses of one length: what is left of the reward is whether they are right.
    rows = {"prompts": [names["question"] + "\n"] * 2, "answer": ["20", "21"], "task": ["numeric"] * 2}
    rewards = reward([result.answer] * 2, [result.completion_ids] * 2, **rows)
    assert rewards == [float(result.answer == answer) for answer in rows["answer"]]
