#include "kernels/cpu/vector_ops.h"

namespace cvxq {

VectorLevel BestVectorLevel() {
  if (__builtin_cpu_supports("x86-64-v4")) return VectorLevel::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return VectorLevel::kAvx2;
  return VectorLevel::kBaseline;
}

const VectorOps& VectorOpsOf(VectorLevel level) {
  switch (level) {
    case VectorLevel::kAvx512:
      return kVectorOpsAvx512;
    case VectorLevel::kAvx2:
      return kVectorOpsAvx2;
    case VectorLevel::kBaseline:
      break;
  }
  return kVectorOpsBaseline;
}

}  // namespace cvxq
