// Counter-based random numbers: a number is a pure function of (key, counter), so the work can be
// cut among threads and machines in any way and still draws the same numbers.
#ifndef CVXQ_BASE_RANDOM_H_
#define CVXQ_BASE_RANDOM_H_

#include <cstdint>

namespace cvxq {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that mixes all 64 bits.
constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Sixty-four random bits for position `counter` of the stream `key`.
constexpr uint64_t RandomBits(uint64_t key, uint64_t counter) {
  return Mix64(Mix64(key) ^ Mix64(counter ^ 0xd1b54a32d192ed03u));
}

// Uniform in [0, 1), a multiple of 2^-24, exact in float.
constexpr float RandomUniform(uint64_t key, uint64_t counter) {
  return static_cast<float>(RandomBits(key, counter) >> 40) * 0x1p-24f;
}

// The key of a sub-stream: DeriveKey(seed, sequence, block) and so on.
constexpr uint64_t DeriveKey(uint64_t key) { return key; }
template <typename... Rest>
constexpr uint64_t DeriveKey(uint64_t key, uint64_t first, Rest... rest) {
  return DeriveKey(RandomBits(key, first), rest...);
}

}  // namespace cvxq

#endif  // CVXQ_BASE_RANDOM_H_
