"""The checkpoints that a run goes on from.

1. A checkpoint is whole when its `whole.json` is there and every file has the size that stands in it. It is written
   when all processes have written theirs and the disk has them: what a kill, a full disk or a copy lost is seen.
2. It holds the configuration as well, so that a checkpoint from another run is known for one.
3. Older checkpoints go (`save_total_limit`) once a newer one is whole. The trainer itself would not wait for that.
4. A checkpoint that is passed over is named, with the reason.
5. What a whole one holds of the trainer's state is read before it is used, and in a way that runs nothing. Where that
   cannot be done, somebody has put something else there, and the run stops.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import safe_globals

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import flush_folder, read_json, write_json

_NAME = "whole.json"
# What the trainer reads, and no more: what DeepSpeed keeps holds objects of its own.
_STATES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")


class WholeCheckpoints(TrainerCallback):
    """Says of each checkpoint that it is whole, and deletes those that it makes superfluous.

    Args:
        limit: most checkpoints to keep; None for all. The trainer must not be told of it.
    """

    def __init__(self, limit: int | None):
        self.limit = limit

    def on_train_begin(self, args, state, control, **kwargs):
        for folder in _newest_first(Path(args.output_dir)) if args.should_save else ():
            if _step(folder) > state.global_step:  # passed over, and written anew before long
                (folder / _NAME).unlink(missing_ok=True)

    def on_save(self, args, state, control, **kwargs):
        from accelerate import PartialState

        PartialState().wait_for_everyone()  # each process writes its generators, and its share under ZeRO
        if not args.should_save:
            return
        output = Path(args.output_dir)
        seal(output, output / f"checkpoint-{state.global_step}")
        older = [folder for folder in _newest_first(output) if _step(folder) <= state.global_step]
        for folder in older[self.limit :] if self.limit else ():
            shutil.rmtree(folder)


def seal(output: Path, checkpoint: Path) -> None:
    """Bring a checkpoint of the run in `output` to the disk, and write down what is in it."""
    flush_folder(checkpoint)
    written = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != _NAME)
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in written}
    write_json(checkpoint / _NAME, {"config": read_json(output / "run.json"), "files": files})


def last_whole(output: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole and of the run in `output`, and what is wrong with each that is newer."""
    passed_over = []
    for folder in _newest_first(output):
        fault = _fault(folder, read_json(output / "run.json"))
        if fault is None:
            return folder, passed_over
        passed_over.append(f"{folder.name} {fault}")
    return None, passed_over


def check_readable(checkpoint: Path) -> None:
    """Read the trainer's state, which is tensors and numbers, without running what else may be in it.

    Raises:
        BadInput: a file of it holds something else.
    """
    import torch

    path = checkpoint / "trainer_state.json"
    try:
        TrainerState.load_from_json(str(path))
        for path in sorted(path for pattern in _STATES for path in checkpoint.glob(pattern)):
            with open(path, "rb") as file:  # what is written today can be mapped; moments are twice the model
                mapped = file.read(2) == b"PK"
            with safe_globals():  # as the trainer reads it
                torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # unpicklers and constructors raise what they like
        said = (str(error).splitlines() or [""])[0][:200]
        raise BadInput(
            f"{path}: is not what a trainer writes ({type(error).__name__}: {said}), and was not loaded; delete "
            f"{checkpoint.name} to go on from the checkpoint before it."
        ) from error


def differing_keys(one: dict, other: dict) -> list[str]:
    """Of two configurations."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _fault(folder: Path, config: dict) -> str | None:
    try:
        sealed = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "was not written to its end"
    if differing := differing_keys(sealed["config"], config):
        return f"is of a run that differs in {', '.join(differing)}"
    for name, size in sealed["files"].items():
        path = folder / name
        if not path.is_file():
            return f"has no {name}"
        if path.stat().st_size != size:
            return f"has {path.stat().st_size:,} of the {size:,} bytes of {name}"
    return None


def _newest_first(output: Path) -> list[Path]:
    folders = (path for path in output.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal())
    return sorted(folders, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
