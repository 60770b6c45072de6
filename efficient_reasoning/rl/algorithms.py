"""The algorithms by name: what their settings are, and who trains."""

from __future__ import annotations

from importlib import import_module

_ROOM = "efficient_reasoning.rl"
_ALGORITHMS = {
    "grpo": ("config:LengthRewardConfig", "rollout_correction:CorrectedGRPOTrainer"),
    "adaptthink": ("adaptthink:AdaptThinkConfig", "adaptthink:AdaptThinkTrainer"),
    "dler": ("dler:DLERConfig", "dler:DLERTrainer"),
    "mrt": ("mrt:MRTConfig", "mrt:MRTTrainer"),
    "ppo": ("ppo:PPOConfig", "ppo:PPOTrainer"),
    "rloo": ("rloo:RLOOConfig", "rloo:RLOOTrainer"),
    "offline": ("offline:OfflineConfig", "offline:OfflineTrainer"),
}
# Numeric columns that an algorithm reads, beside those of the reward.
COLUMNS = {"adaptthink": ("reference_accuracy",)}
CONFIGS = {name: f"{_ROOM}.{config}" for name, (config, _) in _ALGORITHMS.items()}


def trainer_class(algorithm: str) -> type:
    """The trainer of an algorithm, a key of `CONFIGS`."""
    module, _, name = _ALGORITHMS[algorithm][1].partition(":")
    return getattr(import_module(f"{_ROOM}.{module}"), name)
