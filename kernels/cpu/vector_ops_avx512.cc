#define CVXQ_LANES 16
#define CVXQ_TABLE kVectorOpsAvx512
#include "kernels/cpu/vector_ops.inc"
