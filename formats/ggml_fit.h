// Choosing the fields of ggml's blocks: for each type what scale_search.h should try, and its
// result as bytes.
#ifndef CVXQ_FORMATS_GGML_FIT_H_
#define CVXQ_FORMATS_GGML_FIT_H_

#include <cstdint>

#include "formats/ggml_layout.h"
#include "formats/scale_search.h"

namespace cvxq {

// What is tried for a type; nullptr for mxfp4 and nvfp4, whose steps are few and tried one by one.
const ScaleSearch* SearchOf(int id);

// As WeightType::Fit.
void FitFields(const GgmlLayout& layout, const ScaleSearchKernels& kernels, const float* x,
               const float* weight, int64_t blocks, float matrix_scale, uint8_t* fields);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGML_FIT_H_
