#define CVXQ_LANES 8
#define CVXQ_TABLE kVectorOpsAvx2
#include "kernels/cpu/vector_ops.inc"
