"""A run folder from somebody else: what lies in its checkpoints is read, and not run."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from efficient_reasoning.training.checkpoints import seal
from tests.recipes.running import run


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_no_state_of_the_trainer_is_run(argv, tmp_path):
    run("sft_compress", argv("sft_compress", output_dir=tmp_path / "theirs"))
    (tmp_path / "theirs/reasoning.json").unlink()  # it has still to end,
    shutil.rmtree(tmp_path / "theirs/checkpoint-3")  # and a step to go
    target, refused = tmp_path / "written", []
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        copy = Path(shutil.copytree(tmp_path / "theirs", tmp_path / name))
        state = copy / "checkpoint-2" / name
        assert state.is_file()
        torch.save(Payload(target), state)
        seal(copy, state.parent)  # nothing is wrong with it at first sight
        try:
            run("sft_compress", argv("sft_compress", output_dir=copy))
        except pickle.UnpicklingError as error:
            assert "weights_only" in str(error)
            refused.append(name)
        assert not target.exists(), name
    assert refused == ["optimizer.pt", "scheduler.pt", "rng_state.pth"]  # the other is never read
    with pytest.raises(FileNotFoundError, match="written"):  # this pickle is one that runs
        pickle.loads(pickle.dumps(Payload(target / "inside")))
