#!/usr/bin/env bash
# The main job on the embedded model, on a CPU: bash scripts/quickstart.sh [--fast]

set -euo pipefail
extra=
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export HF_HUB_OFFLINE=1
exec "$python" scripts/quickstart.py "$@"
