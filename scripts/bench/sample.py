"""How fast `data sample` is from problems to traces on the disk, beside the same with plain `generate`.

    python scripts/bench/sample.py MODEL --task gsm_symbolic --dtype bfloat16 --out results.json

Each backend first samples a little, which captures its step and starts the processes that read; then everything from
drawing the problems to the last line on the disk is timed. Tokens behind the end of a response are no tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from efficient_reasoning import load_reasoner
from efficient_reasoning.files import write_json
from efficient_reasoning.problems import load_problems
from efficient_reasoning.traces import read_traces, sample_traces


def sample(reasoner, task: str, num_problems: int, samples_per_problem: int, seed: int) -> dict:
    """Draw problems, sample their traces, write them; what it took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.jsonl"
        began = time.perf_counter()
        problems = load_problems(task, "train", num_problems, seed)
        drawn = time.perf_counter()
        sample_traces(
            reasoner,
            problems,
            strategies=["budget-forcing"],
            budgets=[None],
            samples_per_problem=samples_per_problem,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_new_tokens=320,
            seed=seed,
            path=path,
            config_path=path.with_suffix(".yaml"),
        )
        seconds = time.perf_counter() - began
        tokens = sum(trace["total_tokens"] for trace in read_traces(path))
    samples = num_problems * samples_per_problem
    return {
        "samples": samples,
        "seconds": seconds,
        "drawing_seconds": drawn - began,
        "samples_per_second": samples / seconds,
        "tokens_per_second": tokens / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", default="gsm_symbolic")
    parser.add_argument("--problems", type=int, default=8192, help="sampled by graph, 8 times each")
    parser.add_argument("--generate-problems", type=int, default=512, help="sampled by transformers, 8 times each")
    parser.add_argument("--backend", default="graph?rows=1024&compile_step=true", help="of the first number")
    parser.add_argument("--dtype", help="of both; the checkpoint's own by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results = {}
    backends = {"transformers?batch_size=512": arguments.generate_problems, arguments.backend: arguments.problems}
    for spec, problems in backends.items():
        backend, reasoner = spec.partition("?")[0], load_reasoner(arguments.model, spec, dtype=arguments.dtype)
        sample(reasoner, arguments.task, max(64, problems // 8), 8, seed=1)
        results[backend] = sample(reasoner, arguments.task, problems, 8, seed=2)
        print(backend, {name: round(value, 3) for name, value in results[backend].items()}, flush=True)
    ratio = results["graph"]["samples_per_second"] / results["transformers"]["samples_per_second"]
    print(f"graph samples {ratio:.1f} times as fast")
    write_json(arguments.out, results | {"ratio": ratio})


if __name__ == "__main__":
    main()
