"""Pair a long and a short chain of each problem under two conditions; inference asks for the short one.

1. C3oT (arXiv 2412.11664): trained on both, each behind a condition, a model keeps what it learnt from the long chains
   when it is asked for the short ones: `--strategy "control?text=<|short|>"`.
2. The long chain is, of a problem's correct traces, the one of median length: under `long_control` the model goes on
   as it was. Where the short one comes from is `shortener`:

       server   a model behind OPENAI_BASE_URL (OPENAI_MODEL, OPENAI_API_KEY), as in the paper
       engine   `shortener_model`, or the model itself, decoded here: a chat model
       given    the trace brings it, as `metadata.short_chain`
       traces   the problem's shortest correct trace: no model is asked, which suits small models

3. A chain that somebody rewrote has to say what the long one said (`compression/faithful.py`): no number invented,
   none lost that the answer comes from, no other answer. The answer itself stays as it was. A problem whose short
   chain fails, or is not shorter, is left out with both.

    efficient-reasoning data c3ot --config configs/data/c3ot_overthinker.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from efficient_reasoning.compression import CompressionArguments, by_problem, compress
from efficient_reasoning.compression.chains import question_text, training_row, usable_traces, whole_row
from efficient_reasoning.compression.faithful import unfaithful
from efficient_reasoning.compression.shortener import CONCURRENCY, Shortened, by_engine, by_server
from efficient_reasoning.compression.tokenizer import load_thinking, same_tokenizer
from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run

if TYPE_CHECKING:
    from efficient_reasoning.inference import Reasoner
    from efficient_reasoning.thinking import ThinkingFormat

Kind = Literal["server", "engine", "given", "traces"]


@dataclass(kw_only=True)
class C3otArguments(CompressionArguments):
    """Where the short chains come from, and what asks for them."""

    model: str = field(metadata={"help": "Folder or Hub id that wrote the traces; only its tokenizer is read."})
    shortener: Kind = field(default="traces", metadata={"help": "Who writes the short chains."})
    shortener_model: str | None = field(
        default=None, metadata={"help": "Name on the server (else OPENAI_MODEL); folder or Hub id (else the model)."}
    )
    shortener_strategy: str = field(
        default="no-thinking", metadata={"help": "How an engine is asked; budget-forcing leaves it alone."}
    )
    long_control: str = field(default="<|long|>", metadata={"help": "Behind the question of a long chain."})
    short_control: str = field(default="<|short|>", metadata={"help": "Behind the question of a short chain."})
    max_tokens: int | None = field(default=None, metadata={"help": "Most total tokens of a trace; null for all."})
    backend: str = field(default="auto", metadata={"help": "What decodes the shortener, as for evaluate."})

    def __post_init__(self) -> None:
        if self.long_control == self.short_control or not self.short_control.strip():
            raise BadInput(
                f"long_control is {self.long_control!r} and short_control {self.short_control!r}; the short chains "
                "need a text of their own."
            )
        if self.shortener_model and self.shortener in ("given", "traces"):
            raise BadInput(f"shortener_model is for server and engine, not for {self.shortener}; leave it out.")


def c3ot(
    rows: Iterable[Mapping],
    engine: Reasoner | None = None,
    *,
    thinking: ThinkingFormat,
    rejected: Counter[str] | None = None,
    shortener: Kind = "traces",
    shortener_strategy: str = "no-thinking",
    server: tuple[str, str] | None = None,
    long_control: str = "<|long|>",
    short_control: str = "<|short|>",
    max_tokens: int | None = None,
) -> Iterator[dict]:
    """Two training rows a problem, the long chain and the short one, in the order of the problems.

    Args:
        rows: traces, those of a problem together; all of them are held, with a shortener that is asked.
        engine: the shortener, for "engine".
        thinking: the delimiters of the model that thought these traces.
        rejected: counts problems that give no rows.
        shortener: "server", "engine", "given" or "traces".
        shortener_strategy: of inference, for "engine".
        server: base URL and model of the shortener, for "server".
        long_control, short_control: texts behind the question.
        max_tokens: traces with more total tokens are left out.

    Yields:
        the columns of `training_row`; `source_tokens` is the length of the long trace in both rows, so the long one
        has `keep_ratio` 1.

    Raises:
        BadInput: a server that refuses or stays unreachable.
    """
    rejected = Counter() if rejected is None else rejected
    controls = {"method": "c3ot", "control": short_control}

    def pair(long: Mapping, short: dict) -> list[dict]:
        return [whole_row(long, long["total_tokens"], method="c3ot", control=long_control), short]

    asked = []
    for traces in by_problem(same_tokenizer(rows, thinking)):
        usable = usable_traces(traces, thinking, rejected, max_tokens)
        if not usable:
            continue
        long, shortest = usable[len(usable) // 2], usable[0]
        if shortener != "traces":
            asked.append(long)
        elif shortest["total_tokens"] < long["total_tokens"]:
            yield from pair(long, whole_row(shortest, long["total_tokens"], **controls))
        else:
            rejected["no shorter trace"] += 1
    shorten = _given
    if shortener == "server":
        shorten = by_server(*server)
    elif shortener == "engine":
        shorten = by_engine(engine, shortener_strategy)
    for long, shortened in zip(asked, shorten(asked), strict=True):
        short = training_row(long, thinking, shortened.chain, **controls)
        if fault := shortened.fault or _fault(shortened.chain, short, long, thinking):
            rejected[fault] += 1
        else:
            yield from pair(long, short)


def _given(traces: Iterable[Mapping]) -> list[Shortened]:
    """What the traces bring themselves."""
    chains = [(trace.get("metadata") or {}).get("short_chain") for trace in traces]
    return [
        Shortened(chain.strip()) if isinstance(chain, str) and chain.strip() else Shortened("", "no short chain given")
        for chain in chains
    ]


def _fault(chain: str, short: Mapping, long: Mapping, thinking: ThinkingFormat) -> str | None:
    """Why a chain may not stand for the long one, in the words that a report counts."""
    if thinking.open_text in chain or thinking.close_text in chain:
        return "delimiters in the short chain"
    if short["total_tokens"] >= long["total_tokens"]:
        return "not shorter"
    return unfaithful(chain, long["thinking"], question_text(long), long["final_answer"])


def main(argv: list[str] | None = None) -> None:
    arguments = parse(C3otArguments, argv=argv, doc=__doc__)

    given = {"thinking": load_thinking(arguments.model)}
    engine = None
    if arguments.shortener == "engine":
        from efficient_reasoning.inference import load_reasoner

        engine = load_reasoner(arguments.shortener_model or arguments.model, arguments.backend)
    elif arguments.shortener == "server":
        from efficient_reasoning.inference.openai_engine import server_from_environment

        given["server"] = server_from_environment("The shortener", arguments.shortener_model)
        arguments = replace(arguments, shortener_model=given["server"][1])  # so that no two stand in one file
    # What a server was paid for is soon on the disk.
    compress(arguments, c3ot, engine, chunk_problems=CONCURRENCY if "server" in given else None, **given)


if __name__ == "__main__":
    run(main)
