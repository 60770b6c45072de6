"""Training on a stream that goes on where it was cut.

1. Every batch brings along how far its reader has come; the loader remembers that of each reader.
2. Before a checkpoint is whole, each process writes it there. Going on, the loader starts the readers at these places,
   in the same turn: the same batches follow as in a run that was not cut, and nothing is read twice but a block.
3. Packed rows have positions of their own, by which attention tells them apart; a model whose states would run on from
   one row into the next is refused (`packing.keeps_rows_apart`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import Trainer

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import read_json, write_json
from efficient_reasoning.scratch import collate
from efficient_reasoning.training.packing import keeps_rows_apart
from efficient_reasoning.training.streaming import Place, Stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


class Loader:
    """Batches of one process, of whose readers it knows the places.

    Args:
        stream: to read.
        config: the trainer's arguments.
        batch_size: sequences a batch.
        checkpoint: folder of the checkpoint to go on from; None to begin.

    Raises:
        BadInput: a checkpoint with the places of other readers.
    """

    def __init__(self, stream: Stream, config: TrainingArguments, batch_size: int, checkpoint: str | None):
        self.stream, self.config, self.batch_size = stream, config, batch_size
        workers = max(1, config.dataloader_num_workers)
        self.state = {
            "processes": config.world_size,
            "workers": workers,
            "next_worker": 0,
            "places": [Place()] * workers,
        }
        if checkpoint is not None:
            path = Path(checkpoint) / self.name
            state = read_json(path)
            if any(state[key] != self.state[key] for key in ("processes", "workers")):
                raise BadInput(
                    f"{path}: of {state['processes']} processes with {state['workers']} dataloader_num_workers each; "
                    "go on with as many."
                )
            self.state = state | {"places": [Place(*place) for place in state["places"]]}

    @property
    def name(self) -> str:
        return f"stream_{self.config.process_index}.json"

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        config, workers = self.config, self.state["workers"]
        if config.dataloader_num_workers:  # they are what runs side by side; tokenizers would warn of their forks
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        batches = DataLoader(
            _Readers(self.stream, self.state, config.process_index),
            batch_size=self.batch_size,
            collate_fn=_collate,
            num_workers=config.dataloader_num_workers,
            prefetch_factor=config.dataloader_prefetch_factor,
            pin_memory=config.dataloader_pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),  # not the one that dropout draws from, which a resumed run finds as it was
        )
        try:
            for batch in batches:
                worker = self.state["next_worker"]
                self.state["places"][worker] = Place(*batch.pop("place"))
                self.state["next_worker"] = (worker + 1) % workers
                yield batch
        except BadInput as error:  # of a worker, with its traceback for a message
            raise BadInput(str(error).strip().splitlines()[-1].rpartition("BadInput: ")[2]) from None

    def save(self, checkpoint: Path) -> None:
        write_json(checkpoint / self.name, self.state)


class _Readers(IterableDataset):
    """What the workers of a process iterate over; they give batches in turn, from the one whose turn it is."""

    def __init__(self, stream: Stream, state: dict, process: int):
        self.stream, self.state, self.process = stream, state, process

    def __iter__(self) -> Iterator[dict]:
        info, workers = get_worker_info(), self.state["workers"]
        worker = ((info.id if info else 0) + self.state["next_worker"]) % workers
        reader, num_readers = self.process * workers + worker, self.state["processes"] * workers
        return self.stream.sequences(reader, num_readers, self.state["places"][worker])


def _collate(sequences: list[dict]) -> dict:
    """A batch as `scratch.collate` pads it, with the positions of its rows (B, T); padding is a row of its own."""
    batch = collate(sequences)
    columns = batch["input_ids"].shape[1]
    if any(len(sequence["seq_lengths"]) > 1 for sequence in sequences):
        padded = [[*lengths, columns - sum(lengths)] for lengths in (each["seq_lengths"] for each in sequences)]
        positions = [torch.cat([torch.arange(length) for length in lengths]) for lengths in padded]
        batch["position_ids"] = torch.stack(positions)
        batch["use_cache"] = False  # with a cache, transformers takes the positions for those of one text
    return batch | {"place": list(sequences[-1]["place"])}


class StreamTrainer(Trainer):
    """The trainer of transformers, whose checkpoints know where the stream was.

    Args:
        stream: to train on.
        model: of which it is asked whether it keeps packed rows apart.
        settings: as `Trainer` takes them.

    Raises:
        BadInput: the stream packs, and the model would read packed rows as one text.
    """

    def __init__(self, stream: Stream, model: PreTrainedModel, **settings):
        if stream.packing and not keeps_rows_apart(model):
            raise BadInput(
                f"packing: {model.config.model_type} would read packed rows as one text; set packing to false."
            )
        super().__init__(model, train_dataset=_Readers(stream, {}, 0), **settings)  # only looked at: see the loader
        self._stream, self._checkpoint, self._loader = stream, None, None

    def train(self, resume_from_checkpoint: str | None = None, **settings):
        self._checkpoint = resume_from_checkpoint
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **settings)

    def get_train_dataloader(self) -> Loader:
        self._loader = Loader(self._stream, self.args, self._train_batch_size, self._checkpoint)
        return self._loader

    def _save_checkpoint(self, model, trial) -> None:
        # Before the trainer's state, by which a checkpoint is known to be whole.
        self._loader.save(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}")
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
