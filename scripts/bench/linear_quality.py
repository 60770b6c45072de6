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
5. *Length*: nats a token of these chains, by how many windows stand before the token, beside the base's on the same
   tokens.
6. *Votes*: the base, `linearized` and `3:1` sample, each with the device to itself behind all other arms; what the
   most frequent of k answers is worth, and the seconds a problem that k samples take (arXiv 2504.10449).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.files import read_jsonl, write_json
from scripts.bench.arms import GREEDY, SAMPLING, Arm, Arms, Bench, Scale, flags, run_bench

SEEDS = 3
READING, VOTES = "reading", "votes"
DISTANCES = (1, 2, 4, 8)  # in windows, upper bounds
BOUNDS = (*map(str, DISTANCES), "more")
PLAIN = "budget-forcing@None"
LORA = {"lora_rank": 8, "lora_alpha": 16}


@dataclass(frozen=True)
class LinearScale(Scale):
    """Also of the conversion.

    Attributes:
        window_tokens: of linearized layers, and of `window only`.
        transfer_rate, lora_rate: learning rates.
        read_rows: chains that are read.
        vote_problems, votes: problems, and samples of each; the latter a power of two.
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
    read_rows: int = 500
    vote_problems: int = 256
    votes: int = 32


SCALES = {
    "full": LinearScale(),
    "toy": LinearScale(
        problems=16,
        steps=2,
        batch_size=4,
        test_problems=4,
        max_new_tokens=320,
        window_tokens=8,
        read_rows=4,
        vote_problems=2,
        votes=2,
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
        path = self.out / READING / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, read(str(model), self.data, self.scale.read_rows, self.scale.window_tokens))
        self.tidy()


def read(model: str, data: Path, rows: int, window: int) -> dict[str, dict[str, list[float]]]:
    """What a model makes of chains that it reads, by an upper bound in windows.

    Returns:
        `recall`: [predicted, all] of nouns that a fact of the prompt says, by the distance of the fact; and `loss`:
        [nats, tokens] of completions, by the place of the token.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from efficient_reasoning.checkpoint import load_model, load_tokenizer

    def bound_of(tokens: int) -> str:
        return next((str(bound) for bound in DISTANCES if tokens <= bound * window), "more")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, tokenizer = load_model(model, device, None), load_tokenizer(Path(model))
    network.eval()
    [is_, a] = (tokenizer.encode(f"Alex {word}", add_special_tokens=False)[-1] for word in ("is", "a"))
    recalled, losses = ({bound: [0, 0] for bound in BOUNDS} for _ in range(2))
    for row in list(read_jsonl(data))[:rows]:
        prompt, completion = (
            tokenizer.encode(row[side], add_special_tokens=False) for side in ("prompt", "completion")
        )
        ids = prompt + completion
        said = {}  # where the question says of what (is a) that it is what
        with torch.no_grad():
            inputs = torch.tensor([ids], device=device)
            logits = network(inputs).logits[0].float()
            nats = cross_entropy(logits[:-1], inputs[0, 1:], reduction="none").tolist()
            best = logits.argmax(-1).tolist()
        for place in range(len(prompt), len(ids)):
            sums = losses[bound_of(place)]
            sums[0] += nats[place - 1]
            sums[1] += 1
        for place in range(len(ids) - 3):
            if ids[place + 1 : place + 3] != [is_, a]:
                continue
            fact = ids[place], ids[place + 3]
            if place + 3 < len(prompt):
                said[fact] = place + 3
            elif fact in said:
                bucket = recalled[bound_of(place + 3 - said[fact])]
                bucket[0] += best[place + 2] == ids[place + 3]
                bucket[1] += 1
    return {"recall": recalled, "loss": losses}


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


def votes(name: str) -> Arm:
    """Samples of the base, or of what the arm of this name has made."""

    def arm(bench: LinearBench) -> None:
        from efficient_reasoning import load_reasoner
        from efficient_reasoning.traces import sample_traces

        model = bench.base if name == "base" else bench.out / "models" / f"{name}-0"
        reasoner = load_reasoner(str(model), bench.backend)
        for folder, seed in (("warm", 2), (VOTES, 1)):  # the first time steps are captured
            path = bench.out / folder / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            sample_traces(
                reasoner,
                bench.problems[: bench.scale.vote_problems],
                strategies=["budget-forcing"],
                budgets=[None],
                samples_per_problem=bench.scale.votes,
                **SAMPLING,
                max_new_tokens=bench.scale.max_new_tokens,
                seed=seed,
                path=path,
                config_path=path.with_suffix(".yaml"),
            )

    return arm


VOTERS = ("base", "linearized", "3:1")
ARMS: Arms = {
    "base": teacher,
    **{f"linearized#{seed}": converted("linearized", seed) for seed in range(SEEDS)},
    **{f"no transfer#{seed}": converted("no transfer", seed, transfer=False) for seed in range(SEEDS)},
    "3:1#0": converted("3:1", 0, kept="[3]"),
    "window only#0": window_only,
    "no window#0": converted("no window", 0, window=2),
    "swap#0": converted("swap", 0, transfer=False, window=2),
    **{f"votes {name}": votes(name) for name in VOTERS},
}


# ---- the table ----


def kept(out: Path) -> str:
    """Accuracy, what it is of the base's, the gap closed, tokens, and recall by distance."""
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted((out / "points").glob(f"*{GREEDY}.npz")):
        with np.load(path) as arrays:
            name = path.stem.removesuffix(GREEDY).partition("#")[0]
            found.setdefault(name, []).append(arrays[PLAIN].reshape(-1, arrays[PLAIN].shape[-1]))
    recalled = sums_of(out, "recall")
    accuracy = {name: np.mean([values[:, 0].mean() for values in seeds]) for name, seeds in found.items()}
    base, without = (accuracy.get(name, np.nan) for name in ("base", "no transfer"))
    lines = [
        f"| arm | seeds | accuracy | of the base's | gap closed | tokens | recall {' | '.join(headings())} |",
        f"| --- | ---: | ---: | ---: | ---: | ---: | {' | '.join('---:' for _ in BOUNDS)} |",
    ]
    for name, seeds in sorted(found.items(), key=lambda item: -accuracy[item[0]]):
        tokens = np.mean([values[:, 1].mean() for values in seeds])
        shares = [f"{hit / max(1, count):.1%}" for hit, count in recalled[name]]
        gap = (accuracy[name] - without) / (base - without)
        lines.append(
            f"| {name} | {len(seeds)} | {accuracy[name]:.1%} | {accuracy[name] / base:.1%} | {gap:.0%} | {tokens:.1f} "
            f"| {' | '.join(shares)} |"
        )
    return "\n".join(lines)


def lengths(out: Path) -> str:
    """Nats a token by the windows before it, and how many more than the base's."""
    sums = sums_of(out, "loss")
    base = sums.get("base", np.full((len(BOUNDS), 2), np.nan))
    lines = [
        f"| arm | nats a token, windows {' | '.join(headings())} |",
        f"| --- | {' | '.join('---:' for _ in BOUNDS)} |",
    ]
    for name, own in sums.items():
        pairs = zip(own, base, strict=True)  # [nats, tokens] of both, per bound
        cells = [f"{n / t:.4f} ({n / t / (m / u) - 1:+.1%})" if t else "" for (n, t), (m, u) in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def voted(out: Path) -> str:
    """Seconds a problem of k samples, and how often their most frequent answer is right, over all groups of k."""
    lines = ["| arm | votes | seconds | accuracy |", "| --- | ---: | ---: | ---: |"]
    for path in sorted((out / VOTES).glob("*.jsonl")):
        samples: dict[str, list[dict]] = {}
        for trace in sorted(read_jsonl(path), key=lambda trace: trace["sample_index"]):
            samples.setdefault(trace["id"], []).append(trace)
        count = len(next(iter(samples.values())))
        seconds = np.mean([trace["spend"]["seconds"] for traces in samples.values() for trace in traces])
        for k in (1 << power for power in range(count.bit_length())):
            groups = (traces[first : first + k] for traces in samples.values() for first in range(0, count, k))
            accuracy = np.mean([is_right(group) for group in groups])
            lines.append(f"| {path.stem} | {k} | {k * seconds:.5f} | {accuracy:.1%} |")
    return "\n".join(lines)


def is_right(traces: list[dict]) -> bool:
    """Whether the answer that most of them give, the first of equals, is the correct one."""
    answers = Counter(trace["final_answer"] for trace in traces if trace["final_answer"] is not None)
    chosen = answers.most_common(1)[0][0] if answers else None
    return any(trace["correct"] for trace in traces if trace["final_answer"] == chosen)


def sums_of(out: Path, kind: str) -> dict[str, np.ndarray]:
    """What `read` counted (bounds, 2), summed over the seeds of each arm."""
    sums: dict[str, np.ndarray] = {}
    for path in sorted((out / READING).glob("*.json")):
        counts = json.loads(path.read_text())[kind]
        name = path.stem.partition("#")[0]
        sums[name] = sums.get(name, 0) + np.array([counts[bound] for bound in BOUNDS], float)
    return sums


def headings() -> list[str]:
    return [f"<= {bound}" if bound != "more" else bound for bound in BOUNDS]


if __name__ == "__main__":
    tables = {"table.md": kept, "length.md": lengths, "votes.md": voted}
    run_bench(LinearBench, ARMS, SCALES, "runs/linear", __doc__, tables, [f"votes {name}" for name in VOTERS])
