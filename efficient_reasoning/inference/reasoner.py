"""A model that is ready to think: a checkpoint and the engine that runs it.

1. `graph` decodes with our own loop, `transformers` with plain `generate`, `vllm` in vLLM, `openai` on the server at
   OPENAI_BASE_URL, and `mock` says a script; `auto` takes the fastest that can.
2. Every engine closes thinking by force: in its loop where it can, else in two passes.
3. A checkpoint that thinks in latents gets them behind every prompt; only `graph` decodes them. One with learnt pauses
   gets those, which are tokens that every backend reads.
4. One of recurrent depth is as deep as it is told to be; only `transformers` decodes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.checkpoint import (
    ReasoningMetadata,
    load_config,
    load_model,
    load_tokenizer,
    local_folder,
    resolve_model,
    thinking_format,
    weights_fingerprint,
)
from efficient_reasoning.config import read_value, split_parameters
from efficient_reasoning.errors import BadInput, near
from efficient_reasoning.inference.engine import HIDDEN, IN_LOOP, LOGIT_BIAS, LOGPROBS, SCORE, Engine
from efficient_reasoning.inference.recall import RecallingEngine
from efficient_reasoning.inference.strategy import Strategy, check_capabilities, get_strategy
from efficient_reasoning.inference.two_pass import TwoPassEngine
from efficient_reasoning.thinking import ThinkingFormat

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What a backend can do, a server that lacks something apart; forced closes come with all of them (`TwoPassEngine`).
BACKENDS = {
    "graph": frozenset({LOGPROBS, LOGIT_BIAS, SCORE, HIDDEN}),
    "transformers": frozenset({LOGPROBS, LOGIT_BIAS, SCORE, HIDDEN}),
    "vllm": frozenset({LOGPROBS, LOGIT_BIAS, SCORE}),
    "openai": frozenset({LOGPROBS, LOGIT_BIAS, SCORE}),
    "mock": frozenset({LOGPROBS, SCORE}),
}

_OPTIONS = {  # and how to read them; those of vLLM are its own business
    "auto": {"dtype": str, "latent_steps": int, "depth": int, "exit_kl": float},
    "graph": {"dtype": str, "rows": int, "stride": int, "compile_step": bool, "latent_steps": int},
    "transformers": {"dtype": str, "draft": str, "batch_size": int, "depth": int, "exit_kl": float},
    "openai": {},
    "mock": {"script": tuple},
}


@dataclass(frozen=True)
class Reasoner:
    """A model that is ready to think.

    Attributes:
        engine: decodes.
        tokenizer: of the checkpoint.
        thinking: its think delimiters.
        metadata: its reasoning.json; None for models of another making.
        name: what it was loaded as, without the folders around it; with the scale of its adapter if that is not 1, and
            with its depth if that was chosen.
        location: its folder or Hub id.
        weights: fingerprint of a local folder's weights as they were loaded; None for a model of the Hub.
        context_tokens: positions that the model knows; None where its config does not say.
        backend: what decodes.
        latent_ids: what stands behind every prompt: markers, and a placeholder for each latent, or pauses; empty for
            models that think in tokens alone.
    """

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    thinking: ThinkingFormat
    metadata: ReasoningMetadata | None
    name: str
    location: str
    weights: str | None
    context_tokens: int | None
    backend: str
    latent_ids: tuple[int, ...] = ()

    @property
    def latent_steps(self) -> int:
        """How many latents, or pauses in their place, a response begins with; each counts as a decoded token."""
        return len(self.latent_ids) - 2 if self.latent_ids else 0

    @property
    def decodes_elsewhere(self) -> bool:
        """Whether this machine's processors have time while it decodes: a GPU or a server does it."""
        model = getattr(self.engine, "model", None)
        return self.backend in ("vllm", "openai") or getattr(getattr(model, "device", None), "type", "cpu") != "cpu"

    def strategy(self, name: str, **parameters) -> Strategy:
        """A strategy by its name, ready for this model, with the others that it asks.

        Raises:
            BadInput: as `get_strategy`, or the engine lacks what the strategy needs, or those others cannot be had.
        """
        strategy = get_strategy(name, **parameters)
        check_capabilities(name, strategy, self.engine, self.backend, BACKENDS)
        return strategy.bind(self) if hasattr(strategy, "bind") else strategy

    def recalling(self) -> Reasoner:
        """The same reasoner; until it is dropped, it decodes no request twice, nor the beginning of one (`recall`)."""
        return dataclasses.replace(self, engine=RecallingEngine(self.engine))

    @functools.cached_property
    def closing_engine(self) -> Engine:
        """The engine, or one around it, that closes thinking by force: the same one for all problems, whose requests
        are decoded together.
        """
        in_loop = IN_LOOP in self.engine.capabilities and self.thinking.has_single_ids
        return self.engine if in_loop else TwoPassEngine(self.engine)


def load_reasoner(
    path_or_id: str,
    backend: str = "auto",
    device: str | None = None,
    dtype: str | None = None,
    adapter_scale: float | None = None,
    **options,
) -> Reasoner:
    """Load any stage's checkpoint, or any model with think delimiters.

    Args:
        path_or_id: folder, Hub id, or "overthinker" for the embedded model. For "openai" the weights are the server's,
            and only the tokenizer is read from here.
        backend: "graph", "transformers", "vllm", "openai" or "mock". "auto" takes vLLM on CUDA where it is installed
            and has the architecture, else "graph" where that can decode it, else "transformers". Options may stand
            behind it as in a URL, also the dtype: "graph?rows=1024&compile_step=true&dtype=bfloat16".
        device, dtype: as in `checkpoint.load_model`; the device is for "graph" and "transformers".
        adapter_scale: as in `checkpoint.load_model`; for "graph" and "transformers", of which "auto" takes one then.
        options: further arguments of the backend's engine: `compile_step` or `rows` of "graph", `draft` (a folder or
            Hub id) of "transformers", `speculative_config` and others of `vllm.LLM`, the `script` of "mock".
            `latent_steps` of "graph": how many latents, for a checkpoint that thinks in them; as trained by default.
            `depth` of "transformers": iterations of the core, for a checkpoint of recurrent depth; the mean of its
            training by default. `exit_kl`: it stops iterating for a token whose distribution changes by less, in nats.

    Raises:
        BadInput: unknown backend, broken checkpoint, a tokenizer without known think delimiters, an architecture that
            the backend cannot decode, an option that it does not know, a scale without an adapter, a depth for a model
            that has one depth only, or a server that does not answer.
    """
    backend, written = split_parameters(backend)
    if backend not in (*BACKENDS, "auto"):
        raise BadInput(f"Unknown backend {backend!r}{near(backend, [*BACKENDS, 'auto'])}")
    known = _OPTIONS.get(backend, dict.fromkeys((*written, *options), object))
    for name in (*written, *options):
        if name not in known:
            raise BadInput(f"Backend {backend} has no option {name!r}{near(name, known)}")
    options |= {name: read_value(f"backend {backend}: {name}", known[name], text) for name, text in written.items()}
    dtype = options.pop("dtype", dtype)
    if adapter_scale is not None and backend not in ("auto", "graph", "transformers"):
        raise BadInput(
            f"Backend {backend} cannot scale an adapter; use graph or transformers, or write a checkpoint of that "
            "scale with `efficient-reasoning train merge`."
        )
    folder = resolve_model(path_or_id)
    tokenizer = load_tokenizer(folder)
    config = load_config(folder)
    thinking = thinking_format(folder, tokenizer)
    depth = {name: options.pop(name) for name in ("depth", "exit_kl") if name in known and name in options}
    if depth and config.model_type != "recurrent_depth":
        raise BadInput(f"{folder} is not of recurrent depth; leave out {' and '.join(depth)}.")
    place = _with_latents_at_hand(folder, tokenizer)
    metadata = ReasoningMetadata.load(place)
    latent_ids = _latent_ids(metadata, tokenizer, options.pop("latent_steps", None), folder)
    if latent_ids and metadata.latent_steps:
        if backend not in ("auto", "graph"):
            raise BadInput(f"{folder} thinks in latents, which backend {backend} does not decode; use graph.")
        from efficient_reasoning.latent.decoding import LATENT, Latents
        from efficient_reasoning.latent.projection import load_projection

        projection = load_projection(place, metadata, config.get_text_config().hidden_size)
        placeholder = tokenizer.convert_tokens_to_ids(LATENT)
        backend, options["latents"] = "graph", Latents(latent_ids[0], placeholder, projection)
    if backend == "auto":
        backend = "vllm" if adapter_scale is None and _has_vllm(config, device) else "torch"
    if backend == "torch":
        model = load_model(folder, device, dtype, adapter_scale)
        backend, engine = torch_engine(model, thinking.eos_ids, tokenizer.pad_token_id, tokenizer)
    else:
        engine = _load_engine(backend, folder, tokenizer, thinking, device, dtype, adapter_scale, options)
    if depth:
        from efficient_reasoning.recurrent.depth import set_depth

        set_depth(engine.model.config, **depth)
    context_tokens = getattr(config.get_text_config(), "max_position_embeddings", None)
    name = Path(path_or_id).name if Path(path_or_id).is_dir() else path_or_id
    name += f" at scale {float(adapter_scale):g}" if adapter_scale not in (None, 1) else ""
    name += f" at {', '.join(f'{option} {value:g}' for option, value in depth.items())}" if depth else ""
    return Reasoner(
        engine,
        tokenizer,
        thinking,
        metadata,
        name,
        folder,
        weights_fingerprint(folder, adapter_scale),
        context_tokens,
        backend,
        latent_ids,
    )


def _with_latents_at_hand(folder: str, tokenizer: PreTrainedTokenizerBase) -> str | Path:
    """Where its files are; a model of the Hub that may think in latents is downloaded, to know how many and how."""
    if Path(folder).is_dir():
        return folder
    from efficient_reasoning.latent.decoding import LATENT

    return local_folder(folder) if LATENT in tokenizer.get_vocab() else folder


def _latent_ids(
    metadata: ReasoningMetadata | None, tokenizer: PreTrainedTokenizerBase, steps: int | None, folder: str
) -> tuple[int, ...]:
    trained = (metadata.latent_steps or metadata.pause_steps) if metadata is not None else 0
    if not trained and steps is not None:
        raise BadInput(f"{folder} does not think in latents; leave out latent_steps.")
    if not trained:
        return ()
    from efficient_reasoning.latent.decoding import MARKERS

    steps = trained if steps is None else steps
    if steps < 0:
        raise BadInput(f"latent_steps is {steps}; give 0 or more.")
    for text in MARKERS:
        if text not in tokenizer.get_vocab():
            raise BadInput(f"{folder}: its tokenizer has no {text}, though it thinks in latents; copy it again.")
    bot, latent, eot = (tokenizer.convert_tokens_to_ids(text) for text in MARKERS)
    return (bot, *[latent] * steps, eot)


def torch_engine(
    model: PreTrainedModel,
    eos_ids: frozenset[int],
    pad_id: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings,
) -> tuple[str, Engine]:
    """The name and the engine that decodes this model: "graph" where it can, else "transformers".

    `settings` are those of `GraphEngine`.
    """
    from efficient_reasoning.inference.graph_engine import GraphEngine
    from efficient_reasoning.inference.transformers_engine import TransformersEngine

    if GraphEngine.can_decode(model.config):
        with contextlib.suppress(BadInput):
            return "graph", GraphEngine(model, eos_ids, pad_id, tokenizer, **settings)
    return "transformers", TransformersEngine(model, eos_ids, pad_id, tokenizer)


def _has_vllm(config: PretrainedConfig, device: str | None) -> bool:
    import torch

    from efficient_reasoning.inference.vllm_engine import VllmEngine

    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    return on_gpu and VllmEngine.can_decode(config)


def _load_engine(
    backend: str,
    folder: str,
    tokenizer: PreTrainedTokenizerBase,
    thinking: ThinkingFormat,
    device: str | None,
    dtype: str | None,
    adapter_scale: float | None,
    options: dict,
) -> Engine:
    match backend:
        case "mock":
            from efficient_reasoning.inference.mock_engine import MockEngine, scripted

            rule = scripted(thinking, *options.get("script", ("0", "0")))
            return MockEngine(rule, thinking.eos_ids, tokenizer.decode)
        case "openai":
            from efficient_reasoning.inference.openai_engine import OpenAIEngine

            return OpenAIEngine.from_environment(tokenizer, thinking.eos_ids)
        case "vllm":
            from efficient_reasoning.inference.vllm_engine import VllmEngine

            return VllmEngine(folder, thinking, dtype, **options)
    ends = (thinking.eos_ids, tokenizer.pad_token_id, tokenizer)
    model = load_model(folder, device, dtype, adapter_scale)
    if backend == "transformers":
        from efficient_reasoning.inference.transformers_engine import TransformersEngine

        if "draft" in options:
            if model.config.model_type == "recurrent_depth":
                raise BadInput(f"{folder} is of recurrent depth, which takes no draft; leave out draft.")
            options = {**options, "draft": load_model(resolve_model(options["draft"]), device, dtype)}
        return TransformersEngine(model, *ends, **options)
    from efficient_reasoning.inference.graph_engine import GraphEngine

    with_latents = "latents" in options
    if not GraphEngine.can_decode(model.config, with_latents):
        other = "take another model" if with_latents else "use transformers"
        raise BadInput(f"{folder}: backend graph cannot decode {model.config.model_type}; {other}.")
    return GraphEngine(model, *ends, **options)
