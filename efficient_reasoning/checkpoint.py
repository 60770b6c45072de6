"""What a finished checkpoint holds: a Hugging Face model folder plus `reasoning.json`.

1. Plain `transformers` loads the folder without this toolkit.
2. `reasoning.json` (`ReasoningMetadata`) says what plain `transformers` has no field for: the think delimiters, the
   method and stage, the base model, the budget range it was trained on, good operating points, and where it came from.
   Where a LoRA adapter was kept beside the weights, which hold it at scale 1, any other scale can be loaded.
   Architectures of our own bring their code in the folder, which others have to trust; here, the library's is taken.
3. Local folders are checked before they are loaded: a missing tokenizer or a truncated safetensors file is named in
   one sentence instead of failing deep inside a loader. What is not a local folder is left to the Hub.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import struct
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import digest, write_json
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

METADATA_NAME = "reasoning.json"
ADAPTER_NAME = "adapter"
LATENT_NAME = "latent.safetensors"
VERIFIER = "verifier"  # the stage of one
ASSETS = Path(__file__).parent / "assets"

_DTYPES = ("float32", "bfloat16", "float16")
# By model type, the room that makes transformers know an architecture of our own when it is imported.
OWN_ARCHITECTURES = {
    "linearized": "efficient_reasoning.linear",
    "recurrent_depth": "efficient_reasoning.recurrent",
    "window_global": "efficient_reasoning.window_global",
}


@dataclass
class ReasoningMetadata:
    """The contents of `reasoning.json`.

    Attributes:
        method: what made this checkpoint, such as "shortest_correct" or "grpo kimi".
        stage: life-cycle stage: "pretrain", "sft", "rl", "merge", or "verifier" of what rates responses instead.
        base_model: Hub id or folder name of the model that the first stage of this toolkit started from; None when
            that was from scratch.
        earlier_methods: of the stages between the base model and this one, the first one first.
        merged_from: names of the models whose weights were merged, the long one first; none of a trained model.
        licence: of the base model, as the Hub spells it; None when it is not known.
        open_text, close_text: the think delimiters as text.
        latent_steps: thinking steps without tokens; 0 for ordinary models.
        latent_projection: file with the weights of what makes latents of hidden states; None without.
        latent_norm: Euclidean length that every latent is brought to; None leaves them as they come.
        pause_steps: learnt tokens that stand behind every prompt in their place, of a control.
        depth: iterations of the core that a model of recurrent depth decodes with by default; None of other models.
        adapter: folder with the LoRA adapter that the weights hold at scale 1; None without.
        trained_budget_range: smallest and largest `budget_tokens` met in training; None without budgets.
        controls: texts, of one token each, that it was trained to take behind a question as an order for the length.
        trained_tokens: mean tokens of the responses that it was trained on; None when it is not known.
        operating_points: recommended settings, as {"strategy", "budget_tokens", "accuracy", "total_tokens"}; with
            {"planned_for": {unit: budget}} those that were chosen for a mean budget.
        data_fingerprint: hash of the training rows.
        seed: of the training run.
        versions: packages that made it.
    """

    method: str
    stage: str
    base_model: str | None = None
    earlier_methods: list[str] = field(default_factory=list)
    merged_from: list[str] = field(default_factory=list)
    licence: str | None = None
    open_text: str = "<think>"
    close_text: str = "</think>"
    latent_steps: int = 0
    latent_projection: str | None = None
    latent_norm: float | None = None
    pause_steps: int = 0
    depth: int | None = None
    adapter: str | None = None
    trained_budget_range: tuple[int, int] | None = None
    controls: list[str] = field(default_factory=list)
    trained_tokens: float | None = None
    operating_points: list[dict] = field(default_factory=list)
    data_fingerprint: str | None = None
    seed: int | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("torch", "transformers", "trl")}
    )

    def __post_init__(self) -> None:
        if not isinstance(self.controls, list):
            raise TypeError(f"controls is {self.controls!r}, no list")
        for name in ("latent_steps", "pause_steps"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise TypeError(f"{name} is {getattr(self, name)!r}, no number of steps")
        if self.latent_norm is not None and not (type(self.latent_norm) in (int, float) and self.latent_norm > 0):
            raise TypeError(f"latent_norm is {self.latent_norm!r}, no length")
        if self.trained_budget_range is not None:
            self.trained_budget_range = tuple(self.trained_budget_range)  # JSON has lists only

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / METADATA_NAME, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> ReasoningMetadata | None:
        """Read the metadata of a local checkpoint; None for a model of another making.

        Raises:
            BadInput: the file is there but is not ours.
        """
        path = Path(folder) / METADATA_NAME
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}: not a valid {METADATA_NAME} ({error}); restore the file or delete it.") from None


def resolve_model(model: str) -> str:
    """Turn "overthinker" into the folder of the embedded model; leave paths and Hub ids as they are."""
    embedded = ASSETS / model
    return str(embedded) if model.isidentifier() and embedded.is_dir() else model


def check_checkpoint(model: str) -> None:
    """Check a local checkpoint folder; a Hub id passes unchecked.

    Raises:
        BadInput: no config, no tokenizer, no weights, no latent projection though its metadata has one, or a
            safetensors file that is shorter than its header says.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
            raise BadInput(f"{model}: no such checkpoint folder; check the path.")
        return
    if not (folder / "config.json").is_file():
        raise BadInput(f"{model}: no config.json, so this is no model folder; name the folder that holds the model.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise BadInput(f"{model}: the checkpoint has no tokenizer; copy tokenizer.json from the base model into it.")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"):
        _check_json(folder / name)
    metadata = ReasoningMetadata.load(folder)
    if metadata is not None and metadata.latent_projection is not None and not (folder / LATENT_NAME).is_file():
        raise BadInput(
            f"{model}: {LATENT_NAME} is missing, though {METADATA_NAME} names it; copy the checkpoint again."
        )
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        for name in sorted(shards - {path.name for path in weights}):
            raise BadInput(f"{model}: {name} is missing, though {index.name} names it; copy the checkpoint again.")
    if {path.name for path in weights} <= {LATENT_NAME} and not any(folder.glob("pytorch_model*.bin")):
        raise BadInput(f"{model}: the checkpoint has no weights (*.safetensors); the save was cut off, train again.")
    for path in (*weights, *sorted(folder.glob(f"{ADAPTER_NAME}/*.safetensors"))):
        _check_safetensors(path)


def check_writes(model: str) -> None:
    """Refuse a verifier of our making, from which a causal model would be loaded without a head.

    Raises:
        BadInput: it is one.
    """
    metadata = ReasoningMetadata.load(model)
    if metadata is not None and metadata.stage == VERIFIER:
        raise BadInput(
            f"{model}: a verifier, which rates responses and writes none; give it to a strategy, as in "
            f"best-of-n?verifier={model}."
        )


def _check_json(path: Path) -> None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON ({error}); the copy was cut off, copy it again.") from None
    if not isinstance(entries, dict):
        raise BadInput(f"{path}: expected an object; copy the file again.")


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header = stream.read(header_bytes) if 8 + header_bytes <= size else b""
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        expected = 8 + header_bytes + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (ValueError, AttributeError, TypeError, LookupError):  # a cut or overwritten header (zeros after a crash)
        expected = None
    if size != expected:
        raise BadInput(f"{path}: truncated safetensors file ({size:,} bytes); copy or download it again.")


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer with padding on the left, where decoding needs it.

    Raises:
        BadInput: broken checkpoint, or a name that is neither a folder nor a model of the Hub.
    """
    from transformers import AutoTokenizer

    check_checkpoint(model)
    _know_architecture(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    except OSError as error:
        if Path(model).is_dir():
            raise
        raise BadInput(f"{model}: neither a folder nor a model that the Hub lets us load; check the name.") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(model: str) -> PretrainedConfig:
    """The config of a checkpoint that `load_tokenizer` has found whole.

    Raises:
        BadInput: an architecture of our own with fields that make no model, or of a version that is not known.
    """
    from transformers import AutoConfig

    _know_architecture(model)
    return AutoConfig.from_pretrained(model)


def _know_architecture(model: str) -> None:
    """Make transformers know the architecture of a checkpoint, and check its config, if it is one of our own."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, PreTrainedConfig

    try:
        fields, _ = PreTrainedConfig.get_config_dict(model)
    except OSError:  # whoever loads it says what is wrong
        return
    room = OWN_ARCHITECTURES.get(fields.get("model_type"))
    if room is None:
        return
    importlib.import_module(room)
    try:
        AutoConfig.from_pretrained(model)
    except StrictDataclassError as error:
        raise BadInput(f"{model}: config.json: {str(error).splitlines()[-1].strip()}") from None


def local_folder(model: str) -> Path:
    """The folder of a checkpoint that `load_tokenizer` has found; that of a Hub id is downloaded.

    Raises:
        BadInput: the Hub does not give it.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    kinds = ("json", "safetensors", "txt", "model", "jinja", "md", "py")
    try:
        return Path(snapshot_download(model, allow_patterns=[*(f"*.{kind}" for kind in kinds), "LICENSE*"]))
    except OSError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{model}: cannot be downloaded ({reason}); download it, then name its folder.") from error


def load_model(
    model: str, device: str | None = None, dtype: str | None = None, adapter_scale: float | None = None
) -> PreTrainedModel:
    """Load a causal language model for inference.

    Args:
        model: folder or Hub id.
        device: "cpu", "cuda", ...; None takes a GPU when there is one.
        dtype: "float32", "bfloat16", ...; None takes float32 on the CPU and the checkpoint's own on a GPU.
        adapter_scale: of the LoRA adapter that was kept with the checkpoint (CoT-Valve, arXiv 2502.09601): 0 is the
            model without it, 1 or None the checkpoint as it is; below 0 and above 1 go beyond. Tokens and layers that
            were trained whole beside the adapter stay as they are.

    Raises:
        BadInput: broken checkpoint, a verifier, an unknown dtype, a scale that is no number, or one for a checkpoint
            that keeps no LoRA adapter.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in (None, *_DTYPES):
        raise BadInput(f"dtype is {dtype!r}; give one of {', '.join(_DTYPES)}.")
    check_checkpoint(model)
    check_writes(model)
    adapter = None
    if adapter_scale is not None:
        if not math.isfinite(adapter_scale):
            raise BadInput(f"adapter_scale is {adapter_scale}; give a number such as 0.5.")
        adapter = adapter_folder(model)
    _know_architecture(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device)
    if adapter is not None and adapter_scale != 1:
        loaded = _scale_adapter(loaded, adapter, adapter_scale)
    return loaded.eval()


def adapter_folder(model: str) -> Path:
    """The folder of the LoRA adapter that was kept with a checkpoint.

    Raises:
        BadInput: there is none, not all of it, or one of another kind.
    """
    folder = local_folder(model)
    metadata = ReasoningMetadata.load(folder)
    if metadata is None or metadata.adapter is None:
        raise BadInput(f"{model}: keeps no adapter to scale; train it with `adapter: keep`, or leave the scale out.")
    path = folder / ADAPTER_NAME / "adapter_config.json"
    _check_json(path)
    if not path.is_file() or not (path.parent / "adapter_model.safetensors").is_file():
        raise BadInput(f"{model}: its folder {ADAPTER_NAME}/ is not whole; copy the checkpoint again.")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise BadInput(f"{path}: an adapter of another kind than plain LoRA cannot be scaled; train one with LoRA.")
    return path.parent


def attach_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """The adapter around a model, which may be on the meta device.

    Raises:
        BadInput: layers or tensors that do not fit, or that are missing.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors on the meta device stay without numbers, as they should
            warnings.filterwarnings("error", "Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, TypeError, LookupError, RuntimeError, UserWarning) as error:
        reason = str(error).splitlines()[-1].strip()
        raise BadInput(f"{adapter}: does not fit the weights ({reason}); copy the checkpoint again.") from None


def _scale_adapter(model: PreTrainedModel, adapter: Path, scale: float) -> PreTrainedModel:
    """W + (scale - 1) delta for every layer that the adapter changes; W holds delta = B A alpha / r once."""
    from peft.tuners.lora import LoraLayer

    adapted = attach_adapter(model, adapter)
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(scale - 1)
    return adapted.merge_and_unload()


def thinking_format(model: str, tokenizer: PreTrainedTokenizerBase) -> ThinkingFormat:
    """The delimiters a checkpoint was trained with, or those that its tokenizer shows, and all that ends a response.

    A chat model may end its turn with another token than the tokenizer's EOS; its generation config knows.
    """
    from transformers import GenerationConfig

    metadata = ReasoningMetadata.load(model)
    open_text, close_text = (metadata.open_text, metadata.close_text) if metadata else (None, None)
    try:
        ends = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model without one ends as its config says
        ends = load_config(model).eos_token_id
    eos_ids = [ends] if isinstance(ends, int) else ends or []
    vocab_size = load_config(model).get_text_config().vocab_size
    return ThinkingFormat.from_tokenizer(tokenizer, open_text, close_text, eos_ids, vocab_size)


def has_own_code(folder: Path) -> bool:
    """Whether its architecture or tokenizer is one of its own, whose modeling files ride in the folder."""
    configs = (folder / name for name in ("config.json", "tokenizer_config.json"))
    return any("auto_map" in json.loads(path.read_text(encoding="utf-8")) for path in configs if path.is_file())


def weights_fingerprint(model: str, adapter_scale: float | None = None) -> str | None:
    """What tells a checkpoint from another of the same name: a hash of a folder's weights; None for a Hub id.

    Of its adapter at another scale than 1, these are other weights.
    """
    folder = Path(model)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]) if folder.is_dir() else []
    if not files or adapter_scale in (None, 1):
        return digest(files) if files else None
    return f"{digest([*files, *sorted(folder.glob(f'{ADAPTER_NAME}/adapter_*'))])} at scale {float(adapter_scale)}"
