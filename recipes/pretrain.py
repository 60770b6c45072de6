"""Pre-train a small reasoning model from scratch, on built-in problem families or on a stream of anybody's rows.

1. `task` draws problems and writes a worked chain for each (mostly verbose, some plain, some equations only, a tenth
   with an empty thinking block, else "no thinking" would mean nothing to the model). Many rows are shared out among
   processes. `data` streams texts, rows of prompt and completion, or traces, which are packed as they come.
2. Train a tokenizer on the first of those texts: a byte-level BPE with single digits, or one of whole words. The think
   delimiters are added tokens. With `data` it may also be that of a model.
3. Initialise the architecture that the config names and train it, on the completions or on whole texts.

    efficient-reasoning train pretrain --config configs/pretrain/overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, near, run
from efficient_reasoning.problems import FAMILIES, MIXED
from efficient_reasoning.scratch import CLOSE, OPEN, build_config, completion_loss
from efficient_reasoning.training import RecipeArguments
from efficient_reasoning.training.chains import STYLES, write_chains

# Fields that mean something without data, or with it alone, and their defaults.
CHAIN_SHARES = dict(zip(STYLES, (0.79, 0.09, 0.02, 0.10), strict=True))
OF_TASKS = {"task": None, "num_rows": 400_000, "num_shards": 1, "chain_shares": CHAIN_SHARES}
OF_STREAMS = {"shuffle_rows": 2_000, "packing": True}


@dataclass(kw_only=True)
class PretrainArguments(RecipeArguments):
    """What to train on, and what to train."""

    task: str | None = field(
        default=None, metadata={"help": f"Built-in problem family, or {MIXED} for two of them in turn, the default."}
    )
    num_rows: int = field(default=OF_TASKS["num_rows"], metadata={"help": "Training rows to write."})
    num_shards: int = field(
        default=1, metadata={"help": "Parts of the rows, each with a draw of problems and a process of its own."}
    )
    chain_shares: dict[str, float] = field(
        default_factory=CHAIN_SHARES.copy,
        metadata={"help": "Share of the rows by the style of their chain; empty is an empty thinking block."},
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "In place of a task, rows to stream, with text or with prompt and completion: a .jsonl or .parquet"
            " file, a glob, a folder, or hub:NAME?config=CONFIG&split=SPLIT."
        },
    )
    shuffle_rows: int = field(
        default=OF_STREAMS["shuffle_rows"], metadata={"help": "Rows of a stream that are shuffled and packed at once."}
    )
    packing: bool = field(default=True, metadata={"help": "Pack rows of a stream into sequences of max_row_tokens."})
    tokenizer: str = field(
        default="bpe",
        metadata={"help": "bpe (of bytes), words (a token for each), or a model to take it from."},
    )
    vocab_size: int = field(default=384, metadata={"help": "Tokens at most; of a BPE, at least 260."})
    empty_weight: float = field(
        default=20.0, metadata={"help": "Weight in the loss of the answer to an empty block, a token; others weigh 1."}
    )
    max_row_tokens: int = field(
        default=256, metadata={"help": "Longer rows are left out, which slow whole batches; longer texts are split."}
    )
    architecture: dict = field(metadata={"help": "model_type and its config fields, as in a config.json."})

    def __post_init__(self) -> None:
        others = OF_TASKS if self.data else OF_STREAMS
        for name, default in others.items():
            if getattr(self, name) != default:
                why = "a task, and data is given" if self.data else "data, and none is given"
                raise BadInput(f"{name} is for {why}; leave one of them out.")
        if not self.data:
            self.task = self.task or MIXED
            if self.task not in (MIXED, *FAMILIES):
                raise BadInput(f"task is {self.task!r}, no built-in family{near(self.task, (MIXED, *FAMILIES))}")
        for style in self.chain_shares:
            if style not in STYLES:
                raise BadInput(f"chain_shares has no style {style!r}{near(style, STYLES)}")
        if min(self.chain_shares.values(), default=0) < 0 or not sum(self.chain_shares.values()):
            raise BadInput("chain_shares must be 0 or more each, and not all 0.")
        if not 1 <= self.num_shards <= self.num_rows or self.vocab_size < 260:
            raise BadInput("num_shards must be at least 1, num_rows as many, and vocab_size 260; correct them.")
        if self.shuffle_rows < 1:
            raise BadInput(f"shuffle_rows is {self.shuffle_rows}; give at least 1.")
        if self.max_row_tokens < 2:
            raise BadInput(f"max_row_tokens is {self.max_row_tokens}; give at least 2.")
        if self.empty_weight < 0:
            raise BadInput(f"empty_weight is {self.empty_weight}; it must be 0 or more.")


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(PretrainArguments, trainer="transformers:TrainingArguments", argv=argv, doc=__doc__)
    from transformers import AutoModelForCausalLM

    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import ReasoningMetadata

    encoding = {name: getattr(arguments, name) for name in ("tokenizer", "vocab_size", "max_row_tokens")}
    if arguments.data:
        from efficient_reasoning.training.streaming import open_stream

        streaming = {name: getattr(arguments, name) for name in OF_STREAMS}
        rows = open_stream(arguments.data, config, **encoding, **streaming)
        training.start(arguments, config, {"contents of data": rows.fingerprint})
    else:
        training.start(arguments, config)
        drawing = {name: getattr(arguments, name) for name in (*OF_TASKS, "dry_run")}
        rows = write_chains(seed=config.seed, **encoding, **drawing)
    model_config = build_config(arguments.architecture, rows.tokenizer)
    if arguments.dry_run:
        training.print_costs(model_config, config, *rows.costs())
        return
    empty_block = tuple(rows.tokenizer.convert_tokens_to_ids([OPEN, CLOSE]))
    trainer = rows.trainer(
        model=AutoModelForCausalLM.from_config(model_config),
        args=config,
        # num_items_in_batch counts the learnt tokens of the whole step, over accumulated batches and devices.
        compute_loss_func=lambda outputs, labels, num_items_in_batch: (
            completion_loss(outputs.logits, labels, empty_block, arguments.empty_weight) / num_items_in_batch
        ),
        processing_class=rows.tokenizer,
    )
    metadata = ReasoningMetadata(method="pretrain", stage="pretrain", open_text=OPEN, close_text=CLOSE)
    metadata.data_fingerprint = rows.fingerprint
    training.finish(trainer, metadata, rows.problems)


if __name__ == "__main__":
    run(main)
