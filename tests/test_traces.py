"""Traces: complete, resumable, and the very tokens that the model wrote. Made with the embedded overthinker."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import shutil
from itertools import islice
from types import SimpleNamespace

import pytest

from efficient_reasoning import answers, scribes
from efficient_reasoning import traces as traces_module
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import lock, read_jsonl, write_jsonl
from efficient_reasoning.inference import Completion, Ledger, load_reasoner
from efficient_reasoning.problems import draw_problems
from efficient_reasoning.prompts import encode_prompt
from efficient_reasoning.scribes import floor_tokens
from efficient_reasoning.thinking import ThinkingFormat
from efficient_reasoning.traces import read_traces, sample_traces, tokenizer_hash
from tests.data_tools.written import counted

SETTINGS = {
    "strategies": ["budget-forcing"],
    "budgets": [None],
    "samples_per_problem": 2,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "max_new_tokens": 320,
    "seed": 0,
}
CONTRACT = {
    *("id", "question", "answer", "task", "difficulty", "metadata"),
    *("prompt", "completion", "prompt_ids", "completion_ids", "tokenizer_hash", "thinking", "final_answer", "correct"),
    *(
        "truncated",
        "thinking_tokens",
        "answer_tokens",
        "total_tokens",
        "latent_tokens",
        "model",
        "seed",
        "temperature",
    ),
    *("strategy", "budget_tokens", "sample_index", "forced_close", "empty_answer", "floor_tokens", "spend"),
    *("first_correct_tokens", "settled_tokens", "loops"),
}
OPENING_TEMPLATE = (  # as DeepSeek-R1's and Qwen3.5's: the generation prompt opens the block
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)


@pytest.fixture(scope="module")
def reasoner():
    return load_reasoner("overthinker")


@pytest.fixture(scope="module")
def problems():
    return list(islice(draw_problems("mixed", "validation"), 6))


def sampled(reasoner, problems, folder, **settings) -> list[dict]:
    path = folder / "traces.jsonl"
    sample_traces(reasoner, problems, **SETTINGS | settings, path=path, config_path=folder / "traces.config.yaml")
    return list(read_traces(path))


@pytest.fixture(scope="module")
def folder(reasoner, problems, tmp_path_factory):
    """Twelve traces on the disk."""
    folder = tmp_path_factory.mktemp("traces")
    sampled(reasoner, problems, folder)
    return folder


@pytest.fixture(scope="module")
def traces(folder):
    return list(read_jsonl(folder / "traces.jsonl"))


class Scripted:
    """An engine that always decodes the same ids."""

    capabilities = frozenset()

    def __init__(self, ids: list[int], finished: bool):
        self.ids, self.finished = ids, finished

    def generate(self, requests):
        return [Completion(self.ids, self.finished, Ledger(decoded_tokens=len(self.ids))) for _ in requests]


def scripted(reasoner, text: str, finished: bool = True, template: str | None = None):
    """The reasoner with its tokenizer, always saying `text`."""
    tokenizer = copy.deepcopy(reasoner.tokenizer)
    tokenizer.chat_template = template
    ids = tokenizer.encode(text) + finished * [tokenizer.eos_token_id]
    thinking = ThinkingFormat.from_tokenizer(tokenizer)
    return dataclasses.replace(reasoner, engine=Scripted(ids, finished), tokenizer=tokenizer, thinking=thinking)


def test_a_trace_is_what_the_contract_says(reasoner, problems, traces):
    assert len(traces) == 12
    assert all(trace.keys() == CONTRACT for trace in traces)
    by_id = {problem["id"]: problem for problem in problems}
    for trace in traces:
        problem = by_id[trace["id"]]
        assert {key: trace[key] for key in problem} == problem
        assert trace["prompt_ids"] == encode_prompt(reasoner.tokenizer, trace["prompt"])
        assert trace["correct"] == answers.verify(problem, trace["final_answer"])
        assert trace["total_tokens"] > trace["thinking_tokens"] + trace["answer_tokens"]
        assert trace["floor_tokens"] == floor_tokens(problem, reasoner.thinking)
        assert trace["tokenizer_hash"] == tokenizer_hash(reasoner.tokenizer)
        assert (trace["model"], trace["temperature"]) == ("overthinker", 0.6)
    assert sum(trace["correct"] for trace in traces) >= 9
    assert len({(trace["id"], trace["seed"]) for trace in traces}) == 12


def test_a_completion_is_the_decoded_ids_up_to_their_end(reasoner, traces):
    for trace in traces:
        assert trace["completion"] + "<|end|>" == reasoner.tokenizer.decode(trace["completion_ids"])
        assert trace["completion"].startswith("<think>") and "</think>" in trace["completion"]
        assert trace["total_tokens"] == len(trace["completion_ids"]) - 1


def test_a_trace_that_was_cut_off_ends_where_it_ended(reasoner, problems, tmp_path):
    [trace] = sampled(
        scripted(reasoner, "<think>First, 3+", finished=False), problems[:1], tmp_path, samples_per_problem=1
    )
    assert trace["completion"] == "<think>First, 3+"
    assert trace["truncated"] and trace["empty_answer"] and not trace["correct"]
    assert trace["total_tokens"] == len(trace["completion_ids"])


def test_a_forced_close_is_part_of_the_completion(reasoner, problems, tmp_path):
    forced = [trace for trace in sampled(reasoner, problems, tmp_path, budgets=[24]) if trace["forced_close"]]
    assert forced
    for trace in forced:
        assert trace["completion"].startswith(f"<think>{trace['thinking']}")
        assert trace["completion"].endswith(f"</think>{trace['final_answer']}")
        assert trace["budget_tokens"] == 24 >= trace["total_tokens"]


def test_a_block_that_the_template_opens_is_whole_in_the_row(reasoner, problems, tmp_path):
    talker = scripted(reasoner, "1+1=2\n</think>\n\n2", template=OPENING_TEMPLATE)
    [trace] = sampled(talker, problems[:1], tmp_path, samples_per_problem=1)
    assert trace["prompt"] == [{"role": "user", "content": problems[0]["question"]}]
    assert trace["completion"] == [{"role": "assistant", "content": "<think>\n1+1=2\n</think>\n\n2"}]
    assert talker.tokenizer.decode(trace["prompt_ids"]).endswith("assistant: <think>\n")
    assert "<think>" not in talker.tokenizer.decode(trace["completion_ids"])


def drawn(family: str, problem: dict) -> dict:
    """The problem under the id that its family would give it."""
    return problem | {"id": f"{family}-{hashlib.blake2b(problem['question'].encode(), digest_size=6).hexdigest()}"}


def test_the_turns_before_a_question_are_read_and_written_down(reasoner, problems, tmp_path):
    turns = [{"role": "user", "content": "Take 3."}, {"role": "assistant", "content": "I have 3."}]
    problem = {"id": "t", "question": "Add 4.", "answer": "7", "task": "numeric", "metadata": {"earlier_turns": turns}}
    asked = [*turns, {"role": "user", "content": "Add 4."}]
    chat = scripted(reasoner, "</think>7", template=OPENING_TEMPLATE)
    for name, thinker in (("chat", chat), ("plain", scripted(reasoner, "<think></think>7"))):
        for strategy in ("budget-forcing", "chain-of-draft"):
            (folder := tmp_path / name / strategy).mkdir(parents=True)
            *_, last = sampled(thinker, [problems[0], problem], folder, strategies=[strategy])
            assert last["prompt"] == (asked if name == "chat" else "Take 3.\nI have 3.\nAdd 4.\n")
            text = thinker.tokenizer.decode(last["prompt_ids"])
            assert text.startswith(
                "user: Take 3.\nassistant: I have 3.\n" if name == "chat" else "Take 3.\nI have 3.\n"
            )
            assert last["correct"]
    other = problem | {"metadata": {"earlier_turns": turns[:1]}}
    with pytest.raises(BadInput, match="differs in problems_fingerprint"):
        sampled(chat, [problems[0], other], tmp_path / "chat/budget-forcing")
    with pytest.raises(BadInput, match=r"'t': metadata\.earlier_turns is no list of messages"):
        sampled(chat, [problems[0], problem | {"metadata": {"earlier_turns": "Take 3."}}], tmp_path)
    assert not (tmp_path / "traces.jsonl").exists()


def test_the_floor_is_the_bare_equations(reasoner):
    sums = {"family": "sums", "terms": [69, 2, -69]}
    problem = drawn("sums", {"question": "Compute 69 + 2 - 69.", "answer": "2", "metadata": sums})
    shortest = reasoner.tokenizer.encode("<think>69+2=71\n71-69=2</think>2")
    assert floor_tokens(problem, reasoner.thinking) == len(shortest) == 18
    farm = {"family": "heads_and_legs", "heads": 9, "legs": 26, "asked": "rabbits"}
    equations = reasoner.tokenizer.encode("<think>9*2=18\n26-18=8\n8/2=4</think>4")
    problem = drawn("heads_and_legs", {"question": "?", "answer": "4", "difficulty": 1, "metadata": farm})
    assert floor_tokens(problem, reasoner.thinking) == len(equations)
    problem = next(draw_problems("graph_paths", "test"))
    steps = "\n".join(problem["metadata"]["steps"])
    shortest = reasoner.tokenizer.encode(f"<think>{steps}</think>{problem['answer']}")
    assert floor_tokens(problem, reasoner.thinking) == len(shortest)


def test_who_knows_no_floor_has_none(reasoner):
    assert floor_tokens({"answer": "2"}, reasoner.thinking) is None
    assert floor_tokens({"answer": "2", "metadata": {"family": "riddles"}}, reasoner.thinking) is None
    assert floor_tokens({"answer": "2", "metadata": {"floor_tokens": 9}}, reasoner.thinking) == 9


@pytest.mark.parametrize("family", ["sums", ["sums"], 3, None])
@pytest.mark.parametrize("floor", [None, "nine", -1])
def test_a_file_may_call_anything_a_family(reasoner, family, floor):
    problem = {
        "id": "rows-0",
        "question": "1+1?",
        "answer": "2",
        "metadata": {"family": family, "floor_tokens": floor},
    }
    assert floor_tokens(problem, reasoner.thinking) is None


def test_a_problem_without_a_gold_answer_is_named_before_anything_is_solved(reasoner, problems, tmp_path):
    spoilt = [*problems[:-1], problems[-1] | {"answer": "no number"}]
    with pytest.raises(BadInput, match="no number in the answer 'no number'"):
        sampled(reasoner, spoilt, tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_longest_budget_decodes_and_the_others_recall(reasoner, problems, tmp_path):
    alone = {}
    for budget in (None, 60, 90):
        (tmp_path / str(budget)).mkdir()
        for trace in sampled(reasoner, problems, tmp_path / str(budget), budgets=[budget]):
            alone[budget, trace["id"], trace["sample_index"]] = trace["completion_ids"]
    asked = []
    generate = reasoner.engine.generate
    engine = SimpleNamespace(
        generate=lambda requests: asked.extend(requests) or generate(requests),
        capabilities=reasoner.engine.capabilities,
    )
    counting = dataclasses.replace(reasoner, engine=engine)
    (tmp_path / "all").mkdir()
    together = sampled(counting, problems, tmp_path / "all", budgets=[60, None, 90])
    keys = [(trace["budget_tokens"], trace["id"], trace["sample_index"]) for trace in together]
    assert {key: trace["completion_ids"] for key, trace in zip(keys, together, strict=True)} == alone
    forced = sum(trace["forced_close"] for trace in together)
    assert len(asked) <= 2 * len(problems) + forced + 4  # an answer may be over its budget without a forced close


def test_the_model_thinks_more_than_the_floor(traces):
    assert sum(trace["total_tokens"] for trace in traces) > 2 * sum(trace["floor_tokens"] for trace in traces)


def without_cost(trace: dict) -> str:
    return json.dumps({key: value for key, value in trace.items() if key != "spend"})


def test_a_cut_file_is_continued_with_the_same_traces(reasoner, problems, folder, traces, tmp_path, monkeypatch):
    monkeypatch.setattr("efficient_reasoning.traces.CHUNK_REQUESTS", 3)
    lines = (folder / "traces.jsonl").read_bytes().splitlines(keepends=True)
    shutil.copy(folder / "traces.config.yaml", tmp_path)
    (tmp_path / "traces.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:99])
    assert list(map(without_cost, sampled(reasoner, problems, tmp_path))) == list(map(without_cost, traces))
    assert (tmp_path / "traces.jsonl").read_bytes().startswith(b"".join(lines[:7]))


def test_a_second_run_cannot_write_the_same_file(reasoner, problems, folder, traces, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "traces.jsonl").read_bytes()
    with open(tmp_path / "traces.jsonl", "a") as stream:
        assert lock(stream)
        with pytest.raises(BadInput, match=r"traces\.jsonl: another run is writing it"):
            sampled(reasoner, problems, tmp_path)
    assert (tmp_path / "traces.jsonl").read_bytes() == before
    assert len(sampled(reasoner, problems, tmp_path)) == len(traces)


def test_one_bar_that_stays_short_in_a_log(reasoner, problems, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("efficient_reasoning.traces.CHUNK_REQUESTS", 1)
    sampled(scripted(reasoner, "<think></think>1"), problems, tmp_path)
    log = capsys.readouterr().err
    assert "overthinker: budget-forcing, unlimited: 100%" in log and "12/12" in log
    assert log.count("\r") <= 5


def test_a_file_of_unknown_making_is_left_alone(reasoner, problems, tmp_path):
    (tmp_path / "traces.jsonl").write_text("precious\n")
    with pytest.raises(BadInput, match=r"without its traces\.config\.yaml; choose another out"):
        sampled(reasoner, problems, tmp_path)
    assert (tmp_path / "traces.jsonl").read_text() == "precious\n"
    assert not (tmp_path / "traces.config.yaml").exists()


def test_the_hash_tells_vocabularies_apart(reasoner):
    other = copy.deepcopy(reasoner.tokenizer)
    assert tokenizer_hash(other) == tokenizer_hash(reasoner.tokenizer)
    other.add_tokens(["<|new|>"])
    assert tokenizer_hash(other) != tokenizer_hash(reasoner.tokenizer)


def test_files_that_are_no_traces_are_named(traces, tmp_path):
    path = tmp_path / "traces.jsonl"
    with pytest.raises(BadInput, match=r"traces\.jsonl: no such file"):
        list(read_traces(path))
    lacking = {key: value for key, value in traces[1].items() if key != "total_tokens"}
    write_jsonl(path, [traces[0], lacking])
    with pytest.raises(BadInput, match=r"traces\.jsonl, line 2: no 'total_tokens' in it"):
        list(read_traces(path))
    path.write_text(json.dumps(traces[0]) + '\n{"id": \n')
    with pytest.raises(BadInput, match=r"traces\.jsonl, line 2: not valid JSON"):
        list(read_traces(path))


def test_scribes_in_processes_of_their_own_write_the_same(reasoner, problems, tmp_path, monkeypatch):
    """As for a GPU: one chunk is read while the next is decoded, and chunks grow."""
    alone = sampled(reasoner, problems, tmp_path / "alone")
    monkeypatch.setattr(type(reasoner), "decodes_elsewhere", True)
    monkeypatch.setattr(scribes, "_MANY_SAMPLES", 1)
    monkeypatch.setattr(traces_module, "CHUNK_REQUESTS", 2)
    monkeypatch.setattr(reasoner.engine, "rows", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    together = sampled(reasoner, problems, tmp_path / "together")
    for one, other in zip(alone, together, strict=True):
        assert one["spend"].pop("seconds") and other["spend"].pop("seconds")
        one["spend"].pop("peak_memory_bytes"), other["spend"].pop("peak_memory_bytes")
        assert one == other


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"total_tokens": -5}, "its 'total_tokens' is -5, no number of tokens"),
        ({"total_tokens": 10**400}, "no number of tokens"),
        ({"thinking_tokens": True}, "its 'thinking_tokens' is True, no number of tokens"),
        ({"completion_ids": [3, -1]}, "its 'completion_ids' are no token ids"),
        ({"completion_ids": [3, 1.5]}, "its 'completion_ids' are no token ids"),
        ({"prompt_ids": ["3"]}, "its 'prompt_ids' are no token ids"),
        ({"prompt": []}, "its 'prompt' is no list of messages"),
        ({"prompt": [{"role": "user"}]}, "its 'prompt' is no list of messages"),
        ({"metadata": "x"}, "its 'metadata' is no object"),
        ({"latent_tokens": None}, "its 'latent_tokens' is no number of tokens"),
        ({"tokenizer_hash": ["a"]}, "its 'tokenizer_hash' is no text"),
    ],
)
def test_a_trace_that_no_program_writes_is_named_by_its_line(tmp_path, changes, fault):
    row = counted("a", 1, 20)
    write_jsonl(tmp_path / "t.jsonl", [row, row | changes])
    with pytest.raises(BadInput, match=rf"t\.jsonl, line 2: .*{fault}; mend or remove the line"):
        list(read_traces(tmp_path / "t.jsonl"))


def test_a_run_knows_the_files_that_its_strategies_name(tmp_path):
    probe = tmp_path / "probe.safetensors"
    others = []
    no_paths = ["budget-forcing?wait_text=probe", f"budget-forcing?wait_text={5000 * 'x'}"]
    strategies = [f"probe-switch?probe={probe}&threshold=0.1", *no_paths]
    for text in ("one", "two"):
        probe.write_text(text)
        others.append(traces_module._others(strategies, load_reasoner("overthinker", "mock")))
    assert [list(found) for found in others] == [[str(probe)]] * 2
    assert others[0] != others[1]
