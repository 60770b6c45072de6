"""Traces: the one place that lets a model solve problems and writes down what it did.

1. A *point* is a strategy with a budget. Every point solves every problem `samples_per_problem` times, in large
   chunks, because the engine is fastest when it is full. One sample is one line of a JSONL file.
2. A sample's seed follows from (seed, problem id, sample index) alone: every checkpoint, strategy and budget meets the
   same problem with the same luck, which is what makes paired comparisons sharp.
3. A chunk of samples meets all points before the next chunk starts, so that what one point has decoded serves the
   others. The file grows by one chunk of one point, which is read while the next one is decoded. The same command
   again skips what is there; a line torn by a kill is dropped and solved anew.
4. A file belongs to one configuration, which stands in a YAML file beside it: another one is refused, never mixed in,
   and so is a second run at the same time.
5. A line is a training row too: its `prompt` and `completion` are what TRL takes, spelled from the decoded ids. They
   end where EOS stood, because the trainer sets its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING

import yaml

from efficient_reasoning import answers, inference
from efficient_reasoning.checkpoint import weights_fingerprint
from efficient_reasoning.config import split_parameters
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import atomic_file, digest, lock, read_jsonl, read_placed_jsonl
from efficient_reasoning.inference.strategy import get_strategy
from efficient_reasoning.prompts import conversation, is_turn
from efficient_reasoning.scribes import Scribes, Solved

if TYPE_CHECKING:
    from efficient_reasoning.few_shot import Examples
    from efficient_reasoning.inference import Reasoner

CHUNK_REQUESTS = 512
_MOST_REQUESTS, _SHORT_SECONDS = 16384, 20  # of a chunk that grows
FORMAT = 3  # of a line; raised when its fields change, so that two kinds never stand in one file
# What data tools rely on. (No gold answer: some verifiers do without.)
_NEEDED = {
    **dict.fromkeys(("id", "task", "thinking", "final_answer"), str),
    **dict.fromkeys(("prompt", "completion"), (str, list)),
    **dict.fromkeys(("prompt_ids", "completion_ids"), list),
    **dict.fromkeys(("correct", "truncated"), bool),
    **dict.fromkeys(("thinking_tokens", "total_tokens", "seed"), int),
}


def shown_tokens(sample: Mapping, name: str = "total_tokens") -> int:
    """A length of a response as people are shown it, in tokens: with the latents, or pauses, that the ledger counts.

    Args:
        sample: a line; lines of older versions do not name their latents.
        name: "total_tokens" or "thinking_tokens", which in the line are lengths of its ids.
    """
    return sample[name] + sample.get("latent_tokens", 0)


def sample_traces(
    reasoner: Reasoner,
    problems: Sequence[Mapping],
    *,
    strategies: Sequence[str],
    budgets: Sequence[int | None],
    samples_per_problem: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    path: Path,
    config_path: Path,
    examples: Examples | None = None,
) -> dict:
    """Solve every problem at every (strategy, budget); resume what an earlier call left unfinished.

    Args:
        reasoner: from `load_reasoner`.
        problems: with distinct ids.
        strategies: names that `get_strategy` knows.
        budgets: `budget_tokens` of each point; None is unlimited (up to `max_new_tokens`).
        samples_per_problem: how often each point solves each problem.
        temperature, top_p, top_k, max_new_tokens: of sampling; temperature 0 is greedy.
        seed: from which every sample's seed follows.
        path: the JSONL file. A line is the problem and `prompt`, `completion`, `prompt_ids`, `completion_ids` (EOS
            kept), `thinking`, `final_answer`, `correct`, `truncated`, `forced_close`, `empty_answer`, their lengths,
            `latent_tokens` (latents or pauses before it, in no length) and `floor_tokens` in tokens, what
            `overthinking.Reader` reads in it, the `spend`, and what it was made with.
        config_path: the YAML file of the configuration.
        examples: stand in front of each question when it is asked. The `prompt` of a trace stays the plain question,
            which is what a model learns to answer; its `prompt_ids` are what was read.

    Returns:
        the configuration.

    Raises:
        BadInput: nothing to do, a budget below one token, ids that repeat, a file of another configuration, or one
            that another run is writing.
    """
    _check_request(problems, strategies, budgets, samples_per_problem)
    # Before the folder is claimed: a refused request leaves nothing behind.
    sampling = inference.Sampling(temperature, top_p, top_k)
    asked = examples.ask(problems[0]) if examples else conversation(problems[0])
    for strategy, budget in itertools.product(strategies, budgets):
        inference.check_request(reasoner, asked, strategy, budget, max_new_tokens, sampling)
    answers.check_problems(problems)
    config = {
        "model": Path(reasoner.name).name if Path(reasoner.name).is_absolute() else reasoner.name,
        "strategies": list(strategies),
        "budgets": list(budgets),
        "samples_per_problem": samples_per_problem,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "num_problems": len(problems),
        "problems_fingerprint": _fingerprint(problems),
        "weights": reasoner.weights,
        "backend": reasoner.backend,
        "others": _others(strategies, reasoner),
        "format": FORMAT,
        **(examples.settings if examples else {}),
    }
    _claim(config_path, config, path)
    with open(path, "a", encoding="utf-8") as stream:
        if not lock(stream):
            raise BadInput(f"{path}: another run is writing it; wait for that one, or choose another out.")
        _solve_pending(reasoner, problems, config, stream, examples)
    return config


def read_traces(path: str | Path) -> Iterator[dict]:
    """Yield the traces of a JSONL file one by one.

    Args:
        path: as `sample_traces` wrote it.

    Raises:
        BadInput: the file is missing, or a line is malformed or lacks a field of a trace (its number is named).
    """
    for _, trace in placed_traces(path):
        yield trace


def placed_traces(path: str | Path) -> Iterator[tuple[int, dict]]:
    """`read_traces` with the byte at which each line begins."""
    for number, offset, trace in read_placed_jsonl(path):
        wrong = next((name for name, kind in _NEEDED.items() if not isinstance(trace.get(name), kind)), None)
        if wrong is not None:
            fault = f"no {wrong!r} in it" if trace.get(wrong) is None else f"its {wrong!r} is {trace[wrong]!r:.50}"
            raise BadInput(
                f"{path}, line {number}: {fault}; give a file that `efficient-reasoning data sample` or `evaluate` "
                "wrote."
            )
        if fault := _fault(trace):
            raise BadInput(f"{path}, line {number}: {fault}; mend or remove the line.")
        yield offset, trace


def _fault(trace: Mapping) -> str | None:
    """What no program of ours writes, and some would fail on."""
    for name in ("thinking_tokens", "total_tokens"):
        if isinstance(trace[name], bool) or not 0 <= trace[name] < 1 << 31:
            return f"its {name!r} is {str(trace[name])[:50]}, no number of tokens"
    for name in ("prompt_ids", "completion_ids"):
        if not all(type(token) is int and 0 <= token < 1 << 31 for token in trace[name]):
            return f"its {name!r} are no token ids"
    for name in ("prompt", "completion"):
        if isinstance(trace[name], list) and not (trace[name] and all(map(is_turn, trace[name]))):
            return f"its {name!r} is no list of messages"
    if type(trace.get("latent_tokens", 0)) is not int:
        return "its 'latent_tokens' is no number of tokens"
    if not isinstance(trace.get("metadata"), (Mapping, NoneType)):
        return "its 'metadata' is no object"
    if not isinstance(trace.get("tokenizer_hash"), (str, NoneType)):
        return "its 'tokenizer_hash' is no text"
    return None


def read_config(path: Path) -> dict:
    """The configuration that `sample_traces` wrote.

    Raises:
        BadInput: somebody has changed it into something else.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception:  # PyYAML passes on what Python says of odd dates and numbers
        config = None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: no configuration of a run; restore the file, or choose another out.")
    return config


def sample_seed(seed: int, problem_id: str, sample_index: int) -> int:
    """The seed of one sample: 31 bits that depend on nothing but the arguments."""
    digest = hashlib.blake2b(f"{seed}/{sample_index}/{problem_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def tokenizer_hash(tokenizer, without: Collection[str] = ()) -> str:
    """Hash of the vocabulary, some tokens left out: where it is equal, the ids of two traces mean the same."""
    kept = sorted((token, number) for token, number in tokenizer.get_vocab().items() if token not in without)
    vocabulary = json.dumps(kept, ensure_ascii=False)
    return hashlib.blake2b(vocabulary.encode(), digest_size=8).hexdigest()


def budget_label(budget_tokens: int | None) -> str:
    return "unlimited" if budget_tokens is None else f"{budget_tokens} tokens"


def _check_request(
    problems: Sequence[Mapping], strategies: Sequence[str], budgets: Sequence[int | None], samples_per_problem: int
) -> None:
    for name, values in (("problems", problems), ("strategies", strategies), ("budgets", budgets)):
        if not values:
            raise BadInput(f"There are no {name} to run; give at least one.")
    for name, values in (("strategies", strategies), ("budgets", budgets)):
        if len(set(values)) < len(values):
            raise BadInput(f"{name} are {', '.join(map(str, values))}; give each of them once.")
    if samples_per_problem < 1:
        raise BadInput(f"samples_per_problem is {samples_per_problem}; give at least 1.")
    seen: set[str] = set()
    for problem in problems:
        if problem["id"] in seen:
            raise BadInput(
                f"Problem id {problem['id']!r} occurs twice; samples are told apart by it, so make ids unique."
            )
        seen.add(problem["id"])


def _fingerprint(problems: Sequence[Mapping]) -> str:
    rows = sorted(
        json.dumps([problem["id"], conversation(problem), problem.get("answer"), problem["task"]])
        for problem in problems
    )
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


def _others(strategies: Sequence[str], reasoner: Reasoner) -> dict[str, str]:
    """What strategies name beside the model and may change in place: fingerprints of models and files, by path, and
    the settings of plans, by the strategy that follows them.
    """
    found, settings = {}, []
    for strategy in strategies:
        if split_parameters(strategy)[0] == "planned":
            point = get_strategy(strategy).setting(reasoner)
            found[strategy] = f"{point['strategy']}, {budget_label(point['budget_tokens'])}"
            strategy = point["strategy"]
        settings.append(strategy)
    named = {value for strategy in settings for value in split_parameters(strategy)[1].values()}
    for path in sorted(named):
        if os.path.isdir(path):  # `Path.is_dir` refuses texts that are too long for a path
            found[path] = weights_fingerprint(path)
        elif os.path.isfile(path):
            found[path] = digest([path])
    return {path: fingerprint for path, fingerprint in found.items() if fingerprint is not None}


def _claim(config_path: Path, config: dict, path: Path) -> None:
    """Make `path` the file of this configuration or of one with more points, or refuse."""
    if config_path.is_file():
        earlier = read_config(config_path)
        differing = sorted(key for key in config.keys() | earlier.keys() if config.get(key) != earlier.get(key))
        # Points may be added to a run: those that are there stay as they are.
        grown = [
            key for key in ("strategies", "budgets") if all(value in config[key] for value in earlier.get(key, ()))
        ]
        grown += ["others"] if earlier.get("others", {}).items() <= config["others"].items() else []
        if not set(differing) <= set(grown):
            raise BadInput(f"{config_path}: holds a run that differs in {', '.join(differing)}; choose another out.")
        if differing:
            _write_config(config_path, config, path)
    elif path.exists():
        raise BadInput(f"{path}: was there before, without its {config_path.name}; choose another out.")
    else:
        _write_config(config_path, config, path)


def _write_config(config_path: Path, config: dict, path: Path) -> None:
    with atomic_file(config_path) as stream:
        stream.write(f"# Made {path.name}; the same command with the same settings resumes it.\n")
        yaml.safe_dump(config, stream, sort_keys=False)


def _solve_pending(
    reasoner: Reasoner, problems: Sequence[Mapping], config: dict, stream: IO[str], examples: Examples | None
) -> None:
    from tqdm import tqdm

    done = _finished(Path(stream.name))
    longest_first = sorted(config["budgets"], key=lambda budget: -math.inf if budget is None else -budget)
    points = [(strategy, budget) for strategy in config["strategies"] for budget in longest_first]
    samples = [(problem, index) for problem in problems for index in range(config["samples_per_problem"])]
    made_with = {
        "model": config["model"],
        "temperature": config["temperature"],
        "tokenizer_hash": tokenizer_hash(reasoner.tokenizer),
    }
    with (
        Scribes(reasoner, len(points) * len(samples) - len(done)) as scribes,
        tqdm(
            total=len(points) * len(samples),
            initial=len(done),
            unit="sample",
            smoothing=0.1,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # a log file keeps every state of the bar
        ) as bar,
    ):
        # An engine on a server, which may die, asks for fewer; a GPU with more rows, for as many as fill them.
        fixed_requests = getattr(reasoner.engine, "chunk_requests", None)
        rows = getattr(reasoner.engine, "rows", 0) if reasoner.decodes_elsewhere else 0
        chunk_requests = fixed_requests or max(CHUNK_REQUESTS, rows)
        while samples:
            began = time.perf_counter()
            chunk, samples = samples[:chunk_requests], samples[chunk_requests:]
            # Also for a single point: one that is added to the run later must be charged alike.
            recalling = reasoner.recalling()
            for strategy, budget in points:
                pending = [sample for sample in chunk if (strategy, budget, sample[0]["id"], sample[1]) not in done]
                if not pending:
                    continue
                bar.set_description(f"{config['model']}: {strategy}, {budget_label(budget)}", refresh=False)
                finished = bar.n + len(pending)
                point = {"strategy": strategy, "budget_tokens": budget}
                solved = _solve_chunk(recalling, pending, point, config, bar.update, examples)
                # While these are read, the next are decoded.
                scribes.write(stream, solved, made_with)
                # A strategy may call the engine several times a problem, or report nothing.
                bar.update(finished - bar.n)
            # The more come together, the longer all rows of a fast engine are busy, and the more a kill takes along.
            is_short = time.perf_counter() - began < _SHORT_SECONDS
            if fixed_requests is None and reasoner.decodes_elsewhere and is_short:
                chunk_requests = min(2 * chunk_requests, _MOST_REQUESTS)
        scribes.flush(stream)


def _finished(path: Path) -> set[tuple[str, int | None, str, int]]:
    """Keys of the samples on the disk, after cutting off a line that a kill has torn."""
    with open(path, "rb+") as stream:
        stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
    return {(row["strategy"], row["budget_tokens"], row["id"], row["sample_index"]) for row in read_jsonl(path)}


def _solve_chunk(
    reasoner: Reasoner,
    chunk: Sequence[tuple[Mapping, int]],
    point: Mapping,
    config: dict,
    progress: Callable[[int], object],
    examples: Examples | None,
) -> list[Solved]:
    """Decode a chunk of (problem, sample index), in its order."""
    problems = [problem for problem, _ in chunk]
    # Samples with examples are drawn beside those without, and share no luck with them.
    luck = f"{config['num_examples']}-shot/" if examples else ""
    seeds = [sample_seed(config["seed"], luck + problem["id"], index) for problem, index in chunk]
    responses = inference.respond_many(
        reasoner,
        [examples.ask(problem) if examples else conversation(problem) for problem in problems],
        **point,
        seeds=seeds,
        temperature=config["temperature"],
        top_p=config["top_p"],
        top_k=config["top_k"],
        max_new_tokens=config["max_new_tokens"],
        progress=progress,
    )
    return [
        (problem, response, {**point, "sample_index": index, "seed": seed})
        for (problem, index), seed, response in zip(chunk, seeds, responses, strict=True)
    ]
