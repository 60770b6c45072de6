"""Graphs like ProsQA's: right by their facts, and as much like the official ones as their shortcuts tell."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from efficient_reasoning.problems import load_problems, split_of
from efficient_reasoning.problems.graph_paths import NAMES, NOUNS, read
from efficient_reasoning.problems.prosqa import split_key
from scripts.bench.graph_shortcuts import distances, scores

DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", Path(__file__).parents[2] / "../shared/data"))
OFFICIAL = DATA / "prosqa"
needs_data = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the data; EFFICIENT_REASONING_DATA names it")


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    return load_problems("prosqa", "train", 2000)


@pytest.fixture(scope="module")
def official() -> list[dict]:
    files = ("valid.json", "test_000_249.json")
    return [problem for file in files for problem in load_problems(f"file:{OFFICIAL / file}", num_problems=1000)]


def hops(problem: dict) -> int:
    return len(problem["metadata"]["steps"])


def test_one_candidate_is_reached_by_the_shortest_of_ways(drawn):
    for problem in drawn:
        edges, name, candidates = read(problem["question"])
        assert {node for edge in edges for node in edge} <= {*NAMES, *NOUNS} and len(set(edges)) == len(edges)
        assert not {target for _, target in edges} & {*NAMES} and not {source for source, _ in edges} & {*candidates}
        reached = distances(edges, name)
        [right] = reached.keys() & {*candidates}
        assert problem["answer"] == f"{name} is a {right}." and 3 <= reached[right] == problem["difficulty"] <= 6
        steps = problem["metadata"]["steps"]
        assert len(steps) == reached[right] and all(step in problem["question"] for step in steps)
        nodes = [name, *(step.rstrip(".").split()[-1] for step in steps)]
        assert nodes[-1] == right and [step.removeprefix("Every ").split()[0] for step in steps] == nodes[:-1]


def test_problems_are_split_by_their_facts(drawn):
    assert len({problem["question"] for problem in drawn}) == len(drawn)
    assert {split_of(split_key(problem)) for problem in drawn} == {"train"}


@needs_data
def test_sizes_are_the_official_ones(drawn, official):
    def sizes(problems: list[dict]) -> list[float]:
        edges = [read(problem["question"])[0] for problem in problems]
        nodes = [len({node for edge in each for node in edge}) for each in edges]
        return [mean(map(len, edges)), mean(nodes), mean(map(hops, problems))]

    assert sizes(drawn) == pytest.approx(sizes(official), rel=0.03)
    ours, theirs = Counter(map(hops, drawn)), Counter(map(hops, official))
    for number in range(3, 7):
        assert ours[number] / len(drawn) == pytest.approx(theirs[number] / len(official), abs=0.04)


@needs_data
def test_shortcuts_are_worth_what_they_are_in_the_official_problems(drawn, official):
    ours, theirs = scores(drawn), scores(official)
    assert ours == pytest.approx(theirs, abs=0.06)
    assert ours["farther from the nearest name"] > 0.88 and ours["edges in"] < 0.36
