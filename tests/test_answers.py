"""Each verifier on right, wrong and odd answers; what hangs is killed; what is missing is said in one sentence."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from efficient_reasoning.answers import (
    check_problems,
    code,
    extract_answer,
    gym,
    killable,
    mathematics,
    verify,
    verify_many,
)
from efficient_reasoning.answers.matching import NUMBER, last_number
from efficient_reasoning.errors import BadInput

ODD_TEXTS = ["", " \n\t", "\0", "\ud800", "[[", "}{", "\\boxed{", "9" * 5000, "1/0", "None", "🙂", "a" * 100_000]


def problem(task: str, answer: str = "42", **metadata: object) -> dict:
    return {"id": "p-1", "question": "What is it?", "answer": answer, "task": task, "metadata": metadata}


# ---- what all verifiers share ----


def test_unknown_task_lists_near_names() -> None:
    with pytest.raises(BadInput, match="Unknown task 'numerc', did you mean numeric"):
        verify(problem("numerc"), "42")
    for task in (None, 5, ["none"]):
        with pytest.raises(BadInput, match="Unknown task"):
            extract_answer(task, "18")
    with pytest.raises(BadInput, match="Unknown task"):
        extract_answer("numerc", "")
    with pytest.raises(BadInput, match="'p-1' has no task"):
        verify({"id": "p-1", "question": "", "answer": ""}, "42")


@pytest.mark.parametrize(
    "task", ["exact", "numeric", "math", "json", "gym:chain_sum", "unit_tests", "agrees_with_base", "judge"]
)
def test_empty_answer_is_wrong(task: str) -> None:
    assert extract_answer(task, " \n") is None
    assert verify(problem(task), "") is False


# What loops write, four megabytes of it, and what makes a verifier look at it.
LOOPS = (
    "1+",
    "2^",
    "-1",
    "1 ",
    "1/ ",
    "1,111",
    "9",
    ".",
    "(",
    "{",
    '{"a":',
    "\\boxed{",
    "\\{",
    "<answer>",
    "<answer></answer>",
    "```python\n",
    " ",
)


@pytest.mark.parametrize(
    "task", ["exact", "numeric", "math", "json", "unit_tests", "agrees_with_base", "gym:chain_sum"]
)
def test_loops_are_read_at_once(task: str) -> None:
    """A second of computing, where all matches of an expression took five times that: no clock stops this process."""
    for unit in LOOPS:
        for begin in ("", "\\boxed{", "<answer>"):
            text, start = begin + unit * (4_000_000 // len(unit)), time.process_time()
            extract_answer(task, text)
            assert time.process_time() - start < 1, (begin, unit)


def test_the_last_number_is_that_of_the_whole_text() -> None:
    """It is sought from the end; read from the start, it has to be the same, whatever stands around it."""
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choices("0123,,..//  --\N{MINUS SIGN}()a]\n\t$\u0663", k=rng.randint(0, 14)))
        numbers = [match.group() for match in NUMBER.finditer(text.replace("\N{MINUS SIGN}", "-"))]
        assert last_number(text) == (last_number(numbers[-1]) if numbers else None), text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (f"so 7{' and so on' * 10_000}", "7"),
        ("1, 2, " * 10_000 + "-1,234.50", "-2469/2"),
        ("3-" * 30_000 + "4", "4"),
        ("9" * 30_000, None),
        ("5" + " " * 990 + "/ 2", "5/2"),
    ],
)
def test_what_stands_before_the_last_number_does_not_change_it(text: str, number: str | None) -> None:
    assert extract_answer("numeric", text) == number


def test_a_box_is_read_to_its_end() -> None:
    assert extract_answer("math", "\\boxed{1} \\boxed{" + "x+" * 9_000 + "{1}}") == "x+" * 9_000 + "{1}"
    assert extract_answer("math", "\\boxed{1} \\boxed{" + "x+" * 11_000 + "1}") is None


def test_verify_many_keeps_order_and_mixes_tasks() -> None:
    problems = [problem("numeric"), problem("exact", "yes"), problem("math", "1/2"), problem("numeric")] * 3
    texts = ["it is 42", "no", r"\boxed{0.5}", "43"] * 3
    assert verify_many(problems, texts) == [True, False, True, False] * 3
    assert verify_many([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        verify_many(problems, texts[:-1])


def test_import_is_light() -> None:
    program = (
        "import sys, time; start = time.process_time(); import efficient_reasoning.answers;"
        "print(time.process_time() - start, *{'torch', 'sympy', 'math_verify', 'reasoning_gym'} & set(sys.modules))"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(8)]
    assert all(len(run.stdout.split()) == 1 for run in runs), runs
    assert min(float(run.stdout) for run in runs) < 0.1


# ---- exact, numeric ----


def test_exact_ignores_case_white_space_and_a_final_full_stop_only() -> None:
    assert verify(problem("exact", "New  York"), " new york\n")
    assert verify(problem("exact", "Tom is a lempus."), "tom is a lempus")
    assert verify(problem("exact", "Paris"), "Paris.\n")
    assert not verify(problem("exact", "Paris"), "Paris..") and not verify(problem("exact", "a.b"), "ab")
    assert not verify(problem("exact", "New York"), "New-York")
    assert not verify(problem("exact", "New York"), "It is New York")
    with pytest.raises(BadInput, match="has no answer"):
        verify(problem("exact", " "), "New York")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("3 + 4 = 7", "7"),
        ("$1,234,567.50", "2469135/2"),
        ("1234,567", "567"),
        ("-7", "-7"),
        ("x=\N{MINUS SIGN}7", "-7"),
        ("3-4", "4"),
        ("(2)-1", "1"),
        ("3/4", "3/4"),
        ("-1,000 / 2,000", "-1/2"),
        (".5", "1/2"),
        ("0.50", "1/2"),
        ("50%", "50"),
        ("3/4/5", "5"),
        ("1/0", None),
        ("no number", None),
        ("9" * 5000, None),
    ],
)
def test_numeric_reads_the_last_number(text: str, number: str | None) -> None:
    assert extract_answer("numeric", text) == number


def test_numeric_compares_exactly() -> None:
    assert verify(problem("numeric", "0.3"), "it is 3/10")
    assert verify(problem("numeric", "72"), "48 + 24 = 72.00")
    assert not verify(problem("numeric", "1/3"), "0.3333333333333333")
    assert not verify(problem("numeric", "72"), "72, no, 71")
    assert verify({**problem("numeric"), "answer": 42}, "42")
    with pytest.raises(BadInput, match="no number in the answer 'many'"):
        verify(problem("numeric", "many"), "42")


@pytest.mark.parametrize(
    ("task", "answer"), [("exact", "42"), ("numeric", "42"), ("agrees_with_base", "42"), ("json", '{"a": 42}')]
)
def test_odd_texts_are_wrong(task: str, answer: str) -> None:
    assert not any(verify(problem(task, answer, base_answers=["42"]), text) for text in ODD_TEXTS)


# ---- json ----

CALL = '{"name": "add", "arguments": {"numbers": [1, 2.5], "round": true, "unit": "\\u20ac"}}'


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        (CALL, True),
        ('{"arguments": {"unit": "€", "round": true, "numbers": [1.0, 2.50]},\n "name": "add"}', True),
        (f"Here you are:\n```json\n{CALL}\n```\nThat adds {{them}}.", True),
        (f'{{"name": "sub"}} or rather {CALL}', True),
        (f'{CALL} {{"name": "sub"}}', False),
        (f"[{CALL}]", True),
        (f'{{"calls": [{CALL}]}}', False),
        (CALL.replace("true", "1"), False),
        (CALL.replace("true", '"true"'), False),
        (CALL.replace("[1, 2.5]", "[2.5, 1]"), False),
        (CALL.replace('"round": true, ', ""), False),
        (CALL[:-1], False),
        ("x" * 100_000 + CALL, True),
        ('{"a":' * 50_000, False),
        ('{"a": ' + "9" * 5000 + "}", False),
        ('{"a": NaN}', False),
        ('{"a": ' + "[" * 600 + "]" * 600 + "}", False),
    ],
)
def test_json_takes_the_last_object(text: str, correct: bool) -> None:
    assert verify(problem("json", CALL), text) is correct


def test_equal_objects_are_extracted_as_equal_strings() -> None:
    assert extract_answer("json", '{"b": 1.0, "a": {}}') == extract_answer("json", 'So {"a":{},"b":1}!')
    assert extract_answer("json", "[1]") is None
    assert verify(problem("json", "{}"), "{}")


@pytest.mark.parametrize(
    ("gold", "message"), [("{a: 1}", "not valid JSON"), ("[1]", "no JSON object"), ("3", "no JSON")]
)
def test_json_needs_an_object_for_gold(gold: str, message: str) -> None:
    with pytest.raises(BadInput, match=rf"'p-1' \(task json\): the answer is {message}"):
        check_problems([problem("json", gold)])


# ---- math ----


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{}", None),
        ("42", None),
    ],
)
def test_math_takes_the_last_box(text: str, boxed: str | None) -> None:
    assert extract_answer("math", text) == boxed


@pytest.mark.parametrize(
    ("gold", "boxed", "correct"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"$\frac12$", "1/2", True),
        (r"so \boxed{1/2}", r"\dfrac{2}{4}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("[0,1)", "[0,1]", False),
        ("1000", "1{,}000", True),
        ("42", "41", False),
        ("42", r"\frac{", False),
        ("42", "🙂", False),
    ],
)
def test_math_equality(gold: str, boxed: str, correct: bool) -> None:
    assert verify(problem("math", gold), f"\\boxed{{{boxed}}}") is correct


def test_math_needs_a_box_and_a_readable_gold_answer() -> None:
    assert not verify(problem("math"), "42")
    with pytest.raises(BadInput, match=r"'p-1' \(task math\): the answer '}' cannot be read"):
        verify(problem("math", "}"), r"\boxed{42}")
    assert verify(problem("math"), r"\boxed{42}")  # the worker is none the worse


def test_math_kills_what_hangs_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify(problem("math"), r"\boxed{42}")
    monkeypatch.setattr(mathematics, "TIMEOUT_SECONDS", 1.0)
    start = time.monotonic()
    assert not verify(problem("math"), r"\boxed{9^{9^{9^{9}}}}")  # one C call: no Python signal handler would run
    assert time.monotonic() - start < 4
    monkeypatch.undo()
    assert verify(problem("math"), r"\boxed{42}")


def test_math_works_off_the_main_thread() -> None:
    verdicts: list[bool] = []
    thread = threading.Thread(target=lambda: verdicts.append(verify(problem("math"), r"\boxed{42}")))
    thread.start()
    thread.join()
    assert verdicts == [True]


def test_a_worker_is_kept_and_a_dead_one_replaced() -> None:
    verify(problem("math"), r"\boxed{42}")
    worker = killable._idle["mathematics"][-1]
    verify(problem("math"), r"\boxed{42}")
    assert killable._idle["mathematics"][-1] is worker
    for idle in killable._idle["mathematics"]:
        os.kill(idle._process.pid, signal.SIGKILL)
        idle._process.wait()
    assert verify(problem("math"), r"\boxed{42}")


def test_a_program_without_a_main_guard_leaves_no_worker_behind() -> None:
    program = (
        "from efficient_reasoning.answers import killable, verify\n"
        "print(verify({'id': '1', 'question': '', 'answer': '1/2', 'task': 'math'}, r'\\boxed{0.5}'))\n"
        "print(killable._idle['mathematics'][0]._process.pid)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    verdict, pid = run.stdout.split()
    assert verdict == "True" and not run.stderr
    assert not os.path.exists(f"/proc/{pid}")


def test_a_forked_child_starts_its_own_worker() -> None:
    program = (
        "import os\n"
        "from efficient_reasoning.answers import verify\n"
        "problem = {'id': '1', 'question': '', 'answer': '1/2', 'task': 'math'}\n"
        "verify(problem, r'\\boxed{2}')\n"
        "child = os.fork()\n"
        "verdicts = {verify(problem, r'\\boxed{0.5}' if child else r'\\boxed{3}') for _ in range(50)}\n"
        "if not child: os._exit(0 if verdicts == {False} else 1)\n"
        "print(verdicts, os.waitpid(child, 0)[1])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "{True} 0", run.stderr


@pytest.mark.parametrize(
    ("task", "package", "extra"), [("math", "math_verify", "math"), ("gym:chain_sum", "reasoning_gym", "gym")]
)
def test_missing_package_names_the_extra(
    task: str, package: str, extra: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{package}.py").write_text("raise ModuleNotFoundError('No module named x')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(killable, "_idle", {"mathematics": [], "gym": []})
    entry = {"question": "", "answer": "", "metadata": {}}
    with pytest.raises(BadInput, match=rf"pip install 'efficient-reasoning\[{extra}\]'"):
        verify(problem(task, entry=entry), r"\boxed{42}")


# ---- gym ----


def gym_problem(name: str) -> dict:
    import reasoning_gym

    entry = reasoning_gym.create_dataset(name, size=1, seed=1)[0]
    entry = json.loads(json.dumps(entry))  # as it comes back from a file
    return {"id": "g-1", "question": entry["question"], "answer": entry["answer"], "task": f"gym:{name}"} | {
        "metadata": {"entry": entry}
    }


GYM_NAMES = ["chain_sum", "countdown", "gcd", "prime_factorization", "rearc", "n_queens", "complex_arithmetic", "maze"]


@pytest.mark.parametrize("name", GYM_NAMES)
def test_gym_right_and_odd(name: str) -> None:
    right = gym_problem(name)
    assert verify(right, right["answer"])
    assert verify(right, f"I think that\n<answer>{right['answer']}</answer>")
    assert not any(verify_many([right] * len(ODD_TEXTS), ODD_TEXTS))


def test_gym_partial_credit_is_not_correct() -> None:
    from reasoning_gym import get_score_answer_fn

    sum_of_four = gym_problem("countdown")
    assert 0 < get_score_answer_fn("countdown")("hello", sum_of_four["metadata"]["entry"]) < 1
    assert not verify(sum_of_four, "hello")


def test_gym_scorers_that_evaluate_the_answer_are_confined(tmp_path: object) -> None:
    queens = gym_problem("n_queens")  # its scorer calls eval
    target = tmp_path / "written"
    for text in (f"open({str(target)!r}, 'w')", f"__import__('os').system('touch {target}')", "exit()", "input()"):
        assert not verify(queens, text)
    assert not target.exists()
    assert verify(queens, queens["answer"])


def test_gym_scorers_that_hang_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    countdown = gym_problem("countdown")
    assert verify(countdown, countdown["answer"])
    monkeypatch.setattr(gym, "TIMEOUT_SECONDS", 1.0)
    start = time.monotonic()
    assert not verify(gym_problem("n_queens"), "9**9**9**9")
    assert time.monotonic() - start < 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer> or <answer> 2\n</answer></answer>", "2"),
        ("<answer>1<answer>2</answer>", "1<answer>2"),
        ("<answer>1</answer><answer>2", "1"),
        ("</answer>1<answer>", "</answer>1<answer>"),
        ("<answer> </answer>", None),
    ],
)
def test_gym_takes_the_last_tag_that_is_closed(text: str, answer: str | None) -> None:
    assert extract_answer("gym:chain_sum", text) == answer


def test_gym_bad_problems() -> None:
    with pytest.raises(BadInput, match=r"'chain_sun', did you mean chain_sum"):
        verify(gym_problem("chain_sum") | {"task": "gym:chain_sun"}, "1")
    with pytest.raises(BadInput, match=r"no metadata\.entry"):
        verify(problem("gym:chain_sum"), "1")
    with pytest.raises(BadInput, match=r"metadata\.entry lacks"):
        verify(problem("gym:chain_sum", entry={"answer": "1"}), "1")
    with pytest.raises(BadInput, match="takes wrong answers for right; use task exact"):
        verify(gym_problem("game_of_life_halting"), "anything")


# ---- unit_tests ----

DOUBLE = problem("unit_tests", tests=["assert double(2) == 4", "assert double('a') == 'aa'"])


def block(source: str) -> str:
    return f"Here it is:\n```python\n{source}\n```\nDone."


def test_code_right_and_wrong() -> None:
    right, wrong = block("def double(x):\n    return x * 2"), block("def double(x):\n    return x ** 2")
    assert verify(DOUBLE, right)
    assert verify(DOUBLE, "double = lambda x: x + x")
    assert not verify(DOUBLE, wrong)
    assert verify(DOUBLE, wrong + "\nNo, better:\n" + right)
    assert not verify(DOUBLE, right + "\nNo, better:\n" + wrong)
    assert verify_many([DOUBLE] * 4, [right, wrong, right, wrong]) == [True, False, True, False]


def test_code_odd_texts_are_wrong() -> None:
    assert not any(verify_many([DOUBLE] * len(ODD_TEXTS), ODD_TEXTS))


def test_code_has_a_module_like_any_other() -> None:
    source = (
        "from __future__ import annotations\nimport dataclasses, pickle, sys\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "def double(x):\n    return pickle.loads(pickle.dumps(Point(x))).x * 2\n"
        "if __name__ == '__main__':\n    sys.exit('not for tests')\nprint('noise' * 100_000)"
    )
    assert verify(DOUBLE, block(source))


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise KeyboardInterrupt",
        "hog = bytearray(8 << 30)",
        "hog = 'x'\nwhile True: hog += hog",
        "open('big', 'w').write('x' * (8 << 20))",
        "open('/tmp/outside-answer', 'w')",
        "import os; os.mkdir('../outside-answer')",
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import threading; threading.Thread(target=print).start()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os, signal; os.kill(os.getppid(), signal.SIGTERM)",
        "import os; assert 'PATH' in os.environ",
        "import multiprocessing as m; m.get_context('spawn').Process(target=print).start()",
    ],
)
def test_code_accidents_are_contained(source: str) -> None:
    good = "double = lambda x: x * 2\n"
    start = time.monotonic()
    assert not verify(DOUBLE, block(good + source))
    assert time.monotonic() - start < 5, "refused at once, not at the time limit"
    assert not os.path.exists("/tmp/outside-answer")


def test_code_that_loops_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "TIMEOUT_SECONDS", 1.0)
    start = time.monotonic()
    assert not verify(DOUBLE, "while True: continue")
    assert not verify(DOUBLE, "import time; time.sleep(100)")
    assert time.monotonic() - start < 6


def test_code_works_in_a_folder_that_vanishes(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code.tempfile, "tempdir", str(tmp_path))
    source = (
        "import os, tempfile\nassert os.listdir('.') == []\nos.mkdir('folder')\nopen('folder/file', 'w').write('x')\n"
        "tempfile.mkstemp()\nos.remove('folder/file')\nopen('left', 'w').write('x')\ndouble = lambda x: x * 2"
    )
    assert verify(DOUBLE, block(source))
    assert list(tmp_path.iterdir()) == []


WRITE_ANYWHERE = (
    "import os\nfor place in range(3, 64):\n    try:\n        {} os.write(place, {})\n    except OSError: continue\n"
)


def test_code_that_writes_to_every_open_file_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its way out is among them: neither what is no text nor gigabytes come through it."""
    monkeypatch.setattr(code, "TIMEOUT_SECONDS", 3.0)
    assert not verify(DOUBLE, block(WRITE_ANYWHERE.format("", r"b'\xff'") + "double = lambda x: x * 2"))
    assert not verify(DOUBLE, block(WRITE_ANYWHERE.format("os.ftruncate(place, 0);", "b'x'")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not verify(DOUBLE, block(WRITE_ANYWHERE.format("while True:", "bytes(1 << 20)")))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


def test_code_leaves_no_folder_however_deep(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code.tempfile, "tempdir", str(tmp_path))
    source = "import os\nfor _ in range(1200):\n    os.mkdir('d')\n    os.chdir('d')\ndouble = lambda x: x * 2"
    assert verify(DOUBLE, block(source))
    assert list(tmp_path.iterdir()) == []


def test_code_fills_no_disk_with_many_files() -> None:
    source = "for n in range({}): open(str(n), 'w').close()\ndouble = lambda x: x * 2"
    assert verify(DOUBLE, block(source.format(400)))
    assert not verify(DOUBLE, block(source.format(600)))


@pytest.mark.parametrize("tests", [[1], {"a": 1}, 5, [["assert True"]]])
def test_tests_are_texts(tests: object) -> None:
    with pytest.raises(BadInput, match=r"metadata\.tests is no list of texts"):
        check_problems([problem("unit_tests", tests=tests)])


@pytest.mark.parametrize("metadata", ["text", [1], 5, None])
def test_metadata_that_is_no_object_is_none(metadata: object) -> None:
    for task in ("unit_tests", "agrees_with_base", "gym:chain_sum"):
        with pytest.raises(BadInput, match=r"has no metadata\."):
            check_problems([{"id": "p", "task": task, "answer": "1", "metadata": metadata}])


def test_code_without_tests_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"no metadata\.tests"):
        verify(problem("unit_tests", tests=[]), "x = 1")


# ---- agrees_with_base ----


def test_agreement_with_the_majority() -> None:
    base = problem("agrees_with_base", "", base_answers=["so 1,000.0", r"\boxed{7}", "", "It is 1000", "8"])
    assert verify(base, r"therefore \boxed{1000}")
    assert verify(base, "1,000")
    assert not verify(base, "7")


def test_agreement_of_words_and_ties() -> None:
    tie = problem("agrees_with_base", "", base_answers=["Yes", "no", "NO", "yes"])
    assert verify(tie, " yes")
    assert not verify(tie, "no")
    assert not verify(problem("agrees_with_base", "", base_answers=["", " "]), "no")
    with pytest.raises(BadInput, match=r"no metadata\.base_answers"):
        verify(problem("agrees_with_base"), "no")
    with pytest.raises(BadInput, match=r"metadata\.base_answers is no list of texts"):
        verify(problem("agrees_with_base", base_answers=["no", 3]), "no")


# ---- judge ----


class Server:
    """An OpenAI-compatible server that gives prepared (status, reply) answers and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, object]] = []
        self.requests: list[tuple[str, dict, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body, self.headers["Authorization"]))
                status, reply = outer.replies.pop(0)
                payload = {"choices": [{"message": {"content": reply}}]} if isinstance(reply, str) else reply
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(payload).encode())

            def log_message(self, *arguments: object) -> None:
                """Tests are quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    server = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_MODEL", "grader")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr("efficient_reasoning.server.RETRY_PAUSES_SECONDS", (0.0, 0.0))
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_judge_asks_once_and_reads_the_last_word(server: Server) -> None:
    server.replies = [(200, "CORRECT"), (200, "The same number.\n**CORRECT**."), (200, "WRONG")]
    assert [verify(problem("judge"), "forty-two") for _ in range(3)] == [True, True, False]
    path, body, authorization = server.requests[0]
    assert (path, body["model"], body["temperature"], authorization) == (
        *("/v1/chat/completions", "grader", 0),
        "Bearer secret",
    )
    assert "Reference answer:\n42\n\nProposed answer:\nforty-two" in body["messages"][-1]["content"]


def test_judge_works_without_a_gold_answer(server: Server) -> None:
    server.replies = [(200, "CORRECT")]
    assert verify(problem("judge", ""), "forty-two")
    assert "Reference" not in server.requests[0][1]["messages"][-1]["content"]


@pytest.mark.parametrize("reply", ["INCORRECT", "correct", "CORRECT, I would say", "", None])
def test_judge_is_read_strictly(server: Server, reply: str | None) -> None:
    server.replies = [(200, {"choices": [{"message": {"content": reply}}]})]
    with pytest.warns(UserWarning, match="neither CORRECT nor WRONG"):
        assert not verify(problem("judge"), "forty-two")


def test_judge_tries_a_busy_server_again(server: Server) -> None:
    server.replies = [(429, {}), (503, {}), (200, "CORRECT")]
    assert verify(problem("judge"), "forty-two")
    server.replies = [(500, {})] * 3
    with pytest.raises(BadInput, match="does not answer"):
        verify(problem("judge"), "forty-two")
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_key_that_the_server_says_back_is_in_no_message(server: Server, status: int) -> None:
    server.replies = [(status, {"error": "Incorrect API key: secret"})]
    with pytest.raises(BadInput, match=r"Incorrect API key: \*\*\*") as refused:
        verify(problem("judge"), "forty-two")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_judge_that_refuses_is_not_asked_again(server: Server, status: int) -> None:
    server.replies = [(status, {"error": "no such model"})]
    with pytest.raises(BadInput, match=rf"HTTP {status}: .*no such model.*check address, model and key"):
        verify(problem("judge"), "forty-two")


@pytest.mark.parametrize("reply", [{"result": "CORRECT"}, {"choices": [{"message": {"content": ["CORRECT"]}}]}])
def test_judge_of_another_protocol(server: Server, reply: dict) -> None:
    server.replies = [(200, reply)]
    with pytest.raises(BadInput, match="not reply like an OpenAI-compatible server"):
        verify(problem("judge"), "forty-two")


def test_judge_named_by_the_problem_gets_no_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    server.replies = [(200, "CORRECT")]
    assert verify(problem("judge", judge_base_url=server.url, judge_model="other"), "forty-two")
    assert server.requests[0][1]["model"] == "other" and server.requests[0][2] is None


def test_judge_missing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="does not answer"):
        verify(problem("judge", judge_base_url="http://127.0.0.1:9/v1"), "forty-two")
    monkeypatch.setenv("OPENAI_BASE_URL", "file:///etc/passwd")
    with pytest.raises(BadInput, match="set OPENAI_BASE_URL"):
        verify(problem("judge"), "forty-two")
    monkeypatch.delenv("OPENAI_MODEL")
    with pytest.raises(BadInput, match="set OPENAI_MODEL"):
        verify(problem("judge", judge_base_url=server.url), "forty-two")


def test_no_process_or_pipe_is_left_open() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert verify(problem("math"), r"\boxed{42}")
        assert verify(DOUBLE, "double = lambda x: x * 2")


# ---- problems that cannot be verified ----


@pytest.mark.parametrize("answer", [None, "", " "])
@pytest.mark.parametrize("task", ["exact", "numeric", "math"])
def test_a_problem_without_gold_answer_is_found_before_the_run(task: str, answer: str | None) -> None:
    good = {"id": "good", "task": task, "answer": "1"}
    check_problems([good])
    with pytest.raises(BadInput, match=r"Problem 'bad' .* has no answer"):
        check_problems([good, {"id": "bad", "task": task, "answer": answer}])


def test_problems_of_every_kind_are_looked_at() -> None:
    for problem in (
        {"task": "numeric", "answer": "none"},
        {"task": "unit_tests", "metadata": {}},
        {"task": "agrees_with_base", "metadata": None},
        {"task": "gym:chain_sum", "metadata": {}},
        {"task": "riddle", "answer": "1"},
        {"answer": "1"},
    ):
        with pytest.raises(BadInput):
            check_problems([problem])
    check_problems([{"task": "judge"}])  # not tried: it would cost a request
