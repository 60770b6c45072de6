"""Plain `generate` of transformers, with the toolkit's own draws: the reference that faster engines are held against.

It decodes whatever architecture transformers can. `generate` stays greedy: a logits processor draws the token, from
the request's own random numbers, and leaves no other. So speculative decoding, too, gives the very tokens that the
model gives alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import (
    HIDDEN,
    LOGIT_BIAS,
    LOGPROBS,
    SCORE,
    Completion,
    Request,
    single_samples,
    stop_place,
)
from efficient_reasoning.inference.flops import DecodingFlops
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.inference.memory import peak_bytes
from efficient_reasoning.inference.model_engine import ModelEngine
from efficient_reasoning.inference.sampling import SamplingTable, sampling_groups, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

# Legend: B rows of a batch, P longest prompt, V vocabulary.


class TransformersEngine(ModelEngine):
    """Decodes with a transformers causal language model, on whatever device it is.

    Args:
        model: in eval mode.
        eos_ids: token ids that end a completion.
        pad_id: fills the left of shorter prompts, and what follows an end; never attended to.
        tokenizer: spells completions, for requests with stop strings.
        draft: a smaller model of the same vocabulary that proposes tokens; requests are then decoded one by one.
        batch_size: rows decoded together.

    Attributes:
        spent: the sum of what all completions and scores have been charged.

    Raises:
        BadInput: a draft for, or of, a model whose layers keep states.
    """

    capabilities = frozenset({LOGPROBS, LOGIT_BIAS, SCORE, HIDDEN})

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: frozenset[int],
        pad_id: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        draft: PreTrainedModel | None = None,
        batch_size: int = 64,
    ):
        super().__init__(model, eos_ids, pad_id, tokenizer)
        for each in (model, draft) if draft else ():
            if each._is_stateful:
                raise BadInput(f"A state of {each.config.model_type} takes back no token of a draft; leave out draft.")
        self.draft = draft
        self.batch_size = 1 if draft else batch_size

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        requests = single_samples(requests)
        if any(request.forced_close for request in requests):
            raise BadInput("`generate` closes nothing by force; use `TwoPassEngine`.")
        completions: dict[int, Completion] = {}
        for candidates, group in sampling_groups(requests):
            order = sorted(group, key=lambda index: len(requests[index].prompt_ids))
            for start in range(0, len(order), self.batch_size):
                indices = order[start : start + self.batch_size]
                batch = [requests[index] for index in indices]
                completions.update(zip(indices, self._decode(batch, candidates), strict=True))
        self.spent = sum((one.spend for one in completions.values()), self.spent)
        return [completions[index] for index in range(len(requests))]

    def _decode(self, requests: list[Request], candidates: int | None) -> list[Completion]:
        began = time.perf_counter()
        device = self.model.device
        longest = max(len(request.prompt_ids) for request in requests)
        input_ids = torch.full((len(requests), longest), self.pad_id)  # (B, P)
        mask = torch.zeros(len(requests), longest, dtype=torch.long)  # (B, P)
        for row, request in enumerate(requests):
            input_ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, longest - len(request.prompt_ids) :] = 1
        draws = _Draws(requests, candidates, longest, device)
        settings = {
            "attention_mask": mask.to(device),
            "max_new_tokens": max(request.max_new_tokens for request in requests),
            "do_sample": False,
            "eos_token_id": sorted(self.eos_ids),
            "pad_token_id": self.pad_id,
            "logits_processor": [draws],
            "stopping_criteria": [_Ends(requests, longest, self.tokenizer)],
        }
        drafted = None
        with _neutral(self.model), _Iterations(self.model) as taken:
            if self.draft is None:
                output = self.model.generate(input_ids.to(device), **settings)
            else:
                with _Work(self.model) as verified, _Work(self.draft) as drafted:
                    output = self.model.generate(input_ids.to(device), assistant_model=self.draft, **settings)
        rows = [
            tail[: _length(request, tail, self.eos_ids, self.tokenizer)]
            for request, tail in zip(requests, output[:, longest:].tolist(), strict=True)
        ]
        executed = sum(len(request.prompt_ids) for request in requests) + sum(map(len, rows))
        seconds_per_token = (time.perf_counter() - began) / executed
        completions = []
        for row, (request, ids) in enumerate(zip(requests, rows, strict=True)):
            prompt_tokens = len(request.prompt_ids)
            iterations = taken.of(row, len(ids))
            flops = self.flops.of_prompt(prompt_tokens, prompt_tokens)
            flops += self.flops.of_new(prompt_tokens, len(ids), iterations)
            spend = Ledger(
                requests=1,
                prompt_tokens=prompt_tokens,
                computed_prompt_tokens=prompt_tokens,
                decoded_tokens=len(ids),
                masked_tokens=draws.masked[row],
                core_iterations=sum(iterations),
                flops=flops,
                seconds=seconds_per_token * (prompt_tokens + len(ids)),
                peak_memory_bytes=peak_bytes(device),
            )
            if drafted is not None:
                # What the model reads of a draft and does not take is work, too.
                spend.draft_tokens, spend.flops = drafted.calls, verified.flops + drafted.flops
            finished = ids[-1] in self.eos_ids
            stopped = not finished and _stops(request, ids, self.tokenizer)
            logprobs = draws.logprobs[row][: len(ids)] if request.logprobs else None
            completions.append(Completion(ids, finished, spend, stopped, logprobs=logprobs, iterations=iterations))
        return completions


@contextmanager
def _neutral(model: PreTrainedModel) -> Iterator[None]:
    """The model without generation settings of its own, such as a repetition penalty, which requests do not have."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _Draws(LogitsProcessor):
    """Draws the next token of each row, and leaves no other to choose from.

    Args:
        requests: B, one a row.
        candidates: of `SamplingTable.draw`.
        prompt_tokens: P, padding included.
        device: of the model.

    Attributes:
        logprobs: (B, new tokens) as lists.
        masked: of each row, whether its best first token was forbidden.
    """

    def __init__(self, requests: Sequence[Request], candidates: int | None, prompt_tokens: int, device: torch.device):
        steps = max(request.max_new_tokens for request in requests)
        self.requests, self.candidates, self.prompt_tokens = requests, candidates, prompt_tokens
        self.table = SamplingTable.of(requests, device)
        self.uniform = uniforms(requests, steps).to(device)
        self.logprobs: list[list[float]] = [[] for _ in requests]
        self.masked = [0] * len(requests)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_tokens
        allowed = scores.float().clone()
        for row, request in enumerate(self.requests):
            for token, bias in request.logit_bias.items():
                allowed[row, token] += bias
            if step == 0 and request.forbidden_first_ids:
                self.masked[row] = int(allowed[row].argmax().item() in request.forbidden_first_ids)
                allowed[row, list(request.forbidden_first_ids)] = -torch.inf
        tokens = self.table.draw(allowed, self.uniform[:, step], self.candidates)  # (B,)
        if any(request.logprobs for request in self.requests):
            for logprobs, value in zip(self.logprobs, self.table.logprobs(scores, tokens).tolist(), strict=True):
                logprobs[step:] = [value]  # a draft may have been here before
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class _Work:
    """Counts the calls of a model, and their floating-point operations, while it is entered."""

    def __init__(self, model: PreTrainedModel):
        self.model, self.costs = model, DecodingFlops.of(model)
        self.calls, self.flops = 0, 0.0

    def __enter__(self) -> _Work:
        self.hook = self.model.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def _count(self, module: torch.nn.Module, arguments: tuple, inputs: dict) -> None:
        tokens, cached = inputs["input_ids"].shape[1], inputs["past_key_values"].get_seq_length()
        self.calls += 1
        self.flops += self.costs.of_score(0, cached + tokens) - self.costs.of_score(0, cached)


class _Iterations:
    """Listens, while it is entered, to how many iterations a model of recurrent depth takes for each token."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.steps: list[list[int]] = []  # (new tokens, B)

    def __enter__(self) -> _Iterations:
        self.hook = self.model.register_forward_hook(self._listen)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def _listen(self, module: torch.nn.Module, arguments: tuple, output: ModelOutput) -> None:
        taken = output.get("iterations")
        if taken is not None:
            self.steps.append(taken.tolist())

    def of(self, row: int, tokens: int) -> list[int]:
        """Of a row's first tokens; empty for models without."""
        return [step[row] for step in self.steps[:tokens]]


class _Ends(StoppingCriteria):
    """Rows that have come to their own limit, stop id or stop string."""

    def __init__(self, requests: Sequence[Request], prompt_tokens: int, tokenizer: PreTrainedTokenizerBase | None):
        self.requests, self.prompt_tokens, self.tokenizer = requests, prompt_tokens, tokenizer

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs) -> torch.Tensor:
        ended = [
            len(ids) >= request.max_new_tokens or _stops(request, ids, self.tokenizer)
            for request, ids in zip(self.requests, input_ids[:, self.prompt_tokens :].tolist(), strict=True)
        ]
        return torch.tensor(ended, device=input_ids.device)


def _stops(request: Request, ids: list[int], tokenizer: PreTrainedTokenizerBase | None) -> bool:
    if not request.stop_ids.isdisjoint(ids):  # a draft brings several tokens at once
        return True
    return stop_place(tokenizer, ids, request.stop_strings) is not None


def _length(
    request: Request, tail: list[int], eos_ids: frozenset[int], tokenizer: PreTrainedTokenizerBase | None
) -> int:
    """How many of the ids are a row's own: up to its end, stop or limit."""
    ends = eos_ids | request.stop_ids
    length = next((place + 1 for place, token in enumerate(tail) if token in ends), len(tail))
    length = min(length, request.max_new_tokens)
    return stop_place(tokenizer, tail[:length], request.stop_strings) or length
