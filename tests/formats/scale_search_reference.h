// The search for scales as formats/scale_search.h states it, one block and one number at a time:
// the plain side of comparisons. Sums run in the same order as in the kernels, so that results are
// equal to the bit.
#ifndef CVXQ_TESTS_FORMATS_SCALE_SEARCH_REFERENCE_H_
#define CVXQ_TESTS_FORMATS_SCALE_SEARCH_REFERENCE_H_

#include "formats/scale_search.h"

namespace cvxq {

// x, weight: [subs * sub].
BlockScales SearchScalesReference(const ScaleSearch& search, const float* x, const float* weight);

// The code of one value, as ScaleSearchKernels::nearest gives it.
int NearestCodeReference(const float* levels, const float* edges, int level_count, float x,
                         float step, float offset);

}  // namespace cvxq

#endif  // CVXQ_TESTS_FORMATS_SCALE_SEARCH_REFERENCE_H_
