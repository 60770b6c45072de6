"""What of a run may leave the machine: a config that trains it again, and the push at its end."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import atomic_file

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from efficient_reasoning.training.run import RecipeArguments

# Fields of the trainer's arguments that begin so do not decide the weights that come out, and may differ when a run is
# resumed: they say where the run stands, what it tells, and where it computes.
INCIDENTAL = (
    "output_dir", "run_name", "logging", "log_", "report_to", "project", "trackio", "disable_tqdm", "save_", "eval_",
    "push_to_hub", "hub_", "resume_from", "do_", "dataloader_", "local_rank", "ddp_", "deepspeed", "fsdp", "use_cpu",
)  # fmt: skip
_DERIVED = ("generation_batch_size", "debug")  # from other settings, and refused beside them; or from nothing


def keep_push(config: TrainingArguments, output: Path) -> None:
    """Leave the pushing to `finish`: the trainer would make the repository at once, public where nothing else is said.

    Raises:
        BadInput: a name that the Hub does not take, no access token, or one on the command line; said before the
            training, not behind it.
    """
    from efficient_reasoning.hub.upload import check_repo, require_token

    if config.hub_token is not None:
        raise BadInput("hub_token would lie in the run's files; leave it out, and use `hf auth login` or HF_TOKEN.")
    config.push_when_finished, config.push_to_hub = config.push_to_hub, False
    if config.push_when_finished:
        check_repo(config.hub_model_id or output.name, "--hub_model_id")
        require_token()


def write_recipe(path: Path, arguments: RecipeArguments, *config: TrainingArguments) -> None:
    """Write a config that trains the same again, and may be published: what is no default, and no folder of ours."""
    import yaml

    settings = {}
    for part in (arguments, *config):
        for entry in dataclasses.fields(part):
            value = getattr(part, entry.name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            plain = isinstance(value, (bool, int, float, str, list, dict))
            plain |= value is None and entry.name != "pad_to_multiple_of"  # of which the device decides
            if plain and value != default and not entry.name.startswith((*INCIDENTAL, *_DERIVED)):
                is_path = isinstance(value, str) and Path(value).is_absolute()
                settings[entry.name] = Path(value).name if is_path else json.loads(json.dumps(value, default=str))
    recipe = Path(sys.modules[type(arguments).__module__].__file__).stem
    with atomic_file(path) as stream:
        stream.write(f"# efficient-reasoning train {recipe} --config {path.name} --output_dir FOLDER\n")
        yaml.safe_dump(settings, stream, sort_keys=False)


def push(trainer: Trainer) -> None:
    """Upload the finished checkpoint where the config asks for it."""
    from efficient_reasoning.hub import upload_folder

    if not (getattr(trainer.args, "push_when_finished", False) and trainer.is_world_process_zero()):
        return
    output = Path(trainer.args.output_dir)
    repo, public = trainer.args.hub_model_id or output.name, trainer.args.hub_private_repo is False
    print(f"Uploaded {output} to {upload_folder(output, repo, public=public)}")
