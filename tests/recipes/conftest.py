"""What the recipes need to run for a few steps: rows of both kinds, and settings for a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from efficient_reasoning.files import write_jsonl


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with `sft.jsonl`, `pairs.jsonl` and `rl.jsonl`, two dozen rows each."""
    folder = tmp_path_factory.mktemp("data")
    sums = [(a, a + 20) for a in range(3, 27)]
    write_jsonl(
        folder / "sft.jsonl",
        (
            {
                "prompt": f"Compute {a} + {b}.\n",
                "completion": f"<think>{a} + {b} = {a + b}</think>{a + b}<|end|>",
                "method": "shortest_correct",
                "total_tokens": 16,
            }
            for a, b in sums
        ),
    )
    write_jsonl(
        folder / "pairs.jsonl",
        (
            {
                "prompt": f"Compute {a} + {b}.\n",
                "chosen": f"<think>{a} + {b} = {a + b}</think>{a + b}<|end|>",
                "rejected": f"<think>{a} + {b} = {a + b}. Wait. {a} + {b} = {a + b}</think>{a + b}<|end|>",
                "method": "long2short_pairs",
                "total_tokens": 16,
                "source_tokens": 30,
            }
            for a, b in sums
        ),
    )
    write_jsonl(
        folder / "rl.jsonl",
        (
            {
                "prompt": f"Compute {a} + {b}.\n",
                "answer": str(a + b),
                "task": "numeric",
                "metadata": None,
                "reference_tokens": 40.0,
                "reference_accuracy": 0.5,
            }
            for a, b in sums
        ),
    )
    return folder


@pytest.fixture
def argv(tmp_path, tiny_model, data):
    """`argv(recipe, key=value, ...)`: a command line for three steps on a CPU; a value of None leaves the key out."""

    def build(recipe: str, **changes) -> list[str]:
        options = {
            "output_dir": tmp_path / "run",
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "save_steps": 2,
            "logging_steps": 1,
            "seed": 5,
        }
        if recipe == "pretrain":
            architecture = "{model_type: qwen3, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
            architecture += "num_key_value_heads: 1, head_dim: 8, intermediate_size: 16, tie_word_embeddings: true}"
            options |= {"num_rows": 60, "vocab_size": 280, "architecture": architecture}
        else:
            options |= {"model": tiny_model, "gradient_checkpointing": False}
            pairs = changes.get("objective", "sft") != "sft"
            options["data"] = data / ("rl.jsonl" if recipe == "rl_length" else "pairs.jsonl" if pairs else "sft.jsonl")
        if recipe == "rl_length":
            options |= {"reward": "kimi", "num_generations": 4, "max_completion_length": 12}
        options |= changes
        return [word for key, value in options.items() if value is not None for word in (f"--{key}", str(value))]

    return build
