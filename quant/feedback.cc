#include "quant/feedback.h"

#include <algorithm>
#include <vector>

#include "kernels/host_gemm.h"

namespace cvxq {
namespace {

// t[r] -= l * e[r]: the inner loop inside a block. One version for each instruction set, all with
// the same bits.
__attribute__((target_clones("avx512f", "avx2", "default"))) void Carry(float l, const float* e,
                                                                        int64_t rows, float* t) {
  for (int64_t r = 0; r < rows; ++r) t[r] -= l * e[r];
}

}  // namespace

void RoundWithFeedback(const CurvatureFactor* factor, int64_t rows, int64_t columns, float* w,
                       const RoundColumn& round) {
  std::vector<float> rounded(rows);
  if (factor == nullptr) {
    for (int64_t c = 0; c < columns; ++c) {
      round(c, w + c * rows, rounded.data());
      std::copy(rounded.begin(), rounded.end(), w + c * rows);
    }
    return;
  }
  // target[place][rows]: what remains to be rounded, in the order of the factor. Inside a block of
  // places the errors are carried one column at a time; to all places before it, by one product.
  constexpr int64_t kBlock = 64;
  const int64_t n = columns;
  std::vector<float> target(n * rows), error(kBlock * rows);
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(w + static_cast<int64_t>(factor->order[i]) * rows, rows, &target[i * rows]);
  }
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  for (int64_t block = blocks - 1; block >= 0; --block) {
    const int64_t begin = block * kBlock, end = std::min(n, begin + kBlock);
    for (int64_t i = end - 1; i >= begin; --i) {
      const int64_t column = factor->order[i];
      round(column, &target[i * rows], rounded.data());
      float* original = w + column * rows;
      float* e = &error[(i - begin) * rows];
      for (int64_t r = 0; r < rows; ++r) {
        e[r] = rounded[r] - original[r];
        original[r] = rounded[r];
      }
      const float* l = &factor->lower[i * n];
      for (int64_t j = begin; j < i; ++j) Carry(l[j], e, rows, &target[j * rows]);
    }
    HostGemm(true, false, begin, rows, end - begin, -1, &factor->lower[begin * n], n, error.data(),
             rows, 1, target.data(), rows);
  }
}

}  // namespace cvxq
