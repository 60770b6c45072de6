"""Length rewards for verl, as the reward manager that it loads from this file.

    python -m verl.trainer.main_ppo ... reward_model.use_reward_loop=False reward_manager.source=importlib \\
        reward_manager.module.path=pkg://efficient_reasoning.rewards.verl reward_manager.name=LengthRewardManager \\
        +reward_model.reward_kwargs.reward=kimi +reward_model.reward_kwargs.weight=0.5

1. verl hands a reward *function* decoded text, without ids and groups. A reward *manager* gets the batch itself: ids,
   masks and a `uid` for each prompt. So lengths are exact, EOS tells who was cut off, and groups are those of verl.
2. `load_reward_manager` (verl/trainer/ppo/reward.py) makes it in one of two ways. In verl 0.7.0, with
   `reward_model.use_reward_loop=False`, it is `cls(tokenizer=, num_examine=, compute_score=, reward_fn_key=,
   **reward_kwargs)`; the trainer's process calls `manager(data, return_dict=True)` with whole batches. A reward with a
   memory remembers them, but not with `launch_reward_fn_async`, which makes a manager for each, nor over a restart.
3. From verl 0.7.1 on it is `cls(config=, tokenizer=, compute_score=, reward_router_address=,
   reward_model_tokenizer=)`; several processes call `await manager.run_single(data)`, with one response each. That
   leaves the rewards that need no other response, `ALONE`; any other is refused.
4. Nothing of verl is imported. The signatures are those of its tags v0.7.0, v0.7.1, v0.8.0 and v0.9.0, and of its
   main branch at commit 1dda039 (0.10.0.dev).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from efficient_reasoning.errors import BadInput
from efficient_reasoning.rewards import Rollouts, get_length_reward

if TYPE_CHECKING:
    import torch

ALONE = ("accuracy", "cosine", "lcpo_exact", "lcpo_max", "o1_pruner", "thinkprune")
_UNUSED = ("compute_score", "num_examine", "reward_fn_key", "reward_router_address", "reward_model_tokenizer")


class LengthRewardManager:
    """A length reward as verl's reward manager, of whole batches or of one response.

    The columns of a formula (`task`, `budget_tokens`, `reference_tokens`, ...) are read from `extra_info`, the answer
    from `reward_model.ground_truth`: what verl's own data calls `answer` in `extra_info` is a worked solution.

    Args:
        tokenizer: of the model that is trained.
        config: verl's, from 0.7.1 on; the settings are those of its `reward.reward_kwargs` then.
        settings: `reward`, one of `FORMULAS`; its parameters, `count` and `shaping`; `task`, the verifier of rows
            whose `extra_info` names none; `model`, whose folder or Hub id knows the delimiters and what ends a
            response, by default where the tokenizer comes from. What else verl hands over is not used.

    Raises:
        BadInput: no reward, an unknown one, a wrong parameter, or a reward that cannot score a response alone where
            verl asks for that.
    """

    def __init__(self, *, tokenizer: Any, config: Any = None, **settings):
        from efficient_reasoning.checkpoint import resolve_model, thinking_format

        if config is not None:
            settings = config.reward.get("reward_kwargs") or {}
        settings = {key: value for key, value in _plain(settings).items() if key not in _UNUSED}
        name, self.task = settings.pop("reward", None), settings.pop("task", None)
        model = resolve_model(settings.pop("model", None) or tokenizer.name_or_path)
        if name is None:
            raise BadInput("verl's reward_kwargs name no reward; add one, such as reward_kwargs.reward=kimi.")
        self.reward = get_length_reward(name, thinking=thinking_format(model, tokenizer), **settings)
        self.scores_alone = name in ALONE and self.reward.shaping.is_plain
        if config is not None:
            self._check_size(1)

    def __call__(self, data: Any, return_dict: bool = False) -> torch.Tensor | dict[str, Any]:
        """Rewards of a batch, in any order.

        Args:
            data: verl's `DataProto` of B responses. `batch` has `prompts` (B, P), `responses` (B, T) and
                `attention_mask` (B, P + T), padded on either side; `non_tensor_batch` has `reward_model`, and may have
                `extra_info` and `uid` (without it, the same prompt is a group).
            return_dict: whether to tell more than the rewards.

        Returns:
            (B, T) zeros with the reward at the last token of each response; or that as `reward_tensor`, beside
            `reward_extra_info` with lists of `acc` (1 or 0) and `tokens`.
        """
        import torch

        rewards, told = self._score(data)
        responses = data.batch["responses"]
        reward_tensor = torch.zeros_like(responses, dtype=torch.float32)  # (B, T)
        for row, (place, reward) in enumerate(zip(_last_tokens(data), rewards, strict=True)):
            reward_tensor[row, place] = reward
        return {"reward_tensor": reward_tensor, "reward_extra_info": told} if return_dict else reward_tensor

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of one response.

        It is computed at once, in the loop of the process: a tokenizer is not made for several threads.

        Args:
            data: as in a call, with B = 1.

        Returns:
            `reward_score`, and `reward_extra_info` with `acc` and `tokens`.
        """
        if len(data) != 1:
            raise BadInput(
                f"A length reward scores one response, and verl's agent loop gave {len(data)} outputs of a rollout; "
                "take the single-turn agent loop."
            )
        [reward], told = self._score(data)
        return {"reward_score": reward, "reward_extra_info": {name: value for name, [value] in told.items()}}

    def _score(self, data: Any) -> tuple[list[float], dict[str, list[float]]]:
        self._check_size(len(data))
        prompts, responses = _ids(data)
        names = data.non_tensor_batch.get("uid")
        numbers: dict[object, int] = {}
        names = list(map(tuple, prompts)) if names is None else list(names)
        groups = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        order = np.argsort(groups, kind="stable")  # verl balances batches, which scatters groups
        rewards, rollouts = self.reward.score(
            [responses[row] for row in order],
            [prompts[row] for row in order],
            groups[order],
            _columns([self._row(data.non_tensor_batch, row) for row in order]),
        )
        back = np.argsort(order)
        return rewards[back].tolist(), _told(rollouts, back)

    def _row(self, rows: Mapping[str, Sequence], index: int) -> dict[str, object]:
        """The columns of one response."""
        extra = _plain(rows["extra_info"][index] or {}) if "extra_info" in rows else {}
        answer = (rows["reward_model"][index] or {}).get("ground_truth") if "reward_model" in rows else None
        row = extra | {
            "answer": extra.get("answer") if answer is None else _plain(answer),
            "task": self.task if extra.get("task") is None else extra["task"],
        }
        if row["answer"] is None:
            raise BadInput("A row of verl's has no answer; put it in its reward_model.ground_truth.")
        if row["task"] is None:
            raise BadInput("A row of verl's has no task; put it in its extra_info, or set reward_kwargs.task.")
        return row

    def _check_size(self, count: int) -> None:
        """Whether the reward is right for so many responses."""
        if count == 1 and not self.scores_alone:
            raise BadInput(
                f"Reward {self.reward.__name__!r}, with its shaping, needs whole batches, and this verl scores each "
                f"response alone; take verl 0.7.0 with reward_model.use_reward_loop=False, or one of "
                f"{', '.join(ALONE)} without shaping."
            )


def _ids(data: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses without their padding."""
    batch = data.batch
    parts = batch["attention_mask"].bool().split([batch[name].shape[-1] for name in ("prompts", "responses")], dim=-1)
    prompts, responses = (
        [ids[mask].tolist() for ids, mask in zip(batch[name], masks, strict=True)]
        for name, masks in zip(("prompts", "responses"), parts, strict=True)
    )
    return prompts, responses


def _last_tokens(data: Any) -> list[int]:
    """Where each response ends, 0 where it is empty."""
    masks = data.batch["attention_mask"][:, data.batch["prompts"].shape[-1] :]  # (B, T)
    return [int(mask.nonzero().max()) if mask.any() else 0 for mask in masks]


def _columns(rows: Sequence[Mapping[str, object]]) -> dict[str, list]:
    """What any of the rows has, None where a row has it not."""
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _told(rollouts: Rollouts, back: np.ndarray) -> dict[str, list[float]]:
    """What verl logs beside the reward; `acc` is the name of what its validation reports first."""
    return {"acc": rollouts.correct[back].tolist(), "tokens": rollouts.lengths[back].tolist()}


def _plain(value: Any) -> Any:
    """Dicts and numbers of Python in place of OmegaConf's and NumPy's."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value
