"""Who goes on from what a run has read computes the rest alone, and decodes what everybody else would."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from efficient_reasoning.inference import Request, Sampling, load_reasoner, solve_many
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.prefixes import Ended, Prefixes
from efficient_reasoning.inference.slots import KeyValues, SlotCache
from efficient_reasoning.inference.strategy import run_all
from scripts.bench.prefixes import Forgetting
from tests.inference.test_engine import EOS, GREEDY, PAD, generated, prompts, tiny

WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
MODELS = {
    "qwen3, grouped heads": (Qwen3Config, Qwen3ForCausalLM, 2, {}),
    "llama": (LlamaConfig, LlamaForCausalLM, 4, {}),
    "qwen3, window": (Qwen3Config, Qwen3ForCausalLM, 2, WINDOW | {"use_sliding_window": True}),
    "gemma3, window": (Gemma3TextConfig, Gemma3ForCausalLM, 1, WINDOW),
}
QUESTIONS = ["Compute 34 + 27 - 15 + 88.", "Chickens and rabbits: 24 heads and 56 legs. How many chickens?"]
WHOLE = Sampling(1.0, 1.0, 0)


def qwen3():
    return tiny(Qwen3Config, Qwen3ForCausalLM, key_value_heads=2)


def graph(model, **settings) -> GraphEngine:
    return GraphEngine(model, frozenset(EOS), PAD, **settings)


def go_on(prompt: list[int], ids: list[int], tokens: int, sampling: Sampling = GREEDY, seed: int = 0) -> Request:
    return Request([*prompt, *ids], tokens, sampling, seed, offset=len(ids))


def check_pieces(engine: GraphEngine, problems: list[list[int]], expected: list[list[int]]) -> None:
    """Decode greedily in pieces of all lengths; each token is read once."""
    rng, responses = random.Random(1), [[] for _ in problems]
    with engine.keeping():
        while True:
            going = [i for i, ids in enumerate(responses) if len(ids) < len(expected[i])]
            if not going:
                break
            asked = [go_on(problems[i], responses[i], rng.randint(1, 17)) for i in going]
            for i, request, completion in zip(going, asked, engine.generate(asked), strict=True):
                prompt_tokens, spend = len(request.prompt_ids), completion.spend
                assert spend.prompt_tokens == prompt_tokens
                assert spend.computed_prompt_tokens == (1 if responses[i] else prompt_tokens)
                flops = engine.flops.of_prompt(prompt_tokens, spend.computed_prompt_tokens)
                assert spend.flops == flops + engine.flops.of_new(prompt_tokens, len(completion.ids))
                responses[i] += completion.ids
    assert [ids[: len(one)] for ids, one in zip(responses, expected, strict=True)] == expected


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [3, 64])
def test_pieces_make_up_the_whole(name, rows, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.inference.graph_engine._COLUMNS_APART", 3)  # moved again and again
    *classes, heads, settings = MODELS[name]
    plain, model = (tiny(*classes, heads, **settings) for _ in range(2))
    problems = prompts(20)
    check_pieces(graph(model, rows=rows), problems, generated(plain, problems, 60))


def test_padding_stands_for_numbers():
    """It has no weight, but none of what is not a number is not a number either."""
    plain, model = qwen3(), qwen3()
    problems = prompts(6)
    expected = generated(plain, problems, 30)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills memory that nobody has written with NaN
    try:
        check_pieces(graph(model), problems, expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("compile_step", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_pieces_make_up_the_whole_on_a_gpu(name, compile_step):
    *classes, heads, settings = MODELS[name]
    plain, model = (tiny(*classes, heads, **settings).cuda() for _ in range(2))
    problems = prompts(100)
    check_pieces(graph(model, rows=16, compile_step=compile_step), problems, generated(plain, problems, 60))


def test_branches_share_what_they_have_in_common():
    """A tree of samples, with tokens that nobody decoded in between, and beginnings that nobody has read."""
    alone, engine = graph(qwen3()), graph(qwen3(), rows=5)
    problems, strangers = prompts(4, shortest=4), prompts(7, shortest=3)[4:]
    branches = [(problem, []) for problem in problems]
    with engine.keeping():
        for depth in range(4):
            asked = [
                go_on(problem, ids, 6, sampling, seed)
                for problem, ids in branches
                for seed, sampling in enumerate((WHOLE, WHOLE, GREEDY))
            ]
            asked += [go_on(stranger, [5, depth], 6) for stranger in strangers]
            completions = engine.generate(asked)
            assert [one.ids for one in completions] == [one.ids for one in alone.generate(asked)]
            computed = [one.spend.computed_prompt_tokens for one in completions]
            if depth:  # the last token of a piece and a forced one, once for the three that go on from there
                assert computed[: 3 * len(branches)] == [2, 0, 0] * len(branches)
                assert computed[3 * len(branches) :] == [1] * len(strangers)
            rng = random.Random(depth)
            grown = [
                (request.prompt_ids[: -request.offset or None], request.prompt_ids, completion)
                for request, completion in zip(asked, completions, strict=False)
            ]
            branches = [
                (problem, [*ids[len(problem) :], *completion.ids, 9])
                for problem, ids, completion in rng.sample(grown[: 3 * len(branches)], 12)
                if not completion.finished
            ]


def test_new_weights_read_nothing_that_the_old_ones_have_read():
    """Of a training loop: the weights change between runs, and no call outside of one holds anything."""
    model = qwen3()
    engine, problems = graph(model), prompts(6, shortest=3)

    def steps(prompt: list[int]):
        ids = []
        for _ in range(3):
            [completion] = yield [go_on(prompt, ids, 4)]
            ids += completion.ids
        return ids

    def strategies() -> list:
        return [steps(prompt) for prompt in problems]

    def directly() -> list[list[int]]:
        completions = engine.generate([go_on(prompt, [5, 6, 7], 4) for prompt in problems])
        assert [one.spend.computed_prompt_tokens for one in completions] == [len(prompt) + 3 for prompt in problems]
        return [one.ids for one in completions]

    before = run_all(engine, strategies()), directly()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = run_all(engine, strategies()), directly()
    assert after == (run_all(graph(model), strategies()), directly())
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert engine.prefixes is None


def test_runs_within_a_run_are_part_of_it():
    engine, [prompt] = graph(qwen3()), prompts(1, shortest=5)
    with engine.keeping():
        with engine.keeping():
            [first] = engine.generate([go_on(prompt, [], 5)])
        [second] = engine.generate([go_on(prompt, first.ids, 5)])
    assert second.spend.computed_prompt_tokens == 1


def test_little_memory_changes_what_is_computed_and_nothing_else(monkeypatch):
    problems = prompts(12, shortest=8)
    asked = [[go_on(problem, list(range(10, 10 + n)), 5) for problem in problems] for n in (0, 3, 6)]
    expected = [[one.ids for one in graph(qwen3()).generate(requests)] for requests in asked]
    computed = []
    engine = graph(qwen3(), rows=4)
    of_token, _ = engine.cache_bytes
    for most_tokens in (0, 9, 60, 10_000):
        free = 8 * of_token * most_tokens
        monkeypatch.setattr("efficient_reasoning.inference.prefixes.free_bytes", lambda device, free=free: free)
        with engine.keeping():
            completions = [engine.generate(requests) for requests in asked]
        assert [[one.ids for one in each] for each in completions] == expected
        computed.append(sum(one.spend.computed_prompt_tokens for each in completions for one in each))
    assert computed[0] == sum(len(request.prompt_ids) for requests in asked for request in requests)
    assert computed[0] >= computed[1] >= computed[2] > 2 * computed[3]


def filled(rng: np.random.Generator) -> SlotCache:
    cache = SlotCache([KeyValues(torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 3))] * 2, rows=4, columns=40)
    for layer in cache.layers:
        for states in layer:
            states.copy_(torch.from_numpy(rng.random(states.shape)))
    return cache


def test_what_is_found_is_what_was_put():
    """Random rows of a few problems, in a store that is too small for all of them."""
    rng = np.random.default_rng(0)
    prefixes, known, found_tokens = Prefixes(150), {}, 0
    for _ in range(200):
        cache, rows = filled(rng), []
        for row in range(rng.integers(1, 5)):
            prompt = [int(rng.integers(6)), 7]
            ids = np.array([*prompt, *rng.integers(2, size=rng.integers(1, 25))])
            column = int(rng.integers(40 - len(ids)))
            rows.append(Ended(ids, len(prompt), row, column))
            for n in range(len(ids)):  # equal beginnings have equal keys and values, as in a model
                key = tuple(ids[: n + 1])
                values = known.setdefault(key, [[s[row, :, column + n].clone() for s in kv] for kv in cache.layers])
                for layer, own in zip(cache.layers, values, strict=True):
                    for states, one in zip(layer, own, strict=True):
                        states[row, :, column + n] = one
        prefixes.put(rows, cache)
        for ids in [one.ids for one in rows] + [np.array([int(rng.integers(6)), 7, *rng.integers(2, size=9)])]:
            places = prefixes.find(ids, 2)
            assert len(places) < len(ids)
            found_tokens += len(places)
            if len(places):
                for number, layer in enumerate(prefixes.gather(torch.from_numpy(places)[None])):
                    for kind, states in enumerate(layer):
                        expected = [known[tuple(ids[: n + 1])][number][kind] for n in range(len(places))]
                        assert torch.equal(states[0], torch.stack(expected, 1))
    assert found_tokens > 2000


def test_the_problem_that_was_asked_for_least_recently_goes():
    cache, prefixes = filled(np.random.default_rng(0)), Prefixes(30)
    first, second, third = (np.array([problem, *range(9, 18)]) for problem in range(3))
    for ids in (first, second, third):
        prefixes.put([Ended(ids, 1, 0, 0)], cache)
    assert len(prefixes.find(first, 1)) == 9
    prefixes.put([Ended(np.array([4, 5, 6]), 1, 0, 0)], cache)
    assert [len(prefixes.find(ids, 1)) for ids in (first, second, third)] == [9, 0, 9]
    prefixes.put([Ended(np.arange(5, 36), 1, 0, 0)], cache)  # more than it holds at all
    assert len(prefixes.find(np.arange(5, 36), 1)) == 0


@pytest.fixture(scope="module")
def reasoner():
    return load_reasoner("overthinker", device="cpu")


def solved(reasoner, strategy: str, budget_tokens: int | None = None) -> list:
    return solve_many(reasoner, QUESTIONS, strategy, budget_tokens, seeds=[1, 2], max_new_tokens=200)


@pytest.mark.parametrize("strategy", ["dynasor", "deer?transitions=\n"])
def test_strategies_that_ask_again_get_the_same_for_less(reasoner, strategy):
    ours = solved(reasoner, strategy)
    others = solved(replace(reasoner, engine=Forgetting(reasoner.engine)), strategy)
    for one, other in zip(ours, others, strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.spend.decoded_tokens == other.spend.decoded_tokens
        assert one.spend.prompt_tokens == other.spend.prompt_tokens
        assert one.spend.computed_prompt_tokens < other.spend.computed_prompt_tokens / 3
        assert one.spend.flops < other.spend.flops


def test_a_spend_does_not_depend_on_what_was_recalled(reasoner):
    """In an evaluation, a budget's first pass is the beginning of one that is known, of which nothing is held."""
    points = [("budget-forcing", None), ("budget-forcing", 60), ("no-thinking", None), ("dynasor", 60)]
    recalling = reasoner.recalling()
    for point in points:
        for one, other in zip(solved(recalling, *point), solved(reasoner.recalling(), *point), strict=True):
            assert one.completion_ids == other.completion_ids
            assert one.spend.computed_prompt_tokens == other.spend.computed_prompt_tokens
            assert one.spend.flops == pytest.approx(other.spend.flops)
            assert one.spend.seconds > 0
