"""What linearized attention keeps of a model that reasons over what it read long ago, with ablations, and one table.

    python -m scripts.bench.linear_quality BASE --out runs/linear [--only 'linearized*'] [--scale toy] [--jobs 8]

BASE is a model of words that solves graphs aloud (`configs/pretrain/graph_paths.yaml`): a chain of some 140 tokens
looks up facts of a question of some 220, and a window of 64 tokens holds few of them.

1. The base's own traces, right and wrong, are the rows. Attention transfer, then LoRA on next tokens; every arm trains
   the same LoRA for as many steps.
2. `window only` has sliding attention and no state (its LoRA is of all linear layers): what the window alone is worth.
   `no transfer` begins from feature maps as they are, `no window` sees two tokens by softmax, `swap` is without both.
   `3:1` keeps softmax in one layer of four.
3. *Gap closed* is (arm - `no transfer`) / (base - `no transfer`), of greedy accuracy on the same problems.
4. *Recall*: chains of the base are read, and each noun that stands in a fact of the question is to be predicted; how
   often it is, by how many windows back the fact is.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.files import read_jsonl, write_json
from scripts.bench.arms import GREEDY, Arm, Arms, Bench, Scale, flags, run_bench

SEEDS = 3
RECALL = "recall"
DISTANCES = (1, 2, 4, 8)  # in windows, upper bounds
PLAIN = "budget-forcing@None"
LORA = {"lora_rank": 8, "lora_alpha": 16}


@dataclass(frozen=True)
class LinearScale(Scale):
    """Also of the conversion.

    Attributes:
        window_tokens: of linearized layers, and of `window only`.
        transfer_rate, lora_rate: learning rates.
        recall_rows: chains that are read.
    """

    task: str = "graph_paths"
    problems: int = 20_000
    samples: int = 1
    steps: int = 400
    test_problems: int = 1000
    test_samples: int = 1
    max_new_tokens: int = 384
    window_tokens: int = 64
    transfer_rate: float = 1e-2
    lora_rate: float = 2e-3
    recall_rows: int = 500


SCALES = {
    "full": LinearScale(),
    "toy": LinearScale(
        problems=16, steps=2, batch_size=4, test_problems=4, max_new_tokens=320, window_tokens=8, recall_rows=4
    ),
}


@dataclass
class LinearBench(Bench):
    scale: LinearScale

    def __post_init__(self) -> None:
        import torch

        if torch.cuda.is_available():
            self.backend = "graph?dtype=bfloat16"

    def prepare(self) -> None:
        if not self.data.is_file():
            self.sample("traces", self.base, self.scale.problems)
            self.rows("traces", "shortest_correct", self.traces, keep="random")

    @property
    def data(self) -> Path:
        return self.out / "rows" / "traces.jsonl"

    def linearize(self, name: str, seed: int, model: Path | str, learning_rate: float, **own: object) -> Path:
        """The folder of a stage of `linearize`."""
        folder = self.out / "models" / f"{name}-{seed}"
        options = self.quiet_options() | {
            "model": model,
            "data": self.data,
            "output_dir": folder,
            "max_steps": self.scale.steps,
            "per_device_train_batch_size": self.scale.batch_size,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": self.scale.steps // 20,
            "max_length": 640,
            "logging_steps": max(1, self.scale.steps // 20),
            "seed": seed,
        }
        self.command("train", "linearize", *flags(options | own))
        return folder

    def measure(self, name: str, model: Path | str) -> None:
        self.test(f"{name}{GREEDY}", model)
        path = self.out / RECALL / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, recall(str(model), self.data, self.scale.recall_rows, self.scale.window_tokens))
        self.tidy()


def recall(model: str, data: Path, rows: int, window: int) -> dict[str, list[int]]:
    """[predicted, all] of nouns that a fact of the prompt says, by the upper bound of the distance in windows."""
    import torch

    from efficient_reasoning.checkpoint import load_model, load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, tokenizer = load_model(model, device, None), load_tokenizer(Path(model))
    network.eval()
    [is_, a] = (tokenizer.encode(f"Alex {word}", add_special_tokens=False)[-1] for word in ("is", "a"))
    counts = {str(bound): [0, 0] for bound in (*DISTANCES, "more")}
    for row in list(read_jsonl(data))[:rows]:
        prompt, completion = (
            tokenizer.encode(row[side], add_special_tokens=False) for side in ("prompt", "completion")
        )
        ids = prompt + completion
        said = {}  # where the question says of what (is a) that it is what
        with torch.no_grad():
            best = network(torch.tensor([ids], device=device)).logits[0].argmax(-1).tolist()
        for place in range(len(ids) - 3):
            if ids[place + 1 : place + 3] != [is_, a]:
                continue
            fact = ids[place], ids[place + 3]
            if place + 3 < len(prompt):
                said[fact] = place + 3
            elif fact in said:
                far = (place + 3 - said[fact]) / window
                bucket = counts[str(next((bound for bound in DISTANCES if far <= bound), "more"))]
                bucket[0] += best[place + 2] == ids[place + 3]
                bucket[1] += 1
    return counts


# ---- the arms ----


def teacher(bench: LinearBench) -> None:
    bench.measure("base", bench.base)


def converted(name: str, seed: int, transfer: bool = True, window: int | None = None, kept: str = "[]") -> Arm:
    def arm(bench: LinearBench) -> None:
        scale, model = bench.scale, bench.base
        shape = {"window_tokens": window or scale.window_tokens, "softmax_layers": kept}
        if transfer:
            model = bench.linearize(f"{name}-transfer", seed, model, scale.transfer_rate, stage="transfer", **shape)
            bench.measure(f"{name} before LoRA#{seed}", model)
            shape = {}
        model = bench.linearize(name, seed, model, scale.lora_rate, stage="finetune", **LORA, **shape)
        bench.measure(f"{name}#{seed}", model)

    return arm


def window_only(bench: LinearBench) -> None:
    """Every layer of the base slides over a window, and gets the same LoRA."""
    scale, folder = bench.scale, bench.out / "models" / "sliding"
    shutil.copytree(bench.base, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    sliding = ["sliding_attention"] * config["num_hidden_layers"]
    config |= {"use_sliding_window": True, "sliding_window": scale.window_tokens, "layer_types": sliding}
    write_json(folder / "config.json", config)
    settings = {"learning_rate": scale.lora_rate, "max_length": 640}
    bench.measure("window only#0", bench.train("window only", bench.data, model=folder, **LORA, **settings))


ARMS: Arms = {
    "base": teacher,
    **{f"linearized#{seed}": converted("linearized", seed) for seed in range(SEEDS)},
    **{f"no transfer#{seed}": converted("no transfer", seed, transfer=False) for seed in range(SEEDS)},
    "3:1#0": converted("3:1", 0, kept="[3]"),
    "window only#0": window_only,
    "no window#0": converted("no window", 0, window=2),
    "swap#0": converted("swap", 0, transfer=False, window=2),
}


# ---- the table ----


def kept(out: Path) -> str:
    """Accuracy, what it is of the base's, the gap closed, tokens, and recall by distance."""
    found: dict[str, list[np.ndarray]] = {}
    recalled: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted((out / "points").glob(f"*{GREEDY}.npz")):
        arm = path.stem.removesuffix(GREEDY)
        name = arm.partition("#")[0]
        with np.load(path) as arrays:
            found.setdefault(name, []).append(arrays[PLAIN].reshape(-1, arrays[PLAIN].shape[-1]))
        counts = json.loads((out / RECALL / f"{arm}.json").read_text())
        sums = recalled.setdefault(name, {bound: np.zeros(2) for bound in counts})
        for bound, pair in counts.items():
            sums[bound] += pair
    accuracy = {name: np.mean([values[:, 0].mean() for values in seeds]) for name, seeds in found.items()}
    base, without = (accuracy.get(name, np.nan) for name in ("base", "no transfer"))
    far = [f"<= {bound}" if bound != "more" else bound for bound in next(iter(recalled.values()))]
    lines = [
        f"| arm | seeds | accuracy | of the base's | gap closed | tokens | recall {' | '.join(far)} |",
        f"| --- | ---: | ---: | ---: | ---: | ---: | {' | '.join('---:' for _ in far)} |",
    ]
    for name, seeds in sorted(found.items(), key=lambda item: -accuracy[item[0]]):
        tokens = np.mean([values[:, 1].mean() for values in seeds])
        shares = [f"{hit / max(1, count):.1%}" for hit, count in recalled[name].values()]
        gap = (accuracy[name] - without) / (base - without)
        lines.append(
            f"| {name} | {len(seeds)} | {accuracy[name]:.1%} | {accuracy[name] / base:.1%} | {gap:.0%} | {tokens:.1f} "
            f"| {' | '.join(shares)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_bench(LinearBench, ARMS, SCALES, "runs/linear", __doc__, {"table.md": kept})
