"""Fine-tune on compressed chains of thought, by SFT, DPO or SimPO, all weights or LoRA.

1. `objective: sft` takes rows with `prompt` and `completion` from a data tool, such as `efficient-reasoning data
   shortest_correct`, and trains on the completions; conversations under `messages` become one row a turn. `dpo`
   (arXiv 2305.18290) and `simpo` (arXiv 2405.14734) take rows with `prompt`, `chosen` and `rejected`. TRL trains.
2. `lora_rank` trains adapters instead of the weights; the checkpoint holds them merged, and with `adapter: keep` also
   beside it. A column `adapter_scale` scales them row by row (CoT-Valve++, arXiv 2502.09601), and
   `train_sampling_strategy: sequential` takes rows from long to short chains as the file has them.
3. Every text in a column `control` becomes one token, and is trained.
4. `general_data` mixes in other rows, against forgetting.

    efficient-reasoning train sft_compress --config configs/sft_compress/shortest_correct_overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.training import FinetuningArguments
from efficient_reasoning.training.objectives import CONFIGS, build_trainer, needs_reference


@dataclass(kw_only=True)
class CompressArguments(FinetuningArguments):
    """Where to start, what to train on, and how."""

    objective: Literal["sft", "dpo", "simpo"] = field(
        default="sft", metadata={"help": "What is trained, and so which of TRL's configs gives the further keys."}
    )
    general_data: str | None = field(
        default=None, metadata={"help": "More rows for sft, with prompt and completion, or messages; each is used."}
    )
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA adapters; 0 trains all weights."})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA counts alpha / rank times."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    adapter: Literal["merge", "keep"] = field(
        default="merge", metadata={"help": "Keep the adapter beside the merged model, to scale it at inference."}
    )

    def __post_init__(self) -> None:
        if self.lora_rank < 0 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise BadInput("lora_rank must be 0 or more, lora_alpha above 0, lora_dropout in [0, 1); correct them.")
        if self.adapter == "keep" and not self.lora_rank:
            raise BadInput("adapter is keep, and there is none; give lora_rank.")
        if self.general_data and self.objective != "sft":
            raise BadInput(f"general_data is for objective sft, not {self.objective}; leave it out.")


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(CompressArguments, trainer={"objective": CONFIGS}, argv=argv, doc=__doc__)
    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import ADAPTER_NAME
    from efficient_reasoning.training.adapters import check_scales, lora_config
    from efficient_reasoning.training.controls import add_controls, controls_of
    from efficient_reasoning.training.rows import budget_range, distinct, mix, summary

    training.start(arguments, config)
    base = training.load_base(arguments.model)
    load = training.load_turns if arguments.objective == "sft" else training.load_pairs
    rows = load(arguments.data, base.tokenizer)
    general = load(arguments.general_data, base.tokenizer) if arguments.general_data else []
    controls = controls_of(chain(rows, general))
    new_tokens = add_controls(base.tokenizer, controls)
    scaled = "adapter_scale" in rows.column_names
    if scaled:
        check_scales(rows, arguments.objective, arguments.lora_rank, config)
    lora = None
    if arguments.lora_rank:
        token_ids = base.tokenizer.convert_tokens_to_ids(controls)
        lora = lora_config(arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout, token_ids)
    method = " + ".join(distinct(rows, "method")) or "sft"
    method = method if arguments.objective == "sft" else f"{arguments.objective} {method}"
    metadata = base.metadata_of(chain(rows, general), stage="sft", method=method, controls=controls)
    metadata.trained_budget_range = budget_range(rows) or metadata.trained_budget_range
    metadata.adapter = ADAPTER_NAME if arguments.adapter == "keep" else None
    problems = base.problems_with(chain(rows, general))
    if training.is_main_process():
        print(summary(rows, base.tokenizer) + (f", {len(general):,} general rows" if general else ""))
    if general:
        rows = mix(rows, general, {"adapter_scale": 1.0} if scaled else {})
    template = base.training_template()
    if arguments.dry_run:
        reference = needs_reference(arguments.objective, config, lora)
        own = {"lora": lora, "with_reference": reference, "whole_logits": arguments.objective == "simpo"}
        training.dry_run(base, rows, config, config.max_length, True, **own)
        return
    trainer = build_trainer(arguments.objective, base, rows, config, template, lora, new_tokens)
    training.finish(trainer, metadata, problems)


if __name__ == "__main__":
    run(main)
