#!/usr/bin/env bash
# Feeds libFuzzer's inputs to what parses bytes from outside (tests/fuzz/):
#   scripts/fuzz.sh [SECONDS [NAME...]]     60 seconds for each target; NAME: job_state, s3_xml, ...
# Needs clang. Begins with the hostile files of the tests and with what earlier runs found worth
# keeping (build/fuzz/corpus). Ends at the first input that breaks something, which lies in
# build/fuzz/found/NAME-*: mend it, and put the input into tests/data/hostile/NAME.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift $(($# > 0 ? 1 : 0))
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for source in tests/fuzz/*_fuzz.cc; do
    names+=("$(basename "$source" _fuzz.cc)")
  done
fi
cmake --preset fuzz
cmake --build --preset fuzz --target "${names[@]/%/_fuzz}"

export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
for name in "${names[@]}"; do
  corpus=build/fuzz/corpus/$name
  mkdir -p "$corpus" build/fuzz/found
  echo "== $name, $seconds seconds"
  "build/fuzz/tests/${name}_fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" \
    "$corpus" "tests/data/hostile/$name" 2>&1 |
    { grep -E '^(==|#[0-9]+.(DONE|INITED)|stat::number|SUMMARY|.*(ERROR|Test unit)|    #[0-9])' || true; }
done
