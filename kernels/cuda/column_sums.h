// Sums along the columns of a matrix whose elements are computed on the way.
#ifndef CVXQ_KERNELS_CUDA_COLUMN_SUMS_H_
#define CVXQ_KERNELS_CUDA_COLUMN_SUMS_H_

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace cvxq::cuda {

// parts[p, columns]: of the rows [p, p + 1) * kColumnRows. A block of 32 x 8 threads: eight rows at
// a time, then the eight sums of a column in order.
template <typename Terms>
__global__ void ColumnPartsKernel(Terms terms, int64_t n, int64_t columns, float* parts) {
  __shared__ float sums[kBlockThreads];
  constexpr int kLanes = kBlockThreads / kColumnTile;
  const int64_t column = blockIdx.x * kColumnTile + threadIdx.x % kColumnTile;
  const int lane = threadIdx.x / kColumnTile;
  const int64_t begin = blockIdx.y * kColumnRows;
  const int64_t end = begin + kColumnRows < n ? begin + kColumnRows : n;
  float sum = 0;
  if (column < columns) {
    for (int64_t i = begin + lane; i < end; i += kLanes) sum += terms(i, column);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane != 0 || column >= columns) return;
  for (int i = 1; i < kLanes; ++i) sum += sums[threadIdx.x + i * kColumnTile];
  parts[blockIdx.y * columns + column] = sum;
}

// sums[columns] += the parts, in order.
template <typename T>
__global__ void AddPartsKernel(const T* parts, int64_t count, int64_t columns, T* sums) {
  for (int64_t j = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; j < columns;
       j += int64_t{gridDim.x} * blockDim.x) {
    T sum = 0;
    for (int64_t p = 0; p < count; ++p) sum += parts[p * columns + j];
    sums[j] += sum;
  }
}

// sums[columns] += sum over i in [0, n) of terms(i, column), a device function.
template <typename Terms>
void SumColumns(Device& device, const Terms& terms, int64_t n, int64_t columns, float* sums) {
  const Grid grid = ColumnGrid(n, columns);
  const Tensor parts = device.Scratch(DType::kF32, {grid.y, columns});
  Launch(device, grid, ColumnPartsKernel<Terms>, terms, n, columns, Data<float>(parts));
  Launch(device, ElementGrid(columns), AddPartsKernel<float>, Data<float>(parts), grid.y, columns,
         sums);
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_COLUMN_SUMS_H_
