"""How fast is the engine on a CPU, beside `generate` for one prompt at a time and for all of them together?

The embedded overthinker, greedy, with its natural ends. Tokens behind the end are not counted. Writes one JSON file.

    python scripts/bench/engine_cpu.py --out runs/bench/engine_cpu.json [--problems 64]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

NEW_TOKENS = 512


def main() -> None:
    import torch
    from engine import generate, timed, tokens_of

    from efficient_reasoning.inference import Request, Sampling, load_reasoner
    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.prompts import encode_prompt, make_prompt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--problems", type=int, default=64)
    args = parser.parse_args()
    plain = load_reasoner("overthinker", "transformers", device="cpu")
    graph = load_reasoner("overthinker", "graph", device="cpu")
    model, ends = plain.engine.model, sorted(plain.thinking.eos_ids)
    problems = load_problems("mixed", "test", args.problems, 1)
    prompts = [encode_prompt(plain.tokenizer, make_prompt(plain.tokenizer, one["question"])) for one in problems]
    requests = [Request(prompt, NEW_TOKENS, Sampling(temperature=0)) for prompt in prompts]
    arms = {
        "generate, one prompt at a time": lambda: [
            generate(model, [prompt], ends, NEW_TOKENS, do_sample=False)[0] for prompt in prompts
        ],
        "generate, one batch": lambda: generate(model, prompts, ends, NEW_TOKENS, do_sample=False),
        "backend transformers": lambda: [one.ids for one in plain.engine.generate(requests)],
        "backend graph": lambda: [one.ids for one in graph.engine.generate(requests)],
    }
    report = {"problems": args.problems, "threads": torch.get_num_threads(), "torch": torch.__version__}
    expected = None
    for name, arm in arms.items():
        print(name, flush=True)
        seconds, rows = timed(arm, 2 if "at a time" in name else 3)
        expected = expected or rows
        equal = sum(one == other for one, other in zip(rows, expected, strict=True))
        report[name] = {"seconds": seconds, "tokens": tokens_of(rows), "rows_equal": equal}
    ours = report["backend graph"]["seconds"]
    for name in arms:
        report[name]["times_as_long_as_graph"] = report[name]["seconds"] / ours
        print(f"{name}: {report[name]}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
