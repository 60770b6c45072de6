"""Publish a checkpoint with the measurement that speaks for it.

1. `publish` builds the exact folder that would go to the Hub: checkpoint files, model card, and the evaluation run's
   summary and curve. Without `dry_run` it then uploads that folder, private unless told otherwise.
2. What goes is named, not what stays: optimizer states, pickles and whatever else lies in a training folder cannot
   slip through a list that does not have them.
3. It is checked before it leaves: the weights are whole and fit the config, the tokenizer loads, and no text file
   holds a path of this machine or an access token. The folder appears only when all of it is right.
4. An upload is one commit, so nobody ever sees half a model.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from efficient_reasoning.cards import write_model_card, write_training_card
from efficient_reasoning.checkpoint import check_checkpoint, resolve_model, weights_fingerprint
from efficient_reasoning.errors import BadInput
from efficient_reasoning.evaluation.summary import read_summary
from efficient_reasoning.files import atomic_folder, read_jsonl

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["publish", "upload_folder", "write_training_card"]

_CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "reasoning.json",
    "*.py",  # modeling files of architectures of our own
    "LICENSE*",
    "README.md",
)
_EVALUATION_FILES = ("summary.json", "curve.csv", "curve.png", "config.yaml", "environment.json")
_SCANNED = {".json", ".jsonl", ".yaml", ".csv", ".md", ".py", ".jinja", ".txt"}
_VOCABULARY = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}  # their words look like paths
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
# Two names behind a slash that continues no word, URL, tag or relative path: /home/me, C:\\Users. What is at the same
# place on every machine (/usr/bin/env) gives nothing away.
_MACHINE_PATH = re.compile(
    r"(?<![\w/.:<~!*)\]}-])/(?!(?:usr|bin|sbin|lib|etc|dev|proc|sys)/)(?:[A-Za-z_.][\w.+-]*/)+[\w.+-]+"
    r"|\b[A-Za-z]:\\{1,2}Users\\"
)
_REFUSALS = {
    401: "the Hub does not accept the access token (401); run `hf auth login` with a token that may write",
    403: "the access token may not write there (403); use one with write permission, or another --repo",
    404: "the Hub knows no such repository or namespace (404); check the spelling of --repo",
}


def publish(
    run: str | Path,
    model: str | Path,
    repo: str,
    *,
    dry_run: bool = True,
    public: bool = False,
    out: str | Path | None = None,
) -> Path:
    """Build the Hub folder of a measured checkpoint, and upload it unless `dry_run`.

    Args:
        run: evaluation run of that checkpoint.
        model: the checkpoint's folder.
        repo: "ORG/NAME".
        dry_run: build and check only.
        public: visible to everyone at once.
        out: where the folder is built; `<run>/hub` by default. An earlier one is replaced.

    Returns:
        The folder.

    Raises:
        BadInput: unfinished run, another model's run, a checkpoint that does not load, a secret or a path of this
            machine in a file, a name the Hub does not take, or the Hub's refusal.
    """
    _check_repo(repo)
    run, model = Path(run), Path(resolve_model(str(model)))
    out = run / "hub" if out is None else Path(out)
    if out.exists() and any(out.iterdir()) and not (out / "evaluation" / "summary.json").is_file():
        raise BadInput(f"{out}: holds other files, which would be lost; name a new folder with --out.")
    summary = read_summary(run)
    if not model.is_dir():
        raise BadInput(f"{model}: no such checkpoint folder; download the model first, then name its folder.")
    check_checkpoint(str(model))
    _check_same_model(run, summary, model)
    with atomic_folder(out) as folder:
        for path in _checkpoint_files(model):
            shutil.copyfile(path, folder / path.name)
        (folder / "evaluation").mkdir()
        for name in _EVALUATION_FILES:
            shutil.copyfile(run / name, folder / "evaluation" / name)
        question = next(read_jsonl(run / "samples.jsonl"))["question"]
        write_model_card(folder, repo, summary, question)
        _check_texts(folder, model)
        _check_loads(folder, model)
    if not dry_run:
        print(f"Uploaded {out} to {upload_folder(out, repo, public=public)}")
    return out


def upload_folder(folder: str | Path, repo: str, *, public: bool = False) -> str:
    """Upload a checkpoint folder (card and evaluation included, nothing else in it) in one commit.

    Args:
        folder: from `publish`, or a training run's output.
        repo: "ORG/NAME", or "NAME" in one's own namespace; created when it does not exist.
        public: for a repository that is created; an existing one keeps its visibility.

    Returns:
        The repository's address.

    Raises:
        BadInput: the folder is not fit to leave, or the Hub refuses (401, 403, 404).
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    _check_repo(repo)
    folder = Path(folder)
    check_checkpoint(str(folder))
    _check_texts(folder, folder)
    files = [*_checkpoint_files(folder), *sorted((folder / "evaluation").glob("*"))]
    additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    api = HfApi()
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.create_commit(address.repo_id, additions, commit_message="Upload with efficient-reasoning")
    except HfHubHTTPError as error:
        _refuse(repo, error)
    return str(address)


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise BadInput(
            f"--repo {repo!r} is no name for the Hub; write ORG/NAME with letters, digits, '-', '_' and '.'."
        ) from None


def _check_same_model(run: Path, summary: dict, model: Path) -> None:
    """A card with another checkpoint's numbers is worse than none."""
    if summary["config"]["weights"] != weights_fingerprint(str(model)):
        raise BadInput(f"{run}: measured other weights than those in {model}; evaluate that folder first.")


def _checkpoint_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})


def _check_texts(folder: Path, model: Path) -> None:
    """No access token and no path of this machine in any text file; `model` is what the user calls the folder."""
    for path in [*_checkpoint_files(folder), *sorted((folder / "evaluation").glob("*"))]:
        if path.suffix not in _SCANNED:
            continue
        text = path.read_text(encoding="utf-8")
        name = f"{model}: {path.relative_to(folder)}"
        if _TOKEN.search(text):
            raise BadInput(f"{name} holds an access token (hf_...); remove it, and revoke it if it was ever shared.")
        found = _MACHINE_PATH.search(text) if path.name not in _VOCABULARY else None
        if found:
            raise BadInput(f"{name} holds the path {found[0]} of this machine; replace it by a name or a Hub id.")


def _check_loads(folder: Path, model: Path) -> None:
    """Config, tokenizer and weights fit together for plain transformers; the weights stay on the meta device."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"{model}: its weights are not in safetensors; save it again with save_pretrained.")
    own_code = any(folder.glob("*.py"))
    AutoTokenizer.from_pretrained(folder, trust_remote_code=own_code)
    _, report = AutoModelForCausalLM.from_pretrained(
        folder, device_map="meta", trust_remote_code=own_code, ignore_mismatched_sizes=True, output_loading_info=True
    )
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            example = sorted(map(str, report[kind]))[0]
            raise BadInput(
                f"{model}: {len(report[kind])} weights do not fit config.json ({kind}, such as {example}); "
                "save the model again with save_pretrained."
            )


def _refuse(repo: str, error: HfHubHTTPError) -> NoReturn:
    """Turn the Hub's refusal into a sentence; what is no refusal goes on as it is."""
    status = error.response.status_code
    if status not in _REFUSALS:
        raise error
    raise BadInput(f"{repo}: {_REFUSALS[status]}.") from None
