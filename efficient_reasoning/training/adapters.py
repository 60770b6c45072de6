"""Low-rank adapters (LoRA, arXiv 2106.09685), through PEFT: built, scaled a row, merged, kept.

1. Every linear layer but the output gets an adapter. What is saved is the merged model, which plain `transformers`
   loads; with `adapter: keep` also the adapter itself, in PEFT's format.
2. CoT-Valve (arXiv 2502.09601) reads the adapter as a direction from long to short chains: kept, its contribution is
   scaled at inference. Its variant ++ trains with a scale of its own for every row: `adapter_scale`, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils.other import TrainableTokensWrapper
from transformers import Trainer, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTTrainer

from efficient_reasoning.errors import BadInput

if TYPE_CHECKING:
    from efficient_reasoning.checkpoint import ReasoningMetadata

# TRL's fused head reads the bias of the output layer, which PEFT, where that is tied and some of its rows are trained,
# wraps without one.
TrainableTokensWrapper.bias = property(lambda self: self.original_module.bias)
# Adapters begin at zero, new embeddings anywhere: at the adapters' learning rate they have hardly moved when these are
# done, and the model heeds no control (docs/results/compression.md).
CONTROL_LEARNING_RATE_FACTOR = 10


def lora_config(
    rank: int,
    alpha: float,
    dropout: float,
    token_ids: Sequence[int] = (),
    target_modules: str | list[str] = "all-linear",
) -> LoraConfig:
    """Adapters of all linear layers, or of those with these names; the embeddings of `token_ids` are trained whole.

    Raises:
        BadInput: under ZeRO-3, where no process holds the weights to merge with.
    """
    if is_deepspeed_zero3_enabled():
        raise BadInput("lora_rank: adapters cannot be merged under ZeRO-3; use deepspeed: zero2.")
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        trainable_token_indices=list(token_ids) or None,
        task_type="CAUSAL_LM",
    )


def leave_fused_out(lora: LoraConfig, model: torch.nn.Module) -> None:
    """No adapters for Mamba's output projections: its kernels read the weight, and would pass them over."""
    fused = [name for name, module in model.named_modules() if hasattr(module, "A_log") and hasattr(module, "D")]
    lora.exclude_modules = [f"{name}.out_proj" for name in fused] or None


def hasten_controls(trainer: Trainer) -> None:
    """Give embeddings that are trained beside adapters `CONTROL_LEARNING_RATE_FACTOR` times the learning rate."""
    trained = [(name, weight) for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    controls = [weight for name, weight in trained if "trainable_tokens_" in name]
    if not controls:
        return
    adapters = [weight for name, weight in trained if "trainable_tokens_" not in name]
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    fast = CONTROL_LEARNING_RATE_FACTOR * trainer.args.learning_rate
    groups = [
        {"params": adapters, "weight_decay": trainer.args.weight_decay},
        {"params": controls, "weight_decay": 0.0, "lr": fast},
    ]
    trainer.optimizer_cls_and_kwargs = optimizer, settings | {"params": groups}


def check_scales(rows: Iterable[Mapping], objective: str, rank: int, config: TrainingArguments) -> None:
    """Check the column `adapter_scale`.

    Raises:
        BadInput: a scale outside [0, 1], or a run that cannot scale rows.
    """
    if objective != "sft" or not rank or config.packing or config.padding_free:
        raise BadInput(
            "adapter_scale, a column of data, scales LoRA's part of each row; give objective: sft, a lora_rank, and "
            "neither packing nor padding_free, or drop the column."
        )
    for number, row in enumerate(rows, start=1):
        scale = row["adapter_scale"]
        if not isinstance(scale, (int, float)) or not 0 <= scale <= 1:
            raise BadInput(f"Training row {number}: its adapter_scale is {scale!r}; give a number from 0 to 1.")


class ScaledSFTTrainer(SFTTrainer):
    """SFTTrainer with LoRA whose contribution to a row is multiplied by the row's `adapter_scale` (CoT-Valve++)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        collate = self.data_collator
        self.data_collator = lambda rows: (
            collate(rows) | {"adapter_scale": torch.tensor([float(row["adapter_scale"]) for row in rows])}
        )
        self._scales = torch.ones(0)  # (B,), of the batch that is in the model; checkpointing reads them once more
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                for up_projection in module.lora_B.values():
                    up_projection.register_forward_hook(self._scale)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "adapter_scale" not in self._signature_columns:
            self._signature_columns.append("adapter_scale")

    def compute_loss(self, model, inputs: dict, *args, **kwargs):
        self._scales = inputs.pop("adapter_scale")
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _scale(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if output.dim() != 3:  # (B, T, D); experts see the tokens of all rows in one heap
            raise BadInput("adapter_scale: this architecture mixes the rows of a batch; leave the column out.")
        return output * self._scales.to(output).view(-1, 1, 1)


def save_merged(trainer: Trainer, folder: Path, metadata: ReasoningMetadata) -> None:
    """Save the model with its adapter merged, and the adapter beside it where `metadata.adapter` names a folder.

    Args:
        trainer: with a PEFT model, in whose place the merged one stands afterwards.
        folder: of the checkpoint; the process of rank 0 makes it.
        metadata: of the checkpoint.
    """
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if metadata.adapter is not None:
        base = Path(model.peft_config["default"].base_model_name_or_path)
        if base.is_dir():  # its name, and not where it lies on this machine
            model.peft_config["default"].base_model_name_or_path = base.name
        model.save_pretrained(folder / metadata.adapter, save_embedding_layers=False)
        (folder / metadata.adapter / "README.md").unlink()  # the checkpoint's own card speaks for both
    model.merge_and_unload().save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
