"""A reasoner as a model of the lm-evaluation-harness (extra `harness`): its tasks, our engine and strategy.

    python -m efficient_reasoning.evaluation.harness run --model efficient-reasoning \\
        --model_args path=overthinker,strategy=budget-forcing,budget_tokens=64 --tasks TASK [flags of lm_eval]

1. The harness has no door for models of other packages, so this program registers ours, and the rest is `lm_eval`.
2. `generate_until` solves: a context is a question, rendered as in training (leave `--apply_chat_template` out), and
   what is graded is the text after the thinking; a response that never came to it is empty. Stops cut this text. They
   end no thought, and a task's `max_gen_toks`, which is meant for models that do not think, gives way to
   `budget_tokens` and `max_new_tokens`.
3. `loglikelihood` scores plain text, as the harness's own models do: no chat template, no thinking.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from efficient_reasoning import inference
from efficient_reasoning.errors import BadInput, near, run
from efficient_reasoning.inference.engine import SCORE, Request, Sampling
from efficient_reasoning.traces import CHUNK_REQUESTS, sample_seed

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from efficient_reasoning.inference import Solution

NAME = "efficient-reasoning"
_MAX_GEN_TOKENS = 256  # of tasks that do not say, as in the harness


def register() -> type:
    """Make `--model efficient-reasoning` known to the harness in this process, and return the model's class.

    Raises:
        BadInput: the harness is not installed.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import model_registry, register_model
    except ImportError as error:
        raise BadInput(f"lm-eval is missing ({error}): pip install 'efficient-reasoning[harness]'.") from None
    if NAME in model_registry:
        return model_registry.get(NAME)
    return register_model(NAME)(type("HarnessModel", (HarnessModel, LM), {}))


class HarnessModel:
    """The methods that the harness asks for; `register` adds its base class.

    Args:
        path: folder, Hub id, or "overthinker".
        strategy, budget_tokens: how every question is solved; without a budget a chain has `max_new_tokens`.
        max_new_tokens: by default what the task says.
        temperature, top_p, top_k: by default what the task says, and what it leaves open is as in `Sampling`; tasks
            mostly want temperature 0, under which reasoning models loop.
        seed: from which the seed of every sample follows.
        return_thinking: grade the whole response, thinking and delimiters included.
        backend: as in `load_reasoner`.
        batch_size, max_batch_size, device: of no meaning here: the engine fills its own batches, on a GPU if there is
            one; the harness says cuda where there is none.
    """

    def __init__(
        self,
        path: str = "",
        strategy: str = "budget-forcing",
        budget_tokens: int | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int = 0,
        return_thinking: bool = False,
        backend: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: object,
    ):
        super().__init__()
        numbers = {"budget_tokens": budget_tokens, "max_new_tokens": max_new_tokens, "top_k": top_k, "seed": seed}
        known = inspect.signature(HarnessModel).parameters.keys() - {"unknown"}
        for name in unknown:
            raise BadInput(f"--model_args has no {name!r}{near(name, known)}")
        for name, value in numbers.items():
            if value is not None and type(value) is not int:
                raise BadInput(f"--model_args: {name} is {value!r}; give a whole number.")
        if not path:
            raise BadInput("--model_args names no model; give path=FOLDER, a Hub id, or overthinker.")
        self.reasoner = inference.load_reasoner(path, backend)
        self.strategy, self.budget_tokens, self.max_new_tokens = strategy, budget_tokens, max_new_tokens
        self.sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        self.seed, self.return_thinking = seed, return_thinking

    # ---- solving ----

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The graded text of each request."""
        from tqdm import tqdm

        groups: dict[tuple, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(self._settings(request.args[1]), []).append(index)
        seeds, texts, tokens = self._seeds(requests), [""] * len(requests), 0
        with tqdm(total=len(requests), unit="problem", disable=disable_tqdm) as bar:
            for settings, indices in groups.items():
                for start in range(0, len(indices), CHUNK_REQUESTS):
                    chunk = indices[start : start + CHUNK_REQUESTS]
                    solutions = inference.solve_many(
                        self.reasoner,
                        [requests[index].args[0] for index in chunk],
                        self.strategy,
                        self.budget_tokens,
                        seeds=[seeds[index] for index in chunk],
                        progress=bar.update,
                        **dict(settings),
                    )
                    for index, solution in zip(chunk, solutions, strict=True):
                        texts[index] = self._graded(solution, requests[index].args[1].get("until") or ())
                        tokens += solution.total_tokens + solution.latent_tokens
                        self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])
        if requests and not disable_tqdm:
            print(f"{len(requests):,} responses of {tokens / len(requests):,.1f} total tokens.", file=sys.stderr)
        return texts

    def _settings(self, wanted: dict) -> tuple:
        """What `solve_many` is told, from the model's arguments, the task's, and our defaults, in this order."""
        of_task = {key: wanted[key] for key in self.sampling if wanted.get(key) is not None}
        if not wanted.get("do_sample", True):
            of_task["temperature"] = 0.0
        of_model = {key: value for key, value in self.sampling.items() if value is not None}
        limit = self.max_new_tokens or wanted.get("max_gen_toks") or _MAX_GEN_TOKENS
        return tuple(({"max_new_tokens": limit} | of_task | of_model).items())

    def _seeds(self, requests: Sequence[Instance]) -> list[int]:
        """One a request; a question that is asked again gets another one."""
        asked: Counter[str] = Counter()
        seeds = []
        for request in requests:
            question = request.args[0]
            seeds.append(sample_seed(self.seed, question, asked[question]))
            asked[question] += 1
        return seeds

    def _graded(self, solution: Solution, until: str | Sequence[str]) -> str:
        answer = solution.answer
        for stop in [until] if isinstance(until, str) else until:
            answer = answer.partition(stop)[0] if stop else answer
        return self.reasoner.thinking.write(solution.thinking, answer) if self.return_thinking else answer

    # ---- scoring ----

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation behind its context, and whether greedy decoding would write it."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        scores = self._score(pairs)
        greedy = self._are_greedy(pairs, scores)
        results = [(sum(logprobs), is_greedy) for logprobs, is_greedy in zip(scores, greedy, strict=True)]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows as long as the model reads."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        window_tokens = (self.reasoner.context_tokens or 2048) - 1  # a window predicts one token beyond itself
        results = []
        for request in requests:
            ids = self._encode(request.args[0], special=False)
            windows = get_rolling_token_windows(ids, self._first_id(), window_tokens, context_len=1)
            results.append(sum(map(sum, self._score([make_disjoint_window(window) for window in windows]))))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, results[-1])
        return results

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """Log-probabilities of the second of each pair; none of an empty one."""
        if SCORE not in self.reasoner.engine.capabilities:
            raise BadInput(f"Backend {self.reasoner.backend} cannot score text; use graph or transformers.")
        full = [pair for pair in pairs if pair[1]]
        scores = iter(self.reasoner.engine.score(full) if full else [])
        return [next(scores).logprobs if ids else [] for _, ids in pairs]

    def _are_greedy(
        self, pairs: Sequence[tuple[list[int], list[int]]], scores: Sequence[Sequence[float]]
    ) -> list[bool]:
        """Decodes only what the scores leave open: a token with more than half of the probability is the first."""
        half = -0.6931  # of log(1/2), a little more
        open_ones = [index for index, logprobs in enumerate(scores) if min(logprobs, default=0.0) <= half]
        requests = [Request(pairs[i][0], len(pairs[i][1]), Sampling(temperature=0)) for i in open_ones]
        greedy = [True] * len(pairs)
        for index, completion in zip(
            open_ones, self.reasoner.engine.generate(requests) if requests else [], strict=True
        ):
            greedy[index] = completion.ids == pairs[index][1]
        return greedy

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, split where those of the context end; spaces between them belong to the continuation."""
        stripped = context.rstrip()
        if not stripped:
            prefix, ids = [self._first_id()], self._encode(context + continuation, special=False)
        else:
            prefix = self._encode(stripped)
            ids = self._encode(context + continuation)[len(prefix) :]
        if self.reasoner.context_tokens is not None:  # what does not fit falls off on the left
            ids = ids[1 - self.reasoner.context_tokens :]
            prefix = prefix[-(self.reasoner.context_tokens - len(ids)) :]
        return prefix, ids

    def _encode(self, text: str, special: bool = True) -> list[int]:
        return self.reasoner.tokenizer(text, add_special_tokens=special)["input_ids"]

    def _first_id(self) -> int:
        """Stands before a text that has nothing before it."""
        bos = self.reasoner.tokenizer.bos_token_id
        return min(self.reasoner.thinking.eos_ids) if bos is None else bos

    # ---- what the harness asks about chat templates ----

    @property
    def tokenizer_name(self) -> str:
        return self.reasoner.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise BadInput("Prompts are rendered as in training; leave --apply_chat_template out.")


def main() -> None:
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    run(main)
