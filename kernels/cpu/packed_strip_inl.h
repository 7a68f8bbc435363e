// The part of the strip kernels (packed_strip.h) that is the same for all instruction sets. The
// including file defines, in its unnamed namespace and before the inclusion:
//   Words, Floats               16 lanes of uint32_t or float
//   LoadWords, Right, Left, Or  a shift takes an int that is constant after inlining
//   LoadFloats, StoreFloats, ZeroFloats, Add
//   MultiplyAdd(v, x, sum)      v * *x + sum in every lane
//   Table<b>                    Table<b>(const float*) and Floats operator()(Words) const, which
//                               looks at the low b bits of each lane only
//   kSlots                      sums kept for one row of x, so that additions need not wait
//   kBatch                      rows of x at once (1, 2 or 4): kSlots * kBatch sums fit in
//   registers
#include "kernels/cpu/packed_strip.h"

namespace cvxq {
namespace {

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

constexpr int PowerOfTwoFactor(int b) { return b & -b; }

// The smallest run of columns that fills whole words.
template <int b>
inline constexpr int kBlockColumns = 32 / PowerOfTwoFactor(b);
template <int b>
inline constexpr int kBlockWords = b / PowerOfTwoFactor(b);

// How far ahead weights are asked for. The processor's own prefetching ends at each page of 4 KiB,
// which costs half of the speed.
constexpr int kPrefetchWords = 2048;
constexpr int kPrefetchColumns = 512;

// body(k, slot, values) for each column k of a strip in order. Blocks of columns are unrolled, so
// that all shifts are constants, and so is `slot`, which goes round [0, kSlots) within a block.
template <int b, typename Body>
__attribute__((always_inline)) inline void ForEachColumn(const uint32_t* words, int64_t columns,
                                                         const float* table_values, Body&& body) {
  const Table<b> table(table_values);
  int64_t k = 0;
  for (; k + kBlockColumns<b> <= columns; k += kBlockColumns<b>) {
    Words word[kBlockWords<b>];
    Unroll<kBlockWords<b>>([&](auto i) __attribute__((always_inline)) {
      __builtin_prefetch(words + i * kStripLanes + kPrefetchWords);
      word[i] = LoadWords(words + i * kStripLanes);
    });
    words += kBlockWords<b> * kStripLanes;
    Unroll<kBlockColumns<b>>([&](auto i) __attribute__((always_inline)) {
      constexpr int kWord = i * b / 32, kShift = i * b % 32;
      Words code = word[kWord];
      if constexpr (kShift > 0) code = Right(code, kShift);
      if constexpr (kShift + b > 32) code = Or(code, Left(word[kWord + 1], 32 - kShift));
      body(k + i, Constant<i % kSlots>{}, table(code));
    });
  }
  for (int bit = 0; k < columns; ++k, bit += b) {
    const uint32_t* word = words + bit / 32 * kStripLanes;
    const int shift = bit % 32;
    Words code = Right(LoadWords(word), shift);
    if (shift + b > 32) code = Or(code, Left(LoadWords(word + kStripLanes), 32 - shift));
    body(k, Constant<0>{}, table(code));
  }
}

template <int b, int batch>
void MultiplyBatch(const uint32_t* words, int64_t columns, const float* table, const float* x,
                   int64_t x_stride, float* sums) {
  Floats sum[batch][kSlots];
  Unroll<batch * kSlots>([&](auto i) __attribute__((always_inline)) {
    sum[i / kSlots][i % kSlots] = ZeroFloats();
  });
  ForEachColumn<b>(
      words, columns,
      table, [&](int64_t k, auto slot, Floats values) __attribute__((always_inline)) {
        Unroll<batch>([&](auto t) __attribute__((always_inline)) {
          sum[t][slot] = MultiplyAdd(values, x + t * x_stride + k, sum[t][slot]);
        });
      });
  Unroll<batch>([&](auto t) __attribute__((always_inline)) {
    Floats total = LoadFloats(sums + t * kStripLanes);
    Unroll<kSlots>([&](auto slot)
                       __attribute__((always_inline)) { total = Add(total, sum[t][slot]); });
    StoreFloats(total, sums + t * kStripLanes);
  });
}

template <int b>
void MultiplyDepth(const uint32_t* words, int64_t columns, const float* table, const float* x,
                   int64_t x_stride, int batch, float* sums) {
  while (batch > 0) {
    int step = 1;
    if (kBatch >= 4 && batch >= 4) {
      step = 4;
      MultiplyBatch<b, kBatch >= 4 ? 4 : 1>(words, columns, table, x, x_stride, sums);
    } else if (kBatch >= 2 && batch >= 2) {
      step = 2;
      MultiplyBatch<b, kBatch >= 2 ? 2 : 1>(words, columns, table, x, x_stride, sums);
    } else {
      MultiplyBatch<b, 1>(words, columns, table, x, x_stride, sums);
    }
    batch -= step;
    x += step * x_stride;
    sums += step * kStripLanes;
  }
}

template <int b>
void LookUpDepth(const uint32_t* words, int64_t columns, const float* table, float* values) {
  ForEachColumn<b>(
      words, columns, table, [&](int64_t k, auto, Floats v) __attribute__((always_inline)) {
        StoreFloats(v, values + k * kStripLanes);
      });
}

void Multiply(int depth, const uint32_t* words, int64_t columns, const float* table, const float* x,
              int64_t x_stride, int batch, float* sums) {
  static constexpr decltype(&MultiplyDepth<1>) kDepths[] = {
      nullptr,          MultiplyDepth<1>, MultiplyDepth<2>, MultiplyDepth<3>, MultiplyDepth<4>,
      MultiplyDepth<5>, MultiplyDepth<6>, MultiplyDepth<7>, MultiplyDepth<8>};
  kDepths[depth](words, columns, table, x, x_stride, batch, sums);
}

void LookUp(int depth, const uint32_t* words, int64_t columns, const float* table, float* values) {
  static constexpr decltype(&LookUpDepth<1>) kDepths[] = {
      nullptr,        LookUpDepth<1>, LookUpDepth<2>, LookUpDepth<3>, LookUpDepth<4>,
      LookUpDepth<5>, LookUpDepth<6>, LookUpDepth<7>, LookUpDepth<8>};
  kDepths[depth](words, columns, table, values);
}

// Asks for what split needs some columns later, which may belong to the next cluster.
inline void PrefetchColumns(const uint8_t* depth, const float* scale, const float* mean) {
  __builtin_prefetch(depth + kPrefetchColumns);
  __builtin_prefetch(scale + kPrefetchColumns);
  if (mean != nullptr) __builtin_prefetch(mean + kPrefetchColumns);
}

// The plain forms of split and write, for what an instruction set has no better way to do: the
// columns from `begin` on.
float SplitFrom(int64_t begin, int64_t columns, const uint8_t* depth, const float* scale,
                const float* mean, const float* x, float** out) {
  float sum = 0;
  for (int64_t j = begin; j < columns; ++j) {
    if (depth[j] > 0) *out[depth[j]]++ = x[j] * scale[j];
    if (mean != nullptr) sum += x[j] * mean[j];
  }
  return sum;
}

inline void Store(float value, float* to) { *to = value; }
inline void Store(float value, uint16_t* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  *to = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <typename T>
void WriteFrom(int64_t begin, const float* values, const int32_t* position, const float* scale,
               const float* mean, int64_t columns, int lanes, T* const* rows) {
  for (int64_t j = begin; j < columns; ++j) {
    const float* v = values + int64_t{position[j]} * kStripLanes;
    for (int lane = 0; lane < lanes; ++lane) {
      const float scaled = v[lane] * scale[j];
      Store(mean == nullptr ? scaled : scaled + mean[j], rows[lane] + j);
    }
  }
}

}  // namespace
}  // namespace cvxq
