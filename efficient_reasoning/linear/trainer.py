"""TRL's supervised trainer with the losses of attention transfer, and of hybrids, in place of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTTrainer

from efficient_reasoning.errors import BadInput
from efficient_reasoning.linear.losses import finetuning_loss, mutual_kl_loss, transfer_loss
from efficient_reasoning.linear.modeling_linearized import LinearizedAttention, LinearizedForCausalLM
from efficient_reasoning.redirect import through_forward


class _ConvertedTrainer(SFTTrainer, ABC):
    """What all stages share: one forward pass of the wrapped model that returns the loss, the mean of a batch."""

    def __init__(self, model: PreTrainedModel, **rest: Any):
        if rest["args"].packing or rest["args"].padding_free:
            raise BadInput("States read packed rows as one text; leave packing and padding_free out.")
        if is_deepspeed_zero3_enabled():
            raise BadInput("Models are not converted under ZeRO-3; use ZeRO-2.")
        super().__init__(model, **rest)
        self.model_accepts_loss_kwargs = False  # the loss is the mean of a batch

    @abstractmethod
    def losses(
        self, model: PreTrainedModel | PeftModel, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch, and its parts by the names they are logged under."""

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        loss, parts = through_forward(self.accelerator, model, self.losses, inputs)
        mode = "train" if self.model.training else "eval"
        for name, value in parts.items():
            self._metrics[mode][name].append(self.accelerator.gather(value).mean().item())
        return (loss, {}) if return_outputs else loss


class TransferTrainer(_ConvertedTrainer):
    """Trains feature maps and gates to do what softmax does, and nothing else (`losses.transfer_loss`)."""

    def __init__(self, model: LinearizedForCausalLM, **rest: Any):
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, LinearizedAttention):
                for each in (module.query_map.weight, module.key_map.weight, module.gate):
                    each.requires_grad_()
        super().__init__(model, **rest)

    def losses(self, model, inputs):
        return transfer_loss(model, inputs["input_ids"], inputs["attention_mask"]), {}


class FinetuningTrainer(_ConvertedTrainer):
    """Trains adapters on what the teacher wrote (`losses.finetuning_loss`); `kl_coef` weighs its distribution."""

    def __init__(self, model: LinearizedForCausalLM, kl_coef: float = 0.0, **rest: Any):
        super().__init__(model, **rest)
        self.kl_coef = kl_coef

    def losses(self, model, inputs):
        batch = (inputs[name] for name in ("input_ids", "attention_mask", "labels"))
        return finetuning_loss(model.get_base_model(), *batch, self.kl_coef, model.disable_adapter)


class HybridTrainer(_ConvertedTrainer):
    """Trains all weights of a hybrid to say what `teacher` would say (`losses.mutual_kl_loss`)."""

    def __init__(self, model: PreTrainedModel, teacher: PreTrainedModel, **rest: Any):
        super().__init__(model, **rest)
        teacher.requires_grad_(False)
        self.teacher = self.accelerator.prepare_model(teacher.eval(), evaluation_mode=True)

    def losses(self, model, inputs):
        batch = (inputs[name] for name in ("input_ids", "attention_mask", "labels"))
        return mutual_kl_loss(model, self.teacher, *batch)
