// Packed matrices on the CPU: an in-memory layout for products straight from the codes, and the
// functions that the CPU backend calls. Each function picks the widest instruction set at run time.
//
// See packed_layout.h for the layout in memory.
#ifndef CVXQ_KERNELS_CPU_PACKED_WEIGHT_H_
#define CVXQ_KERNELS_CPU_PACKED_WEIGHT_H_

#include <cstdint>
#include <memory>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/packed_matrix.h"
#include "tensor/dtype.h"

namespace cvxq {

class CpuPackedWeight;  // a PackedWeight

// `compute` (F32 or BF16) is what products may round factors to.
std::shared_ptr<CpuPackedWeight> MakeCpuPackedWeight(const PackedMatrix& matrix, DType compute);

// y[n,M] = x[n,N] W^T + bias (nullptr: none), straight from the codes; meant for n <= 8. A row of
// y has the same bits in any batch and with any number of threads. It is computed in float; but
// where compute is BF16, on a CPU with AVX512_BF16, under kColumns and for depths up to 5, the
// table's values and x * scale are rounded to BF16 first, so that each such term may be off by a
// relative 2^-7 (means are exact). A product of BF16 weights with x in BF16 is as accurate.
void PackedProduct(const CpuPackedWeight& weight, const float* x, int64_t n, const float* bias,
                   float* y, ThreadPool& pool);

// Decodes the whole matrix to w[M,N]; exact to the bit (packed_matrix.h), in BF16 rounded to
// nearest even from the exact float.
void UnpackToFloat(const CpuPackedWeight& weight, float* w, ThreadPool& pool);
void UnpackToBF16(const CpuPackedWeight& weight, uint16_t* w, ThreadPool& pool);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_PACKED_WEIGHT_H_
