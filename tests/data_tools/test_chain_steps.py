from __future__ import annotations

import json
import random

import pytest

from data_tools import chain_steps
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl
from efficient_reasoning.problems import FAMILIES, load_problems

TOKENIZER = load_tokenizer(resolve_model("overthinker"))


@pytest.mark.parametrize("task", ["sums", "heads_and_legs", "graph_paths", "multiplication_4"])
def test_steps_are_those_of_the_family(task):
    problems = load_problems(task, "train", 20, 0)
    rows = list(chain_steps.chain_steps(problems, tokenizer=TOKENIZER))
    assert rows == list(chain_steps.chain_steps(problems, tokenizer=TOKENIZER))
    for problem, row in zip(problems, rows, strict=True):
        assert row["prompt"] == f"{problem['question']}\n"
        assert (row["answer"], row["source_id"]) == (problem["answer"], problem["id"])
        assert row["steps"] and all(step.strip() and "\n" not in step for step in row["steps"])
        if "steps" in problem["metadata"]:
            assert row["steps"] == problem["metadata"]["steps"]


def test_a_style_tells_the_chain_in_another_way():
    [problem] = load_problems("graph_paths", "train", 1, 0)
    [way], [rings] = (
        list(chain_steps.chain_steps([problem], tokenizer=TOKENIZER, style=style)) for style in ("equations", "plain")
    )
    assert way["steps"] == problem["metadata"]["steps"]
    told = FAMILIES["graph_paths"].chain(problem, "plain", random.Random(0)).splitlines()
    assert rings["steps"] == told != way["steps"]


def test_rows_of_a_file_bring_their_own(tmp_path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"question": "Is Tom a wumpus?", "answer": "yes", "steps": ["Tom is a wumpus."]}))
    chain_steps.main(["--task", f"file:{path}", "--model", "overthinker", "--out", str(out)])
    [row] = read_jsonl(out)
    assert (row["steps"], row["answer"], row["method"]) == (["Tom is a wumpus."], "yes", "chain_steps")


@pytest.mark.parametrize("steps", [None, [], "Tom", [1]])
def test_a_problem_without_steps_is_named(steps):
    problem = {"id": "q-7", "question": "Is it?", "answer": "yes", "task": "exact", "metadata": {"steps": steps}}
    with pytest.raises(BadInput, match="Problem q-7 has no steps; give rows with a list of texts"):
        list(chain_steps.chain_steps([problem], tokenizer=TOKENIZER))
