"""Train a process verifier: a token classifier that says, at the end of each step, whether the answer will be right.

1. Rows hold a response's ids, where its steps end, and how often a model that goes on from there is right
   (`efficient-reasoning data step_values`). The loss is the cross-entropy with that share, at those ids.
2. It starts from a causal checkpoint with the tokenizer of the rows, best the model that wrote them; in place of the
   head stands a new one with the labels "wrong" and "right".
3. The checkpoint is one of `AutoModelForTokenClassification`. Strategies take it by its folder, as in
   `best-of-n?verifier=runs/quickstart/verifier`.

    efficient-reasoning train train_verifier --config configs/train_verifier/overthinker.yaml
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.training import FinetuningArguments

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from efficient_reasoning.training.base import Base

NO_VALUE = -100.0


def examples(path: str, rows: Dataset, base: Base) -> list[dict]:
    """Ids of prompt and response, and under `labels` a value at the end of each step, elsewhere NO_VALUE.

    Raises:
        BadInput: a row of another tokenizer, or whose steps and values do not fit its response; its number is named.
    """
    from efficient_reasoning.recorded import are_ids
    from efficient_reasoning.traces import tokenizer_hash

    own, encoded = tokenizer_hash(base.tokenizer), []
    for number, row in enumerate(rows, start=1):
        prompt, ids, ends, values = (row[name] for name in ("prompt_ids", "completion_ids", "step_ends", "values"))
        if row["tokenizer_hash"] != own:
            raise BadInput(f"{path}, row {number}: its ids are of another tokenizer than that of {base.name}.")
        if not are_ids(prompt) or not are_ids(ids):
            raise BadInput(f"{path}, row {number}: its ids are no token ids; write it anew.")
        if not are_ids(ends) or len(ends) != len(values) or not all(end < len(ids) for end in ends):
            raise BadInput(f"{path}, row {number}: step_ends do not fit its ids and values; write it anew.")
        if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values):
            raise BadInput(f"{path}, row {number}: values are {values}; give shares in [0, 1].")
        labels = [NO_VALUE] * (len(prompt) + len(ids))
        for end, value in zip(ends, values, strict=True):
            labels[len(prompt) + end] = float(value)
        encoded.append({"input_ids": [*prompt, *ids], "labels": labels})
    return encoded


def value_loss(logits: Tensor, values: Tensor) -> Tensor:
    """Summed cross-entropy with the shares of right continuations.

    Args:
        logits: of "wrong" and "right", (B, T, 2).
        values: (B, T), NO_VALUE where nothing is learned.
    """
    rated = values != NO_VALUE
    right = values[rated]  # (N,)
    targets = right.new_empty(len(right), 2)  # (N, 2)
    targets[:, 0], targets[:, 1] = 1 - right, right
    return -(targets * logits[rated].float().log_softmax(-1)).sum()


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse(FinetuningArguments, trainer="transformers:TrainingArguments", argv=argv, doc=__doc__)
    from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, AutoModelForTokenClassification, Trainer

    from efficient_reasoning import training
    from efficient_reasoning.checkpoint import VERIFIER, load_config
    from efficient_reasoning.inference.search.verifier import LABELS
    from efficient_reasoning.scratch import collate

    training.start(arguments, config)
    base = training.load_base(arguments.model)
    model_config = load_config(base.path)
    if type(model_config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise BadInput(
            f"{arguments.model}: transformers classifies no tokens with a {model_config.model_type}; take another."
        )
    needed = ("prompt_ids", "completion_ids", "step_ends", "values", "tokenizer_hash")
    rows = training.load_rows(arguments.data, needed)
    dataset = examples(arguments.data, rows, base)
    metadata = base.metadata_of(rows, stage=VERIFIER, method="step_values")
    if training.is_main_process():
        steps = sum(map(len, rows["values"]))
        print(f"{len(rows):,} rows, {steps:,} steps, mean value {sum(map(sum, rows['values'])) / steps:.3f}")
    if arguments.dry_run:
        tokens_per_row = sum(len(row["input_ids"]) for row in dataset) / len(dataset)
        own = {"auto_class": "AutoModelForTokenClassification"}
        training.print_costs(model_config, config, len(dataset), tokens_per_row, "none of the rows", **own)
        return
    model = AutoModelForTokenClassification.from_pretrained(
        base.path,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        dtype="float32",
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=dataset,
        data_collator=collate,
        # num_items_in_batch counts the values of the whole step, over accumulated batches and devices.
        compute_loss_func=lambda outputs, labels, num_items_in_batch: (
            value_loss(outputs.logits, labels) / num_items_in_batch
        ),
        processing_class=base.tokenizer,
    )
    training.finish(trainer, metadata, base.problems_with(rows))


if __name__ == "__main__":
    run(main)
