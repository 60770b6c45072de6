"""What latents are worth: Coconut, pauses, ICoT and chains in tokens, each from the same base, and one table.

    python -m scripts.bench.latent_quality --out runs/latent [--only 'prosqa/*'] [--scale toy] [--jobs 8]

1. A task has a base, pre-trained from scratch on its chains (that of `prosqa` on other searches, and then on these),
   and rows of fresh problems. Both are made once, by the first arm that needs them. Every method trains from that
   base, on those rows, with as many steps and the same learning rates.
2. Tests are the official problems (ProsQA's first 250, and the multiplications of ICoT), generated ones, and graphs
   beyond the training: without shortcuts, of 7 or 8 hops, denser, with cycles. Chains of `prosqa` are searches, a
   ring a step; those of `prosqa_ways` the shortest ways, as in ProsQA. Decoding is greedy; a latent counts as a token.
   `gsm_symbolic_stages` has 8 and 16 latents, one or two a step.
3. Controls: `cot` and `no_cot` train on with all steps and with none; `pause` has a learnt token in place of each
   latent, and is compared with `coconut` and `sim_cot` problem by problem, on `prosqa` over three seeds of each. Of
   multiplications the base stands for `cot`: it writes their chains, and nothing else.
4. Behind all else, alone on its GPU, each model of seed 0 solves problems one at a time: seconds a problem.

EFFICIENT_REASONING_DATA names the folder of the official files, `../shared/data` by default. How arms run:
`scripts/bench/arms.py`. Graphs and their shortcuts: `scripts/bench/graph_shortcuts.py`.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from efficient_reasoning.evaluation.statistics import mark_of, paired_bootstrap
from efficient_reasoning.files import write_json
from scripts.bench.arms import GREEDY, Arm, Arms, Bench, Scale, flags, run_bench

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EFFICIENT_REASONING_DATA", ROOT / "../shared/data"))
ROW_SHARDS = 16  # of the rows, each with a draw of its own
SEEDS = 3  # of what is compared
PLAIN = "budget-forcing@None"  # the only strategy and budget
LATENCY = "latency"


@dataclass(frozen=True)
class LatentScale(Scale):
    """Also how much of each task.

    Attributes:
        share: of the steps and rows of each task.
        base: flags of the pre-training beside those of the config.
        other_problems: of a test that is neither official nor drawn like the training.
        latency_problems: solved one at a time, of which a quarter warms up.
    """

    share: float = 1.0
    other_problems: int = 1000
    latency_problems: int = 40
    base: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One base, and what trains from it.

    Attributes:
        tests: by name; `load_problems` reads them.
        methods: by the name of an arm, the flags of `sft_latent` that are its own.
        seeds: of an arm, 1 where it is not named.
        rows, steps, batch_size, learning_rate: of every training.
        max_new_tokens: of a test.
        style: of the chains.
        chain_steps: of the base on these chains in words, if it was pre-trained on others.
    """

    tests: Mapping[str, str]
    methods: Mapping[str, Mapping[str, object]]
    rows: int
    steps: int
    batch_size: int
    learning_rate: float
    max_new_tokens: int
    style: str = "equations"
    chain_steps: int = 0
    seeds: Mapping[str, int] = field(default_factory=dict)


_CODI = {"method": "codi", "max_stage": 8}  # latents, one a step
_NO_STAGES = {"cot": {"method": "cot"}, "no_cot": {"method": "no_cot"}}


def multiplication(digits: int, steps_per_stage: int, stages: int, last_stage: int) -> Task:
    """Eight tokens less of the chain in every stage, until none is left."""
    icot = {"method": "icot", "steps_per_stage": steps_per_stage, "max_stage": last_stage, "removed_tokens": 8}
    tests = {"official": f"file:{DATA}/multiplication/{digits}_by_{digits}_test.txt"}
    return Task(
        tests=tests | {"generated": f"multiplication_{digits}"},
        methods={"no_cot": {"method": "no_cot"}, "icot": icot},
        rows=200_000,
        steps=steps_per_stage * stages,
        batch_size=512,
        learning_rate=5e-4,
        max_new_tokens=128,
    )


def graphs(style: str, chain_steps: int, seeds: int, *methods: str) -> Task:
    """Latents, or pauses, in place of the steps of a chain."""
    stages = {"steps_per_stage": 500, "max_stage": 6, "mixed_stages": True}
    every = _NO_STAGES | {method: {"method": method} | stages for method in ("coconut", "sim_cot", "pause")}
    tests = {"official": f"file:{DATA}/prosqa/test_000_249.json", "generated": "prosqa", "balanced": "graph_paths"}
    return Task(
        tests=tests | {name: f"graph_paths_{name}" for name in ("long", "dense", "cyclic")},
        methods={method: every[method] for method in methods},
        rows=200_000,  # 50,000 are learnt by heart
        steps=4000,
        batch_size=128,
        learning_rate=5e-4,
        max_new_tokens=384,
        style=style,
        chain_steps=chain_steps,
        seeds=dict.fromkeys(("coconut", "sim_cot", "pause"), seeds),
    )


TASKS = {
    "prosqa": graphs("plain", 2500, SEEDS, "cot", "no_cot", "coconut", "sim_cot", "pause"),
    "prosqa_ways": graphs("equations", 0, 1, "cot", "coconut"),
    "multiplication_4": multiplication(4, steps_per_stage=500, stages=14, last_stage=7),
    "multiplication_5": multiplication(5, steps_per_stage=400, stages=14, last_stage=10),
    "gsm_symbolic": Task(
        tests={"generated": "gsm_symbolic"},
        methods=_NO_STAGES
        | {"codi": _CODI, "codi without distillation": _CODI | {"distillation_coef": 0}}
        | {"codi with steps": _CODI | {"step_coef": 1}},  # as SIM-CoT adds to it
        rows=200_000,
        steps=4000,
        batch_size=512,
        learning_rate=1e-3,
        max_new_tokens=256,
    ),
    "gsm_symbolic_stages": Task(
        tests={"generated": "gsm_symbolic"},
        methods={
            f"{method}_{8 * latents}": {
                "method": method,
                "steps_per_stage": 250,
                "max_stage": 8,
                "latents_per_step": latents,
                "mixed_stages": True,
            }
            for method in ("coconut", "sim_cot")
            for latents in (1, 2)
        },
        rows=50_000,
        steps=2750,
        batch_size=128,
        learning_rate=5e-4,
        max_new_tokens=256,
    ),
}
# Where a task has another's base, and where its problems are called otherwise.
BASES = {"prosqa": "graph_paths", "prosqa_ways": "graph_paths", "gsm_symbolic_stages": "gsm_symbolic"}
PROBLEMS = {"prosqa_ways": "prosqa", "gsm_symbolic_stages": "gsm_symbolic"}
CONFIGS = {"gsm_symbolic": "gsm_symbolic_15m"}  # of the pre-training, where it is not called after its base
_TOY = "{model_type: qwen3, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, "
_TOY += "head_dim: 8, intermediate_size: 16, max_position_embeddings: 1024, tie_word_embeddings: true}"
SCALES = {
    "full": LatentScale(test_problems=2000, test_samples=1),  # 13M to 19M parameters, on GPUs
    "headline": LatentScale(test_problems=10_000, test_samples=1, other_problems=2000),  # of the same models as `full`
    "toy": LatentScale(  # everything runs, and nothing is learnt
        test_problems=8,
        test_samples=1,
        max_new_tokens=24,
        share=1e-3,
        other_problems=8,
        latency_problems=4,
        base={
            "architecture": _TOY,
            "num_rows": 64,
            "num_shards": 2,
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "torch_compile": False,
            "bf16": False,
            "dataloader_num_workers": 0,
            "dataloader_pin_memory": False,
        },
    ),
}


@dataclass
class LatentBench(Bench):
    scale: LatentScale

    has_bases = True

    def __post_init__(self) -> None:
        import torch

        if torch.cuda.is_available():
            self.backend = "graph?rows=256"  # beside others on the same GPU

    def prepare(self) -> None:
        """Nothing is trained for a test that cannot be read."""
        for task in TASKS.values():
            for source in task.tests.values():
                if source.startswith("file:") and not Path(source.removeprefix("file:")).is_file():
                    raise SystemExit(f"{source}: no such file; EFFICIENT_REASONING_DATA names the folder of the data.")

    def base_folder(self, name: str) -> Path:
        return self.out / "bases" / (name if TASKS[name].chain_steps else BASES.get(name, name))

    def base_of(self, name: str) -> Path:
        """The folder of the task's base, trained."""
        task, pretrained = TASKS[name], self.pretrain(BASES.get(name, name))
        if not task.chain_steps:
            return pretrained
        folder, rows = self.base_folder(name), self.rows_of(name)

        def train() -> None:
            steps = max(1, round(self.scale.share * task.chain_steps))
            options = self.options(task, pretrained, rows, folder, steps, 0) | {"method": "cot"}
            self.command("train", "sft_latent", *flags(options))

        return self.once(folder / "reasoning.json", train).parent

    def pretrain(self, name: str) -> Path:
        """The folder of a model from scratch."""
        folder = self.out / "bases" / name
        config = ROOT / "configs" / "pretrain" / f"{CONFIGS.get(name, name)}.yaml"
        options = {"output_dir": folder, "disable_tqdm": True} | self.scale.base

        def pretrain() -> None:
            self.command("train", "pretrain", "--config", config, *flags(options))

        return self.once(folder / "reasoning.json", pretrain).parent

    def rows_of(self, name: str) -> Path:
        """The rows of a task, drawn in several processes."""
        base, path = self.pretrain(BASES.get(name, name)), self.out / "rows" / f"{name}.jsonl"
        rows = max(ROW_SHARDS, round(self.scale.share * TASKS[name].rows))

        def write() -> None:
            began = time.perf_counter()
            shards = [path.with_suffix(f".{shard}") for shard in range(ROW_SHARDS)]
            options = {"task": PROBLEMS.get(name, name), "style": TASKS[name].style}
            options |= {"model": base, "num_problems": -(-rows // ROW_SHARDS)}
            lines = [flags(options | {"seed": seed, "out": shard}) for seed, shard in enumerate(shards)]
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(ROW_SHARDS, os.cpu_count()), context) as pool:
                list(pool.map(write_rows, lines))
            whole = path.with_suffix(".unfinished")
            with open(whole, "wb") as out:
                for shard in shards:
                    with open(shard, "rb") as part:
                        shutil.copyfileobj(part, out)
                    shard.unlink()
            whole.rename(path)
            self.log("data chain_steps", lines[0], began)

        return self.once(path, write)

    def train_latent(self, name: str, arm: str, seed: int) -> Path:
        """The folder of a model that `sft_latent` has trained from the base of the task."""
        task = TASKS[name]
        folder, own = self.out / "models" / name / f"{arm}-{seed}", dict(task.methods[arm])
        base, rows = self.base_of(name), self.rows_of(name)
        if (folder / "reasoning.json").is_file():
            return folder
        steps = task.steps
        if "steps_per_stage" in own:
            per_stage = max(1, round(self.scale.share * own["steps_per_stage"]))
            steps = round(steps / own["steps_per_stage"] * per_stage)
            own["steps_per_stage"] = per_stage
        else:
            steps = max(1, round(self.scale.share * steps))
        self.command("train", "sft_latent", *flags(self.options(task, base, rows, folder, steps, seed) | own))
        return folder

    def options(self, task: Task, base: Path, rows: Path, folder: Path, steps: int, seed: int) -> dict[str, object]:
        """Of every training, beside those of its method."""
        import torch
        from transformers.utils import is_liger_kernel_available

        on_gpu = torch.cuda.is_available()
        return self.quiet_options() | {
            "model": base,
            "data": rows,
            "output_dir": folder,
            "max_steps": steps,
            "per_device_train_batch_size": task.batch_size if on_gpu else 4,
            "use_liger_kernel": on_gpu and is_liger_kernel_available(),
            "learning_rate": task.learning_rate,
            # High until all steps are replaced: each stage begins as a new optimizer does.
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": json.dumps({"num_decay_steps": steps // 5}),
            "warmup_steps": steps // 50,
            "weight_decay": 0.01,
            "adam_beta2": 0.98,
            "logging_steps": max(1, steps // 70),
            "seed": seed,
        }

    def solve_tests(self, name: str, arm: str, model: Path) -> None:
        for test, source in TASKS[name].tests.items():
            is_other = test not in ("official", "generated")
            problems = test_problems(source, self.scale.other_problems if is_other else self.scale.test_problems)
            limit = min(self.scale.max_new_tokens, TASKS[name].max_new_tokens)
            self.test(f"{name}/{test} {len(problems)}/{arm}{GREEDY}", model, problems=problems, max_new_tokens=limit)

    def solve_with_fewer_latents(self, name: str, arm: str, model: Path, numbers: range) -> None:
        """The first test with these numbers of latents, behind which the rest of the chain is written."""
        test, source = next(iter(TASKS[name].tests.items()))
        problems = test_problems(source, self.scale.test_problems)
        for latents in numbers:
            self.test(
                f"{name}/{test} {len(problems)} with {latents} latents/{arm}{GREEDY}",
                model,
                problems=problems,
                max_new_tokens=min(self.scale.max_new_tokens, TASKS[name].max_new_tokens),
                backend=f"{self.backend}{'&' if '?' in self.backend else '?'}latent_steps={latents}",
            )


@functools.cache
def test_problems(source: str, count: int) -> list[dict]:
    """So many at most: a file may hold fewer."""
    from efficient_reasoning.problems import load_problems

    return load_problems(source, "test", count, seed=1)


def write_rows(argv: list[str]) -> None:
    """In a process of its own."""
    from data_tools import chain_steps

    chain_steps.main(argv)


# ---- the arms ----


def pretrained(name: str) -> Arm:
    def arm(bench: LatentBench) -> None:
        bench.solve_tests(name, "base", bench.base_of(name))

    return arm


def trained(name: str, method: str, seed: int) -> Arm:
    def arm(bench: LatentBench) -> None:
        model, options = bench.train_latent(name, method, seed), TASKS[name].methods[method]
        bench.solve_tests(name, f"{method}#{seed}", model)
        if options.get("mixed_stages") and options["method"] in ("coconut", "sim_cot") and not seed:
            per_step = options.get("latents_per_step", 1)
            numbers = range(0, options["max_stage"] * per_step, per_step)
            bench.solve_with_fewer_latents(name, f"{method}#{seed}", model, numbers)

    return arm


def latency(name: str) -> Arm:
    """Median seconds of one problem at a time, models in turn, so that all meet the same disturbances."""

    def arm(bench: LatentBench) -> None:
        from efficient_reasoning import load_reasoner, solve

        task, path = TASKS[name], bench.out / LATENCY / f"{name}.json"
        if path.is_file() and json.loads(path.read_text()).keys() == {"base", *task.methods}:
            return
        folders = {"base": bench.base_folder(name)}
        folders |= {method: bench.out / "models" / name / f"{method}-0" for method in task.methods}
        there = {method: folder for method, folder in folders.items() if (folder / "reasoning.json").is_file()}
        reasoners = {method: load_reasoner(str(folder), bench.backend) for method, folder in there.items()}
        taken: dict[str, list[float]] = {method: [] for method in reasoners}
        limit = min(bench.scale.max_new_tokens, task.max_new_tokens)
        for problem in test_problems(next(iter(task.tests.values())), bench.scale.latency_problems):
            for method, reasoner in reasoners.items():
                began = time.perf_counter()
                solve(reasoner, problem["question"], temperature=0.0, max_new_tokens=limit)
                taken[method].append(time.perf_counter() - began)
        # The first ones warm up: graphs of several lengths are captured.
        medians = {method: statistics.median(values[len(values) // 4 :]) for method, values in taken.items()}
        path.parent.mkdir(exist_ok=True)
        write_json(path, medians)
        if there.keys() < folders.keys():
            raise RuntimeError(f"Only {', '.join(there)} are trained.")  # the arm is not done

    return arm


# The bases first, one a process; behind them what is to be compared.
ARMS: Arms = (
    {f"{name}/base": pretrained(name) for name in TASKS}
    | {
        f"{name}/{method}#{seed}": trained(name, method, seed)
        for name, task in TASKS.items()
        for method in task.methods
        for seed in range(task.seeds.get(method, 1))
    }
    | {f"{name}/{LATENCY}": latency(name) for name in TASKS}
)


# ---- the tables ----


def read_points(out: Path) -> dict[tuple[str, str], dict[str, list[np.ndarray]]]:
    """By task and test: of each arm the (problems, columns) of its seeds."""
    found: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
    for name, task in TASKS.items():
        for test in task.tests:
            for path in sorted((out / "points" / name).glob(f"{test} */*.npz")):
                with np.load(path) as arrays:
                    arm = path.stem.removesuffix(GREEDY).partition("#")[0]
                    points = found.setdefault((name, path.parent.name), {})
                    points.setdefault(arm, []).append(arrays[PLAIN][:, 0])
    return found


def accuracies(out: Path) -> str:
    """Every arm on every test: accuracy, tokens, how many times fewer than of chains in tokens, and time alone."""
    lines = [
        "| task | test, problems | arm | accuracy | of each seed | of cot's | tokens | times fewer than cot "
        "| ms alone | times faster than cot |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, test), arms in read_points(out).items():
        chains = "cot" if "cot" in TASKS[name].methods else "base"
        cot = np.stack(arms[chains]).mean((0, 1)) if chains in arms else [np.nan, np.nan]
        timed = out / LATENCY / f"{name}.json"
        alone = (
            json.loads(timed.read_text())
            if timed.is_file() and test.split()[0] == next(iter(TASKS[name].tests)) and " with " not in test
            else {}
        )
        for arm in [arm for arm in ("base", *TASKS[name].methods) if arm in arms]:
            each = [values[:, 0].mean() for values in arms[arm]]
            accuracy, tokens = np.stack(arms[arm]).mean((0, 1))[:2]
            seconds = alone.get(arm, np.nan)
            lines.append(
                f"| {name} | {test} | {arm} | {accuracy:.2%} "
                f"| {', '.join(f'{one:.2%}' for one in each)} | {accuracy / max(cot[0], 1e-9):.1%} | {tokens:.1f} "
                f"| {cot[1] / tokens:.2f} | {1000 * seconds:.1f} | {alone.get(chains, np.nan) / seconds:.2f} |"
            )
    lines += [
        "",
        "Less pause, problem by problem:",
        "",
        "| task | test, problems | arm | seeds | accuracy change [95 %] |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    pairs = ((key, arms, arm) for key, arms in read_points(out).items() for arm in ("coconut", "sim_cot"))
    for (name, test), arms, arm in pairs:
        if arm not in arms or "pause" not in arms:
            continue
        seeds = min(len(arms[arm]), len(arms["pause"]))
        after, before = (np.stack(arms[each][:seeds])[..., 0] for each in (arm, "pause"))  # (seeds, problems)
        problems = np.broadcast_to(np.arange(after.shape[1]), after.shape).ravel()
        drawn = np.broadcast_to(np.arange(seeds)[:, None], after.shape).ravel() if seeds > 1 else None
        change = paired_bootstrap(before.ravel(), after.ravel(), problems, seeds=drawn, share=True, resamples=4000)
        lines.append(
            f"| {name} | {test} | {arm} | {seeds} "
            f"| {100 * change.mean:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}] {mark_of(change)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_bench(
        LatentBench,
        ARMS,
        SCALES,
        "runs/latent",
        __doc__,
        {"table.md": accuracies},
        last=[f"{name}/{LATENCY}" for name in TASKS],
    )
