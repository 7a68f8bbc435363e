#!/usr/bin/env bash
# Builds the preset `release` and runs every bench of bench/, one table each:
#   scripts/bench.sh                  the models and texts of examples/
#   scripts/bench.sh --shared PATH    larger models and texts: PATH/models/llama-8m, PATH/text
# PYTHON names an interpreter with torch and transformers for the comparison with PyTorch, which is
# left out where there is none. Run it on a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

model=examples/models/kjv-llama-1m text=examples/text/kjv.calib.txt quality=()
if [ $# -eq 2 ] && [ "$1" = --shared ]; then
  model=$2/models/llama-8m text=$2/text/kjv.calib.txt quality=(--shared "$2")
elif [ $# -ne 0 ]; then
  echo "usage: scripts/bench.sh [--shared PATH]" >&2
  exit 2
fi
python=${PYTHON:-python3}

scripts/install_packages.sh
cmake --preset release
cmake --build --preset release
build=build/release

title() { printf '\n== %s\n' "$1"; }

title "Machine"
lscpu | grep -E '^(Model name|CPU\(s\)|Thread|L[123]|Flags)' |
  sed -E 's/(Flags: *).*(avx512_bf16).*/\1... \2 .../'

title "Products from packed codes against BF16 (bench/matvec.cc)"
"$build/bench/bench_matvec"

title "Decoding of entropy-coded matrices (bench/entropy_decode.cc)"
"$build/bench/bench_entropy_decode"

title "Large objects against plain ranged GETs (bench/object_store.cc)"
"$build/bench/bench_object_store"

title "Submissions while the coordinator is killed (bench/service.cc)"
"$build/bench/bench_service" submissions

title "Watchers that come and go (bench/service.cc)"
"$build/bench/bench_service" watchers

title "Types of GGUF files (bench/grid_types.cc)"
"$build/bench/bench_grid_types"

title "Types of the safetensors formats (bench/int_types.cc)"
"$build/bench/bench_int_types"

title "Two-sided against one-sided coding (bench/two_sided.cc)"
"$build/bench/bench_two_sided"

title "Two-sided against one-sided coding in whole jobs (bench/coding_jobs.py)"
python3 bench/coding_jobs.py --build "$build"

title "Products of a block's statistics against oneDNN (bench/block_products.cc)"
"$build/bench/bench_block_products"

title "A block's whole statistics pass against oneDNN (bench/block.cc)"
"$build/bench/bench_block"

title "Statistics pass against PyTorch (bench/statistics.cc)"
tcmalloc=$(ldconfig -p | sed -n 's/.*=> \(.*libtcmalloc\(_minimal\)\?\.so\.4\)$/\1/p' | head -n 1)
if "$python" -c 'import torch, transformers' 2>/dev/null; then
  for threads in "$(nproc)" 1; do
    LD_PRELOAD=$tcmalloc "$python" bench/statistics_pytorch.py --bench "$build/bench/bench_statistics" \
      --model "$model" --text "$text" --threads "$threads" 2>/dev/null
  done
else
  echo "$python has no torch and transformers; ours alone:"
  "$build/bench/bench_statistics" --model "$model" --text "$text"
fi

title "Memory and time of a whole job (bench/memory.py)"
python3 bench/memory.py --build "$build"

title "Worker processes, and the simulation of them (bench/scaling.py, bench/scaling.cc)"
scaling=$(mktemp -d)
python3 bench/scaling.py --build "$build" --runs "$scaling/runs.json" >"$scaling/log"
python3 bench/scaling.py --build "$build" --runs "$scaling/runs.json" --workers 1 --copies 2
"$build/bench/bench_scaling" check "$scaling/runs.json" || true
"$build/bench/bench_scaling" predict
rm -r "$scaling"

title "Lost workers and coordinators (bench/recovery.py)"
python3 bench/recovery.py --build "$build" --layers 4 --hidden 512 --intermediate 512 --samples 32 --kills 4

if [ -f bench/quality.py ]; then
  title "Quality at every size (bench/quality.py)"
  python3 bench/quality.py "${quality[@]}"
fi
