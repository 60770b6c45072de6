"""The interface between strategies and whatever runs the model: requests in, completions out.

1. A request owns its randomness and its sampling settings: what it gets does not depend on which other requests share
   its batch, so evaluations can be cut, resumed and reordered.
2. A response has one random number a position. Who continues it names the position (`offset`), and draws what one
   uncut request would have drawn.
3. Engines differ in what they can do; each says so (`capabilities`), and `solve` checks before it starts.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

# What some engines cannot do. All can stop at ids and strings, and forbid first tokens.
LOGPROBS, LOGIT_BIAS, SCORE, IN_LOOP = "logprobs", "logit_bias", "score", "in_loop"
HIDDEN = "hidden_states"


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are those of reasoning models, which loop under greedy decoding.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus; applied after top_k, as in transformers.
        top_k: 0 keeps the whole vocabulary.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise BadInput(f"temperature is {self.temperature}; it must be 0 (greedy) or a greater number.")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}; it must lie in (0, 1].")
        if self.top_k < 0:
            raise BadInput(f"top_k is {self.top_k}; it must be 0 (off) or more.")


@dataclass(frozen=True)
class ForcedClose:
    """Close the thinking when a request has come to so many tokens, and let nothing end without an answer.

    The end token is forbidden until a token of the answer has been decoded, and so is white space behind a close
    beyond what the format writes there (`ThinkingFormat.blank_allowance`). Behind the last close there are no more
    delimiters. Forced tokens count in `max_new_tokens`.

    Attributes:
        after_tokens: new tokens after which thinking that is not over is closed; `max_new_tokens` only guards the end.
        thinking: the model's delimiters.
    """

    after_tokens: int
    thinking: ThinkingFormat


@dataclass(frozen=True)
class Request:
    """A continuation to decode, `n` times.

    Attributes:
        prompt_ids: everything the model has read so far, forced tokens and an earlier completion included.
        max_new_tokens: at least 1.
        sampling: how tokens are drawn.
        seed: of the first sample; the next ones have the next numbers.
        offset: position in the response at which this request begins.
        n: samples.
        stop_ids: drawn tokens that end the completion, beside EOS; they stay in it.
        stop_strings: texts that end it once they are spelled; the token that completes one stays.
        logprobs: whether the completion brings log-probabilities.
        logit_bias: added to logits, by token id. Needs LOGIT_BIAS.
        forbidden_first_ids: tokens that the first new one must not be.
        forced_close: a bound on the thinking. Engines without IN_LOOP get such requests in parts (`two_pass`).
        engine: another model's, which is to decode it; None for that of whoever is asked.
        asked_about: somebody asks about the completion, so that what was read of it is held though it ends.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    offset: int = 0
    n: int = 1
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    logprobs: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    forbidden_first_ids: frozenset[int] = frozenset()
    forced_close: ForcedClose | None = None
    engine: Engine | None = None
    asked_about: bool = False


@dataclass(frozen=True)
class Completion:
    """What an engine decoded.

    Attributes:
        ids: decoded and forced token ids, EOS included.
        finished: ended by EOS.
        spend: what this request cost.
        stopped: ended by a stop id or string.
        was_closed: the thinking was closed by force.
        logprobs: of each id under the model at the request's temperature (1 for greedy), nothing cut off by top_p or
            top_k, and 0 for forced ids; None where they were not asked for.
        iterations: behind each decoded id, of a model of recurrent depth; empty for others.
    """

    ids: list[int]
    finished: bool
    spend: Ledger
    stopped: bool = False
    was_closed: bool = False
    logprobs: list[float] | None = None
    iterations: Sequence[int] = ()

    @property
    def mean_probability(self) -> float:
        """Geometric mean over the decoded tokens, where log-probabilities were asked for; forced ones say nothing."""
        return math.exp(sum(self.logprobs) / max(1, len(self.ids) - self.spend.forced_tokens))


@dataclass(frozen=True)
class Score:
    """Log-probabilities, at temperature 1, of a given continuation's tokens."""

    logprobs: list[float]
    spend: Ledger


@dataclass(frozen=True)
class Hidden:
    """The last hidden state behind a prompt, (D,) fp32 on the CPU."""

    state: torch.Tensor
    spend: Ledger


class Engine(Protocol):
    """Anything that decodes batches of requests.

    Attributes:
        capabilities: those of LOGPROBS, LOGIT_BIAS, SCORE, HIDDEN and IN_LOOP that it has.
    """

    capabilities: frozenset[str]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Decode all requests: the samples of the first, then those of the second, and so on."""
        ...

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        """Rate continuations: (prefix ids, continuation ids), neither of them empty. Needs SCORE.

        Args:
            pairs: to be read.
            offsets: position in the response at which each continuation begins, as of a request; 0 by default. It says
                whose prompt a prefix begins with, to engines that hold what a run reads.
        """
        ...

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Hidden]:
        """What the model made of prompts. Needs HIDDEN."""
        ...


@dataclass(frozen=True)
class Rating:
    """What is to be read and judged instead of continued.

    Attributes:
        ids: prompt and response, from the beginning on.
        begin: how many stand before the first that is judged; at least 1.
        rater: reads them.
        offset: position in the response of the first that is judged; what stands before the response is its prompt.
    """

    n: ClassVar[int] = 1  # nothing is drawn

    ids: Sequence[int]
    begin: int
    rater: Rater
    offset: int = 0


@dataclass(frozen=True)
class Rated:
    """What a rater says of the ids from `begin` on, in its own words, and what that cost."""

    values: list[float]
    spend: Ledger


class Rater(Protocol):
    """Anything that judges batches of ids: a verifier, a probe, another model's likelihood."""

    def rate(self, ratings: Sequence[Rating]) -> list[Rated]:
        """One answer each, charged as `prompt_tokens` and `rated_tokens`."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """Rates ids by their log-probabilities, at temperature 1, under a model; `values` has one for each.

    Args:
        engine: with SCORE.
    """

    engine: Engine

    def keeping(self) -> AbstractContextManager:
        return keeping(self.engine)

    def rate(self, ratings: Sequence[Rating]) -> list[Rated]:
        pairs = [(rating.ids[: rating.begin], rating.ids[rating.begin :]) for rating in ratings]
        scores = self.engine.score(pairs, [rating.offset for rating in ratings])
        return [
            Rated(score.logprobs, dataclasses.replace(score.spend, rated_tokens=len(rating.ids)))
            for rating, score in zip(ratings, scores, strict=True)
        ]


def keeping(reads: Engine | Rater) -> AbstractContextManager:
    """A run of an engine or a rater, which may hold what it reads until the run is over (`prefixes`)."""
    return reads.keeping() if hasattr(reads, "keeping") else nullcontext()


def single_samples(requests: Sequence[Request]) -> list[Request]:
    """The requests with each of their samples as a request of its own."""
    return [
        request if request.n == 1 else dataclasses.replace(request, n=1, seed=request.seed + sample)
        for request in requests
        for sample in range(request.n)
    ]


def shared(ids: np.ndarray, others: np.ndarray) -> int:
    """How many ids two sequences begin with in common."""
    length = min(len(ids), len(others))
    differs = ids[:length] != others[:length]
    return int(differs.argmax()) if differs.any() else length


def own_seed(request: Request) -> int:
    """A seed for engines with random numbers of their own.

    The position is part of it, so that a continuation does not repeat the luck of the beginning.
    """
    return (request.seed + request.offset * 2_654_435_761) % 2**31


def check_logprobs(requests: Sequence[Request], engine: str) -> None:
    """Refuse what engines cannot give whose log-probabilities know no temperature.

    Raises:
        BadInput: log-probabilities at a temperature other than 0 or 1.
    """
    if any(request.logprobs and request.sampling.temperature not in (0, 1) for request in requests):
        raise BadInput(
            f"{engine} gives log-probabilities at temperature 1 only; set temperature to 0 or 1, or use backend "
            "transformers or graph."
        )


def stop_place(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop_strings: Sequence[str]) -> int | None:
    """How many of the ids it takes to spell one of the strings; None where they spell none of them."""

    def spells(count: int) -> bool:
        text = tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(string in text for string in stop_strings)

    if not stop_strings or not spells(len(ids)):
        return None
    return bisect_left(range(len(ids)), True, key=spells)
