"""Replace softmax attention by what takes as long, and as much memory, for every token.

A window and a state (LoLCATs, arXiv 2410.10254) come in two runs, gated DeltaNet in one.

1. `stage: transfer` takes a model with softmax attention and trains the feature maps and gates of its linearized twin,
   nothing else, until each layer's attention gives what softmax gives on the same hidden states.
2. `stage: finetune` takes what that leaves, and trains LoRA adapters of the attention's projections on next tokens,
   with `kl_coef` also on the teacher's distribution of them; the checkpoint holds them merged. Given a model with
   softmax attention instead, it does without the first stage: the control of what that is worth.
3. `stage: hybrid` makes another thing of a Qwen3: a Qwen3.5 with gated DeltaNet, which needs no code of this toolkit,
   drawn to its teacher by the KL divergence in both directions. SFT comes next (`sft_compress`).
4. Rows have `prompt` and `completion`; the teacher's own traces are best.
5. `softmax_layers` stay as they are: one in four is a ratio of 3:1.

    efficient-reasoning train linearize --config configs/linearize/transfer_overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.training import FinetuningArguments

if TYPE_CHECKING:
    from transformers import PretrainedConfig

METHODS = {"transfer": "attention_transfer", "finetune": "linearize", "hybrid": "hybrid"}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(kw_only=True)
class LinearizeArguments(FinetuningArguments):
    """Where to start, what stays softmax, and which of the stages to run."""

    stage: Literal["transfer", "finetune", "hybrid"] = field(
        metadata={
            "help": "Train feature maps and gates on attention's outputs, adapters on next tokens, or a hybrid of "
            "gated DeltaNet on what its teacher would say."
        }
    )
    window_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens seen by softmax, one's own included; of a model with softmax attention."},
    )
    softmax_layers: list[int] = field(
        default_factory=list, metadata={"help": "Layers that keep softmax, from 0; of a model with softmax attention."}
    )
    lora_rank: int = field(default=8, metadata={"help": "Of finetune: rank of the adapters."})
    lora_alpha: float = field(default=16.0, metadata={"help": "Of finetune: LoRA counts alpha / rank times."})
    kl_coef: float = field(default=0.0, metadata={"help": "Of finetune: weight of KL(teacher || student)."})

    def __post_init__(self) -> None:
        if self.lora_rank < 1 or self.lora_alpha <= 0 or self.kl_coef < 0:
            raise BadInput("lora_rank must be at least 1, lora_alpha above 0, kl_coef at least 0; correct them.")
        if self.kl_coef and self.stage != "finetune":
            raise BadInput("kl_coef is of stage finetune; leave it out.")
        if self.window_tokens is not None and self.stage == "hybrid":
            raise BadInput("window_tokens is of the other stages: a hybrid has no window; leave it out.")

    def check_model(self, config: PretrainedConfig, method: str | None) -> None:
        """Whether the model can take this stage; `method` made it, if it is of this toolkit.

        Raises:
            BadInput: it cannot.
        """
        from efficient_reasoning.linear.conversion import check_convertible, check_shape
        from efficient_reasoning.linear.hybrid import check_hybrid

        if self.stage == "hybrid":
            check_hybrid(self.model, config, self.softmax_layers)
        elif config.model_type != "linearized" or self.stage == "transfer":
            check_convertible(self.model, config)
            if self.window_tokens is None:
                raise BadInput(f"{self.model} has softmax attention; give window_tokens, such as 64.")
            check_shape(self.model, config, self.window_tokens, self.softmax_layers)
        elif self.window_tokens is not None or self.softmax_layers:
            raise BadInput(f"{self.model} is linearized already; leave out window_tokens and softmax_layers.")
        elif self.kl_coef and method != METHODS["transfer"]:
            raise BadInput(
                f"{self.model} was trained after the transfer, and has no teacher in it; give kl_coef with the "
                "checkpoint of stage transfer."
            )


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(LinearizeArguments, trainer="trl:SFTConfig", argv=argv, doc=__doc__)
    from functools import partial

    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import ReasoningMetadata, load_config
    from efficient_reasoning.linear.conversion import linearize
    from efficient_reasoning.linear.hybrid import to_hybrid
    from efficient_reasoning.linear.trainer import FinetuningTrainer, HybridTrainer, TransferTrainer
    from efficient_reasoning.training.adapters import lora_config
    from efficient_reasoning.training.objectives import build_trainer
    from efficient_reasoning.training.rows import summary

    training.start(arguments, config)
    base = training.load_base(arguments.model)
    before = ReasoningMetadata.load(base.path)
    arguments.check_model(load_config(base.path), before.method if before else None)
    rows = training.load_turns(arguments.data, base.tokenizer)
    lora, trainer_of = None, TransferTrainer
    if arguments.stage == "finetune":
        lora = lora_config(arguments.lora_rank, arguments.lora_alpha, 0.0, target_modules=PROJECTIONS)
        trainer_of = partial(FinetuningTrainer, kl_coef=arguments.kl_coef)
    metadata = base.metadata_of(rows, stage="sft", method=METHODS[arguments.stage])
    problems = base.problems_with(rows)
    if training.is_main_process():
        print(summary(rows, base.tokenizer))
    if arguments.dry_run:
        training.dry_run(base, rows, config, config.max_length, True, lora=lora, own_layers=True)
        return

    def make(model, **rest):
        if arguments.stage == "hybrid":
            return HybridTrainer(to_hybrid(model, arguments.softmax_layers), teacher=model, **rest)
        if model.config.model_type != "linearized":
            model = linearize(model, arguments.window_tokens, arguments.softmax_layers)
        return trainer_of(model, **rest)

    trainer = build_trainer("sft", base, rows, config, base.training_template(), lora, [], make)
    training.finish(trainer, metadata, problems)


if __name__ == "__main__":
    run(main)
