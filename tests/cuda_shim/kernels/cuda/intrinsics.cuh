// The plain twins of kernels/cuda/intrinsics.cuh: the same functions, said in loops.
#ifndef CVXQ_TESTS_CUDA_SHIM_INTRINSICS_CUH_
#define CVXQ_TESTS_CUDA_SHIM_INTRINSICS_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

namespace cvxq::cuda {

inline unsigned char* DynamicShared() { return cuda_shim::DynamicShared(); }

inline uint16_t FloatToBF16Bits(float x) { return FloatToBF16(x); }
inline uint16_t FloatToF16Bits(float x) { return FloatToF16(x); }
inline float F16BitsToFloat(uint16_t bits) { return F16ToFloat(bits); }
inline uint32_t PackBF16(float low, float high) {
  return FloatToBF16(low) | uint32_t{FloatToBF16(high)} << 16;
}

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float MulRounded(float a, float b) { return a * b; }  // nothing is contracted here
inline float AddRounded(float a, float b) { return a + b; }
inline float AddDown(float a, float b) {
  const double sum = static_cast<double>(a) + b;  // exact, where their sizes are not far apart
  const float nearest = static_cast<float>(sum);
  return nearest > sum ? std::nextafter(nearest, -INFINITY) : nearest;
}

inline float FastExp2(float x) { return std::exp2(x); }
inline float FastReciprocal(float x) { return 1 / x; }

inline float LowBF16(uint32_t pair) { return BF16ToFloat(static_cast<uint16_t>(pair)); }
inline float HighBF16(uint32_t pair) { return BF16ToFloat(static_cast<uint16_t>(pair >> 16)); }

// Every lane sees the fragments of all lanes and makes its own four elements of d.
inline void MmaBF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using Words = std::array<uint32_t, 4>;
  std::array<Words, 32> as;
  std::array<std::array<uint32_t, 2>, 32> bs;
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  const Words own_a{a[0], a[1], a[2], a[3]};
  cuda_shim::NextSlots();
  std::memcpy(cuda_shim::Slot(lane), &own_a, sizeof(own_a));
  cuda_shim::WarpBarrier();
  for (int l = 0; l < 32; ++l) std::memcpy(&as[l], cuda_shim::Slot(l), sizeof(Words));
  cuda_shim::NextSlots();
  std::memcpy(cuda_shim::Slot(lane), b, sizeof(b));
  cuda_shim::WarpBarrier();
  for (int l = 0; l < 32; ++l) std::memcpy(&bs[l], cuda_shim::Slot(l), sizeof(b));
  for (int e = 0; e < 4; ++e) {
    const int row = g + (e >= 2 ? 8 : 0), column = 2 * t + e % 2;
    float sum = d[e];
    for (int k = 0; k < 16; ++k) {
      const int of_pair = k % 8 / 2;
      const uint32_t x = as[row % 8 * 4 + of_pair][(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)];
      const uint32_t y = bs[column * 4 + of_pair][k >= 8 ? 1 : 0];
      sum += k % 2 == 0 ? LowBF16(x) * LowBF16(y) : HighBF16(x) * HighBF16(y);
    }
    d[e] = sum;
  }
}

inline void MmaInt8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using Words = std::array<uint32_t, 4>;
  std::array<Words, 32> as;
  std::array<std::array<uint32_t, 2>, 32> bs;
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  const Words own_a{a[0], a[1], a[2], a[3]};
  cuda_shim::NextSlots();
  std::memcpy(cuda_shim::Slot(lane), &own_a, sizeof(own_a));
  cuda_shim::WarpBarrier();
  for (int l = 0; l < 32; ++l) std::memcpy(&as[l], cuda_shim::Slot(l), sizeof(Words));
  cuda_shim::NextSlots();
  std::memcpy(cuda_shim::Slot(lane), b, sizeof(b));
  cuda_shim::WarpBarrier();
  for (int l = 0; l < 32; ++l) std::memcpy(&bs[l], cuda_shim::Slot(l), sizeof(b));
  const auto byte = [](uint32_t word, int i) {
    return static_cast<int>(static_cast<int8_t>(word >> (8 * i)));
  };
  for (int e = 0; e < 4; ++e) {
    const int row = g + (e >= 2 ? 8 : 0), column = 2 * t + e % 2;
    for (int k = 0; k < 32; ++k) {
      const int of_four = k % 16 / 4;
      d[e] += byte(as[row % 8 * 4 + of_four][(row >= 8 ? 1 : 0) + (k >= 16 ? 2 : 0)], k % 4) *
              byte(bs[column * 4 + of_four][k >= 16 ? 1 : 0], k % 4);
    }
  }
}

// The 16-bit element (i, j) of matrix m, whose rows begin at the addresses of the lanes.
inline void LoadMatrices(uint32_t (&r)[4], const void* row, bool transposed) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  cuda_shim::NextSlots();
  std::memcpy(cuda_shim::Slot(lane), &row, sizeof(row));
  cuda_shim::WarpBarrier();
  for (int m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      int i = lane / 4, j = 2 * (lane % 4) + e;
      if (transposed) std::swap(i, j);
      const uint16_t* begin = nullptr;
      std::memcpy(&begin, cuda_shim::Slot(8 * m + i), sizeof(begin));
      pair[e] = begin[j];
    }
    std::memcpy(&r[m], pair, sizeof(pair));
  }
}
inline void LoadMatrices4(uint32_t (&r)[4], const void* row) { LoadMatrices(r, row, false); }
inline void LoadMatrices4Transposed(uint32_t (&r)[4], const void* row) {
  LoadMatrices(r, row, true);
}

inline void CopyAsync16(void* shared, const void* global) { std::memcpy(shared, global, 16); }
inline void CommitCopies() {}
template <int kGroups>
inline void WaitForCopies() {}

inline void WaitForEarlierKernels() {}
inline void LetLaterKernelsStart() {}
inline void PrefetchToL2(const void*) {}

template <typename V>
V LoadVector(const void* p) {
  cuda_shim::RequireAligned(p, alignof(V));
  V vector;
  std::memcpy(&vector, p, sizeof(V));
  return vector;
}
template <typename V>
void StoreVector(void* p, const V& vector) {
  cuda_shim::RequireAligned(p, alignof(V));
  std::memcpy(p, &vector, sizeof(V));
}

inline uint4 LoadStreaming(const uint4* p) { return *p; }

inline uint32_t ShiftPair(uint32_t low, uint32_t high, int shift) {
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> shift);
}
inline uint32_t ChooseBytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i) {
    chosen |= static_cast<uint32_t>(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return chosen;
}

inline int RoundToInt(float x) { return static_cast<int>(std::nearbyint(x)); }
inline uint32_t WarpMax(uint32_t x) {
  for (int lanes = 16; lanes > 0; lanes /= 2)
    x = std::max(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

// Dynamic shared memory, as if it began at an address that is a multiple of nothing much.
inline constexpr uint32_t kSharedBegin = 0x410;
inline uint32_t SharedAddress(const void* shared) {
  return kSharedBegin +
         static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - DynamicShared());
}
inline uint32_t LoadShared(uint32_t address) {
  uint32_t word;
  std::memcpy(&word, DynamicShared() + (address - kSharedBegin), sizeof(word));
  return word;
}

inline uint32_t TakeTicket(uint32_t* count) { return (*count)++; }
inline void SeeEarlierTickets() {}
inline float LoadFromOthers(const float* p) { return *p; }

}  // namespace cvxq::cuda

#endif  // CVXQ_TESTS_CUDA_SHIM_INTRINSICS_CUH_
