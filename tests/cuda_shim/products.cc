// The plain twin of kernels/cuda/products.cc.
#include "kernels/cuda/products.h"

#include "kernels/contract.h"

namespace cvxq::cuda {
namespace {

class PlainProducts : public Products {
 public:
  std::string name() const override { return "plain"; }

  void Multiply(const Product& p) override {
    Require(p.k > 0 || p.accumulate, "Multiply: an empty sum has nothing to store");
    for (int64_t z = 0; z < p.batch; ++z) {
      for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t j = 0; j < p.n; ++j) {
          double sum = 0;
          for (int64_t l = 0; l < p.k; ++l) {
            sum +=
                At(p, p.a,
                   z * p.a_distance + (p.transpose_a ? l * p.a_stride + i : i * p.a_stride + l)) *
                At(p, p.b,
                   z * p.b_distance + (p.transpose_b ? j * p.b_stride + l : l * p.b_stride + j));
          }
          float& c = p.c[z * p.c_distance + i * p.c_stride + j];
          c = static_cast<float>(p.accumulate ? c + sum : sum);
        }
      }
    }
  }

 private:
  static double At(const Product& p, const std::byte* data, int64_t i) {
    if (p.dtype == DType::kF32) return reinterpret_cast<const float*>(data)[i];
    return BF16ToFloat(reinterpret_cast<const uint16_t*>(data)[i]);
  }
};

}  // namespace

StatusOr<std::unique_ptr<Products>> Products::Make(Device&) {
  return std::make_unique<PlainProducts>();
}

}  // namespace cvxq::cuda
