"""Watching a model think: `solve`, whose response can be read while it grows.

1. Engines decode whole requests. Between them and a strategy stands `PieceEngine`, which asks for a request in pieces,
   each the continuation of the one before. A response has one random number a position, so the pieces make up the
   tokens that `solve` gives for the same seed. (Engines with random numbers of their own, `vllm` and `openai`, draw
   others, as likely.)
2. `stream` runs `solve` in a thread that decodes one piece whenever the next state is asked for, and nothing in
   between: two streams that are read in turns share a device fairly, and one that is dropped stops.

Pieces cost prompts that are read again, which makes this the way to watch a model and not to measure one.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from efficient_reasoning.inference import Completion, Engine, Ledger, Reasoner, Request, Solution, solve

PIECE_TOKENS = 12


@dataclass(frozen=True)
class Growing:
    """A response so far; what a strategy tries out, such as a probe for the answer, is one too. Lengths in tokens.

    Attributes:
        thinking, answer: texts.
        is_thinking: the thinking goes on.
        thinking_tokens, answer_tokens, total_tokens, latent_tokens: as in `Solution`.
    """

    thinking: str
    answer: str
    is_thinking: bool
    thinking_tokens: int
    answer_tokens: int
    total_tokens: int
    latent_tokens: int = 0


class PieceEngine:
    """Decodes a request that comes alone in pieces, and passes others on.

    Args:
        engine: decodes.
        show: called before each piece with the request and its new ids so far; what it raises ends the decoding.
    """

    def __init__(self, engine: Engine, show: Callable[[Request, list[int]], object]):
        self.engine, self.show = engine, show
        self.capabilities = engine.capabilities

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        # A stop string may lie across two pieces, and nobody watches several samples at once.
        if len(requests) > 1 or any(request.n > 1 or request.stop_strings or request.logprobs for request in requests):
            self.show(requests[0], [])
            return self.engine.generate(requests)
        return [self._decode(request) for request in requests]

    def score(self, pairs, offsets=None):
        return self.engine.score(pairs, offsets)

    def _decode(self, request: Request) -> Completion:
        ids: list[int] = []
        spend, was_closed = Ledger(), False
        while True:
            self.show(request, ids)
            [piece] = self.engine.generate([_rest(request, ids)])
            ids = ids + piece.ids
            spend += piece.spend
            was_closed |= piece.was_closed
            if piece.finished or piece.stopped or len(ids) >= request.max_new_tokens:
                return Completion(ids, piece.finished, spend, piece.stopped, was_closed)


def _rest(request: Request, ids: list[int]) -> Request:
    """The next piece of a request of which these new ids are there."""
    piece_tokens, close = PIECE_TOKENS, request.forced_close
    if close is not None:
        left_tokens = close.after_tokens - len(ids)
        # A forced close is put in whole: no piece ends within it, for nobody could tell how far it had come.
        if left_tokens > 0:
            piece_tokens = min(piece_tokens, left_tokens)
        elif left_tokens == 0:
            piece_tokens = max(piece_tokens, len(close.thinking.empty()))
        close = dataclasses.replace(close, after_tokens=max(0, left_tokens))
    return dataclasses.replace(
        request,
        prompt_ids=[*request.prompt_ids, *ids],
        max_new_tokens=min(piece_tokens, request.max_new_tokens - len(ids)),
        offset=request.offset + len(ids),
        forbidden_first_ids=frozenset() if ids else request.forbidden_first_ids,
        forced_close=close,
    )


class _Dropped(Exception):
    """Nobody reads this stream any more."""


def stream(reasoner: Reasoner, question: str, **options) -> Iterator[Growing | Solution]:
    """Solve a question and yield what the response has come to, again and again, and last the solution.

    Args:
        reasoner: from `load_reasoner`; not to be used elsewhere meanwhile.
        question: its text.
        options: those of `solve`, which returns an equal solution but for what was spent on prompts.

    Raises:
        BadInput: as `solve`.
    """
    turn, states = threading.Semaphore(0), queue.SimpleQueue()
    is_dropped = threading.Event()

    def show(request: Request, ids: list[int]) -> None:
        states.put(_growing(reasoner, request, ids))
        turn.acquire()
        if is_dropped.is_set():
            raise _Dropped

    def work() -> None:
        watched = dataclasses.replace(reasoner, engine=PieceEngine(reasoner.engine, show))
        try:
            states.put(solve(watched, question, **options))
        except BaseException as error:  # of this thread: raised where the stream is read
            states.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            state = states.get()
            if isinstance(state, BaseException):
                raise state
            yield state
            if isinstance(state, Solution):
                return
            turn.release()
    finally:
        is_dropped.set()
        turn.release()
        worker.join()


def _growing(reasoner: Reasoner, request: Request, ids: list[int]) -> Growing:
    begin = len(request.prompt_ids) - request.offset
    prompt_ids, response = request.prompt_ids[:begin], [*request.prompt_ids[begin:], *ids]
    split, count = reasoner.thinking.split(response, prompt_ids), reasoner.thinking.count(response, prompt_ids)
    decode = reasoner.tokenizer.decode
    return Growing(
        decode(split.thinking_ids, skip_special_tokens=True),
        decode(split.answer_ids, skip_special_tokens=True),
        not split.closed,
        **dataclasses.asdict(count),
        latent_tokens=reasoner.latent_steps,
    )
