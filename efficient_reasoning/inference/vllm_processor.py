"""The plug-in for vLLM: a logits processor that keeps a thinking budget inside the decoding loop.

    vllm serve MODEL --logits-processors efficient_reasoning.inference.vllm_processor:ThinkingProcessor

1. Each request says what it wants (`guard.Rules`) in `vllm_xargs`, or offline in `SamplingParams.extra_args`. Requests
   that say nothing are left alone.
2. vLLM may run a step ahead of the tokens it has: they are read when logits come, not when the batch changes.
3. How often thinking was closed by force goes to the server's log, so that a budget which nobody keeps is seen there.

Imports vLLM, which nothing else in the library does at the top of a module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

from efficient_reasoning.checkpoint import load_tokenizer, thinking_format
from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.guard import Guard, Rules

LOG_EVERY = 100  # requests whose budget was looked after


class ThinkingProcessor(LogitsProcessor):
    """Keeps the rules of each request of the batch.

    Args:
        vllm_config: names the model, whose folder knows its delimiters.
        device, is_pin_memory: of the logits.

    Attributes:
        closed: how many requests had their thinking closed by force.
        guarded: how many had rules.
    """

    def __init__(self, vllm_config, device: torch.device, is_pin_memory: bool):
        model = vllm_config.model_config.model
        self.thinking = thinking_format(model, load_tokenizer(model))
        if not self.thinking.has_single_ids:
            raise BadInput(f"{model}: its think delimiters are several tokens each; serve it without this processor.")
        _ = self.thinking.blank_ids  # found once, before the first request waits for it
        self.rows: dict[int, tuple[Guard, Sequence[int]]] = {}  # the guard and the growing list of new tokens
        self.closed = self.guarded = 0

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        """Refuse a request whose rules cannot be read."""
        Rules.read(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update) -> None:
        """Follow the batch: requests leave, come and move, in this order."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._leave(self.rows.pop(row, None))
        for row, params, prompt_ids, new_ids in batch_update.added:
            self._leave(self.rows.pop(row, None))
            rules = Rules.read(params.extra_args)
            if rules is not None and prompt_ids is not None:
                self.rows[row] = Guard(rules, self.thinking, prompt_ids), new_ids
        for source, target, direction in batch_update.moved:
            ours, theirs = self.rows.pop(source, None), self.rows.pop(target, None)
            if ours is not None:
                self.rows[target] = ours
            if direction.name == "SWAP" and theirs is not None:
                self.rows[source] = theirs

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next tokens, changed in place."""
        places: list[tuple[int, int]] = []
        values: list[float] = []
        forced: list[tuple[int, int]] = []
        for row, (guard, new_ids) in self.rows.items():
            for token in new_ids[guard.count :]:
                guard.read(token)
            token = guard.forces()
            if token is not None:
                forced.append((row, token))
                continue
            for bias in (guard.bias(), dict.fromkeys(guard.forbids(), -torch.inf)):
                places += [(row, token) for token in bias]
                values += bias.values()
        if places:
            at = torch.tensor(places, device=logits.device).unbind(1)
            logits.index_put_(at, torch.tensor(values, dtype=logits.dtype, device=logits.device), accumulate=True)
        if forced:
            rows, tokens = torch.tensor(forced, device=logits.device).unbind(1)
            logits[rows] = -torch.inf
            logits[rows, tokens] = 0.0
        return logits

    def _leave(self, row: tuple[Guard, Sequence[int]] | None) -> None:
        if row is None:
            return
        guard, _ = row
        self.guarded += 1
        self.closed += bool(guard.forced)
        if self.guarded % LOG_EVERY == 0:
            from vllm.logger import init_logger

            logger = init_logger(f"vllm.{__name__}")  # vLLM shows what is logged under its own name
            logger.info("Thinking was closed by force in %d of %d guarded requests.", self.closed, self.guarded)
