#include "kernels/cpu/vector_ops.h"

#include "kernels/cpu/cpu_features.h"

namespace cvxq {

VectorLevel BestVectorLevel() {
  if (HasX86V4()) return VectorLevel::kAvx512;
  if (HasX86V3()) return VectorLevel::kAvx2;
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
