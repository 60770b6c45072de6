"""Merge a long and a short reasoning model into one between them, without training.

Averaging, task arithmetic, TIES or DARE (`efficient_reasoning/merging.py` says what each of them does), at one weight
or at several: 0 is the long model, 1 what the method makes of both. Only one tensor of each model is in memory at a
time. The same command again skips the checkpoints that are there.

A checkpoint that keeps a LoRA adapter, averaged as `long` with its base model as `short` at weight 1 - s, is what
`--adapter-scale s` loads: so a scale becomes a checkpoint of its own, for vLLM or the Hub.

    efficient-reasoning train merge --config configs/merge/average_overthinker.yaml
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from efficient_reasoning.config import parse
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.training import RecipeArguments


@dataclass(kw_only=True)
class MergeArguments(RecipeArguments):
    """What to merge, and how."""

    long: str = field(metadata={"help": "Folder or Hub id of the model that thinks long; overthinker is embedded."})
    short: str = field(metadata={"help": "Folder or Hub id of the model that thinks briefly, or not at all."})
    base: str | None = field(
        default=None, metadata={"help": "What both were trained from, which may be one of them; none for average."}
    )
    output_dir: str = field(metadata={"help": "The checkpoint; for several weights, the folder around them."})
    merge: Literal["average", "task_arithmetic", "ties", "dare"] = field(
        default="average", metadata={"help": "Method."}
    )
    weights: float | list[float] = field(
        default=0.5, metadata={"help": "How far to go from the long model: one number, or a list for one folder each."}
    )
    density: float = field(default=0.2, metadata={"help": "Of ties: share of each task vector that is kept."})
    drop_rate: float = field(default=0.9, metadata={"help": "Of dare: share of each task vector that is dropped."})
    seed: int = field(default=0, metadata={"help": "Of what dare drops."})

    def __post_init__(self) -> None:
        if self.merge == "average" and self.base is not None:
            raise BadInput("base is for task_arithmetic, ties and dare; leave it out.")
        if self.merge != "average" and self.base is None:
            raise BadInput(f"{self.merge} needs a base: what both models were trained from, which may be one of them.")
        if not 0 < self.density <= 1:
            raise BadInput(f"density is {self.density}; give a share above 0, at most 1.")
        if not 0 <= self.drop_rate < 1:
            raise BadInput(f"drop_rate is {self.drop_rate}; give a share of at least 0, below 1.")
        if isinstance(self.weights, list) and len({f"{weight:g}" for weight in self.weights}) != len(self.weights):
            raise BadInput("weights holds a number twice; give each of them once.")
        if self.weights == []:
            raise BadInput("weights is empty; give one at least.")

    def outputs(self) -> dict[float, Path]:
        """The folder of each weight."""
        if isinstance(self.weights, list):
            return {weight: Path(self.output_dir) / f"weight_{weight:g}" for weight in self.weights}
        return {self.weights: Path(self.output_dir)}


def main(argv: list[str] | None = None) -> None:
    arguments = parse(MergeArguments, argv=argv, doc=__doc__)
    from tqdm import tqdm

    from efficient_reasoning import merging
    from efficient_reasoning.checkpoint import weights_fingerprint
    from efficient_reasoning.files import atomic_folder, write_json
    from efficient_reasoning.training.published import write_recipe

    roles = [role for role in ("long", "short", "base") if getattr(arguments, role) is not None]
    parents = {role: merging.load_parent(getattr(arguments, role)) for role in roles}
    own_ids = merging.check_parents(*parents.values())
    fingerprints = {folder: weights_fingerprint(str(folder)) for folder in {one.folder for one in parents.values()}}
    prints = {role: fingerprints[parent.folder] for role, parent in parents.items()}
    long, short = parents["long"], parents["short"]
    if prints["long"] == prints["short"]:
        raise BadInput(f"{long.name} and {short.name} have the same weights; there is nothing between them.")
    if arguments.merge == "task_arithmetic" and prints["base"] == prints["short"]:
        raise BadInput("With the short model as base, task arithmetic gives back the long one; use average.")
    if prints.get("base") == prints["long"]:
        parents["base"] = long  # under whatever name: its files are read once
    names = {role: parent.name for role, parent in parents.items()}
    settings = {name: getattr(arguments, name) for name in ("merge", "density", "drop_rate", "seed")}
    identity = names | {f"weights of {role}": value for role, value in prints.items()} | settings
    pending = {
        weight: out for weight, out in arguments.outputs().items() if not is_there(out, identity | {"weight": weight})
    }
    if own_ids:
        what = f"{len(own_ids)} added tokens, such as {next(iter(own_ids.values()))}"
        print(f"{what}, are not in all of these models alike; their rows stay those of {long.name}.")
    if arguments.dry_run:
        total = sum(file.stat().st_size for file in set(long.files.values()))
        print(f"{len(long.tensors)} tensors, {long.parameters:,} parameters; {total / 1e6:,.1f} MB a checkpoint")
        print(*pending.values(), sep="\n")
        return
    for weight, out in pending.items():
        bar = tqdm(total=long.parameters, unit=" parameters", unit_scale=True, desc=str(out), mininterval=1)
        with atomic_folder(out) as folder, bar:
            merge = merging.Merge(arguments.merge, weight, arguments.density, arguments.drop_rate, arguments.seed)
            merging.write_merged(folder, merge, **parents, own_ids=own_ids, progress=bar.update)
            write_recipe(folder / "recipe.yaml", dataclasses.replace(arguments, weights=weight))
            write_json(folder / "run.json", identity | {"weight": weight})
        print(f"Saved {out}")


def is_there(out: Path, identity: dict) -> bool:
    """Whether an earlier call has finished this checkpoint.

    Raises:
        BadInput: there is something else.
    """
    from efficient_reasoning.files import read_json

    path = out / "run.json"
    earlier = read_json(path) if path.is_file() else {}
    if earlier == identity:
        print(f"{out} is finished; delete it to merge again.")
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        differing = sorted(key for key in earlier.keys() | identity.keys() if earlier.get(key) != identity.get(key))
        what = f"a merge that differs in {', '.join(differing)}" if "merge" in earlier else "what no merge has made"
        raise BadInput(f"{out}: holds {what}; choose another output_dir, or delete that folder.")
    return earlier == identity


if __name__ == "__main__":
    run(main)
