// The search for scales, compiled for any x86-64.
#include "formats/scale_search.h"

#define CVXQ_REGISTER_LANES 4
#include "formats/scale_search_inl.h"

namespace cvxq {

const ScaleSearchKernels kScaleSearchBaseline = {Search, PickStep, NearestCodes};

}  // namespace cvxq
