#!/usr/bin/env bash
# Style and tests, as CI runs them: bash scripts/test.sh [options of pytest, such as -m slow or tests/test_cli.py]

set -euo pipefail
extra=dev
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# The models are tiny: a second thread costs more than it gives.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" -m ruff check .
"$python" -m ruff format --check .
exec "$python" -m pytest "$@"
