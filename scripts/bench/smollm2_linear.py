"""What SmolLM2-135M-Instruct keeps when its attention is linearized, and whether it leaves this toolkit whole.

    python -m scripts.bench.smollm2_linear runs/smollm2 --out runs/smollm2_linear [--scale toy] [--jobs 2]

BASE is what `scripts/smollm2_base.py` wrote: attention with 9 heads and 3 of keys and values, 64 wide.

1. The base answers GSM8K's training questions, and these answers are the rows: 20M tokens for attention transfer, as
   many for LoRA on next tokens. `no transfer` trains the same LoRA from feature maps as they are.
2. *Perplexity* of what they read: the base's answers to test questions, and the solutions that people wrote.
   *Gap closed* is (`no transfer` - arm) / (`no transfer` - base), of the logarithms.
3. *Exported*: a process that cannot import this toolkit loads each checkpoint, and its greedy tokens are compared with
   those of the library's own code here.

EFFICIENT_REASONING_DATA names the folder of the data, `../shared/data` by default.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from efficient_reasoning.checkpoint import load_tokenizer
from efficient_reasoning.files import read_jsonl, write_json, write_jsonl
from efficient_reasoning.prompts import conversation, encode_prompt, make_completion, make_prompt
from scripts.bench.arms import Arm, Arms, run_bench
from scripts.bench.linear_quality import LORA, LinearBench, LinearScale
from scripts.gsm8k_chains import MARK

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", ROOT / "../shared/data"))
TRAIN, TEST = (f"file:{DATA}/gsm8k/{name}.jsonl" for name in ("train", "test_first1119"))
ANSWERS, SOLUTIONS = "own answers", "people's solutions"

# In a process that knows nothing of this toolkit.
PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = torch.tensor([json.loads(sys.argv[2])])
print(json.dumps(model.generate(ids, max_new_tokens=int(sys.argv[3]), do_sample=False)[0].tolist()))
assert "efficient_reasoning" not in sys.modules
"""


@dataclass(frozen=True)
class SmolScale(LinearScale):
    """Also how the base answers: `samples` of each of `problems` training questions, at a temperature."""

    task: str = TEST
    problems: int = 7473
    samples: int = 2
    steps: int = 1000  # of 64 rows with some 330 tokens each
    accumulation: int = 4  # a row of 384 tokens takes 0.9 GB
    save_steps: int = 250
    test_problems: int = 500
    max_new_tokens: int = 400
    temperature: float = 0.7
    transfer_rate: float = 1e-2
    lora_rate: float = 1e-3
    exported_tokens: int = 64


SCALES = {
    "full": SmolScale(),
    "toy": SmolScale(
        problems=4,
        samples=1,
        steps=2,
        batch_size=2,
        accumulation=2,
        save_steps=1,
        test_problems=2,
        max_new_tokens=300,
        exported_tokens=4,
    ),
}


class SmolBench(LinearBench):
    scale: SmolScale

    @property
    def answers(self) -> Path:
        """The base's, to test questions."""
        return self.out / "rows" / "test.jsonl"

    def prepare(self) -> None:
        from efficient_reasoning.problems import load_problems

        for path, problems, samples in (
            (self.data, load_problems(TRAIN, num_problems=self.scale.problems), self.scale.samples),
            (self.answers, self.problems, 1),
        ):
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_jsonl(path, self.answered(problems, samples))
                self.tidy()

    def answered(self, problems: Sequence[Mapping], samples: int) -> Iterator[dict]:
        """Rows of what the base says to the questions, as far as it comes to an end."""
        from efficient_reasoning import load_reasoner
        from efficient_reasoning.inference.engine import Request, Sampling

        reasoner = load_reasoner(str(self.base), self.backend)
        tokenizer = reasoner.tokenizer
        prompts = [make_prompt(tokenizer, conversation(problem)) for problem in problems]
        sampling = Sampling(self.scale.temperature)
        requests = [
            Request(
                encode_prompt(tokenizer, prompt),
                self.scale.max_new_tokens,
                sampling,
                seed=number * samples,
                n=samples,
            )
            for number, prompt in enumerate(prompts)
        ]
        for number, completion in enumerate(reasoner.engine.generate(requests)):
            if completion.finished:
                text = tokenizer.decode(completion.ids, skip_special_tokens=True)
                yield {"prompt": prompts[number // samples], "completion": make_completion(tokenizer, text)}

    def measure(self, name: str, model: Path | str) -> None:
        """Perplexities, and the comparison with a process of its own."""
        path = self.out / "reading" / f"{name}.json"
        if path.is_file():
            return
        answers = list(read_jsonl(self.answers))
        tokenizer = load_tokenizer(str(self.base))
        solutions = [
            {
                "prompt": make_prompt(tokenizer, row["question"]),
                "completion": make_completion(tokenizer, MARK.sub("", row["answer"]).partition("\n####")[0]),
            }
            for row in itertools.islice(read_jsonl(TEST.removeprefix("file:")), self.scale.test_problems)
        ]
        sums = {ANSWERS: nats(model, answers), SOLUTIONS: nats(model, solutions)}
        same = is_the_same_elsewhere(model, solutions[0]["prompt"], self.scale.exported_tokens)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"nats": sums, "same tokens": same})
        self.tidy()


def nats(model: Path | str, rows: Sequence[Mapping]) -> tuple[float, int]:
    """Summed negative log-likelihood of all completions, and their tokens. Prompts and completions are messages."""
    import torch
    from torch.nn.functional import cross_entropy

    from efficient_reasoning.checkpoint import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, tokenizer = load_model(str(model), device, None).eval(), load_tokenizer(str(model))
    total, tokens = 0.0, 0
    for row in rows:
        prompt = encode_prompt(tokenizer, row["prompt"])
        [answer] = row["completion"]
        completion = tokenizer.encode(answer["content"], add_special_tokens=False)
        ids = torch.tensor([prompt + completion], device=device)
        with torch.no_grad():
            logits = network(ids).logits[0, len(prompt) - 1 : -1].float()
        total += cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        tokens += len(completion)
    return total, tokens


def is_the_same_elsewhere(model: Path | str, prompt: list[dict], new_tokens: int) -> bool:
    """Whether plain transformers, on a CPU, decodes the tokens that this toolkit's code does there."""
    import torch

    from efficient_reasoning.checkpoint import load_model

    network, tokenizer = load_model(str(model), "cpu", None).eval(), load_tokenizer(str(model))
    ids = encode_prompt(tokenizer, prompt)
    own = network.generate(torch.tensor([ids]), max_new_tokens=new_tokens, do_sample=False)[0].tolist()
    # What transformers needs may stand beside this toolkit, on a path of its own.
    kept = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(kept)}
    command = [sys.executable, "-c", PLAIN, str(Path(model).resolve()), json.dumps(ids), str(new_tokens)]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]) == own


# ---- the arms ----


def base(bench: SmolBench) -> None:
    bench.measure("base", bench.base)


def converted(name: str, has_transfer: bool) -> Arm:
    def arm(bench: SmolBench) -> None:
        scale, model, shape = bench.scale, bench.base, {"window_tokens": bench.scale.window_tokens}
        if has_transfer:
            model = bench.linearize("transferred", 0, model, scale.transfer_rate, stage="transfer", **shape)
            bench.measure("transferred", model)
            shape = {}
        bench.measure(name, bench.linearize(name, 0, model, scale.lora_rate, stage="finetune", **LORA, **shape))

    return arm


ARMS: Arms = {
    "base": base,
    "linearized": converted("linearized", has_transfer=True),
    "no transfer": converted("no transfer", has_transfer=False),
}


# ---- the table ----


def perplexities(out: Path) -> str:
    found = {path.stem: json.loads(path.read_text()) for path in sorted((out / "reading").glob("*.json"))}
    lines = [
        f"| | {' | '.join(f'perplexity of {text} | gap closed' for text in (ANSWERS, SOLUTIONS))} | same elsewhere |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    mean = {name: {text: total / n for text, (total, n) in one["nats"].items()} for name, one in found.items()}
    for name, own in mean.items():
        cells = []
        for text, value in own.items():
            low, high = (mean.get(other, {}).get(text, math.nan) for other in ("base", "no transfer"))
            cells += [f"{math.exp(value):.3f}", f"{(high - value) / (high - low):.0%}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {'yes' if found[name]['same tokens'] else 'no'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_bench(SmolBench, ARMS, SCALES, "runs/smollm2_linear", __doc__, more={"perplexities.md": perplexities})
