#define CVXQ_LANES 4
#define CVXQ_TABLE kVectorOpsBaseline
#include "kernels/cpu/vector_ops.inc"
