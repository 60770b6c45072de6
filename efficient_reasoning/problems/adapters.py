"""Problems made elsewhere: reasoning-gym's data sets, JSON files, data sets of the Hub.

1. `gym:NAME` draws from reasoning-gym. Item i of seed s is item 0 of seed s + i there, and small families (coin_flip,
   tower_of_hanoi) repeat themselves under every seed. So seeds start far apart, and the split is made *by problem*: a
   hash of the question gives a third of all problems to each of train, validation and test.
2. The drawing happens in a process of its own, in a folder of its own: some generators print (bf), run other people's
   code that writes files (codeio), or follow the hash seed of Python (ransom_note), which is fixed there.
3. `file:PATH` and `hub:NAME` read rows of columns. Usual names are recognised, others are mapped as in a URL:

       file:gsm8k/test.jsonl                               question; the answer is what follows ####
       file:svamp/test.jsonl                               Body and Question, joined to one question; Answer
       file:rows.jsonl?question=stem,ask&answer=key&task=math
       file:rows.jsonl?unanswered=skip                     without the rows that have no gold answer
       file:gsm8k_aug/valid.txt                            a line is question||reasoning #### answer
       hub:openai/gsm8k?config=main                        also a local folder of JSONL or Parquet files

4. Without a `task` (in the mapping or in the rows) the gold answers tell it: math for all when one of the first
   thousand has a backslash, else numeric for numbers and exact for the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from urllib.parse import parse_qsl

from efficient_reasoning.answers import extract_answer, mathematics, sandbox
from efficient_reasoning.answers.matching import NUMBER
from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.files import read_numbered_jsonl

_GYM_SPLITS = ("train", "validation", "test")
_GYM_CHUNK = 1000  # items of one reasoning-gym data set, after which the next one is made
_GYM_MOST_DRAWS = 3000  # in vain, after which a family counts as exhausted
_GYM_MEMORY_BYTES = 4 << 30
# answers/gym.py refuses the scorers of these.
_GYM_TASKS = {"coin_flip": "numeric", "game_of_life_halting": "exact"}

# Columns joined by a comma are read as one text; case does not count. The first that a row has is taken.
_ALIASES = {
    "question": ("body,question", "question", "problem", "prompt", "query", "instruction", "input"),
    "answer": ("answer", "final_answer", "expected_answer", "ground_truth", "target", "solution", "output"),
}
_GSM8K_ANSWER = re.compile(r"^####[ \t]*(\S.*)\Z", re.MULTILINE)
_IDS = ("id", "unique_id")
_DIFFICULTIES = ("difficulty", "level")
_WITHOUT_GOLD = ("agrees_with_base", "judge", "unit_tests")  # tasks, as is gym:NAME
_TASK_SAMPLE = 1000  # rows that are looked at to tell the task


def from_gym(name: str, *, split: str = "test", num_problems: int = 500, seed: int = 0) -> list[dict]:
    """Draw distinct problems of a reasoning-gym data set, the same ones for the same arguments.

    Slow generators (futoshiki, knight_swap, zebra_puzzles: up to a second an item) draw three items for each problem.

    Args:
        name: a data set of reasoning-gym, such as "chain_sum".
        split: "train", "validation" or "test"; no question is in two of them.
        num_problems: how many.
        seed: of the draw.

    Raises:
        BadInput: reasoning-gym is not installed, an unknown name or split, a family without gold answers, or one with
            fewer problems.
    """
    if split not in _GYM_SPLITS:
        raise BadInput(f"gym:{name}: unknown split {split!r}{near(split, _GYM_SPLITS)}")
    problems: dict[str, dict] = {}
    in_vain = 0
    with contextlib.closing(_draw_entries(name, seed)) as entries:
        while len(problems) < num_problems:
            problem = _gym_problem(name, next(entries))
            if problem is None or problem["question"] in problems or _gym_split(problem["question"]) != split:
                in_vain += 1
            else:
                problems[problem["question"]] = problem
                in_vain = 0
            if in_vain == _GYM_MOST_DRAWS:
                raise BadInput(
                    f"gym:{name}: has only {len(problems)} {split} problems, not {num_problems}; ask for fewer."
                )
    return list(problems.values())


def _gym_split(question: str) -> str:
    digest = hashlib.blake2b(question.encode(), digest_size=8).digest()
    return _GYM_SPLITS[int.from_bytes(digest, "big") % len(_GYM_SPLITS)]


def _gym_problem(name: str, entry: dict) -> dict | None:
    """The problem of an entry; None where codeio's own code failed, which leaves an empty object for an answer."""
    answer = _GYM_GOLD[name](entry["metadata"]) if name in _GYM_GOLD else entry["answer"]
    if answer is None:
        raise BadInput(f"gym:{name}: reasoning-gym has no gold answers for it; choose another data set.")
    if answer == "{}":
        return None
    digest = hashlib.blake2b(entry["question"].encode(), digest_size=6).hexdigest()
    return {
        "id": f"gym-{name}-{digest}",
        "question": entry["question"],
        "answer": answer,
        "task": _GYM_TASKS.get(name, f"gym:{name}"),
        "metadata": {"family": name, "entry": entry},
    }


def _coin_flip_gold(metadata: dict) -> str:
    """The exact fraction: the entry's own answer is rounded, and may be in scientific notation."""
    tosses, heads = metadata["num_trials"], metadata["k_heads"]
    most = heads if metadata["problem_type"] == "exact" else tosses
    return str(Fraction(sum(math.comb(tosses, k) for k in range(heads, most + 1)), 2**tosses))


# Where reasoning-gym's answer is no gold answer, but its metadata has one.
_GYM_GOLD: dict[str, Callable[[dict], str]] = {
    "coin_flip": _coin_flip_gold,
    "graph_color": lambda metadata: json.dumps(metadata["possible_answer"]),
    "rubiks_cube": lambda metadata: metadata["example_correct_answer"],
}


def _draw_entries(name: str, seed: int) -> Iterator[dict]:
    """Entries of a reasoning-gym data set without end, from a process of their own."""
    # Golden-ratio hashing: the first thousand seeds start a million items apart, and numpy's 32 bits suffice.
    first_seed = seed * 2_654_435_769 % 2**31
    path = [os.path.abspath(folder) for folder in sys.path]
    program = (
        f"import sys; sys.path[:] = {path!r}; from {__name__} import serve_gym; serve_gym({name!r}, {first_seed})"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the caller
            env={**os.environ, **sandbox.ONE_THREAD, "PYTHONHASHSEED": "0"},
        ) as process,
    ):
        try:
            for line in process.stdout:
                reply = json.loads(line)
                if "bad_input" in reply:
                    raise BadInput(reply["bad_input"])
                yield reply
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)  # it may still be saying why
        finally:
            process.kill()
    raise RuntimeError(f"gym:{name}: the process that draws its problems died; its error stands above.")


def serve_gym(name: str, first_seed: int) -> None:
    """In the process that draws: write the entries as JSON lines until nobody reads them."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(reply: dict) -> None:
        print(json.dumps(reply), file=replies, flush=True)

    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        say({"bad_input": f"gym:{name} needs reasoning-gym ({error}): pip install 'efficient-reasoning[gym]'."})
        return
    known = set(DATASETS) - {"composite"}
    if name not in known:
        say({"bad_input": f"gym:{name}: no such data set of reasoning-gym{near(name, known)}"})
        return
    sandbox.confine(memory_bytes=_GYM_MEMORY_BYTES, folder=os.getcwd())
    for seed in itertools.count(first_seed, _GYM_CHUNK):
        dataset = create_dataset(name, seed=seed, size=_GYM_CHUNK)
        for index in range(_GYM_CHUNK):
            say(dataset[index])


def from_file(name: str, *, split: str = "test", num_problems: int = 500, seed: int = 0) -> list[dict]:
    """Read the first problems of a JSONL file, of a .json file that holds one list, or of a .txt file as above.

    A row with the columns of a Problem stays as it is; of other rows the remaining columns become the metadata.

    Args:
        name: `PATH` or `PATH?question=COLUMN,...&answer=COLUMN&task=TASK&unanswered=skip`.
        split, seed: of no meaning here.
        num_problems: how many at most.

    Raises:
        BadInput: a missing or malformed file, a row without its question or gold answer (its line is named), an
            unknown task or mapping.
    """
    location, mapping = _parse_mapping(f"file:{name}", ("question", "answer", "task", "unanswered"))
    path = Path(location).expanduser()
    return _problems(_answered(_file_rows(path), mapping), mapping, path.stem, num_problems)


def from_hub(name: str, *, split: str = "test", num_problems: int = 500, seed: int = 0) -> list[dict]:
    """Stream the first problems of a data set of the Hub, or of a local folder of data files.

    Args:
        name: `ID` or `ID?config=NAME&question=COLUMN,...&answer=COLUMN&task=TASK&unanswered=skip`.
        split: the data set's own name for it.
        num_problems: how many at most.
        seed: of no meaning here.

    Raises:
        BadInput: no such data set, config or split, no connection, or as `from_file`.
    """
    import datasets

    location, mapping = _parse_mapping(f"hub:{name}", ("question", "answer", "task", "unanswered", "config"))
    try:
        rows = datasets.load_dataset(location, mapping.get("config"), split=split, streaming=True)
        rows = list(itertools.islice(_answered(enumerate(rows), mapping), max(num_problems, _TASK_SAMPLE)))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"hub:{location}: cannot read its split {split!r} ({reason}); check name and split.") from None
    numbered = ((f"hub:{location}, row {number}", row) for number, row in rows)
    return _problems(numbered, mapping, Path(location).name, num_problems)


def _parse_mapping(name: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`file:PATH?answer=key` -> PATH, {answer: key}; a question mark without an assignment belongs to the path."""
    path, _, query = name.rpartition("?")
    if not path or "=" not in query:
        return name.partition(":")[2], {}
    mapping = dict(parse_qsl(query, keep_blank_values=True))
    for key in mapping:
        if key not in known:
            raise BadInput(f"{name}: unknown key {key!r} behind the question mark{near(key, known)}")
    if mapping.get("unanswered", "skip") != "skip":
        raise BadInput(f"{name}: unanswered is {mapping['unanswered']!r}; it can only be skip.")
    return path.partition(":")[2], mapping


def _file_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Each row of a file after its place in words."""
    if path.suffix not in (".json", ".txt"):
        yield from ((f"{path}, line {number}", row) for number, row in read_numbered_jsonl(path))
        return
    if not path.is_file():
        raise BadInput(f"{path}: no such file; check the path.")
    if path.suffix == ".txt":
        yield from _text_rows(path)
        return
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid JSON ({error}); name it .jsonl if it has one object a line.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path}: expected one list of objects; name it .jsonl if it has one object a line.")
    yield from ((f"{path}, item {number}", row) for number, row in enumerate(rows, start=1))


def _text_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """The lines of a file as implicit chain-of-thought training has them (arXiv 2405.14838)."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error}); convert it.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question, _, solution = line.partition("||")
        reasoning, _, answer = solution.rpartition("####")
        place, row = f"{path}, line {number}", {"question": question, "reasoning": reasoning, "answer": answer}
        row = {name: text.strip() for name, text in row.items()}
        if not row["question"] or not row["answer"] or "####" not in solution:
            raise BadInput(f"{place}: expected question||reasoning #### answer; write it so, or name it .jsonl.")
        yield place, row


def _answered(rows: Iterable[tuple], mapping: Mapping[str, str]) -> Iterator[tuple]:
    """The rows, after their places, that have a gold answer; all of them unless the mapping wants to skip others."""
    for place, row in rows:
        answers = [row[column] for column in _columns(row, "answer", mapping)] or [None]
        if "unanswered" not in mapping or all(str(answer).strip() and answer is not None for answer in answers):
            yield place, row


def _problems(
    rows: Iterable[tuple[str, dict]], mapping: Mapping[str, str], source: str, num_problems: int
) -> list[dict]:
    """The first rows as problems; those without an id are called after their source and number."""
    rows = list(itertools.islice(rows, max(num_problems, _TASK_SAMPLE)))
    is_math = any("\\" in _gold(row[column]) for _, row in rows for column in _columns(row, "answer", mapping)[:1])
    return [
        _problem(place, row, mapping, f"{source}-{index}", is_math)
        for index, (place, row) in enumerate(rows[:num_problems])
    ]


def from_rows(rows: Iterable[tuple[str, dict]], mapping: Mapping[str, str], source: str) -> list[dict]:
    """Rows from anywhere as problems, one each.

    Args:
        rows: after its place in words, for messages.
        mapping: of the columns, such as {"answer": "key"}; and a "task" for all rows.
        source: what rows without an id are called after.

    Raises:
        BadInput: as `from_file`.
    """
    return _problems(rows, mapping, source, sys.maxsize)


def _problem(place: str, row: Mapping, mapping: Mapping[str, str], default_id: str, is_math: bool) -> dict:
    used = {key: _columns(row, key, mapping) for key in _ALIASES}
    used |= {"id": _present(row, _IDS)[:1], "difficulty": _present(row, _DIFFICULTIES)[:1], "task": ["task"]}
    identity, difficulty = (row[used[key][0]] if used[key] else None for key in ("id", "difficulty"))
    task = mapping.get("task") or row.get("task")
    question = _text(place, row, "question", used["question"])
    if task in _WITHOUT_GOLD or str(task).startswith("gym:"):
        answer = str(row[used["answer"][0]] or "") if used["answer"] else ""
    elif task == "json" and used["answer"] and isinstance(row[used["answer"][0]], Mapping):
        answer = json.dumps(row[used["answer"][0]])
    else:
        answer = _gold(_text(place, row, "answer", used["answer"]))
        task = task or ("math" if is_math else "numeric" if NUMBER.fullmatch(answer.strip("$% ")) else "exact")
    try:
        extract_answer(str(task), "")
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    rest = {column: value for column, value in row.items() if column not in itertools.chain(*used.values())}
    return {
        "id": default_id if identity in (None, "") else str(identity),
        "question": question,
        "answer": answer,
        "task": task,
        **({"difficulty": difficulty} if type(difficulty) in (int, float) else {}),
        "metadata": row["metadata"] if isinstance(row.get("metadata"), Mapping) else rest,
    }


def _columns(row: Mapping, key: str, mapping: Mapping[str, str]) -> list[str]:
    """The row's columns for "question" or "answer"; none where it lacks one of them."""
    for names in [mapping[key]] if key in mapping else _ALIASES[key]:
        columns = _present(row, names.split(","))
        if len(columns) == len(names.split(",")):
            return columns
    return []


def _present(row: Mapping, names: Iterable[str]) -> list[str]:
    """Those of the names that the row has, as it writes them."""
    written = {column.lower(): column for column in row}
    return [written[name.lower()] for name in names if name.lower() in written]


def _text(place: str, row: Mapping, key: str, columns: list[str]) -> str:
    """The text of the columns; of several, each but the last ends its sentence."""
    if not columns:
        raise BadInput(f"{place}: no {key} among its columns {', '.join(row)}; map one, as in file:PATH?{key}=COLUMN.")
    for column in columns:
        if not isinstance(row[column], (str, int, float)) or not str(row[column]).strip():
            found = json.dumps(row[column], default=str)[:40]
            raise BadInput(f"{place}: column {column!r} holds {found}, no {key}; write a text or number there.")
    parts = [str(_whole(row[column])).strip() for column in columns]
    return " ".join([part + "." * part[-1].isalnum() for part in parts[:-1]] + parts[-1:])


def _whole(value: object) -> object:
    """27.0 -> 27: tables often turn whole numbers into floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _gold(text: object) -> str:
    """What follows #### on the last line (GSM8K), or stands in the last box (MATH), or all of it."""
    text = str(text).strip()
    marked = _GSM8K_ANSWER.search(text)
    return marked[1] if marked else mathematics.extract(text) or text
