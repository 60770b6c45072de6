"""Graphs as ProsQA has them (Coconut, arXiv 2412.06769), shortcuts and all.

1. To train for what is published. The right candidate has fewer edges into it in two problems of three, and is the
   one farther from the nearest name in nine of ten: a model may answer without a search. `graph_paths` asks the same
   questions, and has no shortcut.
2. Nodes come one after the other, each with edges from some before it, deep ones more often; in some cases only from
   those that the second of two names does not reach, in more only from those that the first does not. A node without
   edges into it is one more name.
3. Leaves that one of the two names alone reaches are candidates. The one that is most hops away is right, and its name
   is asked about; wrong is any of the other name's.
4. Shares were fitted to the 550 official problems; a test compares.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict

from efficient_reasoning.problems.graph_paths import NAMES, NOUNS, GraphPaths, write_problem

NAME = "prosqa"
_HOPS = range(3, 7)
_NODES = (20, 26)
_MEAN_EDGES_IN = 1.5
_KEPT_WITHOUT_EDGES = 0.12  # else the node is drawn anew
_AWAY_FROM_SECOND, _AWAY_FROM_FIRST = 0.35, 0.48
_DEPTH_WEIGHT = 1.5

_LIKE = GraphPaths(NAME)
split_key, chain = _LIKE.split_key, _LIKE.chain

Edges = list[tuple[int, int]]


def draw(rng: random.Random) -> dict:
    """One problem (the Problem contract without its id)."""
    while True:
        edges, reached_by = _graph(rng)
        sources = {source for source, _ in edges}
        parents = [_search(edges, root) for root in range(2)]
        leaves = [
            [node for node in found if node != root and node not in sources and reached_by[node] == {root}]
            for root, found in enumerate(parents)
        ]
        ways = [(_way(parents[root], leaf), root) for root in range(2) for leaf in leaves[root]]
        rng.shuffle(ways)
        way, root = max(ways, key=lambda candidate: len(candidate[0]), default=([], 0))
        if len(way) - 1 in _HOPS and leaves[1 - root]:
            break
    targets = {target for _, target in edges}
    names, nouns = iter(rng.sample(NAMES, len(NAMES))), iter(rng.sample(NOUNS, len(NOUNS)))
    word = {node: next(nouns if node in targets else names) for node in range(len(reached_by))}
    wrong = word[rng.choice(leaves[1 - root])]
    worded = [(word[source], word[target]) for source, target in edges]
    return write_problem(NAME, [word[node] for node in way], wrong, worded, rng)


def _graph(rng: random.Random) -> tuple[Edges, list[set[int]]]:
    """Edges between numbered nodes, of which 0 and 1 are the two names, and which of the two reach each node."""
    edges: Edges = []
    depth, reached_by = [0, 0], [{0}, {1}]
    size = rng.randint(*_NODES)
    while len(depth) < size:
        count = _poisson(rng)
        if not count and rng.random() > _KEPT_WITHOUT_EDGES:
            continue
        side = rng.random()
        if side < _AWAY_FROM_SECOND:
            before = [node for node in range(len(depth)) if reached_by[node] <= {0}]
        elif side < _AWAY_FROM_SECOND + _AWAY_FROM_FIRST:
            before = [node for node in range(len(depth)) if reached_by[node] <= {1}]
        else:
            before = [*range(len(depth))]
        chosen = []
        for _ in range(min(count, len(before))):
            chosen.append(rng.choices(before, [_DEPTH_WEIGHT * depth[node] + 1 for node in before])[0])
            before.remove(chosen[-1])
        edges += [(node, len(depth)) for node in chosen]
        reached_by.append(set().union(*(reached_by[node] for node in chosen)))
        depth.append(min((depth[node] + 1 for node in chosen), default=0))
    return edges, reached_by


def _search(edges: Edges, root: int) -> dict[int, int]:
    """The parent of every node that the root reaches, on a shortest way; the root's is itself."""
    following = defaultdict(list)
    for source, target in edges:
        following[source].append(target)
    parents, border = {root: root}, [root]
    for node in border:  # grows
        for target in following[node]:
            if target not in parents:
                parents[target] = node
                border.append(target)
    return parents


def _way(parents: dict[int, int], leaf: int) -> list[int]:
    way = [leaf]
    while parents[way[-1]] != way[-1]:
        way.append(parents[way[-1]])
    return way[::-1]


def _poisson(rng: random.Random) -> int:
    """Knuth's: how many uniform numbers can be multiplied before the product falls below exp(-mean)."""
    count, product = 0, rng.random()
    while product > math.exp(-_MEAN_EDGES_IN):
        count, product = count + 1, product * rng.random()
    return count
