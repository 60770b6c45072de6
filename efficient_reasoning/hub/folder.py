"""What goes to the Hub: named, not what stays.

Optimizer states, pickles and whatever else lies in a training folder cannot slip through a list that lacks them.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from efficient_reasoning.checkpoint import has_own_code
from efficient_reasoning.evaluation.off_target import FILE_NAME

_CHECKPOINT = (
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
    "additional_chat_templates/*.jinja",
    "reasoning.json",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "training_problems.json",
    "recipe.yaml",
    "LICENSE*",
    "README.md",
)
_EVALUATION = ("summary.json", "curve.csv", "curve.png", "config.yaml", "environment.json")
_OFF_TARGET = FILE_NAME  # where the run was checked there
# And not whatever lies there: a training folder may hold a whole run.
_MEASURED = (*(f"evaluation/{name}" for name in (*_EVALUATION, _OFF_TARGET, "example.json")), ".eval_results/*.yaml")


def checkpoint_files(folder: Path) -> list[Path]:
    """Those of its files that make up the checkpoint, its card included."""
    patterns = (*_CHECKPOINT, *(("*.py",) if has_own_code(folder) else ()))
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def hub_files(folder: Path) -> dict[str, Path]:
    """All that goes to the Hub, by its path there."""
    measured = [path for pattern in _MEASURED for path in folder.glob(pattern) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in [*checkpoint_files(folder), *sorted(measured)]}


def is_replaced(path_on_hub: str) -> bool:
    """Whether a file that an earlier upload left must go when this one does not have it.

    An old `model.safetensors` beside new shards would be loaded in their place. What others put there stays, and so do
    licences.
    """
    depth = path_on_hub.count("/")
    return not path_on_hub.startswith("LICENSE") and any(
        pattern.count("/") == depth and fnmatchcase(path_on_hub, pattern) for pattern in (*_CHECKPOINT, *_MEASURED)
    )


def copy_checkpoint(model: Path, folder: Path) -> None:
    for path in checkpoint_files(model):
        target = folder / path.relative_to(model)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def copy_evaluation(run: Path, folder: Path) -> None:
    (folder / "evaluation").mkdir()
    for name in (*_EVALUATION, *((_OFF_TARGET,) if (run / _OFF_TARGET).is_file() else ())):
        shutil.copyfile(run / name, folder / "evaluation" / name)
