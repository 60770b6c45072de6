"""Reinforcement learning with a length reward: GRPO, RLOO, PPO, DLER, AdaptThink, MRT, or offline.

1. All but `algorithm: offline` take rows with `prompt`, `answer` and `task` (the verifier), and what the reward needs:
   `efficient-reasoning data reference_lengths` writes it from traces, `length_budgets` from problems. The
   reward counts token ids and verifies answers as evaluation does; responses come from the engine of inference, or
   from vLLM with `use_vllm`.
2. `algorithm: offline` (O1-Pruner) generates nothing: `efficient-reasoning data offline_rewards` has paid traces.

    efficient-reasoning train rl_length --config configs/rl_length/kimi_overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.rl.algorithms import CONFIGS
from efficient_reasoning.training import FinetuningArguments

if TYPE_CHECKING:
    from trl import GRPOConfig

    from efficient_reasoning.rl.offline import OfflineConfig
    from efficient_reasoning.training.base import Base


@dataclass(kw_only=True)
class LengthRewardArguments(FinetuningArguments):
    """Where to start, the problems, and the reward."""

    reward: str = field(metadata={"help": "Name of the length reward, such as kimi or arora_zanette."})
    reward_parameters: dict = field(
        default_factory=dict, metadata={"help": "Parameters of the reward, such as {weight: 0.5}."}
    )
    reward_shaping: dict = field(
        default_factory=dict, metadata={"help": "When the length counts, such as {gate: batch, warmup_batches: 20}."}
    )
    algorithm: Literal["grpo", "adaptthink", "dler", "mrt", "ppo", "rloo", "offline"] = field(
        default="grpo", metadata={"help": "What makes advantages of rewards."}
    )
    guard_steps: int = field(
        default=20,
        metadata={
            "help": "Steps on end of cut off or equally paid responses that stop the run; 0: never.",
            "incidental": True,
        },
    )


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(LengthRewardArguments, trainer={"algorithm": CONFIGS}, argv=argv, doc=__doc__)
    from efficient_reasoning import training

    training.start(arguments, config)
    base = training.load_base(arguments.model)
    (offline if arguments.algorithm == "offline" else online)(arguments, config, base)


def online(arguments: LengthRewardArguments, config: GRPOConfig, base: Base) -> None:
    from efficient_reasoning import training
    from efficient_reasoning.answers import check_problems
    from efficient_reasoning.prompts import template_kwargs
    from efficient_reasoning.rewards import get_length_reward, needed_columns, takes
    from efficient_reasoning.rl.algorithms import COLUMNS, trainer_class
    from efficient_reasoning.rl.guards import CollapseGuard, check_columns, check_rows, check_settings, check_vllm
    from efficient_reasoning.rl.reward_memory import RewardMemory
    from efficient_reasoning.rl.rollouts import EngineRollouts
    from efficient_reasoning.training.rows import budget_range

    numbers = (*needed_columns(arguments.reward), *COLUMNS.get(arguments.algorithm, ()))
    rows = training.load_prompts(arguments.data, ("prompt", "answer", "task", *numbers), base.tokenizer)
    check_columns(arguments.data, rows.column_names)
    check_problems(rows)
    metadata = base.metadata_of(rows, stage="rl", method=f"{arguments.algorithm} {arguments.reward}")
    metadata.trained_budget_range = budget_range(rows) or metadata.trained_budget_range
    defaults = {"max_tokens": config.max_completion_length} if takes(arguments.reward, "max_tokens") else {}
    parameters = defaults | arguments.reward_parameters | {"shaping": arguments.reward_shaping}
    reward = get_length_reward(arguments.reward, thinking=base.thinking, **parameters)
    if config.per_device_train_batch_size * config.steps_per_generation % config.num_generations:
        raise BadInput(
            f"num_generations is {config.num_generations}, and one process does not hold whole groups of so many; "
            "make per_device_train_batch_size a multiple of it."
        )
    if len(rows) < (prompts := config.generation_batch_size // config.num_generations):
        raise BadInput(
            f"{arguments.data} has {len(rows)} rows, and a batch takes {prompts}; give more, or lower "
            "per_device_train_batch_size or steps_per_generation."
        )
    if config.temperature <= 0:
        raise BadInput(f"temperature is {config.temperature}; responses that are all alike teach nothing, give more.")
    kind = trainer_class(arguments.algorithm)
    if hasattr(kind, "check"):
        kind.check(reward)
    check_settings(reward, config, arguments.algorithm)
    check_rows(arguments.data, rows, numbers, arguments.reward, config.max_completion_length)
    rollouts = None
    if config.use_vllm:
        # TRL renders the prompts; the switch that a template knows has to say what it says in inference.
        config.chat_template_kwargs = template_kwargs(base.tokenizer) | (config.chat_template_kwargs or {})
    else:
        empty_share = getattr(config, "empty_share", 0.0)
        rollouts = EngineRollouts(base.thinking, config, config.torch_compile, empty_share)
    if arguments.dry_run:
        training.dry_run(base, rows, config, limit_tokens=config.max_completion_length)
        return
    check_vllm(config)
    trainer = kind(
        model=base.path,
        reward_funcs=reward,
        args=config,
        train_dataset=rows,
        processing_class=base.tokenizer,
        rollout_func=rollouts,
        callbacks=[RewardMemory([reward]), CollapseGuard(arguments.guard_steps, arguments.algorithm)],
    )
    training.finish(trainer, metadata, base.problems_with(rows))


def offline(arguments: LengthRewardArguments, config: OfflineConfig, base: Base) -> None:
    from efficient_reasoning import training
    from efficient_reasoning.training.objectives import build_trainer
    from efficient_reasoning.training.rows import distinct

    if arguments.reward_parameters or arguments.reward_shaping:
        raise BadInput("Rows for offline RL are paid already; give reward_parameters to `data offline_rewards`.")
    rows = training.load_turns(arguments.data, base.tokenizer)
    paid_by = distinct(rows, "paid_by")
    if paid_by != [arguments.reward]:
        raise BadInput(
            f"{arguments.data}: its rows are paid by {', '.join(paid_by) or 'nothing'}, not {arguments.reward}; write "
            "them with `efficient-reasoning data offline_rewards`."
        )
    if "reward" not in rows.column_names:
        raise BadInput(
            f"{arguments.data}: its rows have no 'reward'; write them with `efficient-reasoning data offline_rewards`."
        )
    metadata = base.metadata_of(rows, stage="rl", method=f"offline {arguments.reward}")
    template = base.training_template()
    if arguments.dry_run:
        training.dry_run(base, rows, config, config.max_length, True)
        return
    trainer = build_trainer("offline", base, rows, config, template, lora=None, new_tokens=[])
    training.finish(trainer, metadata, base.problems_with(rows))


if __name__ == "__main__":
    run(main)
