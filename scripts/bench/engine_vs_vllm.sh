#!/usr/bin/env bash
# Our engine beside vLLM on the same device: the shapes, prompts, end tokens and limits of scripts/bench/engine.py.
#
#     bash scripts/bench/engine_vs_vllm.sh OUT [MODELS] [ROWS]
#     VLLM_PYTHON=/path/to/vllm/bin/python bash scripts/bench/engine_vs_vllm.sh runs/bench/vllm 15m,smollm2-135m 512
#
# OUT          folder for engine.json, vllm.json and table.md
# MODELS       of engine.py (default 15m,smollm2-135m)
# ROWS         requests that are decoded together (default 512); the queue has eight times as many on twice the rows
# PYTHON       of the toolkit (default python)
# VLLM_PYTHON  of an environment with vLLM, which pins a torch of its own (default: PYTHON)
#
# vLLM runs on dummy weights (--load-format dummy): small random ones, under which each token is about as likely as any
# other, as under ours. So samples at T 1 meet an end token after about as many steps, and tokens a second compare.
# Loading, compiling and capturing come before the clock starts, on both sides.

set -euo pipefail
[[ $# -ge 1 ]] || { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2; }
out=$1 models=${2:-15m,smollm2-135m} rows=${3:-512}
python=${PYTHON:-python} vllm_python=${VLLM_PYTHON:-${PYTHON:-python}}
here=$(dirname "${BASH_SOURCE[0]}")

mkdir -p "$out"
"$python" "$here/engine.py" --out "$out/engine.json" --models "$models" --rows "$rows"
"$vllm_python" "$here/vllm_dummy.py" --out "$out/vllm.json" --models "$models" --rows "$rows"
"$python" - "$out" <<'PYTHON' | tee "$out/table.md"
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
ours, theirs = (json.loads((out / name).read_text()) for name in ("engine.json", "vllm.json"))
print(f"{ours['device']}, torch {ours['torch']}; vLLM {theirs['vllm']}, torch {theirs['torch']}\n")
print("| model | what | one batch, tokens/s | times vLLM | queue, tokens/s | times vLLM |")
print("|---|---|---:|---:|---:|---:|")
for model, vllm in theirs["models"].items():
    rows = {"vLLM": vllm, **{name: ours[model][name] for name in ("graph", "graph compiled") if name in ours[model]}}
    for name, row in rows.items():
        cells = []
        for speed, rival in (
            (row["tokens_per_second"], vllm["tokens_per_second"]),
            (row["queue"]["tokens_per_second"], vllm["queue"]["tokens_per_second"]),
        ):
            cells += [f"{speed:,.0f}", f"{speed / rival:.2f}"]
        print(f"| {model} | {name} | {' | '.join(cells)} |")
PYTHON
