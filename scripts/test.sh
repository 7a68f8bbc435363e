#!/usr/bin/env bash
# Builds everything and runs all tests:
#   scripts/test.sh            the preset `release`
#   scripts/test.sh PRESET     another of dev, release, asan, tsan
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-release}
case "$preset" in
  dev | release | asan | tsan) ;;
  *)
    echo "usage: scripts/test.sh [dev|release|asan|tsan]" >&2
    exit 2
    ;;
esac

scripts/install_packages.sh
cmake --preset "$preset"
cmake --build --preset "$preset"

export ASAN_OPTIONS=detect_stack_use_after_return=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# The OpenMP run-time of the system is not instrumented: what it orders would look like races.
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
ctest --test-dir "build/$preset" --output-on-failure --parallel "$(nproc)"
