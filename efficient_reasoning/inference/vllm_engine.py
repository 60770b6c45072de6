"""Decoding with vLLM in our own processes: one replica a GPU, all of them draining one queue.

1. vLLM is imported where it is used, and only there: it is an extra. Its random numbers are its own, so a request gets
   the same tokens again from vLLM, but not those of another engine.
2. Thinking is closed, and first tokens are forbidden, by our own logits processor (`vllm_processor`) inside the loop.
   vLLM's `thinking_token_budget` counts the tokens of a block, where a budget counts those of a response, and lets a
   response end without an answer. Each response is read again afterwards (`guard.replay`): a version of vLLM that
   passes over the processor is refused, not believed. How often a token was masked is not known (0 on the ledger).
3. Under speculative decoding vLLM takes no processors: then closes come in two passes (`two_pass`), first tokens are
   forbidden in requests of their own (`first_token`), and what the draft proposed is on the ledger.
4. Log-probabilities are the model's own, before temperature, so they can be asked for at temperature 0 or 1 only.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import (
    IN_LOOP,
    LOGIT_BIAS,
    LOGPROBS,
    SCORE,
    Completion,
    Request,
    Score,
    check_logprobs,
    own_seed,
    single_samples,
    stop_place,
)
from efficient_reasoning.inference.first_token import decode_apart
from efficient_reasoning.inference.guard import PROCESSOR, Guard, Rules, replay
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.thinking import ThinkingFormat

SLICE = 64  # requests that a replica takes from the queue at a time
_DRAFTED = "vllm:spec_decode_num_draft_tokens"


class VllmEngine:
    """Decodes with vLLM.

    Args:
        model: folder or Hub id.
        thinking: its delimiters.
        dtype: "float32", "bfloat16", ...; None takes the checkpoint's own.
        replicas: processes with a GPU each; None takes one a GPU. One replica runs in this process.
        options: further arguments of `vllm.LLM`, such as `speculative_config`.

    Raises:
        BadInput: vLLM is not installed.
    """

    def __init__(
        self,
        model: str,
        thinking: ThinkingFormat,
        dtype: str | None = None,
        replicas: int | None = None,
        **options,
    ):
        if importlib.util.find_spec("vllm") is None:
            raise BadInput("Backend vllm needs vLLM; install it with `pip install 'efficient-reasoning[vllm]'`.")
        self.thinking = thinking
        self.drafts = options.get("speculative_config") is not None
        self.in_loop = not self.drafts and thinking.has_single_ids
        self.capabilities = frozenset({LOGPROBS, SCORE})
        self.capabilities |= frozenset() if self.drafts else {LOGIT_BIAS}
        self.capabilities |= {IN_LOOP} if self.in_loop else frozenset()
        processors = [PROCESSOR] if self.in_loop else None
        options = {
            "model": model,
            "dtype": dtype or "auto",
            "enable_prefix_caching": True,
            "generation_config": "vllm",  # none of the model's own sampling settings
            "logits_processors": processors,
            "disable_log_stats": False,  # drafted tokens are counted there
            **options,
        }
        if replicas is None:
            import torch

            replicas = max(1, torch.cuda.device_count())
        self._run = _Replicas(options, replicas) if replicas > 1 else _Replica(options).run_all

    @staticmethod
    def can_decode(config) -> bool:
        """Whether vLLM is installed and has this architecture of its own, not as code that rides in the folder."""
        if importlib.util.find_spec("vllm") is None or getattr(config, "auto_map", None):
            return False
        from vllm import ModelRegistry

        return not {*(config.architectures or ())}.isdisjoint(ModelRegistry.get_supported_archs())

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        if not requests:
            return []
        """As `Engine.generate`.

        Raises:
            BadInput: log-probabilities at a temperature other than 0 or 1, a replica that dies, or a vLLM that does
                not do what it was asked.
        """
        check_logprobs(requests, "vLLM")
        # vLLM refuses several samples of one greedy request.
        requests = [
            single
            for request in requests
            for single in (single_samples([request]) if request.sampling.temperature == 0 else [request])
        ]
        return (
            self._decode(requests) if self.in_loop else decode_apart(self._decode, requests, self.thinking.tokenizer)
        )

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        """As `Engine.score`; vLLM decodes one token with it, which is charged."""
        settings = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
        began = time.perf_counter()
        outputs, _ = self._run([([*prefix, *ids], settings) for prefix, ids in pairs])
        spends = [Ledger(1, len(output.prompt_logprobs), output.computed_tokens, 1) for output in outputs]
        _share(spends, time.perf_counter() - began, 0)
        return [
            Score(output.prompt_logprobs[len(prefix) :], spend)
            for (prefix, _), output, spend in zip(pairs, outputs, spends, strict=True)
        ]

    def _decode(self, requests: Sequence[Request]) -> list[Completion]:
        began = time.perf_counter()
        outputs, draft_tokens = self._run(
            [(list(request.prompt_ids), self._settings(request)) for request in requests]
        )
        completions = [
            self._read(request, output, sample)
            for request, output in zip(requests, outputs, strict=True)
            for sample in range(request.n)
        ]
        _share([completion.spend for completion in completions], time.perf_counter() - began, draft_tokens)
        return completions

    def _settings(self, request: Request) -> dict:
        """The arguments of `SamplingParams`."""
        sampling, close = request.sampling, request.forced_close
        rules = {}
        if close is not None:
            rules |= {"close_after_tokens": close.after_tokens, "response_tokens": request.offset}
        settings = {
            "n": request.n,
            "seed": own_seed(request),
            "temperature": float(sampling.temperature),
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "max_tokens": request.max_new_tokens,
            "stop_token_ids": sorted(self.thinking.eos_ids | request.stop_ids),
            "stop": list(request.stop_strings),
            "include_stop_str_in_output": True,
            "detokenize": bool(request.stop_strings),
            "skip_special_tokens": False,
            "logprobs": 0 if request.logprobs else None,
        }
        if request.logit_bias:
            settings["logit_bias"] = dict(request.logit_bias)
        if request.forbidden_first_ids and self.in_loop:
            rules["forbidden_first_ids"] = sorted(request.forbidden_first_ids)
        elif request.forbidden_first_ids:  # in a request for one token
            allowed = set(range(len(self.thinking.tokenizer))) - request.forbidden_first_ids
            settings["allowed_token_ids"] = sorted(allowed)
        return settings | ({"extra_args": rules} if rules else {})

    def _read(self, request: Request, output: _Output, sample: int) -> Completion:
        ids, logprobs = output.ids[sample], output.logprobs[sample]
        length = stop_place(self.thinking.tokenizer, ids, request.stop_strings)
        decoded_tokens = len(ids)
        if length is not None:
            ids, logprobs = ids[:length], logprobs and logprobs[:length]
        spend = Ledger(1, len(request.prompt_ids), 0 if sample else output.computed_tokens, decoded_tokens)
        forced = self._forced(request, ids)
        if forced:
            logprobs = logprobs and [0.0 if place in forced else value for place, value in enumerate(logprobs)]
            spend.forced_tokens, spend.decoded_tokens = len(forced), decoded_tokens - len(forced)
        finished = length is None and ids[-1] in self.thinking.eos_ids
        stopped = not finished and (length is not None or ids[-1] in request.stop_ids)
        return Completion(ids, finished, spend, stopped, bool(forced), logprobs)

    def _forced(self, request: Request, ids: list[int]) -> list[int]:
        """The places of forced tokens, after a look at whether the rules were kept."""
        rules = Rules.read(self._settings(request).get("extra_args"))
        if rules is None:
            return []
        guard = Guard(rules, self.thinking, request.prompt_ids)
        broken = replay(guard, ids)
        if broken is not None:
            text = self.thinking.tokenizer.decode(ids[broken : broken + 1])
            raise BadInput(
                f"vLLM {_version()} let a response break its budget (its token {broken} is {text!r}); use backend "
                "transformers, or openai with `vllm serve`."
            )
        return guard.forced


# ---- where vLLM runs ----

Job = tuple[list[int], Mapping]  # prompt ids, arguments of SamplingParams


@dataclass
class _Output:
    """What vLLM made of a job: the samples, and how much of the prompt was not kept from before."""

    ids: list[list[int]]
    logprobs: list[list[float] | None]
    computed_tokens: int
    prompt_logprobs: list[float]


class _Replica:
    """A model in this process."""

    def __init__(self, options: dict):
        from vllm import LLM

        self.llm = LLM(**options)
        self.drafts = options.get("speculative_config") is not None

    def run_all(self, jobs: Sequence[Job]) -> tuple[list[_Output], int]:
        """The outputs, and how many tokens were drafted for them."""
        from vllm import SamplingParams

        drafted = self._drafted_tokens()
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids, _ in jobs],
            [SamplingParams(**settings) for _, settings in jobs],
            use_tqdm=False,
        )
        return [_output(output) for output in outputs], self._drafted_tokens() - drafted

    def _drafted_tokens(self) -> int:
        if not self.drafts:
            return 0
        return sum(metric.value for metric in self.llm.get_metrics() if metric.name == _DRAFTED)


def _output(output) -> _Output:
    samples = sorted(output.outputs, key=lambda sample: sample.index)
    prompt = output.prompt_token_ids
    return _Output(
        ids=[list(sample.token_ids) for sample in samples],
        logprobs=[sample.logprobs and _chosen(sample.token_ids, sample.logprobs) for sample in samples],
        computed_tokens=len(prompt) - (output.num_cached_tokens or 0),
        prompt_logprobs=_chosen(prompt, output.prompt_logprobs) if output.prompt_logprobs else [],
    )


def _chosen(ids: Sequence[int], logprobs: Sequence[Mapping | None]) -> list[float]:
    """The log-probability of each id; nothing is known of a prompt's first one, which counts as 0."""
    return [0.0 if at is None else at[token].logprob for token, at in zip(ids, logprobs, strict=True)]


class _Replicas:
    """Processes with a GPU each, which take slices of the jobs from one queue."""

    def __init__(self, options: dict, count: int):
        from multiprocessing import get_context

        context = get_context("spawn")
        devices = context.SimpleQueue()
        for device in _devices(count):
            devices.put(device)
        self.pool = ProcessPoolExecutor(count, context, _start, (devices, options))

    def __call__(self, jobs: Sequence[Job]) -> tuple[list[_Output], int]:
        slices = [jobs[start : start + SLICE] for start in range(0, len(jobs), SLICE)]
        try:
            done = list(self.pool.map(_run, slices))
        except BrokenProcessPool:
            raise BadInput("A vLLM replica has died; see its messages above, and the same command resumes.") from None
        return list(chain.from_iterable(outputs for outputs, _ in done)), sum(drafted for _, drafted in done)


def _devices(count: int) -> list[str]:
    """Names of the GPUs, of those that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(device) for device in range(count)]


_replica: _Replica | None = None  # of this process


def _start(devices, options: dict) -> None:
    global _replica
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    _replica = _Replica(options)


def _run(jobs: Sequence[Job]) -> tuple[list[_Output], int]:
    return _replica.run_all(jobs)


# ---- the bill ----


def _share(spends: Sequence[Ledger], seconds: float, draft_tokens: int) -> None:
    """Share a batch's time and drafts out by executed tokens; the first one pays what does not divide."""
    executed = sum(spend.prompt_tokens + spend.tokens for spend in spends)
    drafts_left = draft_tokens
    for spend in spends:
        share = (spend.prompt_tokens + spend.tokens) / executed
        spend.seconds = seconds * share
        spend.draft_tokens = int(draft_tokens * share)
        drafts_left -= spend.draft_tokens
    spends[0].draft_tokens += drafts_left


def _version() -> str:
    import vllm

    return vllm.__version__
