// The scaled kernels (scaled_rows.h) for all instruction sets. The including file defines, in its
// unnamed namespace and before the inclusion:
//   Floats                      16 lanes of float
//   LoadCodes                   16 codes as floats
//   LoadFloats, StoreFloats, ZeroFloats, Broadcast, Multiply
//   StoreBf16                   16 floats rounded to BF16, to nearest even
//   MultiplyAdd(a, b, sum)      a * b + sum
//   kSums                       sums that fit in registers, a power of two. Rows and vectors that
//                               are worked on together are as many, so that additions need not wait
#include "kernels/cpu/scaled_rows.h"

namespace cvxq {
namespace {

constexpr int kLanes = 16;
constexpr int kMostRows = 8;  // worked on together: they share what is loaded of x

template <int value>
struct Constant {
  constexpr operator int() const { return value; }
};

// body(Constant<k>) for k in [0, count).
template <int count, int k = 0, typename Body>
__attribute__((always_inline)) inline void Unroll(Body&& body) {
  if constexpr (k < count) {
    body(Constant<k>{});
    Unroll<count, k + 1>(body);
  }
}

// One run of `rows` rows times `batch` vectors. What the next run needs is asked for, as the
// processor's own prefetching ends at each page of 4 KiB, which costs almost half of the speed.
template <int rows, int batch>
void MultiplyRun(const int8_t* codes, int64_t columns, const float* x, int64_t x_stride,
                 float* sums, int64_t sums_stride) {
  Floats sum[rows * batch];
  Unroll<rows * batch>([&](auto i) __attribute__((always_inline)) { sum[i] = ZeroFloats(); });
  const auto add = [&](int64_t c) __attribute__((always_inline)) {
    Floats weights[rows];
    Unroll<rows>([&](auto r) __attribute__((always_inline)) {
      weights[r] = LoadCodes(codes + r * columns + c);
    });
    Unroll<batch>([&](auto t) __attribute__((always_inline)) {
      const Floats values = LoadFloats(x + t * x_stride + c);
      Unroll<rows>([&](auto r) __attribute__((always_inline)) {
        sum[r * batch + t] = MultiplyAdd(weights[r], values, sum[r * batch + t]);
      });
    });
  };
  constexpr int kStep = 64;  // columns; a cache line of codes
  int64_t c = 0;
  for (; c + kStep <= columns; c += kStep) {
    Unroll<rows>([&](auto r) __attribute__((always_inline)) {
      __builtin_prefetch(codes + (rows + r) * columns + c);
    });
    Unroll<kStep / kLanes>([&](auto i) __attribute__((always_inline)) { add(c + i * kLanes); });
  }
  for (; c + kLanes <= columns; c += kLanes) add(c);
  for (int r = 0; r < rows; ++r) {
    for (int t = 0; t < batch; ++t) {
      float lane[kLanes], result = 0;
      StoreFloats(sum[r * batch + t], lane);
      for (int i = 0; i < kLanes; ++i) result += lane[i];
      for (int64_t k = c; k < columns; ++k) result += codes[r * columns + k] * x[t * x_stride + k];
      sums[r * sums_stride + t] = result;
    }
  }
}

// All rows times `batch` vectors, in runs of as many rows as the registers allow.
template <int batch>
void MultiplyBatch(const int8_t* codes, int64_t rows, int64_t columns, const float* x,
                   int64_t x_stride, float* sums, int64_t sums_stride) {
  constexpr int kFit = kSums / batch;
  constexpr int kRun = kFit > kMostRows ? kMostRows : kFit;
  int64_t r = 0;
  for (; r + kRun <= rows; r += kRun) {
    MultiplyRun<kRun, batch>(codes + r * columns, columns, x, x_stride, sums + r * sums_stride,
                             sums_stride);
  }
  for (; r < rows; ++r) {
    MultiplyRun<1, batch>(codes + r * columns, columns, x, x_stride, sums + r * sums_stride,
                          sums_stride);
  }
}

void Multiply(const int8_t* codes, int64_t rows, int64_t columns, const float* x, int64_t x_stride,
              int batch, float* sums) {
  constexpr int kMostBatch = kSums < 4 ? kSums : 4;
  for (int t = 0; t < batch;) {
    const int rest = batch - t;
    const int step = rest >= kMostBatch ? kMostBatch : rest >= 2 && kMostBatch > 2 ? 2 : 1;
    const auto multiply = step == 1   ? MultiplyBatch<1>
                          : step == 2 ? MultiplyBatch < kMostBatch < 2 ? 1 : 2 >
                                      : MultiplyBatch<kMostBatch>;
    multiply(codes, rows, columns, x + t * x_stride, x_stride, sums + t, batch);
    t += step;
  }
}

inline void StoreOne(float value, float* to) { *to = value; }
inline void StoreOne(float value, uint16_t* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  *to = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void Store(Floats values, float* to) { StoreFloats(values, to); }
inline void Store(Floats values, uint16_t* to) { StoreBf16(values, to); }

template <typename T>
void Write(const int8_t* codes, int64_t columns, float row_scale, const float* column_scale, T* w) {
  const Floats factor = Broadcast(row_scale);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const Floats scaled = Multiply(LoadCodes(codes + c), factor);
    Store(Multiply(scaled, LoadFloats(column_scale + c)), w + c);
  }
  for (; c < columns; ++c) {
    const float scaled = codes[c] * row_scale;
    StoreOne(scaled * column_scale[c], w + c);
  }
}

}  // namespace
}  // namespace cvxq
