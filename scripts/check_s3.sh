#!/usr/bin/env bash
# The conformance suite of object stores, then whole jobs, on real S3 servers on the loopback:
#   scripts/check_s3.sh [radosgw] [swift] [moto]     all three by default
# radosgw and swift are Debian's, moto comes from PyPI; tests/storage/servers/ says which packages.
# A server whose packages are not there is left out, with a line that says so. CVXQ_BUILD_DIR names
# a build that is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "check_s3: $1" >&2
  exit 1
}

if [ -z "${CVXQ_BUILD_DIR:-}" ]; then
  scripts/install_packages.sh
  cmake --preset release
  cmake --build --preset release --target cvxq storage_test
fi
build=${CVXQ_BUILD_DIR:-build/release}
work=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT

export AWS_ACCESS_KEY_ID=test:tester AWS_SECRET_ACCESS_KEY=cvxqtestsecret AWS_REGION=us-east-1
export TMPDIR=$work no_proxy=127.0.0.1
unset AWS_SESSION_TOKEN AWS_ENDPOINT_URL_S3 CVXQ_S3_ADDRESSING
cvxq=$build/cvxq
model=examples/models/kjv-llama-1m
text=examples/text/kjv.test.txt
quantize=(quantize --bits 3 --samples 8 --seq-len 32 --save-every 0 --json)

# The value of KEY in the JSON document on standard input, as JSON.
field() {
  python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)[sys.argv[1]], sort_keys=True))' "$1"
}

kl() {  # MODEL REFERENCE
  "$cvxq" eval "$1" --reference "$2" --text "$text" --seq-len 64 --max-sequences 8 --json | field kl_mean
}

# Starts a server, waits for it, makes a bucket with the model.
start() {  # NAME
  local folder=$work/$1 port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  tests/storage/servers/"$1".sh "$folder" "$port" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" \
    >"$work/$1.log" 2>&1 &
  servers+=($!)
  for _ in $(seq 360); do
    [ ! -e "$folder/ready" ] || break
    kill -0 "${servers[-1]}" 2>/dev/null || break
    sleep 0.5
  done
  if [ ! -e "$folder/ready" ]; then
    tail -n 20 "$work/$1.log" >&2
    fail "$1 does not start"
  fi
  echo "== $(cat "$folder/ready")"
  export AWS_ENDPOINT_URL=http://127.0.0.1:$port
  tests/storage/servers/put.py bucket
  for file in "$model"/*; do
    tests/storage/servers/put.py "bucket/models/llama/$(basename "$file")" "$file"
  done
}

conformance() {  # NAME FILTER
  CVXQ_TEST_S3=s3://bucket/conformance "$build"/tests/storage_test --gtest_filter="$2" \
    --gtest_brief=1 || fail "$1 fails the conformance suite"
}

# The files of a job that is done, or what went wrong with it.
sha256() {  # MODEL OUTPUT
  "$cvxq" "${quantize[@]}" "$1" -o "$2" 2>"$work/err" | field sha256 || fail "$(cat "$work/err")"
}

check_reads() {
  [ "$(sha256 s3://bucket/models/llama "$work/read")" = "$expected" ] ||
    fail "other bytes from the model in the bucket than from its folder"
  rm -r "$work/read"
}

check_outputs() {
  local from=s3://bucket/models/llama
  [ "$(sha256 "$from" s3://bucket/out/a)" = "$expected" ] ||
    fail "other bytes in the bucket than in a folder"
  [ "$(kl s3://bucket/out/a "$from")" = "$(kl "$work/out" "$model")" ] ||
    fail "another divergence where the packed model is read from the bucket"
  if { (CVXQ_FAILPOINT=codes-saved:6 "$cvxq" "${quantize[@]}" "$from" -o s3://bucket/out/b) >/dev/null; } 2>/dev/null; then
    fail "the run that was to be killed was not"
  fi
  [ "$(sha256 "$from" s3://bucket/out/b)" = "$expected" ] ||
    fail "other bytes from a run that was killed and begun again"
  grep -q 'going on behind' "$work/err" || fail "the run begun again began from the start"
  if "$cvxq" "${quantize[@]}" "$from" -o s3://bucket/out/b >/dev/null 2>"$work/err"; then
    fail "an output was replaced"
  fi
}

check_refusal() {
  if "$cvxq" "${quantize[@]}" s3://bucket/models/llama -o s3://bucket/out/a >/dev/null 2>"$work/err"; then
    fail "an output was written without conditional writes"
  fi
  grep -q 'If-None-Match' "$work/err" || fail "refused for another reason: $(cat "$work/err")"
}

expected=$(sha256 "$model" "$work/out")
[ $# -gt 0 ] || set -- radosgw swift moto
for name in "$@"; do
  case "$name" in
    radosgw) needs=radosgw ;;
    swift) needs=swift-proxy-server ;;
    moto) needs=python3 ;;
    *) fail "usage: scripts/check_s3.sh [radosgw] [swift] [moto]" ;;
  esac
  if ! command -v "$needs" >/dev/null; then
    echo "== $name is not installed: tests/storage/servers/$name.sh says what it needs"
    continue
  fi
  start "$name"
  check_reads
  if [ "$name" = swift ]; then  # has no conditional writes
    conformance "$name" '*real_s3*:-*WhereNothingIs*:*ConditionalWrites*'
    check_refusal
    echo "$name: models are read, outputs refused"
  else
    conformance "$name" '*real_s3*'
    check_outputs
    echo "$name: same bytes as in folders, read back, gone on with after a kill, never replaced"
  fi
done
