"""The weights between two checkpoints: a long and a short reasoner merged, tensor by tensor, without training.

1. A method says what both models make together, the *merged* weights M; the weight w says how far to go there from
   the long model L: L + w (M - L), in float32 and rounded once. At 0 it is L, to the bit; at 1 it is M; beyond 1 it
   goes on, below 0 it goes away.

       average          M = S, the short model: w = 0.5 is the mean of both (Kimi k1.5, arXiv 2501.12599)
       task_arithmetic  M = B + (L - B) + (S - B): both task vectors (arXiv 2212.04089)
       ties             of both task vectors only the largest entries are kept, a share `density` of each tensor;
                        M = B + the mean of those that have the sign of their sum (arXiv 2306.01708)
       dare             M = B + both task vectors, their entries dropped with probability `drop_rate`, the others
                        divided by 1 - drop_rate (arXiv 2311.03099)

2. B, the base, is what both models were trained from. Where the short model was trained from the long one, B = L: the
   long model's task vector is nothing, and what training changed since is added to it, trimmed or thinned out. Where
   the long model was trained from the short one, B = S, and it is the other way round.
3. A file of the merged checkpoint is the long model's file with other numbers: the same header, tensors in the same
   order, written one by one. In memory are one tensor of each model and what is computed from them.
4. A row of an embedding stands for a token. Added tokens that not all models have under one id (control tokens,
   markers of another chat format) keep the long model's row, and rows that only others have are left out: the merged
   checkpoint has the long model's tokenizer. Of ordinary tokens, none may differ.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from efficient_reasoning.cards import licence_of, write_training_card
from efficient_reasoning.checkpoint import (
    ADAPTER_NAME,
    METADATA_NAME,
    ReasoningMetadata,
    load_config,
    load_tokenizer,
    local_folder,
    resolve_model,
    thinking_format,
)
from efficient_reasoning.contamination import RECORD_NAME, TrainingProblems
from efficient_reasoning.errors import BadInput
from efficient_reasoning.hub.folder import checkpoint_files

if TYPE_CHECKING:
    from safetensors import safe_open
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Method = Literal["average", "task_arithmetic", "ties", "dare"]
_INDEX = "model.safetensors.index.json"
_MADE_ANEW = ("README.md", "recipe.yaml", METADATA_NAME, RECORD_NAME)
_VECTORS = ("long", "short")  # whose task vectors are added
_BLOCK = 1 << 22  # numbers
# What changes the meaning of weights without changing their shapes.
_ARCHITECTURE = (
    "model_type", "hidden_act", "num_attention_heads", "num_key_value_heads", "head_dim", "layer_types",
    "rope_parameters", "num_experts_per_tok", "tie_word_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class Merge:
    """How two models are merged, see the module.

    Attributes:
        method: what they make together.
        weight: how far to go there from the long model.
        density: share of each tensor's entries that `ties` keeps, in (0, 1].
        drop_rate: probability with which `dare` drops an entry, in [0, 1).
        seed: of what `dare` drops, which does not depend on `weight`.
    """

    method: Method
    weight: float
    density: float = 0.2
    drop_rate: float = 0.9
    seed: int = 0


@dataclass(frozen=True)
class Parent:
    """A model to merge.

    Attributes:
        name: as it was given, without the folders around it.
        folder: where its files lie.
        config, tokenizer: its own.
        tensors: shape of each, by name.
        files: the safetensors file that holds each, by name.
        embeddings: names of those with a row a token.
    """

    name: str
    folder: Path
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    tensors: dict[str, tuple[int, ...]]
    files: dict[str, Path]
    embeddings: frozenset[str]

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.tensors.values()))


def load_parent(model: str) -> Parent:
    """All of a checkpoint but its weights; of a Hub id, after it has been downloaded.

    Raises:
        BadInput: broken checkpoint, a LoRA adapter not merged, weights that are quantised or not in safetensors, or
            latents, which a merge would lose.
    """
    path = resolve_model(model)
    if (Path(path) / "adapter_config.json").is_file():
        raise BadInput(f"{model}: holds a LoRA adapter; merge it into its model first (PEFT's merge_and_unload).")
    tokenizer = load_tokenizer(path)
    folder = local_folder(path)
    metadata = ReasoningMetadata.load(folder)
    if metadata is not None and (metadata.latent_steps or metadata.pause_steps):
        raise BadInput(
            f"{model}: thinks in latents or pauses, which a merge would lose; merge before latent training."
        )
    config = load_config(str(folder))
    if getattr(config, "quantization_config", None) is not None:
        raise BadInput(f"{model}: its weights are quantised; merge the model that they were made from.")
    index = folder / _INDEX
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    tensors, files = {}, {}
    for file in (folder / name for name in sorted(names)):
        if not file.is_file():
            raise BadInput(f"{model}: its weights are not in safetensors; save it again with save_pretrained.")
        for name, entry in _read_header(file)[1].items():
            tensors[name], files[name] = tuple(entry["shape"]), file
    name = Path(model).name if Path(model).is_dir() else model
    return Parent(name, folder, config, tokenizer, tensors, files, _embeddings(config, tensors))


def check_parents(long: Parent, *others: Parent) -> dict[int, str]:
    """Refuse models that cannot be merged.

    Returns:
        The added tokens that not all of them have under one id, whose rows stay those of the long model.

    Raises:
        BadInput: another architecture or tokenizer, a tensor that is missing or of another shape.
    """
    own_ids = {}
    for other in others:
        between = f"{long.name} and {other.name}"
        for key in _ARCHITECTURE:
            mine, its = (getattr(one.config.get_text_config(), key, None) for one in (long, other))
            if mine != its:
                raise BadInput(f"{between} differ in {key} ({mine} and {its}); merge models of one architecture.")
        own_ids |= _tokens_of_one(long, other)
        for name in sorted(long.tensors.keys() ^ other.tensors.keys()):
            lacking = other if name in long.tensors else long
            raise BadInput(f"{between}: {lacking.name} has no tensor {name}; save both models with save_pretrained.")
        for name, shape in long.tensors.items():
            its = other.tensors[name]
            if shape != its and not (name in long.embeddings and shape[1:] == its[1:]):
                raise BadInput(f"{between}: {name} is {shape} and {its}; merge models of one size.")
    return own_ids


def _tokens_of_one(long: Parent, other: Parent) -> dict[int, str]:
    """Ids under which the two have different tokens, or one of them none."""
    mine, its = ({id_: token for token, id_ in one.tokenizer.get_vocab().items()} for one in (long, other))
    added = [set(one.tokenizer.get_added_vocab().values()) for one in (long, other)]
    differing = sorted(id_ for id_ in mine.keys() | its.keys() if mine.get(id_) != its.get(id_))
    for id_ in differing:
        if (id_ in mine and id_ not in added[0]) or (id_ in its and id_ not in added[1]):
            raise BadInput(
                f"{long.name} and {other.name}: token {id_} is {mine.get(id_)!r} and {its.get(id_)!r}; merge models "
                "of one tokenizer."
            )
    return {id_: mine.get(id_) or its[id_] for id_ in differing}


def _embeddings(config: PretrainedConfig, tensors: Collection[str]) -> frozenset[str]:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    names = [name for name, module in model.named_modules() if any(module is one for one in modules)]
    # Some files leave the first words of a name out.
    full = [f".{name}.{part}" for name in names for part in ("weight", "bias")]
    return frozenset(name for name in tensors if any(one.endswith(f".{name}") for one in full))


def write_merged(
    folder: Path,
    merge: Merge,
    long: Parent,
    short: Parent,
    base: Parent | None = None,
    *,
    own_ids: Collection[int],
    progress: Callable[[int], object] = lambda parameters: None,
) -> None:
    """Write the checkpoint between two models: the long one's files with other weights, and what says so.

    Args:
        folder: where to; it is there, and empty.
        merge: how.
        long, short, base: from `load_parent`; `base` is None for `average`, and may be the long or the short model.
        own_ids: from `check_parents`.
        progress: told after each tensor how many parameters it has.

    Raises:
        BadInput: tensors of whole numbers that are not equal, or no known think delimiters.
    """
    metadata = _metadata(merge, long, short)
    for path in checkpoint_files(long.folder):
        name = path.relative_to(long.folder)
        if path.suffix != ".safetensors" and str(name) not in _MADE_ANEW and name.parts[0] != ADAPTER_NAME:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    _write_weights(folder, merge, {"long": long, "short": short} | ({"base": base} if base else {}), own_ids, progress)
    metadata.save(folder)
    problems = _training_problems(long, short)
    if problems is not None:
        problems.save(folder)
    write_training_card(folder, metadata=metadata, metrics={})


def _metadata(merge: Merge, long: Parent, short: Parent) -> ReasoningMetadata:
    """It goes on from the long model, with the methods of both behind it."""
    records = [ReasoningMetadata.load(parent.folder) for parent in (long, short)]
    made = [record for record in records if record is not None and record.base_model is not None]
    thinking = thinking_format(str(long.folder), long.tokenizer)
    return ReasoningMetadata(
        method=f"merge {merge.method} {merge.weight:g}",
        stage="merge",
        base_model=records[0].base_model if records[0] in made else long.name,
        earlier_methods=list(
            dict.fromkeys(name for record in made for name in (*record.earlier_methods, record.method))
        ),
        merged_from=[long.name, short.name],
        licence=licence_of(long.folder),
        open_text=thinking.open_text,
        close_text=thinking.close_text,
        controls=records[0].controls if records[0] else [],  # the tokenizer is the long model's
        seed=merge.seed if merge.method == "dare" else None,
    )


def _training_problems(*parents: Parent) -> TrainingProblems | None:
    """What any of the models was trained on; None where nobody knows."""
    records = [TrainingProblems.load(parent.folder) for parent in parents]
    known = [record for record in records if record is not None]
    if not known:
        return None
    unknown = [
        name
        for parent, record in zip(parents, records, strict=True)
        for name in ((parent.name,) if record is None else record.unknown)
    ]
    return TrainingProblems(
        np.unique(np.concatenate([record.hashes for record in known])), tuple(dict.fromkeys(unknown))
    )


def _write_weights(
    folder: Path,
    merge: Merge,
    parents: Mapping[str, Parent],
    own_ids: Collection[int],
    progress: Callable[[int], object],
) -> None:
    """The safetensors files, named and split as the long model's, and their index."""
    from safetensors import safe_open

    long = parents["long"]
    with ExitStack() as stack:
        files = {file for parent in parents.values() for file in parent.files.values()}
        opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
        for source in sorted(set(long.files.values())):
            header, entries = _read_header(source)
            with open(folder / source.name, "wb") as stream:
                stream.write(header)
                for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
                    rows = own_ids if name in long.embeddings else ()
                    stream.write(_merged_bytes(name, parents, opened, merge, rows))
                    progress(math.prod(long.tensors[name]))


def _merged_bytes(
    name: str, parents: Mapping[str, Parent], opened: Mapping[Path, safe_open], merge: Merge, own_ids: Collection[int]
) -> np.ndarray:
    """One tensor as it stands in a file; what it was made from is gone when this returns."""
    files = {role: parent.files[name] for role, parent in parents.items()}
    read = {file: opened[file].get_tensor(name) for file in set(files.values())}  # B may be L or S
    tensors = {role: read[file] for role, file in files.items()}
    merged = merge_tensors(**tensors, merge=merge, name=name, own_ids=own_ids)
    return merged.contiguous().reshape(-1).view(torch.uint8).numpy()


def _read_header(file: Path) -> tuple[bytes, dict[str, dict]]:
    """The header of a safetensors file as it lies there, and its tensors by name."""
    with open(file, "rb") as stream:
        size = stream.read(8)
        header = stream.read(struct.unpack("<Q", size)[0])
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    return size + header, entries


# ---- one tensor ----


def merge_tensors(
    long: Tensor,
    short: Tensor,
    base: Tensor | None = None,
    *,
    merge: Merge,
    name: str,
    own_ids: Collection[int] = (),
) -> Tensor:
    """L + w (M - L) of one tensor, in the long model's shape and dtype.

    Args:
        long, short, base: of one shape; embeddings (tokens, ...) may differ in their first dimension.
        merge: method and weight.
        name: of the tensor, from which the luck of `dare` follows.
        own_ids: rows of an embedding that stay the long model's.

    Raises:
        BadInput: whole numbers that are not equal, which have no mean.
    """
    if merge.weight == 0:
        return long
    given = [long, short, *([base] if base is not None else [])]
    if not long.is_floating_point():
        if not all(torch.equal(long, one) for one in given):
            raise BadInput(f"{name} holds whole numbers that differ; merge models that are not quantised.")
        return long
    # Block by block: in float32, with all that is between, a whole tensor would take many times its size.
    merged, count = long.clone(memory_format=torch.contiguous_format), min(one.numel() for one in given)
    thin = {
        role: _thinner(merge, one, base, count, f"{role}/{name}") for role, one in zip(_VECTORS, given, strict=False)
    }
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        parts = [_exact(one, block) for one in given]
        point = _at_full_weight(merge.method, thin, *parts)
        if merge.weight != 1:
            point = torch.lerp(parts[0], point, merge.weight)
        merged.view(-1)[block] = point.to(long.dtype)
    if own_ids:
        rows = [id_ for id_ in own_ids if id_ < len(long)]
        merged[rows] = long[rows]
    return merged


def _exact(tensor: Tensor, block: slice) -> Tensor:
    """A part of it, in its order in memory, in which sums are rounded no more than once."""
    return tensor.reshape(-1)[block].to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def _at_full_weight(
    method: Method,
    thin: Mapping[str, Callable[[Tensor], Tensor]],
    long: Tensor,
    short: Tensor,
    base: Tensor | None = None,
) -> Tensor:
    """M: what the models make together."""
    match method:
        case "average":
            return short
        case "task_arithmetic":
            return short - (base - long)  # where B = L, this is S to the bit, and S + (L - B) loses the sign of a zero
        case "ties":
            return base + _agreement(thin["long"](long - base), thin["short"](short - base))
        case "dare":
            return base + thin["long"](long - base) + thin["short"](short - base)


def _thinner(merge: Merge, one: Tensor, base: Tensor | None, count: int, luck: str) -> Callable[[Tensor], Tensor]:
    """What leaves entries of a task vector out, block after block of its `count` entries."""
    if one is base:  # nothing there to leave out
        return lambda vector: vector
    match merge.method:
        case "ties":
            least = _least_kept(merge.density, one, base, count)
            return lambda vector: vector.where(vector.abs() >= least, 0)
        case "dare":
            state = hashlib.blake2b(f"{merge.seed}/{luck}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(state, "big") >> 1)
            kept = 1 - merge.drop_rate
            return lambda vector: vector.where(torch.rand(vector.shape, generator=generator) < kept, 0) / kept
    return lambda vector: vector


def _least_kept(density: float, one: Tensor, base: Tensor, count: int) -> float:
    """The size of the least entry that `ties` keeps; others of the same size are kept, too."""
    magnitudes = torch.empty(count, dtype=_exact(one, slice(0)).dtype)
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        magnitudes[block] = (_exact(one, block) - _exact(base, block)).abs()
    place = count - math.ceil(density * count)
    magnitudes.numpy().partition(place)  # in place
    return magnitudes[place].item()


def _agreement(one: Tensor, other: Tensor) -> Tensor:
    """Entry by entry the mean of those whose sign is that of the sum; 0 where the sum is 0."""
    sign = (one + other).sign()
    one, other = (vector.where(vector.sign() == sign, 0) for vector in (one, other))
    return (one + other).where((one == 0) | (other == 0), (one + other) / 2)
