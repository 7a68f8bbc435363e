// Packed and scaled linears: few rows of x straight from the codes, more through slices of decoded
// rows.
#include <algorithm>

#include "kernels/contract.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_weight.h"

namespace cvxq::cuda {
namespace {

// y[n, M]: the columns row_of[begin ..) (null: begin ..) = from[n, count] + bias.
__global__ void PlaceRowsKernel(const float* from, const int32_t* row_of, int64_t begin,
                                const float* bias, float* y, int64_t n, int64_t count, int64_t M) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n * count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t stored = begin + i % count, row = row_of == nullptr ? stored : row_of[stored];
    if (row >= 0) y[i / count * M + row] = bias == nullptr ? from[i] : from[i] + bias[row];
  }
}

}  // namespace

std::shared_ptr<PackedWeight> CudaBackend::ImportPacked(const PackedMatrix& matrix, DType compute) {
  const auto make = matrix.partition == Partition::kColumns ? MakePackedColumns : MakePackedRows;
  return make(*device_, matrix, compute);
}

std::shared_ptr<PackedWeight> CudaBackend::ImportPacked(std::shared_ptr<const ScaledMatrix> matrix,
                                                        DType compute) {
  return MakeScaled(*device_, *matrix, compute);
}

void CudaBackend::PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias,
                               Tensor y) {
  if (failed()) return;
  contract::PackedLinear(x, w, bias, y);
  const auto& weight = static_cast<const CudaPackedWeight&>(w);
  const int64_t n = x.shape[0], M = w.rows, N = w.columns;
  if (n == 0) return;
  if (n <= kFewRows) return weight.MultiplyFew(*device_, x, bias, y);

  // So that a large matrix never stands decoded as a whole, and a slice stays in the cache.
  const int64_t step = weight.row_step;
  const int64_t slice =
      std::min(weight.stored_rows, CeilDiv(StripRows(weight.stored_rows, N), step) * step);
  const Tensor operand = As(weight.compute, x);
  const Tensor decoded = Allocate(weight.compute, {slice, N});
  const Tensor product = Allocate(DType::kF32, {n, slice});
  for (int64_t begin = 0; begin < weight.stored_rows && !failed(); begin += slice) {
    const int64_t end = std::min(weight.stored_rows, begin + slice), count = end - begin;
    if (N == 0) {
      device_->Clear(DeviceBytes(product), product.bytes());
    } else {
      weight.UnpackStored(*device_, begin, end, decoded);
      products_->Multiply({.m = n,
                           .n = count,
                           .k = N,
                           .a = DeviceBytes(operand),
                           .a_stride = N,
                           .b = DeviceBytes(decoded),
                           .transpose_b = true,
                           .b_stride = N,
                           .c = Data<float>(product),
                           .c_stride = count,
                           .dtype = weight.compute});
    }
    Launch(*device_, ElementGrid(n * count), PlaceRowsKernel, Data<float>(product), weight.row_of,
           begin, Data<float>(bias), Data<float>(y), n, count, M);
  }
}

void CudaBackend::Unpack(const PackedWeight& packed, Tensor w) {
  if (failed()) return;
  contract::Unpack(packed, w);
  static_cast<const CudaPackedWeight&>(packed).Unpack(*device_, w);
}

}  // namespace cvxq::cuda
