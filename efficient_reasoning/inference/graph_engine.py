"""Decoding with fixed shapes: a step is captured in a CUDA graph once, and rows are refilled from the queue.

1. `Loop` holds the rows and the step; one that was captured serves again wherever it covers what requests ask for.
2. A prompt is prefilled once for all of its samples.
3. What a run has read of a response is held for whoever goes on with it (`prefixes`).
4. Requests own their random numbers: which row or batch one gets into does not change its tokens.

Greedy tokens equal `model.generate`, which a test holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference import step_attention
from efficient_reasoning.inference.decoding_loop import Decoded, Loop
from efficient_reasoning.inference.engine import (
    HIDDEN,
    IN_LOOP,
    LOGIT_BIAS,
    LOGPROBS,
    SCORE,
    Completion,
    Request,
    Score,
    single_samples,
)
from efficient_reasoning.inference.joint_projections import join_projections
from efficient_reasoning.inference.memory import peak_bytes, rows_that_fit
from efficient_reasoning.inference.model_engine import ModelEngine
from efficient_reasoning.inference.prefill import up_to
from efficient_reasoning.inference.prefixes import Keeping
from efficient_reasoning.inference.reading import Passage, Reader
from efficient_reasoning.inference.rows import Step
from efficient_reasoning.inference.sampling import sampling_groups
from efficient_reasoning.inference.scoring import logprobs_of
from efficient_reasoning.linear.configuration_linearized import LinearizedConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from efficient_reasoning.latent.decoding import Latents

_TOKENS_APART = 64  # lengths of prompts and completions are rounded up, so that loops serve again
_COLUMNS_APART = 256  # between two moves of the cache


class GraphEngine(Keeping, ModelEngine):
    """Decodes with a causal language model whose layers attend to all or a window of the past, or are linearized.

    Args:
        model: in eval mode; its attention implementation is replaced.
        eos_ids: token ids that end a completion.
        pad_id: fills the left of shorter prompts; never attended to.
        tokenizer: spells completions, for requests with stop strings.
        rows: R, decoded together; fewer where their caches would fill more than half of the free memory.
        stride: on CUDA, steps between two looks at what has finished.
        compile_step: on CUDA, let torch.compile fuse the step and the pass over prompts, which takes a minute once.
        latents: how prompts hold latents; None where none does. They are charged as part of the prompt: who asks knows
            whose they are (`strategy.charge_latents`).

    Attributes:
        spent: the sum of what all completions and scores have been charged.
        prefixes: what the run that is under way has read; None between runs.

    Raises:
        BadInput: the model does not hand on to its attention what a step tells it.
    """

    capabilities = frozenset({LOGPROBS, LOGIT_BIAS, SCORE, HIDDEN, IN_LOOP})

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: frozenset[int],
        pad_id: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        rows: int = 512,
        stride: int = 4,
        compile_step: bool = False,
        latents: Latents | None = None,
    ):
        step_attention.use_slots(model)
        super().__init__(model, eos_ids, pad_id, tokenizer)
        if model.device.type == "cuda":
            join_projections(model)
        self.rows = rows
        self.stride = stride
        self.compile_step = compile_step
        self.latents = latents
        self._loops: dict[int | None, Loop] = {}  # by the candidates of their draws

    @staticmethod
    def can_decode(config: PretrainedConfig, with_latents: bool = False) -> bool:
        """Whether all layers keep keys and values, and attend to them without more ado, or are linearized.

        Prompts with latents are read in passes that only the former know.
        """
        if config.model_type == LinearizedConfig.model_type:
            return not with_latents
        text = config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        softcap = getattr(text, "attn_logit_softcapping", None)
        plain = kinds <= {"full_attention", "sliding_attention"} and softcap is None and config.model_type != "gpt_oss"
        model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        return plain and model is not None and model._supports_attention_backend and not model._is_stateful

    def holds(self, ids: Sequence[int], prompt_tokens: int) -> bool:
        """Whether ids may be held: in a run, and without latents behind the problem's prompt, which begins them."""
        if self.prefixes is None:
            return False
        columns = range(0) if self.latents is None else self.latents.columns(ids)
        return not columns or columns.stop <= prompt_tokens

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        if self.prefixes is None or self.latents is not None:
            return super().score(pairs)
        passages = [
            Passage([*prefix, *ids], len(prefix), len(prefix) - offset)
            for (prefix, ids), offset in zip(pairs, offsets or [0] * len(pairs), strict=True)
        ]
        reader = Reader(self.model, self.pad_id, self.eos_ids, self.flops, self.prefixes)
        scores = [Score(*read) for read in reader.read(passages, logprobs_of, before=1)]
        self.spent = sum((one.spend for one in scores), self.spent)
        return scores

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        requests = single_samples(requests)
        if any(request.forced_close and not request.forced_close.thinking.has_single_ids for request in requests):
            raise BadInput("Delimiters of several tokens are closed in two passes; use `TwoPassEngine`.")
        completions: dict[int, Completion] = {}
        for candidates, group in sampling_groups(requests):
            # Requests of one prompt stand together, so that its keys and values need not be kept for long.
            order = sorted(group, key=lambda index: (len(requests[index].prompt_ids), requests[index].prompt_ids))
            batch = [requests[index] for index in order]
            loop = self._loop_for(batch, candidates)
            began = time.perf_counter()
            decoded = loop.run(batch)
            executed = sum(row.spend.computed_prompt_tokens + len(row.ids) for row in decoded)
            seconds_per_token = (time.perf_counter() - began) / executed
            peak = peak_bytes(self.model.device)  # once: asking a CUDA device takes long
            for index, row in zip(order, decoded, strict=True):
                completions[index] = self._completion(requests[index], row, seconds_per_token, peak)
                self.spent += completions[index].spend
        return [completions[index] for index in range(len(requests))]

    def _completion(self, request: Request, row: Decoded, seconds_per_token: float, peak: int) -> Completion:
        spend, ids = row.spend, row.ids
        computed = spend.computed_prompt_tokens
        spend.decoded_tokens = len(ids) - spend.forced_tokens
        spend.seconds = seconds_per_token * (computed + len(ids))
        spend.flops = self.flops.of_prompt(len(request.prompt_ids), computed)
        spend.flops += self.flops.of_new(len(request.prompt_ids), len(ids))
        spend.peak_memory_bytes = peak
        finished = ids[-1] in self.eos_ids
        return Completion(
            ids,
            finished,
            spend,
            stopped=not finished and (row.spells_stop or row.ends_with_stop_id(request)),
            was_closed=spend.forced_tokens > 0,
            logprobs=row.logprobs if request.logprobs else None,
        )

    def _loop_for(self, requests: Sequence[Request], candidates: int | None) -> Loop:
        """The loop of last time where it fits, which spares capturing another."""
        rows = min(self.rows, 1 << (len(requests) - 1).bit_length())
        step = Step.of(requests, candidates)
        prompt_tokens = up_to(_TOKENS_APART, max(len(request.prompt_ids) for request in requests))
        new_tokens = up_to(_TOKENS_APART, max(request.max_new_tokens for request in requests))
        loop = self._loops.pop(candidates, None)
        if loop is None or not loop.fits(step, rows, prompt_tokens, new_tokens):
            if loop is not None:
                loop.close()  # before the next one takes its memory
            columns = prompt_tokens + new_tokens + 3 * self.stride + _COLUMNS_APART
            of_column, of_row = self.cache_bytes
            held = min(rows, rows_that_fit(of_column * columns + of_row, self.model.device))
            loop = Loop(self, step, rows, held, columns, prompt_tokens, new_tokens)
        self._loops[candidates] = loop
        return loop
