"""The rules of a forced close, token by token, and the plug-in that keeps them in vLLM's batch."""

from __future__ import annotations

import enum
import importlib
import random
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import ForcedClose, Request
from efficient_reasoning.inference.guard import Guard, Rules, replay
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.two_pass import TwoPassEngine

FOLDER = resolve_model("overthinker")
TOKENIZER = load_tokenizer(FOLDER)
THINKING = thinking_format(FOLDER, TOKENIZER)
[OPEN], [CLOSE], [EOS] = THINKING.open_ids, THINKING.close_ids, THINKING.eos_ids
SPACE, WORD, OTHER = (TOKENIZER.encode(text, add_special_tokens=False)[0] for text in (" ", "so", "7"))
PROMPT = [WORD, OTHER]


def decode(guard: Guard, rule, prompt: list[int], limit: int) -> tuple[list[int], int | None]:
    """What a model that follows the rule says under a guard, and where a token of its was first forbidden."""
    ids, masked = [], None
    while len(ids) < limit and not (ids and ids[-1] == EOS):
        token = guard.forces()
        if token is None:
            candidates, forbidden = rule([*prompt, *ids]), guard.forbids()
            token = next(candidate for candidate in candidates if candidate not in forbidden)
            masked = len(ids) if masked is None and token != candidates[0] else masked
        guard.read(token)
        ids.append(token)
    return ids, masked


@pytest.mark.parametrize("after_tokens", [0, 1, 4, 9])
@pytest.mark.parametrize("begun", [0, 3])
def test_guard_says_what_two_passes_say(after_tokens, begun):
    """Equal up to the first token that had to be forbidden; behind it two passes have fewer tokens left."""
    alike = 0
    for seed in range(60):

        def rule(ids, seed=seed):
            order = [OPEN, CLOSE, EOS, SPACE, WORD, OTHER, WORD]
            random.Random(f"{seed} {len(ids)} {ids[-1]}").shuffle(order)
            return order

        response = [rule([WORD] * place)[0] for place in range(1, begun + 1)]
        if EOS in response:
            continue
        prompt = [*PROMPT, *response]
        close = ForcedClose(after_tokens, THINKING)
        engine = TwoPassEngine(MockEngine(rule, THINKING.eos_ids))
        [passes] = engine.generate([Request(prompt, 16, offset=begun, forced_close=close)])
        guard = Guard(Rules(close_after_tokens=after_tokens, response_tokens=begun), THINKING, prompt)
        ids, masked = decode(guard, rule, prompt, 16)
        assert ids[:masked] == passes.ids[:masked]
        alike += masked is None
        if masked is None:
            assert bool(guard.forced) == passes.was_closed
        again = Guard(guard.rules, THINKING, prompt)
        assert replay(again, ids) is None and again.forced == guard.forced
    assert alike > 5


def test_replay_finds_a_budget_that_was_not_kept():
    guard = Guard(Rules(close_after_tokens=3), THINKING, PROMPT)
    assert replay(guard, [OPEN, WORD, WORD, WORD]) == 3
    assert replay(Guard(Rules(close_after_tokens=9), THINKING, PROMPT), [OPEN, CLOSE, EOS]) == 2
    assert replay(Guard(Rules(forbidden_first_ids=(WORD,)), THINKING, PROMPT), [WORD]) == 0
    assert replay(Guard(Rules(min_thinking_tokens=4), THINKING, PROMPT), [OPEN, WORD, CLOSE]) == 2


def test_minimum_and_bias_hold_while_the_model_thinks():
    guard = Guard(Rules(min_thinking_tokens=3, close_bias=2.0), THINKING, PROMPT)
    assert guard.bias() == {} and guard.forbids() == []
    for token in (OPEN, WORD):
        guard.read(token)
        assert {CLOSE, EOS} <= set(guard.forbids()) and guard.bias() == {CLOSE: 2.0}
    guard.read(WORD)
    assert guard.forbids() == []
    guard.read(CLOSE)
    assert guard.bias() == {}


def test_rules_are_read_among_the_arguments_of_others():
    assert Rules.read(None) is None and Rules.read({"kv_transfer_params": {}}) is None
    assert Rules.read({"close_after_tokens": 3, "forbidden_first_ids": [1]}) == Rules(3, forbidden_first_ids=(1,))
    with pytest.raises(BadInput, match="did you mean close_after_tokens"):
        Rules.read({"close_after_token": 3})
    for arguments in ({"min_thinking_tokens": -1}, {"close_bias": "high"}, {"forbidden_first_ids": 3}):
        with pytest.raises(BadInput, match="give a"):
            Rules.read(arguments)


# ---- the processor, with vLLM's batch played by hand ----


class Direction(enum.Enum):
    UNIDIRECTIONAL = 1
    SWAP = 2


@pytest.fixture
def processor(monkeypatch):
    base = ModuleType("vllm.v1.sample.logits_processor")
    base.LogitsProcessor = object
    for name in ("vllm", "vllm.v1", "vllm.v1.sample"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    name = "efficient_reasoning.inference.vllm_processor"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    config = SimpleNamespace(model_config=SimpleNamespace(model=FOLDER))
    yield module.ThinkingProcessor(config, torch.device("cpu"), False)
    sys.modules.pop(name)


def update(added=(), removed=(), moved=()):
    return SimpleNamespace(added=added, removed=removed, moved=moved, batch_size=4)


def params(**arguments):
    return SimpleNamespace(extra_args=arguments or None)


def test_processor_changes_the_rows_that_ask_for_it(processor):
    said = [[OPEN, WORD], [OPEN, WORD], [], [OPEN]]
    asked = [params(), params(close_after_tokens=2), params(forbidden_first_ids=[WORD]), params(close_bias=1.5)]
    processor.update_state(update([(row, asked[row], PROMPT, said[row]) for row in range(4)]))
    logits = processor.apply(torch.zeros(4, len(TOKENIZER)))
    assert (logits[0] == 0).all()
    assert logits[1].argmax() == CLOSE and logits[1].isfinite().sum() == 1
    assert logits[2, WORD] == -torch.inf and logits[2].isfinite().sum() == len(TOKENIZER) - 1
    assert logits[3, CLOSE] == 1.5 and logits[3].count_nonzero() == 1


def test_processor_follows_rows_that_move_and_tokens_that_come_late(processor):
    said = [OPEN, -1]  # vLLM runs a step ahead: the last token is not there yet
    processor.update_state(update([(0, params(close_after_tokens=2), PROMPT, said), (1, params(), PROMPT, [])]))
    said[1] = WORD
    processor.update_state(update(moved=[(0, 1, Direction.SWAP)]))
    logits = processor.apply(torch.zeros(4, len(TOKENIZER)))
    assert logits[1].argmax() == CLOSE and (logits[0] == 0).all()
    processor.update_state(update(moved=[(1, 2, Direction.UNIDIRECTIONAL)]))
    said.append(CLOSE)
    logits = processor.apply(torch.zeros(4, len(TOKENIZER)))
    assert logits[2, EOS] == -torch.inf and (logits[1] == 0).all()
    processor.update_state(update(removed=[2]))
    assert (processor.apply(torch.zeros(4, len(TOKENIZER))) == 0).all()
    assert (processor.guarded, processor.closed) == (1, 1)
    processor.update_state(None)
    with pytest.raises(BadInput, match="close_after_tokens is 'x'"):
        processor.validate_params(params(close_after_tokens="x"))
