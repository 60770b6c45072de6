"""What latent SFT needs of a checkpoint and of rows: markers in the vocabulary, a projection, and chains as ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from efficient_reasoning.checkpoint import ReasoningMetadata
from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Example, Markers
from efficient_reasoning.latent.decoding import MARKERS
from efficient_reasoning.latent.projection import LatentProjection, load_projection
from efficient_reasoning.training.controls import add_controls

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from efficient_reasoning.training.base import Base


def add_markers(base: Base) -> tuple[Markers, list[int]]:
    """The markers of a checkpoint, made tokens of its tokenizer where they are not yet, and the ids of the new ones.

    The placeholder of a latent, which is never looked up where there are latents, is the token of a pause.
    """
    new = add_controls(base.tokenizer, MARKERS)
    bot, latent, eot = base.tokenizer.convert_tokens_to_ids(list(MARKERS))
    thinking = base.thinking
    return Markers(thinking.open_ids, thinking.close_ids, bot, eot, latent), new


def embed_markers(model: PreTrainedModel, markers: Markers, new: Sequence[int]) -> None:
    """Let new markers begin as the delimiters of thinking are, in place: the end as its end, others as its begin."""
    import torch
    from peft.utils.integrations import gather_params_ctx  # does nothing but under ZeRO-3

    if not new:
        return
    if max(new) >= model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad(), gather_params_ctx(tables, modifier_rank=0):
        for weight in {id(table): table for table in tables}.values():  # (V, D), one where they are tied
            for token in new:
                like = markers.close_ids[-1] if token == markers.eot_id else markers.open_ids[-1]
                weight[token] = weight[like]


def make_projection(base: Base, model: PreTrainedModel, has_network: bool, normalize: bool) -> LatentProjection | None:
    """What is to make latents of hidden states; None where they are latents as they are.

    Args:
        base: goes on with its own network, where it has one.
        model: its weights, markers included.
        has_network: train one.
        normalize: bring latents to the mean norm of the embeddings, as they are now.
    """
    if not (has_network or normalize):
        return None
    width = model.config.get_text_config().hidden_size
    projection, before = None, ReasoningMetadata.load(base.path)
    if has_network and before is not None and before.latent_projection is not None:
        projection = load_projection(base.path, before, width)
    projection = projection or LatentProjection(width, has_network)
    projection.norm = _embedding_norm(model) if normalize else None
    return projection


def _embedding_norm(model: PreTrainedModel) -> float:
    """Mean Euclidean length of the embeddings of all tokens."""
    import torch
    from peft.utils.integrations import gather_params_ctx

    embed, norms = model.get_input_embeddings(), []
    with torch.no_grad(), gather_params_ctx([embed.weight]):
        for ids in torch.arange(embed.num_embeddings, device=embed.weight.device).split(8192):
            norms.append(embed(ids).float().norm(dim=-1))
    return float(torch.cat(norms).mean())


def examples(path: str, rows: Dataset, base: Base) -> list[Example]:
    """Rows with `prompt`, `steps` and `answer` as ids; a line break ends each step.

    Raises:
        BadInput: a row whose steps are no texts, or whose answer is none; its number is named. Prompts that are
            messages, and a tokenizer without a chat template.
    """
    from efficient_reasoning.prompts import encode_prompt
    from efficient_reasoning.training.rows import check_kind

    check_kind(path, rows, ("prompt",), base.tokenizer)
    prompts, steps_of, answers = (rows[name][:] for name in ("prompt", "steps", "answer"))
    for number, (steps, answer) in enumerate(zip(steps_of, answers, strict=True), start=1):
        if not isinstance(steps, list) or not all(isinstance(step, str) and step for step in steps):
            raise BadInput(f"{path}, row {number}: its steps are no texts; write it with `data chain_steps`.")
        if not isinstance(answer, str) or not answer:
            raise BadInput(f"{path}, row {number}: its answer is no text; write it with `data chain_steps`.")

    def ids(texts: list[str], **options: bool) -> list[list[int]]:
        """All at once, which the tokenizer shares out among processors."""
        return base.tokenizer(texts, **options)["input_ids"] if texts else []

    if all(isinstance(prompt, str) for prompt in prompts):
        questions = ids(prompts)
    else:
        questions = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    lines = iter(ids([f"{step}\n" for steps in steps_of for step in steps], add_special_tokens=False))
    end = min(base.thinking.eos_ids) if base.tokenizer.eos_token_id is None else base.tokenizer.eos_token_id
    return [
        Example(question, list(itertools.islice(lines, len(steps))), [*answer, end])
        for question, steps, answer in zip(questions, steps_of, ids(answers, add_special_tokens=False), strict=True)
    ]
