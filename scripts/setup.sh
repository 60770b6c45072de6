# Sourced by quickstart.sh and test.sh, with `extra` empty or the name of an extra of setup.cfg. It makes this checkout's
# virtual environment (.venv, or the folder that EFFICIENT_REASONING_VENV names) or brings it up to date, and leaves
# "$python" and the repository root as the current directory. When nothing changed since the last time, it does nothing.

set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 1
}

# The first of the usual names that is recent enough and can make a virtual environment.
find_python() {
  local name found=""
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue
    found=$name
    "$name" -c 'import ensurepip, venv' 2>/dev/null && echo "$name" && return
  done
  [ -z "$found" ] || fail "$found has no venv module; install it (Debian, Ubuntu: apt install python3-venv) and run this again."
  fail "found no Python 3.10 or newer; install one (Debian, Ubuntu: apt install python3 python3-venv) and run this again."
}

# Python runs, has pip, and the environment was made at this very path, which the commands in it hold.
is_usable() {
  "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null &&
    grep -qsF "$venv/bin/python" "$venv/bin/pip"
}

venv=${EFFICIENT_REASONING_VENV:+$(realpath -m "$EFFICIENT_REASONING_VENV")}
cd "$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")"
venv=${venv:-$PWD/.venv}
python=$venv/bin/python
ours=$venv/.made-by-efficient-reasoning # a folder that may be deleted
stamp=$venv/.installed

if ! is_usable; then
  if [ -e "$venv" ] && [ ! -e "$ours" ] && [ -n "$(ls -A "$venv")" ]; then
    fail "$venv is no usable virtual environment; delete it, or name another folder with EFFICIENT_REASONING_VENV."
  fi
  base=$(find_python)
  rm -rf "$venv"
  mkdir -p "$venv"
  touch "$ours"
  "$base" -m venv "$venv"
fi

wanted=$({ cat setup.cfg constraints.txt && "$python" --version; } | cksum)
if [[ $(cat "$stamp" 2>/dev/null) != "$wanted:$extra"* ]]; then # an environment with the extra has the rest too
  echo "Installing PyTorch, TRL, DeepSpeed and what they need into $venv: once, about 3 minutes"
  echo "and the download (PyTorch with CUDA: 3 GB; without: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu)."
  export DS_BUILD_OPS=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
  rm -f "$stamp"
  if [ -t 1 ]; then quiet=; else quiet=-qq; fi # a download of gigabytes shows its progress to a person
  pip_install() {
    "$python" -m pip install "$@" -c constraints.txt ||
      fail "the installation stopped; check the network and the space on the disk, and run this again."
  }
  pip_install $quiet torch
  pip_install -qq -e ".${extra:+[$extra]}"
  echo "$wanted:$extra" >"$stamp" # last, so that an installation that was cut off is taken up again
fi
