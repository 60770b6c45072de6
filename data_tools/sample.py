"""Let a model solve problems and write its traces: the raw material of every data tool.

Traces are drawn, by default, from the model's own distribution (temperature 1, nothing cut off), because training on
one's own traces should change their length and nothing else. The same command again resumes a file that was cut off.

With `examples`, short solutions of other problems stand in front of each question, and the model writes shorter ones
(few-shot sampling, arXiv 2502.20122). `shortest_correct` takes both files: the shortest of what came with and without.

    efficient-reasoning data sample --config configs/data/sample_overthinker.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import run


@dataclass(kw_only=True)
class SampleArguments:
    """What to solve, and how."""

    model: str = field(metadata={"help": "Folder or Hub id; overthinker is the embedded model."})
    task: str = field(
        metadata={
            "help": "sums, heads_and_legs, mixed, gsm_symbolic, graph_paths, multiplication_N, gym:NAME, file:PATH or "
            "hub:NAME."
        }
    )
    out: str = field(metadata={"help": "JSONL file of the traces; its configuration is kept beside it."})
    split: Literal["train", "validation", "test"] = field(default="train", metadata={"help": "Part of the problems."})
    num_problems: int = field(default=1000, metadata={"help": "How many problems at most."})
    samples_per_problem: int = field(default=4, metadata={"help": "How often each problem is solved."})
    strategy: str = field(default="budget-forcing", metadata={"help": "Inference strategy."})
    budget_tokens: int | None = field(default=None, metadata={"help": "Most tokens to decode a problem; or none."})
    temperature: float = field(default=1.0, metadata={"help": "0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus; 1 keeps every token."})
    top_k: int = field(default=0, metadata={"help": "Candidates kept; 0 keeps every token."})
    max_new_tokens: int = field(default=512, metadata={"help": "Most tokens of one chain."})
    backend: str = field(default="auto", metadata={"help": "What decodes, as for evaluate."})
    adapter_scale: float | None = field(
        default=None, metadata={"help": "Of the LoRA adapter kept with the model: 0 is without it; null for 1."}
    )
    seed: int = field(default=0, metadata={"help": "Of the problems drawn and of every sample."})
    examples: str | None = field(
        default=None, metadata={"help": "JSONL file of training rows or traces that are shown before each question."}
    )
    num_examples: int = field(default=4, metadata={"help": "How many of these a question is shown with."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse(SampleArguments, argv=argv, doc=__doc__)

    import numpy as np

    from efficient_reasoning.few_shot import Examples
    from efficient_reasoning.inference import load_reasoner
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.traces import read_traces, sample_traces

    path = Path(arguments.out)
    reasoner = load_reasoner(arguments.model, arguments.backend, adapter_scale=arguments.adapter_scale)
    examples = None
    if arguments.examples is not None:
        examples = Examples(arguments.examples, arguments.num_examples, reasoner.thinking, arguments.seed)
    sample_traces(
        reasoner,
        load_problems(arguments.task, arguments.split, arguments.num_problems, arguments.seed),
        strategies=[arguments.strategy],
        budgets=[arguments.budget_tokens],
        samples_per_problem=arguments.samples_per_problem,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        path=path,
        config_path=path.with_suffix(".config.yaml"),
        examples=examples,
    )
    numbers = [(trace["correct"], trace["truncated"], trace["total_tokens"]) for trace in read_traces(path)]
    correct, truncated, total_tokens = np.mean(numbers, axis=0)
    print(
        f"{path}: {len(numbers):,} traces, {correct:.1%} correct, {truncated:.1%} truncated, "
        f"{total_tokens:.1f} tokens each."
    )


if __name__ == "__main__":
    run(main)
