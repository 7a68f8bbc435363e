#!/usr/bin/env bash
# The conformance suite of object stores, then whole jobs, on real S3 servers on the loopback:
#   scripts/check_s3.sh [radosgw] [swift] [moto]     all three by default
# radosgw and swift are Debian's, moto comes from PyPI; tests/storage/servers/ says which packages.
# A server whose packages are not there is left out, with a line that says so.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "check_s3: $1" >&2
  exit 1
}

scripts/install_packages.sh
cmake --preset release
cmake --build --preset release --target cvxq storage_test
work=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT

export AWS_ACCESS_KEY_ID=CVXQTEST AWS_SECRET_ACCESS_KEY=cvxqtestsecret AWS_REGION=us-east-1
export TMPDIR=$work no_proxy=127.0.0.1
unset AWS_SESSION_TOKEN AWS_ENDPOINT_URL_S3 CVXQ_S3_ADDRESSING
cvxq=build/release/cvxq
model=examples/models/kjv-llama-1m
text=examples/text/kjv.test.txt
quantize=(quantize --bits 3 --samples 8 --seq-len 32 --save-every 0 --json)

# The value of KEY in the JSON document on standard input, as JSON.
field() {
  python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)[sys.argv[1]], sort_keys=True))' "$1"
}

# PUT PATH [FILE]
put() {
  local body=()
  [ $# -lt 2 ] || body=(-T "$2")
  curl -sS --fail --noproxy '*' -o /dev/null -X PUT --aws-sigv4 aws:amz:us-east-1:s3 \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
    -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "${body[@]}" "$AWS_ENDPOINT_URL/$1"
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
  put bucket
  for file in "$model"/*; do put "bucket/models/llama/$(basename "$file")" "$file"; done
}

check_jobs() {
  local from=s3://bucket/models/llama
  [ "$("$cvxq" "${quantize[@]}" "$from" -o s3://bucket/out/a 2>"$work/err" | field sha256)" = "$expected" ] ||
    fail "other bytes in the bucket than in a folder: $(cat "$work/err")"
  [ "$(kl s3://bucket/out/a "$from")" = "$(kl "$work/out" "$model")" ] ||
    fail "another divergence where the packed model is read from the bucket"
  CVXQ_FAILPOINT=codes-saved:6 "$cvxq" "${quantize[@]}" "$from" -o s3://bucket/out/b >/dev/null 2>&1 &&
    fail "the run that was to be killed was not"
  [ "$("$cvxq" "${quantize[@]}" "$from" -o s3://bucket/out/b 2>"$work/err" | field sha256)" = "$expected" ] ||
    fail "other bytes from a run that was killed and begun again: $(cat "$work/err")"
  grep -q 'going on behind' "$work/err" || fail "the run begun again did not go on: $(cat "$work/err")"
  if "$cvxq" "${quantize[@]}" "$from" -o s3://bucket/out/b >/dev/null 2>"$work/err"; then
    fail "an output was replaced"
  fi
  echo "jobs: same bytes as in a folder, read back, gone on with after a kill, never replaced"
}

expected=$("$cvxq" "${quantize[@]}" "$model" -o "$work/out" 2>/dev/null | field sha256)
[ $# -gt 0 ] || set -- radosgw swift moto
for name in "$@"; do
  if [ "$name" = radosgw ] && ! command -v radosgw >/dev/null; then
    echo "== radosgw is not here: apt-get install radosgw ceph-mon ceph-osd ceph-common"
    continue
  fi
  start "$name"
  CVXQ_TEST_S3=s3://bucket/conformance build/release/tests/storage_test \
    --gtest_filter='*real_s3*' --gtest_brief=1 || fail "$name fails the conformance suite"
  check_jobs
done
