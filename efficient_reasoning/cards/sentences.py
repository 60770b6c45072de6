"""Sentences of a card, made of what a checkpoint and a run say of themselves: where it comes from, what it does before
it writes, and what nobody should rely on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from efficient_reasoning.checkpoint import VERIFIER, ReasoningMetadata


def base_on_hub(metadata: ReasoningMetadata | None) -> str | None:
    """The base model, where that is the id of a model of the Hub."""
    base = metadata.base_model if metadata else None
    return base if base is not None and base.count("/") == 1 and not Path(base).exists() else None


def base_name(metadata: ReasoningMetadata) -> str | None:
    """A base model as it may be shown: a Hub id, or the name of a folder without the folders around it."""
    base = metadata.base_model
    return Path(base).name if base and Path(base).is_absolute() else base


def origin(metadata: ReasoningMetadata | None) -> str:
    """What made it of what."""
    if metadata is None:
        return "A reasoning model, measured with efficient-reasoning."
    base = base_name(metadata)
    start = f"started from **{base}**" if base else "trained from scratch"
    methods = ", then ".join(f"`{method}`" for method in (*metadata.earlier_methods, metadata.method))
    facts = [f"method {methods}", f"stage {metadata.stage}", start]
    facts += [f"weights between **{'** and **'.join(metadata.merged_from)}**"] if metadata.merged_from else []
    facts += [f"seed {metadata.seed}"] if metadata.seed is not None else []
    facts += [f"training rows `{metadata.data_fingerprint}`"] if metadata.data_fingerprint else []
    thinking = "What it thinks in words" if metadata.latent_steps else "Its thinking"
    kind = "reasoning model"
    if metadata.stage == VERIFIER:
        kind, thinking = "verifier of a reasoning model's steps", "The thinking that it reads"
    thinking += f" stands between `{metadata.open_text}` and `{metadata.close_text}`."
    return f"A {kind} made with efficient-reasoning: {', '.join(facts)}. {thinking}"


def before_writing(metadata: ReasoningMetadata | None, begin: str, filler: str, end: str) -> str | None:
    """What stands between a prompt and what the model writes; None of models that begin to write at once."""
    if metadata is None or not (metadata.latent_steps or metadata.pause_steps):
        return None
    place = f"between `{begin}` and `{end}` behind every prompt"
    if metadata.pause_steps:
        return (
            f"Before it writes, it reads {metadata.pause_steps} pauses, {place}: a learnt token, `{filler}`, without "
            "a meaning of its own. Each counts as a generated token, also in a budget. efficient-reasoning puts them "
            "there; elsewhere the prompt has to end with them, as in the program below."
        )
    network = f", through the network in `{metadata.latent_projection}`" if metadata.latent_projection else ""
    return (
        f"Before it writes, it thinks in {metadata.latent_steps} latents, {place}: positions that hold no token, and "
        f"read the last hidden state of the position before them{network}. Each counts as a generated token, also in "
        f"a budget; `--backend 'graph?latent_steps=N'` gives it another number of them than it was trained with. "
        "efficient-reasoning decodes them; plain `transformers` loads the model without."
    )


def tasks(summary: Mapping) -> list[str]:
    """What a run measured."""
    return [group["task"] for group in summary["points"][0]["by_task"]]


def limits(
    metadata: ReasoningMetadata | None, summary: Mapping | None, licence: str | None, off_target: Mapping | None
) -> list[str]:
    """What nobody should rely on.

    Args:
        metadata, summary: of the checkpoint and of a run; None where there is none.
        licence: None where nobody knows it.
        off_target: the do-no-harm checks of the run; None where they were left out.
    """
    found = []
    if summary:
        found.append(f"Measured on {', '.join(tasks(summary))}. {_beyond(off_target)}")
        found += _known_problems(summary["contamination"])
    elif metadata is None or metadata.stage != VERIFIER:  # whose card says how to measure one
        found.append("Not measured yet; `efficient-reasoning evaluate` does it.")
    if metadata and metadata.trained_budget_range:
        low, high = metadata.trained_budget_range
        found.append(f"Trained with budgets of {low:,} to {high:,} tokens; other budgets are extrapolation.")
    if metadata and metadata.latent_steps:
        found.append(
            "Only efficient-reasoning decodes its latents. In plain `transformers` or vLLM it answers without them, "
            "for which it was not trained, and which was not measured."
        )
    if metadata and metadata.pause_steps:
        found.append("A prompt that does not end with its pauses is one for which it was not trained.")
    if metadata and metadata.depth:
        found.append(
            f"It decodes with {metadata.depth} iterations of its core; `depth` and `exit_kl`, given to "
            "`from_pretrained`, set another number, or end them where they change little."
        )
    if licence is None:
        found.append("The licence of the base model applies; it is not stated here, so look it up before use.")
    return found


def _beyond(off_target: Mapping | None) -> str:
    if off_target is None:
        return (
            "Other tasks, languages, tool calls, conversations of several turns and questions without an answer were "
            "not checked; shorter thinking may cost accuracy there."
        )
    return (
        "What stands under Off target are a few dozen problems each: they show great harm only, and only beside the "
        "same checks of the base model."
    )


def _known_problems(contamination: Mapping) -> list[str]:
    """What is known of test problems among those of the training."""
    if not contamination["checked"]:
        return ["Whether it was trained on the problems that it was measured on was not checked."]
    problems, trained_on = contamination["problems"], contamination["trained_on"]
    unknown = f"; what {', '.join(contamination['unknown'])} was trained on is not known" * bool(
        contamination["unknown"]
    )
    return [
        f"{trained_on:,} of the {problems:,} problems that it was measured on are among those that it was trained on"
        f"{unknown}."
    ]
