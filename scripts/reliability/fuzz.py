"""Thousands of hostile answers, configs and files of rows: each ends as a verdict, a valid run or one clear sentence.

1. `answers` go to every verifier. They may be right or wrong; nothing else may come of them, and nothing may take
   longer than a worker's time limit.
2. `configs` are mutations of every shipped config, read as the recipe or data tool reads its own, trainer included.
3. `rows` are mutations of what every reader of JSON lines is given: recipes up to the end of their dry run, data
   tools, problems, logs.
4. A case is *lost* when it ends in anything but `BadInput`, hangs, or is refused without a sentence. What was lost is
   printed with its number, which makes it again: `--only KIND --start NUMBER --count 1`.

    python -m scripts.reliability.fuzz answers --count 10000 [--seed 0] [--start 0] [--only KIND]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

from efficient_reasoning import answers, config
from efficient_reasoning.answers import code, gym, mathematics
from efficient_reasoning.errors import BadInput
from scripts.reliability import hostile

ANSWER_LIMIT_SECONDS = 2.0  # of the verifiers' processes, so that thousands of hostile answers take minutes
SLACK_SECONDS = 6.0  # to start a process, which on a busy machine includes the import of sympy
LIMIT_SECONDS = 60.0  # of a config, or a file of rows; the first of a recipe imports its trainer
LONGEST_SENTENCE = 2_100

# Makes a case of a generator, and gives what to do with it.
Maker = Callable[[random.Random], Callable[[], object]]


class Overran(BaseException):
    """A case took longer than it may; no `except Exception` keeps it from getting out."""


@dataclasses.dataclass
class Tally:
    """What became of the cases of one kind."""

    tried: int = 0
    refused: int = 0
    valid: int = 0
    slowest_seconds: float = 0.0
    lost: Counter[str] = dataclasses.field(default_factory=Counter)
    first: dict[str, int] = dataclasses.field(default_factory=dict)  # number of the first case lost so


def fuzz(
    makers: dict[str, Maker], count: int, seed: int = 0, start: int = 0, limit_seconds: float = LIMIT_SECONDS
) -> dict[str, Tally]:
    """Try cases `start` to `start + count`, of each kind in turn; in the main thread, whose alarm ends what hangs."""
    tallies = {kind: Tally() for kind in makers}
    before = signal.signal(signal.SIGALRM, _overrun)
    try:
        for number in range(start, start + count):
            kind = list(makers)[number % len(makers)]
            _try(makers[kind](random.Random(f"{seed}/{kind}/{number}")), number, tallies[kind], limit_seconds)
    finally:
        signal.signal(signal.SIGALRM, before)
    return tallies


def _overrun(*_: object) -> None:
    raise Overran


def _try(case: Callable[[], object], number: int, tally: Tally, limit_seconds: float) -> None:
    tally.tried += 1
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, limit_seconds)
    reason = None
    try:
        case()
        signal.setitimer(signal.ITIMER_REAL, 0)
        tally.valid += 1
    except BadInput as error:
        tally.refused += 1
        if not str(error) or "\n" in str(error) or len(str(error)) > LONGEST_SENTENCE:
            reason = f"no sentence: {str(error)[:80]!r}"
    except BaseException as error:  # SystemExit and Overran too
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {str(error)[:80]!r} at {Path(place.filename).name}:{place.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.slowest_seconds = max(tally.slowest_seconds, time.monotonic() - start)
    if reason is not None:
        tally.lost[reason] += 1
        tally.first.setdefault(reason, number)


# ---- answers ----


def answer_makers() -> dict[str, Maker]:
    """One kind a verifier; `gym` goes over the scorers of all its data sets."""
    double = {"tests": ["assert double(2) == 4", "assert double('a') == 'aa'"]}
    call = '{"name": "add", "arguments": {"numbers": [1, 2.5], "round": true, "unit": "\\u20ac"}}'
    golds = {
        "exact": [("New York", "New  York."), ("tom is a lempus", "Tom is a lempus")],
        "numeric": [("42", "so it is 42."), ("-1/2", "-1,000 / 2,000"), ("0.3", "$0.30")],
        "math": [(gold, f"\\boxed{{{gold}}}") for gold in ("42", "\\frac{1}{2}", "x^2+2x+1", "\\{1, 2\\}", "(1, 2]")],
        "json": [(call, f"I call\n```json\n{call}\n```"), ('{"a": {"b": [1.0]}}', '{"a": {"b": [1]}}')],
        "unit_tests": [("", "```python\ndef double(x):\n    return x * 2\n```")],
        "agrees_with_base": [("", "therefore \\boxed{1000}"), ("", "1,000.0")],
        "judge": [("42", "it is 42\n\nCORRECT")],
    }
    metadata = {"unit_tests": double, "agrees_with_base": {"base_answers": ["so 1,000.0", "\\boxed{7}", "It is 1000"]}}

    def maker(task: str) -> Maker:
        def make(rng: random.Random) -> Callable[[], object]:
            gold, right = rng.choice(golds[task])
            problem = {"id": "p", "question": "?", "answer": gold, "task": task, "metadata": metadata.get(task)}
            text = hostile.answer(rng, right)
            return lambda: _verify(problem, text)

        return make

    return {task: maker(task) for task in golds} | {"gym": _gym_maker()}


def _gym_maker() -> Maker:
    """Problems are drawn when they are wanted: a hundred generators, some slow."""
    import reasoning_gym

    names = sorted(set(reasoning_gym.factory.DATASETS) - {"composite", *gym._REFUSED})
    drawn: dict[str, dict] = {}

    def make(rng: random.Random) -> Callable[[], object]:
        name = rng.choice(names)
        if name not in drawn:
            with contextlib.redirect_stdout(io.StringIO()):
                entry = reasoning_gym.create_dataset(name, size=1, seed=1)[0]
            entry = json.loads(json.dumps(entry, default=str))  # as it comes back from a file
            drawn[name] = {"id": "g", "answer": entry["answer"], "task": f"gym:{name}", "metadata": {"entry": entry}}
        text = hostile.answer(rng, f"<answer>{drawn[name]['answer']}</answer>")
        return lambda: _verify(drawn[name], text)

    return make


def _verify(problem: dict, text: str) -> None:
    """The problem can be verified, so that even a refusal would be the answer's doing."""
    try:
        answers.verify(problem, text)
    except BadInput as error:
        raise RuntimeError(f"refused: {error}") from None


class _Echo(BaseHTTPRequestHandler):
    """A judge that repeats the answer: whatever a hostile one can make it say."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = {"choices": [{"message": {"content": body["messages"][-1]["content"]}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def verifiers() -> Iterator[None]:
    """Short time limits, and a judge to ask."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with contextlib.ExitStack() as stack:
        for module in (code, gym, mathematics):
            stack.enter_context(mock.patch.object(module, "TIMEOUT_SECONDS", ANSWER_LIMIT_SECONDS))
        variables = {"OPENAI_BASE_URL": url, "OPENAI_MODEL": "echo", "no_proxy": "127.0.0.1"}
        stack.enter_context(mock.patch.dict(os.environ, variables))
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield


# ---- configs ----


class _Parsed(Exception):
    """The arguments are read, and the work would start now."""


def _program(path: Path) -> tuple[str, str]:
    """The folder and name of the program that a shipped config is for, by the command in its first line."""
    kind, name = path.read_text(encoding="utf-8").split()[2:4]
    return {"train": "recipes", "data": "data_tools"}[kind], name


def config_makers() -> dict[str, Maker]:
    """One kind a program, over all its configs, and one for DeepSpeed's files."""
    shipped = sorted(config.folder("configs").rglob("*.yaml"))
    of: dict[tuple[str, str], list[Path]] = {}
    for path in shipped:
        of.setdefault(_program(path), []).append(path)
    makers = {
        f"{kind.removesuffix('_tools')} {name}": _config_maker(kind, name, paths)
        for (kind, name), paths in sorted(of.items())
    }
    return makers | {"deepspeed": _deepspeed_maker()}


def _config_maker(kind: str, name: str, paths: list[Path]) -> Maker:
    keys: list[str] = []

    def make(rng: random.Random) -> Callable[[], object]:
        if not keys:
            keys.extend(_known_keys(kind, name))
        path = rng.choice(paths)
        Path("config.yaml").write_bytes(hostile.yaml_file(rng, path.read_text(encoding="utf-8"), keys))
        on_cpu = ["--bf16=false", "--use_cpu"] if "use_cpu" in keys else []
        return lambda: _parse_only(kind, name, ["--config", "config.yaml", *on_cpu])

    return make


def _deepspeed_maker() -> Maker:
    paths = sorted((config.folder("configs") / "deepspeed").glob("*.json"))

    def make(rng: random.Random) -> Callable[[], object]:
        settings = json.loads(rng.choice(paths).read_text(encoding="utf-8"))
        Path("zero.json").write_bytes(hostile.json_lines(rng, [settings]))
        words = ["--config", "sft_compress/shortest_correct_overthinker", "--deepspeed", "zero.json"]
        return lambda: _parse_only("recipes", "sft_compress", words)

    return make


def _parse_only(kind: str, name: str, words: list[str]) -> None:
    """Run a program up to the place where its arguments are read."""
    program = importlib.import_module(f"{kind}.{name}")

    def parse_only(*arguments: object, **settings: object) -> None:
        config.parse(*arguments, **settings)
        raise _Parsed

    with (
        mock.patch.object(program, "parse", parse_only),
        mock.patch.object(sys, "argv", [str(config.recipe_path(name, kind))]),
        mock.patch.dict(os.environ),  # `env` of a config sets variables
        contextlib.suppress(_Parsed),
    ):
        program.main(words)


def _known_keys(kind: str, name: str) -> list[str]:
    """All keys of a program, its trainers' included."""
    classes: list[type] = []
    program = importlib.import_module(f"{kind}.{name}")

    def note(own: type, trainer: object = None, **_: object) -> typing.NoReturn:
        targets = [trainer] if isinstance(trainer, str) else []
        if isinstance(trainer, dict):
            targets = [target for choices in trainer.values() for target in choices.values()]
        classes.extend([own, *map(config._import, targets)])
        raise _Parsed

    with mock.patch.object(program, "parse", note), contextlib.suppress(_Parsed):
        program.main([])
    return sorted({"env", *(field.name for one in classes for field in dataclasses.fields(one))})


# ---- rows ----

_SFT = {
    "prompt": "Compute 3 + 4.\n",
    "completion": "<think>3 + 4 = 7</think>7<|end|>",
    "method": "shortest_correct",
    "total_tokens": 16,
    "id": "sums-1",
}
_TURNS = [{"role": "user", "content": "Compute 3 + 4."}, {"role": "assistant", "content": "<think>3 + 4 = 7</think>7"}]
_PAIR = {
    "prompt": "Compute 3 + 4.\n",
    "chosen": "<think>3 + 4 = 7</think>7<|end|>",
    "rejected": "<think>3 + 4 = 7. Wait. 3 + 4 = 7</think>7<|end|>",
    "source_tokens": 30,
    "budget_tokens": 20,
}
_RL = {
    "prompt": "Compute 3 + 4.\n",
    "answer": "7",
    "task": "numeric",
    "metadata": {"family": "sums", "base_answers": ["7"], "tests": ["assert f(1) == 1"]},
    "reference_tokens": 40.0,
    "reference_accuracy": 0.5,
    "budget_tokens": 20,
}
_LATENT = {"prompt": "Compute 3 + 4 + 5.\n", "steps": ["3 + 4 = 7", "7 + 5 = 12"], "answer": "12", "total_tokens": 16}


def _trace(number: int) -> dict:
    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model
    from efficient_reasoning.traces import tokenizer_hash

    tokenizer = load_tokenizer(resolve_model("overthinker"))
    question, chain = f"Compute 3 + {4 + number // 2}.", "3 + 4 = 7" + ". Wait. 3 + 4 = 7" * number
    completion = f"<think>{chain}</think>7"
    ids = tokenizer.encode(completion, add_special_tokens=False)
    return {
        "id": f"sums-{number // 2}",
        "question": question,
        "answer": "7",
        "task": "numeric",
        "metadata": None,
        "prompt": f"{question}\n",
        "completion": completion,
        "prompt_ids": tokenizer.encode(f"{question}\n"),
        "completion_ids": [*ids, tokenizer.eos_token_id],
        "thinking": chain,
        "final_answer": "7",
        "correct": True,
        "truncated": False,
        "thinking_tokens": len(ids) - 3,
        "answer_tokens": 1,
        "total_tokens": len(ids),
        "seed": number,
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "step_ends": [2, 4],
        "values": [0.5, 1.0],
    }


_LOGS = [
    {
        "messages": [{"role": "user", "content": "What is 3 + 4?"}],
        "choices": [{"message": {"content": "7", "reasoning_content": "3 + 4 = 7"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 6}},
        "answer": "7",
    },
    {"question": "What is 3 + 5?", "answer": "8", "completions": ["<think>3 + 5</think>8", "<think>8?</think>9"]},
    {"question": "What is 1 + 5?", "answer": "6", "solution": "<think>1 + 5 = 6</think>6"},
    {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}], "answer": "2", "id": "x"},
    {"question": "1 + 2?", "answer": 3, "deepseek_thinking_trajectory": "1 + 2 = 3", "deepseek_attempt": "3"},
]
_PROBLEMS = [
    {"id": "a", "question": "What is 3 + 4?", "answer": "7", "task": "numeric", "difficulty": 2, "metadata": {"x": 1}},
    {"question": "What is 1/2?", "answer": "reasoning\n#### 0.5"},
    {"Body": "Tom has 3 apples.", "Question": "How many?", "Answer": 3.0},
    {"question": "Double it.", "task": "unit_tests", "metadata": {"tests": ["assert double(2) == 4"]}},
    {"question": "Call it.", "task": "json", "answer": {"a": 1}},
    {"question": "Say.", "task": "agrees_with_base", "metadata": {"base_answers": ["7", "8"]}},
    {"question": "And now?", "answer": "yes", "task": "exact", "metadata": {"earlier_turns": _TURNS}},
]


def row_makers() -> dict[str, Maker]:
    """One kind a reader. Recipes read a base that is loaded once, and go on to the end of their dry run."""
    # Before any case is timed: the alarm would leave half of a library that is being imported.
    import datasets  # noqa: F401
    import pandas  # noqa: F401
    import trl  # noqa: F401

    from efficient_reasoning.contamination import training_problems
    from efficient_reasoning.training import load_rows

    traces = [_trace(number) for number in range(4)]

    def recipe(name: str, config_name: str, *rows: dict) -> Maker:
        words = [
            *("--config", f"{name}/{config_name}", "--data", "rows.jsonl", "--output_dir", "out", "--dry_run"),
            *("--bf16=false", "--use_cpu", "--report_to", "none"),
        ]
        words += [] if name == "pretrain" else ["--model", "overthinker"]

        def read() -> None:
            _run("recipes", name, words)
            if name in ("rl_length", "sft_latent", "train_verifier"):  # which come to that behind their dry run
                training_problems(load_rows("rows.jsonl", ()))

        return _row_maker([rows], read)

    def tool(name: str, config_name: str, source: str, rows: list[dict]) -> Maker:
        words = ["--config", f"data/{config_name}", f"--{source}", "rows.jsonl", "--out", "out.jsonl"]
        words += ["--model", "overthinker"] if name == "import_traces" else []
        return _row_maker([rows], lambda: _run("data_tools", name, words))

    sft = ({**_SFT, "prompt": f"Compute {a} + 4.\n"} for a in range(3))
    rl = [_RL] * 16  # a batch
    offline = {**_SFT, "reward": 0.5, "paid_by": "o1_pruner", "method": "offline_rewards"}
    return {
        "train sft_compress": recipe("sft_compress", "shortest_correct_overthinker", *sft),
        "train sft_compress, turns": recipe(
            "sft_compress", "c3ot_overthinker", {"messages": _TURNS}, {"messages": _TURNS}
        ),
        "train sft_compress, scales": recipe(
            "sft_compress",
            "cot_valve_overthinker",
            *(
                {**_SFT, "prompt": f"1 + {a}?<|short|>\n", "control": "<|short|>", "adapter_scale": 0.5}
                for a in range(3)
            ),
        ),
        "train sft_compress, pairs": recipe("sft_compress", "dpo_overthinker", _PAIR, _PAIR),
        "train rl_length": recipe("rl_length", "kimi_overthinker", *rl),
        "train rl_length, budgets": recipe("rl_length", "lcpo_exact_overthinker", *rl),
        "train rl_length, offline": recipe("rl_length", "o1_pruner_overthinker", offline, offline),
        "train sft_latent": recipe("sft_latent", "coconut_overthinker", _LATENT, _LATENT),
        "train linearize": recipe("linearize", "transfer_overthinker", _SFT, _SFT),
        "train train_verifier": recipe("train_verifier", "overthinker", *traces),
        "train pretrain": recipe("pretrain", "stream_overthinker", _SFT, _SFT),
        "data shortest_correct": tool("shortest_correct", "shortest_correct_overthinker", "traces", traces),
        "data import_traces": tool("import_traces", "import_traces_openr1", "source", _LOGS),
        "traces": _row_maker([traces], _read_traces),
        "logs": _row_maker([_LOGS, traces], _read_logs),
        "problems": _row_maker([_PROBLEMS], _read_problems),
        "examples": _row_maker([traces, [_SFT, {**_SFT, "prompt": "Compute 1 + 1.\n"}]], _read_examples),
    }


def _row_maker(files: list, read: Callable[[], object]) -> Maker:
    def make(rng: random.Random) -> Callable[[], object]:
        for place in ("out", "out.jsonl", "out.jsonl.report.json", "out.jsonl.partial"):
            shutil.rmtree(place) if Path(place).is_dir() else Path(place).unlink(missing_ok=True)
        Path("rows.jsonl").write_bytes(hostile.json_lines(rng, rng.choice(files)))
        return read

    return make


def _run(kind: str, name: str, words: list[str]) -> None:
    with (
        mock.patch.object(sys, "argv", [str(config.recipe_path(name, kind))]),
        mock.patch.dict(os.environ),
    ):
        importlib.import_module(f"{kind}.{name}").main(words)


def _thinking():
    from efficient_reasoning.compression.tokenizer import load_thinking

    return load_thinking("overthinker")


def _read_traces() -> None:
    from efficient_reasoning.traces import read_traces

    for _ in read_traces("rows.jsonl"):
        """Each line is looked at when it is reached."""


def _read_logs() -> None:
    from efficient_reasoning.audit.logs import read_logs

    read_logs("rows.jsonl", _thinking())


def _read_problems() -> None:
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.prompts import conversation

    problems = load_problems("file:rows.jsonl")
    list(map(conversation, problems))
    answers.check_problems(problems)


def _read_examples() -> None:
    from efficient_reasoning.few_shot import Examples

    Examples("rows.jsonl", 1, _thinking())


# ---- the program ----

TARGETS = {"answers": answer_makers, "configs": config_makers, "rows": row_makers}


@contextlib.contextmanager
def quiet_folder() -> Iterator[None]:
    """An empty working folder; what programs print, and warn of, goes nowhere."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            os.chdir(before)


def run(target: str, count: int, seed: int = 0, start: int = 0, only: str | None = None) -> dict[str, Tally]:
    """Fuzz one target in a folder of its own."""
    limit_seconds = ANSWER_LIMIT_SECONDS + SLACK_SECONDS if target == "answers" else LIMIT_SECONDS
    with quiet_folder(), verifiers():
        makers = TARGETS[target]()
        makers = {kind: make for kind, make in makers.items() if only in (None, kind)}
        return fuzz(makers, count, seed, start, limit_seconds)


def table(tallies: dict[str, Tally]) -> str:
    """A row a kind, and their sum."""
    lines = ["| kind | tried | BadInput | valid | lost | slowest |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    rows = [
        (kind, one.tried, one.refused, one.valid, one.lost.total(), one.slowest_seconds)
        for kind, one in tallies.items()
    ]
    rows.append(("all", *(sum(row[place] for row in rows) for place in range(1, 5)), max(row[5] for row in rows)))
    lines += ["| {} | {:,} | {:,} | {:,} | {} | {:.1f} s |".format(*row) for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", metavar="KIND")
    arguments = parser.parse_args()
    tallies = run(**vars(arguments))
    print(table(tallies))
    for kind, tally in tallies.items():
        for reason, times in tally.lost.most_common():
            print(f"lost: {kind}: {times} times, first {tally.first[reason]}: {reason}")
    sys.exit(any(tally.lost for tally in tallies.values()))


if __name__ == "__main__":
    main()
