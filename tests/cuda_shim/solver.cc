// The plain twin of kernels/cuda/solver.cc.
#include "kernels/cuda/solver.h"

#include <cmath>

namespace cvxq::cuda {
namespace {

class PlainSolver : public Solver {
 public:
  void Cholesky(float* a, int64_t n, int32_t* info) override {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = j; i < n; ++i) {
        double sum = a[i * n + j];
        for (int64_t k = 0; k < j; ++k) sum -= static_cast<double>(a[i * n + k]) * a[j * n + k];
        if (i == j && !(sum > 0)) {
          *info = static_cast<int32_t>(j + 1);
          return;
        }
        a[i * n + j] = static_cast<float>(i == j ? std::sqrt(sum) : sum / a[j * n + j]);
      }
      for (int64_t i = 0; i < j; ++i) a[i * n + j] = NAN;  // undefined
    }
    *info = 0;
  }
};

}  // namespace

StatusOr<std::unique_ptr<Solver>> Solver::Make(Device&) { return std::make_unique<PlainSolver>(); }

}  // namespace cvxq::cuda
