#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "kernels/contract.h"

namespace cvxq {

std::unique_ptr<Backend> MakeCpuBackend(int threads) {
  return std::make_unique<CpuBackend>(threads, CpuFeatures{});
}

CpuBackend::CpuBackend(int threads, CpuFeatures features)
    : features_(features),
      ops_(VectorOpsOf(features.level)),
      products_{features.native_bf16, &ops_},
      pool_(threads) {}

std::string CpuBackend::name() const { return "cpu"; }

std::string CpuBackend::numerics_class() const {
  std::string name = std::string("cpu-") + ProductNumerics();
  if (features_.level != BestVectorLevel() || features_.native_bf16 != HasNativeBf16()) {
    name += "-limited";  // only tests do this
  }
  return name;
}

bool CpuBackend::fast_bf16() const { return features_.native_bf16; }

void CpuBackend::ParallelPieces(int64_t count, int64_t width,
                                const std::function<void(int64_t, int64_t)>& body) {
  constexpr int64_t kPieceElements = 16384;  // 64 KB of floats: a few microseconds of work
  const int64_t piece = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, width));
  pool_.ParallelFor((count + piece - 1) / piece,
                    [&](int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

void CpuBackend::ParallelStore(
    const Tensor& y, const std::function<void(int64_t begin, int64_t end, float* out)>& body) {
  const bool is_float = y.dtype == DType::kF32;
  float* floats = is_float ? HostData<float>(y) : nullptr;
  uint16_t* halves = is_float ? nullptr : HostData<uint16_t>(y);
  ParallelPieces(y.shape.elements(), 1, [&](int64_t begin, int64_t end) {
    if (is_float) return body(begin, end, floats + begin);
    float* out = FloatScratch(2, end - begin);
    body(begin, end, out);
    ops_.float_to_bf16(out, halves + begin, end - begin);
  });
}

Tensor CpuBackend::As(DType dtype, const Tensor& x) {
  if (x.dtype == dtype) return x;
  Tensor converted = Allocate(dtype, x.shape);
  if (!failed()) Convert(x, converted);
  return converted;
}

void CpuBackend::Convert(const Tensor& src, Tensor dst) {
  if (failed()) return;
  contract::Convert(src, dst);
  const std::byte* in = ConstHostData<std::byte>(src);
  std::byte* out = HostData<std::byte>(dst);
  ParallelPieces(src.shape.elements(), 1, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    const std::byte* from = in + begin * ByteSize(src.dtype);
    std::byte* to = out + begin * ByteSize(dst.dtype);
    if (src.dtype == dst.dtype) {
      std::memcpy(to, from, n * ByteSize(src.dtype));
      return;
    }
    const float* floats = reinterpret_cast<const float*>(from);
    if (src.dtype != DType::kF32) {
      float* widened = dst.dtype == DType::kF32 ? reinterpret_cast<float*>(to) : FloatScratch(2, n);
      const auto widen = src.dtype == DType::kBF16 ? ops_.bf16_to_float : ops_.f16_to_float;
      widen(reinterpret_cast<const uint16_t*>(from), widened, n);
      floats = widened;
    }
    uint16_t* halves = reinterpret_cast<uint16_t*>(to);
    if (dst.dtype == DType::kBF16) ops_.float_to_bf16(floats, halves, n);
    if (dst.dtype == DType::kF16) std::transform(floats, floats + n, halves, FloatToF16);
  });
}

}  // namespace cvxq
