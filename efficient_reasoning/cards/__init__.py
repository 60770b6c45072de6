"""Model cards: what a checkpoint is, what was measured, how to use it, and what it is not.

One template, `model_card.md`, serves two cards. `write_training_card` puts the short one into every saved checkpoint;
`write_model_card` adds the curve, the table, the operating points and a `model-index` from an evaluation run when the
checkpoint is published. Code in a card is meant to be copied and run; `publish` and the tests run it.

`write_data_card` is for the samples and training rows that may go up beside a model.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.cards import sentences
from efficient_reasoning.cards.operating_points import OperatingPoint, operating_points, plain_control
from efficient_reasoning.checkpoint import VERIFIER, ReasoningMetadata, has_own_code, load_tokenizer, thinking_format
from efficient_reasoning.evaluation.off_target import FILE_NAME
from efficient_reasoning.inference import Assignment, Sampling, serve
from efficient_reasoning.inference.strategy import think_limit
from efficient_reasoning.prompts import make_prompt, template_kwargs
from efficient_reasoning.traces import budget_label

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = [
    "OperatingPoint",
    "operating_points",
    "plain_control",
    "write_data_card",
    "write_model_card",
    "write_training_card",
]

TEMPLATE = Path(__file__).parent / "model_card.md"
VERIFIER_TEMPLATE = Path(__file__).parent / "verifier_card.md"
DATA_TEMPLATE = Path(__file__).parent / "data_card.md"
_EXAMPLE_QUESTION = "Compute 34 + 27 - 15 + 88."
_SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 512}  # the defaults of `solve`
# Settings of generation_config.json that our engines do not know, as they are when they change nothing.
_NEUTRAL = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_eos_token_id": None,
    "min_p": None,
}
_LOCAL_SERVER = "http://localhost:8000/v1"


def write_training_card(folder: str | Path, *, metadata: ReasoningMetadata, metrics: Mapping[str, float]) -> None:
    """Write the README.md of a checkpoint that has just been trained and not yet measured.

    Args:
        folder: the checkpoint, complete but for its card.
        metadata: the contents of its reasoning.json.
        metrics: numbers of the training run, such as train_loss.
    """
    uncounted = {"total_flos": 0}.items()  # of batches that are no columns of ids
    shown = {name: f"{value:.6g}" for name, value in metrics.items() if (name, value) not in uncounted}
    parts = (sentences.base_name(metadata), *metadata.earlier_methods, metadata.method)
    name, repo = " + ".join(part for part in parts if part), "path/to/this/folder"
    if metadata.stage == VERIFIER:
        _write_verifier_card(Path(folder), name, repo, metadata, shown)
    else:
        _write(Path(folder), name, repo, metadata, training_metrics=shown)


def write_model_card(
    folder: str | Path,
    repo: str,
    summary: Mapping,
    *,
    question: str,
    control: str = "",
    points: Sequence[OperatingPoint],
    example_settings: Mapping | None,
    unchecked: str | None,
    size: str,
    data_sets: Sequence[str] = (),
) -> None:
    """Write the README.md of a checkpoint that is about to be published, over the one from training.

    Args:
        folder: checkpoint files, evaluation/curve.png, and evaluation/off_target.json if there is one.
        repo: its id on the Hub.
        summary: of the evaluation run.
        question: one that was asked in the run, as an example to copy.
        control: what stands behind it in the program for plain transformers.
        points: to recommend.
        example_settings: what `generate` was given for evaluation/example.json; None where there is none.
        unchecked: why there is none.
        size: of the checkpoint, in words.
        data_sets: their ids on the Hub.
    """
    folder = Path(folder)
    name = repo.rpartition("/")[2]
    metadata = ReasoningMetadata.load(folder)
    recipe = folder / "recipe.yaml"
    off_target = folder / "evaluation" / FILE_NAME
    _write(
        folder,
        name,
        repo,
        metadata,
        summary,
        question,
        control,
        example_settings,
        json.loads(off_target.read_text(encoding="utf-8")) if off_target.is_file() else None,
        unchecked=unchecked,
        size=size,
        data_sets=data_sets,
        recipe=recipe.read_text(encoding="utf-8").strip() if recipe.is_file() else None,
        **_results(summary),
        **_commands(folder, repo, metadata, summary["config"], question, points),
    )


def write_data_card(
    folder: str | Path, repo: str, model: str, origin: str, file_name: str, columns: Mapping[str, str], n_rows: int
) -> None:
    """Write the README.md of a data set.

    Args:
        folder: where its JSONL file lies.
        repo: its id on the Hub.
        model: the id of the model that it belongs to.
        origin: where the lines come from, in a sentence.
        file_name: of the JSONL file.
        columns: what each holds.
        n_rows: lines of the file.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(
        task_categories=["text-generation"],
        tags=["efficient-reasoning"],
        configs=[{"config_name": "default", "data_files": file_name}],
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(DATA_TEMPLATE),
        name=repo.rpartition("/")[2],
        repo=model,
        origin=origin,
        file_name=file_name,
        columns=columns.items(),
        n_rows=f"{n_rows:,}",
    )
    card.save(Path(folder) / "README.md")


def licence_of(model: str | Path) -> str | None:
    """The licence that the card of a model states; None where there is no card, no licence in it, or no connection."""
    from huggingface_hub import ModelCard

    card = Path(model) / "README.md" if Path(model).is_dir() else model
    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    except (OSError, ValueError):  # missing files, the Hub's refusals and its validation
        return None


def _write(
    folder: Path,
    name: str,
    repo: str,
    metadata: ReasoningMetadata | None,
    summary: Mapping | None = None,
    question: str = _EXAMPLE_QUESTION,
    control: str = "",
    example_settings: Mapping | None = None,
    off_target: Mapping | None = None,
    **sections,
) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    from efficient_reasoning.latent.decoding import MARKERS

    base_on_hub = sentences.base_on_hub(metadata)
    licence = licence_of(folder) or (metadata.licence if metadata else None)
    tokenizer = load_tokenizer(str(folder))
    controls = metadata.controls if metadata else []
    begin, filler, end = MARKERS
    has_pauses = metadata is not None and metadata.pause_steps > 0
    sampling = _generate_arguments(folder, summary["config"] if summary else _SAMPLING)
    data = ModelCardData(
        base_model=base_on_hub,
        license=licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["efficient-reasoning", *([metadata.stage] if metadata else [])],
        model_name=name if summary else None,
        eval_results=_eval_results(summary) if summary else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        repo=repo,
        origin=sentences.origin(metadata),
        before_writing=sentences.before_writing(metadata, begin, filler, end),
        has_latents=bool(metadata and metadata.latent_steps),
        pauses=f'"{begin}" + {metadata.pause_steps} * "{filler}" + "{end}"' if has_pauses else None,
        base_on_hub=base_on_hub,
        trust=", trust_remote_code=True" if has_own_code(folder) else "",
        has_chat_template=bool(tokenizer.chat_template),
        switch="".join(f", {name}={value}" for name, value in template_kwargs(tokenizer).items()),
        question=json.dumps(question + control, ensure_ascii=False),
        question_in_shell=shlex.quote(question),
        dtype=', dtype="float32"' if example_settings else "",
        settings=_generate_arguments(folder, example_settings) if example_settings else sampling,
        sampling=sampling,
        is_exact=bool(example_settings),
        controls=controls,
        control_in_shell=shlex.quote(f"control?text={control or controls[0]}") if controls else None,
        has_adapter=bool(metadata and metadata.adapter),
        limits=sentences.limits(metadata, summary, licence, off_target),
        off_target=_off_target_rows(off_target),
        **sections,
    )
    card.save(folder / "README.md")


def _write_verifier_card(
    folder: Path, name: str, repo: str, metadata: ReasoningMetadata, training_metrics: Mapping[str, str]
) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    licence = licence_of(folder) or metadata.licence
    tokenizer = load_tokenizer(str(folder))
    data = ModelCardData(
        base_model=sentences.base_on_hub(metadata),
        license=licence,
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=["efficient-reasoning", metadata.stage],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(VERIFIER_TEMPLATE),
        name=name,
        repo=repo,
        origin=sentences.origin(metadata),
        training_metrics=training_metrics,
        question=json.dumps(_EXAMPLE_QUESTION),
        response=json.dumps(f"{metadata.open_text}34+27=61\n61-15=46\n46+88=134{metadata.close_text}134"),
        has_chat_template=bool(tokenizer.chat_template),
        switch="".join(f", {name}={value}" for name, value in template_kwargs(tokenizer).items()),
        limits=sentences.limits(metadata, None, licence, None),
    )
    card.save(folder / "README.md")


def _results(summary: Mapping) -> dict:
    """The template's section of results, in words that are ready to print."""
    rows = [
        (
            _cell(point["strategy"]),
            budget_label(point["budget_tokens"]),
            _interval(point["accuracy"], 100, " %"),
            _interval(point["total_tokens"]),
            _interval(point["thinking_tokens"]),
            f"{point['total_tokens']['p95']:,.0f}",
            f"{100 * point['truncated_share']:.1f} %",
            f"{100 * point['forced_close_share']:.1f} %",
        )
        for point in summary["points"]
    ]
    statistics = summary["statistics"]
    k = summary["config"]["samples_per_problem"]
    return {
        "samples": "one sample" if k == 1 else f"{k} samples",
        "rows": rows,
        "tasks": ", ".join(sentences.tasks(summary)),
        "n_problems": f"{summary['points'][0]['n_problems']:,}",
        "config": summary["config"],
        "level": f"{100 * statistics['level']:g}",
        "resamples": f"{statistics['resamples']:,}",
    }


def _cell(text: str) -> str:
    """As a table takes it: a control, such as "<|short|>", has what divides columns."""
    return text.replace("|", "\\|")


def _interval(entry: Mapping, scale: float = 1, unit: str = "") -> str:
    mean, low, high = (f"{scale * entry[name]:,.1f}" for name in ("mean", "low", "high"))
    return f"{mean}{unit} [{low}, {high}]"


def _generate_arguments(folder: Path, settings: Mapping) -> str:
    """What `model.generate` is given, with what undoes the model's own settings that our engines do not know."""
    path = folder / "generation_config.json"
    own = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    undone = {name: value for name, value in _NEUTRAL.items() if own.get(name) not in (None, value)}
    # transformers takes no temperature of 0
    how = (
        {"do_sample": True} | {name: settings[name] for name in _SAMPLING}
        if settings["temperature"]
        else {"do_sample": False, "max_new_tokens": settings["max_new_tokens"]}
    )
    return ", ".join(f"{name}={value}" for name, value in (how | undone).items())


def _commands(
    folder: Path,
    repo: str,
    metadata: ReasoningMetadata | None,
    config: Mapping,
    question: str,
    points: Sequence[OperatingPoint],
) -> dict:
    """The template's section of operating points: a table, and how to run each of them here and on a server."""
    differing = {name: config[name] for name, usual in _SAMPLING.items() if config[name] != usual}
    sampling = [f"--{name.replace('_', '-')} {value}" for name, value in differing.items()]
    asked = ("-- " if question.startswith("-") else "") + shlex.quote(question)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", question)), default=0))  # no line of the question closes it

    def solve(point: OperatingPoint, *more: str) -> str:
        budget = [f"--budget-tokens {point.budget_tokens}"] if point.budget_tokens else []
        words = [
            "efficient-reasoning solve",
            f"--model {repo}",
            f"--strategy {shlex.quote(point.strategy)}",
            *budget,
            *sampling,
        ]
        return " ".join([*words, *more, asked])

    rows = [
        (
            point.purpose,
            _cell(point.strategy),
            budget_label(point.budget_tokens),
            f"{100 * point.accuracy:.1f} %",
            f"{point.spent_tokens:,.1f}",
        )
        for point in points
    ]
    labels = [f"{point.purpose}: {point.strategy}, {budget_label(point.budget_tokens)}" for point in points]
    section = {
        "points": rows,
        "fence": fence,
        "solve_commands": [(label, solve(point)) for label, point in zip(labels, points, strict=True)],
    }
    if metadata is not None and (metadata.latent_steps or metadata.pause_steps or metadata.depth):  # `serve` refuses
        return section
    served = shlex.join(serve.command(str(folder), [])).replace(shlex.quote(str(folder)), repo)
    requests = [
        (label, _request(folder, repo, config, question, point))
        if point.strategy == "budget-forcing"
        else (label, f"OPENAI_BASE_URL={_LOCAL_SERVER} {solve(point, '--backend openai')}")
        for label, point in zip(labels, points, strict=True)
    ]
    return section | {"serve_command": served, "requests": requests}


def _request(folder: Path, repo: str, config: Mapping, question: str, point: OperatingPoint) -> str:
    """What asks a server for budget forcing; its logits processor closes the thinking where our engine would."""
    tokenizer = load_tokenizer(str(folder))
    thinking = thinking_format(str(folder), tokenizer)
    prompt = make_prompt(tokenizer, question)
    limit_tokens = point.budget_tokens or config["max_new_tokens"]
    body = {"model": repo, "messages" if tokenizer.chat_template else "prompt": prompt, "max_tokens": limit_tokens}
    body |= {name: config[name] for name in ("temperature", "top_p", "top_k")}
    if switch := template_kwargs(tokenizer):
        body["chat_template_kwargs"] = switch
    if point.budget_tokens:
        assignment = Assignment([], thinking, point.budget_tokens, limit_tokens, Sampling(), 0, question, list)
        body["vllm_xargs"] = {"close_after_tokens": think_limit(assignment)}
    address = f"{_LOCAL_SERVER}/{'chat/' if tokenizer.chat_template else ''}completions"
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {address} -H 'Content-Type: application/json' -d {data}"


def _off_target_rows(off_target: Mapping | None) -> list[tuple[str, ...]]:
    """Each check of a run off its target: problems, accuracy and tokens, or why it was not checked."""
    rows = []
    for check, found in (off_target or {"checks": {}})["checks"].items():
        if "not_checked" in found:
            rows.append((check, "", f"not checked: {found['not_checked']}", ""))
        else:
            accuracy, tokens = _interval(found["accuracy"], 100, " %"), _interval(found["total_tokens"])
            rows.append((check, str(found["n"]), accuracy, tokens))
    return rows


def _eval_results(summary: Mapping) -> list[EvalResult]:
    """The `model-index` of the card: accuracy and mean total tokens of every point."""
    from huggingface_hub import EvalResult

    tasks = sentences.tasks(summary)
    sampling = {key: summary["config"][key] for key in ("temperature", "top_p", "top_k", "samples_per_problem")}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="+".join(tasks),
            dataset_name=", ".join(tasks),
            metric_type=metric,
            metric_value=round(point[metric]["mean"], 6),
            metric_name=f"{label} ({point['strategy']}, {budget_label(point['budget_tokens'])})",
            metric_args=sampling | {"strategy": point["strategy"], "budget_tokens": point["budget_tokens"]},
        )
        for point in summary["points"]
        for metric, label in (("accuracy", "accuracy"), ("total_tokens", "mean total tokens per problem"))
    ]
