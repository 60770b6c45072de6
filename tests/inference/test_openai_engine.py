"""Decoding on a server: a small one in a thread stands in for it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import LOGIT_BIAS, LOGPROBS, SCORE, ForcedClose, Request, Sampling
from efficient_reasoning.inference.openai_engine import OpenAIEngine
from efficient_reasoning.inference.solve import Reasoner
from efficient_reasoning.inference.two_pass import TwoPassEngine

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model("overthinker"))


@pytest.fixture(scope="module")
def thinking(tokenizer):
    return thinking_format(resolve_model("overthinker"), tokenizer)


class Server:
    """Speaks the protocol about a text: whatever the prompt, its model goes on where the text is.

    Attributes:
        ids: of that text, EOS at the end. A model that was kept from saying what follows says the token after it.
        names: how it names token ids: "token_ids", "logprobs" or "text".
        asked: bodies of all requests for completions.
        left: how many completions it still gives before it dies.
    """

    def __init__(self, tokenizer, text: str):
        self.tokenizer = tokenizer
        self.ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        self.names = "token_ids"
        self.asked: list[dict] = []
        self.left = math.inf
        self.busy = 0
        self.changes: dict = {}  # laid over replies
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, {"data": [{"id": "tiny"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.asked.append(body)
                    if outer.busy:
                        outer.busy -= 1
                        return self._send(429, {"error": "busy"})
                    if outer.left <= 0:
                        return self.close_connection  # without a word
                    outer.left -= 1
                return self._send(200, outer.reply(body) | outer.changes)

            def _send(self, status: int, payload: dict) -> None:
                data = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                """Tests are quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def next_ids(self, body: dict) -> list[int]:
        """What follows the end of the prompt that the text begins with, up to a stop."""
        prompt, ids = body["prompt"], self.ids
        said = max(k for k in range(len(ids)) if prompt[len(prompt) - k :] == ids[:k])
        rest = ids[said:][: body["max_tokens"]]
        if str(rest[0]) in body.get("logit_bias", {}):
            rest = ids[said + 1 :][: body["max_tokens"]]
        for place, token in enumerate(rest, 1):
            text = self.tokenizer.decode(rest[:place])
            if token in body.get("stop_token_ids", ()) or any(stop in text for stop in body.get("stop", ())):
                return rest[:place]
        return rest

    def reply(self, body: dict) -> dict:
        if body.get("echo"):
            values = [None] + [-0.5] * (len(body["prompt"]) - 1)
            choices = [{"index": 0, "text": "", "finish_reason": "length", "logprobs": {"token_logprobs": values}}]
            return {"choices": choices, "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 0}}
        ids = self.next_ids(body)
        is_end = ids[-1] == self.tokenizer.eos_token_id
        choice = {"text": self.tokenizer.decode(ids[:-1] if is_end else ids), "stop_reason": None}
        choice["finish_reason"] = "length" if len(ids) == body["max_tokens"] and not is_end else "stop"
        if self.names == "token_ids":
            choice["token_ids"] = ids
        if body.get("logprobs") and self.names != "text":
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in ids],
                "token_logprobs": [-0.5] * len(ids),
            }
        samples = body.get("n", 1)
        return {
            "choices": [choice | {"index": index} for index in range(samples)],
            "usage": {
                "prompt_tokens": len(body["prompt"]),
                "completion_tokens": samples * len(ids),
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        }


@pytest.fixture
def server(tokenizer, monkeypatch) -> Iterator[Server]:
    server = Server(tokenizer, "<think>1+2=3, 3+4=7</think>7")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("efficient_reasoning.server.RETRY_PAUSES_SECONDS", (0.0, 0.0))
    yield server
    server.http.shutdown()
    server.http.server_close()


def engine_of(server: Server) -> OpenAIEngine:
    engine = OpenAIEngine(server.url, "tiny", server.tokenizer, frozenset({server.tokenizer.eos_token_id}))
    server.asked.clear()
    return engine


def prompt_of(server: Server) -> list[int]:
    return server.tokenizer.encode("Compute.\n", add_special_tokens=False)


@pytest.mark.parametrize("names", ["token_ids", "logprobs", "text"])
def test_ids_come_back_however_the_server_names_them(server, names):
    server.names = names
    engine = engine_of(server)
    [whole, cut] = engine.generate([Request(prompt_of(server), limit, GREEDY) for limit in (64, 5)])
    assert (whole.ids, whole.finished, whole.stopped) == (server.ids, True, False)
    assert (cut.ids, cut.finished, cut.stopped) == (server.ids[:5], False, False)
    prompt_tokens = len(prompt_of(server))
    assert cut.spend.prompt_tokens == prompt_tokens and cut.spend.computed_prompt_tokens == prompt_tokens - 1
    assert [one.spend.decoded_tokens for one in (whole, cut)] == [len(server.ids), 5]
    assert whole.spend.seconds > 0 and whole.spend.peak_memory_bytes == 0


def test_text_that_makes_other_ids_is_refused(server):
    server.names = "text"
    engine = engine_of(server)
    server.changes = {"usage": {"prompt_tokens": len(prompt_of(server)), "completion_tokens": 9}}
    with pytest.raises(BadInput, match=r"decoded 9 tokens, but .* makes 5 .*; use a server that returns token ids"):
        engine.generate([Request(prompt_of(server), 5, GREEDY)])


def test_what_is_asked(server):
    engine = engine_of(server)
    request = Request(prompt_of(server), 9, Sampling(0.6, 0.9, 0), seed=5, n=2, stop_ids=frozenset({40}))
    completions = engine.generate([request])
    [body] = server.asked
    assert (body["n"], body["seed"], body["top_k"], body["top_p"], body["temperature"]) == (2, 5, -1, 0.9, 0.6)
    assert body["stop_token_ids"] == sorted({server.tokenizer.eos_token_id, 40}) and body["prompt"] == prompt_of(
        server
    )
    assert "logit_bias" not in body and "logprobs" not in body
    first, second = (completion.spend for completion in completions)
    assert second.computed_prompt_tokens == 0 < first.computed_prompt_tokens and second.prompt_tokens > 0
    engine.generate([Request([*prompt_of(server), *server.ids[:4]], 9, Sampling(), seed=5, offset=4)])
    assert server.asked[-1]["seed"] != 5  # a continuation has luck of its own


def test_greedy_samples_are_asked_for_one_by_one(server):
    completions = engine_of(server).generate([Request(prompt_of(server), 9, GREEDY, n=3)])
    assert len(completions) == 3 and [body["n"] for body in server.asked] == [1, 1, 1]


def test_stops(server, thinking):
    engine = engine_of(server)
    close_id = thinking.close_ids[0]
    until_close = server.ids[: server.ids.index(close_id) + 1]
    by_id = Request(prompt_of(server), 64, GREEDY, stop_ids=frozenset({close_id}))
    by_text = Request(prompt_of(server), 64, GREEDY, stop_strings=("</think>",))
    for completion in engine.generate([by_id, by_text]):
        assert (completion.ids, completion.finished, completion.stopped) == (until_close, False, True)


def test_forbidden_first_tokens_take_two_requests(server):
    engine = engine_of(server)
    bias = {40: 1.5}
    request = Request(
        prompt_of(server), 64, GREEDY, logit_bias=bias, forbidden_first_ids=frozenset({server.ids[0]}), logprobs=True
    )
    [completion] = engine.generate([request])
    first, rest = server.asked
    assert first["logit_bias"] == {"40": 1.5, str(server.ids[0]): -100.0} and rest["logit_bias"] == {"40": 1.5}
    assert (first["max_tokens"], rest["max_tokens"]) == (1, 63) and rest["prompt"][-1] == server.ids[1]
    assert completion.ids[0] == server.ids[1] and completion.spend.requests == 2
    assert len(completion.logprobs) == len(completion.ids) == completion.spend.decoded_tokens
    assert completion.spend.prompt_tokens == 2 * len(prompt_of(server)) + 1


def test_stop_string_that_begins_in_the_first_token(server, tokenizer):
    engine = engine_of(server)
    text = tokenizer.decode(server.ids[1:3])
    request = Request(
        prompt_of(server), 64, GREEDY, stop_strings=(text,), forbidden_first_ids=frozenset({server.ids[0]})
    )
    server.next_ids = lambda body: server.ids[1:2] if body["max_tokens"] == 1 else server.ids[2:]
    [completion] = engine.generate([request])
    assert completion.ids == server.ids[1:3] and completion.stopped and not completion.finished
    assert completion.spend.decoded_tokens == len(server.ids) - 1  # what came behind the stop was decoded, too


def test_server_that_ignores_a_bias_is_refused(server):
    engine = engine_of(server)
    server.next_ids = lambda body: server.ids[:1]
    request = Request(prompt_of(server), 4, GREEDY, forbidden_first_ids=frozenset({server.ids[0]}))
    with pytest.raises(BadInput, match="does not keep to logit_bias"):
        engine.generate([request])


def test_score_and_capabilities(server):
    engine = engine_of(server)
    assert engine.capabilities == {LOGIT_BIAS, LOGPROBS, SCORE}
    [score] = engine.score([(prompt_of(server), server.ids[:3])])
    assert score.logprobs == [-0.5] * 3 and score.spend.prompt_tokens == len(prompt_of(server)) + 3
    server.names = "text"
    server.changes = {"choices": [{"index": 0, "text": "1", "finish_reason": "length"}]}
    assert engine_of(server).capabilities == {LOGIT_BIAS}


def test_log_probabilities_at_other_temperatures_are_refused(server):
    with pytest.raises(BadInput, match="set temperature to 0 or 1"):
        engine_of(server).generate([Request(prompt_of(server), 4, Sampling(), logprobs=True)])


def test_prompt_that_is_read_otherwise_is_refused(server):
    engine = engine_of(server)
    server.changes = {"usage": {"prompt_tokens": 99, "completion_tokens": 4}}
    with pytest.raises(BadInput, match=r"read 99 tokens where .* takes prompts as token ids"):
        engine.generate([Request(prompt_of(server), 4, GREEDY)])
    server.changes = {"choices": []}
    with pytest.raises(BadInput, match="does not reply like an OpenAI-compatible server"):
        engine.generate([Request(prompt_of(server), 4, GREEDY)])


def test_busy_server_is_asked_again(server):
    engine = engine_of(server)
    server.busy = 2
    [completion] = engine.generate([Request(prompt_of(server), 64, GREEDY)])
    assert completion.ids == server.ids and len(server.asked) == 3


def test_environment_names_the_server(server, tokenizer, monkeypatch):
    eos_ids = frozenset({tokenizer.eos_token_id})
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert OpenAIEngine.from_environment(tokenizer, eos_ids).model == "tiny"
    monkeypatch.setenv("OPENAI_MODEL", "other")
    assert OpenAIEngine.from_environment(tokenizer, eos_ids).model == "other"
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(BadInput, match="set OPENAI_BASE_URL"):
        OpenAIEngine.from_environment(tokenizer, eos_ids)


def test_budget_is_kept_in_two_passes(server, thinking):
    close = ForcedClose(4, thinking)
    server.next_ids = lambda body: _thinks_on(server, thinking, body)
    [completion] = TwoPassEngine(engine_of(server)).generate(
        [Request(prompt_of(server), 16, GREEDY, forced_close=close)]
    )
    assert completion.was_closed and completion.spend.forced_tokens == len(thinking.closing())
    assert thinking.split(completion.ids).closed and len(completion.ids) <= 16


def _thinks_on(server: Server, thinking, body: dict) -> list[int]:
    """A model that never stops thinking, and answers with one token once it is made to."""
    if thinking.close_ids[0] in body["prompt"]:
        return [server.ids[-2], server.ids[-1]][: body["max_tokens"]]
    return [*server.ids[:1], *(server.ids[1] for _ in range(99))][: body["max_tokens"]]


# ---- a server that dies ----


def evaluate(server: Server, thinking, out, problems: Sequence[dict]) -> list[dict]:
    """The rows of a run, without the time that they took."""
    from efficient_reasoning.traces import sample_traces

    reasoner = Reasoner(
        engine=engine_of(server),
        tokenizer=server.tokenizer,
        thinking=thinking,
        metadata=None,
        name="tiny",
        location="tiny",
        weights=None,
        context_tokens=None,
        backend="openai",
    )
    out.mkdir(exist_ok=True)
    path = out / "samples.jsonl"
    sample_traces(
        reasoner,
        problems,
        strategies=["budget-forcing"],
        budgets=[24],
        samples_per_problem=1,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        max_new_tokens=64,
        seed=0,
        path=path,
        config_path=out / "config.yaml",
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["spend"].pop("seconds")
    return rows


def test_run_goes_on_where_the_server_died(server, thinking, tmp_path, monkeypatch):
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.prompts import encode_prompt, make_prompt

    monkeypatch.setattr(OpenAIEngine, "chunk_requests", 4)
    problems = load_problems("sums", "test", 12, 0)
    whole = evaluate(server, thinking, tmp_path / "whole", problems)
    asked = len(server.asked)

    explored = 2  # what an engine asks when it is made
    server.left = explored + 6
    with pytest.raises(BadInput, match=r"does not answer \(.*\); start the server, and the same command resumes"):
        evaluate(server, thinking, tmp_path / "cut", problems)
    written = [json.loads(line) for line in (tmp_path / "cut/samples.jsonl").read_text().splitlines()]
    assert len(written) == 4  # one chunk; what was under way is lost

    server.left = math.inf
    resumed = evaluate(server, thinking, tmp_path / "cut", problems)
    assert resumed == whole
    assert len(server.asked) == asked * 8 // 12
    prompts = [body["prompt"] for body in server.asked]
    for row in written:
        assert encode_prompt(server.tokenizer, make_prompt(server.tokenizer, row["question"])) not in prompts
