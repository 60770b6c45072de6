#!/usr/bin/env bash
# The tests that need no torch, on other Pythons: bash scripts/reliability/matrix.sh python3.12 python3.13
# Whatever imports torch, or what is built on it, is skipped (`torch_free.py`); all else has to pass.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1
for python in "$@"; do
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    "$python" -m venv "$environment"
    "$environment/bin/pip" install -q -c constraints.txt \
        huggingface_hub math-verify matplotlib numpy psutil pytest pyyaml reasoning-gym rich safetensors tokenizers tqdm
    "$environment/bin/python" --version
    "$environment/bin/python" -m pytest -q -p scripts.reliability.torch_free tests
    rm -rf "$environment"
done
