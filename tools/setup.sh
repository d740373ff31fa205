#!/usr/bin/env bash
# Installs what is missing to build and test einkorn on Debian 12 and Ubuntu 24.04, and exports the bundled data.
# Does nothing that was done before. `tools/setup.sh --python` only prints the Python that the build uses.
set -euo pipefail
cd "$(dirname "$0")/.."

# The first Python whose torch is new enough: the active one, else the project's own environment.
has_torch() {
  "$1" - 2>/dev/null <<'PY'
import sys, torch
major, minor = (int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
sys.exit(0 if (major, minor) >= (2, 11) else 1)
PY
}

chosen_python() {
  if [ -n "${EINKORN_PYTHON:-}" ]; then echo "$EINKORN_PYTHON"; return; fi
  local active
  active=$(command -v python3 || true)
  if [ -n "$active" ] && has_torch "$active"; then echo "$active"; return; fi
  echo "$PWD/.venv/bin/python"
}

if [ "${1:-}" = --python ]; then chosen_python; exit; fi

say() { printf 'setup: %s\n' "$*"; }

install_packages() {
  local wanted=(g++ cmake ninja-build git pkg-config python3 python3-venv python3-dev
    libfmt-dev nlohmann-json3-dev libcli11-dev libeigen3-dev libhwy-dev libceres-dev zlib1g-dev libstb-dev
    libgtest-dev libgmock-dev librapidcheck-dev gnuplot-nox clang libclang-rt-dev)
  if ! apt-cache show libclang-rt-dev >/dev/null 2>&1; then
    # Debian 12 names clang's run-time library by its version.
    wanted=("${wanted[@]/#libclang-rt-dev/libclang-rt-14-dev}")
    wanted=("${wanted[@]/%clang/clang-14}")
  fi
  local missing=()
  for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${missing[*]}"
  local root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

install_python() {
  local python
  python=$(chosen_python)
  if [ "$python" = "$PWD/.venv/bin/python" ]; then
    [ -x "$python" ] || { say "making the environment .venv"; python3 -m venv .venv; }
    has_torch "$python" || { say "installing torch into .venv"; "$python" -m pip install -q torch==2.13.0; }
  fi
  # What tests, formatting, packaging and the data export use.
  local wanted=(numpy scipy scikit-learn networkx mpmath pytest ruff==0.14.5 clang-format==19.1.7 scikit-build-core pybind11)
  "$python" - "${wanted[@]}" <<'PY' || "$python" -m pip install -q "${wanted[@]}"
import importlib.metadata as metadata, sys
for name in sys.argv[1:]:
    name, _, version = name.partition("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit(1)
    if version and found != version:
        sys.exit(1)
PY
  [ -f data/exported/digits.npz ] && [ data/exported/digits.npz -nt tools/export_data.py ] ||
    { say "exporting data of scikit-learn and networkx"; "$python" tools/export_data.py data/exported; }
}

install_packages
install_python
