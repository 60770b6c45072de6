"""A run folder from somebody else: what lies in its checkpoints is read, and not run."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from efficient_reasoning.errors import BadInput
from efficient_reasoning.training.checkpoints import seal
from tests.recipes.running import run


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.fixture
def theirs(argv, tmp_path):
    """A run that has still to end, and a step to go."""
    run("sft_compress", argv("sft_compress", output_dir=tmp_path / "theirs"))
    (tmp_path / "theirs/reasoning.json").unlink()
    shutil.rmtree(tmp_path / "theirs/checkpoint-3")
    return tmp_path / "theirs"


def test_no_state_of_the_trainer_is_run(argv, theirs, tmp_path):
    target, refused = tmp_path / "written", []
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        copy = Path(shutil.copytree(theirs, tmp_path / name))
        state = copy / "checkpoint-2" / name
        assert state.is_file()
        torch.save(Payload(target), state)
        seal(copy, state.parent)  # nothing is wrong with it at first sight
        try:
            run("sft_compress", argv("sft_compress", output_dir=copy))
        except BadInput as error:
            said = f"{state}: is not what a trainer writes (UnpicklingError: "
            assert str(error).startswith(said)
            assert str(error).endswith("; delete checkpoint-2 to go on from the checkpoint before it.")
            assert isinstance(error.__cause__, pickle.UnpicklingError)
            refused.append(name)
        assert not target.exists(), name
    assert refused == ["optimizer.pt", "scheduler.pt", "rng_state.pth"]  # the other is never read
    with pytest.raises(FileNotFoundError, match="written"):  # this pickle is one that runs
        pickle.loads(pickle.dumps(Payload(target / "inside")))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"PK\x03\x04", b"[]", b'{"epoch": '])
def test_a_state_that_nobody_can_read_is_named(argv, theirs, name, content):
    state = theirs / "checkpoint-2" / name
    state.write_bytes(content)
    seal(theirs, state.parent)
    with pytest.raises(BadInput, match=rf"{name}: is not what a trainer writes .* delete checkpoint-2 to go on"):
        run("sft_compress", argv("sft_compress", output_dir=theirs))
    shutil.rmtree(state.parent)
    run("sft_compress", argv("sft_compress", output_dir=theirs))  # the remedy
    assert (theirs / "reasoning.json").is_file()
