"""How fast the data tools are, and whether their memory stays flat.

Writes synthetic traces of the overthinker's shape (eight of a problem, 130 tokens each on average, real ids), and runs
each tool over two numbers of them, in a process of its own: rows a second, and the peak of its resident memory.
Self-information runs a model over every chain, and is given a twentieth of the traces.

    python scripts/bench/compress.py [--traces 10000,100000] [--copies 1] [--tools "truncated; token_skip"] --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# A name in the table: the tool, its settings, the share of the traces that it is given.
TOOLS: dict[str, tuple[str, list[str], float]] = {
    "shortest_correct": ("shortest_correct", [], 1),
    "reference_lengths": ("reference_lengths", [], 1),
    "long2short_pairs": ("long2short_pairs", [], 1),
    "dast_pairs": ("dast_pairs", [], 1),
    "cot_valve": ("cot_valve", [], 1),
    "truncated": ("truncated", ["--model", "overthinker"], 1),
    "c3ot": ("c3ot", ["--model", "overthinker"], 1),
    "first_correct": ("first_correct", ["--model", "overthinker"], 1),
    "token_skip": ("token_skip", ["--model", "overthinker", "--importance", "classifier"], 1),
    "token_skip, self-information": ("token_skip", ["--model", "overthinker"], 0.05),
}
NAMES = "; ".join(TOOLS)
SAMPLES_PER_PROBLEM = 8
CORRECT = 0.9


def traces(count: int) -> Iterator[dict]:
    """Verbose chains of the built-in families, as `data sample` would write them."""
    from efficient_reasoning.checkpoint import load_tokenizer, resolve_model, thinking_format
    from efficient_reasoning.problems import FAMILIES

    folder = resolve_model("overthinker")
    thinking = thinking_format(folder, load_tokenizer(folder))
    encode = thinking.tokenizer.encode
    rng = random.Random(0)
    for index in range(count):
        if index % SAMPLES_PER_PROBLEM == 0:
            family = rng.choice(["sums", "heads_and_legs"])
            problem = FAMILIES[family].draw(rng) | {"id": f"{family}-{index}"}
            prompt = f"{problem['question']}\n"
            prompt_ids = encode(prompt)
        chain = FAMILIES[family].chain(problem, "verbose", rng).strip()
        answer = problem["answer"] if rng.random() < CORRECT else "0"
        completion = thinking.write(chain, answer)
        ids = encode(completion, add_special_tokens=False)
        yield {
            **problem,
            "prompt": prompt,
            "completion": completion,
            "prompt_ids": prompt_ids,
            "completion_ids": [*ids, *thinking.eos_ids],
            "thinking": chain,
            "final_answer": answer,
            "thinking_tokens": len(ids) - 2 - len(answer),
            "answer_tokens": len(answer),
            "total_tokens": len(ids),
            "correct": answer == problem["answer"],
            "truncated": False,
            "seed": index,
        }


def write_traces(path: Path, count: int, copies: int) -> None:
    """A file of `count` traces, then the same under other ids: a way to gigabytes within minutes."""
    from efficient_reasoning.files import write_jsonl

    write_jsonl(path, traces(count))
    once = path.read_text(encoding="utf-8")
    with open(path, "a", encoding="utf-8") as stream:
        for copy in range(1, copies):
            stream.write(once.replace('"id": "', f'"id": "{copy}-'))


def measure(name: str, source: Path, out: Path, count: int) -> dict:
    """One tool in a process of its own."""
    tool, settings, _ = TOOLS[name]
    command = [sys.executable, str(ROOT / "data_tools" / f"{tool}.py"), *settings]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--traces", str(source), "--out", str(out)], stdout=subprocess.PIPE)
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{name}: ended with code {status}")
    report = json.loads(out.with_name(f"{out.name}.report.json").read_text())
    return {
        "tool": name,
        "traces": count,
        "rows": report["rows"],
        "input_bytes": source.stat().st_size,
        "seconds": seconds,
        "traces_per_second": count / report["seconds"],
        "peak_memory_mib": usage.ru_maxrss / 1024,
    }


def main() -> None:
    from efficient_reasoning.files import write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", default="10000,100000", help="numbers of traces")
    parser.add_argument("--copies", type=int, default=1, help="times that they stand in the file, under other ids")
    parser.add_argument("--tools", help="names of the table, by default all: " + NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        print("| tool | traces | rows | traces/s | peak memory |\n|---|---:|---:|---:|---:|")
        for count in map(int, args.traces.split(",")):
            sources: dict[int, Path] = {}
            for name in args.tools.split("; "):
                given = round(count * TOOLS[name][2])
                if given not in sources:
                    sources[given] = Path(folder) / f"traces-{given}.jsonl"
                    write_traces(sources[given], given, args.copies)
                result = measure(name, sources[given], Path(folder) / f"{len(results)}.jsonl", given * args.copies)
                results.append(result)
                print(
                    f"| {name} | {result['traces']:,} | {result['rows']:,} | {result['traces_per_second']:,.0f} "
                    f"| {result['peak_memory_mib']:,.0f} MiB |",
                    flush=True,
                )
    write_json(args.out, results)


if __name__ == "__main__":
    main()
