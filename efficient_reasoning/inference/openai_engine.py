"""Decoding on any OpenAI-compatible server: token ids out, token ids back, and what the server says it did.

1. Prompts go to /completions as token ids, many at a time. A server has random numbers of its own: a request gets the
   same tokens again from the same server, but not those of another engine.
2. The ids of a completion come from the server (`return_token_ids`, vLLM 0.10.2 and later), or from tokens that it
   names by id beside their log-probabilities, or else from its text, which is taken only if it makes as many ids as
   the server counted.
3. What a request cost is what the server says (`usage`). A server that read another prompt than it was sent, drew a
   token that was forbidden or leaves something out is refused: a silent error would stand in the results.
4. A server that dies is asked again with growing pauses (`server`). What is on the disk by then stays there, and the
   same command goes on from it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.inference.engine import (
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
from efficient_reasoning.inference.ledger import Ledger
from efficient_reasoning.server import Refusal, ask, other_protocol, side_by_side

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TIMEOUT_SECONDS = 3600.0  # a reply comes when its last token is decoded
FORBIDDEN = -100.0  # the lowest bias that the protocol knows
_TOKEN_ID = "token_id:"
_IDS = "use a server that returns token ids, such as vLLM 0.10.2 or later"


class OpenAIEngine:
    """Decodes on a server.

    Args:
        base_url: up to and with "/v1".
        model: as the server calls it.
        tokenizer: the model's.
        eos_ids: token ids that end a completion.
        concurrency: most requests that are under way at a time.

    Attributes:
        capabilities: what the server was found to have when it was first asked.
        chunk_requests: most samples that should be asked for before what came back is written down.

    Raises:
        BadInput: the server does not answer, refuses, or does not read token ids.
    """

    chunk_requests = 128

    def __init__(
        self,
        base_url: str,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: frozenset[int],
        concurrency: int = 64,
    ):
        self.base_url = base_url
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids
        self.concurrency = concurrency
        self.names_ids, self.capabilities = self._explore()

    @classmethod
    def from_environment(cls, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]) -> OpenAIEngine:
        """The server and model that `server_from_environment` finds."""
        return cls(*server_from_environment("Backend openai"), tokenizer, eos_ids)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """As `Engine.generate`.

        Raises:
            BadInput: log-probabilities at a temperature other than 0 or 1, or a server that fails (see above).
        """
        check_logprobs(requests, "A server")
        # Without ids, each text has to match a count of its own; and vLLM refuses several samples of a greedy request.
        requests = [
            single
            for request in requests
            for single in (single_samples([request]) if self._alone(request) else [request])
        ]
        began = time.perf_counter()
        completions = decode_apart(self._decode, requests, self.tokenizer)
        _share_seconds([completion.spend for completion in completions], time.perf_counter() - began)
        return completions

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], offsets: Sequence[int] | None = None
    ) -> list[Score]:
        """As `Engine.score`, by letting the server echo the prompt with its log-probabilities."""
        began = time.perf_counter()
        scores = side_by_side(self._score, pairs, self.concurrency)
        _share_seconds([score.spend for score in scores], time.perf_counter() - began)
        return scores

    def _alone(self, request: Request) -> bool:
        return not self.names_ids or request.sampling.temperature == 0

    def _decode(self, requests: Sequence[Request]) -> list[Completion]:
        samples = side_by_side(self._complete, requests, self.concurrency)
        return [completion for completions in samples for completion in completions]

    def _complete(self, request: Request) -> list[Completion]:
        sampling = request.sampling
        bias = dict(request.logit_bias) | dict.fromkeys(request.forbidden_first_ids, FORBIDDEN)
        body = {
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_new_tokens,
            "n": request.n,
            "seed": own_seed(request),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            # Said aloud, because a server may take others from the model's generation config.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": sorted(self.eos_ids | request.stop_ids),
            "stop": list(request.stop_strings),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "return_token_ids": True,
        }
        if bias:
            body["logit_bias"] = {str(token): value for token, value in bias.items()}
        if request.logprobs or self.names_ids == "logprobs":
            body |= {"logprobs": 1, "return_tokens_as_token_ids": True}
        reply = self._ask(body)
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        if len(choices) != request.n:
            raise self._fault(f"gave {len(choices)} samples for {request.n}", _IDS)
        samples = [self._ids(choice) for choice in choices]
        decoded_tokens, hidden = reply["usage"]["completion_tokens"], sum(map(_has_stopped, choices))
        # A server may keep the token that ended a sample to itself.
        if not 0 <= decoded_tokens - sum(map(len, samples)) <= hidden:
            raise self._fault(
                f"decoded {decoded_tokens} tokens, but {self.tokenizer.name_or_path or 'this tokenizer'} makes "
                f"{sum(map(len, samples))} of what came back",
                _IDS,
            )
        completions = [self._read(request, choice, ids) for choice, ids in zip(choices, samples, strict=True)]
        self._charge(completions, request, reply["usage"])
        return completions

    def _read(self, request: Request, choice: dict, ids: list[int]) -> Completion:
        """A sample, not charged yet."""
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") if request.logprobs else None
        ends, why = self.eos_ids | request.stop_ids, choice.get("stop_reason", choice.get("matched_stop"))
        length = stop_place(self.tokenizer, ids, request.stop_strings)
        spelled = length is not None or isinstance(why, str)
        if length is not None:
            ids, logprobs = ids[:length], logprobs and logprobs[:length]
        elif _has_stopped(choice) and not spelled and not (ids and ids[-1] in ends):
            if request.stop_strings and "stop_reason" not in choice and why is None:
                raise self._fault("does not say whether a stop string or the end token ended it", _IDS)
            ids = [*ids, why if why in ends else self._eos_id]
        if not ids:
            raise self._fault("gave a sample without a token", _IDS)
        if ids[0] in request.forbidden_first_ids:
            raise self._fault(
                "does not keep to logit_bias", "use a server that does, such as vLLM without a draft model"
            )
        if request.logprobs and (logprobs is None or len(logprobs) != len(ids)):
            raise self._fault("leaves log-probabilities out", "use a server that gives them, such as vLLM")
        finished = not spelled and ids[-1] in self.eos_ids
        stopped = not finished and (spelled or ids[-1] in request.stop_ids)
        return Completion(ids, finished, Ledger(), stopped, logprobs=logprobs)

    def _ids(self, choice: dict) -> list[int]:
        if choice.get("token_ids") is not None:
            return list(choice["token_ids"])
        named = _named_ids(choice)
        return named if named is not None else self.tokenizer.encode(choice["text"], add_special_tokens=False)

    def _charge(self, completions: Sequence[Completion], request: Request, usage: dict) -> None:
        """Each sample pays what it decoded, the first one what there was but once: the prompt, as far as it was not
        kept from before, tokens behind a stop string, and the work of a draft model.
        """
        prompt_tokens = len(request.prompt_ids)
        for completion in completions:
            completion.spend.requests = 1
            completion.spend.prompt_tokens = prompt_tokens
            completion.spend.decoded_tokens = len(completion.ids)
        first = completions[0].spend
        first.decoded_tokens += max(0, usage["completion_tokens"] - sum(len(one.ids) for one in completions))
        first.computed_prompt_tokens = prompt_tokens - (_details(usage, "prompt").get("cached_tokens") or 0)
        drafted = _details(usage, "completion")
        first.draft_tokens = sum(drafted.get(f"{fate}_prediction_tokens") or 0 for fate in ("accepted", "rejected"))

    def _score(self, pair: tuple[Sequence[int], Sequence[int]]) -> Score:
        prefix, ids = pair
        reply = self._ask({"prompt": [*prefix, *ids], "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0})
        values = ((reply["choices"][0].get("logprobs") or {}).get("token_logprobs") or [])[len(prefix) :]
        values = values[: len(ids)]
        if len(values) != len(ids):
            raise self._fault("does not rate a prompt", "use backend transformers or graph")
        usage = reply["usage"]
        prompt_tokens = len(prefix) + len(ids)
        return Score(values, Ledger(1, prompt_tokens, prompt_tokens, usage["completion_tokens"]))

    def _ask(self, body: dict) -> dict:
        """A reply that has choices, and whose server has read what it was sent."""
        reply = _ask(self.base_url, "/completions", {"model": self.model} | body, f"Model {self.model}")
        try:
            read_tokens = reply["usage"]["prompt_tokens"]
            complete = reply["choices"] and reply["usage"]["completion_tokens"] is not None
        except (LookupError, TypeError):
            complete = False
        if not complete:
            raise other_protocol(self.base_url)
        if read_tokens != len(body["prompt"]):
            raise self._fault(
                f"read {read_tokens} tokens where {len(body['prompt'])} were sent",
                "use a server that takes prompts as token ids, such as vLLM, SGLang or llama.cpp",
            )
        return reply

    def _explore(self) -> tuple[str | None, frozenset[str]]:
        """How the server names token ids ("token_ids", "logprobs" or not at all), and what else it can do."""
        wanted = {"max_tokens": 1, "temperature": 0, "return_token_ids": True, "return_tokens_as_token_ids": True}
        body = wanted | {"prompt": 2 * [self._eos_id], "logprobs": 1}
        capabilities = {LOGIT_BIAS}
        try:
            reply = self._ask(body)
        except Refusal:
            reply = self._ask(body | {"logprobs": None})
        choice = reply["choices"][0]
        names_ids = "token_ids" if choice.get("token_ids") is not None else None
        if (choice.get("logprobs") or {}).get("token_logprobs"):
            capabilities.add(LOGPROBS)
            names_ids = names_ids or (_named_ids(choice) and "logprobs")
        with contextlib.suppress(Refusal):
            self._score((2 * [self._eos_id], [self._eos_id]))
            capabilities.add(SCORE)
        return names_ids, frozenset(capabilities)

    @property
    def _eos_id(self) -> int:
        """The end token that a server means which does not say by which one it ended."""
        return self.tokenizer.eos_token_id if self.tokenizer.eos_token_id in self.eos_ids else min(self.eos_ids)

    def _fault(self, what: str, remedy: str) -> BadInput:
        return Refusal(f"Model {self.model} at {self.base_url} {what}; {remedy}.")


def server_from_environment(who: str, model: str | None = None) -> tuple[str, str]:
    """The server at OPENAI_BASE_URL, and the model that is named, here or in OPENAI_MODEL, or its only one.

    Args:
        who: needs it, for messages.
        model: as the server calls it.

    Raises:
        BadInput: no server is named, several models are and none is chosen, or the server does not answer.
    """
    base_url = os.environ.get("OPENAI_BASE_URL", "")
    if not base_url.startswith(("http://", "https://")):
        raise BadInput(f"{who} has no server at {base_url!r}; set OPENAI_BASE_URL to http(s)://.../v1.")
    model = model or os.environ.get("OPENAI_MODEL")
    if not model:
        reply = _ask(base_url, "/models", None, "The server")
        try:
            served = [entry["id"] for entry in reply["data"]]
        except (LookupError, TypeError):
            raise other_protocol(base_url) from None
        if len(served) != 1:
            raise BadInput(f"{base_url} serves {', '.join(served) or 'no model'}; set OPENAI_MODEL to one of them.")
        [model] = served
    return base_url, model


def _ask(base_url: str, path: str, body: dict | None, name: str) -> dict:
    remedy = "start the server, and the same command resumes"
    return ask(base_url, path, body, name=name, remedy=remedy, timeout_seconds=TIMEOUT_SECONDS)


def _named_ids(choice: dict) -> list[int] | None:
    """The ids in "token_id:17", which some servers write in place of a token's text."""
    tokens = (choice.get("logprobs") or {}).get("tokens")
    if tokens is None or not all(token.startswith(_TOKEN_ID) for token in tokens):
        return None
    return [int(token.removeprefix(_TOKEN_ID)) for token in tokens]


def _has_stopped(choice: dict) -> bool:
    """Ended by a token or text, not by the limit."""
    return choice["finish_reason"] == "stop"


def _details(usage: dict, kind: str) -> dict:
    return usage.get(f"{kind}_tokens_details") or {}


def _share_seconds(spends: Sequence[Ledger], seconds: float) -> None:
    """Share a batch's time out by executed tokens."""
    executed = sum(spend.prompt_tokens + spend.decoded_tokens for spend in spends)
    for spend in spends:
        spend.seconds += seconds * (spend.prompt_tokens + spend.decoded_tokens) / executed
