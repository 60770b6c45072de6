"""Strategies driven by hand, without a model: what they ask for, what they force, what they charge."""

from __future__ import annotations

import copy

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import Assignment, Completion, Ledger, Response, Sampling, get_strategy
from efficient_reasoning.inference.strategy import run_all
from efficient_reasoning.thinking import ThinkingFormat

TOKENIZER = load_tokenizer(resolve_model("overthinker"))
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def thinking_format(template: str | None = None) -> ThinkingFormat:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = template
    return ThinkingFormat.from_tokenizer(tokenizer)


PLAIN = thinking_format()  # <think>...</think>
LINES = thinking_format(TEMPLATE + "<think>\\n")  # delimiters on lines of their own, as in Qwen3
[OPEN], [CLOSE], [EOS] = PLAIN.open_ids, PLAIN.close_ids, PLAIN.eos_ids
WORD, SPACE = TOKENIZER.encode("so", add_special_tokens=False)[0], TOKENIZER.encode(" ", add_special_tokens=False)[0]
PROMPT = [WORD] * 3


def assignment(budget_tokens: int | None, thinking: ThinkingFormat = PLAIN, prompt_ids=PROMPT, max_new_tokens=300):
    return Assignment(list(prompt_ids), thinking, budget_tokens, max_new_tokens, Sampling(), seed=5)


def drive(strategy: str, given: Assignment, script: list[int], **parameters):
    """Answer a strategy's requests with one script of tokens, as a model would that is interrupted and goes on."""
    steps, rest, requests = get_strategy(strategy, **parameters).solve(given), list(script), []
    completions = None
    while True:
        try:
            [request] = steps.send(completions)
        except StopIteration as stop:
            return stop.value, requests
        assert request.max_new_tokens >= 1
        requests.append(request)
        ids, rest = rest[: request.max_new_tokens], rest[request.max_new_tokens :]
        if EOS in ids:
            ids = ids[: ids.index(EOS) + 1]
        spend = Ledger(1, len(request.prompt_ids), len(request.prompt_ids), len(ids))
        completions = [Completion(ids, ids[-1] == EOS, spend)]


ENDLESS = [OPEN] + [WORD] * 1000
BLANK = [SPACE] * 1000
CHATTY = [OPEN, WORD, CLOSE] + [WORD] * 1000
AGAIN = [OPEN, WORD, CLOSE, WORD, OPEN] + [WORD] * 1000
SHORT = [OPEN, WORD, WORD, CLOSE, WORD, EOS]


@pytest.mark.parametrize("thinking", [PLAIN, LINES], ids=["plain", "lines"])
@pytest.mark.parametrize("script", [ENDLESS, BLANK, CHATTY, AGAIN, SHORT])
@pytest.mark.parametrize("strategy", ["budget-forcing", "no-thinking"])
def test_no_budget_is_ever_exceeded(strategy, script, thinking):
    for budget in range(13, 90):
        response, requests = drive(strategy, assignment(budget, thinking), script)
        count = thinking.count(response.ids, PROMPT)
        assert response.spend.tokens <= budget
        assert count.total_tokens <= budget
        assert response.spend.tokens == len(response.ids)
        assert response.spend.requests == len(requests)
        assert response.finished == (response.ids[-1] == EOS)
        if not response.finished:
            assert len(response.ids) == budget  # nothing is left unused either


def test_an_open_block_is_closed_and_the_answer_continues_behind_it():
    response, [thinking, answering] = drive("budget-forcing", assignment(40), ENDLESS)
    cut = thinking.max_new_tokens
    assert cut == 40 - 6
    assert thinking.prompt_ids == PROMPT
    assert response.forced_close
    assert response.spend.forced_tokens == 1
    assert answering.prompt_ids == [*PROMPT, *ENDLESS[:cut], CLOSE]
    assert answering.max_new_tokens == 40 - cut - 1
    assert answering.seed != thinking.seed
    split = PLAIN.split(response.ids)
    assert (split.thinking_ids, split.answer_ids) == ([WORD] * (cut - 1), [WORD] * 5)


def test_what_closed_by_itself_is_not_closed_again():
    response, [_, answering] = drive("budget-forcing", assignment(40), CHATTY)
    assert not response.forced_close
    assert response.spend.forced_tokens == 0
    assert answering.max_new_tokens == 6
    assert response.ids == CHATTY[:40]


def test_a_finished_chain_costs_one_request():
    response, requests = drive("budget-forcing", assignment(40), SHORT)
    assert response.ids == SHORT
    assert (len(requests), response.finished, response.forced_close) == (1, True, False)
    assert response.spend == Ledger(requests=1, prompt_tokens=3, computed_prompt_tokens=3, decoded_tokens=6)


def test_a_prompt_that_opens_the_block_has_it_closed():
    response, _ = drive("budget-forcing", assignment(40, prompt_ids=[*PROMPT, OPEN]), [WORD] * 100)
    assert response.forced_close
    assert response.ids[34] == CLOSE
    response, [request] = drive("no-thinking", assignment(40, prompt_ids=[*PROMPT, OPEN]), [WORD] * 100)
    assert request.prompt_ids == [*PROMPT, OPEN, CLOSE]


def test_without_a_budget_a_chain_runs_to_its_limit():
    response, [request] = drive("budget-forcing", assignment(None, max_new_tokens=70), ENDLESS)
    assert request.max_new_tokens == 70
    assert response.ids == ENDLESS[:70]
    assert not response.forced_close


def test_a_budget_above_the_limit_of_a_chain_counts():
    response, _ = drive("budget-forcing", assignment(200, max_new_tokens=70), ENDLESS)
    assert len(response.ids) == 200


def test_no_thinking_forces_an_empty_block_and_charges_it():
    response, [request] = drive("no-thinking", assignment(40), [WORD] * 100)
    assert request.prompt_ids == [*PROMPT, OPEN, CLOSE]
    assert request.max_new_tokens == 38
    assert response.forced_close
    assert response.spend.forced_tokens == 2
    assert PLAIN.count(response.ids).thinking_tokens == 0
    assert PLAIN.split(response.ids).answer_ids == [WORD] * 38


@pytest.mark.parametrize(
    ("strategy", "budget", "parameters", "sentence"),
    [
        ("budget-forcing", 6, {}, "budget_tokens is 6, of which 6 are reserved"),
        ("budget-forcing", 40, {"answer_reserve_tokens": 40}, "budget_tokens is 40, of which 40 are reserved"),
        ("budget-forcing", 40, {"answer_reserve_tokens": 2}, "answer_reserve_tokens is 2.*at least 3"),
        ("budget-forcing", 40, {"answer_reserve_tokens": 0}, "answer_reserve_tokens is 0"),
        ("budget-forcing", 40, {"answer_reserve_tokens": -9}, "answer_reserve_tokens is -9"),
        ("no-thinking", 2, {}, "budget_tokens is 2; an empty thinking block takes them all"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(strategy, budget, parameters, sentence):
    with pytest.raises(BadInput, match=sentence):
        drive(strategy, assignment(budget), ENDLESS, **parameters)


@pytest.mark.parametrize("reserve", [3, 10, 39])
def test_the_reserve_can_be_chosen(reserve):
    response, [thinking, _] = drive("budget-forcing", assignment(40), ENDLESS, answer_reserve_tokens=reserve)
    assert thinking.max_new_tokens == 40 - reserve
    assert len(response.ids) == 40


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("budget_forcing", {}, "Unknown strategy 'budget_forcing', did you mean budget-forcing"),
        ("nothinking", {}, "did you mean no-thinking"),
        ("oracle", {}, "known are budget-forcing, dynasor, no-thinking"),
        ("budget-forcing", {"answer_reserve": 9}, "no parameter 'answer_reserve', did you mean answer_reserve_tokens"),
        ("no-thinking", {"answer_reserve_tokens": 9}, "Strategy 'no-thinking' has no parameter"),
    ],
)
def test_unknown_names_bring_near_ones(name, parameters, sentence):
    with pytest.raises(BadInput, match=sentence):
        get_strategy(name, **parameters)


# ---- run_all ----


class ScriptedEngine:
    """Every completion repeats the request's last prompt id; the batches are kept."""

    def __init__(self):
        self.batches = []

    def generate(self, requests):
        self.batches.append(list(requests))
        return [
            Completion([request.prompt_ids[-1]] * request.max_new_tokens, False, Ledger(1, decoded_tokens=1))
            for request in requests
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


def test_the_engine_is_not_asked_for_nothing():
    engine = ScriptedEngine()
    assert run_all(engine, []) == []
    run_all(engine, [rounds_of(), rounds_of(0)])
    assert engine.batches == []
