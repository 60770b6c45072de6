"""Ways through graphs: right by their facts alone, as long as they say, and no shortcut better than chance."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from efficient_reasoning.answers import verify
from efficient_reasoning.problems import load_problems, split_of
from efficient_reasoning.problems.graph_paths import FAMILIES, NAMES, NOUNS, read
from scripts.bench.graph_shortcuts import distances, scores

DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", Path(__file__).parents[2] / "../shared/data"))
OFFICIAL = DATA / "prosqa"
needs_data = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the data; EFFICIENT_REASONING_DATA names it")
SEARCH = "nearer to the asked name, edges both ways"  # finds the asked name's surroundings: no shortcut round the task


@pytest.fixture(scope="module", params=FAMILIES)
def drawn(request):
    return request.param, load_problems(request.param, "train", 2000)


def official() -> list[dict]:
    return [
        problem
        for file in ("valid.json", "test_000_249.json")
        for problem in load_problems(f"file:{OFFICIAL / file}", num_problems=1000)
    ]


def right_and_wrong(problem: dict) -> tuple[str, str]:
    _, name, candidates = read(problem["question"])
    right = next(one for one in candidates if problem["answer"] == f"{name} is a {one}.")
    return right, next(one for one in candidates if one != right)


def check(problem: dict, hops: int) -> None:
    """One candidate is reached in so many hops, the other never, and the steps are such a way."""
    edges, name, _ = read(problem["question"])
    right, wrong = right_and_wrong(problem)
    reached = distances(edges, name)
    assert reached[right] == hops and wrong not in reached
    steps, facts = problem["metadata"]["steps"], problem["question"].replace(". ", ".\n").splitlines()
    assert len(steps) == hops and set(steps) <= set(facts[:-1])
    nodes = [name, *(step.rstrip(".").split()[-1] for step in steps)]
    assert nodes[-1] == right
    assert [step.removeprefix("Every ").split()[0] for step in steps] == nodes[:-1]


def has_cycle(edges: list[tuple[str, str]]) -> bool:
    return any(source in distances(edges, target) for source, target in edges)


def test_problems_are_right_by_their_facts(drawn):
    name, problems = drawn
    for problem in problems:
        check(problem, problem["difficulty"])
        edges, _, candidates = read(problem["question"])
        assert len(set(edges)) == len(edges)
        assert {node for edge in edges for node in edge} <= {*NAMES, *NOUNS}
        assert not {target for _, target in edges} & {*NAMES} and not {source for source, _ in edges} & {*candidates}
        chain = FAMILIES[name].chain(problem, "equations", random.Random(0))
        assert chain.splitlines() == problem["metadata"]["steps"]


def test_a_verbose_chain_searches_in_rings_until_a_candidate_comes_up(drawn):
    name, problems = drawn
    for problem in problems[:300]:
        edges, asked, candidates = read(problem["question"])
        chain = FAMILIES[name].chain(problem, "verbose", random.Random(0)).splitlines()
        opening, *search = chain[: chain.index("So:")]
        assert opening == "Let me look around." and chain[chain.index("So:") + 1 :] == problem["metadata"]["steps"]
        hops = distances(edges, asked)
        [*met] = map(re.compile(r"(?:Every )?(\w+) is a (\w+)\.").fullmatch, search)
        met = [match.groups() for match in met]
        assert len(set(met)) == len(met) and set(met) <= set(edges)
        rings = [hops[source] for source, _ in met]
        assert rings == sorted(rings) and [target in candidates for _, target in met].index(True) == len(met) - 1
        # Whatever is nearer than the last ring was looked at.
        assert {edge for edge in edges if hops.get(edge[0], 99) < rings[-1]} <= set(met)


def test_a_plain_chain_is_whole_rings(drawn):
    name, problems = drawn
    for problem in problems[:300]:
        edges, asked, candidates = read(problem["question"])
        hops = distances(edges, asked)
        rings = FAMILIES[name].chain(problem, "plain", random.Random(0)).splitlines()
        assert len(rings) == problem["difficulty"]
        for number, ring in enumerate(rings, 1):
            kinds = ring.removesuffix(".").split()
            assert kinds == sorted(kind for kind in hops if hops[kind] == number)
            reached = {*kinds} & {*candidates}
            assert reached == ({right_and_wrong(problem)[0]} if number == len(rings) else set())


def test_shortcuts_are_worth_nothing(drawn):
    worth = scores(drawn[1])
    assert worth.pop(SEARCH) > 0.5
    assert len(worth) == 12
    assert worth == pytest.approx(dict.fromkeys(worth, 0.5), abs=0.04)


def test_the_other_name_has_the_other_answer(drawn):
    for problem in drawn[1][:500]:
        edges, asked, _ = read(problem["question"])
        right, wrong = right_and_wrong(problem)
        reached = [
            distances(edges, name) for name in NAMES if name != asked and any(source == name for source, _ in edges)
        ]
        assert any(wrong in found and right not in found for found in reached)


def test_hops_nodes_and_edges_are_those_of_prosqa():
    problems = load_problems("graph_paths", "train", 2000)
    hops = Counter(problem["difficulty"] for problem in problems)
    assert {length: hops[length] / 2000 for length in hops} == pytest.approx(
        {3: 0.404, 4: 0.434, 5: 0.138, 6: 0.024}, abs=0.03
    )
    graphs = [read(problem["question"])[0] for problem in problems]
    assert mean(len({node for edge in edges for node in edge}) for edges in graphs) == pytest.approx(23, abs=0.5)
    assert mean(map(len, graphs)) == pytest.approx(36, abs=1)
    assert not any(map(has_cycle, graphs))


def test_variations_vary_what_they_are_called_after():
    edges = {
        name: [read(problem["question"])[0] for problem in load_problems(name, "train", 300)] for name in FAMILIES
    }
    assert {problem["difficulty"] for problem in load_problems("graph_paths_long", "train", 300)} == {7, 8}
    assert mean(map(len, edges["graph_paths_dense"])) > 1.5 * mean(map(len, edges["graph_paths"]))
    assert mean(map(has_cycle, edges["graph_paths_cyclic"])) > 0.9
    assert not any(has_cycle(graph) for name in ("graph_paths_long", "graph_paths_dense") for graph in edges[name])


def test_the_answer_is_a_sentence():
    for problem in load_problems("graph_paths", "test", 50):
        assert verify(problem, problem["answer"].upper().rstrip("."))
        right, wrong = right_and_wrong(problem)
        assert not verify(problem, problem["answer"].replace(right, wrong)) and not verify(problem, right)


def test_another_order_makes_no_new_graph():
    rng = random.Random(0)
    family = FAMILIES["graph_paths"]
    for problem in load_problems("graph_paths", "test", 100):
        *facts, _ = problem["question"].split(". ")
        rng.shuffle(facts)
        other = {**problem, "question": f"{'. '.join(facts)}. Is Ann a rompus or boompus?"}
        assert split_of(family.split_key(other)) == "test"


# ---- the official files ----


@needs_data
def test_official_problems_are_read_and_checked_like_ours():
    problems = official()
    assert len(problems) == 550
    for problem in problems:
        check(problem, len(problem["metadata"]["steps"]))
        assert verify(problem, problem["answer"].rstrip("."))


@needs_data
def test_official_words_are_ours():
    words = {word for problem in official() for word in problem["question"].replace(".", "").split()}
    assert words <= {*NAMES, *NOUNS, "Every", "is", "a", "Is", "or", *(f"{noun}?" for noun in NOUNS)}


@needs_data
def test_official_problems_can_be_had_by_shortcuts():
    worth = scores(official())
    assert 1 - worth["edges in"] == pytest.approx(0.66, abs=0.01)
    assert worth["farther from the nearest name"] == pytest.approx(0.92, abs=0.01)
