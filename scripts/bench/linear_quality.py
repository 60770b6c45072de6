"""What linearized attention keeps of a model that reasons over what it read long ago, with ablations, and one table.

    python -m scripts.bench.linear_quality BASE --out runs/linear [--only 'linearized*'] [--scale toy] [--jobs 8]

BASE is a model of words that solves graphs aloud (`configs/pretrain/graph_paths.yaml`): a chain of some 140 tokens
looks up facts of a question of some 220, and a window of 64 tokens holds few of them.

1. The base's own traces, right and wrong, are the rows. Attention transfer, then LoRA on next tokens; every arm trains
   the same LoRA for as many steps.
2. `window only` has sliding attention and no state (its LoRA is of all linear layers): what the window alone is worth.
   `no transfer` begins from feature maps as they are, `no window` sees two tokens by softmax, `swap` is without both.
   `3:1` keeps softmax in one layer of four, and `half window` has 32 tokens instead of 64.
3. *Gap closed* is (arm - `no transfer`) / (base - `no transfer`), of greedy accuracy on the same problems.
4. *Recall*: chains of the base are read, and each noun that stands in a fact of the question is to be predicted; how
   often it is, by how many tokens back the fact was told last. 64, 128, 256 and 512 are 1, 2, 4 and 8 windows.
5. *Length*: nats a token of these chains, by how many tokens stand before it, beside the base's on the same tokens.
   Few texts reach 8 windows of 64; of `half window`, all behind 256 tokens stands behind 8 windows and more.
6. *Votes*: the base, `linearized` and `3:1` sample, each with the device to itself behind all other arms; what the
   most frequent of k answers is worth, and the seconds a problem that k samples take (arXiv 2504.10449), beside what
   the base reaches in as many. Steps behind contexts of any length tell from which one on a state takes less time.
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
from scripts.bench.linear_decoding import break_even, engine_of, row_seconds, step_seconds

SEEDS = 3
READING, VOTES = "reading", "votes"
DISTANCES = (64, 128, 256, 512)  # in tokens, upper bounds
BOUNDS = (*map(str, DISTANCES), "more")
PLAIN = "budget-forcing@None"
LORA = {"lora_rank": 8, "lora_alpha": 16}


@dataclass(frozen=True)
class LinearScale(Scale):
    """Also of the conversion.

    Attributes:
        window_tokens: of linearized layers, and of `window only`.
        transfer_rate, lora_rate: learning rates.
        accumulation: parts of a batch that are trained on one after another.
        save_steps: between two places from which a training that was cut goes on.
        read_rows: chains that are read.
        vote_problems, votes: problems, and samples of each; the latter a power of two.
        step_rows, step_contexts: rows of a step, and the tokens before it.
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
    accumulation: int = 1
    save_steps: int = 100_000
    read_rows: int = 500
    vote_problems: int = 256
    votes: int = 32
    step_rows: int = 128
    step_contexts: tuple[int, ...] = (128, 256, 512, 1024, 4096, 16384)


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
        step_rows=2,
        step_contexts=(32, 64),
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
            "per_device_train_batch_size": self.scale.batch_size // self.scale.accumulation,
            "gradient_accumulation_steps": self.scale.accumulation,
            "save_steps": self.scale.save_steps,
            "save_total_limit": 1,
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
        if not path.is_file():
            write_json(path, read(str(model), self.data, self.scale.read_rows))
            self.tidy()


def read(model: str, data: Path, rows: int) -> dict[str, dict[str, list[float]]]:
    """What a model makes of chains that it reads, by an upper bound in tokens.

    Returns:
        `recall`: [predicted, all] of nouns that a fact of the prompt says, by how far back it was told last; and
        `loss`: [nats, tokens] of completions, by the place of the token.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from efficient_reasoning.checkpoint import load_model, load_tokenizer

    def bound_of(tokens: int) -> str:
        return next((str(bound) for bound in DISTANCES if tokens <= bound), "more")

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
        said = {}  # where it was told last of what (is a) that it is what, by the question first
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
            if place + 3 >= len(prompt):
                if fact not in said:
                    continue
                bucket = recalled[bound_of(place + 3 - said[fact])]
                bucket[0] += best[place + 2] == ids[place + 3]
                bucket[1] += 1
            said[fact] = place + 3
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


def half_window(bench: LinearBench) -> None:
    converted("half window", 0, window=bench.scale.window_tokens // 2)(bench)


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
    """Samples of the base, or of what the arm of this name has made, and seconds of its steps."""

    def arm(bench: LinearBench) -> None:
        from efficient_reasoning import load_reasoner
        from efficient_reasoning.traces import sample_traces

        scale, model = bench.scale, bench.base if name == "base" else bench.out / "models" / f"{name}-0"
        reasoner = load_reasoner(str(model), bench.backend)
        for folder, seed in (("warm", 2), (VOTES, 1)):  # the first time steps are captured
            path = bench.out / folder / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            sample_traces(
                reasoner,
                bench.problems[: scale.vote_problems],
                strategies=["budget-forcing"],
                budgets=[None],
                samples_per_problem=scale.votes,
                **SAMPLING,
                max_new_tokens=scale.max_new_tokens,
                seed=seed,
                path=path,
                config_path=path.with_suffix(".yaml"),
            )
        engine, steps = engine_of(reasoner.engine.model, scale.step_rows), {}
        for context in scale.step_contexts:
            seconds = step_seconds(engine, scale.step_rows, context, tokens=64)
            steps[str(context)] = {"batch": scale.step_rows, "seconds": seconds}
            write_json(bench.out / VOTES / f"{name}.json", steps)

    return arm


VOTERS = ("base", "linearized", "3:1")
ARMS: Arms = {
    "base": teacher,
    **{f"linearized#{seed}": converted("linearized", seed) for seed in range(SEEDS)},
    **{f"no transfer#{seed}": converted("no transfer", seed, transfer=False) for seed in range(SEEDS)},
    "3:1#0": converted("3:1", 0, kept="[3]"),
    "window only#0": window_only,
    "half window#0": half_window,
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
        shares = [f"{hit / count:.1%}" if count else "" for hit, count in recalled.get(name, ())]
        gap = (accuracy[name] - without) / (base - without)
        lines.append(
            f"| {name} | {len(seeds)} | {accuracy[name]:.1%} | {accuracy[name] / base:.1%} | {gap:.0%} | {tokens:.1f} "
            f"| {' | '.join(shares)} |"
        )
    return "\n".join(lines)


def lengths(out: Path) -> str:
    """Nats a token by the tokens before it, and how many more than the base's."""
    sums = sums_of(out, "loss")
    base = sums.get("base", np.full((len(BOUNDS), 2), np.nan))
    lines = [
        f"| arm | nats a token, behind {' | '.join(headings())} |",
        f"| --- | {' | '.join('---:' for _ in BOUNDS)} |",
    ]
    for name, own in sums.items():
        pairs = zip(own, base, strict=True)  # [nats, tokens] of both, per bound
        cells = [f"{n / t:.4f} ({n / t / (m / u) - 1:+.1%})" if t else "" for (n, t), (m, u) in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def voted(out: Path) -> str:
    """Seconds a problem of k samples, how often their most frequent answer is right, over all groups of k, and how
    often that of the base is in as many seconds: on a line between two k, over the logarithm of seconds."""
    found: dict[str, list[tuple[int, float, float]]] = {}  # k, seconds, accuracy
    for path in sorted((out / VOTES).glob("*.jsonl")):
        samples: dict[str, list[dict]] = {}
        for trace in sorted(read_jsonl(path), key=lambda trace: trace["sample_index"]):
            samples.setdefault(trace["id"], []).append(trace)
        count = len(next(iter(samples.values())))
        seconds = np.mean([trace["spend"]["seconds"] for traces in samples.values() for trace in traces])
        for k in (1 << power for power in range(count.bit_length())):
            groups = (traces[first : first + k] for traces in samples.values() for first in range(0, count, k))
            found.setdefault(path.stem, []).append((k, k * seconds, np.mean([is_right(group) for group in groups])))
    lines = ["| arm | votes | seconds | accuracy | base in as many |", "| --- | ---: | ---: | ---: | ---: |"]
    _, times, base = zip(*found.get("base", [(0, np.nan, np.nan)]), strict=True)
    for name, points in found.items():
        for k, seconds, accuracy in points:
            beside = np.interp(np.log(seconds), np.log(times), base, left=np.nan)
            beside = "" if np.isnan(beside) else f"{beside:.1%}"
            lines.append(f"| {name} | {k} | {seconds:.5f} | {accuracy:.1%} | {beside} |")
    steps = {path.stem: row_seconds(json.loads(path.read_text())) for path in sorted((out / VOTES).glob("*.json"))}
    if "base" in steps:
        contexts = list(steps["base"])
        lines += ["", f"| microseconds of a step, a row, behind | {' | '.join(map(str, contexts))} | breaks even |"]
        lines += [f"| --- | {' | '.join('---:' for _ in contexts)} | --- |"]
        for name, own in steps.items():
            cells = [f"{1e6 * own[context]:.1f}" if context in own else "" for context in contexts]
            even = break_even(steps["base"], own) if name != "base" and len(own) == len(contexts) else ""
            lines.append(f"| {name} | {' | '.join(cells)} | {even} |")
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
