// The scaled kernels as plain loops, for any CPU.
#include "kernels/cpu/scaled_rows.h"

namespace cvxq {
namespace {

struct Floats {
  float lane[16];
};
constexpr int kSums = 1;

// Every lane: f(lane).
template <typename F>
inline Floats Map(F&& f) {
  Floats result;
  for (int i = 0; i < 16; ++i) result.lane[i] = f(i);
  return result;
}

inline Floats LoadCodes(const int8_t* codes) {
  return Map([&](int i) { return static_cast<float>(codes[i]); });
}
inline Floats LoadFloats(const float* values) {
  return Map([&](int i) { return values[i]; });
}
inline void StoreFloats(const Floats& values, float* to) {
  for (int i = 0; i < 16; ++i) to[i] = values.lane[i];
}
inline void StoreBf16(const Floats& values, uint16_t* to);
inline Floats ZeroFloats() { return Floats{}; }
inline Floats Broadcast(float value) {
  return Map([&](int) { return value; });
}
inline Floats Multiply(const Floats& a, const Floats& b) {
  return Map([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Floats MultiplyAdd(const Floats& a, const Floats& b, const Floats& sum) {
  return Map([&](int i) { return a.lane[i] * b.lane[i] + sum.lane[i]; });
}

}  // namespace
}  // namespace cvxq

#include "kernels/cpu/scaled_rows_inl.h"

namespace cvxq {
namespace {

inline void StoreBf16(const Floats& values, uint16_t* to) {
  for (int i = 0; i < 16; ++i) StoreOne(values.lane[i], to + i);
}

}  // namespace

const ScaledKernels kScaledKernelsBaseline = {Multiply, Write<float>, Write<uint16_t>};

}  // namespace cvxq
