"""The configs for models of the Hub: they parse, and on the hardware in their first line they fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoConfig

from data_tools import first_correct, reference_lengths, sample, shortest_correct
from efficient_reasoning.config import parse
from efficient_reasoning.rl.algorithms import CONFIGS as RL_CONFIGS
from efficient_reasoning.training.activations import MicroBatch
from efficient_reasoning.training.adapters import lora_config
from efficient_reasoning.training.costs import print_costs
from efficient_reasoning.training.objectives import CONFIGS as SFT_CONFIGS
from recipes.linearize import LinearizeArguments
from recipes.rl_length import LengthRewardArguments
from recipes.sft_compress import CompressArguments
from recipes.sft_latent import LatentArguments
from scripts.bench.scale import SHAPE

FOLDER = Path(__file__).parents[2] / "configs"
PARAMETERS = {
    "qwen3_600m": 596_049_920,
    "qwen3_1b7": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "r1_distill_qwen_7b": 7_615_616_512,
}


def _decoder(model_type: str, width: int, mlp_width: int, layers: int, heads: int, key_value_heads: int, **others):
    widths = {"hidden_size": width, "intermediate_size": mlp_width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": heads, "num_key_value_heads": key_value_heads}
    return {"model_type": model_type, "tie_word_embeddings": False} | widths | heads | others


_QWEN3 = {"vocab_size": 151_936, "head_dim": 128}
ARCHITECTURES = {
    "qwen3_600m": _decoder("qwen3", 1024, 3072, 28, 16, 8, tie_word_embeddings=True, **_QWEN3),
    "qwen3_1b7": SHAPE,
    "qwen3_4b": _decoder("qwen3", 2560, 9728, 36, 32, 8, tie_word_embeddings=True, **_QWEN3),
    "qwen3_8b": _decoder("qwen3", 4096, 12288, 36, 32, 8, **_QWEN3),
    "r1_distill_qwen_7b": _decoder("qwen2", 3584, 18944, 28, 28, 4, vocab_size=152_064),
}
TRAINED = [
    path
    for name in ARCHITECTURES
    for recipe in ("sft_compress", "rl_length")
    for path in FOLDER.glob(f"{recipe}/*_{name}.yaml")
]
CONVERTED = {  # nothing says yet what they take beside the states
    FOLDER / "sft_latent/coconut_qwen3_1b7.yaml": (LatentArguments, "transformers:TrainingArguments"),
    FOLDER / "linearize/transfer_qwen3_1b7.yaml": (LinearizeArguments, "trl:SFTConfig"),
}
WRITTEN = [path for name in ARCHITECTURES for path in FOLDER.glob(f"data/*_{name}.yaml")]
TOOLS = {
    "sample": sample.SampleArguments,
    "first_correct": first_correct.FirstCorrectArguments,
    "shortest_correct": shortest_correct.ShortestCorrectArguments,
    "reference_lengths": reference_lengths.ReferenceLengthsArguments,
}
PROMPT_TOKENS = 1024
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]  # what parses there; the estimate is of what the file says


@pytest.fixture(params=TRAINED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def path(request) -> Path:
    return request.param


def name_of(path: Path) -> str:
    return next(name for name in ARCHITECTURES if path.stem.endswith(name))


def test_a_training_fits_where_its_first_line_runs_it(path, capsys, monkeypatch):
    first_line = path.read_text().splitlines()[0]
    recipe = path.parent.name
    assert first_line.startswith(f"# efficient-reasoning train {recipe} --config configs/{recipe}/{path.name}")
    own, trainer = {
        "sft_compress": (CompressArguments, {"objective": SFT_CONFIGS}),
        "rl_length": (LengthRewardArguments, {"algorithm": RL_CONFIGS}),
    }[recipe]
    deepspeed = re.search(r"^deepspeed: (\w+)", path.read_text(), re.MULTILINE)
    without = ["--deepspeed", "null"] if deepspeed else []  # it wants its launcher
    arguments, config = parse(own, trainer=trainer, argv=["--config", str(path), *ON_CPU, *without])
    processes = int(match[1]) if (match := re.search(r"--num-gpus (\d+)", first_line)) else 1
    assert bool(deepspeed) == (processes > 1)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr(config, "bf16", True)
    monkeypatch.setattr(config, "deepspeed", str(FOLDER / f"deepspeed/{deepspeed[1]}.json") if deepspeed else None)
    lora = lora_config(arguments.lora_rank, 1.0, 0.0) if getattr(arguments, "lora_rank", 0) else None
    generates = recipe == "rl_length"
    tokens = config.max_completion_length + PROMPT_TOKENS if generates else config.max_length
    reads = MicroBatch(config.per_device_train_batch_size, tokens, masked=generates)
    settings = dict(ARCHITECTURES[name_of(path)])
    model_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    print_costs(model_config, config, 4000, tokens, "none", lora=lora, reads=reads)
    table = {line[:8].strip(): line[9:] for line in capsys.readouterr().out.splitlines()}
    if not lora:
        assert f"{PARAMETERS[name_of(path)]:,} parameters" in table["model"]
    peak = float(re.search(r"([\d,]+) MiB at the peak", table["memory"])[1].replace(",", "")) * 2**20
    assert peak < 0.85 * 80e9  # room for an estimate that is a sixth too low
    if generates:
        assert config.max_completion_length + PROMPT_TOKENS <= config.vllm_max_model_length
        assert config.use_vllm and config.vllm_mode == "colocate" and config.vllm_enable_sleep_mode
        per_process = config.per_device_train_batch_size * config.steps_per_generation
        assert per_process % config.num_generations == 0


@pytest.mark.parametrize("written", WRITTEN, ids=lambda path: path.stem)
def test_what_writes_its_rows_parses(written):
    tool = next(tool for tool in TOOLS if written.stem.startswith(tool))
    assert written.read_text().startswith(f"# efficient-reasoning data {tool} --config configs/data/{written.name}")
    arguments = parse(TOOLS[tool], argv=["--config", str(written)])
    # The file that it writes is the one that a later config reads.
    others = [path.read_text() for path in (*TRAINED, *WRITTEN) if name_of(path) == name_of(written)]
    assert any(re.search(rf"^(data|traces): {re.escape(arguments.out)}$", text, re.MULTILINE) for text in others)


@pytest.mark.parametrize("converted", CONVERTED, ids=lambda path: path.stem)
def test_what_converts_a_model_parses(converted):
    own, trainer = CONVERTED[converted]
    recipe = converted.parent.name
    first_line = f"# efficient-reasoning train {recipe} --config configs/{recipe}/{converted.name}"
    assert converted.read_text().startswith(first_line)
    arguments, _ = parse(own, trainer=trainer, argv=["--config", str(converted), *ON_CPU])
    layers = getattr(arguments, "softmax_layers", [])
    assert layers == [] or layers == list(range(3, ARCHITECTURES[name_of(converted)]["num_hidden_layers"], 4))


def test_no_config_is_without_a_test():
    names = "|".join(ARCHITECTURES)
    found = {path for path in FOLDER.rglob("*.yaml") if re.search(rf"_({names})$", path.stem)}
    assert found == {*TRAINED, *CONVERTED, *WRITTEN} and len(found) == 17
