#include "kernels/cuda/products.h"

#include <cublasLt.h>

#include <map>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/contract.h"

namespace cvxq::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = 32 << 20;

// Releases a cuBLASLt descriptor.
template <typename T, cublasStatus_t (*kDestroy)(T)>
struct Destroy {
  using pointer = T;
  void operator()(T descriptor) const { kDestroy(descriptor); }
};
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t,
                               Destroy<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>>;
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t,
                                    Destroy<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t,
                    Destroy<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>>;

// A product in the library's terms, and how it is computed. Made once for each kind of product.
struct Plan {
  Description description;
  Layout a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

uint32_t Alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address % 16 == 0 ? 16 : static_cast<uint32_t>(address & -address);
}

// All that the choice of an algorithm depends on. Pointers' alignment is that of whole tensors or
// of rows of them: 16 bytes wherever the strides are multiples of that.
auto KeyOf(const Product& p) {
  return std::make_tuple(p.m, p.n, p.k, p.transpose_a, p.transpose_b, p.a_stride, p.b_stride,
                         p.c_stride, p.dtype, p.accumulate, p.batch, p.a_distance, p.b_distance,
                         p.c_distance, Alignment(p.a), Alignment(p.b), Alignment(p.c));
}

class CublasProducts : public Products {
 public:
  CublasProducts(Device& device, cublasLtHandle_t handle, Tensor workspace)
      : device_(device), handle_(handle), workspace_(std::move(workspace)) {}
  ~CublasProducts() override {
    plans_.clear();
    cublasLtDestroy(handle_);
  }

  std::string name() const override { return absl::StrCat("cublasLt", cublasLtGetVersion()); }

  void Multiply(const Product& p) override {
    if (device_.failed() || p.m == 0 || p.n == 0 || p.batch == 0) return;
    Require(p.k > 0 || p.accumulate, "Multiply: an empty sum has nothing to store");
    if (p.k == 0) return;
    const Plan* plan = FindPlan(p);
    if (plan == nullptr) return;
    const float alpha = 1, beta = p.accumulate ? 1 : 0;
    // The library's matrices are column-major: c^T = op(b)^T op(a)^T.
    Check(cublasLtMatmul(handle_, plan->description.get(), &alpha, p.b, plan->b.get(), p.a,
                         plan->a.get(), &beta, p.c, plan->c.get(), p.c, plan->c.get(),
                         &plan->algorithm, DeviceBytes(workspace_), kWorkspaceBytes,
                         device_.stream()),
          "multiplying");
  }

 private:
  bool Check(cublasStatus_t status, const char* doing) {
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    device_.Fail(absl::InternalError(absl::StrCat("the GPU ", device_.name(), " failed while ",
                                                  doing, ": ", cublasLtGetStatusString(status))));
    return false;
  }

  const Plan* FindPlan(const Product& p) {
    const auto [it, is_new] = plans_.try_emplace(KeyOf(p));
    if (is_new && !Make(p, it->second)) {
      plans_.erase(it);
      return nullptr;
    }
    return &it->second;
  }

  bool MakeLayout(Layout& layout, cudaDataType_t type, int64_t rows, int64_t columns,
                  int64_t stride, int64_t batch, int64_t distance) {
    cublasLtMatrixLayout_t made = nullptr;
    // Row-major [rows, columns] is column-major [columns, rows].
    if (!Check(cublasLtMatrixLayoutCreate(&made, type, columns, rows, stride), "multiplying")) {
      return false;
    }
    layout.reset(made);
    const auto count = static_cast<int32_t>(batch);
    return Check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                  sizeof(count)),
                 "multiplying") &&
           Check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                  &distance, sizeof(distance)),
                 "multiplying");
  }

  bool Make(const Product& p, Plan& plan) {
    const cudaDataType_t type = p.dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
    // CUBLAS_COMPUTE_32F_PEDANTIC would forbid the tensor cores for BF16 too; plain 32F never uses
    // TF32 for floats.
    cublasLtMatmulDesc_t description = nullptr;
    if (!Check(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "multiplying")) {
      return false;
    }
    plan.description.reset(description);
    const cublasOperation_t first = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (!Check(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                              sizeof(first)),
               "multiplying") ||
        !Check(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                              sizeof(second)),
               "multiplying") ||
        !MakeLayout(plan.a, type, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.a_stride,
                    p.batch, p.a_distance) ||
        !MakeLayout(plan.b, type, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.b_stride,
                    p.batch, p.b_distance) ||
        !MakeLayout(plan.c, CUDA_R_32F, p.m, p.n, p.c_stride, p.batch, p.c_distance)) {
      return false;
    }
    cublasLtMatmulPreference_t made = nullptr;
    if (!Check(cublasLtMatmulPreferenceCreate(&made), "multiplying")) return false;
    const Preference preference(made);
    const uint64_t workspace = kWorkspaceBytes;
    // Split sums only where their parts are added by a kernel of their own, in order.
    const uint32_t reductions =
        CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t a = Alignment(p.b), b = Alignment(p.a), c = Alignment(p.c);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
      return Check(cublasLtMatmulPreferenceSetAttribute(made, name, &value, sizeof(value)),
                   "multiplying");
    };
    if (!set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace) ||
        !set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions) ||
        !set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a) ||
        !set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b) ||
        !set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c) ||
        !set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c)) {
      return false;
    }
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    if (!Check(cublasLtMatmulAlgoGetHeuristic(handle_, description, plan.b.get(), plan.a.get(),
                                              plan.c.get(), plan.c.get(), made, 1, &result, &found),
               "choosing how to multiply")) {
      return false;
    }
    if (found == 0) return Check(CUBLAS_STATUS_NOT_SUPPORTED, "choosing how to multiply");
    plan.algorithm = result.algo;
    return true;
  }

  Device& device_;
  const cublasLtHandle_t handle_;
  const Tensor workspace_;
  std::map<decltype(KeyOf(Product())), Plan> plans_;
};

}  // namespace

StatusOr<std::unique_ptr<Products>> Products::Make(Device& device) {
  cublasLtHandle_t handle = nullptr;
  if (const cublasStatus_t status = cublasLtCreate(&handle); status != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError(
        absl::StrCat("cuBLASLt cannot be used: ", cublasLtGetStatusString(status)));
  }
  Tensor workspace = device.Scratch(DType::kU8, {kWorkspaceBytes});
  auto products = std::make_unique<CublasProducts>(device, handle, std::move(workspace));
  CVXQ_RETURN_IF_ERROR(device.Synchronize());
  return products;
}

}  // namespace cvxq::cuda
