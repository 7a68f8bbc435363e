// Whether this CPU runs code compiled for x86-64-v3 (AVX2) or x86-64-v4 (AVX-512). The features
// asked for are those that no CPU has without the rest of its level.
#ifndef CVXQ_KERNELS_CPU_CPU_FEATURES_H_
#define CVXQ_KERNELS_CPU_CPU_FEATURES_H_

namespace cvxq {

inline bool HasX86V3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

inline bool HasX86V4() {
  return HasX86V3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_CPU_FEATURES_H_
