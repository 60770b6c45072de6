"""Training in stages, on what a curriculum shows.

1. A batch holds examples; which row is made of each is decided when its step comes, from the seed, the step and the
   process alone. So a run that goes on shows what an uninterrupted one would have.
2. Before the first step of every stage but the first, the optimizer forgets its moments: they are of another loss.
   Whether that is due is known from the number of the step, so that a run which goes on from the end of a stage does
   it, and one that goes on in the middle does not.
3. All processes run as many passes, those of the row with the most latents: layers that are shared out wait for each
   other.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from trl.models.utils import _ForwardRedirection

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.curriculum import Curriculum, Example, Markers
from efficient_reasoning.latent.passes import collate, completion_loss


class LatentTrainer(Trainer):
    """Trainer of a causal language model on `Example`s.

    Logs `stage` and `latents`, the most of a row.

    Args:
        model: the language model; its tokenizer already has the markers.
        args: as for Trainer.
        train_dataset: of `Example`.
        curriculum, markers: what is shown.
        pad_id: any token.
        rest: as for Trainer.

    Raises:
        BadInput: gradient checkpointing, or more latents and tokens than the model has positions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: Dataset,
        curriculum: Curriculum,
        markers: Markers,
        pad_id: int,
        **rest: Any,
    ):
        if args.gradient_checkpointing:
            raise BadInput("Latents are computed through a key-value cache; set gradient_checkpointing to false.")
        longest = max(_longest(example, curriculum, markers) for example in train_dataset)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", longest)
        if longest > limit:
            raise BadInput(
                f"A row takes up to {longest} tokens and latents, and the model has {limit} positions; give fewer "
                "latents or shorter examples."
            )
        args.remove_unused_columns = False
        super().__init__(
            model, args, data_collator=lambda examples: {"examples": examples}, train_dataset=train_dataset, **rest
        )
        self.curriculum, self.markers, self.pad_id = curriculum, markers, pad_id
        self.model_accepts_loss_kwargs = False  # the loss is the mean of a batch
        self._redirect = _ForwardRedirection()
        self._seen: dict[str, float] = {}
        self._last = (-1, 0)  # a step, and the number of its last batch
        self.add_callback(_NewOptimizer(self))

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        args, step = self.args, self.state.global_step
        stage = self.curriculum.stage(step)
        rng = random.Random(f"{args.seed}/{step}/{args.process_index}/{self._microbatch(step)}")
        rows = [self.curriculum.row(example, stage, self.markers, rng) for example in inputs["examples"]]
        most = torch.tensor([max(row.latents for row in rows)], device=args.device)
        most = int(self.accelerator.gather(most).max())
        batch = collate(rows, self.pad_id, columns=most).to(args.device)
        self._seen = {"stage": stage, "latents": most}
        plain = self.accelerator.unwrap_model(model)
        # Through the wrapper's own forward, which DistributedDataParallel and DeepSpeed have to see.
        loss = self._redirect(model, plain, completion_loss, plain, batch)
        return (loss, {}) if return_outputs else loss

    def _microbatch(self, step: int) -> int:
        """Number of the batch among those of one step."""
        last, number = self._last
        self._last = step, number + 1 if last == step else 0
        return self._last[1]

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        super().log(logs | (self._seen if "loss" in logs else {}), *rest)


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


def _longest(example: Example, curriculum: Curriculum, markers: Markers) -> int:
    """Most tokens and latents of a row of an example."""
    chain = sum(map(len, example.step_ids))
    around = len(markers.open_ids) + len(markers.close_ids) + 2  # bot and eot
    return len(example.question_ids) + chain + len(example.answer_ids) + curriculum.most_latents + around
