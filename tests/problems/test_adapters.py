"""Problems made elsewhere: reasoning-gym, files with any columns, data sets of the Hub (here: local folders)."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from efficient_reasoning.answers import verify, verify_many
from efficient_reasoning.errors import BadInput
from efficient_reasoning.problems import load_problems, load_tasks

DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", Path(__file__).parents[2] / "../shared/data"))
SPLITS = ("train", "validation", "test")

needs_gym = pytest.mark.skipif(not importlib.util.find_spec("reasoning_gym"), reason="needs the extra gym")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data; EFFICIENT_REASONING_DATA names it")


def jsonl(path: Path, *rows: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"file:{path}"


# ---- gym ----


@needs_gym
def test_gym_problems_are_verified_by_their_scorer():
    problems = load_problems("gym:chain_sum", "train", 20)
    assert {problem["task"] for problem in problems} == {"gym:chain_sum"}
    assert {problem["metadata"]["family"] for problem in problems} == {"chain_sum"}
    assert all(verify_many(problems, [problem["answer"] for problem in problems]))
    assert not any(verify_many(problems, ["nothing"] * 20))
    assert json.loads(json.dumps(problems)) == problems


@needs_gym
def test_gym_splits_share_no_question_though_the_family_is_small():
    # 500 items of prime_factorization drawn with two distant seeds have more than 100 questions in common.
    questions = [
        {problem["question"] for problem in load_problems("gym:prime_factorization", split, 150, seed)}
        for split, seed in [*((split, 0) for split in SPLITS), ("train", 1)]
    ]
    assert [len(asked) for asked in questions] == [150] * 4
    train, validation, test, train_of_another_seed = questions
    assert not train & test and not train & validation and not validation & test
    assert not train_of_another_seed & test
    assert train_of_another_seed != train


@needs_gym
def test_gym_draws_are_the_same_in_every_process(monkeypatch):
    """isomorphic_strings follows Python's hash seed, which differs from process to process."""
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    drawn = load_problems("gym:isomorphic_strings", "test", 10)
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    assert load_problems("gym:isomorphic_strings", "test", 20)[:10] == drawn


@needs_gym
@pytest.mark.parametrize(
    ("name", "task", "wrong"),
    [
        ("game_of_life_halting", "exact", "Who knows?"),
        ("graph_color", "gym:graph_color", "{}"),
    ],
)
def test_gym_families_with_unusable_scorers_or_answers_are_mended(name, task, wrong):
    problems = load_problems(f"gym:{name}", "test", 10)
    assert {problem["task"] for problem in problems} == {task}
    assert all(verify_many(problems, [problem["answer"] for problem in problems]))
    assert not any(verify_many(problems, [wrong] * 10))


@needs_gym
def test_gym_coin_flips_have_exact_answers():
    """reasoning-gym's own are rounded, some to "3.051757812e-05", whose last number is 5."""
    for problem in load_problems("gym:coin_flip", "train", 30):
        rounded = float(problem["metadata"]["entry"]["answer"])
        assert float(Fraction(problem["answer"])) == pytest.approx(rounded, rel=1e-8)
        assert problem["task"] == "numeric" and not verify(problem, "0")
        assert verify(problem, f"That is {float(Fraction(problem['answer'])):.40f}.")


NOISY_FACTORY = """
from pathlib import Path
DATASETS = {"noisy": None}

class create_dataset:
    def __init__(self, name, seed, size):
        self.seed = seed

    def __getitem__(self, index):
        print("Thinking ...")
        Path("test_dir").mkdir(exist_ok=True)
        try:
            Path(VICTIM).write_text("gone")
        except PermissionError:
            pass
        answer = "{}" if index % 2 else str(index)
        return {"question": f"{self.seed + index}?", "answer": answer, "metadata": {}}
"""


def test_gym_generators_may_print_write_and_fail(tmp_path, monkeypatch, capfd):
    """As bf and codeio do; an item of codeio whose code failed has an empty object for an answer."""
    (tmp_path / "lib/reasoning_gym").mkdir(parents=True)
    (tmp_path / "lib/reasoning_gym/__init__.py").touch()
    victim = tmp_path / "victim.txt"
    victim.write_text("here")
    (tmp_path / "lib/reasoning_gym/factory.py").write_text(f"VICTIM = {str(victim)!r}" + NOISY_FACTORY)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "lib"), *sys.path])
    problems = load_problems("gym:noisy", "train", 1000)  # beyond one chunk
    assert len({problem["id"] for problem in problems}) == 1000
    assert "{}" not in {problem["answer"] for problem in problems}
    assert list((tmp_path / "work").iterdir()) == [] and capfd.readouterr().out == ""
    assert victim.read_text() == "here"


@needs_gym
@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("chain_sums", "test", "gym:chain_sums: no such data set of reasoning-gym, did you mean chain_sum"),
        ("composite", "test", "gym:composite: no such data set"),
        ("tower_of_hanoi", "test", r"gym:tower_of_hanoi: has only \d\d test problems, not 200; ask for fewer"),
        ("chain_sum", "tset", "gym:chain_sum: unknown split 'tset', did you mean test"),
    ],
)
def test_gym_says_what_it_cannot_give(name, split, message):
    with pytest.raises(BadInput, match=message):
        load_problems(f"gym:{name}", split, 200)


def test_gym_not_installed(tmp_path, monkeypatch):
    (tmp_path / "reasoning_gym.py").write_text("raise ImportError('No module named reasoning_gym')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(BadInput, match=r"pip install 'efficient-reasoning\[gym\]'"):
        load_problems("gym:chain_sum", "test", 5)


def test_gym_process_that_dies_is_no_empty_data_set(tmp_path, monkeypatch, capfd):
    (tmp_path / "reasoning_gym.py").write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(RuntimeError, match="gym:chain_sum: the process that draws its problems died"):
        load_problems("gym:chain_sum", "test", 5)
    assert "out of luck" in capfd.readouterr().err


WITHOUT_GOLD = ("boxnet", "propositional_logic", "rush_hour")


def gym_families() -> list[str]:
    if not importlib.util.find_spec("reasoning_gym"):
        return []
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS.keys() - {"composite", *WITHOUT_GOLD})


@needs_gym
@pytest.mark.parametrize("name", WITHOUT_GOLD)
def test_gym_families_without_gold_answers_are_refused(name):
    with pytest.raises(BadInput, match=f"gym:{name}: reasoning-gym has no gold answers"):
        load_problems(f"gym:{name}", "test", 3)


@needs_gym
@pytest.mark.slow
@pytest.mark.parametrize("name", gym_families())
def test_every_gym_family_verifies_its_own_answers(name):
    problems = load_problems(f"gym:{name}", "test", 3)
    assert all(verify_many(problems, [problem["answer"] for problem in problems]))
    assert not any(verify_many(problems, ["Who knows?"] * 3))


# ---- files ----

ANSWERS = {"numeric": "So it is\n{}.", "math": r"So it is \boxed{{{}}}.", "exact": "{}"}


@needs_data
@pytest.mark.parametrize(
    ("name", "tasks", "first_answer"),
    [
        ("gsm8k/train.jsonl", {"numeric": 7473}, "72"),
        ("gsm8k/test_first1119.jsonl", {"numeric": 1119}, "18"),
        ("math500/test.jsonl", {"math": 500}, r"\left( 3, \frac{\pi}{2} \right)"),
        ("aime/aime_1983_2023.jsonl", {"numeric": 975}, "60"),
        ("amc23/test.jsonl", {"numeric": 40}, "27"),
        ("svamp/test.jsonl", {"numeric": 1000}, "145"),
        ("prosqa/valid.json", {"exact": 300}, "Tom is a lempus."),
        ("prosqa/test_000_249.json", {"exact": 250}, "Sally is a sterpus."),
        ("gsm8k_aug/valid.txt", {"numeric": 500}, "300"),
        ("gsm8k_aug/test_first1119.txt", {"numeric": 1119}, "18"),
        ("multiplication/4_by_4_valid.txt", {"exact": 1000}, "5 5 6 0 8 2 0 1"),
        ("multiplication/7_by_7_test.txt", {"exact": 1000}, "1 1 1 7 1 3 2 1 2 1 8 6 6 0"),
        ("math_train_qa/train.jsonl?unanswered=skip", {"math": 7470}, "0"),
        (
            "gsm8k/example_model_solutions_first1119.jsonl?answer=ground_truth&task=numeric",
            {"numeric": 1119},
            None,  # a worked solution, whose last number counts
        ),
    ],
)
def test_known_files_load_and_verify(name, tasks, first_answer):
    problems = load_problems(f"file:{DATA / name}", num_problems=10_000)
    assert Counter(problem["task"] for problem in problems) == tasks
    assert problems[0]["answer"] == first_answer or first_answer is None
    assert len({problem["id"] for problem in problems}) == len(problems)
    assert all(problem["question"] and problem["answer"] for problem in problems)
    if set(tasks) == {"math"}:  # takes seconds a thousand
        problems = random.Random(0).sample(problems, 100)
    answers = [ANSWERS[problem["task"]].format(problem["answer"]) for problem in problems]
    assert all(verify_many(problems, answers))
    wrong = [ANSWERS[problem["task"]].format("-31.4159") for problem in problems]
    assert not any(verify_many(problems, wrong))


@needs_data
@pytest.mark.slow
def test_the_training_questions_of_math_that_have_an_answer_verify_it():
    problems = load_problems(f"file:{DATA / 'math_train_qa/train.jsonl'}?unanswered=skip", num_problems=10_000)
    assert all(verify_many(problems, [rf"\boxed{{{problem['answer']}}}" for problem in problems]))


@needs_data
def test_svamp_questions_are_whole():
    question = load_problems(f"file:{DATA / 'svamp/test.jsonl'}", num_problems=1)[0]["question"]
    assert question.startswith("There are 87 oranges and 290 bananas")
    assert question.endswith("oranges are organized into 93 groups. How big is each group of bananas?")


def test_a_file_of_problems_stays_as_it_is(tmp_path):
    problems = load_problems("mixed", "test", 5)
    problems.append(
        {"id": "c", "question": "Code it.", "answer": "", "task": "unit_tests", "metadata": {"tests": "1"}}
    )
    assert load_problems(jsonl(tmp_path / "problems.jsonl", *problems)) == problems


def test_other_columns_become_metadata_and_lines_become_ids(tmp_path):
    file = jsonl(
        tmp_path / "rows.jsonl",
        {"Problem": "1+1?", "Answer": 2.0, "level": 3, "kind": "sum"},
        {"Problem": "Capital of France?", "Answer": "Paris", "level": "hard", "ID": 7},
    )
    assert load_problems(file) == [
        {
            "id": "rows-0",
            "question": "1+1?",
            "answer": "2",
            "task": "numeric",
            "difficulty": 3,
            "metadata": {"kind": "sum"},
        },
        {"id": "7", "question": "Capital of France?", "answer": "Paris", "task": "exact", "metadata": {}},
    ]
    assert len(load_problems(file, num_problems=1)) == 1


@pytest.mark.parametrize(
    ("answer", "gold", "task"),
    [
        ("6*7 is <<6*7=42>>42.\n#### 1,042", "1,042", "numeric"),
        ("Twice #### is no mark.", "Twice #### is no mark.", "exact"),
        (r"So it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}", "math"),
        (r"So it is \boxed{60}.", "60", "numeric"),
        ("$18", "$18", "numeric"),
        (-0.5, "-0.5", "numeric"),
        (True, "True", "exact"),
        ("18 dollars", "18 dollars", "exact"),
    ],
)
def test_gold_answers_tell_the_task(tmp_path, answer, gold, task):
    problem = load_problems(jsonl(tmp_path / "rows.jsonl", {"question": "?", "answer": answer}))[0]
    assert (problem["answer"], problem["task"]) == (gold, task)
    assert verify(problem, rf"\boxed{{{gold}}}" if task == "math" else gold)


def test_one_backslash_makes_a_file_mathematics_however_little_is_read(tmp_path):
    answers = ["2", "p - q", "3", r"\pi"]
    file = jsonl(tmp_path / "rows.jsonl", *({"question": "?", "answer": answer} for answer in answers))
    assert {problem["task"] for problem in load_problems(file)} == {"math"}
    assert load_problems(file, num_problems=1)[0]["task"] == "math"
    assert load_problems(f"{file}?task=exact", num_problems=1)[0]["task"] == "exact"


def test_columns_can_be_mapped(tmp_path):
    file = jsonl(
        tmp_path / "a b?.jsonl",
        {"facts": "Tom is a cat", "ask": "Is he a dog?", "question": "not this", "the key": "no"},
    )
    problem = load_problems(f"{file}?question=facts,ask&answer=the+key&task=exact")[0]
    assert problem["question"] == "Tom is a cat. Is he a dog?"
    assert problem["answer"] == "no" and problem["metadata"] == {"question": "not this"}


def test_some_tasks_need_no_gold_answer(tmp_path):
    file = jsonl(tmp_path / "rows.jsonl", {"question": "Why?"}, {"question": "Who?", "answer": None})
    for task in ("judge", "agrees_with_base"):
        assert [problem["answer"] for problem in load_problems(f"{file}?task={task}")] == ["", ""]
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 1: no answer among its columns question"):
        load_problems(file)


def test_rows_without_a_gold_answer_are_left_out_when_asked(tmp_path):
    rows = [
        {"question": "1+1?", "answer": None},
        {"question": "1+2?", "answer": "3"},
        {"question": "?", "answer": " "},
    ]
    file = jsonl(tmp_path / "rows.jsonl", *rows, {"question": "no answer at all"})
    assert [problem["question"] for problem in load_problems(f"{file}?unanswered=skip")] == ["1+2?"]
    with pytest.raises(BadInput, match=r"rows\.jsonl, line 1: column 'answer' holds null"):
        load_problems(file)


def test_gold_objects_are_written_as_json(tmp_path):
    call = {"name": "add", "arguments": {"numbers": [1, 2.5]}}
    rows = [{"question": "Add.", "answer": call}, {"question": "Add.", "answer": json.dumps(call)}]
    for problem in load_problems(jsonl(tmp_path / "rows.jsonl", *rows) + "?task=json"):
        assert json.loads(problem["answer"]) == call
        assert verify(problem, f"Here: {json.dumps(call)}")


def test_lines_of_text(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_bytes(b"\xef\xbb\xbf1+1, or a||b?||<<1+1=2>> #### 2\r\n\n5 6 * 7 4||5 + 1 #### 0 2\n")
    first, second = load_problems(f"file:{path}")
    assert (first["question"], first["answer"], first["task"]) == ("1+1, or a", "2", "numeric")
    assert first["metadata"] == {"reasoning": "b?||<<1+1=2>>"}
    assert (second["answer"], second["task"]) == ("0 2", "exact")


def test_a_list_of_objects(tmp_path):
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "1+2?", "answer": "3"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1))
    assert [problem["answer"] for problem in load_problems(f"file:{tmp_path / 'rows.json'}")] == ["2", "3"]


@pytest.mark.parametrize(
    ("name", "text", "mapping", "message"),
    [
        (
            "rows.jsonl",
            '{"question": "a", "answer": "b"}\n\n{"ask": "a"}',
            "",
            "line 3: no question among .* ask; map",
        ),
        (
            "rows.jsonl",
            '{"question": "a", "answer": "b"}',
            "?answer=key",
            "line 1: no answer among .* question, answer;",
        ),
        ("rows.jsonl", '{"question": "a", "answer": null}', "", "line 1: column 'answer' holds null"),
        ("rows.jsonl", '{"question": [], "answer": "b"}', "", r"line 1: column 'question' holds \[\]"),
        ("rows.jsonl", '{"question": "a", "answer": " "}', "", "line 1: column 'answer' holds"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}\n{"question"', "", "line 2: not valid JSON"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}', "?anwser=key", "'anwser' .*did you mean answer"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}', "?task=numerc", "line 1: .*'numerc', did you mean numeric"),
        ("rows.jsonl", '{"question": "a", "answer": "b", "task": 3}', "", "line 1: Unknown task '3'"),
        ("rows.json", '[{"question": "a"}]', "", "item 1: no answer among its columns question"),
        ("rows.json", '{"question": "a"}\n{"question": "b"}', "", r"not valid JSON .*name it \.jsonl"),
        ("rows.json", '{"question": "a"}', "", "expected one list of objects"),
        ("rows.json", "[1]", "", "expected one list of objects"),
        ("rows.txt", "a||b #### 1\na || b", "", "line 2: expected question||reasoning #### answer"),
        ("rows.txt", "|| #### 1", "", "line 1: expected"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}', "?unanswered=keep", "it can only be skip"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, text, mapping, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=rf"{name}.*{message}"):
        load_problems(f"file:{tmp_path / name}{mapping}")


@pytest.mark.parametrize("name", ["none.jsonl", "none.json", "none.jsonl?answer=key"])
def test_missing_file(tmp_path, name):
    with pytest.raises(BadInput, match=r"none\.jsonl?: no such file; check the path"):
        load_problems(f"file:{tmp_path / name}")


# ---- hub ----


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    """A data set as it lies on the Hub, in a folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    jsonl(tmp_path / "sums/train.jsonl", *({"query": f"{n}+1?", "key": n + 1} for n in range(50)))
    jsonl(tmp_path / "sums/test.jsonl", {"query": "100+1?", "key": 101})
    return tmp_path / "sums"


def test_hub_reads_the_first_rows_of_a_split(dataset):
    problems = load_problems(f"hub:{dataset}?answer=key", "train", num_problems=3)
    assert [(problem["question"], problem["answer"]) for problem in problems] == [
        ("0+1?", "1"),
        ("1+1?", "2"),
        ("2+1?", "3"),
    ]
    assert [problem["id"] for problem in problems] == ["sums-0", "sums-1", "sums-2"]
    assert verify(problems[0], "It is 1.")
    assert len(load_problems(f"hub:{dataset}?answer=key", "test")) == 1


@pytest.mark.parametrize(
    ("mapping", "split", "message"),
    [
        ("", "test", "sums, row 0: no answer among its columns query, key"),
        ("?answer=key", "validation", "sums: cannot read its split 'validation'"),
        ("?answer=key&config=none", "test", "sums: cannot read its split 'test'"),
    ],
)
def test_hub_says_what_is_wrong(dataset, mapping, split, message):
    with pytest.raises(BadInput, match=rf"^hub:\S*{message}"):
        load_problems(f"hub:{dataset}{mapping}", split)


def test_hub_without_such_a_data_set(tmp_path):
    with pytest.raises(BadInput, match="none: cannot read its split 'test'"):
        load_problems(f"hub:{tmp_path / 'none'}")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    tasks = [jsonl(tmp_path / name / "test.jsonl", {"question": name, "answer": "1"}) for name in ("here", "there")]
    tasks[1] += "?answer=answer"
    assert [problem["id"] for problem in load_tasks(tasks)] == ["here-test-0", "there-test-0"]
    assert [problem["id"] for problem in load_tasks(tasks[:1])] == ["test-0"]
    assert load_tasks(["sums"], num_problems=3) == load_problems("sums", num_problems=3)
