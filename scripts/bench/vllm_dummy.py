"""vLLM's side of engine_vs_vllm.sh: the work of engine.py on dummy weights. Writes one JSON file.

python scripts/bench/vllm_dummy.py --out runs/bench/vllm.json [--models 15m,smollm2-135m] [--rows 512]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def measure(name: str, rows: int) -> dict:
    import torch
    from engine import NEW_TOKENS, build, prompts
    from vllm import LLM, SamplingParams

    on_gpu = torch.cuda.is_available()
    model, ends = build(name, torch.float32)
    model.config.architectures = [type(model).__name__]
    vocabulary = model.config.vocab_size
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        del model
        llm = LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16" if on_gpu else "float32",
            max_model_len=1024,
            max_num_seqs=2 * rows,
            enable_prefix_caching=False,  # the prompts have nothing in common
            enforce_eager=not on_gpu,
        )

    def run(count: int) -> tuple[float, int]:
        """Seconds, and tokens up to the end token."""
        requests = [{"prompt_token_ids": row} for row in prompts(count, vocabulary)]
        # No seeds: vLLM is slower with a generator for each request.
        settings = SamplingParams(temperature=1.0, max_tokens=NEW_TOKENS, stop_token_ids=ends, detokenize=False)
        began = time.perf_counter()
        outputs = llm.generate(requests, settings, use_tqdm=False)
        return time.perf_counter() - began, sum(len(output.outputs[0].token_ids) for output in outputs)

    def speed(count: int) -> dict:
        run(count)
        timed = sorted(run(count) for _ in range(3))
        seconds, tokens = timed[1]  # the median; without seeds each run has tokens of its own
        return {"requests": count, "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}

    return speed(rows) | {"queue": speed(8 * rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--models", default="15m,smollm2-135m")
    parser.add_argument("--rows", type=int, default=512)
    args = parser.parse_args()
    import torch
    import vllm

    report = {"vllm": vllm.__version__, "torch": torch.__version__, "models": {}}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.models.split(","):
        report["models"][name] = measure(name, args.rows)
        print(name, json.dumps(report["models"][name], indent=1), flush=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
