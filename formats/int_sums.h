// The loops of the search for scales of integers (int_fit.h): 16 trials side by side.
#ifndef CVXQ_FORMATS_INT_SUMS_H_
#define CVXQ_FORMATS_INT_SUMS_H_

#include <cstdint>

#include "tensor/dtype.h"

namespace cvxq {

inline constexpr int kIntLanes = 16;

struct IntLanes {
  alignas(64) float v[kIntLanes] = {};
};

// The first of the least and of the most lanes. No lane is NaN.
int IndexOfLeast(const IntLanes& lanes);
int IndexOfMost(const IntLanes& lanes);

// The largest |x| and the largest weight of n.
void LargestOf(const float* x, const float* weight, int64_t n, float* magnitude, float* heaviest);

struct IntMoments {
  float least = 0, most = 0;                // of x and 0
  float weight = 0, first = 0, second = 0;  // sums of weight, weight x, weight x^2
};

// to = x * by, to_weight = weight * weigh, or 1 throughout if `weigh` is 0.
IntMoments ScaleBlock(const float* x, const float* weight, int64_t n, float by, float weigh,
                      float* to, float* to_weight);

// Of each lane's codes round(x * inverse) within [low, high]: the scale of least squares, and by
// how much it lessens the sum of weight x^2 (0 where all codes are 0). Two sets of lanes side by
// side: inverse, scale, gain [2].
void SolveSymmetric(const float* x, const float* weight, int64_t n, float low, float high,
                    const IntLanes* inverse, IntLanes* scale, IntLanes* gain);

// Of each lane's codes round(x * inverse + zero) within [0, high]: the zero point of least squares
// in real numbers, within the codes, and, with it rounded, the scale and its gain.
void SolveAsymmetric(const float* x, const float* weight, int64_t n, const IntMoments& moments,
                     float high, const IntLanes& inverse, IntLanes* zero, IntLanes* scale,
                     IntLanes* gain);

// Each lane's sum of weight (x - value)^2 with the scale that is stored as bits (of F16 or BF16),
// in units of 1 / per_unit, and codes within [low, high] that have 0 for the zero point.
void SumErrors(const float* x, const float* weight, int64_t n, const uint16_t* bits, DType dtype,
               float per_unit, const IntLanes& low, const IntLanes& high, IntLanes* errors);

// The scale of least squares for the codes round(x / scale) within [low, high]; `scale` itself
// where all of these are 0.
float RefitScale(const float* x, const float* weight, int64_t n, float scale, float low,
                 float high);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_INT_SUMS_H_
