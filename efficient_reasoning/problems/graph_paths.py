"""Which of two kinds is somebody? A way through a graph, in the words of ProsQA (Coconut, arXiv 2412.06769).

    Every gerpus is a brimpus. Tom is a terpus. Every terpus is a gerpus. ... Is Tom a brimpus or scrompus?

1. Facts are edges from names or nouns to nouns, in random order. One kind can be reached from the name that is asked
   about, the other cannot; which of them is named first is a matter of luck. The chain is a shortest way, a fact a
   step; `metadata.steps` lists it. A plain one is the search for it: a step is a ring round the name, all kinds that
   the ring before leads to and no ring has held yet, in alphabetical order, and in the last a candidate comes up. A
   verbose one searches fact by fact, until a candidate comes up, and then tells the shortest way.
2. Whatever ignores who is asked about must be worth nothing. In ProsQA itself, the candidate with fewer edges into it
   is right in 66 % of the problems, and the one farther from the nearest name in 92 %. So a graph here serves two
   questions: two names have a way of their own each, to a candidate that the other name does not reach. They are drawn
   alike, and a coin decides who is asked; for the other name, the other candidate is right.
3. Every node has a depth, zero for names, and an edge leads one deeper at most: so the planted way is a shortest one.
   Every node knows which of the two names reach it, and an edge leads only to nodes that all of these reach already:
   so neither reaches the other's candidate.
4. Hops, nodes and edges are distributed about as in ProsQA, and so are its words: a model of whole words reads both.
   Variations, to test beyond what was trained on: `long` (7 or 8 hops), `dense` (more edges a node), `cyclic`
   (edges also lead back, which in ProsQA they never do).
5. The difficulty is the number of hops. Problems are the same for the split when their facts are, whatever the order,
   the candidates' order, and whoever is asked about.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from efficient_reasoning.problems.chains import Style

_NAMES = "Alex Bob Carol Davis Eva Fae Gabriel Jack Max Oliver Polly Rex Sally Sam Stella Tom Wren"
_STEMS = (
    "bom boom brim chor dum fel fom ger gor grim gwom hil im jel jom ker lem lor num "
    "quim rem rom ror scrom shum ster stor ter tim tum vum wor wum yer yim yum zhor zum"
)
NAMES = _NAMES.split()
NOUNS = [f"{stem}pus" for stem in _STEMS.split()]
_FACT = re.compile(r"(?:Every )?(\w+) is a (\w+)\.")
_ASKED = re.compile(r"Is (\w+) a (\w+) or (\w+)\?$")
_OTHER_NAMES = {0: 326, 1: 169, 2: 44, 3: 11}  # beside the two with a way of their own, and how often


@dataclass(frozen=True)
class GraphPaths:
    """A family of such problems.

    Attributes:
        name: of the family.
        hops: from a name to its candidate, and how often each number of them is drawn.
        nodes: at least and at most.
        edges_per_node: at least and at most, as far as 3. leaves room for them.
        cyclic: whether edges lead back.
    """

    name: str = "graph_paths"
    hops: Mapping[int, int] = field(default_factory=lambda: {3: 202, 4: 217, 5: 69, 6: 12})
    nodes: tuple[int, int] = (20, 26)
    edges_per_node: tuple[float, float] = (1.25, 1.9)
    cyclic: bool = False

    def draw(self, rng: random.Random) -> dict:
        """One problem (the Problem contract without its id)."""
        ways, edges = self._graph(rng)
        rng.shuffle(ways)
        return write_problem(self.name, ways[0], ways[1][-1], edges, rng)

    def split_key(self, problem: dict) -> str:
        """The facts: another order, or the same question about the other name, does not make it a new problem."""
        return " ".join(sorted(problem["question"].split(". ")[:-1]))

    def chain(self, problem: dict, style: Style, rng: random.Random) -> str:
        """The shortest way, a fact a line, ending in a line break; plain: a ring a line; verbose: search, then way."""
        lines = [*_rings(problem["question"])] if style == "plain" else problem["metadata"]["steps"]
        if style == "verbose":
            lines = ["Let me look around.", *_search(problem["question"]), "So:", *lines]
        return "".join(f"{line}\n" for line in lines)

    def _graph(self, rng: random.Random) -> tuple[list[list[str]], list[tuple[str, str]]]:
        """The two ways, each from a name to its candidate, and all edges."""
        names = rng.sample(NAMES, 2 + _choice(rng, _OTHER_NAMES))
        nouns = rng.sample(NOUNS, len(NOUNS))
        depth = dict.fromkeys(names, 0)
        reached_by = {name: {name}.intersection(names[:2]) for name in names}
        edges: dict[tuple[str, str], None] = {}  # a set that keeps its order

        def add(noun: str, parents: list[str]) -> None:
            depth[noun] = depth[parents[0]] + 1
            reached_by[noun] = set().union(*(reached_by[parent] for parent in parents))
            edges.update({(parent, noun): None for parent in parents})

        ways = [[name] for name in names[:2]]
        for way in ways:
            for _ in range(_choice(rng, self.hops)):
                way.append(nouns.pop())
                add(way[-1], way[-2:-1])
        candidates = [way[-1] for way in ways]
        num_nodes = rng.randint(*self.nodes)
        while len(depth) < num_nodes:
            parent = rng.choice([node for node in depth if node not in candidates])
            beside = [node for node in depth if depth[node] == depth[parent] and node not in candidates]
            add(nouns.pop(), [parent, rng.choice(beside)])
        for name in names[2:]:
            edges[name, rng.choice([node for node in depth if depth[node] == 1])] = None
        # No edge leads back in this order, or, where there are to be cycles, every further edge does.
        nodes = sorted(rng.sample([*depth], len(depth)), key=depth.get)
        room = [
            (source, target)
            for place, source in enumerate(nodes)
            if source not in candidates
            for target in (nodes[:place] if self.cyclic else nodes[place + 1 :])
            if 0 < depth[target] <= depth[source] + 1 and reached_by[source] <= reached_by[target]
            if (source, target) not in edges
        ]
        missing = round(len(nodes) * rng.uniform(*self.edges_per_node)) - len(edges)
        edges |= dict.fromkeys(rng.sample(room, min(max(missing, 0), len(room))))
        return ways, [*edges]


FAMILIES = {
    family.name: family
    for family in (
        GraphPaths(),
        GraphPaths("graph_paths_long", hops={7: 1, 8: 1}, nodes=(28, 34)),
        GraphPaths("graph_paths_dense", edges_per_node=(2.4, 2.8)),
        GraphPaths("graph_paths_cyclic", edges_per_node=(1.6, 1.9), cyclic=True),
    )
}


def write_problem(
    family: str, way: Sequence[str], wrong: str, edges: Sequence[tuple[str, str]], rng: random.Random
) -> dict:
    """The problem of a shortest way from a name to the right candidate, facts and candidates in any order."""
    facts, candidates = [_fact(*edge) for edge in edges], [way[-1], wrong]
    rng.shuffle(facts)
    rng.shuffle(candidates)
    return {
        "question": f"{' '.join(facts)} Is {way[0]} a {candidates[0]} or {candidates[1]}?",
        "answer": f"{way[0]} is a {way[-1]}.",
        "task": "exact",
        "difficulty": len(way) - 1,
        "metadata": {"family": family, "steps": [_fact(*edge) for edge in pairwise(way)]},
    }


def read(question: str) -> tuple[list[tuple[str, str]], str, list[str]]:
    """The edges in the order of their facts, the name that is asked about, the candidates; ProsQA's as well."""
    name, *candidates = _ASKED.search(question).groups()
    return _FACT.findall(question), name, candidates


def _rings(question: str) -> Iterator[str]:
    """Breadth first, one distance a line."""
    edges, name, candidates = read(question)
    ring, met = {name}, {name}
    while ring and ring.isdisjoint(candidates):
        ring = {target for source, target in edges if source in ring} - met
        met |= ring
        yield f"{' '.join(sorted(ring))}."


def _search(question: str) -> Iterator[str]:
    """Breadth first."""
    edges, name, candidates = read(question)
    nodes, met = [name], {name}
    for node in nodes:  # grows
        for target in [target for source, target in edges if source == node]:
            yield _fact(node, target)
            if target in candidates:
                return
            if target not in met:
                met.add(target)
                nodes.append(target)


def _choice(rng: random.Random, weights: Mapping[int, int]) -> int:
    return rng.choices([*weights], [*weights.values()])[0]


def _fact(source: str, target: str) -> str:
    return f"{source} is a {target}." if source in NAMES else f"Every {source} is a {target}."
