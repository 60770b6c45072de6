"""From a measured checkpoint to its folder for the Hub, and there unless it is a dry run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from efficient_reasoning.cards import operating_points, plain_control, write_model_card
from efficient_reasoning.checkpoint import ReasoningMetadata, check_checkpoint, resolve_model, weights_fingerprint
from efficient_reasoning.config import split_parameters
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.summary import read_summary
from efficient_reasoning.files import atomic_folder
from efficient_reasoning.hub.benchmarks import check_benchmark, write_benchmark
from efficient_reasoning.hub.checks import check_code, check_texts, check_tokenizer, check_weights
from efficient_reasoning.hub.data_sets import FILES, build_rows, build_samples
from efficient_reasoning.hub.example import (
    check_example,
    choose_question,
    count_parameters,
    make_example,
    why_unchecked,
)
from efficient_reasoning.hub.folder import checkpoint_files, copy_checkpoint, copy_evaluation, hub_files
from efficient_reasoning.hub.upload import check_repo, require_token, upload_data_set, upload_folder


def publish(
    run: str | Path,
    model: str | Path,
    repo: str,
    *,
    dry_run: bool = True,
    public: bool = False,
    out: str | Path | None = None,
    with_samples: bool = False,
    with_data: str | Path | None = None,
    benchmark: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Build the Hub folder of a measured checkpoint, and upload it unless `dry_run`.

    Args:
        run: evaluation run of that checkpoint.
        model: the checkpoint's folder.
        repo: "ORG/NAME".
        dry_run: build and check only.
        public: visible to everyone at once.
        out: where the folder is built; `<run>/hub` by default. An earlier one is replaced.
        with_samples: every sample of the run too, as the data set `<repo>-samples`, built in `<out>-samples`.
        with_data: a JSONL file of traces or training rows, as the data set `<repo>-data`, built in `<out>-data`.
        benchmark: a registered benchmark of the Hub, all of which the run has solved, for its leaderboard.
        trust_remote_code: run the code that rides in the checkpoint, also where it is not this library's.

    Returns:
        The folder.

    Raises:
        BadInput: unfinished run, another model's run, a checkpoint that does not load or answers otherwise in plain
            transformers, a secret or a path of this machine in a file, a name the Hub does not take, or the Hub's
            refusal.
    """
    check_repo(repo)
    if not dry_run:
        require_token()
    run, model = Path(run), Path(resolve_model(str(model)))
    out = run / "hub" if out is None else Path(out)
    summary = read_summary(run)
    if not model.is_dir():
        raise BadInput(f"{model}: no such checkpoint folder; download the model first, then name its folder.")
    check_checkpoint(str(model))
    check_code(model, model, trust_remote_code)
    _check_same_model(run, summary, model)
    if benchmark is not None:
        check_benchmark(benchmark, run, summary)
    if out.name in ("", "..") or out.is_symlink() or (out.exists() and not out.is_dir()):
        raise BadInput(f"{out}: no folder that could be replaced; name a new folder with --out.")
    data_sets = {
        name: out.with_name(f"{out.name}-{name}")
        for name, wanted in (("samples", with_samples), ("data", with_data))
        if wanted
    }
    _check_replaceable(out, list(data_sets.values()))
    if with_samples:
        build_samples(data_sets["samples"], run, repo, summary)
    if with_data:
        build_rows(data_sets["data"], Path(with_data), repo)
    _build(out, run, model, repo, summary, list(data_sets), benchmark)
    print(f"{repo}: {_size(hub_files(out))}, checked")
    if not dry_run:
        for name, folder in data_sets.items():  # the card links them
            print(f"Uploaded {folder} to {upload_data_set(folder, f'{repo}-{name}', public=public)}")
        print(f"Uploaded {out} to {upload_folder(out, repo, public=public)}")
    return out


def _check_replaceable(out: Path, data_sets: list[Path]) -> None:
    """Only what an earlier call has built is replaced."""
    for folder in (out, *data_sets):
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        is_published = (folder / "evaluation" / "summary.json").is_file()
        ours = FILES if folder in data_sets else hub_files(folder).keys() if is_published else set()
        if there - ours:
            raise BadInput(f"{folder}: holds other files, which would be lost; name a new folder with --out.")


def _check_same_model(run: Path, summary: dict, model: Path) -> None:
    """A card with another checkpoint's numbers is worse than none."""
    measured = summary["config"]["weights"]
    if measured is not None and " at scale " in measured:
        scale = measured.rpartition(" ")[2]
        raise BadInput(
            f"{run}: measured an adapter at scale {scale}; make a checkpoint of that scale with "
            "`efficient-reasoning train merge`, and evaluate that."
        )
    if measured != weights_fingerprint(str(model)):
        raise BadInput(f"{run}: measured other weights than those in {model}; evaluate that folder first.")


def _travels(point: Mapping) -> bool:
    """Whether a setting means something elsewhere: it names no file or folder of this machine."""
    return not any(Path(value).exists() for value in split_parameters(point["strategy"])[1].values())


def _build(
    out: Path, run: Path, model: Path, repo: str, summary: dict, data_sets: list[str], benchmark: str | None
) -> None:
    with atomic_folder(out) as folder:
        copy_checkpoint(model, folder)
        copy_evaluation(run, folder)
        if benchmark is not None:
            write_benchmark(benchmark, run, summary, folder)
        check_texts({name: path for name, path in hub_files(folder).items() if name != "README.md"}, model)
        check_weights(folder, model)
        check_tokenizer(folder, model)
        points = operating_points(run, summary)
        metadata = ReasoningMetadata.load(folder)
        if metadata is not None:
            planned = [point for point in metadata.operating_points if "planned_for" in point and _travels(point)]
            metadata.operating_points = [*(point.as_dict() for point in points), *planned]
            metadata.save(folder)
        unchecked = why_unchecked(folder)
        question, control, example = choose_question(run), plain_control(points), None
        if unchecked is None:
            print("Answering a question of the run, here and in plain transformers ...", file=sys.stderr, flush=True)
            example = make_example(folder, question + control, summary["config"]["max_new_tokens"])
        write_model_card(
            folder,
            repo,
            summary,
            question=question,
            control=control,
            points=points,
            example_settings=example.settings if example else None,
            unchecked=unchecked,
            size=f"{count_parameters(folder):,} parameters, {_size({p.name: p for p in checkpoint_files(folder)})}",
            data_sets=[f"{repo}-{name}" for name in data_sets],
        )
        check_texts({"README.md": folder / "README.md"}, model)
        if example is not None:
            check_example(folder, repo, example, model)


def _size(files: dict[str, Path]) -> str:
    total_bytes = sum(path.stat().st_size for path in files.values())
    return f"{total_bytes / 1e6:,.1f} MB in {len(files)} files"
