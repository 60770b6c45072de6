"""Whole audits: of logs, of labelled solutions, and of a model that a script plays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from efficient_reasoning import answers, cli
from efficient_reasoning.audit import audit_logs, audit_model
from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_jsonl
from efficient_reasoning.inference import load_reasoner

DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", Path(__file__).parents[2] / "../shared/data"))
LABELLED = DATA / "gsm8k/example_model_solutions_first1119.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
SETTINGS = {"samples_per_problem": 2, "max_new_tokens": 64}


@pytest.fixture
def log(tmp_path):
    """Two questions, four responses; tokens of the overthinker are characters here, but for the delimiters."""
    rows = [
        {"question": "3+4", "answer": "7", "completion": "<think>3+4=7\n3+4=7\n</think>7"},
        {"question": "3+4", "answer": "7", "completion": "<think>3+4=7\n</think>7"},
        {"question": "3-4", "answer": "-1", "completion": "<think>3-4=-1\n4-3=1\n</think>1"},
        {"question": "3-4", "answer": "-1", "completion": "<think>4-3=1"},
    ]
    write_jsonl(tmp_path / "log.jsonl", rows)
    return tmp_path / "log.jsonl"


def numbers_of(folder: Path) -> dict:
    return json.loads((folder / "audit.json").read_text())


def test_an_audit_of_logs_is_a_folder(log, tmp_path):
    out = audit_logs(str(log), out=tmp_path / "out", tokenizer="overthinker", price_per_million_tokens=2)
    assert {path.name for path in out.iterdir()} == {"report.md", "audit.json", "lengths.png"}
    numbers = numbers_of(out)
    assert (numbers["n"], numbers["n_questions"], numbers["n_read"]) == (4, 2, 4)
    assert numbers["accuracy"]["mean"] == 0.5
    # 15 and 9 tokens, 7 of them up to the end of the first line; 16 and 6, of which 8 with the right one.
    assert numbers["correct_tokens"]["mean"] == 12 and numbers["wrong_tokens"]["mean"] == 11
    assert numbers["outcome_efficiency"]["mean"] == pytest.approx((7 / 15 + 7 / 9) / 2)
    assert numbers["underthinking"]["mean"] == pytest.approx((8 / 16 + 0) / 2)
    assert numbers["could_save"]["after_first_correct"]["mean"] == pytest.approx((8 + 2) / 46)
    assert numbers["could_save"]["longer_than_shortest"]["mean"] == pytest.approx(1 - (9 + 11) / (12 + 11))
    report = (out / "report.md").read_text()
    assert "4 responses to 2 questions (2 each): 50.0 %" in report
    assert "The text of 4 responses was tokenised again with overthinker" in report
    assert "not known" in report and "Of 1,000 requests at 2 a million generated tokens" in report
    assert str(tmp_path) not in report + (out / "audit.json").read_text()


def test_without_a_tokenizer_only_lengths_are_known(log, tmp_path):
    rows = [row | {"usage": {"completion_tokens": 100}, "finish_reason": "length"} for row in read_jsonl(log)]
    write_jsonl(log, rows)
    out = audit_logs(str(log), out=tmp_path / "out")
    numbers = numbers_of(out)
    assert numbers["accuracy"]["mean"] == 0.5 and numbers["truncated_share"]["mean"] == 1
    assert numbers["outcome_efficiency"] is None and numbers["could_save"]["after_first_correct"] is None
    report = (out / "report.md").read_text()
    assert "were not looked for in 4 responses: no tokenizer was given" in report
    assert "the server's count, end tokens included" in report and "| needs ids or a tokenizer |" in report


def test_a_tokenizer_of_another_model_is_noticed(log, tmp_path):
    write_jsonl(log, [row | {"usage": {"completion_tokens": 100}} for row in read_jsonl(log)])
    out = audit_logs(str(log), out=tmp_path / "out", tokenizer="overthinker")
    assert "The server counted 400 tokens where overthinker makes 46 of the text" in (out / "report.md").read_text()


def test_what_was_read_when_it_was_sampled_is_not_read_again(audited, tmp_path):
    samples = list(read_jsonl(audited[0] / "unlimited" / "samples.jsonl"))
    write_jsonl(tmp_path / "samples.jsonl", [sample | {"first_correct_tokens": 3} for sample in samples])
    out = audit_logs(str(tmp_path / "samples.jsonl"), out=tmp_path / "out", tokenizer="overthinker")
    assert numbers_of(out)["outcome_efficiency"]["mean"] == pytest.approx(3 / 51)
    write_jsonl(tmp_path / "samples.jsonl", [sample | {"loops": None} for sample in samples])  # an older trace
    out = audit_logs(str(tmp_path / "samples.jsonl"), out=tmp_path / "out", tokenizer="overthinker")
    assert numbers_of(out)["outcome_efficiency"]["mean"] == pytest.approx(7 / 51)


def test_a_tokenizer_may_stand_alone(log, tmp_path):
    folder = tmp_path / "tokenizer"
    load_tokenizer(resolve_model("overthinker")).save_pretrained(folder)
    assert not (folder / "config.json").exists()
    out = audit_logs(str(log), out=tmp_path / "out", tokenizer=str(folder))
    assert numbers_of(out)["could_save"]["after_first_correct"]["mean"] == pytest.approx((8 + 2) / 46)
    report = (out / "report.md").read_text()
    assert "tokenised again with tokenizer," in report and str(tmp_path) not in report
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="its tokenizer cannot be loaded"):
        audit_logs(str(log), out=tmp_path / "other", tokenizer=str(folder))


def test_one_response_a_question_has_no_shortest(log, tmp_path):
    write_jsonl(log, list(read_jsonl(log))[::2])
    out = audit_logs(str(log), out=tmp_path / "out", tokenizer="overthinker")
    assert numbers_of(out)["shortest_of_n"] is None
    assert "Needs several samples of a question; there is one of each." in (out / "report.md").read_text()


def test_only_truncated_responses(log, tmp_path):
    write_jsonl(log, [row | {"completion": "<think>4-3=1", "finish_reason": "length"} for row in read_jsonl(log)])
    numbers = numbers_of(audit_logs(str(log), out=tmp_path / "out", tokenizer="overthinker"))
    assert (numbers["accuracy"]["mean"], numbers["truncated_share"]["mean"]) == (0, 1)
    assert numbers["correct_tokens"] is None and numbers["outcome_efficiency"] is None
    assert numbers["could_save"]["after_first_correct"]["mean"] == 0


def test_the_majority_of_a_question_stands_in_for_its_answer(tmp_path):
    rows = [{"question": "3+4", "completion": f"<think>{said}\n</think>{said}"} for said in (7, 7, 6)]
    write_jsonl(tmp_path / "log.jsonl", rows)
    out = audit_logs(
        str(tmp_path / "log.jsonl"), out=tmp_path / "out", tokenizer="overthinker", verifier="agrees_with_base"
    )
    assert numbers_of(out)["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert "That is agreement, not correctness" in (out / "report.md").read_text()


def test_a_judge_is_asked_once_an_answer(tmp_path, monkeypatch):
    asked = []

    def chat(base_url, model, messages):
        asked.append(messages[-1]["content"])
        return "CORRECT" if asked[-1].endswith("seven") else "WRONG"

    monkeypatch.setattr("efficient_reasoning.answers.judge._chat", chat)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost/v1")
    monkeypatch.setenv("OPENAI_MODEL", "judge")
    rows = [
        {"question": "3+4", "completion": f"<think>It is {said}. Yes.\n</think>{said}"} for said in ("six", "seven")
    ]
    write_jsonl(tmp_path / "log.jsonl", rows)
    out = audit_logs(str(tmp_path / "log.jsonl"), out=tmp_path / "out", tokenizer="overthinker", verifier="judge")
    assert numbers_of(out)["accuracy"]["mean"] == 0.5
    assert len(asked) == 2
    assert "*Correct* is what the judge says." in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"price_per_million_tokens": 0}, "price_per_million_tokens is 0; give more than 0"),
        ({"price_per_million_tokens": float("nan")}, "price_per_million_tokens is nan"),
        ({"verifier": "juge"}, "verifier is 'juge'; give one of agrees_with_base, judge"),
        ({}, "no length of its own"),
    ],
)
def test_a_refused_audit_writes_nothing(log, tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        audit_logs(str(log), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not LABELLED.is_file(), reason="shared/data is not here")
def test_verdicts_on_labelled_solutions_are_the_labels(tmp_path):
    labels = {name: [] for name in MODELS}
    for row in read_jsonl(LABELLED):
        for name in MODELS:
            labels[name].append(row[name]["is_correct"])
    for name, expected in (("6b_finetuning", 245), ("175b_verification", 635)):
        source = f"{LABELLED}?completion={name}.solution&task=numeric"
        numbers = numbers_of(audit_logs(source, out=tmp_path / name, tokenizer="overthinker"))
        assert (numbers["n"], numbers["n_questions"]) == (1119, 1119)
        assert numbers["correct_tokens"]["n"] == sum(labels[name]) == expected
    for row in read_jsonl(LABELLED):
        problem = {
            "id": row["question"],
            "answer": row["ground_truth"].rpartition("A: ")[2].strip(),
            "task": "numeric",
        }
        for name in MODELS:
            assert answers.verify(problem, row[name]["solution"]) == row[name]["is_correct"], row["question"]
    columns = ",".join(f"{name}.solution" for name in MODELS)
    source = f"{LABELLED}?completion={columns}&task=numeric"
    numbers = numbers_of(audit_logs(source, out=tmp_path / "all", tokenizer="overthinker"))
    assert numbers["samples_per_question"] == {"min": 4, "max": 4}
    assert numbers["correct_tokens"]["n"] == sum(map(sum, labels.values())) == 1712
    never = sum(not any(verdicts) for verdicts in zip(*labels.values(), strict=True))
    assert numbers["by_solve_rate"][0]["group"] == "never" and numbers["by_solve_rate"][0]["n_questions"] == never


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A script that says 7, and thinks it twice, audited on two problems; its folder and the engine."""
    reasoner = load_reasoner("overthinker", "mock", script=("3+4=7\n3+4=7\n" * 4, "7"))
    problems = [
        {"id": "right", "question": "3+4", "answer": "7", "task": "numeric", "difficulty": 1},
        {"id": "wrong", "question": "3+5", "answer": "8", "task": "numeric", "difficulty": 2},
    ]
    out = tmp_path_factory.mktemp("audits") / "model"
    audit_model(reasoner, problems, **SETTINGS, out=out, price_per_million_tokens=1)
    return out, reasoner, problems


def test_an_audit_of_a_model_has_a_hull(audited):
    out, _, _ = audited
    numbers = numbers_of(out)
    assert (numbers["n"], numbers["accuracy"]["mean"], numbers["total_tokens"]["mean"]) == (4, 0.5, 51)
    assert numbers["outcome_efficiency"]["mean"] == pytest.approx(7 / 51)
    points = {(point["strategy"], point["budget_tokens"]): point for point in numbers["hull"]}
    shortcuts = {("no-thinking", None), ("chain-of-draft", None), ("deer", None)}
    assert points.keys() == shortcuts | {("budget-forcing", budget) for budget in (12, 25, 38, None)}
    # Whatever cuts the thinking leaves the answer, so the shortest point is as good as the longest.
    assert [key for key, point in points.items() if point["on_front"]] == [("no-thinking", None)]
    assert points["no-thinking", None]["cost_per_1000_requests"] == pytest.approx(3 * 1000 / 1e6)
    report = (out / "report.md").read_text()
    assert "To be beaten by training: `no-thinking`, unlimited, within a point of the accuracy" in report
    assert "| 1 | 1 | 100.0 %" in report and "| 2 | 1 | 0.0 %" in report


def test_the_same_audit_again_decodes_nothing(audited):
    out, reasoner, problems = audited
    report, asked = (out / "report.md").read_text(), len(reasoner.engine.requests)
    audit_model(reasoner, problems, **SETTINGS, out=out, price_per_million_tokens=1)
    assert len(reasoner.engine.requests) == asked
    assert (out / "report.md").read_text() == report


def test_a_model_agrees_with_other_samples_of_its_own(tmp_path):
    reasoner = load_reasoner("overthinker", "mock", script=("3+4=7\n" * 4, "7"))
    problems = [{"id": "open", "question": "3+4", "answer": "", "task": "agrees_with_base"}]
    out = audit_model(reasoner, problems, **SETTINGS, out=tmp_path / "out")
    assert numbers_of(out)["accuracy"]["mean"] == 1
    assert "That is agreement, not correctness" in (out / "report.md").read_text()
    drawn = list(read_jsonl(out / "base_answers.jsonl"))
    [*audited] = read_jsonl(out / "unlimited" / "samples.jsonl")
    assert len(drawn) == len(audited) == 2
    assert not {row["seed"] for row in drawn} & {row["seed"] for row in audited}


def test_the_command_prints_the_report(log, tmp_path, capsys):
    words = ["audit", "--logs", str(log), "--tokenizer", "overthinker", "--out", str(tmp_path / "out")]
    cli.main(words)
    assert capsys.readouterr().out.strip() == (tmp_path / "out" / "report.md").read_text().strip()


def test_samples_of_several_points_are_told_apart(audited, tmp_path):
    out = audit_logs(str(audited[0] / "shortcuts" / "samples.jsonl"), out=tmp_path / "out")
    assert numbers_of(out)["n"] == 4
    told = "The samples are those of `no-thinking`, unlimited; 8 of other strategies or budgets are left out."
    assert told in (out / "report.md").read_text()


def test_a_file_is_no_folder(log):
    before = log.read_text()
    with pytest.raises(BadInput, match=r"log\.jsonl: is a file; name a folder"):
        audit_logs(str(log), out=log, tokenizer="overthinker")
    assert log.read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "audit takes --model M --task T, or --logs FILE, one of the two"),
        (["--logs", "x", "--model", "overthinker"], "one of the two"),
        (["--model", "overthinker"], "audit --model needs --task"),
        (["--model", "overthinker", "--task", "sums", "--verifier", "judge"], "--verifier is for --logs"),
        (["--logs", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--logs", "x", "--price-per-million-tokens", "0"], "price_per_million_tokens is 0.0; give more than 0"),
        (["--logs", "x", "--price-per-million-tokens", "-1"], "'-1' is not a number of at least 0"),
    ],
)
def test_command_lines_without_sense(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["audit", *words, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
