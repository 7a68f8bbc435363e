// The strip kernels as plain loops, for any CPU.
#include "kernels/cpu/packed_strip.h"

namespace cvxq {
namespace {

struct Words {
  uint32_t lane[kStripLanes];
};
struct Floats {
  float lane[kStripLanes];
};
constexpr int kSlots = 1, kBatch = 1;

// A new value of every lane: f(lane).
template <typename Lanes, typename F>
inline Lanes Map(F&& f) {
  Lanes result;
  for (int i = 0; i < kStripLanes; ++i) result.lane[i] = f(i);
  return result;
}

inline Words LoadWords(const uint32_t* words) {
  return Map<Words>([&](int i) { return words[i]; });
}
inline Words Right(const Words& words, int shift) {
  return Map<Words>([&](int i) { return words.lane[i] >> shift; });
}
inline Words Left(const Words& words, int shift) {
  return Map<Words>([&](int i) { return words.lane[i] << shift; });
}
inline Words Or(const Words& a, const Words& b) {
  return Map<Words>([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline Floats LoadFloats(const float* values) {
  return Map<Floats>([&](int i) { return values[i]; });
}
inline void StoreFloats(const Floats& values, float* to) {
  for (int i = 0; i < kStripLanes; ++i) to[i] = values.lane[i];
}
inline Floats ZeroFloats() { return Floats{}; }
inline Floats Add(const Floats& a, const Floats& b) {
  return Map<Floats>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Floats MultiplyAdd(const Floats& values, const float* x, const Floats& sum) {
  return Map<Floats>([&](int i) { return values.lane[i] * *x + sum.lane[i]; });
}

template <int b>
struct Table {
  explicit Table(const float* values) : all(values) {}
  Floats operator()(const Words& code) const {
    return Map<Floats>([&](int i) { return all[code.lane[i] & ((1u << b) - 1)]; });
  }
  const float* all;
};

}  // namespace
}  // namespace cvxq

#include "kernels/cpu/packed_strip_inl.h"

namespace cvxq {
namespace {

float Split(int64_t columns, const uint8_t* depth, const float* scale, const float* mean,
            const float* x, uint32_t, float** out) {
  return SplitFrom(0, columns, depth, scale, mean, x, out);
}

template <typename T>
void Write(const float* values, const int32_t* position, const float* scale, const float* mean,
           int64_t columns, int lanes, T* const* rows) {
  WriteFrom(0, values, position, scale, mean, columns, lanes, rows);
}

}  // namespace

const StripKernels kStripKernelsBaseline = {Multiply, LookUp, Split, Write<float>, Write<uint16_t>};

}  // namespace cvxq
