"""What is learnt beside the answer: CODI's distillation, and the steps that SIM-CoT's decoder reads out of latents.

1. CODI (arXiv 2502.21074): one model is teacher, on the chain in words, and student, on latents. Where the first token
   of the answer is about to come, the last token of the close delimiter in both, the student's hidden states are
   drawn to the teacher's, in every layer. The teacher learns by its own likelihood alone.

       L = L_student + alpha L_teacher + gamma mean over layers of smooth_l1(student, sg[teacher]) / std(teacher)

   The deviation is over the rows and dimensions of a layer. Embeddings are no layer here: both read the same token.
2. SIM-CoT (arXiv 2509.20317): an auxiliary decoder, which begins as a copy of the model, reads the latents that stand
   for a step as the embeddings of a prefix, and learns to write that step. Its gradient reaches the latents. Inference
   knows nothing of it.

Legend: B rows, L layers, K columns with latents, C latents a step, N steps, M tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import PreTrainedModel

from efficient_reasoning.errors import BadInput
from efficient_reasoning.latent.passes import IGNORED, Batch, Passes, Row, completion_loss, read
from efficient_reasoning.latent.projection import LatentProjection


@dataclass(frozen=True)
class LossWeights:
    """What the losses beside the student's count.

    Attributes:
        teacher: alpha of CODI.
        distillation: gamma of CODI; 0 leaves it out.
        step: of SIM-CoT's decoder; 0 leaves it out.
    """

    teacher: float = 1.0
    distillation: float = 1.0
    step: float = 0.0

    def __post_init__(self) -> None:
        for name in ("teacher", "distillation", "step"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name}_coef is {getattr(self, name)}; give 0 or more.")


@dataclass(frozen=True)
class Shown:
    """What one batch of examples is trained on.

    Attributes:
        rows: what `student` was made of.
        student: with latents, or whatever the method shows.
        teacher: the same examples with their chains in words, of CODI.
        answer_tokens: (B,) length of each answer, its end token included.
        latents_per_step: C.
    """

    rows: Sequence[Row]
    student: Batch
    teacher: Batch | None
    answer_tokens: torch.Tensor
    latents_per_step: int = 1


class StepDecoder(torch.nn.Module):
    """A copy of a language model that reads latents and writes the steps they stand for.

    Args:
        model: to be copied; a tied head stays tied.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.trunk = copy.deepcopy(model.base_model)
        head = model.get_output_embeddings()
        self.head = None if head.weight is model.get_input_embeddings().weight else copy.deepcopy(head)

    def forward(self, latents: torch.Tensor, step_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Mean negative log-likelihood of the tokens of N steps, in nats.

        Args:
            latents: (N, C, D).
            step_ids: of each step, at least one.
        """
        embed, before = self.trunk.get_input_embeddings(), latents.shape[1]
        width = max(map(len, step_ids))  # M
        ids = torch.tensor([[*step, *[IGNORED] * (width - len(step))] for step in step_ids], device=latents.device)
        counted = ids != IGNORED
        inputs = torch.cat([latents.to(embed.weight.dtype), embed(ids[:, :-1].clamp(min=0))], 1)  # (N, C + M - 1, D)
        mask = torch.cat([counted.new_ones(len(ids), before), counted[:, :-1]], 1).long()
        states = self.trunk(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state
        states = states[:, before - 1 :][counted]
        logits = torch.nn.functional.linear(states, embed.weight) if self.head is None else self.head(states)
        return cross_entropy(logits.float(), ids[counted])


def losses(
    model: PreTrainedModel,
    shown: Shown,
    weights: LossWeights,
    projection: LatentProjection | None = None,
    decoder: StepDecoder | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, in nats, and its parts by name, unweighted and without gradients.

    Args:
        model: the language model.
        shown: on its device.
        weights: of the parts.
        projection: makes latents of hidden states.
        decoder: of SIM-CoT; needed where its weight is not 0.
    """
    distilled = shown.teacher is not None and weights.distillation > 0
    student = read(model, shown.student, projection, distilled)
    total, parts = completion_loss(model, shown.student, student), {}
    if shown.teacher is not None:
        teacher = read(model, shown.teacher, None, distilled)
        parts["teacher_loss"] = completion_loss(model, shown.teacher, teacher)
        total = total + weights.teacher * parts["teacher_loss"]
    if distilled:
        pair = _before_answer(student, shown.student, shown), _before_answer(teacher, shown.teacher, shown)
        parts["distillation_loss"] = distillation_loss(*pair)
        total = total + weights.distillation * parts["distillation_loss"]
    if decoder is not None and student.latents.shape[1]:
        parts["step_loss"] = step_loss(decoder, student.latents, shown.rows, shown.latents_per_step)
        total = total + weights.step * parts["step_loss"]
    return total, {name: part.detach() for name, part in parts.items()}


def _before_answer(passes: Passes, batch: Batch, shown: Shown) -> torch.Tensor:
    """Hidden states (L, B, D) at the token that predicts the first of the answer."""
    completion_tokens = batch.attention_mask[:, batch.end_column :].sum(1)
    column = completion_tokens - shown.answer_tokens - 1  # (B,)
    rows = torch.arange(len(column), device=column.device)
    return torch.stack([layer[rows, column] for layer in passes.layers])


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """CODI's: smooth L1 in units of the teacher's standard deviation, a mean over layers.

    Args:
        student: hidden states (L, B, D).
        teacher: hidden states (L, B, D), which are not moved.
    """
    student, teacher = student.float(), teacher.detach().float()
    distances = smooth_l1_loss(student, teacher, reduction="none").mean((1, 2))  # (L,)
    return (distances / teacher.std((1, 2))).mean()


def step_loss(decoder: StepDecoder, latents: torch.Tensor, rows: Sequence[Row], latents_per_step: int) -> torch.Tensor:
    """SIM-CoT's: of all steps that the latents of some rows stand for.

    Args:
        decoder: writes them.
        latents: (B, K, D), those of a row at the end.
        rows: B, each with the steps that its latents stand for.
        latents_per_step: C.
    """
    groups, steps = [], []
    for row, columns in zip(rows, latents, strict=True):
        own = columns[len(columns) - row.latents :]
        for number, step in enumerate(row.step_ids):  # latents behind these pad a short chain
            groups.append(own[number * latents_per_step : (number + 1) * latents_per_step])
            steps.append(step)
    if not groups:  # processes have to agree on what has gradients, and others may have steps
        return 0 * decoder(latents[:1], [[0]])
    return decoder(torch.stack(groups), steps)
