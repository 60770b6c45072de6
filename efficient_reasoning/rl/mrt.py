"""MRT (arXiv 2503.07572): pay every part of the thinking for the progress that it makes.

1. The value of a prefix is how often the policy is right when it has to answer there; here it is asked once, greedily,
   with the thinking closed by force. What a part adds to it is its progress: verbose thinking behind the solution, and
   detours, add nothing, while the group still pays them for the solution.
2. The paper samples many answers to one random prefix of an older response, and pays the one episode that follows.
   This is the form on policy that its authors published later (MRT-online): the thinking of each response is cut into
   `episodes` equal parts, and `progress_weight` times a part's progress is added to the advantages of its tokens.
3. Forced answers are short, and cost as many prompts as there are episodes; a prompt's own value is asked once.

    MRTTrainer(..., rollout_func=EngineRollouts(thinking, config))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import Request, Sampling
from efficient_reasoning.prompts import encode_prompt
from efficient_reasoning.rewards import get_length_reward
from efficient_reasoning.rl.config import LengthRewardConfig
from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer
from efficient_reasoning.thinking import ThinkingFormat


@dataclass
class MRTConfig(LengthRewardConfig):
    """LengthRewardConfig with what progress is worth."""

    episodes: int = field(default=4, metadata={"help": "Parts of the thinking whose progress is paid."})
    progress_weight: float = field(default=0.2, metadata={"help": "Of progress, beside an advantage."})
    forced_answer_tokens: int = field(default=32, metadata={"help": "Most tokens of an answer that is forced."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("episodes", "forced_answer_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.use_vllm:
            raise BadInput("Forced answers come from the engine; leave out use_vllm with mrt.")


class MRTTrainer(CorrectedGRPOTrainer):
    """CorrectedGRPOTrainer whose advantages, one a token, also pay progress.

    Logs `progress`, the mean over responses of what thinking adds: accuracy less that of an answer without any.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._accuracy = get_length_reward("accuracy", thinking=self.reward_funcs[0].thinking)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        thinking = self._accuracy.thinking
        prompts = [encode_prompt(thinking.tokenizer, row["prompt"]) for row in inputs]
        responses = [
            ids[mask].tolist()
            for ids, mask in zip(batch["completion_ids"], batch["completion_mask"].bool(), strict=True)
        ]
        cuts = [
            episode_cuts(thinking, ids, prompt, self.args.episodes)
            for ids, prompt in zip(responses, prompts, strict=True)
        ]
        values = self._values(inputs, prompts, responses, cuts)  # (B, episodes + 1)
        bonus = torch.zeros(batch["completion_ids"].shape)
        for row, (places, value) in enumerate(zip(cuts, values, strict=True)):
            for part, gained in enumerate(np.diff(value)):
                bonus[row, places[part] : places[part + 1]] = float(gained)
        advantages = batch["advantages"][:, None] + self.args.progress_weight * bonus.to(batch["advantages"].device)
        batch["advantages"] = advantages  # (B, T)
        progress = torch.tensor(values[:, -1] - values[:, 0], device=advantages.device)
        self._metrics["train"]["progress"].append(self.accelerator.gather(progress).mean().item())
        return batch

    def _values(self, inputs: list[dict], prompts: list, responses: list, cuts: list) -> np.ndarray:
        """Whether the policy is right when it answers at each cut, the last of which is the response's own end."""
        thinking = self._accuracy.thinking
        begun: dict[
            tuple[int, ...], tuple[int, list[int]]
        ] = {}  # of each prefix: a row that has it, and its completion
        for row, (prompt, ids, places) in enumerate(zip(prompts, responses, cuts, strict=True)):
            for place in places[:-1]:
                prefix = ids[:place]
                closed = [*prefix, *thinking.close(prefix, prompt)]
                begun.setdefault((*prompt, *closed), (row, closed))
        sampling = Sampling(temperature=0.0)
        requests = [Request(list(ids), self.args.forced_answer_tokens, sampling) for ids in begun]
        answers = self.rollout_func.generate(requests, self)
        completions = [[*closed, *one.ids] for (_, closed), one in zip(begun.values(), answers, strict=True)]
        rows = [row for row, _ in begun.values()]
        asked = [*rows, *range(len(inputs))]
        columns = {name: [inputs[row][name] for row in asked] for name in inputs[0] if name != "prompt"}
        groups = np.arange(len(asked))
        right, _ = self._accuracy.score([*completions, *responses], [prompts[row] for row in asked], groups, columns)
        of_prefix = dict(zip(begun, right, strict=False))
        values = np.zeros((len(inputs), self.args.episodes + 1))
        for row, (prompt, ids, places) in enumerate(zip(prompts, responses, cuts, strict=True)):
            for part, place in enumerate(places[:-1]):
                prefix = ids[:place]
                values[row, part] = of_prefix[(*prompt, *prefix, *thinking.close(prefix, prompt))]
            values[row, -1] = right[len(begun) + row]
        return values


def episode_cuts(thinking: ThinkingFormat, ids: Sequence[int], prompt_ids: Sequence[int], episodes: int) -> list[int]:
    """Where the parts of the thinking begin in a completion, and behind them where the last one ends.

    Returns:
        `episodes` + 1 positions, ascending; all the same where there is no thinking.
    """
    phases = thinking.phases(ids, prompt_ids)
    inside = [place for place in range(len(phases) - 1) if phases[place] == phases[place + 1] == "thinking"]
    if not inside:
        closed = [place for place, phase in enumerate(phases) if phase in ("closed", "answering")]
        return [closed[0] if closed else 0] * (episodes + 1)
    ends = [*inside, inside[-1] + 1]
    return [ends[round(part * len(inside) / episodes)] for part in range(episodes + 1)]
