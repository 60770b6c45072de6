"""Do the configs for a Qwen3-1.7B fit on one GPU, and how fast are they? Dimensions tested, weights not.

    python -m scripts.bench.scale TOKENIZER --out runs/scale [--only sft rl] [--tiny]

TOKENIZER is a folder with Qwen3's tokenizer.json and tokenizer_config.json.

1. A model of these dimensions gets random weights in bf16, and each recipe rows of its longest length.
2. A dry run says what a step should take in memory; then the config trains for three steps in a process of its own,
   whose last line says what it took, tokens a second, and MFU.
3. Without vLLM the responses of `rl` come from this toolkit's engine, eight of one prompt for all three steps.

What is measured stands in OUT/results.json at once, and the same command goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from efficient_reasoning.files import write_json, write_jsonl
from efficient_reasoning.prompts import make_completion, make_prompt
from scripts.bench.arms import flags

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
SHAPE = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
ON_CPU = {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
LINE = "Then 1 + 1 = 2.\n"
_PEAK = re.compile(r"([\d,]+) MiB at the peak")
_STEP = re.compile(r"reads (\d+ x [\d,]+) tokens at a time")
_SPEED = re.compile(
    r"(?P<steps>[\d,]+) steps in (?P<seconds>[\d,]+) s: (?P<tokens>[\d,]+) tokens/s in training"
    r"(?:, MFU (?P<mfu>[\d.]+)%)?(?:, rollouts (?P<rollouts>\d+)% of the time)?, peak memory (?P<gib>[\d.]+) GiB"
)


@dataclass(frozen=True)
class Arm:
    """A config, and what it is given.

    Attributes:
        recipe, config: of configs/.
        tokens: of a response, or of a chain; None for those of the config's limit.
        changes: flags beside those of the config.
        tiny: flags of a rehearsal beside these.
    """

    recipe: str
    config: str
    tokens: int | None = None
    changes: dict[str, object] = field(default_factory=dict)
    tiny: dict[str, object] = field(default_factory=dict)


_ONE_GROUP = {"use_vllm": False, "gradient_accumulation_steps": 8, "num_iterations": STEPS}
ARMS = {
    "sft": Arm(
        "sft_compress", "shortest_correct_qwen3_1b7", tiny={"max_length": 256, "gradient_accumulation_steps": 2}
    ),
    "rl": Arm("rl_length", "arora_zanette_qwen3_1b7", changes=_ONE_GROUP, tiny={"max_completion_length": 24}),
    "coconut": Arm(
        "sft_latent",
        "coconut_qwen3_1b7",
        tokens=512,
        changes={"steps_per_stage": 1, "max_stage": 1},  # the last of three steps has latents alone
        tiny={"per_device_train_batch_size": 2},
    ),
    "linearize": Arm("linearize", "transfer_qwen3_1b7", tiny={"max_length": 128}),
}


def make_model(tokenizer: Path, folder: Path, tiny: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

    shape = SHAPE | (TINY if tiny else {})
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    tokens = {"eos_token_id": loaded.eos_token_id, "pad_token_id": loaded.pad_token_id}
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, **tokens, dtype=torch.bfloat16)
    set_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    loaded.save_pretrained(folder)


def make_rows(arm: Arm, model: Path, path: Path, limit_tokens: int, count: int) -> None:
    """Rows that are all as long as the config allows."""
    from efficient_reasoning.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(model)
    tokens_per_line = len(tokenizer.encode(LINE * 100)) / 100
    lines = int(0.97 * (arm.tokens or limit_tokens) / tokens_per_line) - 4
    row: dict[str, object] = {"prompt": make_prompt(tokenizer, "How much is 1 + 1?")}
    if arm.recipe == "rl_length":
        row |= {"answer": "2", "task": "numeric"}
    elif arm.recipe == "sft_latent":
        row |= {"steps": [LINE * (lines // 6)] * 6, "answer": "2"}
    else:
        row["completion"] = make_completion(tokenizer, f"<think>\n{LINE * lines}</think>\n\n2")
    write_jsonl(path, [row] * count)


def measure(name: str, arm: Arm, out: Path, tiny: bool) -> dict[str, object]:
    """What the dry run says, and what the last line of the training does."""
    path = ROOT / "configs" / arm.recipe / f"{arm.config}.yaml"
    config = yaml.safe_load(path.read_text())
    changes = arm.changes | (ON_CPU | arm.tiny if tiny else {})
    settings = config | changes
    limit_tokens = settings.get("max_completion_length") or settings.get("max_length", 0)
    count = STEPS * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    rows = out / f"{name}.jsonl"
    make_rows(arm, out / "model", rows, limit_tokens, count)
    changes |= {"model": out / "model", "data": rows, "output_dir": out / name, "max_steps": STEPS}
    changes |= {"warmup_steps": 0, "save_strategy": "no", "disable_tqdm": True}
    command = [sys.executable, "-m", "efficient_reasoning.cli", "train", arm.recipe, "--config", path, *flags(changes)]
    said = run([*command, "--dry_run", "true"])
    (out / f"{name}.dry_run.txt").write_text(said)
    peak = _PEAK.search(said)
    trained = run(command)
    (out / f"{name}.txt").write_text(trained)
    found = _SPEED.search(trained)
    if found is None:
        raise SystemExit(f"{out / name}.txt has no line of its speed; read what it has.")
    numbers = {key: float(value.replace(",", "")) for key, value in found.groupdict().items() if value}
    return {
        "config": f"{arm.recipe}/{arm.config}",
        "step": step[1] if (step := _STEP.search(said)) else "",
        "dry_run_gib": float(peak[1].replace(",", "")) / 1024 if peak else None,
        **numbers,
    }


def run(command: list[object]) -> str:
    """What a program prints, if it ends well."""
    words = [*map(str, command)]
    done = subprocess.run(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-4000:]}")
    return done.stdout


def table(results: dict[str, dict]) -> str:
    lines = [
        "| config | a step reads | seconds a step | tokens/s in training | MFU | peak | dry run | dry run over peak |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in results.values():
        mfu = f"{found['mfu']:.1f} %" if "mfu" in found else ""
        rollouts = f", {found['rollouts']:.0f} % of them rollouts" if "rollouts" in found else ""
        said = found["dry_run_gib"]
        cells = (f"{said:.1f} GiB", f"{said / found['gib']:.2f}") if said else ("", "")
        lines.append(
            f"| {found['config']} | {found['step']} | {found['seconds'] / found['steps']:.1f}{rollouts} "
            f"| {found['tokens']:,.0f} | {mfu} | {found['gib']:.1f} GiB | {cells[0]} | {cells[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/scale"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "model" / "tokenizer_config.json").is_file():
        make_model(arguments.tokenizer, out / "model", arguments.tiny)
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments.only:
        if name not in results:
            results[name] = measure(name, ARMS[name], out, arguments.tiny)
            write_json(path, results)
        print(table({name: results[name]}).splitlines()[-1], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
