"""Offline RL on traces that are paid already: O1-Pruner (arXiv 2501.12570).

1. A row is a response of the reference model, the one that training starts from, with its reward. The policy is
   weighted by the ratio of its probability of the response to the reference's, each a geometric mean over tokens, and
   PPO clips the ratio. Nothing is generated.
2. Rewards are brought to mean 0 and deviation 1 over the rows that are trained on. The released code does it over the
   data set; rows that `max_length` leaves out are the long, badly paid ones, and would bias the mean. The mean of
   (Lref - L) / L lies above 0, so that a response to a problem whose responses are all equally long counts as bad, and
   is unlearnt with the rest of its kind; `center_rewards: false` leaves the mean, which is the reference model's.
3. The reference is frozen: its log-probabilities, one number a row, are taken once before the first step, and kept
   in the checkpoints for a run that goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from efficient_reasoning.errors import BadInput
from efficient_reasoning.redirect import through_forward
from efficient_reasoning.rl.logprobs import mean_logprobs, token_logprobs

_NAME = "reference_logprobs"
_ONE_BY_ONE = ("packing", "padding_free", "assistant_only_loss", "use_liger_kernel")


@dataclass
class OfflineConfig(SFTConfig):
    """SFTConfig with O1-Pruner's constants."""

    clip_range: float = field(default=0.2, metadata={"help": "How far from 1 the ratio of a response counts."})
    center_rewards: bool = field(
        default=True, metadata={"help": "Bring rewards to mean 0; false for those that compare with the reference."}
    )
    max_length: int | None = field(
        default=1024, metadata={"help": "Most tokens of a prompt with its response; longer rows are left out."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.clip_range < 1:
            raise BadInput(f"clip_range is {self.clip_range}; give a number between 0 and 1.")
        for name in _ONE_BY_ONE:
            if getattr(self, name):
                raise BadInput(f"{name} does not go with offline RL, which weighs rows one by one; leave it out.")


class OfflineTrainer(SFTTrainer):
    """SFTTrainer whose loss is that of a clipped ratio.

    Args:
        model: the policy, which at this time is the reference.
        args: an `OfflineConfig`.
        train_dataset: rows with `prompt`, `completion` and `reward`.
        rest: as for SFTTrainer.

    Raises:
        BadInput: rewards that are no numbers, or all the same; more than half of the rows longer than `max_length`.
    """

    def __init__(self, model: torch.nn.Module, args: OfflineConfig, train_dataset: Dataset, **rest):
        rows = train_dataset.add_column("row", [*range(len(train_dataset))])
        limit, args.max_length = args.max_length, None  # TRL would cut a row, and its reward is for all of it
        super().__init__(model, args=args, train_dataset=rows, **rest)
        args.max_length = limit
        kept = self.train_dataset if limit is None else self._short_rows(limit)
        self.train_dataset = kept.add_column("advantage", standardized(kept["reward"], args.center_rewards))
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows, and not over tokens of all batches
        collate = self.data_collator
        self.data_collator = lambda rows: (
            collate(rows)
            | {"advantage": torch.tensor([row["advantage"] for row in rows])}
            | {"row": torch.tensor([row["row"] for row in rows])}
        )
        self.add_callback(_TakeReference(self))
        self.reference = torch.zeros(len(rows))  # mean log-probability of a token of each row

    def _short_rows(self, limit: int) -> Dataset:
        rows = self.train_dataset
        kept = rows.filter(lambda row: len(row["input_ids"]) <= limit)
        longer = len(rows) - len(kept)
        if longer > len(rows) / 2:
            raise BadInput(
                f"max_length is {limit}, and {longer:,} of {len(rows):,} rows are longer and would be left out; "
                "raise it."
            )
        if longer and self.accelerator.is_main_process:
            print(f"Left out {longer:,} of {len(rows):,} rows, which are longer than max_length, {limit} tokens.")
        return kept

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, "advantage", "row"])]

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """- mean over rows of min(r A, clip(r) A)."""
        ratio = (self._mean_logprobs(model, inputs) - self.reference.to(inputs["row"].device)[inputs["row"]]).exp()
        near = ratio.clamp(1 - self.args.clip_range, 1 + self.args.clip_range)
        advantage = inputs["advantage"]
        gain = torch.minimum(ratio * advantage, near * advantage)
        mode = "train" if self.model.training else "eval"
        clipped = (gain < ratio * advantage).float()
        for name, value in (("ratio", ratio.detach()), ("clipped", clipped), ("gain", gain.detach())):
            self._metrics[mode][name].append(self.accelerator.gather(value).mean().item())
        loss = -gain.mean()
        return (loss, {}) if return_outputs else loss

    def _mean_logprobs(self, model: torch.nn.Module, inputs: dict) -> torch.Tensor:
        """Of a batch: (B,)."""
        return through_forward(self.accelerator, model, _means, inputs)

    @torch.no_grad()
    def take_reference(self) -> list[float]:
        """`reference` of the model as it is; all processes share the work."""
        count, size = len(self.train_dataset), self.args.per_device_train_batch_size
        order = np.argsort([-len(ids) for ids in self.train_dataset["input_ids"]], kind="stable").tolist()
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        was_training = self.model_wrapped.training
        self.model_wrapped.eval()
        show = process == 0 and not self.args.disable_tqdm
        for start in tqdm(range(0, count, size * processes), desc="reference", disable=not show):
            own = [order[(start + process * size + i) % count] for i in range(size)]  # as many for every process
            inputs = self._prepare_inputs(self.data_collator([self.train_dataset[i] for i in own]))
            with self.compute_loss_context_manager():
                means = self._mean_logprobs(self.model_wrapped, inputs)
            rows, means = self.accelerator.gather((inputs["row"], means.float()))
            self.reference[rows.cpu()] = means.cpu()
        self.model_wrapped.train(was_training)
        return self.reference.tolist()


class _TakeReference(TrainerCallback):
    """Before the first step of a run; one that goes on has it from its checkpoint."""

    def __init__(self, trainer: OfflineTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if _NAME not in state.stateful_callbacks:
            state.stateful_callbacks[_NAME] = {"rows": self.trainer.take_reference()}
        self.trainer.reference = torch.tensor(state.stateful_callbacks[_NAME]["rows"])


def _means(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    counted = inputs["labels"] != -100
    logprobs = token_logprobs(model, inputs["input_ids"], inputs["attention_mask"], counted)
    return mean_logprobs(logprobs, counted)


def standardized(rewards: list[float], center: bool = True) -> list[float]:
    """Rewards of deviation 1 over the data set, and of mean 0 unless `center` is false.

    Raises:
        BadInput: one that is no number, or all the same.
    """
    try:
        values = np.array(rewards, np.float64)
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise BadInput(
            "The reward of some row is no number; write the rows with `efficient-reasoning data offline_rewards`."
        )
    if not values.std():
        raise BadInput("All rows have the same reward, which teaches nothing; take other traces, or another reward.")
    return ((values - values.mean() * center) / values.std()).tolist()
