#!/usr/bin/env bash
# Runs whole jobs while their processes die (tests/chaos/chaos_test.cc):
#   scripts/chaos.sh [RUNS] [FIRST]     1000 runs from run 0 on; about 3 seconds each on two cores
# Ends at the first run that gives other bytes or no result, and says which: FIRST repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-1000} first=${2:-0}
scripts/install_packages.sh
cmake --preset release
cmake --build --preset release --target chaos_test
CVXQ_CHAOS_RUNS=$runs CVXQ_CHAOS_FIRST=$first build/release/tests/chaos_test
