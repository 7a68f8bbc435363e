// The search for scales, compiled for x86-64-v4.
#include "formats/scale_search.h"

#define CVXQ_REGISTER_LANES 16
#include "formats/scale_search_inl.h"

namespace cvxq {

const ScaleSearchKernels kScaleSearchAvx512 = {Search, PickStep, NearestCodes};

}  // namespace cvxq
