#!/usr/bin/env bash
# Holds exported files against the engines that read them: transformers and llama.cpp, from PyPI.
#   scripts/check_exports.sh [MODEL ...]     more models than those of the repository
# Builds the preset `release`; the environment stays in build/exports-venv for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${CVXQ_EXPORTS_VENV:-build/exports-venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q torch transformers accelerate gguf xllamacpp
fi
cmake --preset release
cmake --build build/release --target cvxq decode_model
"$venv/bin/python" scripts/check_gguf.py build/release . build/exports-check "$@"
