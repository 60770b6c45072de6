"""Who rates what it has read the beginning of computes the rest alone, and says what it would say of the whole."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForTokenClassification

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.inference import Request, load_reasoner, solve_many
from efficient_reasoning.inference.engine import Likelihood, Rating, keeping
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.search.verifier import LABELS, Verifier, load_verifier
from efficient_reasoning.inference.strategy import run_all
from scripts.bench.prefixes import Forgetting, ForgettingRater
from tests.inference.test_engine import EOS, GREEDY, VOCABULARY, prompts, tiny
from tests.inference.test_prefixes import MODELS, QUESTIONS, go_on, graph, qwen3

CLOSE = {"abs": 1e-5, "rel": 1e-5}


def words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(max(EOS) + 1, VOCABULARY) for _ in range(count)]


@pytest.mark.parametrize("most_tokens", [60, 1 << 16])
@pytest.mark.parametrize("name", MODELS)
def test_scores_of_pieces_are_those_of_the_whole(name, most_tokens, monkeypatch):
    """Each token is read once, in however many passes, and whatever it is read for."""
    monkeypatch.setattr("efficient_reasoning.inference.reading._MOST_TOKENS", most_tokens)
    *classes, heads, settings = MODELS[name]
    check_scores(*(graph(tiny(*classes, heads, **settings), rows=3) for _ in range(2)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_scores_of_pieces_are_those_of_the_whole_on_a_gpu(name):
    *classes, heads, settings = MODELS[name]
    # Its kernels add up in another order for another shape: 1.4e-5 has been seen on an H200.
    check_scores(*(graph(tiny(*classes, heads, **settings).cuda(), rows=3) for _ in range(2)), abs=1e-4)


def check_scores(alone: GraphEngine, engine: GraphEngine, **tolerance: float) -> None:
    """Score responses piece by piece, and go on from them in between."""
    rng, problems = random.Random(2), prompts(9, shortest=2)
    responses = [[] for _ in problems]
    with engine.keeping():
        for turn in range(6):
            pieces = [words(rng, rng.randint(1, 40)) for _ in problems]
            pairs = [([*prompt, *ids], more) for prompt, ids, more in zip(problems, responses, pieces, strict=True)]
            scores = engine.score(pairs, [len(ids) for ids in responses])
            for (prefix, more), one, other in zip(pairs, scores, alone.score(pairs), strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, **CLOSE | tolerance)
                assert one.spend.prompt_tokens == other.spend.prompt_tokens == len(prefix) + len(more)
                # The last token before the piece is held, too, but its logits are not.
                computed = len(more) + (1 if turn else len(prefix))
                assert one.spend.computed_prompt_tokens == computed
                body = (other.spend.computed_prompt_tokens - computed) * engine.flops.body
                saved = body + engine.flops.looks(0, len(prefix) + len(more) - computed)
                assert one.spend.flops == pytest.approx(other.spend.flops - saved)
                assert one.spend.seconds > 0
            responses = [[*ids, *more] for ids, more in zip(responses, pieces, strict=True)]
            if turn % 2:  # what was scored is gone on from, and the other way round
                asked = [go_on(prompt, ids, 5) for prompt, ids in zip(problems, responses, strict=True)]
                completions = engine.generate(asked)
                assert [one.ids for one in completions] == [one.ids for one in alone.generate(asked)]
                assert {one.spend.computed_prompt_tokens for one in completions} == {1}
    assert engine.prefixes is None
    [again] = engine.score(pairs[:1], [len(pairs[0][0]) - len(problems[0])])
    assert again.spend.computed_prompt_tokens == sum(map(len, pairs[0]))
    assert engine.spent.flops > 0


def test_what_was_decoded_is_not_read_again_to_be_scored():
    alone, engine = graph(qwen3()), graph(qwen3())
    problems = prompts(6, shortest=3)
    with engine.keeping():
        completions = engine.generate([Request(prompt, 9, GREEDY) for prompt in problems])
        for prompt, completion in zip(problems, completions, strict=True):
            pair = ([*prompt, *completion.ids], [30, 31])
            [score], [other] = engine.score([pair], [len(completion.ids)]), alone.score([pair])
            assert score.logprobs == pytest.approx(other.logprobs, **CLOSE)
            held = 0 if completion.finished else len(pair[0]) - 1  # nobody goes on from an end
            assert score.spend.computed_prompt_tokens == len(pair[0]) + 2 - held


def test_passages_of_a_problem_share_their_beginning():
    """All at once: of each problem the first reads what they have in common, and pays for it."""
    alone, engine = graph(qwen3()), graph(qwen3())
    problems, rng, read = prompts(5, shortest=4), random.Random(0), set()
    pairs = [(prompt, more) for prompt in problems for more in ([9, 10, EOS[0]], [11, 12], [11, 13, 14])]
    rng.shuffle(pairs)
    with engine.keeping():
        scores = engine.score(pairs)
    for (prompt, more), score, other in zip(pairs, scores, alone.score(pairs), strict=True):
        assert score.logprobs == pytest.approx(other.logprobs, **CLOSE)
        # Behind the last token of the prompt something is asked of each.
        computed = len(more) + (1 if tuple(prompt) in read else len(prompt))
        assert score.spend.computed_prompt_tokens == computed
        read.add(tuple(prompt))


def make(folder, base) -> str:
    torch.manual_seed(1)
    names = dict(enumerate(LABELS))
    model = AutoModelForTokenClassification.from_pretrained(
        base, id2label=names, label2id={label: number for number, label in names.items()}
    )
    torch.nn.init.normal_(model.score.weight)  # opinions that differ
    model.save_pretrained(folder)
    load_tokenizer(str(base)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory, tiny_model) -> Verifier:
    return load_verifier(make(tmp_path_factory.mktemp("verifier"), tiny_model))


def test_a_verifier_says_of_branches_what_it_says_of_the_whole(verifier):
    """A tree of branches, of which some are over."""
    rng, eos = random.Random(3), min(verifier.thinking.eos_ids)
    problems = [words(rng, rng.randint(2, 9)) for _ in range(4)]
    branches = [(prompt, []) for prompt in problems]
    with keeping(verifier):
        for turn in range(5):
            grown = [(prompt, [*ids, *words(rng, rng.randint(1, 8))]) for prompt, ids in branches for _ in range(3)]
            ratings = [
                Rating([*prompt, *ids], len(prompt) + len(ids) - 1, verifier, offset=len(ids) - 1)
                for prompt, ids in grown
            ]
            ratings += [Rating([*prompt, *ids, eos], len(prompt), verifier) for prompt, ids in grown[::3]]
            rated = verifier.rate(ratings)
            with torch.inference_mode():
                for rating, one in zip(ratings, rated, strict=True):
                    logits = verifier.model(torch.tensor([rating.ids])).logits[0, rating.begin :]
                    assert one.values == pytest.approx(logits.softmax(-1)[:, 1].tolist(), **CLOSE)
                    assert one.spend.prompt_tokens == one.spend.rated_tokens == len(rating.ids)
            for n, (prompt, ids) in enumerate(grown):
                fresh = len(ids) - len(branches[n // 3][1])
                if not turn and n % 3 == 0:  # the first of each problem reads its prompt
                    fresh += len(prompt)
                assert rated[n].spend.computed_prompt_tokens == fresh
            for (_, ids), one in zip(grown[::3], rated[len(grown) :], strict=True):  # asked about from the beginning
                assert one.spend.computed_prompt_tokens == len(ids) + 1
            branches = [grown[3 * n + rng.randrange(3)] for n in range(len(problems))]
    assert verifier.prefixes is None
    [again] = verifier.rate(ratings[:1])
    assert again.spend.computed_prompt_tokens == len(ratings[0].ids)


def test_a_verifier_whose_attention_reads_no_slots_holds_nothing(tmp_path, tiny_model):
    verifier = load_verifier(make(tmp_path, tiny_model))
    verifier.model.set_attn_implementation("eager")
    with keeping(verifier):
        for _ in range(2):
            [rated] = verifier.rate([Rating([20, 21, 22, 23], 3, verifier, offset=1)])
            assert rated.spend.computed_prompt_tokens == 4


def test_nothing_is_made_of_nothing(verifier):
    """Of an empty batch, in a run as outside of one, and of no problems."""
    engine = graph(qwen3())
    assert engine.score([]) == verifier.rate([]) == []
    with keeping(engine), keeping(verifier):
        assert engine.score([]) == verifier.rate([]) == []
    reasoner = load_reasoner("overthinker", device="cpu")
    for strategy in ("best-of-n", "weighted-vote", "rebase", "beam-search"):
        assert solve_many(reasoner, [], strategy, seeds=[], verifier=verifier) == []


def test_a_run_is_that_of_all_who_read_in_it(verifier):
    """Between the turns of a run verifiers and scoring models hold what they read, and none of it afterwards."""
    engine, [prompt] = graph(qwen3()), prompts(1, shortest=5)

    def steps():
        computed = []
        for ids in ([30], [30, 31]):
            asked = [Rating([*prompt, *ids], len(prompt) + len(ids) - 1, rater, len(ids) - 1) for rater in raters]
            computed += [one.spend.computed_prompt_tokens for one in (yield asked)]
        return computed

    raters = [verifier, Likelihood(engine)]
    for _ in range(2):
        [computed] = run_all(engine, [steps()])
        assert computed == [len(prompt) + 1, len(prompt) + 1, 1, 2]  # a likelihood asks for the logits before, too
    assert verifier.prefixes is engine.prefixes is None


@pytest.mark.parametrize(
    "strategy", ["rebase?width=4", "beam-search?width=2&expansions=2", "best-of-n?samples=4&aggregate=min"]
)
def test_searches_find_the_same_for_less(strategy, verifier):
    reasoner = load_reasoner("overthinker", device="cpu")
    settings = {"seeds": [1, 2], "max_new_tokens": 120, "temperature": 1.0}
    ours = solve_many(reasoner, QUESTIONS, strategy, verifier=verifier, **settings)
    others = solve_many(reasoner, QUESTIONS, strategy, verifier=ForgettingRater(verifier), **settings)
    for one, other in zip(ours, others, strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.spend.decoded_tokens == other.spend.decoded_tokens
        assert one.spend.prompt_tokens == other.spend.prompt_tokens
        assert one.spend.rated_tokens == other.spend.rated_tokens
        saved = other.spend.computed_prompt_tokens - one.spend.computed_prompt_tokens
        prompt_tokens = len(one.prompt_ids)
        assert saved == 3 * prompt_tokens if "best" in strategy else saved > 3 * prompt_tokens
        assert one.spend.flops < other.spend.flops


def test_a_large_model_reads_drafts_once(tiny_model):
    """It rates them, goes on from them, and rates what follows; recalled beginnings change no charge."""
    reasoner = load_reasoner("overthinker", device="cpu")
    strategy, settings = f"spec-reason?small={tiny_model}&draft_tokens=8", {"seeds": [1, 2], "max_new_tokens": 60}
    ours = solve_many(reasoner, QUESTIONS, strategy, **settings)
    others = solve_many(
        replace(reasoner, engine=Forgetting(reasoner.engine)), strategy=strategy, questions=QUESTIONS, **settings
    )
    for one, other in zip(ours, others, strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.spend.prompt_tokens == other.spend.prompt_tokens
        assert one.spend.computed_prompt_tokens < other.spend.computed_prompt_tokens / 2
        assert one.spend.flops < other.spend.flops
    recalling = reasoner.recalling()
    alone = solve_many(reasoner.recalling(), QUESTIONS, strategy, **settings)
    for _ in range(2):
        for one, other in zip(solve_many(recalling, QUESTIONS, strategy, **settings), alone, strict=True):
            assert one.completion_ids == other.completion_ids
            assert one.spend.computed_prompt_tokens == other.spend.computed_prompt_tokens
            assert one.spend.flops == pytest.approx(other.spend.flops)
