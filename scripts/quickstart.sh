#!/usr/bin/env bash
# From a bare Debian 12 to a compressed model that writes text: installs what is missing, builds
# cvxq, quantises a bundled model to 3 bits a weight, and compares it with the original.
#   scripts/quickstart.sh
# The second run takes seconds. All it makes lies in build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=examples/models/kjv-llama-1m
text=examples/text/kjv.test.txt
output=build/quickstart/kjv-llama-1m-3bit
log=build/quickstart/build.log
# The model's training length; 40 blocks of held-out text make 10,200 tokens.
evaluation=(--seq-len 256 --max-sequences 40)

fail() {
  echo "quickstart: $1" >&2
  exit 1
}

# The number that follows the words $1 on standard input.
field() {
  sed -n "s/.*$1 \([0-9.]*\).*/\1/p" | head -n 1
}

# Bytes of all files of a model's folder.
folder_bytes() {
  cat "$1"/* | wc -c
}

# Shows the newest step of ninja on one line of a terminal; a line for every tenth of it elsewhere.
show_steps() {
  local line tenth shown=-1
  while IFS= read -r line; do
    # Not the steps of CMake that ninja runs before its own.
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\]\ (Building|Linking) ]] || continue
    if [ -t 1 ]; then
      printf '\r  compiling %s of %s ' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    else
      tenth=$((10 * BASH_REMATCH[1] / BASH_REMATCH[2]))
      if [ "$tenth" -gt "$shown" ]; then
        echo "  compiling ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]}"
        shown=$tenth
      fi
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

mkdir -p build/quickstart

echo "1. Packages"
scripts/install_packages.sh

echo "2. Build (minutes the first time)"
if ! cmake --preset release >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  fail "cmake failed; its whole output is in $log"
fi
if ! ninja -C build/release cvxq 2>&1 | tee -a "$log" | show_steps; then
  grep -m 5 -A 5 -E 'FAILED|error' "$log" >&2 || tail -n 20 "$log" >&2
  fail "the build failed; its whole output is in $log"
fi
cvxq=build/release/cvxq

echo "3. Quantise $model to 3 bits a weight"
quantised=$("$cvxq" quantize "$model" --bits 3 -o "$output" --overwrite \
  --calib examples/text/kjv.calib.txt --seq-len 256)
bits=$(sed -n 's/^ *\([0-9.]*\) bits a weight.*/\1/p' <<<"$quantised")

echo "4. Measure both on text that calibration never saw ($text)"
judged=$("$cvxq" eval "$output" --reference "$model" --text "$text" "${evaluation[@]}" --quiet)
original_perplexity=$(field 'reference perplexity' <<<"$judged")
perplexity=$(grep -v reference <<<"$judged" | field 'perplexity')
kl=$(field 'KL divergence' <<<"$judged")
same=$(field 'same likeliest token' <<<"$judged")
original_bytes=$(folder_bytes "$model")
bytes=$(folder_bytes "$output")
ratio=$((100 * bytes / original_bytes))

echo
printf '  %-30s %12s %12s\n' '' original '3 bits'
printf '  %-30s %12s %12s\n' \
  'perplexity' "$original_perplexity" "$perplexity" \
  'KL divergence, nats a token' '0' "$kl" \
  'same likeliest token' '100 %' "$same %" \
  'bits a weight, all counted' '16' "$bits" \
  'bytes of all files' "$original_bytes" "$bytes" \
  '' '100 %' "$ratio %"
echo "  (embeddings, the head and the tokenizer stay as they are)"
echo
echo "The quantised model writes:"
"$cvxq" generate "$output" -p "And God said" -n 32 --temperature 0.7 --top-p 0.9 --seed 2 --quiet |
  sed 's/^/  /'
echo
echo "Next: $cvxq --help"
