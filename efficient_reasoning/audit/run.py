"""An audit: how much a model overthinks, measured without training anything.

1. From a checkpoint or a server (`audit_model`) or from logs (`audit_logs`), into a folder: `report.md` to read,
   `audit.json` with every number, `lengths.png`.
2. A model is also run under what shortens it without training, its *training-free hull*: budget forcing at three
   budgets, no thinking, a concise prompt, early exit. A trained model must lie above it to be worth its training.
3. What is sampled are runs of `evaluate` in folders of their own, so the same command again resumes an audit that was
   cut off, and `compare` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from efficient_reasoning import answers
from efficient_reasoning.audit.logs import Log, read_logs
from efficient_reasoning.audit.measures import REQUESTS, measure
from efficient_reasoning.audit.report import write_report
from efficient_reasoning.audit.responses import TEXT, USAGE, Response, from_sample
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.evaluate import evaluate
from efficient_reasoning.evaluation.metrics import pareto_front
from efficient_reasoning.evaluation.pictures import draw_lengths
from efficient_reasoning.evaluation.summary import read_summary
from efficient_reasoning.files import read_jsonl, write_json
from efficient_reasoning.overthinking import Reader
from efficient_reasoning.thinking import ThinkingFormat
from efficient_reasoning.traces import budget_label, sample_traces

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner

VERIFIERS = ("agrees_with_base", "judge")
# Budgets of the hull: shares of the median length without a budget.
_BUDGET_SHARES = (0.25, 0.5, 0.75)
_SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 512, "seed": 0}  # as in `evaluate`
_AGREEMENT = (
    "There were no gold answers: *correct* means that a response says what most samples of the model say to its "
    "question. That is agreement, not correctness."
)
_CHUNK = 512
_TOLERANCE = 0.05  # by which two counts of the same responses may differ


def audit_logs(
    source: str,
    *,
    out: str | Path,
    tokenizer: str | None = None,
    answers_file: str | Path | None = None,
    verifier: str | None = None,
    price_per_million_tokens: float | None = None,
) -> Path:
    """Audit what a model has already answered.

    Args:
        source: a JSONL file and the mapping of its columns, see `logs`.
        out: folder for report.md, audit.json and lengths.png.
        tokenizer: of the model, a folder or Hub id: for lines without ids or `usage`, and to find where answers stand.
        answers_file: gold answers, by id or question.
        verifier: for logs without them: "agrees_with_base" (the majority of a question's responses) or "judge".
        price_per_million_tokens: of generated tokens.

    Returns:
        `out`.

    Raises:
        BadInput: as `read_logs`; an unknown verifier; no length in any response; a price of zero or less.
    """
    _check(out, price_per_million_tokens)
    if verifier is not None and verifier not in VERIFIERS:
        raise BadInput(f"verifier is {verifier!r}; give one of {', '.join(VERIFIERS)}, or none for gold answers.")
    thinking = _thinking_of(tokenizer) if tokenizer else None
    log = read_logs(source, thinking, answers_file, verifier)
    _judge(log.responses)
    _read(log.responses, thinking)
    # A report may be published: folders of this machine stay out of it.
    name = Path(tokenizer).name if tokenizer and Path(tokenizer).is_dir() else tokenizer
    numbers = {"source": log.path.stem, "verifier": verifier, "notes": _notes(log, name, verifier)}
    numbers |= measure(log.responses, price_per_million_tokens)
    return _write(numbers, log.responses, Path(out))


def audit_model(
    reasoner: Reasoner,
    problems: Sequence[Mapping],
    *,
    out: str | Path,
    samples_per_problem: int = 4,
    price_per_million_tokens: float | None = None,
    **sampling,
) -> Path:
    """Audit a model by letting it solve problems.

    Args:
        reasoner: from `load_reasoner`.
        problems: with distinct ids, as for `evaluate`. Those of the task agrees_with_base need no `base_answers`: as
            many samples of their own as are audited are drawn for these.
        out: folder for report.md, audit.json, lengths.png and the runs: `unlimited`, `budgets` and `shortcuts`.
        samples_per_problem: two at least for the shortest-of-n bound.
        price_per_million_tokens: of generated tokens.
        sampling: temperature, top_p, top_k, max_new_tokens and seed, as for `evaluate`.

    Returns:
        `out`.

    Raises:
        BadInput: as `evaluate`; a price of zero or less.
    """
    _check(out, price_per_million_tokens)
    out, sampling = Path(out), {**_SAMPLING, "samples_per_problem": samples_per_problem, **sampling}
    problems, verifier = _with_base_answers(reasoner, problems, sampling, out)
    unlimited = evaluate(reasoner, problems, **sampling, out=out / "unlimited")
    responses = [from_sample(sample) for sample in read_jsonl(unlimited / "samples.jsonl")]
    notes = [_AGREEMENT] if verifier else []
    numbers = {"source": read_summary(unlimited)["config"]["model"], "verifier": verifier, "notes": notes}
    numbers |= measure(responses, price_per_million_tokens)
    budgets = _budgets(numbers["total_tokens"]["p50"], reasoner.thinking)
    runs = [
        unlimited,
        *([evaluate(reasoner, problems, **sampling, budgets=budgets, out=out / "budgets")] if budgets else []),
        evaluate(reasoner, problems, **sampling, strategies=_shortcuts(reasoner), out=out / "shortcuts"),
    ]
    numbers["hull"] = _hull(runs, price_per_million_tokens)
    return _write(numbers, responses, out)


def _check(out: str | Path, price_per_million_tokens: float | None) -> None:
    """Refuse what would fail at the end, after all the work."""
    if Path(out).is_file():
        raise BadInput(f"{out}: is a file; name a folder.")
    if price_per_million_tokens is not None and not price_per_million_tokens > 0:
        raise BadInput(
            f"price_per_million_tokens is {price_per_million_tokens}; give more than 0, or none to leave costs out."
        )


# ---- logs ----


def _thinking_of(tokenizer: str) -> ThinkingFormat:
    """The delimiters of a checkpoint or of a tokenizer alone; those of most models where it has none of its own."""
    from transformers import AutoTokenizer

    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format

    folder = resolve_model(tokenizer)
    is_alone = Path(folder).is_dir() and not (Path(folder) / "config.json").is_file()
    if is_alone:
        try:
            loaded = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise BadInput(f"{folder}: its tokenizer cannot be loaded ({reason}); name another folder.") from None
    else:
        loaded = load_tokenizer(folder)
    try:
        return ThinkingFormat.from_tokenizer(loaded) if is_alone else thinking_format(folder, loaded)
    except BadInput:
        return ThinkingFormat.from_tokenizer(loaded, "<think>", "</think>")


def _judge(responses: Sequence[Response]) -> None:
    """Give a verdict to each response without one."""
    from tqdm import tqdm

    texts: dict[str, list[str]] = {}
    for response in responses:
        texts.setdefault(response.problem["id"], []).append(response.answer)
    for response in responses:
        if response.problem["task"] == "agrees_with_base" and not _base_answers(response.problem):
            response.problem = _agreeing(response.problem, texts[response.problem["id"]])
    pending = [response for response in responses if response.correct is None]
    answers.check_problems(list({response.problem["id"]: response.problem for response in pending}.values()))
    with tqdm(total=len(pending), unit="answer", desc="verifying", mininterval=1, disable=not pending) as bar:
        for start in range(0, len(pending), _CHUNK):
            chunk = pending[start : start + _CHUNK]
            verdicts = answers.verify_many([one.problem for one in chunk], [one.answer for one in chunk])
            for response, verdict in zip(chunk, verdicts, strict=True):
                response.correct = bool(verdict)
            bar.update(len(chunk))


def _read(responses: Sequence[Response], thinking: ThinkingFormat | None) -> None:
    """Find where answers stand in each response that has ids and has not been read."""
    from tqdm import tqdm

    if thinking is None:
        return
    reader = Reader(thinking)
    for response in tqdm(responses, unit="response", desc="reading", mininterval=1):
        if response.ids is not None and not response.is_read:
            reading = reader.read(response.ids, response.prompt_ids or [], response.problem, bool(response.correct))
            for name, value in vars(reading).items():
                setattr(response, name, value)


def _notes(log: Log, tokenizer: str | None, verifier: str | None) -> list[str]:
    """What a reader of the report has to know about where its numbers come from."""
    responses, notes = log.responses, []
    if verifier == "agrees_with_base":
        notes.append(f"{_AGREEMENT} Each response votes too, so that one alone always agrees.")
    if verifier == "judge":
        notes.append("*Correct* is what the judge says.")
    if log.failures:
        notes.append(f"{log.failures:,} requests had failed and are left out.")
    if log.left_out:
        strategy, budget_tokens = log.point
        notes.append(
            f"The samples are those of `{strategy}`, {budget_label(budget_tokens)}; {log.left_out:,} of other "
            "strategies or budgets are left out."
        )
    again = sum(response.counted_by == TEXT for response in responses)
    if again:
        notes.append(f"The text of {again:,} responses was tokenised again with {tokenizer}, to count its tokens.")
    counted = [response for response in responses if response.counted_by == USAGE]
    if counted:
        notes.append(f"The lengths of {len(counted):,} responses are the server's count, end tokens included.")
    read, said = (
        sum(getattr(response, name) for response in counted if response.is_read)
        for name in ("read_tokens", "total_tokens")
    )
    if said and abs(read / said - 1) > _TOLERANCE:
        notes.append(
            f"The server counted {said:,} tokens where {tokenizer} makes {read:,} of the text: it is not the model's "
            "tokenizer, or not all of the thinking is in the log."
        )
    unread = sum(not response.is_read for response in responses)
    if unread:
        why = "their thinking is not in the log" if tokenizer else "no tokenizer was given"
        notes.append(f"Where answers stand, and loops, were not looked for in {unread:,} responses: {why}.")
    unknown = sum(response.truncated is None for response in responses)
    if unknown:
        notes.append(f"Of {unknown:,} responses the log does not say whether they were cut off.")
    return notes


# ---- models ----


def _with_base_answers(
    reasoner: Reasoner, problems: Sequence[Mapping], sampling: Mapping, out: Path
) -> tuple[list[Mapping], str | None]:
    """The problems, with samples of the model to agree with where they need them; and what then is the verifier."""
    without = [one for one in problems if one["task"] == "agrees_with_base" and not _base_answers(one)]
    if not without:
        return list(problems), None
    path = out / "base_answers.jsonl"
    # Other luck than that of the samples that are audited, lest each agree with itself.
    drawn = {**sampling, "seed": sampling["seed"] + 1}
    unverified = [{**one, "task": "exact", "answer": "not known"} for one in without]
    sample_traces(
        reasoner,
        unverified,
        **drawn,
        strategies=["budget-forcing"],
        budgets=[None],
        path=path,
        config_path=path.with_suffix(".config.yaml"),
    )
    texts: dict[str, list[str]] = {}
    for trace in read_jsonl(path):
        texts.setdefault(trace["id"], []).append(trace["final_answer"])
    return [_agreeing(one, texts[one["id"]]) if one["id"] in texts else one for one in problems], "agrees_with_base"


def _base_answers(problem: Mapping) -> list[str] | None:
    return (problem.get("metadata") or {}).get("base_answers")


def _agreeing(problem: Mapping, base_answers: list[str]) -> dict:
    """The problem with answers to agree with."""
    return {**problem, "metadata": {**(problem.get("metadata") or {}), "base_answers": base_answers}}


def _budgets(median_tokens: float, thinking: ThinkingFormat) -> list[int]:
    """Budgets of the hull, but those that do not hold an answer."""
    least_tokens = len(thinking.empty()) + 8
    budgets = sorted({int(share * median_tokens) for share in _BUDGET_SHARES})
    return [budget for budget in budgets if budget > least_tokens]


def _shortcuts(reasoner: Reasoner) -> list[str]:
    """Strategies that answer sooner; an early exit by confidence where the engine tells it, else by agreement."""
    from efficient_reasoning.inference.engine import LOGPROBS

    early_exit = "deer" if LOGPROBS in reasoner.engine.capabilities else "dynasor"
    return ["no-thinking", "chain-of-draft", early_exit]


def _hull(runs: Sequence[Path], price_per_million_tokens: float | None) -> list[dict]:
    """Points of all runs by rising tokens; `on_front` where no other is as good in tokens and accuracy at once."""
    points = [point for run in runs for point in read_summary(run)["points"]]
    plain = [(point["generated_tokens"]["mean"], point["accuracy"]["mean"]) for point in points]
    front = set(pareto_front(plain))
    factor = None if price_per_million_tokens is None else REQUESTS * price_per_million_tokens / 1e6
    rows = [
        {
            "strategy": point["strategy"],
            "budget_tokens": point["budget_tokens"],
            "accuracy": point["accuracy"],
            "generated_tokens": {name: point["generated_tokens"][name] for name in ("mean", "low", "high")},
            "on_front": index in front,
            **({} if factor is None else {"cost_per_1000_requests": factor * point["generated_tokens"]["mean"]}),
        }
        for index, point in enumerate(points)
    ]
    return sorted(rows, key=lambda row: row["generated_tokens"]["mean"])


# ---- the folder ----


def _write(numbers: dict, responses: Sequence[Response], out: Path) -> Path:
    lengths = np.array([response.total_tokens for response in responses], dtype=float)
    correct = np.array([response.correct for response in responses], dtype=bool)
    draw_lengths({numbers["source"]: (lengths, correct)}, out / "lengths.png", "Length by correctness")
    write_report(numbers, out / "report.md")
    write_json(out / "audit.json", numbers)
    return out
