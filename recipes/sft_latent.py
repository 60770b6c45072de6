"""Latent SFT: Coconut, SIM-CoT, CODI, ICoT, and the controls of what they are worth (`efficient_reasoning/latent/`).

1. Rows hold a prompt, the steps of a chain and the answer, as `efficient-reasoning data chain_steps` writes them.
2. `method` says what a curriculum makes of them in which stage: latents, pauses, or nothing in place of steps; `codi`,
   `cot` and `no_cot` have no stages.
3. A checkpoint of Coconut, SIM-CoT or CODI thinks in `max_stage * latents_per_step` latents wherever it is loaded.

    efficient-reasoning train sft_latent --config configs/sft_latent/coconut_overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.training import FinetuningArguments

if TYPE_CHECKING:
    from efficient_reasoning.latent.curriculum import Curriculum


@dataclass(kw_only=True)
class LatentArguments(FinetuningArguments):
    """Where to start, the chains, and what is shown of them when."""

    method: Literal["coconut", "sim_cot", "codi", "pause", "icot", "cot", "no_cot"] = field(
        metadata={"help": "What comes in place of steps: latents, a learnt token, nothing; all steps stay; none ever."}
    )
    steps_per_stage: int = field(default=1000, metadata={"help": "Steps of the optimizer in each stage."})
    max_stage: int = field(
        default=6, metadata={"help": "Last stage in which one more step, or part, is replaced; of codi, all at once."}
    )
    latents_per_step: int = field(default=1, metadata={"help": "Latents, or pauses, in place of each step."})
    uniform_prob: float = field(default=0.0, metadata={"help": "Share of rows that are shown at any stage instead."})
    mixed_stages: bool = field(default=False, metadata={"help": "Draw stages up to this one, later ones more often."})
    removed_tokens: int = field(default=8, metadata={"help": "Of icot: tokens that each stage leaves out."})
    projection: bool | None = field(
        default=None, metadata={"help": "Make latents of hidden states by a trained network; of codi by default."}
    )
    normalize_latents: bool = field(
        default=False, metadata={"help": "Bring latents to the mean norm of the embeddings that training begins with."}
    )
    teacher_coef: float = field(default=1.0, metadata={"help": "Of codi: alpha, weight of the loss on the chain."})
    distillation_coef: float = field(default=1.0, metadata={"help": "Of codi: gamma; the paper has 20 for Llama."})
    step_coef: float | None = field(
        default=None, metadata={"help": "Of codi and sim_cot: weight of decoding steps from latents; of sim_cot 1."}
    )

    def __post_init__(self) -> None:
        if self.projection is None:
            self.projection = self.method == "codi"
        if self.step_coef is None:
            self.step_coef = float(self.method == "sim_cot")
        if self.step_coef and self.method not in ("codi", "sim_cot"):
            raise BadInput(f"step_coef is of codi and sim_cot, not of {self.method}; leave it out.")
        if (self.projection or self.normalize_latents) and self.method not in ("codi", "sim_cot", "coconut"):
            raise BadInput(f"{self.method} has no latents; leave out projection and normalize_latents.")

    def curriculum(self) -> Curriculum:
        """Raise BadInput for values that mean nothing."""
        from efficient_reasoning.latent.curriculum import Curriculum

        return Curriculum(
            self.method,
            self.steps_per_stage,
            self.max_stage,
            self.latents_per_step,
            self.uniform_prob,
            self.mixed_stages,
            self.removed_tokens,
        )


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(LatentArguments, trainer="transformers:TrainingArguments", argv=argv, doc=__doc__)
    from transformers import AutoModelForCausalLM

    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import LATENT_NAME, load_config
    from efficient_reasoning.inference.graph_engine import GraphEngine
    from efficient_reasoning.latent.objectives import LossWeights
    from efficient_reasoning.latent.trainer import LatentTrainer, check_lengths
    from efficient_reasoning.training.latent_rows import add_markers, embed_markers, examples, make_projection

    curriculum = arguments.curriculum()
    weights = LossWeights(arguments.teacher_coef, arguments.distillation_coef, arguments.step_coef)
    training.start(arguments, config)
    base = training.load_base(arguments.model, trains_latents=True)
    rows = training.load_rows(arguments.data, ("prompt", "steps", "answer"))
    model_config = load_config(base.path)
    if curriculum.has_latents and not GraphEngine.can_decode(model_config, with_latents=True):
        raise BadInput(
            f"{arguments.model}: no backend decodes latents of a {model_config.model_type}; take another model."
        )
    markers, new = add_markers(base)
    dataset = examples(arguments.data, rows, base)
    if curriculum.last_stage and config.max_steps <= curriculum.last_stage * curriculum.steps_per_stage:
        raise BadInput(
            f"max_steps is {config.max_steps}, and the last stage begins behind step "
            f"{curriculum.last_stage * curriculum.steps_per_stage}; give more steps, or fewer a stage."
        )
    metadata = base.metadata_of(rows, stage="sft", method=arguments.method)
    metadata.latent_steps = curriculum.most_latents if curriculum.has_latents else 0
    metadata.latent_projection = LATENT_NAME if arguments.projection else None
    metadata.pause_steps = curriculum.most_latents if arguments.method == "pause" else 0
    if arguments.dry_run:
        check_lengths(dataset, curriculum, markers, model_config)
        print(f"{len(dataset):,} rows, {curriculum.last_stage + 1} stages, {curriculum.most_latents} latents at most.")
        return
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype="float32")
    embed_markers(model, markers, new)
    projection = make_projection(base, model, arguments.projection, arguments.normalize_latents)
    metadata.latent_norm = projection.norm if projection is not None else None
    trainer = LatentTrainer(
        model,
        config,
        dataset,
        curriculum,
        markers,
        base.tokenizer.pad_token_id,
        projection,
        weights,
        processing_class=base.tokenizer,
    )
    training.finish(trainer, metadata, base.problems_with(rows))


if __name__ == "__main__":
    run(main)
