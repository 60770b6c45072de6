"""Pre-train a small reasoning model from scratch on built-in problem families.

1. Draw problems, write a worked chain for each (mostly verbose, some plain, some equations only, a tenth with an empty
   thinking block, else "no thinking" would mean nothing to the model).
2. Train a byte-level BPE tokenizer with single digits on those texts; the think delimiters are added tokens.
3. Initialise the architecture that the config names and train it on the completions, every row counting alike.

    efficient-reasoning train pretrain --config configs/pretrain/overthinker.yaml
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from efficient_reasoning.config import parse, run
from efficient_reasoning.errors import BadInput
from efficient_reasoning.problems import FAMILIES, draw_problems
from efficient_reasoning.training import RecipeArguments

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

OPEN, CLOSE, END, PAD = "<think>", "</think>", "<|end|>", "<|pad|>"


@dataclass(kw_only=True)
class PretrainArguments(RecipeArguments):
    """What to train on, and what to train."""

    task: str = field(default="mixed", metadata={"help": "Built-in problem family, or mixed for all in turn."})
    num_rows: int = field(default=400_000, metadata={"help": "Training rows to write."})
    chain_shares: dict = field(
        default_factory=lambda: {"verbose": 0.79, "plain": 0.09, "equations": 0.02, "empty": 0.10},
        metadata={"help": "Share of the rows by the style of their chain; empty is an empty thinking block."},
    )
    vocab_size: int = field(default=384, metadata={"help": "Tokens of the byte-level BPE, at least 260."})
    max_row_tokens: int = field(
        default=256, metadata={"help": "Longer rows are left out: a batch is as long as its longest."}
    )
    architecture: dict = field(
        default_factory=dict, metadata={"help": "model_type and its config fields, as in a config.json."}
    )


def write_row(problem: dict, style: str, rng: random.Random) -> dict:
    """One training row: the problem, its chain in a style, its answer."""
    chain = "" if style == "empty" else FAMILIES[problem["metadata"]["family"]].chain(problem, style, rng)
    return {
        "prompt": f"{problem['question']}\n",  # as `make_prompt` renders it without a chat template
        "completion": f"{OPEN}{chain.rstrip()}{CLOSE}{problem['answer']}{END}",
    }


def write_rows(task: str, num_rows: int, chain_shares: dict, seed: int) -> list[dict]:
    """Training rows with the chain styles in the given shares. Problems repeat once a family runs dry of new ones."""
    rng = random.Random(seed)
    problems = list(islice(draw_problems(task, "train", seed), min(num_rows, 100_000)))
    styles = rng.choices(list(chain_shares), weights=list(chain_shares.values()), k=num_rows)
    return [write_row(rng.choice(problems), style, rng) for style in styles]


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits; any text can be written in it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\n+|\s"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Not special: TRL decodes the text that rewards see without special tokens, and the delimiters would vanish.
    tokenizer.add_tokens([AddedToken(OPEN, special=False), AddedToken(CLOSE, special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left")


def encode(rows: list[dict], tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Token ids of prompt and completion, and labels that leave the prompt out."""
    from datasets import Dataset

    prompts, completions = (tokenizer([row[side] for row in rows])["input_ids"] for side in ("prompt", "completion"))
    pairs = list(zip(prompts, completions, strict=True))
    return Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in pairs],
            "labels": [[-100] * len(prompt) + completion for prompt, completion in pairs],
            "length": [len(prompt) + len(completion) for prompt, completion in pairs],
        }
    )


def collate(rows: list[dict]) -> dict[str, Tensor]:
    """Pad on the right and send no mask: causal attention never looks there, and without one it runs fused."""
    import torch

    columns = max(len(row["input_ids"]) for row in rows)
    padded = {"input_ids": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [fill] * (columns - len(row[name])) for row in rows])  # (B, T)
        for name, fill in padded.items()
    }


def mean_over_rows(outputs, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """Cross-entropy with every row counting alike.

    A mean over tokens would drown the few tokens of an empty-block row among the hundreds of a verbose one, and the
    model would never learn to answer without thinking.
    """
    from torch.nn.functional import cross_entropy

    labels = labels[:, 1:]  # (B, T - 1)
    losses = cross_entropy(outputs.logits[:, :-1].float().transpose(1, 2), labels, reduction="none")  # (B, T - 1)
    return (losses.sum(1) / (labels != -100).sum(1)).mean()


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(PretrainArguments, trainer="transformers:TrainingArguments", argv=argv, doc=__doc__)
    if "model_type" not in arguments.architecture:
        raise BadInput("architecture: no model_type; name one, such as {model_type: qwen3, hidden_size: 128}.")
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer

    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import ReasoningMetadata

    training.start(arguments, config)
    rows = write_rows(arguments.task, arguments.num_rows, arguments.chain_shares, config.seed)
    sample = [row["prompt"] + row["completion"].replace(OPEN, "").replace(CLOSE, "") for row in rows[:5_000]]
    tokenizer = train_tokenizer(sample, arguments.vocab_size)
    architecture = dict(arguments.architecture)
    model_config = AutoConfig.for_model(
        architecture.pop("model_type"),
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **architecture,
    )
    dataset = encode(rows, tokenizer)
    dataset = dataset.filter(lambda length: length <= arguments.max_row_tokens, input_columns="length")
    if arguments.dry_run:
        tokens_per_row = sum(dataset["length"]) / len(dataset)
        clipped = f"{1 - len(dataset) / len(rows):.1%} of the rows, longer than {arguments.max_row_tokens} tokens"
        training.print_costs(model_config, config, len(dataset), tokens_per_row, clipped)
        return
    trainer = Trainer(
        model=AutoModelForCausalLM.from_config(model_config),
        args=config,
        train_dataset=dataset,
        data_collator=collate,
        compute_loss_func=mean_over_rows,
        processing_class=tokenizer,
    )
    metadata = ReasoningMetadata(method="pretrain", stage="pretrain", open_text=OPEN, close_text=CLOSE)
    training.finish(trainer, metadata)


if __name__ == "__main__":
    run(main)
