"""Long and short chains under two conditions, with every kind of shortener."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_tools.c3ot import c3ot, main
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.compression.shortener import by_engine
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference import load_reasoner
from efficient_reasoning.thinking import ThinkingFormat

LONG = "First, 48/2=24. Wait, check: 24*2=48. Yes.\nThen 48+24=72. Wait, check: 72-24=48. Yes.\n"
SHORT = "48/2=24, 48+24=72"


@pytest.fixture(scope="module")
def thinking() -> ThinkingFormat:
    folder = resolve_model("overthinker")
    return thinking_format(folder, load_tokenizer(folder))


@pytest.fixture
def trace(thinking) -> Callable[..., dict]:
    def trace(problem: str = "a", chain: str = LONG, answer: str = "72", seed: int = 0, **changes) -> dict:
        text = thinking.write(chain, answer)
        ids = thinking.tokenizer.encode(text, add_special_tokens=False)
        return {
            "id": problem,
            "task": "numeric",
            "question": f"48 clips and half as many, {problem}?",
            "answer": "72",
            "prompt": f"48 clips and half as many, {problem}?\n",
            "completion": text,
            "prompt_ids": thinking.tokenizer.encode("48 clips"),
            "completion_ids": [*ids, *thinking.eos_ids],
            "thinking": chain,
            "final_answer": answer,
            "correct": answer == "72",
            "truncated": False,
            "thinking_tokens": len(ids) - 3,
            "total_tokens": len(ids),
            "seed": seed,
        } | changes

    return trace


class Server:
    """Speaks /chat/completions: `reply` makes the text of its reply from what it was asked.

    Attributes:
        asked: the bodies of all requests.
        status: of its replies to requests that hold `refused`.
        left: how many replies it still gives before it dies.
    """

    def __init__(self):
        self.asked: list[dict] = []
        self.reply: Callable[[str], str | None] = lambda text: SHORT
        self.finish_reason = "stop"
        self.refused, self.status, self.left = "", 200, 1000
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                with lock:
                    outer.asked.append(body)
                    outer.left -= 1
                    if outer.left < 0:
                        return self.close_connection  # without a word
                is_refused = outer.status != 200 and outer.refused in text
                choice = {"message": {"content": outer.reply(text)}, "finish_reason": outer.finish_reason}
                data = json.dumps({"choices": [choice]}).encode()
                self.send_response(outer.status if is_refused else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                return self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                """Tests are quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"http://127.0.0.1:{self.http.server_port}/v1", "tiny"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", server.place[0])
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    monkeypatch.setattr("efficient_reasoning.server.RETRY_PAUSES_SECONDS", (0.0, 0.0))
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_the_shortest_correct_trace_stands_beside_the_median_one(trace, thinking):
    chains = [SHORT, SHORT + " so", SHORT + " so 72", LONG, LONG + LONG]
    traces = [trace(chain=chain, seed=seed) for seed, chain in enumerate(chains)]
    traces += [trace(chain="72", answer="71", seed=8), trace(chain="72", truncated=True), trace(chain="", seed=9)]
    for order in (traces, traces[::-1]):
        long, short = c3ot(order, thinking=thinking)
        assert (long["completion"], short["completion"]) == (traces[2]["completion"], traces[0]["completion"])
        assert (long["control"], short["control"]) == ("<|long|>", "<|short|>")
        assert (long["prompt"], short["prompt"]) == tuple(
            f"48 clips and half as many, a?{control}\n" for control in ("<|long|>", "<|short|>")
        )
        assert long["keep_ratio"] == 1 and long["source_tokens"] == short["source_tokens"] == long["total_tokens"]
        assert short["keep_ratio"] == short["total_tokens"] / long["total_tokens"] < 1


def test_problems_without_a_pair_are_counted(trace, thinking):
    rejected = Counter()
    traces = [
        trace("a", seed=0),
        trace("a", seed=1),  # as long
        trace("b", answer="71"),
        trace("c", truncated=True),
        trace("c", answer="71"),
        trace("c", truncated=True),
        trace("d"),
        trace("d", chain=SHORT),
    ]
    rows = c3ot(traces, thinking=thinking, rejected=rejected, max_tokens=traces[0]["total_tokens"])
    assert [row["source_id"] for row in rows] == ["d", "d"]
    assert rejected == {"no shorter trace": 1, "wrong": 1, "truncated": 1}
    assert list(c3ot(traces, thinking=thinking, rejected=rejected, max_tokens=20)) == []
    assert rejected["too long"] == 2


def test_a_chain_that_the_data_brings_is_checked(trace, thinking):
    rejected = Counter()
    given = [
        SHORT,
        "48/2=25, 48+25=73",
        "72",
        LONG + LONG,
        f"<think>{SHORT}",
        " ",
        7,
        "48+24=72, so the answer is 24.",
    ]
    traces = [trace(str(n), metadata={"short_chain": chain}) for n, chain in enumerate(given)]
    rows = list(c3ot([*traces, trace("x")], thinking=thinking, shortener="given", rejected=rejected))
    assert [row["completion"] for row in rows] == [thinking.write(LONG, "72"), thinking.write(SHORT, "72")]
    assert rejected == {
        "no short chain given": 3,
        "a number invented": 1,
        "a number lost": 1,
        "not shorter": 1,
        "delimiters in the short chain": 1,
        "another answer": 1,
    }


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (SHORT, None),
        (f"<think>They want it short.</think>\n{SHORT}\n", None),
        ("48/2=24, 48+24=72. The answer is 73.", "another answer"),
        ("", "nothing returned"),
        (None, "nothing returned"),
        (LONG + LONG, "not shorter"),
        ("48/2=24", "a number lost"),
    ],
)
def test_a_server_is_asked_and_not_trusted(server, trace, thinking, reply, fault):
    server.reply = lambda text: reply
    rejected = Counter()
    asked = {"thinking": thinking, "shortener": "server", "server": server.place, "rejected": rejected}
    rows = list(c3ot([trace(answer="71", seed=2), trace()], **asked))
    assert [row["completion"] for row in rows[1:]] == ([] if fault else [thinking.write(SHORT, "72")])
    assert rejected == ({fault: 1} if fault else {})
    [body] = server.asked
    assert (body["model"], body["temperature"]) == ("tiny", 0)
    parts = ("48 clips and half as many, a?", LONG.strip(), "Final answer:\n72")
    assert all(part in body["messages"][0]["content"] for part in parts)


def test_a_reply_in_parts_is_joined_and_one_of_no_text_is_named(trace, thinking, monkeypatch):
    replies = iter([[{"type": "text", "text": SHORT[:10]}, {"type": "text", "text": SHORT[10:]}], 7])
    reply = lambda *_, **__: {"choices": [{"message": {"content": next(replies)}}]}  # noqa: E731
    monkeypatch.setattr("efficient_reasoning.compression.shortener.ask", reply)
    asked = {"thinking": thinking, "shortener": "server", "server": ("http://127.0.0.1:1", "tiny")}
    assert [row["completion"] for row in c3ot([trace()], **asked)][1:] == [thinking.write(SHORT, "72")]
    with pytest.raises(BadInput, match=r"127\.0\.0\.1"):
        list(c3ot([trace()], **asked))


def test_a_server_that_cuts_off_or_refuses_a_chain_loses_that_chain(server, trace, thinking):
    server.refused, server.status = "many, b?", 400
    asked = {"thinking": thinking, "shortener": "server", "server": server.place, "rejected": Counter()}
    with pytest.warns(UserWarning, match="Shortener tiny at .* refused"):
        assert len(list(c3ot([trace("a"), trace("b"), trace("c")], **asked))) == 4
    assert asked["rejected"] == {"refused by the shortener": 1}
    server.status, server.finish_reason = 200, "length"
    assert list(c3ot([trace()], **asked)) == []
    assert asked["rejected"]["cut off by the shortener"] == 1


def test_a_server_that_refuses_us_or_dies_stops_the_run_which_resumes(server, trace, tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.c3ot.CONCURRENCY", 2)
    write_jsonl(tmp_path / "traces.jsonl", [trace(problem) for problem in "abcdef"])
    command = ["--traces", str(tmp_path / "traces.jsonl"), "--out", str(tmp_path / "rows.jsonl")]
    command += ["--model", "overthinker", "--shortener", "server"]
    server.status = 401
    with pytest.raises(BadInput, match=r"Shortener tiny at .* refused \(HTTP 401.*check address, model and key"):
        main(command)
    end = time.monotonic() + 2
    while len(server.asked) < 2 and time.monotonic() < end:  # the other of the two may still be on its way
        time.sleep(0.01)
    server.status, server.left = 200, 4
    with pytest.raises(BadInput, match=r"does not answer .*; start the server, and the same command resumes"):
        main(command)
    assert not (tmp_path / "rows.jsonl").exists()
    server.left, before = 1000, len(server.asked)
    main(command)
    again = {body["messages"][0]["content"].partition("half as many, ")[2][0] for body in server.asked[before:]}
    assert again == {"e", "f"}  # what is on the disk is not asked again
    assert [row["source_id"] for row in read_jsonl(tmp_path / "rows.jsonl")] == [c for c in "abcdef" for _ in range(2)]
    with pytest.raises(BadInput, match="holds rows that differ in shortener_model"):
        main([*command, "--shortener_model", "another"])
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(BadInput, match=r"The shortener has no server at ''; set OPENAI_BASE_URL"):
        main(command)


def test_an_engine_is_asked_without_thinking(trace, thinking):
    reasoner = load_reasoner("overthinker", backend="mock", script=("48/2", SHORT))
    rows = list(c3ot([trace(), trace("b")], reasoner, thinking=thinking, shortener="engine"))
    assert [row["completion"] for row in rows[1::2]] == 2 * [thinking.write(SHORT, "72")]
    requests = reasoner.engine.requests
    assert all(thinking.phases(request.prompt_ids)[-1] == "closed" for request in requests)
    assert all(request.max_new_tokens <= rows[0]["total_tokens"] for request in requests)
    given = {"thinking": thinking, "shortener": "engine", "shortener_strategy": "budget-forcing"}
    assert len(list(c3ot([trace()], reasoner, **given))) == 2
    assert thinking.phases(requests[-1].prompt_ids)[-1] != "closed"


def test_an_engine_that_reads_too_little_or_writes_too_much_loses_the_chain(trace):
    long_winded = load_reasoner("overthinker", backend="mock", script=("", "7" * 300))
    [cut], [endless] = map(by_engine(long_winded), ([trace()], [trace(chain=LONG * 40)]))
    assert (cut.fault, endless.fault) == ("cut off by the shortener", "too long for the shortener")
    assert by_engine(long_winded)([]) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--short_control", "<|long|>"], "the short chains need a text of their own"),
        (["--short_control", " "], "the short chains need a text of their own"),
        (["--shortener_model", "tiny"], "shortener_model is for server and engine, not for traces"),
        (["--shortener", "trace"], "shortener must be one of server, engine, given, traces"),
        (["--model", "./nowhere"], r"\./nowhere: no such checkpoint folder"),
    ],
)
def test_bad_arguments_are_named(trace, tmp_path, arguments, sentence):
    write_jsonl(tmp_path / "traces.jsonl", [trace(), trace(chain=SHORT)])
    command = ["--config", "data/c3ot_overthinker", "--traces", str(tmp_path / "traces.jsonl")]
    with pytest.raises(BadInput, match=sentence):
        main([*command, "--out", str(tmp_path / "rows.jsonl"), *arguments])
    assert not (tmp_path / "rows.jsonl").exists()


def test_the_program_says_what_each_condition_comes_to(trace, tmp_path, capsys):
    write_jsonl(tmp_path / "traces.jsonl", [trace(), trace(chain=SHORT), trace("b", answer="71")])
    command = ["--config", "data/c3ot_overthinker", "--traces", str(tmp_path / "traces.jsonl")]
    main([*command, "--out", str(tmp_path / "rows.jsonl")])
    long, short = read_jsonl(tmp_path / "rows.jsonl")
    said = capsys.readouterr().out
    assert "rows.jsonl: 2 rows from 2 problems" in said
    assert "<|long|>: 1 rows, ratio 1.00.\n" in said
    assert f"<|short|>: 1 rows, ratio {short['total_tokens'] / long['total_tokens']:.2f}.\n" in said
    assert "1 wrong." in said
