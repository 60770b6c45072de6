"""A forced close in parts, against a plain description of what it should give."""

from __future__ import annotations

import dataclasses

import pytest

from efficient_reasoning.inference.engine import IN_LOOP, SCORE, ForcedClose, Request, Sampling
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.mock_engine import MockEngine
from efficient_reasoning.inference.two_pass import TwoPassEngine
from tests.inference.minds import (
    CLOSE,
    EOS,
    FORMATS,
    LINES,
    OPEN,
    OTHER,
    PLAIN,
    PROMPT,
    SPACE,
    SPELT,
    TOKENIZER,
    WORD,
    adversaries,
    script,
    stubborn,
)


def request(after_tokens: int, max_new_tokens: int, thinking=PLAIN, before=(), prompt=PROMPT, **options) -> Request:
    close = ForcedClose(after_tokens, thinking)
    return Request([*prompt, *before], max_new_tokens, offset=len(before), forced_close=close, **options)


def decoded(rule, *requests: Request, **options):
    engine = MockEngine(rule, frozenset({EOS}), TOKENIZER.decode, **options)
    return TwoPassEngine(engine).generate(requests), engine


def in_loop(rule, asked: Request) -> tuple[list[int], bool]:
    """The same token by token, for single ids: the ids, and whether one had to be forbidden."""
    close, thinking = asked.forced_close, asked.forced_close.thinking
    begin = len(asked.prompt_ids) - asked.offset
    prompt_ids, ids = asked.prompt_ids[:begin], list(asked.prompt_ids[begin:])
    suffix, masked = [], False
    while len(ids) - asked.offset < asked.max_new_tokens and EOS not in ids:
        phases, count = thinking.phases(ids, prompt_ids), len(ids) - asked.offset
        if count == close.after_tokens:
            suffix = thinking.close(ids, prompt_ids)
        if suffix:
            ids.append(suffix.pop(0))
            continue
        forbidden = set() if phases[-1] == "answering" else set(thinking.eos_ids)
        behind = ids[::-1].index(CLOSE) if CLOSE in ids else len(ids)
        if phases[-1] == "closed" and behind >= thinking.blank_allowance:
            forbidden |= thinking.blank_ids
        if count >= close.after_tokens:
            forbidden |= {OPEN, CLOSE}
        best, *others = rule([*prompt_ids, *ids])
        masked |= best in forbidden
        ids.append(next(token for token in (best, *others) if token not in forbidden))
    return ids[asked.offset :], masked


ADVERSARIES = [(form, name) for form in FORMATS for name in adversaries(FORMATS[form])]


@pytest.mark.parametrize(("form", "name"), ADVERSARIES)
def test_every_request_ends_in_time_and_with_an_answer(form, name):
    thinking = FORMATS[form]
    rule, forced = adversaries(thinking)[name], len(thinking.empty())
    for after_tokens in range(0, 40, 3):
        for reserve_tokens in (forced + 1, forced + 6):
            [completion], engine = decoded(rule, request(after_tokens, after_tokens + reserve_tokens, thinking))
            assert completion.spend.tokens <= after_tokens + reserve_tokens
            assert len(completion.ids) <= completion.spend.tokens
            answer = TOKENIZER.decode(thinking.split(completion.ids, PROMPT).answer_ids, skip_special_tokens=True)
            assert answer.strip()
            assert completion.finished == (completion.ids[-1] == EOS)
            assert EOS not in completion.ids[:-1]
            assert completion.finished or completion.spend.tokens == after_tokens + reserve_tokens  # nothing is left
            charged = dataclasses.replace(completion.spend, forced_tokens=0)
            assert charged == engine.spent
            assert completion.was_closed == (completion.spend.forced_tokens > 0)


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, name in ADVERSARIES if form != "spelt"])
def test_the_tokens_are_those_of_one_loop(form, name):
    thinking = FORMATS[form]
    rule, unmasked = adversaries(thinking)[name], 0
    for after_tokens in range(0, 30, 2):
        asked = request(after_tokens, after_tokens + len(thinking.empty()) + 5, thinking)
        ids, masked = in_loop(rule, asked)
        [completion], _ = decoded(rule, asked)
        if not masked:
            unmasked += 1
            assert completion.ids == ids
            assert completion.spend.tokens == len(ids)
        else:  # what was taken back is missing at the end, or came out of the thinking
            assert completion.spend.masked_tokens > 0 or completion.spend.tokens > len(completion.ids)
    assert unmasked or name not in ("endless", "chatty", "short", "waiting")


def test_a_chain_that_ends_by_itself_is_one_request():
    [completion], engine = decoded(script([OPEN, WORD, CLOSE, WORD, EOS]), request(30, 40))
    assert (completion.ids, completion.finished) == ([OPEN, WORD, CLOSE, WORD, EOS], True)
    assert len(engine.requests) == 1
    assert completion.spend == Ledger(1, 3, 3, 5)


def test_an_open_block_is_closed_and_charged():
    [completion], engine = decoded(script([OPEN]), request(30, 40, LINES))
    suffix = LINES.closing()
    assert completion.ids == [OPEN, *[WORD] * 29, *suffix, *[WORD] * (10 - len(suffix))]
    assert completion.was_closed and not completion.finished
    assert (completion.spend.decoded_tokens, completion.spend.forced_tokens) == (40 - len(suffix), len(suffix))
    first, second = engine.requests
    assert (first.max_new_tokens, first.offset) == (30, 0)
    assert (second.max_new_tokens, second.offset) == (10 - len(suffix), 30 + len(suffix))
    assert second.prompt_ids == [*PROMPT, *completion.ids[: 30 + len(suffix)]]
    assert (first.seed, first.sampling) == (second.seed, second.sampling)


def test_a_suffix_without_room_is_cut():
    [completion], engine = decoded(script([OPEN]), request(4, 6, LINES))
    assert completion.ids == [OPEN, WORD, WORD, WORD, *LINES.closing()[:2]]
    assert len(engine.requests) == 1 and completion.spend.tokens == 6


def test_what_is_taken_back_is_charged_to_the_thinking():
    # EOS while thinking: decoded, taken back, and never allowed.
    [completion], engine = decoded(script([OPEN, WORD, EOS, WORD]), request(10, 14))
    assert completion.ids == [OPEN, *[WORD] * 8, CLOSE, *[WORD] * 3]
    assert completion.spend.decoded_tokens == 13 and completion.spend.tokens == 14
    assert completion.spend.masked_tokens == 1
    assert EOS in engine.requests[1].forbidden_first_ids and engine.requests[1].offset == 2


def test_white_space_behind_a_close_is_allowed_as_the_format_writes_it():
    [newline, *_] = LINES.tokenizer.encode("\n")
    begin = [OPEN, WORD, CLOSE, newline, newline]
    [completion], engine = decoded(script([*begin, WORD, EOS]), request(30, 40, LINES))
    assert completion.ids == [*begin, WORD, EOS] and len(engine.requests) == 1
    [completion], engine = decoded(script([*begin, newline, newline, EOS]), request(30, 45, LINES))
    assert completion.ids[:6] == [*begin, WORD] and completion.spend.masked_tokens == 1


@pytest.mark.parametrize("thinking", [PLAIN, LINES], ids=["plain", "lines"])
@pytest.mark.parametrize("token", [SPACE, EOS, CLOSE, OPEN])
def test_a_close_at_the_last_moment_leaves_room_for_an_answer(thinking, token):
    # The model closes with the last token of its thinking, and goes on with what is no answer.
    rule = script([OPEN, *[WORD] * 8, CLOSE, *[token] * 100])
    [completion], _ = decoded(rule, request(10, 10 + len(thinking.empty()) + 1, thinking))
    assert not completion.was_closed
    assert {WORD, OTHER} & {*thinking.split(completion.ids, PROMPT).answer_ids}


def test_a_block_may_open_again_while_there_is_time_and_not_behind_it():
    again = [OPEN, WORD, CLOSE, WORD, OPEN, WORD]
    [completion], _ = decoded(script(again), request(10, 14))
    assert completion.ids == [*again, *[WORD] * 4, CLOSE, *[WORD] * 3]
    [completion], _ = decoded(script([OPEN, WORD, CLOSE, WORD, WORD, WORD, OPEN]), request(5, 12))
    assert completion.ids == [OPEN, WORD, CLOSE, *[WORD] * 8]  # one is missing: the open that was taken back
    assert completion.spend.tokens == 12


def test_tokens_that_were_taken_back_do_not_prolong_the_time_in_which_a_block_may_open():
    # Six tokens are lost to white space; so the thinking is over before its tenth token, and may not begin again.
    rule = script([OPEN, WORD, CLOSE, *[SPACE] * 2, WORD, OPEN, *[WORD] * 100])
    [completion], _ = decoded(rule, request(10, 20))
    assert PLAIN.split(completion.ids, PROMPT).closed and PLAIN.split(completion.ids, PROMPT).answer_ids
    assert completion.ids.count(OPEN) == 1


def test_a_request_may_continue_a_response():
    before = [OPEN, WORD, WORD]
    [completion], engine = decoded(script([]), request(4, 10, before=before, seed=7))
    assert completion.ids == [*[WORD] * 4, CLOSE, *[WORD] * 5]
    assert [asked.offset for asked in engine.requests] == [3, 8] and engine.requests[0].seed == 7
    [completion], _ = decoded(script([]), request(0, 5, before=[*before, CLOSE]))
    assert completion.ids == [WORD] * 5 and not completion.was_closed
    # The prompt, too, may have opened the block.
    [completion], _ = decoded(lambda ids: [WORD], request(2, 6, prompt=[*PROMPT, OPEN]))
    assert completion.ids == [WORD, WORD, CLOSE, WORD, WORD, WORD]


def test_what_the_first_token_must_not_be_is_asked_once():
    [completion], engine = decoded(script([OTHER] * 50), request(6, 20, forbidden_first_ids=frozenset({OTHER})))
    assert completion.ids[:3] == [WORD, OTHER, OTHER]
    assert OTHER in engine.requests[0].forbidden_first_ids


def test_stops_end_a_request_where_they_may_stand():
    [completion], _ = decoded(script([OPEN, WORD, OTHER, WORD]), request(10, 14, stop_ids=frozenset({OTHER})))
    assert (completion.ids, completion.stopped) == ([OPEN, WORD, OTHER], True)
    [completion], _ = decoded(script([OPEN, WORD, OTHER, WORD]), request(10, 14, stop_strings=("so7",)))
    assert (completion.ids, completion.stopped) == ([OPEN, WORD, OTHER], True)
    # A late block is no stop of the request, though it is one of the part.
    [completion], _ = decoded(script([OPEN, WORD, CLOSE, WORD, WORD, OPEN]), request(4, 9))
    assert not completion.stopped and completion.ids == [OPEN, WORD, CLOSE, *[WORD] * 5]
    # A stop that must not stand there, stops nothing.
    [completion], _ = decoded(script([OPEN, EOS, WORD]), request(4, 9, stop_ids=frozenset({EOS})))
    assert not completion.stopped and len(completion.ids) == 8


def test_log_probabilities_are_those_of_the_ids_that_stay():
    def confidence(ids, token):
        return 0.5 if token == WORD else 0.25

    rule = script([OPEN, EOS, WORD, OTHER])
    [completion], _ = decoded(rule, request(5, 8, logprobs=True), confidence=confidence)
    assert completion.ids == [OPEN, WORD, WORD, OTHER, CLOSE, WORD, WORD]
    half = pytest.approx(-0.6931, abs=1e-3)
    quarter = pytest.approx(-1.3863, abs=1e-3)
    assert completion.logprobs == [quarter, half, half, quarter, 0.0, half, half]
    [completion], _ = decoded(rule, request(5, 8))
    assert completion.logprobs is None


def test_samples_and_requests_find_their_way_back():
    requests = [request(5, 8, n=2, seed=3), Request(PROMPT, 4, Sampling(0), seed=9), request(3, 9)]
    completions, engine = decoded(script([OPEN]), *requests)
    assert [len(completion.ids) for completion in completions] == [8, 8, 4, 9]
    assert [completion.was_closed for completion in completions] == [True, True, False, True]
    assert [asked.seed for asked in engine.requests[:4]] == [3, 4, 9, 0]
    assert completions[2].ids == [OPEN, WORD, WORD, WORD]


def test_delimiters_of_several_ids_are_kept_out_as_a_whole():
    opening, closing = SPELT.open_ids, SPELT.close_ids
    rule = script([*opening, WORD, *closing, WORD, *[WORD] * 5, *opening, *[WORD] * 100])
    after = len(opening) + len(closing) + 3
    [completion], _ = decoded(rule, request(after, after + 40, SPELT))
    assert SPELT.split(completion.ids, PROMPT).closed
    assert SPELT.split(completion.ids, PROMPT).blocks == 1
    [completion], _ = decoded(stubborn(closing[-1], SPELT), request(20, 60, SPELT))
    assert SPELT.split(completion.ids, PROMPT).answer_ids


def test_capabilities_and_scores_are_passed_on():
    engine = MockEngine(script([]), frozenset({EOS}), confidence=lambda ids, token: 0.5)
    two_pass = TwoPassEngine(engine)
    assert two_pass.capabilities == engine.capabilities | {IN_LOOP} and SCORE in two_pass.capabilities
    [score] = two_pass.score([(PROMPT, [WORD, OTHER])])
    assert score.logprobs == pytest.approx([-0.6931, -0.6931], abs=1e-3)
