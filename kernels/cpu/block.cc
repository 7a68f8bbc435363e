// Embedding, positions, norms, rotary positions.
#include <algorithm>

#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"

namespace cvxq {
namespace {

// Row `index` of a table [V, D] of any float type as floats: the row itself, or a copy in scratch.
const float* TableRow(const VectorOps& ops, const Tensor& table, int64_t index) {
  const int64_t D = table.shape[1];
  if (table.dtype == DType::kF32) return ConstHostData<float>(table) + index * D;
  float* out = FloatScratch(2, D);
  const uint16_t* row = ConstHostData<uint16_t>(table) + index * D;
  (table.dtype == DType::kBF16 ? ops.bf16_to_float : ops.f16_to_float)(row, out, D);
  return out;
}

// Row i's part of a weight [d] or [h, d].
const float* WeightRow(const Tensor& w, int64_t i, int64_t d) {
  if (w.empty()) return nullptr;
  const int64_t rows = w.shape.rank() == 2 ? w.shape[0] : 1;
  return ConstHostData<float>(w) + i % rows * d;
}

}  // namespace

void CpuBackend::Embed(const Tensor& table, const Tensor& ids, float scale, Tensor y) {
  if (failed()) return;
  contract::Embed(table, ids, y);
  const int64_t n = ids.shape.elements(), V = table.shape[0], D = table.shape[1];
  const int32_t* id = ConstHostData<int32_t>(ids);
  float* out = HostData<float>(y);
  ParallelPieces(n, D, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Require(id[i] >= 0 && id[i] < V, "Embed: an id is outside the table");
      std::copy_n(TableRow(ops_, table, id[i]), D, out + i * D);
      if (scale != 1) ops_.scale(scale, out + i * D, D);
    }
  });
}

void CpuBackend::AddPositions(const Tensor& table, int64_t position, int64_t T, Tensor y) {
  if (failed()) return;
  contract::AddPositions(table, position, T, y);
  const int64_t n = y.shape[0], D = y.shape[1];
  float* out = HostData<float>(y);
  ParallelPieces(n, D, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      ops_.add_scaled(1, TableRow(ops_, table, position + i % T), out + i * D, D);
    }
  });
}

void CpuBackend::Norm(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                      const Tensor& b, Tensor y) {
  if (failed()) return;
  contract::Norm(x, w, b, y);
  const int64_t n = x.shape[0], d = x.shape[1];
  const float* in = ConstHostData<float>(x);
  ParallelPieces(n, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NormRow row{static_cast<int>(kind), epsilon, WeightRow(w, i, d), WeightRow(b, i, d)};
      if (y.dtype == DType::kF32) {
        ops_.norm(row, in + i * d, HostData<float>(y) + i * d, d);
      } else {
        ops_.norm_bf16(row, in + i * d, HostData<uint16_t>(y) + i * d, d);
      }
    }
  });
}

void CpuBackend::NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                              const Tensor& gy, Tensor gx, bool accumulate) {
  if (failed()) return;
  contract::NormBackward(x, w, gy, gx);
  const int64_t n = x.shape[0], d = x.shape[1];
  const float *in = ConstHostData<float>(x), *gradient = ConstHostData<float>(gy);
  float* out = HostData<float>(gx);
  ParallelPieces(n, d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NormRow row{static_cast<int>(kind), epsilon, WeightRow(w, i, d), nullptr};
      ops_.norm_backward(row, in + i * d, gradient + i * d, out + i * d, accumulate, d);
    }
  });
}

void CpuBackend::AddNormGradient(NormKind kind, float epsilon, const Tensor& x, const Tensor& gy,
                                 Tensor gw) {
  if (failed()) return;
  contract::AddNormGradient(x, gy, gw);
  const int64_t n = x.shape[0], d = x.shape[1], size = gw.shape.elements(), weights = size / d;
  const float *in = ConstHostData<float>(x), *gradient = ConstHostData<float>(gy);
  // Each piece of the rows has sums of its own (a partial), added up in order at the end.
  constexpr int64_t kMostPartials = 16;
  const int64_t piece = std::max<int64_t>(1, (n + kMostPartials - 1) / kMostPartials);
  const int64_t partials = (n + piece - 1) / piece;
  const Tensor partial_sums = Allocate(DType::kF32, {partials, size});
  if (failed()) return;
  Fill(partial_sums, 0);
  float *sums = HostData<float>(partial_sums), *out = HostData<float>(gw);
  pool_.ParallelFor(partials, [&](int64_t p) {
    const NormRow row{static_cast<int>(kind), epsilon, nullptr, nullptr};
    for (int64_t i = p * piece; i < std::min(n, (p + 1) * piece); ++i) {
      ops_.add_norm_gradient(row, in + i * d, gradient + i * d, sums + p * size + i % weights * d,
                             d);
    }
  });
  for (int64_t p = 0; p < partials; ++p) ops_.add_scaled(1, sums + p * size, out, size);
}

void CpuBackend::Rope(RopeKind kind, int64_t head_dim, const Tensor& cosine, const Tensor& sine,
                      int64_t position, int64_t T, bool inverse, Tensor x) {
  if (failed() || kind == RopeKind::kNone) return;
  contract::Rope(head_dim, cosine, sine, position, T, x);
  const int64_t n = x.shape[0], width = x.shape[1], half = head_dim / 2;
  const float *cosines = ConstHostData<float>(cosine), *sines = ConstHostData<float>(sine);
  float* data = HostData<float>(x);
  ParallelPieces(n, width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = (position + i % T) * half;
      for (int64_t head = 0; head < width; head += head_dim) {
        ops_.rope(kind == RopeKind::kInterleaved, inverse, cosines + at, sines + at,
                  data + i * width + head, half);
      }
    }
  });
}

}  // namespace cvxq
