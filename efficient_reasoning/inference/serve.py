"""From a checkpoint to a server: `vllm serve` with the flags that its `reasoning.json` and tokenizer call for.

    python -m efficient_reasoning.inference.serve MODEL [--dry-run] [further flags of vllm serve]

1. Printed, then run in this process's place; `--dry-run` only prints.
2. The logits processor keeps budgets inside the loop (`vllm_processor`), the reasoning parser separates thinking from
   answers in chats, and requests that say nothing are sampled as reasoning models want to be.
3. A flag that is given stands in place of ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil

from efficient_reasoning.checkpoint import ReasoningMetadata, load_tokenizer, resolve_model, thinking_format
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.inference.engine import Sampling
from efficient_reasoning.inference.guard import PROCESSOR

# vLLM's parsers by open delimiter. This one of <think> takes blocks that the prompt opens and those the model opens.
PARSERS = {"<think>": "deepseek_r1", "<seed:think>": "seed_oss", "[THINK]": "mistral"}


def command(model: str, flags: list[str]) -> list[str]:
    """The words of `vllm serve` for a folder or Hub id; `flags` are passed on, and stand in place of ours.

    Raises:
        BadInput: a broken checkpoint, no known delimiters, one that thinks in latent steps or is of recurrent depth,
            which vLLM cannot, or one with pauses, which requests of others would not have.
    """
    folder = resolve_model(model)
    metadata = ReasoningMetadata.load(folder)
    if metadata is not None and metadata.latent_steps:
        raise BadInput(f"{model} thinks in latent steps, which vLLM cannot; use backend graph.")
    if metadata is not None and metadata.pause_steps:
        raise BadInput(
            f"{model} reads pauses behind prompts, which a server would leave out; use backend vllm or graph."
        )
    if metadata is not None and metadata.depth:
        raise BadInput(f"{model} is of recurrent depth, which vLLM cannot decode; use backend transformers.")
    thinking = thinking_format(folder, load_tokenizer(folder))
    ours = {
        "--override-generation-config": json.dumps(dataclasses.asdict(Sampling())),
        "--enable-prompt-tokens-details": None,  # what was cached, for the ledger
    }
    if thinking.has_single_ids:
        ours["--logits-processors"] = PROCESSOR
        if thinking.open_text in PARSERS:
            ours["--reasoning-parser"] = PARSERS[thinking.open_text]
    if any(flag.split("=")[0] == "--speculative-config" for flag in flags):
        ours.pop("--logits-processors", None)  # vLLM takes no processors beside a draft model
    given = {flag.split("=")[0] for flag in flags}
    words = [word for flag, value in ours.items() if flag not in given for word in (flag, value) if word is not None]
    return ["vllm", "serve", folder, *words, *flags]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--dry-run", action="store_true", help="print the command, and stop")
    arguments, flags = parser.parse_known_args()
    words = command(arguments.model, flags)
    print(shlex.join(words), flush=True)
    if arguments.dry_run:
        return
    program = shutil.which(words[0])
    if program is None:
        raise BadInput("There is no program `vllm`; install it with `pip install 'efficient-reasoning[vllm]'`.")
    os.execv(program, words)


if __name__ == "__main__":
    run(main)
