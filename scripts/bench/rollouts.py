"""What a GRPO step costs with TRL's own generation, and with the engine's rollouts.

A model of 15M random weights with the tokenizer of the overthinker, 512 completions of at most 192 tokens. Generation
and whole steps are timed, the first two steps apart (they capture, and compile). The engine runs without and with the
correction of its log-probabilities, and with its step compiled. Writes one JSON file.

    python scripts/bench/rollouts.py --out runs/bench/rollouts.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WARM_UP = 2
# Whether log-probabilities are corrected, and whether the engine's step is compiled.
ENGINE_ARMS = {
    "engine": (False, False),
    "engine, corrected": (True, False),
    "engine, corrected, compiled": (True, True),
}


def timings(arm: str, steps: int, completions: int, new_tokens: int, shape: str) -> dict:
    import torch
    from datasets import Dataset
    from engine import build, sync
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from efficient_reasoning.problems import load_problems
    from efficient_reasoning.prompts import make_prompt
    from efficient_reasoning.rl.rollout_correction import CorrectedGRPOTrainer
    from efficient_reasoning.rl.rollouts import EngineRollouts
    from efficient_reasoning.training import load_base

    base = load_base("overthinker")
    on_gpu = torch.cuda.is_available()
    model, _ = build(shape, torch.float32)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = base.tokenizer.eos_token_id
        settings.pad_token_id = base.tokenizer.pad_token_id
    problems = load_problems("mixed", "train", 2 * completions // 8 * steps, 0)
    rows = Dataset.from_list([{"prompt": make_prompt(base.tokenizer, problem["question"])} for problem in problems])
    corrected, compiled = ENGINE_ARMS.get(arm, (False, False))
    seconds = {"generation": [], "step": []}
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder,
            per_device_train_batch_size=completions,
            num_generations=8,
            max_completion_length=new_tokens,
            max_steps=steps,
            temperature=1.0,
            learning_rate=1e-6,
            beta=0.0,
            loss_type="dr_grpo",
            vllm_importance_sampling_correction=corrected,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )

        def short(completion_ids, **columns) -> list[float]:
            return [-float(len(ids)) for ids in completion_ids]

        kind, rollouts = GRPOTrainer, None
        if arm in ENGINE_ARMS:
            kind, rollouts = CorrectedGRPOTrainer, EngineRollouts(base.thinking, config, compile_step=compiled)
        trainer = kind(
            model, short, config, train_dataset=rows, processing_class=base.tokenizer, rollout_func=rollouts
        )
        generate = trainer._generate

        def timed(*arguments):
            sync()
            began = time.perf_counter()
            result = generate(*arguments)
            sync()
            seconds["generation"].append(time.perf_counter() - began)
            return result

        class Steps(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                sync()
                self.began = time.perf_counter()

            def on_step_end(self, args, state, control, **kwargs):
                sync()
                seconds["step"].append(time.perf_counter() - self.began)

        trainer._generate = timed
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Steps())
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        **{name: statistics.median(values[WARM_UP:]) for name, values in seconds.items()},
        "first_step": seconds["step"][0],
        "mean_length": statistics.mean(entry["completions/mean_length"] for entry in logged),
        "sampling": {name: [entry[name] for entry in logged] for name in logged[0] if name.startswith("sampling/")},
        "all_seconds": seconds,
    }


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    args = parser.parse_args()
    size = (16, 24, "tiny") if args.tiny else (512, 192, "15m")
    report = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    for arm in ("trl", *ENGINE_ARMS):
        report[arm] = timings(arm, args.steps, *size)
        print(arm, {key: round(report[arm][key], 3) for key in ("generation", "step", "first_step")}, flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    for arm in ENGINE_ARMS:
        faster = {key: report["trl"][key] / report[arm][key] for key in ("generation", "step")}
        print(f"{arm}: generation {faster['generation']:.1f}, step {faster['step']:.1f} times as fast as TRL's own")


if __name__ == "__main__":
    main()
