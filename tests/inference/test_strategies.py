"""Strategies on models whose mind is known: what they ask for, what they force, what they charge."""

from __future__ import annotations

import dataclasses

import pytest

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Completion, Ledger, Response, get_strategy
from efficient_reasoning.inference.engine import LOGIT_BIAS, LOGPROBS
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.strategy import check_capabilities, run_all, think_limit
from tests.inference.minds import (
    CLOSE,
    EOS,
    FORMATS,
    LINES,
    OPEN,
    PLAIN,
    PROMPT,
    SPELT,
    TOKENIZER,
    WORD,
    Fickle,
    adversaries,
    assignment,
    encode,
    script,
    solved,
)

ENDLESS = [OPEN] + [WORD] * 1000
CHATTY = [OPEN, WORD, CLOSE] + [WORD] * 1000
SHORT = [OPEN, WORD, WORD, CLOSE, WORD, EOS]
STRATEGIES = {
    "adaptive-consistency": {"samples": 6, "round_samples": 2, "sample_tokens": 25},
    "beam-search": {"verifier": Fickle(), "width": 2, "expansions": 2, "sample_tokens": 25},
    "best-of-n": {"samples": 3, "sample_tokens": 25},
    "best-of-n, with a verifier": {"verifier": Fickle(), "samples": 3, "sample_tokens": 25},
    "budget-forcing": {},
    "budget-forcing, lengthened": {"min_thinking_tokens": 30, "waits": 3},
    "cascade": {"small": "small"},
    "cascade, of agreement": {"small": "small", "samples": 2},
    "chain-of-draft": {},
    "close-scaling": {},
    "control": {"text": " so"},
    "control-switch": {},
    "control-switch, that thinks": {"threshold": 0.0},
    "deer": {"trial_tokens": 4},
    "deer, uncertain": {"threshold": 1.0, "trial_tokens": 4},
    "dynasor": {"interval_tokens": 7, "probe_tokens": 4},
    "l1-exact": {},
    "l1-max": {},
    "no-thinking": {},
    "no-thinking, with a thought": {"thought": "So"},
    "rebase": {"verifier": Fickle(), "width": 4, "sample_tokens": 25},
    "self-consistency": {"samples": 3},
    "self-consistency, of short samples": {"samples": 3, "sample_tokens": 25},
    "sequential-revision": {"sample_tokens": 25},
    "spec-reason": {"small": "small", "draft_tokens": 8},
    "spec-reason, that keeps nothing": {"small": "small", "threshold": 1.0, "draft_tokens": 8},
    "tale-estimate": {"estimate_tokens": 4},
    "tale-search": {},
    "weighted-vote": {"verifier": Fickle(), "samples": 3, "sample_tokens": 25},
}
SEARCHES = (
    "adaptive-consistency", "beam-search", "best-of-n", "cascade", "rebase", "self-consistency", "sequential-revision",
    "spec-reason", "tale-search", "weighted-vote",
)  # fmt: skip


def strategies(form: str):
    """Those that delimiters of this format allow."""
    return [name for name in STRATEGIES if (form, name) != ("spelt", "close-scaling")]


@pytest.mark.parametrize(("form", "name"), [(form, name) for form in FORMATS for name in strategies(form)])
def test_no_budget_is_ever_exceeded_and_no_answer_is_empty(form, name):
    thinking = FORMATS[form]
    least = 2 * len(thinking.empty()) + 5
    for rule in adversaries(thinking).values():
        for budget in range(least, least + 60, 9):
            result = solved(name.partition(",")[0], rule, assignment(budget, thinking), **STRATEGIES[name])
            response = result.response
            assert response.spend.tokens <= budget
            assert result.answer.strip()
            assert dataclasses.replace(response.spend, forced_tokens=0, rated_tokens=0) == result.engine.spent
            assert len(response.ids) <= response.spend.tokens
            assert response.finished == (response.ids[-1] == EOS)
            assert EOS not in response.ids[:-1]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("budget", [None, 40, 90])
def test_engines_that_know_no_forced_close_are_charged_alike(name, budget):
    if budget is None and name.startswith("l1"):
        pytest.skip("has no budget to name")
    for rule in adversaries(PLAIN).values():
        given = assignment(budget, max_new_tokens=90)
        result = solved(name.partition(",")[0], rule, given, directly=True, **STRATEGIES[name])
        spend = result.response.spend
        assert dataclasses.replace(spend, forced_tokens=0, rated_tokens=0) == result.engine.spent
        # Without a budget only searches make several chains.
        assert spend.tokens <= (budget or 90) or name.startswith(SEARCHES)


# ---- budget forcing ----


def test_an_open_block_is_closed_and_the_answer_continues_behind_it():
    result = solved("budget-forcing", script(ENDLESS), assignment(40))
    response, [thinking, answering] = result.response, result.requests
    cut = thinking.max_new_tokens
    assert cut == 40 - 6
    assert thinking.prompt_ids == PROMPT
    assert response.forced_close
    assert response.spend.forced_tokens == 1
    assert answering.prompt_ids == [*PROMPT, *ENDLESS[:cut], CLOSE]
    assert answering.max_new_tokens == 40 - cut - 1
    assert (thinking.offset, answering.offset) == (0, cut + 1)
    split = PLAIN.split(response.ids)
    assert (split.thinking_ids, split.answer_ids) == ([WORD] * (cut - 1), [WORD] * 5)


def test_what_closed_by_itself_is_not_closed_again():
    result = solved("budget-forcing", script(CHATTY), assignment(40))
    assert not result.response.forced_close
    assert result.response.spend.forced_tokens == 0
    assert result.response.ids == CHATTY[:40]


def test_a_finished_chain_costs_one_request():
    result = solved("budget-forcing", script(SHORT), assignment(40))
    response = result.response
    assert response.ids == SHORT
    assert (len(result.requests), response.finished, response.forced_close) == (1, True, False)
    assert response.spend == Ledger(requests=1, prompt_tokens=3, computed_prompt_tokens=3, decoded_tokens=6)


def test_a_prompt_that_opens_the_block_has_it_closed():
    opened = [*PROMPT, OPEN]
    response = solved("budget-forcing", lambda ids: WORD, assignment(40, prompt_ids=opened)).response
    assert response.forced_close
    assert response.ids[34] == CLOSE
    result = solved("no-thinking", lambda ids: WORD, assignment(40, prompt_ids=opened))
    assert result.requests[0].prompt_ids == [*opened, CLOSE]


def test_without_a_budget_a_chain_runs_to_its_limit():
    result = solved("budget-forcing", script(ENDLESS), assignment(None, max_new_tokens=70))
    assert [request.max_new_tokens for request in result.requests] == [70]
    assert result.response.ids == ENDLESS[:70]
    assert not result.response.forced_close


def test_a_budget_above_the_limit_of_a_chain_counts():
    result = solved("budget-forcing", script(ENDLESS), assignment(200, max_new_tokens=70))
    assert len(result.response.ids) == 200


@pytest.mark.parametrize("reserve", [3, 10, 39])
def test_the_reserve_can_be_chosen(reserve):
    result = solved("budget-forcing", script(ENDLESS), assignment(40), answer_reserve_tokens=reserve)
    assert result.requests[0].max_new_tokens == 40 - reserve
    assert len(result.response.ids) == 40


def hasty(thinking, words: int, prompt_ids=PROMPT):
    """Thinks so many words, closes, answers; made to wait, it does all that again."""
    wait, end = encode("Wait"), list(thinking.close_ids)
    begin = [] if thinking.prompt_opens(prompt_ids) else list(thinking.open_ids)

    def rule(ids):
        response = list(ids)[len(prompt_ids) :]
        if len(response) < len(begin):
            return [begin[len(response)], WORD]
        phase = thinking.phases(response, prompt_ids)[-1]
        if phase in ("closed", "answering"):
            return [WORD if phase == "closed" else EOS, WORD]
        starts = [i + len(wait) for i in range(len(response)) if response[i : i + len(wait)] == wait]
        thought = response[max(starts, default=len(begin)) :]
        count = sum(token == WORD for token in thought)
        return [WORD] if count < words else [end[len(thought) - count], WORD]

    return rule


@pytest.mark.parametrize("thinking", [PLAIN, SPELT], ids=["one id", "several ids"])
@pytest.mark.parametrize("budget", [None, 200])
def test_thinking_that_ends_too_early_is_made_to_go_on(thinking, budget):
    rule, wait = hasty(thinking, words=10), encode("Wait")
    first = [*thinking.open_ids, *[WORD] * 10]
    for least, times in [(5, 0), (10, 0), (11, 1), (20, 1), (23, 2), (1000, 2)]:
        result = solved("budget-forcing", rule, assignment(budget, thinking), min_thinking_tokens=least)
        again = [*wait, *[WORD] * 10] * times
        assert result.response.ids == [*first, *again, *thinking.close_ids, WORD, EOS]
        assert result.response.spend.forced_tokens == len(wait) * times
        # Closes that were taken back have been decoded.
        taken_back = len(thinking.close_ids) * times
        assert result.response.spend.tokens == len(result.response.ids) + taken_back
        assert not result.response.forced_close


def test_waits_and_their_text_can_be_chosen():
    result = solved("budget-forcing", hasty(PLAIN, 10), assignment(None), min_thinking_tokens=1000, waits=5)
    assert result.response.spend.forced_tokens == 5 * len(encode("Wait"))
    result = solved("budget-forcing", hasty(PLAIN, 10), assignment(None), min_thinking_tokens=1000, waits=0)
    assert len(result.requests) == 1
    rule = script([OPEN, WORD, CLOSE])
    result = solved("budget-forcing", rule, assignment(60), min_thinking_tokens=5, waits=1, wait_text="Hmm")
    assert TOKENIZER.decode(result.response.ids).startswith("<think> soHmm so")


def test_lengthened_thinking_keeps_the_reserve():
    for budget in range(13, 90):
        result = solved("budget-forcing", hasty(PLAIN, 10), assignment(budget), min_thinking_tokens=1000, waits=9)
        assert result.response.spend.tokens <= budget
        assert result.answer.strip()
    assert result.response.spend.forced_tokens > 2


def test_white_space_in_front_of_an_early_close_goes_with_it():
    newline = LINES.tokenizer.encode("\n")
    rule = script([OPEN, *newline, WORD, *newline, CLOSE])
    result = solved("budget-forcing", rule, assignment(60, LINES), min_thinking_tokens=5, waits=1)
    assert result.response.ids[: 3 + len(encode("Wait"))] == [OPEN, *newline, WORD, *encode("Wait")]


def test_a_block_that_was_never_opened_is_opened_to_go_on():
    result = solved("budget-forcing", script([CLOSE]), assignment(60), min_thinking_tokens=5, waits=1)
    assert result.response.ids[: 1 + len(encode("Wait"))] == [OPEN, *encode("Wait")]
    # What the prompt has opened needs no second open.
    opened = [*PROMPT, OPEN]
    rule = hasty(PLAIN, 3, opened)
    result = solved("budget-forcing", rule, assignment(60, prompt_ids=opened), min_thinking_tokens=5, waits=1)
    assert result.response.ids == [*[WORD] * 3, *encode("Wait"), *[WORD] * 3, CLOSE, WORD, EOS]


# ---- no thinking ----


@pytest.mark.parametrize("budget", [None, 40])
def test_no_thinking_forces_an_empty_block_and_charges_it(budget):
    result = solved("no-thinking", lambda ids: WORD, assignment(budget, max_new_tokens=40))
    [request] = result.requests
    assert request.prompt_ids == [*PROMPT, OPEN, CLOSE]
    assert request.max_new_tokens == 38
    assert EOS in request.forbidden_first_ids
    assert result.response.forced_close
    assert result.response.spend.forced_tokens == 2
    assert PLAIN.count(result.response.ids).thinking_tokens == 0
    assert PLAIN.split(result.response.ids).answer_ids == [WORD] * 38


@pytest.mark.parametrize("opened", [False, True])
def test_the_block_of_no_thinking_may_hold_a_thought(opened):
    thought = "So I am done."
    given = assignment(90, LINES, prompt_ids=[*PROMPT, OPEN] if opened else PROMPT)
    result = solved("no-thinking", lambda ids: [WORD], given, thought=thought)
    text = TOKENIZER.decode(result.response.ids)
    assert text.startswith(("" if opened else "<think>\n") + f"{thought}\n</think>\n\n so")
    assert result.response.forced_close and result.response.spend.tokens == 90


# ---- what is refused ----


@pytest.mark.parametrize(
    ("strategy", "budget", "parameters", "sentence"),
    [
        ("budget-forcing", 6, {}, "budget_tokens is 6, of which 6 are reserved"),
        ("budget-forcing", 40, {"answer_reserve_tokens": 40}, "budget_tokens is 40, of which 40 are reserved"),
        ("budget-forcing", 40, {"answer_reserve_tokens": 2}, "answer_reserve_tokens is 2.*at least 3"),
        ("budget-forcing", 40, {"answer_reserve_tokens": 0}, "answer_reserve_tokens is 0"),
        ("budget-forcing", 40, {"answer_reserve_tokens": -9}, "answer_reserve_tokens is -9"),
        ("budget-forcing", 40, {"waits": -1}, "waits is -1; give 0 or more"),
        ("budget-forcing", 40, {"min_thinking_tokens": -1}, "min_thinking_tokens is -1"),
        *[
            (name, 6, {}, "budget_tokens is 6, of which 6 are reserved")
            for name in (
                "chain-of-draft",
                "close-scaling",
                "deer",
                "dynasor",
                "l1-exact",
                "tale-estimate",
                "tale-search",
            )
        ],
        ("no-thinking", 2, {}, "budget_tokens is 2; an empty thinking block takes them all"),
        ("no-thinking", 9, {"thought": "So I am done."}, "budget_tokens is 9; this thinking block takes them all"),
        ("l1-exact", None, {}, "write the budget into the prompt; give budget_tokens"),
        ("l1-max", None, {}, "write the budget into the prompt; give budget_tokens"),
        ("deer", 40, {"threshold": 1.1}, "threshold is 1.1; give a confidence"),
        ("deer", 40, {"trial_tokens": 0}, "trial_tokens is 0; give at least 1"),
        ("deer", 40, {"transitions": ("",)}, "transitions are"),
        ("tale-estimate", 40, {"estimate_tokens": 0}, "estimate_tokens is 0; give at least 1"),
    ],
)
def test_what_cannot_be_kept_is_refused(strategy, budget, parameters, sentence):
    with pytest.raises(BadInput, match=sentence):
        solved(strategy, script(ENDLESS), assignment(budget), **parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("budget_forcing", {}, "Unknown strategy 'budget_forcing', did you mean budget-forcing"),
        ("nothinking", {}, "did you mean no-thinking"),
        ("tale-estimated", {}, "did you mean tale-estimate"),
        ("oracle", {}, "known are adaptive-consistency, beam-search, best-of-n, budget-forcing, cascade"),
        ("budget-forcing", {"answer_reserve": 9}, "no parameter 'answer_reserve', did you mean answer_reserve_tokens"),
        ("no-thinking", {"answer_reserve_tokens": 9}, "Strategy 'no-thinking' has no parameter"),
        ("l1-max", {"sentence": "Think."}, "Strategy 'l1-max' has no parameter 'sentence'"),
        ("deer", {"needs": ()}, "Strategy 'deer' has no parameter 'needs'"),
    ],
)
def test_unknown_names_bring_near_ones(name, parameters, sentence):
    with pytest.raises(BadInput, match=sentence):
        get_strategy(name, **parameters)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("budget-forcing?waits=3&wait_text=Hmm, so", "wait_text", "Hmm, so"),
        ("budget-forcing?waits=3", "waits", 3),
        ("budget-forcing?answer_reserve_tokens=none", "answer_reserve_tokens", None),
        ("deer?threshold=0.9", "threshold", 0.9),
        ("deer?transitions=Wait|But", "transitions", ("Wait", "But")),
        ("control?text=<|keep 0.5|>", "text", "<|keep 0.5|>"),
    ],
)
def test_parameters_may_stand_behind_the_name(name, attribute, value):
    assert getattr(get_strategy(name), attribute) == value


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("budget-forcing?waits=x", r"Strategy 'budget-forcing': waits must be int, found 'x'"),
        ("budget-forcing?wait=1", r"has no parameter 'wait', did you mean waits"),
        ("control", r"Strategy 'control' needs text; write control\?text=VALUE"),
    ],
)
def test_bad_parameters_behind_the_name_get_a_sentence(name, sentence):
    with pytest.raises(BadInput, match=sentence):
        get_strategy(name)


def test_a_control_is_put_behind_the_question():
    prompts = []

    def rule(ids):
        prompts.append(list(ids))
        return EOS

    engine = MockEngine(rule, PLAIN.eos_ids)
    task = assignment(None)
    run_all(engine, [get_strategy("control", text=" so").solve(task)])
    assert prompts[0] == task.render(f"{task.question} so")
    with pytest.raises(BadInput, match=r"knows no control 'no such'; its added tokens are"):
        run_all(engine, [get_strategy("control", text="no such").solve(task)])


def test_an_engine_that_lacks_what_a_strategy_needs_is_named():
    backends = {"graph": frozenset({LOGPROBS, LOGIT_BIAS}), "vllm": frozenset({LOGPROBS}), "openai": frozenset()}
    engine = MockEngine(lambda ids: WORD, frozenset({EOS}))
    engine.capabilities = backends["openai"]
    sentence = "Strategy 'deer' needs logprobs, which backend openai does not have; use graph or vllm."
    with pytest.raises(BadInput, match=sentence):
        check_capabilities("deer", get_strategy("deer"), engine, "openai", backends)
    with pytest.raises(BadInput, match="needs logit_bias, which backend openai does not have; use graph"):
        check_capabilities("close-scaling", get_strategy("close-scaling"), engine, "openai", backends)
    engine.capabilities = backends["graph"]
    for name in ("deer", "close-scaling", "budget-forcing"):
        check_capabilities(name, get_strategy(name), engine, "graph", backends)


def test_the_limit_of_thinking():
    assert think_limit(assignment(40)) == 34
    assert think_limit(assignment(160)) == 140
    assert think_limit(assignment(40), 10) == 30
    assert think_limit(assignment(None, max_new_tokens=70), 10) == 70


# ---- run_all ----


class ScriptedEngine:
    """Every completion repeats the request's last prompt id; the batches are kept."""

    capabilities = frozenset()

    def __init__(self):
        self.batches = []

    def generate(self, requests):
        self.batches.append(list(requests))
        return [
            Completion([request.prompt_ids[-1]] * request.max_new_tokens, False, Ledger(1, decoded_tokens=1))
            for request in requests
            for _ in range(request.n)
        ]


def rounds_of(*counts: int):
    """A strategy that asks for so many requests in each round; its response has the ids that it got."""
    response = Response()
    for round_, count in enumerate(counts):
        given = assignment(None)
        completions = yield [given.request([100 * round_ + number], 2) for number in range(count)]
        assert len(completions) == count
        for completion in completions:
            response.append(completion)
    return response


def test_requests_of_all_problems_share_batches_and_find_their_way_back():
    engine, done = ScriptedEngine(), []
    responses = run_all(engine, [rounds_of(1, 2), rounds_of(), rounds_of(3), rounds_of(0, 1)], done.append)
    assert [len(batch) for batch in engine.batches] == [4, 3]
    assert [response.ids for response in responses] == [
        [0, 0, 100, 100, 101, 101],
        [],
        [0, 0, 1, 1, 2, 2],
        [100, 100],
    ]
    assert [response.spend.requests for response in responses] == [3, 0, 3, 1]
    assert sum(done) == 4
    assert all(done)


def test_all_samples_of_a_request_go_to_who_asked():
    def two_samples(token: int):
        request = dataclasses.replace(assignment(None).request([token], 1), n=2)
        completions = yield [request]
        return [completion.ids for completion in completions]

    assert run_all(ScriptedEngine(), [two_samples(7), two_samples(8)]) == [[[7], [7]], [[8], [8]]]


def test_the_engine_is_not_asked_for_nothing():
    engine = ScriptedEngine()
    assert run_all(engine, []) == []
    run_all(engine, [rounds_of(), rounds_of(0)])
    assert engine.batches == []
