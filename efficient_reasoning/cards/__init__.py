"""Model cards: what a checkpoint is, what was measured, how to use it, and what it is not.

One template, `model_card.md`, serves two cards. `write_training_card` puts the short one into every saved checkpoint;
`write_model_card` adds the curve, the table and a `model-index` from an evaluation run when the checkpoint is
published. Code in a card is meant to be copied and run; the tests run it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.checkpoint import ReasoningMetadata
from efficient_reasoning.traces import budget_label

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TEMPLATE = Path(__file__).parent / "model_card.md"
_EXAMPLE_QUESTION = "Compute 34 + 27 - 15 + 88."
_SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 512}


def write_training_card(folder: str | Path, *, metadata: ReasoningMetadata, metrics: Mapping[str, float]) -> None:
    """Write the README.md of a checkpoint that has just been trained and not yet measured.

    Args:
        folder: the checkpoint, complete but for its card.
        metadata: the contents of its reasoning.json.
        metrics: numbers of the training run, such as train_loss.
    """
    shown = {name: f"{value:.6g}" for name, value in metrics.items()}
    parts = (_base_name(metadata), *metadata.earlier_methods, metadata.method)
    name = " + ".join(part for part in parts if part)
    _write(Path(folder), name, "path/to/this/folder", metadata, training_metrics=shown)


def write_model_card(folder: str | Path, repo: str, summary: Mapping, question: str) -> None:
    """Write the README.md of a checkpoint that is about to be published, over the one from training.

    Args:
        folder: checkpoint files, and evaluation/curve.png.
        repo: its id on the Hub.
        summary: of the evaluation run.
        question: one that was asked in the run, as an example to copy.
    """
    name = repo.rpartition("/")[2]
    _write(Path(folder), name, repo, ReasoningMetadata.load(folder), summary, question, **_results(summary))


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
    **sections,
) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    base_model = metadata.base_model if metadata else None
    base_is_on_hub = base_model is not None and base_model.count("/") == 1 and not Path(base_model).exists()
    licence = licence_of(folder) or (metadata.licence if metadata else None)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    data = ModelCardData(
        base_model=base_model if base_is_on_hub else None,
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
        origin=_origin(metadata),
        base_on_hub=base_model if base_is_on_hub else None,
        trust=", trust_remote_code=True" if "auto_map" in config else "",
        has_chat_template=_has_chat_template(folder),
        question=json.dumps(question, ensure_ascii=False),
        question_in_shell=shlex.quote(question),
        sampling=_generate_arguments(summary["config"] if summary else _SAMPLING),
        example_budget_tokens=_example_budget_tokens(summary),
        limits=_limits(metadata, summary, licence),
        **sections,
    )
    card.save(folder / "README.md")


def _base_name(metadata: ReasoningMetadata) -> str | None:
    """A base model as it may be shown: a Hub id, or the name of a folder without the folders around it."""
    base = metadata.base_model
    return Path(base).name if base and Path(base).is_absolute() else base


def _origin(metadata: ReasoningMetadata | None) -> str:
    if metadata is None:
        return "A reasoning model, measured with efficient-reasoning."
    base = _base_name(metadata)
    start = f"started from **{base}**" if base else "trained from scratch"
    methods = ", then ".join(f"`{method}`" for method in (*metadata.earlier_methods, metadata.method))
    facts = [f"method {methods}", f"stage {metadata.stage}", start]
    facts += [f"seed {metadata.seed}"] if metadata.seed is not None else []
    facts += [f"training rows `{metadata.data_fingerprint}`"] if metadata.data_fingerprint else []
    thinking = f"Its thinking stands between `{metadata.open_text}` and `{metadata.close_text}`."
    return f"A reasoning model made with efficient-reasoning: {', '.join(facts)}. {thinking}"


def _has_chat_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    in_config = config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))
    return in_config or any(folder.glob("chat_template.*"))


def _tasks(summary: Mapping) -> list[str]:
    return [group["task"] for group in summary["points"][0]["by_task"]]


def _results(summary: Mapping) -> dict:
    """The template's section of results, in words that are ready to print."""
    rows = [
        (
            point["strategy"],
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
        "tasks": ", ".join(_tasks(summary)),
        "n_problems": f"{summary['points'][0]['n_problems']:,}",
        "config": summary["config"],
        "level": f"{100 * statistics['level']:g}",
        "resamples": f"{statistics['resamples']:,}",
    }


def _interval(entry: Mapping, scale: float = 1, unit: str = "") -> str:
    mean, low, high = (f"{scale * entry[name]:,.1f}" for name in ("mean", "low", "high"))
    return f"{mean}{unit} [{low}, {high}]"


def _generate_arguments(sampling: Mapping) -> str:
    """What `model.generate` is given; transformers takes no temperature of 0."""
    if sampling["temperature"] == 0:
        return f"do_sample=False, max_new_tokens={sampling['max_new_tokens']}"
    return "do_sample=True, " + ", ".join(f"{name}={sampling[name]}" for name in _SAMPLING)


def _example_budget_tokens(summary: Mapping | None) -> int:
    budgets = [point["budget_tokens"] for point in summary["points"] if point["budget_tokens"]] if summary else []
    return max(budgets, default=128)


def _limits(metadata: ReasoningMetadata | None, summary: Mapping | None, licence: str | None) -> list[str]:
    limits = []
    if summary:
        limits.append(
            f"Measured on {', '.join(_tasks(summary))} only. Other tasks, languages, tool calls and conversations of "
            "several turns were not checked; shorter thinking may cost accuracy there."
        )
    else:
        limits.append("Not measured yet; `efficient-reasoning evaluate` does it.")
    if metadata and metadata.trained_budget_range:
        low, high = metadata.trained_budget_range
        limits.append(f"Trained with budgets of {low:,} to {high:,} tokens; other budgets are extrapolation.")
    if metadata and metadata.latent_steps:
        limits.append(
            f"It thinks in {metadata.latent_steps} latent steps, which plain `transformers` leaves out: loaded "
            "there, it is the base model without them."
        )
    if licence is None:
        limits.append("The licence of the base model applies; it is not stated here, so look it up before use.")
    return limits


def _eval_results(summary: Mapping) -> list[EvalResult]:
    """The `model-index` of the card: accuracy and mean total tokens of every point."""
    from huggingface_hub import EvalResult

    tasks = _tasks(summary)
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
