"""What must be true of files before they leave: no secret, no path of this machine, and nothing missing.

1. Text is read line by line, so a gigabyte of samples costs no memory. A secret is never repeated in the message.
2. The weights stay on the meta device: a missing or misshapen tensor is found without the memory for it.
3. The tokenizer is compared with that of the checkpoint it came from, by what it does: ids, special tokens, and how
   its chat template renders a question, with the thinking switch either way and with a tool.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from efficient_reasoning.checkpoint import (
    OWN_ARCHITECTURES,
    ReasoningMetadata,
    adapter_folder,
    attach_adapter,
    has_own_code,
)
from efficient_reasoning.errors import BadInput
from efficient_reasoning.prompts import template_kwargs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS = {".json", ".jsonl", ".yaml", ".csv", ".md", ".py", ".jinja", ".txt", ""}
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}  # their words look like paths
# Access tokens of the Hub, of OpenAI and its like, of GitHub and of AWS, and private keys.
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[oprsu]_[A-Za-z0-9]{36}|\bgithub_pat_\w{22,}"
    r"|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# Two names behind a slash that continues no word, URL, tag or relative path: /home/me, C:\\Users. What is at the same
# place on every machine (/usr/bin/env) gives nothing away.
_MACHINE_PATH = re.compile(
    r"(?<![\w/.:<~!*)\]}-])/(?!(?:usr|bin|sbin|lib|etc|dev|proc|sys)/)(?:[A-Za-z_.][\w.+-]*/)+[\w.+-]+"
    r"|\bfile:/{1,3}[\w.-]+/[\w.+-]+"
    r"|\b[A-Za-z]:\\{1,2}Users\\"
)
# White space as JSON writes it: its letter would be read as the beginning of the word behind it.
_ESCAPED_SPACE = re.compile(r"(\\\\)|\\[bfnrt]")
_QUESTION = "What is 2 + 3?"
_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": "number", "description": "A number."} for name in ("a", "b")},
            "required": ["a", "b"],
        },
    },
}


def check_texts(files: Mapping[str, Path], shown: str | Path) -> None:
    """Refuse an access token or a path of this machine in any text file.

    Args:
        files: by the path on the Hub.
        shown: what the user calls the folder.

    Raises:
        BadInput: names the file and the line.
    """
    for name, path in files.items():
        if path.suffix not in _TEXTS:
            continue
        try:
            with open(path, encoding="utf-8") as stream:
                for number, line in enumerate(stream, start=1):
                    _check_line(f"{shown}: {name}, line {number}", line, path.name in _VOCABULARIES)
        except UnicodeDecodeError as error:
            raise BadInput(f"{shown}: {name} is not in UTF-8 ({error.reason}); write it again.") from None


def _check_line(place: str, line: str, is_vocabulary: bool) -> None:
    line = _ESCAPED_SPACE.sub(lambda escape: escape[1] or " ", line)
    if _SECRET.search(line):
        raise BadInput(f"{place} holds an access token or key; remove it, and revoke it if it was ever shared.")
    found = _MACHINE_PATH.search(line) if not is_vocabulary else None
    if found:
        raise BadInput(f"{place} holds the path {found[0]} of this machine; replace it by a name or a Hub id.")


def check_code(folder: Path, shown: str | Path, trust_remote_code: bool = False) -> None:
    """Refuse code in a checkpoint that is not this library's: whatever looks at the weights would run it.

    Args:
        folder: the checkpoint.
        shown: what the user calls it.
        trust_remote_code: the user has read it.

    Raises:
        BadInput: names the file, or the repository that the code would be fetched from.
    """
    if trust_remote_code or not has_own_code(folder):
        return
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    room = OWN_ARCHITECTURES.get(config.get("model_type"))
    ours = Path(importlib.util.find_spec(room).origin).parent if room else None
    foreign = [
        path.name
        for path in sorted(folder.glob("*.py"))
        if ours is None or not (ours / path.name).is_file() or (ours / path.name).read_bytes() != path.read_bytes()
    ]
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        auto_map = json.loads(path.read_text(encoding="utf-8")).get("auto_map", {}) if path.is_file() else {}
        foreign += re.findall(r"[\w./-]+(?=--)", json.dumps(auto_map))
    if foreign:
        raise BadInput(
            f"{shown}: {foreign[0]} is code that this toolkit did not write, and the checks would run it; "
            "read it, then add --trust-remote-code."
        )


def check_weights(folder: Path, shown: str | Path) -> None:
    """Refuse weights that are no safetensors or do not fit the config, and what beside them does not fit them.

    Args:
        folder: holds the weights.
        shown: what the user calls the checkpoint; its adapter is read from there.

    Raises:
        BadInput: names a tensor.
    """
    from transformers import AutoModelForCausalLM

    from efficient_reasoning.latent.projection import load_projection

    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"{shown}: its weights are not in safetensors; save it again with save_pretrained.")
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        device_map="meta",
        trust_remote_code=has_own_code(folder),
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            example = sorted(map(str, report[kind]))[0]
            raise BadInput(
                f"{shown}: {len(report[kind])} weights do not fit config.json ({kind}, such as {example}); "
                "save the model again with save_pretrained."
            )
    metadata = ReasoningMetadata.load(folder)
    if metadata is not None:
        load_projection(folder, metadata, model.config.get_text_config().hidden_size)
    if metadata is not None and metadata.adapter is not None:
        attach_adapter(model, adapter_folder(str(shown)))


def check_tokenizer(folder: Path, model: Path) -> None:
    """Refuse a tokenizer that does not do in `folder` what it does in `model`, because a file of it stayed behind.

    Raises:
        BadInput: names what differs.
    """
    from transformers import AutoTokenizer

    source, published = (
        AutoTokenizer.from_pretrained(place, trust_remote_code=has_own_code(place)) for place in (model, folder)
    )
    before, after = _behaviour(source), _behaviour(published)
    differing = [name for name in before if before[name] != after.get(name)]
    if differing:
        raise BadInput(
            f"{model}: without the files that stay behind, its tokenizer has other {', '.join(differing)}; "
            "save it again with tokenizer.save_pretrained."
        )


def _behaviour(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What a user sees of a tokenizer, by name."""
    seen = {
        "ids": tokenizer(_QUESTION)["input_ids"],
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }
    if tokenizer.chat_template:
        seen |= {
            "chat template": _rendered(tokenizer),
            "template without thinking": _rendered(tokenizer, **template_kwargs(tokenizer, thinking=False)),
            "template with a tool": _rendered(tokenizer, tools=[_TOOL]),
        }
    return seen


def _rendered(tokenizer: PreTrainedTokenizerBase, **arguments) -> str:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": _QUESTION}]
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **arguments)
    except TemplateError as error:  # some templates know no tools, and say so
        return str(error)
