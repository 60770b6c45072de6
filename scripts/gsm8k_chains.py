"""Turn GSM8K's solutions into traces: a verbose chain for each problem, and beside it its equations alone.

A solution of GSM8K (MIT, arXiv 2110.14168) is text with calculator marks, "She sold 48/2 = <<48/2=24>>24 clips", and
the answer behind ####. The text without marks becomes the thinking, the number the answer, and the marks, one a line,
`metadata.short_chain`, which `efficient-reasoning data c3ot --shortener given` pairs with it.

    python scripts/gsm8k_chains.py --model runs/smollm2 --source gsm8k/train.jsonl --out runs/gsm8k/traces.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator

from efficient_reasoning.compression.tokenizer import load_thinking
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.files import read_numbered_jsonl, write_jsonl
from efficient_reasoning.overthinking import Reader
from efficient_reasoning.prompts import encode_prompt, make_completion, make_prompt
from efficient_reasoning.thinking import ThinkingFormat
from efficient_reasoning.traces import tokenizer_hash

MARK = re.compile(r"<<(.*?)>>")  # of the calculator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, help_text in (
        ("model", "checkpoint whose tokenizer and delimiters the traces have"),
        ("source", "JSONL file with question and answer"),
        ("out", "JSONL file of traces"),
    ):
        parser.add_argument(f"--{name}", required=True, help=help_text)
    arguments = parser.parse_args()
    count = write_jsonl(arguments.out, traces(arguments.source, load_thinking(arguments.model)))
    print(f"{arguments.out}: {count:,} traces.")


def traces(source: str, thinking: ThinkingFormat) -> Iterator[dict]:
    """One trace a line, as `data sample` writes them."""
    tokenizer, reader = thinking.tokenizer, Reader(thinking)
    made_with = {"model": "gsm8k", "tokenizer_hash": tokenizer_hash(tokenizer), "seed": 0}
    for number, row in read_numbered_jsonl(source):
        solution, marked, answer = str(row.get("answer", "")).partition("\n####")
        if not marked or not isinstance(row.get("question"), str):
            raise BadInput(f"{source}, line {number}: no question with an answer behind ####; give a file of GSM8K.")
        answer = answer.strip().replace(",", "")
        text = thinking.write(MARK.sub("", solution).strip(), answer)
        prompt = make_prompt(tokenizer, row["question"])
        prompt_ids = encode_prompt(tokenizer, prompt)
        ids = tokenizer.encode(text, add_special_tokens=False)
        split, count = thinking.split(ids, prompt_ids), thinking.count(ids, prompt_ids)
        problem = {
            "id": f"gsm8k-{number}",
            "question": row["question"],
            "answer": answer,
            "task": "numeric",
            "metadata": {"short_chain": "\n".join(MARK.findall(solution))},
        }
        yield {
            **problem,
            "prompt": prompt,
            "completion": make_completion(tokenizer, text),
            "prompt_ids": prompt_ids,
            "completion_ids": [*ids, min(thinking.eos_ids)],
            "thinking": tokenizer.decode(split.thinking_ids),
            "final_answer": tokenizer.decode(split.answer_ids),
            **dataclasses.asdict(count),
            "correct": True,
            "truncated": False,
            **dataclasses.asdict(reader.read(ids, prompt_ids, problem, True)),
            **made_with,
        }


if __name__ == "__main__":
    run(main)
