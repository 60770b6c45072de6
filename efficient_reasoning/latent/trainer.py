"""Training in stages, on what a curriculum shows.

1. A batch holds examples; which row is made of each is decided when its step comes, from the seed, the step and the
   process alone. So a run that goes on shows what an uninterrupted one would have.
2. Before the first step of every stage but the first, the optimizer forgets its moments: they are of another loss.
   Whether that is due is known from the number of the step, so that a run which goes on from the end of a stage does
   it, and one that goes on in the middle does not.
3. All processes run as many passes, those of the row with the most latents: layers that are shared out wait for each
   other.
4. A projection and SIM-CoT's decoder are modules of the model while that trains, so that optimizer, checkpoints and
   whatever wraps the model know of them. What is left in the end is the model, with the projection beside it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Curriculum, Example, Markers
from efficient_reasoning.latent.objectives import LossWeights, Shown, StepDecoder, losses
from efficient_reasoning.latent.passes import Batch, collate
from efficient_reasoning.latent.projection import LatentProjection
from efficient_reasoning.redirect import through_forward


class LatentTrainer(Trainer):
    """Trainer of a causal language model on `Example`s.

    Logs `stage`, `latents`, the most of a row, and the parts of the loss of the last batch, all processes' mean.

    Args:
        model: the language model; its tokenizer already has the markers.
        args: as for Trainer.
        train_dataset: of `Example`.
        curriculum, markers: what is shown.
        pad_id: any token.
        projection: makes latents of hidden states, and is trained along; None takes them as they are.
        weights: of the parts of the loss; with one for steps, a decoder of them is trained along.
        rest: as for Trainer.

    Raises:
        BadInput: gradient checkpointing, torch_compile, more latents and tokens than the model has positions, or
            modules beside the model under ZeRO-3.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: Dataset,
        curriculum: Curriculum,
        markers: Markers,
        pad_id: int,
        projection: LatentProjection | None = None,
        weights: LossWeights | None = None,
        **rest: Any,
    ):
        if args.gradient_checkpointing:
            raise BadInput("Latents are computed through a key-value cache; set gradient_checkpointing to false.")
        if args.torch_compile:
            raise BadInput("Latents are computed in passes that torch_compile does not reach; set it to false.")
        check_lengths(train_dataset, curriculum, markers, model.config)
        weights = weights or LossWeights()
        has_network = projection is not None and projection.network is not None
        if (has_network or weights.step) and is_deepspeed_zero3_enabled():
            raise BadInput("A projection and a decoder of steps are not trained under ZeRO-3; use ZeRO-2.")
        args.remove_unused_columns = False
        self._own_modules = {}
        if weights.step:
            self._own_modules["step_decoder"] = StepDecoder(model)
        if projection is not None:
            self._own_modules["latent_projection"] = projection
        for name, module in self._own_modules.items():
            model.add_module(name, module)
        super().__init__(
            model, args, data_collator=lambda examples: {"examples": examples}, train_dataset=train_dataset, **rest
        )
        self.curriculum, self.markers, self.pad_id, self.weights = curriculum, markers, pad_id, weights
        self.model_accepts_loss_kwargs = False  # the loss is the mean of a batch
        self._seen: dict[str, float] = {}
        self._last = (-1, 0)  # a step, and the number of its last batch
        self.add_callback(_NewOptimizer(self))

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        args, step = self.args, self.state.global_step
        stage = self.curriculum.stage(step)
        rng = random.Random(f"{args.seed}/{step}/{args.process_index}/{self._microbatch(step)}")
        rows = [self.curriculum.row(example, stage, self.markers, rng) for example in inputs["examples"]]
        most = max(row.latents for row in rows)
        if args.world_size > 1:
            most = int(self.accelerator.gather(torch.tensor([most], device=args.device)).max())
        shown = Shown(
            rows,
            collate(rows, self.pad_id, columns=most).to(args.device),
            self._teacher(inputs["examples"]),
            torch.tensor([len(example.answer_ids) for example in inputs["examples"]], device=args.device),
            self.curriculum.latents_per_step,
        )
        own = [self._own_modules.get(name) for name in ("latent_projection", "step_decoder")]
        loss, parts = through_forward(self.accelerator, model, losses, shown, self.weights, *own)
        self._seen = {"stage": stage, "latents": most} | parts
        return (loss, {}) if return_outputs else loss

    def _teacher(self, shown: Sequence[Example]) -> Batch | None:
        rows = [self.curriculum.teacher_row(example, self.markers) for example in shown]
        return None if None in rows else collate(rows, self.pad_id).to(self.args.device)

    def _microbatch(self, step: int) -> int:
        """Number of the batch among those of one step."""
        last, number = self._last
        self._last = step, number + 1 if last == step else 0
        return self._last[1]

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        seen = {}
        for name, value in self._seen.items() if "loss" in logs else ():
            value = torch.as_tensor(value, dtype=torch.float, device=self.args.device)
            seen[name] = float(self.accelerator.gather(value).mean())
        super().log(logs | seen, *rest)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model that is left in the end; a checkpoint to go on from has all modules that are trained."""
        model = self.accelerator.unwrap_model(self.model)
        for name in () if _internal_call else self._own_modules:
            if hasattr(model, name):
                delattr(model, name)
        super().save_model(output_dir, _internal_call)
        projection = self._own_modules.get("latent_projection")
        if not _internal_call and projection is not None and self.args.should_save:
            projection.save(output_dir or self.args.output_dir)


class _NewOptimizer(TrainerCallback):
    """Makes the optimizer forget, between two stages."""

    def __init__(self, trainer: LatentTrainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if self.trainer.curriculum.begins_stage(state.global_step):
            inner = self.trainer.optimizer
            while hasattr(inner, "optimizer"):  # accelerate's, and DeepSpeed's, around torch's
                inner = inner.optimizer
            inner.state.clear()


def check_lengths(
    examples: Iterable[Example], curriculum: Curriculum, markers: Markers, config: PretrainedConfig
) -> None:
    """Refuse examples, at least one, for whose rows in some stage a model has no positions.

    Raises:
        BadInput: more latents and tokens than positions.
    """
    longest = max(_longest(example, curriculum, markers) for example in examples)
    limit = getattr(config.get_text_config(), "max_position_embeddings", longest)
    if longest > limit:
        raise BadInput(
            f"A row takes up to {longest} tokens and latents, and the model has {limit} positions; give fewer "
            "latents or shorter examples."
        )


def _longest(example: Example, curriculum: Curriculum, markers: Markers) -> int:
    """Most tokens and latents of a row of an example, in the stage where there are most."""
    steps = [len(step) for step in example.step_ids]
    latents = curriculum.most_latents
    if not latents:
        thinking = sum(steps)
    elif curriculum.method == "codi":
        thinking = max(sum(steps), latents + 2)  # bot and eot; the chain is the teacher's
    else:
        stages = range(curriculum.max_stage + 1)
        thinking = max(stage * curriculum.latents_per_step + sum(steps[stage:]) for stage in stages) + 2
    around = len(markers.open_ids) + len(markers.close_ids)
    return len(example.question_ids) + thinking + len(example.answer_ids) + around
