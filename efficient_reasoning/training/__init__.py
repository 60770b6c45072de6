"""What every recipe shares: it claims a folder, trains, and leaves a checkpoint, whole or not at all.

    training.start(arguments, config)          # before the first random number
    base = training.load_base(arguments.model)
    rows = training.load_rows(arguments.data, ("prompt", "answer", "task"))
    if arguments.dry_run: training.dry_run(...)
    training.finish(trainer, metadata)         # resume, train, save whole or not at all, card, push

1. `run` is the tail: seed, resume, train, save, card. `checkpoints` knows which one is whole, `finite` stops a run
   that explodes, `memory` says what needs less of it. `published` is what of a run may leave the machine.
2. `base` is the checkpoint that a recipe starts from, `rows` what it trains on, `costs` what a dry run prints. From
   scratch, `chains` writes rows, or `sources` are read by `streaming`, and `stream_trainer` goes on where it was cut.
3. `objectives` builds TRL's trainers. `controls` makes texts that steer the length into tokens, `adapters` trains LoRA
   and merges it, `packing` asks whether a model keeps packed rows apart, `simpo` is TRL's under its own name.
"""

from __future__ import annotations

from efficient_reasoning.training.base import Base, load_base
from efficient_reasoning.training.costs import dry_run, print_costs
from efficient_reasoning.training.rows import fingerprint, load_pairs, load_prompts, load_rows, load_turns
from efficient_reasoning.training.run import FinetuningArguments, RecipeArguments, finish, is_main_process, start

__all__ = [
    "Base", "FinetuningArguments", "RecipeArguments", "dry_run", "fingerprint", "finish", "is_main_process",
    "load_base", "load_pairs", "load_prompts", "load_rows", "load_turns", "print_costs", "start",
]  # fmt: skip
