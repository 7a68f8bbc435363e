// The search for scales, compiled for x86-64-v3.
#include "formats/scale_search.h"

#define CVXQ_REGISTER_LANES 8
#include "formats/scale_search_inl.h"

namespace cvxq {

const ScaleSearchKernels kScaleSearchAvx2 = {Search, PickStep, NearestCodes};

}  // namespace cvxq
