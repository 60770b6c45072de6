"""Evaluation as a file: which model, problems, strategies and budgets, and how they are sampled.

What `efficient-reasoning evaluate` measures from the command line, kept so that it can be measured again. The same
command resumes a run that was cut off.

    efficient-reasoning train evaluate --config configs/evaluate/headline_overthinker.yaml
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from efficient_reasoning.config import parse
from efficient_reasoning.errors import run


@dataclass(kw_only=True)
class EvaluateArguments:
    """What to measure, and how."""

    model: str = field(metadata={"help": "Folder or Hub id; overthinker is the embedded model."})
    tasks: list[str] = field(
        metadata={
            "help": "Of sums, heads_and_legs, mixed, gsm_symbolic, graph_paths, multiplication_N, "
            "list_functions, gym:NAME, file:PATH, hub:NAME."
        }
    )
    out: str = field(metadata={"help": "Folder of the run."})
    strategies: list[str] = field(
        default_factory=lambda: ["budget-forcing"], metadata={"help": "Inference strategies."}
    )
    budgets: list[int | None] = field(
        default_factory=lambda: [None], metadata={"help": "Most tokens to decode a problem; null for no limit."}
    )
    num_problems: int = field(default=8000, metadata={"help": "How many problems of each task at most."})
    samples_per_problem: int = field(default=1, metadata={"help": "How often each point solves each problem."})
    temperature: float = field(default=0.6, metadata={"help": "0 is greedy."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus; 1 keeps every token."})
    top_k: int = field(default=20, metadata={"help": "Candidates kept; 0 keeps every token."})
    max_new_tokens: int = field(default=512, metadata={"help": "Most tokens of one chain."})
    backend: str = field(default="auto", metadata={"help": "What decodes, as for evaluate."})
    backend_options: dict = field(
        default_factory=dict, metadata={"help": "Of the backend's engine, such as {compile_step: true}."}
    )
    adapter_scale: float | None = field(
        default=None, metadata={"help": "Of the LoRA adapter kept with the model: 0 is without it; null for 1."}
    )
    off_target: list[str] | None = field(
        default=None, metadata={"help": "Also run the do-no-harm checks, and those in these files; [] for no more."}
    )
    seed: int = field(default=0, metadata={"help": "Of the problems drawn and of every sample."})


def main(argv: list[str] | None = None) -> None:
    arguments = parse(EvaluateArguments, argv=argv, doc=__doc__)
    from efficient_reasoning.evaluation import evaluate_model

    print(evaluate_model(**dataclasses.asdict(arguments)))


if __name__ == "__main__":
    run(main)
