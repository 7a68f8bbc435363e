#!/usr/bin/env bash
# Moto's server, from PyPI, in a virtual environment beside its folder:
#   moto.sh FOLDER PORT KEY SECRET        any key and secret will do
# Runs until it is told to end. FOLDER/ready appears when it serves, and holds its version.
# Debian: python3-venv. CVXQ_MOTO_VENV names an environment that has it already.
set -euo pipefail

folder=$1 port=$2
mkdir -p "$folder"
venv=${CVXQ_MOTO_VENV:-$folder/venv}
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 0' TERM INT
if [ ! -x "$venv/bin/moto_server" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q 'moto[s3,server]==5.2.5'
fi
"$venv/bin/moto_server" -H 127.0.0.1 -p "$port" &
until curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:$port/"; do sleep 0.5; done
"$venv/bin/python" -c 'import moto; print("moto", moto.__version__)' >"$folder/version"
mv "$folder/version" "$folder/ready"
wait -n
