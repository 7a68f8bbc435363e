// Sixteen lanes of floats or integers as registers of CVXQ_REGISTER_LANES lanes (4, 8 or 16), which
// the including file sets. Operations are those of the compiler's vectors, lane by lane: the same
// bits whatever the registers.

// For the rest of the including file, at whose end the compiler would warn.
#pragma GCC diagnostic ignored "-Wpsabi"  // no vector crosses files

namespace cvxq {
namespace {

#define CVXQ_INLINE inline __attribute__((always_inline))

constexpr int kRegister = CVXQ_REGISTER_LANES, kLanes = kSearchLanes;
typedef float FloatRegister __attribute__((vector_size(4 * kRegister)));
typedef int32_t IntRegister __attribute__((vector_size(4 * kRegister)));

// Two of something that has the operations below: a wider one.
template <typename T>
struct Pair {
  T a, b;
};
#define CVXQ_BINARY(op)                                   \
  template <typename T>                                   \
  CVXQ_INLINE Pair<T> operator op(Pair<T> x, Pair<T> y) { \
    return {x.a op y.a, x.b op y.b};                      \
  }                                                       \
  template <typename T, typename Scalar>                  \
  CVXQ_INLINE Pair<T> operator op(Pair<T> x, Scalar y) {  \
    return {x.a op y, x.b op y};                          \
  }
CVXQ_BINARY(+)
CVXQ_BINARY(-)
CVXQ_BINARY(*)
CVXQ_BINARY(/)
CVXQ_BINARY(&)
CVXQ_BINARY(|)
CVXQ_BINARY(>>)
#undef CVXQ_BINARY
template <typename T>
CVXQ_INLINE Pair<T> operator-(Pair<T> x) {
  return {-x.a, -x.b};
}

#if CVXQ_REGISTER_LANES == 16
typedef FloatRegister V;
typedef IntRegister I;
#elif CVXQ_REGISTER_LANES == 8
typedef Pair<FloatRegister> V;
typedef Pair<IntRegister> I;
#else
typedef Pair<Pair<FloatRegister> > V;
typedef Pair<Pair<IntRegister> > I;
#endif

// What lies at `from`, which need not be aligned.
template <typename T>
CVXQ_INLINE T Load(const float* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof(T));
  return value;
}

// All lanes alike.
template <typename T>
CVXQ_INLINE T SplatOf(float value, FloatRegister*) {
  return value - FloatRegister{};
}
template <typename T, typename Half>
CVXQ_INLINE T SplatOf(float value, Pair<Half>*) {
  const Half half = SplatOf<Half>(value, static_cast<Half*>(nullptr));
  return {half, half};
}
CVXQ_INLINE V Splat(float value) { return SplatOf<V>(value, static_cast<V*>(nullptr)); }

// All bits of a lane where it holds, else none.
CVXQ_INLINE IntRegister Less(FloatRegister x, FloatRegister y) { return x < y; }
CVXQ_INLINE IntRegister Differ(FloatRegister x, FloatRegister y) { return x != y; }
CVXQ_INLINE FloatRegister Select(IntRegister mask, FloatRegister x, FloatRegister y) {
  return mask ? x : y;
}
CVXQ_INLINE IntRegister Select(IntRegister mask, IntRegister x, IntRegister y) {
  return mask ? x : y;
}
CVXQ_INLINE FloatRegister AsFloats(IntRegister bits) {
  return reinterpret_cast<FloatRegister>(bits);
}
CVXQ_INLINE IntRegister AsInts(FloatRegister value) { return reinterpret_cast<IntRegister>(value); }
template <typename T>
CVXQ_INLINE auto Less(Pair<T> x, Pair<T> y) {
  return Pair<decltype(Less(x.a, y.a))>{Less(x.a, y.a), Less(x.b, y.b)};
}
template <typename T>
CVXQ_INLINE auto Differ(Pair<T> x, Pair<T> y) {
  return Pair<decltype(Differ(x.a, y.a))>{Differ(x.a, y.a), Differ(x.b, y.b)};
}
template <typename M, typename T>
CVXQ_INLINE Pair<T> Select(Pair<M> mask, Pair<T> x, Pair<T> y) {
  return {Select(mask.a, x.a, y.a), Select(mask.b, x.b, y.b)};
}
// x, and y added where it holds.
CVXQ_INLINE FloatRegister AddWhere(IntRegister mask, FloatRegister x, FloatRegister y) {
#if CVXQ_REGISTER_LANES == 16
  return mask ? x + y : x;  // one instruction
#else
  return x + AsFloats(mask & AsInts(y));
#endif
}
template <typename M, typename T>
CVXQ_INLINE Pair<T> AddWhere(Pair<M> mask, Pair<T> x, Pair<T> y) {
  return {AddWhere(mask.a, x.a, y.a), AddWhere(mask.b, x.b, y.b)};
}
template <typename T>
CVXQ_INLINE auto AsFloats(Pair<T> bits) {
  return Pair<decltype(AsFloats(bits.a))>{AsFloats(bits.a), AsFloats(bits.b)};
}
template <typename T>
CVXQ_INLINE auto AsInts(Pair<T> value) {
  return Pair<decltype(AsInts(value.a))>{AsInts(value.a), AsInts(value.b)};
}

// The lanes whose index differs in one bit (1, 2, 4 or 8) change places.
template <int kBit>
CVXQ_INLINE FloatRegister Swap(FloatRegister v) {
  constexpr int k = kBit;
#if CVXQ_REGISTER_LANES == 16
  return __builtin_shufflevector(v, v, 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k,
                                 8 ^ k, 9 ^ k, 10 ^ k, 11 ^ k, 12 ^ k, 13 ^ k, 14 ^ k, 15 ^ k);
#elif CVXQ_REGISTER_LANES == 8
  return __builtin_shufflevector(v, v, 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k);
#else
  return __builtin_shufflevector(v, v, 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k);
#endif
}
template <int kBit, typename T>
CVXQ_INLINE Pair<T> Swap(Pair<T> v) {
  if constexpr (kBit * sizeof(float) >= sizeof(T)) {
    return {v.b, v.a};
  } else {
    return {Swap<kBit>(v.a), Swap<kBit>(v.b)};
  }
}

template <typename T>
CVXQ_INLINE T Least(T x, T y) {
  return Select(Less(x, y), x, y);
}
template <typename T>
CVXQ_INLINE T Most(T x, T y) {
  return Select(Less(y, x), x, y);
}
template <typename T>
CVXQ_INLINE T Size(T value) {
  return AsFloats(AsInts(value) & 0x7fffffff);
}
// `size`, not negative, with the sign of `value`.
template <typename T>
CVXQ_INLINE T WithSign(T size, T value) {
  return AsFloats(AsInts(size) | (AsInts(value) & static_cast<int32_t>(0x80000000u)));
}
// To the nearest integer, ties to even, of |value| < 2^22.
template <typename T>
CVXQ_INLINE T Nearest(T value) {
  return (value + 0x1.8p23f) - 0x1.8p23f;
}

// a / b, or 0 where b is 0.
CVXQ_INLINE V Divide(V a, V b) { return Select(Differ(b, V{}), a / b, V{}); }
CVXQ_INLINE V Inverse(V b) { return Divide(Splat(1), b); }

// The nearest finite half.
CVXQ_INLINE V Half(V value) {
  const V size = Least(Size(value), Splat(65504));
  const I bits = AsInts(size);
  const V normal = AsFloats((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff);
  const V small = (size + 0.5f) - 0.5f;  // a multiple of 2^-24
  return WithSign(Select(Less(size, Splat(0x1p-14f)), small, normal), value);
}

// In each lane, op over all lanes of its block of `subs` lanes.
template <typename Op>
CVXQ_INLINE V OverBlock(V v, int subs, Op op) {
  if (subs >= 2) v = op(v, Swap<1>(v));
  if (subs >= 4) v = op(v, Swap<2>(v));
  if (subs >= 8) v = op(v, Swap<4>(v));
  if (subs >= 16) v = op(v, Swap<8>(v));
  return v;
}
CVXQ_INLINE V SumOverBlock(V v, int subs) {
  return OverBlock(
      v, subs, [](V a, V b) __attribute__((always_inline)) { return a + b; });
}
CVXQ_INLINE V MostOverBlock(V v, int subs) {
  return OverBlock(
      v, subs, [](V a, V b) __attribute__((always_inline)) { return Most(a, b); });
}

}  // namespace
}  // namespace cvxq
