"""Models whose mind is known: rules for `MockEngine`, and the tokens they are made of, for several think formats."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest import mock

import torch

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.inference import Assignment, Ledger, Reasoner, Response, Sampling, get_strategy, others
from efficient_reasoning.inference.engine import HIDDEN, LOGIT_BIAS, Hidden, Rated
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.inference.two_pass import TwoPassEngine
from efficient_reasoning.thinking import ThinkingFormat

TOKENIZER = load_tokenizer(resolve_model("overthinker"))
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
Rule = Callable[[Sequence[int]], int | Sequence[int]]


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def thinking_format(template: str | None = None, *delimiters: str) -> ThinkingFormat:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    return ThinkingFormat.from_tokenizer(tokenizer, *delimiters)


PLAIN = thinking_format()  # <think>...</think>
LINES = thinking_format(TEMPLATE + "<think>\\n")  # delimiters on lines of their own, as in Qwen3
SPELT = thinking_format(None, "<thought>", "</thought>")  # delimiters of several ids
FORMATS = {"plain": PLAIN, "lines": LINES, "spelt": SPELT}
[OPEN], [CLOSE], [EOS], PAD = PLAIN.open_ids, PLAIN.close_ids, PLAIN.eos_ids, PLAIN.pad_id
[WORD], [OTHER], [SPACE], [WAIT], [ASKED] = (encode(text) for text in (" so", "7", " ", " Wait", "?"))
PROMPT = [WORD, WORD, ASKED]


def render(question: str) -> list[int]:
    """A prompt; its end can be found in what follows (`said`)."""
    return PROMPT if question == "so so" else [*encode(question.replace("?", "")), ASKED]


def assignment(
    budget_tokens: int | None, thinking: ThinkingFormat = PLAIN, prompt_ids: Sequence[int] = PROMPT, max_new_tokens=300
) -> Assignment:
    given = {"question": "so so", "render": render}
    return Assignment(list(prompt_ids), thinking, budget_tokens, max_new_tokens, Sampling(), seed=5, **given)


def said(ids: Sequence[int]) -> list[int]:
    """What follows the prompt."""
    ids = list(ids)
    return ids[len(ids) - ids[::-1].index(ASKED) :] if ASKED in ids else ids


def script(ids: Sequence[int]) -> Rule:
    """Says these ids, each in its position, and WORD where one is forbidden or none is left."""
    return lambda so_far: [*ids[len(said(so_far)) :][:1], WORD, OTHER]


def stubborn(token: int, thinking: ThinkingFormat) -> Rule:
    """Never stops thinking; behind a close it says one token as long as it may."""

    def rule(so_far: Sequence[int]) -> list[int]:
        response = said(so_far)
        opening = thinking.open_ids
        if len(response) < len(opening):
            return [opening[len(response)], WORD]
        closed = thinking.phases(response)[-1] in ("closed", "answering")
        return [token, WORD, OTHER] if closed else [WORD, OTHER]

    return rule


def moody(seed: int, thinking: ThinkingFormat) -> Rule:
    """Says anything, in an order of preference that depends on what was said."""

    def rule(so_far: Sequence[int]) -> list[int]:
        draw = random.Random(f"{seed}{said(so_far)}")
        choice = [*thinking.open_ids, *thinking.close_ids, *TOKENIZER.encode("\n"), SPACE, EOS, PAD, WORD, OTHER, WAIT]
        return draw.sample(choice, len(choice))

    return rule


def adversaries(thinking: ThinkingFormat) -> dict[str, Rule]:
    """Models that do what they should not."""
    begin, end = list(thinking.open_ids), list(thinking.close_ids)
    scripts = {
        "endless": [*begin, *[WORD] * 1000],
        "endless lines": [*begin, *[WORD, *encode("\n")] * 500],
        "blank": [SPACE] * 1000,
        "padding": [PAD] * 1000,
        "chatty": [*begin, WORD, *end, *[WORD] * 1000],
        "re-opening": [*begin, WORD, *end, WORD, *begin, *[WORD] * 1000],
        "re-opening at once": [*begin, WORD, *end, *begin, *[WORD] * 1000],
        "opening and closing": [*begin, *end] * 300,
        "closing": end * 500,
        "EOS at once": [EOS] * 1000,
        "EOS while thinking": [*begin, *[WORD, EOS] * 500],
        "EOS behind the close": [*begin, WORD, *end, *[EOS] * 1000],
        "white space behind the close": [*begin, WORD, *end, *[SPACE] * 1000],
        "padding behind the close": [*begin, WORD, *end, *[PAD] * 1000],
        "waiting": [*begin, *[WORD, WORD, WAIT] * 300],
        "short": [*begin, WORD, WORD, *end, WORD, EOS],
        "without thinking": [WORD, WORD, EOS],
    }
    tokens = {"EOS": EOS, "white space": SPACE, "padding": PAD, "an open": begin[-1], "a close": end[-1], "Wait": WAIT}
    return (
        {name: script(ids) for name, ids in scripts.items()}
        | {f"{name} behind every close": stubborn(token, thinking) for name, token in tokens.items()}
        | {f"moody {seed}": moody(seed, thinking) for seed in range(4)}
    )


class Fickle:
    """A rater that thinks anything of anything, and charges nothing."""

    def rate(self, ratings):
        return [
            Rated([random.Random(f"{rating.ids[: place + 1]}").random() for place in places], Ledger())
            for rating in ratings
            for places in [range(rating.begin, len(rating.ids))]
        ]


class BiasedEngine(MockEngine):
    """A mock that takes logit biases; rules find the bias of the close in `bias`. Its state is the prompt's length."""

    capabilities = MockEngine.capabilities | {LOGIT_BIAS, HIDDEN}
    bias = 0.0

    def read(self, prompts):
        spends = [Ledger(1, len(prompt), len(prompt)) for prompt in prompts]
        self.spent = sum(spends, self.spent)
        return [Hidden(torch.tensor([float(spend.prompt_tokens)]), spend) for spend in spends]

    def _decode(self, request):
        self.bias = request.logit_bias.get(CLOSE, 0.0)
        return super()._decode(request)


def reasoner_of(engine: MockEngine, thinking: ThinkingFormat, name: str = "large") -> Reasoner:
    return Reasoner(engine, TOKENIZER, thinking, None, name, name, None, None, "mock")


def bound(strategy: str, engine: MockEngine, thinking: ThinkingFormat, other: MockEngine | None = None, **parameters):
    """A strategy, with the models that it asks for: `other`, or the same engine under another name."""
    chosen = get_strategy(strategy, **parameters)
    if not hasattr(chosen, "bind"):
        return chosen
    with mock.patch.object(others, "load_other", lambda name: reasoner_of(other or engine, thinking, name)):
        return chosen.bind(reasoner_of(engine, thinking))


@dataclass
class Solved:
    """A response, and the engine that was asked for it."""

    response: Response
    engine: MockEngine
    thinking: ThinkingFormat = field(repr=False)

    @property
    def requests(self):
        return self.engine.requests

    @property
    def answer(self) -> str:
        prompt_ids = self.response.prompt_ids or PROMPT
        return TOKENIZER.decode(
            self.thinking.split(self.response.ids, prompt_ids).answer_ids, skip_special_tokens=True
        )


def solved(
    strategy: str,
    rule: Rule,
    given: Assignment,
    confidence=lambda ids, token: 1.0,
    directly: bool = False,
    **parameters,
) -> Solved:
    """Run a strategy on a rule; `directly` on an engine that knows nothing of forced closes."""
    engine = BiasedEngine(rule, frozenset({EOS}), TOKENIZER.decode, confidence)
    steps = bound(strategy, engine, given.thinking, **parameters).solve(given)
    [response] = run_all(engine if directly else TwoPassEngine(engine), [steps])
    return Solved(response, engine, given.thinking)
