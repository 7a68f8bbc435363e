#include "formats/scale_search.h"

#include "kernels/cpu/cpu_features.h"

namespace cvxq {

const float kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};

const ScaleSearchKernels& ScaleSearchHere() {
  static const ScaleSearchKernels& kernels = HasX86V4()   ? kScaleSearchAvx512
                                             : HasX86V3() ? kScaleSearchAvx2
                                                          : kScaleSearchBaseline;
  return kernels;
}

}  // namespace cvxq
