"""Rollout correction: GRPO on tokens that another program drew than the one that is trained.

1. The engine decodes with a copy in bf16 and kernels of its own, the trainer computes under autocast: what was drawn
   from one policy would pass for samples of another. Tokens, or responses, are weighted by their probability under the
   trainer over that under the engine: importance sampling, truncated or masked (https://fengyao.notion.site/off-policy-rl).
2. The weights, their clipping and their metrics (`sampling/...`) are TRL's own code, which it runs for vLLM alone: it
   asks `use_vllm`. Here the answer is yes where only that depends on it, in scoring and in the loss; not in
   generation, where TRL would send weights to a server.
3. So the settings are TRL's as well: `vllm_importance_sampling_correction`, `_mode`, `_clip_min` and `_clip_max` mean
   for these rollouts what they mean for vLLM.
4. It costs a forward pass without gradients over every batch of completions, which TRL otherwise spares where a batch
   serves one update. Where engine and trainer compute alike (a CPU without autocast) all weights are 1: turn it off.

    CorrectedGRPOTrainer(..., rollout_func=EngineRollouts(thinking, config))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl import GRPOTrainer


class CorrectedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that corrects the rollouts of a `rollout_func` as those of vLLM.

    Logs, beside TRL's metrics, the divergence of the policy that drew from the one that is trained, in nats a token,
    from the tokens that were drawn: `sampling/kl` is the mean of log(p_drew / p_trained), unbiased but noisy, and
    `sampling/kl_k3` the mean of r - 1 - log r with r = p_trained / p_drew, which is never negative
    (http://joschu.net/blog/kl-approx.html).
    """

    def _generate(self, prompts: list) -> tuple:
        generated = super()._generate(prompts)
        self.use_vllm = True  # for the rest of `_generate_and_score_completions`, which calls this
        return generated

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        with self._restoring_use_vllm():
            batch = super()._generate_and_score_completions(inputs)
        if self.vllm_importance_sampling_correction:
            self._log_divergence(batch)
        return batch

    def _compute_loss(self, model: torch.nn.Module, inputs: dict) -> torch.Tensor:
        with self._restoring_use_vllm():
            self.use_vllm = True
            return super()._compute_loss(model, inputs)

    @contextmanager
    def _restoring_use_vllm(self) -> Iterator[None]:
        before = self.use_vllm
        try:
            yield
        finally:
            self.use_vllm = before

    def _log_divergence(self, batch: dict) -> None:
        log_ratio = batch["old_per_token_logps"] - batch["sampling_per_token_logps"]  # (B, T)
        counted = batch["completion_mask"].bool() & ~log_ratio.isnan()  # vLLM may leave a token without a number
        log_ratio = log_ratio[counted]
        sums = torch.stack([-log_ratio.sum(), (log_ratio.expm1() - log_ratio).sum(), counted.sum()])
        kl, k3, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["sampling/kl"].append(kl / max(tokens, 1))
        metrics["sampling/kl_k3"].append(k3 / max(tokens, 1))
