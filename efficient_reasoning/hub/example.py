"""One answer that anybody can repeat: made by our engine, found again by plain transformers in a process of its own.

1. `evaluation/example.json` holds a question of the run and the ids that our engine decodes for it, greedily, in
   float32 on the CPU: there, two programs agree to the last token, also where bfloat16 would break a tie.
2. The program in the card is the one that is checked. It runs in an empty folder, without the user's environment and
   with the Hub switched off, and whatever it finds, it does not find this toolkit.
3. What does not fit into free memory is not checked, and the card says so.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from efficient_reasoning.checkpoint import OWN_ARCHITECTURES, ReasoningMetadata, has_own_code
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_jsonl, write_json

EXAMPLE_NAME = "evaluation/example.json"
_MOST_TOKENS = 256
_BYTES_PER_PARAMETER = 4
_OVERHEAD_BYTES = 1 << 30  # torch and transformers themselves
_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
_PROGRAM = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A question of the run and what the model makes of it.

    Attributes:
        question: as it was asked in the run, its control included.
        prompt_ids, completion_ids: as the model reads and writes them; an end token is kept.
        text: what the completion spells.
        settings: how it is decoded.
        versions: of the packages that made it.
    """

    question: str
    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    settings: dict
    versions: dict[str, str]


def choose_question(run: Path) -> str:
    """The question that the run answered correctly with the fewest tokens; the first one where none was correct."""
    chosen, fewest_tokens = None, math.inf
    for sample in read_jsonl(run / "samples.jsonl"):
        tokens = sample["total_tokens"] if sample["correct"] and not sample["forced_close"] else math.inf
        if chosen is None or tokens < fewest_tokens:
            chosen, fewest_tokens = sample["question"], tokens
    return chosen


def count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a checkpoint that has been found whole, read from their headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count


def why_unchecked(folder: Path) -> str | None:
    """What keeps us from making an example with this checkpoint here; None where nothing does."""
    import psutil

    metadata = ReasoningMetadata.load(folder)
    if metadata is not None and metadata.latent_steps:
        return "it thinks in latent steps, which plain transformers leaves out"
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if has_own_code(folder) and model_type not in OWN_ARCHITECTURES:
        return "its architecture is one of its own"
    needed = _BYTES_PER_PARAMETER * count_parameters(folder) + _OVERHEAD_BYTES
    free = psutil.virtual_memory().available
    if needed > free:
        return f"in float32 it takes {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB were free"
    return None


def make_example(folder: Path, question: str, max_new_tokens: int) -> Example:
    """Answer the question greedily, in float32 on the CPU, and write it to the folder's evaluation/example.json."""
    from efficient_reasoning.inference import Request, Sampling, load_reasoner
    from efficient_reasoning.prompts import encode_prompt, make_prompt

    reasoner = load_reasoner(str(folder), device="cpu", dtype="float32")
    prompt_ids = encode_prompt(reasoner.tokenizer, make_prompt(reasoner.tokenizer, question))
    prompt_ids += reasoner.latent_ids  # pauses; with latents there is no example
    limit_tokens = min(max_new_tokens, _MOST_TOKENS)
    if reasoner.context_tokens is not None:
        limit_tokens = min(limit_tokens, reasoner.context_tokens - len(prompt_ids))
    [completion] = reasoner.engine.generate([Request(prompt_ids, limit_tokens, Sampling(temperature=0))])
    example = Example(
        question,
        prompt_ids,
        completion.ids,
        reasoner.tokenizer.decode(completion.ids),
        {"temperature": 0, "max_new_tokens": limit_tokens, "dtype": "float32", "device": "cpu"},
        {name: version(name) for name in ("torch", "transformers")},
    )
    write_json(folder / EXAMPLE_NAME, asdict(example))
    del reasoner, completion
    gc.collect()  # the process that repeats it needs as much memory
    return example


def check_example(folder: Path, repo: str, example: Example, shown: str | Path) -> None:
    """Run the program of the card on the folder, in a process that has nothing of ours, and compare the ids.

    Raises:
        BadInput: the program fails, or comes to other ids.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    found = run_program(_PROGRAM.search(card)[1], repo, folder)
    if isinstance(found, str):
        raise BadInput(f"{shown}: the program in its card fails in plain transformers ({found}); see that it loads.")
    for name, expected in (("prompt", example.prompt_ids), ("response", example.completion_ids)):
        if found[name] != expected:
            pairs = zip(found[name], expected, strict=False)
            place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found[name]), len(expected)))
            raise BadInput(
                f"{shown}: plain transformers comes to another {name} than our engine, from token {place} on; "
                "look at eos_token_id and other settings in generation_config.json."
            )


def run_program(program: str, repo: str, folder: Path) -> Mapping | str:
    """The ids `{"prompt", "response"}` that the program of a card comes to, or the last line of how it failed.

    Args:
        program: which loads `repo`, and names its `inputs` and its `output`.
        repo: in whose place the folder is loaded.
        folder: the checkpoint.
    """
    import torch
    import transformers

    # -I keeps the environment and the user's folders out; torch and transformers may lie in one of them.
    where = sorted({str(Path(package.__file__).parents[1]) for package in (torch, transformers)})
    words = [
        "import json, sys",
        f"sys.path += [folder for folder in {where!r} if folder not in sys.path]",
        "sys.modules['efficient_reasoning'] = None  # an import of it fails",
        program.replace(f'"{repo}"', json.dumps(str(folder.resolve()))),
        "[ids] = output.tolist()",
        "begin = inputs['input_ids'].shape[1]",
        "print(json.dumps({'prompt': ids[:begin], 'response': ids[begin:]}))",
    ]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"}
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-I", "-c", "\n".join(words)],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 else (lines or [f"exit code {done.returncode}"])[-1]
