// The CPU backend's own vector code: one source (vector_ops.inc) compiled for each instruction set
// and reached through a table of functions chosen at run time. All are single-threaded and work on
// a piece of a tensor; pointers need no alignment. NaN goes through every one of them.
//
// This header is included by files compiled for instruction sets that the machine may lack, so it
// includes nothing with inline functions.
#ifndef CVXQ_KERNELS_CPU_VECTOR_OPS_H_
#define CVXQ_KERNELS_CPU_VECTOR_OPS_H_

#include <cstdint>

namespace cvxq {

// One row of a norm and its backward pass. Kinds are NormKind's values.
struct NormRow {
  int kind = 0;
  float epsilon = 0;
  const float* w = nullptr;  // [d] or null
  const float* b = nullptr;  // [d] or null
};

constexpr int64_t kMostDots = 4;

struct VectorOps {
  // --- conversions ---
  void (*bf16_to_float)(const uint16_t* x, float* y, int64_t n);
  void (*float_to_bf16)(const float* x, uint16_t* y, int64_t n);
  void (*f16_to_float)(const uint16_t* x, float* y, int64_t n);

  // --- elementwise ---
  void (*add_scaled)(float alpha, const float* x, float* y, int64_t n);  // y += alpha x
  void (*scale)(float scale, float* x, int64_t n);                       // x *= scale
  void (*scale_and_cap)(float scale, float cap, float* x, int64_t n);
  void (*scale_and_cap_backward)(float scale, float cap, const float* y, float* g, int64_t n);
  // Kinds are ActivationKind's values; gate and ggate may be null together.
  void (*activation)(int kind, const float* gate, const float* up, float* y, int64_t n);
  void (*activation_backward)(int kind, const float* gate, const float* up, const float* gy,
                              float* ggate, float* gup, int64_t n);
  // One head of 2 * half elements; pairs (i, i + half), or (2i, 2i+1) where interleaved.
  void (*rope)(bool interleaved, bool inverse, const float* cosine, const float* sine, float* x,
               int64_t half);

  // --- sums ---
  // sums[j] += sum over rows of x[i * stride + j], j < columns.
  void (*add_column_sums)(const float* x, int64_t rows, int64_t stride, int64_t columns,
                          float* sums);
  void (*add_column_sums_bf16)(const uint16_t* x, int64_t rows, int64_t stride, int64_t columns,
                               float* sums);
  void (*add_squares)(const float* x, float* sums, int64_t n);  // sums[i] += x[i]^2
  float (*sum_of_squares)(const float* x, int64_t n);
  float (*dot)(const float* x, const float* y, int64_t n);
  // out[i] = the dot product of w with row i of x[rows, n], rows <= kMostDots.
  void (*dots)(const float* x, int64_t rows, int64_t stride, const float* w, int64_t n, float* out);
  void (*dots_bf16)(const float* x, int64_t rows, int64_t stride, const uint16_t* w, int64_t n,
                    float* out);

  // --- norms ---
  void (*norm)(const NormRow& norm, const float* x, float* y, int64_t d);
  void (*norm_bf16)(const NormRow& norm, const float* x, uint16_t* y, int64_t d);
  void (*norm_backward)(const NormRow& norm, const float* x, const float* gy, float* gx,
                        bool accumulate, int64_t d);
  // gw += the row's part of the weight's gradient.
  void (*add_norm_gradient)(const NormRow& norm, const float* x, const float* gy, float* gw,
                            int64_t d);

  // --- softmax ---
  float (*max)(const float* x, int64_t n);  // -Inf for none; skips NaN
  // Sum of exp(x - max); stores the terms where y is not null (may be x).
  float (*exp_sum)(const float* x, float max, float* y, int64_t n);
  // Sum of exp(p - max_p) * (p - q - shift); a term whose first factor is 0 is 0.
  float (*divergence_sum)(const float* p, const float* q, float max_p, float shift, int64_t n);
  // scores become softmax(cap(scale * scores)); slope (may be null) gets cap's derivative.
  void (*attention_softmax)(float scale, float cap, float* scores, float* slope, int64_t n);
  // g[i] = scale slope[i] p[i] (g[i] - sum p g); slope may be null (ones).
  void (*attention_softmax_backward)(float scale, const float* p, const float* slope, float* g,
                                     int64_t n);
};

enum class VectorLevel : uint8_t { kBaseline, kAvx2, kAvx512 };

// The widest level of this machine.
VectorLevel BestVectorLevel();
const VectorOps& VectorOpsOf(VectorLevel level);

// The tables; call the code of one only where the machine has its instructions.
extern const VectorOps kVectorOpsBaseline;
extern const VectorOps kVectorOpsAvx2;
extern const VectorOps kVectorOpsAvx512;

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_VECTOR_OPS_H_
