#!/usr/bin/env bash
# Runs all tests and benches of the GPU backend, in at most eight minutes, on a machine that has a GPU
# and its driver; nothing is built or installed:
#   gpu-bundle/gpu_check.sh [OUT]     (scripts/gpu_bundle.sh makes the folder gpu-bundle)
# Results lie in OUT (default gpu-results), one file for each step; OUT/summary.txt has a line for each.
# Exit code 1 if a step failed. cuBLAS and cuSOLVER of CUDA 13 are looked for on the search path of
# libraries, in /usr/local/cuda, and among Python's packages.
set -uo pipefail
bundle=$(cd "$(dirname "$0")" && pwd)
out=${1:-gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
: >"$out/summary.txt"

libraries=$bundle/lib:/usr/local/cuda/lib64
python=$(python3 -c 'import nvidia, os; print(":".join(os.path.join(p, "cu13", "lib") for p in nvidia.__path__))' 2>/dev/null) &&
  libraries=$libraries:$python
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# run SECONDS COMMAND...: a program, or a function of this script, for at most so long.
run() {
  local limit=$1
  shift
  export -f same_bytes like_the_cpu
  export bundle out
  timeout -k 5 "$limit" bash -c '"$@"' run "$@"
}

export CVXQ_TEST_DATA=$bundle/test-models/ CVXQ_TEST_MODEL=$bundle/model CVXQ_TEST_TEXT=$bundle/kjv.test.txt
# step NAME SECONDS COMMAND...: its output in OUT/NAME.txt, and one line in the summary.
step() {
  local name=$1 limit=$2 begin=$SECONDS code
  shift 2
  run "$limit" "$@" >"$out/$name.txt" 2>&1
  code=$?
  printf '%-20s %s, %d s\n' "$name" "$([ $code -eq 0 ] && echo passed || echo "FAILED ($code)")" \
    $((SECONDS - begin)) | tee -a "$out/summary.txt"
}
# shards NAME SECONDS COMMAND...: a test program as eight processes side by side, NAME_0 to NAME_7.
# Returns at once.
shards() {
  local name=$1 i
  shift
  for i in {0..7}; do
    GTEST_TOTAL_SHARDS=8 GTEST_SHARD_INDEX=$i step "${name}_$i" "$@" &
  done
}

same_bytes() {  # the same job twice
  local job=(quantize "$bundle/model" --bits 3 --samples 64 --seq-len 256 --backend cuda --compute bf16 --overwrite --quiet)
  "$bundle/bin/cvxq" "${job[@]}" -o "$out/first" && "$bundle/bin/cvxq" "${job[@]}" -o "$out/second" || return 1
  for file in "$out/first"/*; do
    cmp "$file" "$out/second/$(basename "$file")" || return 1
  done
}
like_the_cpu() {  # what the backends make of the same job, judged by the CPU
  local backend
  for backend in cpu cuda; do
    "$bundle/bin/cvxq" quantize "$bundle/model" --bits 3 --samples 64 --seq-len 256 --backend $backend --overwrite --quiet \
      -o "$out/by-$backend" || return 1
    "$bundle/bin/cvxq" eval "$out/by-$backend" --reference "$bundle/model" --text "$bundle/kjv.test.txt" --max-sequences 20 \
      --seq-len 256 --backend cpu || return 1
  done
  "$bundle/bin/cvxq" eval "$out/by-cuda" --reference "$bundle/model" --text "$bundle/kjv.test.txt" --max-sequences 20 \
    --seq-len 256 --backend cuda
}

step machine 20 nvidia-smi
# Side by side, since none of it is timed.
shards tests 150 "$bundle/bin/cuda_test" --gtest_brief=1
step same_bytes 100 same_bytes &
step like_the_cpu 150 like_the_cpu &
step generate 60 "$bundle/bin/cvxq" generate "$bundle/model" -p "In the beginning" -n 64 --backend cuda &
wait
# One after another: these are.
step block 40 "$bundle/bin/bench_cuda_block"
step packed 40 "$bundle/bin/bench_cuda_packed"
step rounding 40 "$bundle/bin/bench_cuda_rounding"
# sanitize TOOL SECONDS FILTER: some tests under compute-sanitizer.
sanitize() {
  shards "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 "$bundle/bin/cuda_test" --gtest_brief=1 --gtest_filter="$3"
  wait
}
if command -v compute-sanitizer >/dev/null; then
  sanitize memcheck 90 '*AgreesWithReference*:CudaAttentionTest.*:CudaPackedTest.*:CudaQuantTest.*'
  # Of the operations whose threads share memory, one each: it is slow.
  racecheck='CudaPackedTest.SharedTiles:CudaPackedTest.ManyTiles:CudaQuantTest.GridsRoundAsOnTheCpu'
  racecheck+=':CudaQuantTest.ScalesAreFittedAsOnTheCpu:CudaQuantTest.TrellisIsSearchedAsOnTheCpu'
  for operation in Norm_layer_? Norm_by_fours_block SquaredGradient_rows_by_fours SecondMoment_33 Attention_long \
    Attention_generate_? SampleLabelGradient_257 Likelihood_2057; do
    racecheck+=":*AgreesWithReference/${operation}*"
  done
  sanitize racecheck 120 "$racecheck"
else
  echo "memcheck, racecheck  left out: no compute-sanitizer" | tee -a "$out/summary.txt"
fi
rm -rf "$out"/first "$out"/second "$out"/by-*
! grep -q FAILED "$out/summary.txt"
