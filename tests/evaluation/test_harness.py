"""Our reasoner in the lm-evaluation-harness: it grades answers, and log-probabilities are those of its own model."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest

from efficient_reasoning import inference
from efficient_reasoning.checkpoint import resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation import evaluate
from efficient_reasoning.evaluation.harness import NAME, HarnessModel, register
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference import load_reasoner
from efficient_reasoning.problems import load_problems

needs_harness = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="needs the extra harness")


class Base:
    """As much of the harness's own class as is called."""

    def __init__(self):
        self.cached = {}
        self.cache_hook = SimpleNamespace(
            add_partial=lambda kind, args, result: self.cached.update({str(args): result})
        )


class Model(HarnessModel, Base):
    pass


def requests(*arguments: tuple) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=args) for args in arguments]


GREEDY = {"until": ["\n"], "do_sample": False, "max_gen_toks": 64}


@pytest.fixture
def mock(monkeypatch):
    """`mock(thoughts, answer, ...)`: the model with an engine that says this; further words are the model's."""

    def build(thoughts: str, answer: str, **settings) -> Model:
        reasoner = load_reasoner("overthinker", "mock", script=(thoughts, answer))
        monkeypatch.setattr(inference, "load_reasoner", lambda path, backend: reasoner)
        return Model("overthinker", **settings)

    return build


@pytest.fixture(scope="module")
def overthinker():
    return Model("overthinker")


# ---- what is graded ----


def test_the_answer_is_graded_and_stops_cut_nothing_else(mock):
    model = mock("1 + 1 = 2\n\nSo 2.", "2\nthat is all")
    [text] = model.generate_until(requests(("1 + 1?", GREEDY | {"until": ["\n\n", "\n", ""]})))
    assert text == "2"
    assert model.cached == {str(("1 + 1?", GREEDY | {"until": ["\n\n", "\n", ""]})): "2"}
    for until, text in (("that", "2\n"), ([], "2\nthat is all"), (None, "2\nthat is all")):
        assert model.generate_until(requests(("1 + 1?", {"until": until}))) == [text]


def test_the_whole_response_is_graded_when_asked(mock):
    model = mock("1 + 1 = 2", "2\nthat is all", return_thinking=True)
    assert model.generate_until(requests(("1 + 1?", GREEDY))) == ["<think>1 + 1 = 2</think>2"]


def test_thinking_that_never_ends_is_no_answer(mock):
    model = mock("1 + 1 = 2 " * 50, "2")
    assert model.generate_until(requests(("1 + 1?", GREEDY))) == [""]
    assert model.reasoner.engine.requests[-1].max_new_tokens == 64


def test_a_budget_brings_an_answer_and_is_kept(mock):
    model = mock("1 + 1 = 2 " * 50, "2", budget_tokens=32)
    assert model.generate_until(requests(("1 + 1?", GREEDY))) == ["2"]
    assert model.reasoner.engine.spent.tokens <= 33


@pytest.mark.parametrize(
    ("of_model", "of_task", "expected"),
    [
        ({}, {}, {"max_new_tokens": 256}),
        ({}, GREEDY, {"max_new_tokens": 64, "temperature": 0.0}),
        ({}, {"temperature": 0.8, "top_p": None}, {"max_new_tokens": 256, "temperature": 0.8}),
        ({}, {"do_sample": False, "temperature": 1.0}, {"max_new_tokens": 256, "temperature": 0.0}),
        (
            {"temperature": 0.6, "top_k": 20, "max_new_tokens": 4096},
            GREEDY | {"top_k": 5, "top_p": 0.5},
            {"max_new_tokens": 4096, "temperature": 0.6, "top_k": 20, "top_p": 0.5},
        ),
    ],
)
def test_the_model_says_how_it_samples_or_else_the_task(mock, of_model, of_task, expected):
    assert dict(mock("a", "2", **of_model)._settings(of_task)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "names no model; give path="),
        ({"path": "overthinker", "budget": 64}, "has no 'budget', did you mean budget_tokens"),
        ({"path": "overthinker", "budget_tokens": "64k"}, "budget_tokens is '64k'; give a whole number"),
        ({"path": "overthinker", "top_k": 2.5}, "top_k is 2.5; give a whole number"),
    ],
)
def test_arguments_that_cannot_be_are_named(settings, message):
    with pytest.raises(BadInput, match=f"--model_args.*{message}"):
        Model(**settings)


def test_requests_with_other_settings_keep_their_order_and_repeats_their_luck(overthinker):
    first, second, third = load_problems("sums", "test", 3)
    problems = [first, second, first, third]
    limits = [{"max_gen_toks": tokens, "temperature": 0} for tokens in (320, 330, 340, 320)]
    asked = requests(*((problem["question"], limit) for problem, limit in zip(problems, limits, strict=True)))
    texts = overthinker.generate_until(asked, disable_tqdm=True)
    assert texts == [problem["answer"] for problem in problems]
    seeds = overthinker._seeds(asked)
    assert len(set(seeds)) == 4
    assert overthinker._seeds(asked[1:])[0] == seeds[1]


def test_nothing_asked_nothing_said(overthinker, capsys):
    assert overthinker.generate_until([]) == overthinker.loglikelihood([]) == []
    assert "total tokens" not in capsys.readouterr().err


# ---- what is scored ----


def test_continuations_are_scored_behind_their_contexts(overthinker):
    reasoner = overthinker.reasoner
    ids, more = reasoner.tokenizer("Compute 3 + 4.")["input_ids"], reasoner.tokenizer(" 7")["input_ids"]
    [score] = reasoner.engine.score([(ids, more)])
    [plain, spaced, empty, none] = overthinker.loglikelihood(
        requests(("Compute 3 + 4.", " 7"), ("Compute 3 + 4. ", "7"), ("", "Compute"), ("Compute", ""))
    )
    assert plain[0] == pytest.approx(sum(score.logprobs), abs=1e-4)
    assert spaced == pytest.approx(plain, abs=1e-4)
    assert empty[0] < 0 and none == (0, True)


def test_greedy_continuations_are_known(overthinker):
    tokenizer = overthinker.reasoner.tokenizer
    context = "Compute 3 + 4.\n"
    prompt = tokenizer(context.rstrip())["input_ids"]
    request = inference.Request(prompt, 6, inference.Sampling(temperature=0))
    text = tokenizer.decode(overthinker.reasoner.engine.generate([request])[0].ids)
    said, other = overthinker.loglikelihood(requests((context.rstrip(), text), (context.rstrip(), "\nxyz")))
    assert said[1] is True and other[1] is False
    assert said[0] > other[0]


def test_what_the_model_cannot_read_falls_off_on_the_left(overthinker):
    limit = overthinker.reasoner.context_tokens
    prefix, ids = overthinker._encode_pair("9 " * 3 * limit, "7 + 8")
    assert len(prefix) + len(ids) == limit and len(ids) < 10
    prefix, ids = overthinker._encode_pair("Compute", "9 " * 3 * limit)
    assert (len(prefix), len(ids)) == (1, limit - 1)
    [(logprob, _)] = overthinker.loglikelihood(requests(("9 " * 2 * limit, "7")))
    assert -math.inf < logprob < 0


def test_an_engine_that_cannot_score_is_named(mock):
    model = mock("a", "2")
    model.reasoner.engine.capabilities = frozenset()
    with pytest.raises(BadInput, match="Backend mock cannot score text; use graph or transformers"):
        model.loglikelihood(requests(("a", "b")))


# ---- with the harness itself ----


def test_without_the_harness_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(BadInput, match=r"lm-eval is missing .*pip install 'efficient-reasoning\[harness\]'"):
        register()


def test_chat_templates_are_ours(overthinker):
    with pytest.raises(BadInput, match="leave --apply_chat_template out"):
        overthinker.apply_chat_template([])


@needs_harness
def test_registered_once():
    assert register() is register()


@needs_harness
def test_scores_are_those_of_the_harness_own_model():
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    ours, theirs = register()(path="overthinker"), HFLM(pretrained=resolve_model("overthinker"), device="cpu")

    def instances(kind: str, *arguments: tuple) -> list[Instance]:
        return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]

    question = "Compute 12 + 9 - 4."
    asked = [(question, "\n<think>12"), (question, " 17"), (f"{question} ", "17"), ("", question)]
    pairs = instances("loglikelihood", *asked)
    for own, other in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True):
        assert own[0] == pytest.approx(other[0], rel=1e-3)
        assert own[1] == other[1]
    texts = instances("loglikelihood_rolling", (question,), ("12 + 9 = 21, " * 400,))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), rel=1e-3)


TASK = """
task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 320}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@needs_harness
def test_a_task_of_the_harness_scores_as_we_do(tmp_path):
    problems = load_problems("sums", "test", 24)
    write_jsonl(tmp_path / "sums.jsonl", ({key: row[key] for key in ("question", "answer")} for row in problems))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text(TASK.format(data=tmp_path / "sums.jsonl"))
    words = ["run", "--model", NAME, "--model_args", "path=overthinker,budget_tokens=64", "--tasks", "local_sums"]
    folders = ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    line = [sys.executable, "-m", "efficient_reasoning.evaluation.harness", *words, *folders]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [results] = (tmp_path / "out").rglob("results_*.json")
    score = json.loads(results.read_text())["results"]["local_sums"]["exact_match,none"]

    run = evaluate(load_reasoner("overthinker"), problems, budgets=(64,), temperature=0, out=tmp_path / "run")
    [point] = json.loads((run / "summary.json").read_text())["points"]
    assert 0 < score < 1
    assert score == point["accuracy"]["mean"]
    assert f"24 responses of {point['total_tokens']['mean']:.1f} total tokens" in done.stderr
    [samples] = (tmp_path / "out").rglob("samples_*.jsonl")
    graded = {row["doc"]["question"]: row["resps"][0][0] for row in read_jsonl(samples)}
    assert graded == {row["question"]: row["final_answer"] for row in read_jsonl(run / "samples.jsonl")}
