"""A forced close inside the loop and in two passes: the same tokens, within budget, never without an answer."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.inference import Request, Sampling, load_reasoner, solve_many
from efficient_reasoning.inference.decoding_loop import Loop
from efficient_reasoning.inference.engine import ForcedClose
from efficient_reasoning.inference.graph_engine import GraphEngine
from efficient_reasoning.inference.transformers_engine import TransformersEngine
from efficient_reasoning.inference.two_pass import TwoPassEngine
from efficient_reasoning.problems import load_problems
from efficient_reasoning.thinking import ThinkingFormat

GREEDY = Sampling(temperature=0)
LINES = "{% for message in messages %}{{ message['content'] }}{% endfor %}<think>\\n"


def thinking_format(template: str | None) -> ThinkingFormat:
    tokenizer = load_tokenizer(resolve_model("overthinker"))
    tokenizer.chat_template = template
    return ThinkingFormat.from_tokenizer(tokenizer)


PLAIN, LINED = thinking_format(None), thinking_format(LINES)


def rambler(seed: int):
    """A random model that likes delimiters, white space and ends: every rule is met."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(resolve_model("overthinker"))
    config.initializer_range = 0.5
    model = AutoModelForCausalLM.from_config(config).eval()
    liked = [*PLAIN.open_ids, *PLAIN.close_ids, *PLAIN.eos_ids, *PLAIN.blank_ids]
    model.lm_head.weight.data[liked] *= 1.6
    return model


def requests_of(thinking: ThinkingFormat, sampling: Sampling, count: int = 60) -> list[Request]:
    words = thinking.tokenizer.encode("Compute 34 + 27.", add_special_tokens=False)
    starts = [[], list(thinking.open_ids), thinking.empty(), [*thinking.open_ids, *words]]
    return [
        Request(
            [*words[: 1 + seed % len(words)], *start],
            max_new_tokens=after + 12,
            sampling=sampling,
            seed=seed,
            offset=len(start) if seed % 2 else 0,  # a block that the response opened, or the prompt
            forced_close=ForcedClose(after, thinking),
        )
        for seed in range(count)
        for start in (starts[seed % len(starts)],)
        for after in ((0, 1, 5, 25)[seed // 4 % 4],)
    ]


def decode(engine_class, model, thinking: ThinkingFormat, requests, **settings):
    engine = engine_class(model, thinking.eos_ids, thinking.pad_id, thinking.tokenizer, **settings)
    if engine_class is TransformersEngine:
        engine = TwoPassEngine(engine)
    return engine.generate(requests)


def check(request: Request, completion, thinking: ThinkingFormat) -> None:
    begin = len(request.prompt_ids) - request.offset
    response = [*request.prompt_ids[begin:], *completion.ids]
    assert completion.spend.tokens <= request.max_new_tokens
    assert thinking.split(response, request.prompt_ids[:begin]).answer_ids, thinking.tokenizer.decode(response)
    assert completion.finished == (completion.ids[-1] in thinking.eos_ids)
    assert completion.was_closed == (completion.spend.forced_tokens > 0)


@pytest.mark.parametrize("thinking", [PLAIN, LINED], ids=["plain", "lines"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, 1.0, 0)], ids=["greedy", "sampled"])
def test_nothing_ends_without_an_answer_or_above_its_budget(thinking, sampling):
    model = rambler(0)
    requests = requests_of(thinking, sampling)
    in_loop = decode(GraphEngine, model, thinking, requests, rows=16)
    two_pass = decode(TransformersEngine, rambler(0), thinking, requests)
    for request, ours, theirs in zip(requests, in_loop, two_pass, strict=True):
        check(request, ours, thinking)
        check(request, theirs, thinking)
        assert ours.spend.decoded_tokens + ours.spend.forced_tokens == len(ours.ids)
        if sampling is GREEDY and not ours.spend.masked_tokens + theirs.spend.masked_tokens:
            assert ours.ids == theirs.ids
            assert ours.was_closed == theirs.was_closed
    masked = sum(one.spend.masked_tokens > 0 for one in in_loop)
    closed = sum(one.was_closed for one in in_loop)
    assert masked > 5
    assert closed > 5
    assert closed < len(requests)


def test_the_overthinker_under_budgets_says_the_same_in_one_pass_and_in_two():
    reasoner = load_reasoner("overthinker", backend="graph", device="cpu")
    plain = load_reasoner("overthinker", backend="transformers", device="cpu")
    questions = [problem["question"] for problem in load_problems("mixed", "test", 16)]
    for budget in (24, 60, 140):
        ours, theirs = (
            solve_many(one, questions, budget_tokens=budget, seeds=range(16), temperature=0)
            for one in (reasoner, plain)
        )
        assert [one.completion_ids for one in ours] == [one.completion_ids for one in theirs]
        assert [one.forced_close for one in ours] == [one.forced_close for one in theirs]
        assert [one.spend.tokens for one in ours] == [one.spend.tokens for one in theirs]
        assert any(one.forced_close for one in ours)
        assert all(one.spend.tokens <= budget and one.answer.strip() for one in ours)
    assert not all(one.forced_close for one in ours)
    engine = reasoner.engine
    assert engine.spent.decoded_tokens > 0


def test_sampled_tokens_too_are_the_same_in_one_pass_and_in_two():
    """A response has one random number a position, whoever asks for it."""
    reasoner = load_reasoner("overthinker", backend="graph", device="cpu")
    questions = [problem["question"] for problem in load_problems("mixed", "test", 16)]
    ours = solve_many(reasoner, questions, budget_tokens=60, seeds=range(16))
    theirs = solve_many(reasoner.recalling(), questions, budget_tokens=60, seeds=range(16))
    assert [one.completion_ids for one in ours] == [one.completion_ids for one in theirs]
    assert sum(one.spend.requests for one in ours) < sum(one.spend.requests for one in theirs)


def test_rows_without_a_close_among_those_with_one_are_left_alone():
    model = rambler(1)
    requests = requests_of(PLAIN, GREEDY, 24)
    plain = [Request(request.prompt_ids, 20, GREEDY) for request in requests]
    alone = [one.ids for one in decode(GraphEngine, model, PLAIN, plain)]
    mixed = decode(GraphEngine, model, PLAIN, [one for pair in zip(requests, plain, strict=True) for one in pair])
    assert [one.ids for one in mixed[1::2]] == alone
    assert any(not one.finished or len(one.ids) > 1 for one in mixed[1::2])


@pytest.mark.parametrize("steps", [1, 4], ids=["looks at once", "looks late"])
def test_rows_that_are_done_force_and_mask_nothing_more(steps, monkeypatch):
    """A row steps on until it is looked at, which on CUDA is late."""
    step = Loop.step

    def several(loop) -> None:
        for _ in range(steps):
            loop.cache.make_room()
            step(loop)

    monkeypatch.setattr(Loop, "step", several)
    words = PLAIN.tokenizer.encode("Compute 34 + 27.", add_special_tokens=False)
    limits = [(1, 0), (1, 1), (2, 1), (5, 5), (6, 5), (3, 9)]
    requests = [
        Request(words[: 1 + i], most, GREEDY, forced_close=ForcedClose(after, LINED), logprobs=True)
        for i in range(len(words))
        for most, after in limits
    ]
    in_loop = decode(GraphEngine, rambler(0), LINED, requests, rows=4)
    two_pass = decode(TransformersEngine, rambler(0), LINED, requests)
    for ours, theirs in zip(in_loop, two_pass, strict=True):
        if not ours.spend.masked_tokens + theirs.spend.masked_tokens:
            assert (ours.ids, ours.was_closed) == (theirs.ids, theirs.was_closed)
            assert ours.spend.decoded_tokens == theirs.spend.decoded_tokens
            assert ours.spend.forced_tokens == theirs.spend.forced_tokens
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
    assert sum(one.was_closed for one in in_loop) > 3


def test_a_padded_embedding_says_nothing():
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(resolve_model("overthinker"))
    config.vocab_size += 86
    config.initializer_range = 0.5
    thinking = ThinkingFormat.from_tokenizer(PLAIN.tokenizer, vocab_size=config.vocab_size)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.lm_head.weight.data[-86:] *= 1.6
    requests = requests_of(thinking, GREEDY)
    for engine_class in (GraphEngine, TransformersEngine):
        for request, completion in zip(requests, decode(engine_class, model, thinking, requests), strict=True):
            check(request, completion, thinking)


@pytest.mark.gpu
def test_captured_forced_closes():
    requests = requests_of(PLAIN, GREEDY)
    expected = [one.ids for one in decode(GraphEngine, rambler(0), PLAIN, requests, rows=16)]
    captured = decode(GraphEngine, rambler(0).cuda(), PLAIN, requests, rows=16)
    assert [one.ids for one in captured] == expected
