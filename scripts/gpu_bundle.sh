#!/usr/bin/env bash
# Gathers all that scripts/gpu_check.sh runs on a machine with a GPU, where nothing is built or
# installed:
#   scripts/gpu_bundle.sh [ARCHITECTURES]     of the cards, for instance 90-real (default: all)
# Makes build/gpu-bundle: programs, the libraries they are linked with (but for those of the C library,
# the driver and cuBLAS, which are found there), a model and a text; and the same in one file,
# build/gpu-bundle.tar.xz.
set -euo pipefail
cd "$(dirname "$0")/.."

architectures=${1:-80-real;86-real;89-real;90-real;100-real;120}
scripts/install_packages.sh
cmake --preset cuda -DCMAKE_CUDA_ARCHITECTURES="$architectures"
benches=()
for source in bench/cuda_*.cc; do
  benches+=("bench_$(basename "$source" .cc)")
done
cmake --build --preset cuda --target cvxq cuda_test "${benches[@]}"

bundle=build/gpu-bundle
rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib"
programs=(build/cuda/cvxq build/cuda/tests/cuda_test "${benches[@]/#/build/cuda/bench/}")
for program in "${programs[@]}"; do
  strip -o "$bundle/bin/$(basename "$program")" "$program"
done
ldd "${programs[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libcublas|libcublasLt|libcusolver|libcusparse|libnvJitLink|libcuda)\.so' |
  xargs -I{} cp -L {} "$bundle/lib/"
cp -r examples/models/kjv-llama-1m "$bundle/model"
cp -r tests/data/models "$bundle/test-models"
cp examples/text/kjv.test.txt "$bundle/"
cp scripts/gpu_check.sh "$bundle/"
tar -C build -c gpu-bundle | xz -T0 >"$bundle.tar.xz"
du -sh "$bundle" "$bundle.tar.xz"
echo "Copy one of the two to a machine with a GPU, and run there: gpu-bundle/gpu_check.sh OUT"
