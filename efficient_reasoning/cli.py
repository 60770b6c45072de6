"""The front door: parses the command line and launches; everything else is behind it.

1. `train` and `data` turn into the program of `recipes/` or `data_tools/` that they name: the exact command is printed
   and takes over this process, so signals, exit codes and the terminal are its own.
2. The other commands call one function of one room, imported when the command runs: `--help` imports nothing heavy.
"""

from __future__ import annotations

import argparse
import ast
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import efficient_reasoning
from efficient_reasoning.config import programs, recipe_path
from efficient_reasoning.errors import BadInput, run

REQUIREMENTS = ("torch", "transformers", "trl", "peft", "deepspeed", "datasets", "accelerate", "huggingface_hub")
EXTRAS = {
    "gym": "reasoning-gym",
    "math": "math-verify",
    "fla": "flash-linear-attention",
    "app": "gradio",
    "vllm": "vllm",
    "harness": "lm-eval",
}


def main(argv: list[str] | None = None) -> None:
    """The console script `efficient-reasoning`."""
    argv = sys.argv[1:] if argv is None else argv
    run(lambda: _dispatch(argv))


def _dispatch(argv: list[str]) -> None:
    if argv[:1] == ["train"]:
        _train(argv[1:])
    elif argv[:1] == ["data"]:
        _launch("data_tools", "data METHOD", argv[1:], [sys.executable])
    else:
        arguments = _parser().parse_args([_hyphenated(word) for word in argv])
        arguments.command(arguments)


def _hyphenated(word: str) -> str:
    """`--num_problems` -> `--num-problems`: recipes and data tools spell their keys with underscores."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


# ---- train, data ----


def _train(argv: list[str]) -> None:
    """Take out the options that say where to run; the rest is the recipe's."""
    own = _Parser(prog="efficient-reasoning train", add_help=False, allow_abbrev=False)
    own.add_argument("--num-gpus", "--num_gpus", type=_count)
    own.add_argument("--hostfile", type=_file)
    where, rest = own.parse_known_args(argv)
    launcher = [sys.executable]
    if where.num_gpus or where.hostfile:
        launcher = [str(Path(sys.executable).with_name("deepspeed"))]
        launcher += ["--hostfile", str(where.hostfile)] if where.hostfile else []
        launcher += ["--num_gpus", str(where.num_gpus)] if where.num_gpus else []
    _launch("recipes", "train RECIPE", rest, launcher)


def _launch(kind: str, usage: str, argv: list[str], launcher: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: efficient-reasoning {usage} --config FILE [--key value ...]\n")
        for name, path in programs(kind).items():
            print(f"  {name:<20} {_first_line(path)}")
        print(f"\n`efficient-reasoning {usage} --help` lists the keys of one.")
        return
    command = [*launcher, str(recipe_path(argv[0], kind)), *argv[1:]]
    if not Path(command[0]).is_file():
        raise BadInput(f"{command[0]}: no such program; install it with `pip install {Path(command[0]).name}`.")
    print(shlex.join(command), file=sys.stderr, flush=True)
    os.execv(command[0], command)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


# ---- solve, evaluate, compare, plan, audit, app, publish, env ----


def _solve(arguments: argparse.Namespace) -> None:
    import json

    from tqdm import tqdm

    from efficient_reasoning.files import read_numbered_jsonl, write_jsonl
    from efficient_reasoning.inference import load_reasoner, solve_many
    from efficient_reasoning.prompts import conversation

    if (arguments.question is None) == (arguments.file is None):
        raise BadInput('solve takes a "question" or --file problems.jsonl, one of the two.')
    rows = [{"question": arguments.question}]
    if arguments.file:
        numbered = list(read_numbered_jsonl(arguments.file))
        rows = [row for _, row in numbered]
        for number, row in numbered:
            if not isinstance(row.get("question"), str) or not row["question"].strip():
                raise BadInput(f"{arguments.file}, line {number}: no text under question; every row needs one.")
    reasoner = load_reasoner(arguments.model, arguments.backend, adapter_scale=arguments.adapter_scale)
    with tqdm(total=len(rows), unit="problem", disable=arguments.file is None) as bar:
        solutions = solve_many(
            reasoner,
            [conversation(row) for row in rows],
            strategy=arguments.strategy,
            budget_tokens=arguments.budget_tokens,
            seeds=range(arguments.seed, arguments.seed + len(rows)),
            progress=bar.update,
            **_sampling(arguments),
        )
    counted = ("thinking", "truncated", "thinking_tokens", "answer_tokens", "total_tokens", "latent_tokens")
    solved = [
        # `answer` stays the gold answer that it is in a Problem; the solution's is a Trace's `final_answer`.
        row
        | {name: getattr(solution, name) for name in counted}
        | {"final_answer": solution.answer}
        | {"spend": solution.spend.as_dict()}
        for row, solution in zip(rows, solutions, strict=True)
    ]
    if arguments.out is not None:
        write_jsonl(arguments.out, solved)
        print(arguments.out)
    elif arguments.file is not None:
        print(*(json.dumps(row, ensure_ascii=False) for row in solved), sep="\n")
    else:
        [row] = solved
        print(row["thinking"].strip(), row["final_answer"].strip(), sep="\n\n")
        total_tokens = row["total_tokens"] + row["latent_tokens"]
        latent = f"{row['latent_tokens']} latent, " if row["latent_tokens"] else ""
        counts = f"{latent}{row['thinking_tokens']} thinking, {row['answer_tokens']} answer"
        print(f"\n{total_tokens} tokens: {counts}", file=sys.stderr)


def _evaluate(arguments: argparse.Namespace) -> None:
    from efficient_reasoning.evaluation import evaluate_model

    folder = evaluate_model(
        arguments.model,
        arguments.task,
        strategies=arguments.strategy,
        budgets=arguments.budgets,
        num_problems=arguments.num_problems,
        samples_per_problem=arguments.samples_per_problem,
        backend=arguments.backend,
        adapter_scale=arguments.adapter_scale,
        off_target=arguments.off_target,
        seed=arguments.seed,
        out=arguments.out,
        **_sampling(arguments),
    )
    print(folder)


def _compare(arguments: argparse.Namespace) -> None:
    from efficient_reasoning.evaluation import compare

    print(compare(arguments.runs, arguments.out))


def _plan(arguments: argparse.Namespace) -> None:
    from efficient_reasoning.evaluation import plan

    budgets = {unit: getattr(arguments, f"budget_{unit}") for unit in ("tokens", "flops", "seconds")}
    [(unit, budget)] = [(unit, budget) for unit, budget in budgets.items() if budget is not None]
    chosen = plan(arguments.runs, budget, unit)
    print(chosen)
    if arguments.model is not None:
        chosen.save(arguments.model)
        print(f"{arguments.model}: solve with --strategy planned?{unit}={budget:g}")


def _audit(arguments: argparse.Namespace) -> None:
    from efficient_reasoning.audit import audit_logs, audit_model

    if (arguments.model is None) == (arguments.logs is None):
        raise BadInput("audit takes --model M --task T, or --logs FILE, one of the two.")
    price = {"price_per_million_tokens": arguments.price_per_million_tokens}
    if arguments.logs is not None:
        folder = audit_logs(
            arguments.logs,
            out=arguments.out,
            tokenizer=arguments.tokenizer,
            answers_file=arguments.answers,
            verifier=arguments.verifier,
            **price,
        )
    else:
        from efficient_reasoning.inference import load_reasoner
        from efficient_reasoning.problems import load_tasks

        for name in ("tokenizer", "answers", "verifier"):
            if getattr(arguments, name) is not None:
                raise BadInput(f"--{name} is for --logs; --task names a verifier itself: file:PATH?task=judge.")
        if arguments.task is None:
            raise BadInput("audit --model needs --task: what shall it solve?")
        problems = load_tasks(arguments.task, "test", arguments.num_problems, arguments.seed)
        folder = audit_model(
            load_reasoner(arguments.model, arguments.backend, adapter_scale=arguments.adapter_scale),
            problems,
            out=arguments.out,
            samples_per_problem=arguments.samples_per_problem,
            seed=arguments.seed,
            **price,
            **_sampling(arguments),
        )
    print((folder / "report.md").read_text(encoding="utf-8"))


def _app(arguments: argparse.Namespace) -> None:
    from efficient_reasoning.app import serve

    serve(arguments.runs, arguments.model, arguments.port)


def _publish(arguments: argparse.Namespace) -> None:
    from efficient_reasoning.hub import publish

    folder = publish(
        arguments.run,
        arguments.model,
        arguments.repo,
        dry_run=arguments.dry_run,
        public=arguments.public,
        out=arguments.out,
        with_samples=arguments.with_samples,
        with_data=arguments.with_data,
        benchmark=arguments.benchmark,
        trust_remote_code=arguments.trust_remote_code,
    )
    print(folder)


def _env(arguments: argparse.Namespace) -> None:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    rows = {
        "efficient-reasoning": efficient_reasoning.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    rows |= {package: installed(package) for package in REQUIREMENTS}
    rows |= {f"{package} (extra {extra})": installed(package) for extra, package in EXTRAS.items()}
    if rows["torch"] != "not installed":
        import torch

        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        rows["devices"] = ", ".join(devices) or f"CPU, {torch.get_num_threads()} threads"
    for name, value in rows.items():
        print(f"{name:<36} {value}")


# ---- the parser ----


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{self.prog}: {message}; `{self.prog} --help` shows how.")


def _parser() -> argparse.ArgumentParser:
    # The rooms check their own arguments; checked here too is what they would see only after a model is loaded.
    parser = _Parser(prog="efficient-reasoning", description=efficient_reasoning.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=efficient_reasoning.__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("train", help="run a recipe: train RECIPE --config FILE [--num-gpus N] [--key value ...]")
    commands.add_parser("data", help="run a data tool: data METHOD --config FILE [--key value ...]")

    solve = _command(commands, "solve", _solve, "let a model think about a question, within a budget")
    solve.add_argument("question", nargs="?", help="the question itself, in quotes")
    solve.add_argument("--file", type=_file, help="JSONL file of problems instead of one question")
    solve.add_argument("--out", type=Path, help="JSONL file for what was solved (default: print it)")
    solve.add_argument("--model", required=True, help="folder or Hub id")
    solve.add_argument("--strategy", default="budget-forcing", help="as for evaluate (default: %(default)s)")
    solve.add_argument("--budget-tokens", type=_count, help="most tokens to decode (default: no limit)")
    _add_sampling(solve)

    evaluate = _command(commands, "evaluate", _evaluate, "measure accuracy against tokens")
    evaluate.add_argument("--model", required=True, help="folder or Hub id")
    evaluate.add_argument(
        "--task",
        required=True,
        type=_tasks,
        help="T[,T] of sums, heads_and_legs, mixed, gsm_symbolic, graph_paths, prosqa, passing_N, multiplication_N, "
        "list_functions, gym:NAME, file:PATH, hub:NAME",
    )
    evaluate.add_argument(
        "--strategy",
        default="budget-forcing",
        type=_strategies,
        help="S[,S] of budget-forcing, no-thinking, ..., with parameters as in deer?threshold=0.9; an unknown name "
        "lists all (default: %(default)s)",
    )
    evaluate.add_argument(
        "--budgets", default="none", type=_budgets, help="such as 64,128,none (default: %(default)s)"
    )
    evaluate.add_argument("--num-problems", default=500, type=_count, help="of each task (default: %(default)s)")
    evaluate.add_argument("--samples-per-problem", default=1, type=_count, help="(default: %(default)s)")
    evaluate.add_argument("--out", required=True, type=Path, help="folder of the run")
    evaluate.add_argument(
        "--off-target", nargs="*", metavar="FILE", help="also run the do-no-harm checks, and those in these files"
    )
    _add_sampling(evaluate)

    compare = _command(commands, "compare", _compare, "put runs of evaluate side by side")
    compare.add_argument("runs", metavar="RUN", nargs="+", type=_folder, help="folder that evaluate wrote")
    compare.add_argument("--out", type=Path, help="folder for the table and the curve")

    plan = _command(commands, "plan", _plan, "choose the strategy for a budget from runs of evaluate")
    plan.add_argument("runs", metavar="RUN", nargs="+", type=_folder, help="folder that evaluate wrote")
    plan.add_argument("--model", type=_folder, help="checkpoint whose reasoning.json is to hold the choice")
    budget = plan.add_mutually_exclusive_group(required=True)
    for unit, what in (("tokens", "generated tokens"), ("flops", "floating-point operations"), ("seconds", "seconds")):
        budget.add_argument(f"--budget-{unit}", type=_at_least(0, float), help=f"most {what} a problem, as a mean")

    audit = _command(commands, "audit", _audit, "measure how much a model overthinks, without training it")
    audit.add_argument("--model", help="folder or Hub id")
    audit.add_argument("--task", type=_tasks, help="what --model solves, as for evaluate")
    audit.add_argument("--num-problems", default=200, type=_count, help="of each task (default: %(default)s)")
    audit.add_argument("--samples-per-problem", default=4, type=_count, help="(default: %(default)s)")
    audit.add_argument("--logs", help="FILE of what a model has answered: chat replies, batches, samples.jsonl, rows")
    audit.add_argument("--tokenizer", help="of the model in --logs: folder or Hub id")
    audit.add_argument("--answers", help="FILE of problems with the gold answers of --logs")
    audit.add_argument("--verifier", help="for --logs without gold answers: agrees_with_base or judge")
    audit.add_argument(
        "--price-per-million-tokens", type=_at_least(0, float), help="of generated tokens (default: no costs)"
    )
    audit.add_argument("--out", required=True, type=Path, help="folder for the report")
    _add_sampling(audit)

    app = _command(commands, "app", _app, "explore runs of evaluate on a local page (extra app)")
    app.add_argument("runs", metavar="RUN", nargs="+", type=_folder, help="folder that evaluate wrote")
    app.add_argument("--model", nargs="+", default=[], help="one or two to ask: folders, Hub ids, or overthinker")
    app.add_argument("--port", default=7860, type=_count, help="of 127.0.0.1 (default: %(default)s)")

    publish = _command(commands, "publish", _publish, "upload a model with its card and curve to the Hub")
    publish.add_argument("run", metavar="RUN", type=_folder, help="folder that evaluate wrote for this model")
    publish.add_argument("--model", required=True, help="the checkpoint: folder, or overthinker")
    publish.add_argument("--repo", required=True, help="ORG/NAME on the Hub")
    publish.add_argument("--dry-run", action="store_true", help="write the folder that would go up, and stop")
    publish.add_argument("--out", type=Path, help="where the folder is built (default: RUN/hub)")
    publish.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    publish.add_argument("--with-samples", action="store_true", help="upload the run's samples too, as a data set")
    publish.add_argument("--with-data", type=_file, help="JSONL file of training rows to upload too, as a data set")
    publish.add_argument("--benchmark", help="for a leaderboard of the Hub: openai/gsm8k, if RUN solved all of it")
    publish.add_argument(
        "--trust-remote-code", action="store_true", help="run code in the checkpoint that is not this toolkit's"
    )

    _command(commands, "env", _env, "print versions, devices and extras")
    return parser


def _command(commands, name: str, function: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=function)
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        default="auto",
        help="graph, transformers, vllm, openai or mock, with options as in graph?rows=64 (default: %(default)s)",
    )
    parser.add_argument(
        "--adapter-scale", type=float, help="of the LoRA adapter kept with --model: 0 is without it (default: 1)"
    )
    parser.add_argument("--temperature", default=0.6, type=_at_least(0, float), help="0 is greedy (default: 0.6)")
    parser.add_argument("--top-p", default=0.95, type=_at_least(0, float), help="nucleus (default: %(default)s)")
    parser.add_argument("--top-k", default=20, type=_at_least(0, int), help="0 is off (default: %(default)s)")
    parser.add_argument("--max-new-tokens", default=512, type=_count, help="of one chain (default: %(default)s)")
    parser.add_argument("--seed", default=0, type=_seed, help="(default: %(default)s)")


def _sampling(arguments: argparse.Namespace) -> dict[str, float]:
    return {name: getattr(arguments, name) for name in ("temperature", "top_p", "top_k", "max_new_tokens")}


def _at_least(minimum: int, kind: type) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = minimum - 1
        if not minimum <= number < float("inf"):
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what} of at least {minimum}")
        return number

    return read


_count = _at_least(1, int)
_MOST_SEED = 2**63 - 1  # of torch's generators


def _seed(text: str) -> int:
    number = _at_least(0, int)(text)
    if number > _MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is more than {_MOST_SEED}, the largest seed")
    return number


def _budgets(text: str) -> list[int | None]:
    return [None if word == "none" else _count(word) for word in text.split(",")]


def _strategies(text: str) -> list[str]:
    """Split at the commas between names; those of a parameter, as in `?small=runs/3,large`, stay."""
    import re

    from efficient_reasoning.inference import STRATEGIES

    found: list[str] = []
    for part in re.split(r",(?=[a-z][a-z0-9-]*(?:[?,]|$))", text):
        if found and "?" in found[-1] and "?" not in part and part not in STRATEGIES:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _tasks(text: str) -> list[str]:
    """Split at the commas between tasks; those of a mapping, as in `file:PATH?question=stem,ask`, stay."""
    import re

    from efficient_reasoning.problems import FAMILIES, MIXED

    names = "|".join((*FAMILIES, MIXED))
    return re.split(rf",(?=(?:{names})(?:,|$)|(?:gym|file|hub):)", text)


def _existing(kind: str, exists: Callable[[Path], bool]) -> Callable[[str], Path]:
    def read(text: str) -> Path:
        if not exists(Path(text)):
            raise argparse.ArgumentTypeError(f"{text}: no such {kind}")
        return Path(text)

    return read


_file, _folder = _existing("file", Path.is_file), _existing("folder", Path.is_dir)


if __name__ == "__main__":
    main()
