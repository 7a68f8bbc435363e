// The search for scale and zero point of a block of integers: a weight is (code - zero) * scale.
//
// Sixteen trial scales are worked side by side, each with its own sums over the block, so that
// every instruction set does the same arithmetic in the same order. From the codes that a trial
// gives comes the scale of least squares, sum(weight code x) / sum(weight code^2); around the best
// of these, scales as they are stored are tried again by their true error.
#ifndef CVXQ_FORMATS_INT_FIT_H_
#define CVXQ_FORMATS_INT_FIT_H_

#include <cstdint>
#include <vector>

#include "formats/int_sums.h"
#include "tensor/dtype.h"

namespace cvxq {

struct IntFit {
  uint16_t scale = 0;  // as its bits, F16 or BF16; finite, never 0; may be negative if symmetric
  uint8_t zero = 0;    // of the width of a code; 0 if symmetric
};

// Room for one block at a time; one for each thread.
class IntSearch {
 public:
  // Codes of `bits` (2..8); `scale` is F16 or BF16.
  IntSearch(int bits, DType scale, int64_t block);

  // About the least sum of weight (x - value)^2 over codes from -2^(bits-1) to 2^(bits-1) - 1; no
  // more than with the scale that reaches the largest |x|. x, weight [block] as in WeightType::Fit.
  IntFit Symmetric(const float* x, const float* weight);
  // Over codes from 0 to 2^bits - 1 and zero points from among them; no more than with the scale
  // that spans the range of x.
  IntFit Asymmetric(const float* x, const float* weight);

 private:
  bool Load(const float* x, const float* weight);  // false: all x are 0
  int Stride() const;
  // The lane whose stored scale and zero point have the least error.
  int BestOf(const uint16_t* scales, const IntLanes& zeros) const;

  const int bits_;
  const DType scale_;
  const int64_t block_;
  const float top_;                // the largest code from 0 on
  std::vector<float> x_, weight_;  // in powers of two, so that the largest are in [1, 2)
  float unit_ = 1;                 // of x_
  IntMoments moments_;             // of x_
};

// Bits of the scale nearest to a value, of F16 or BF16: finite, and never 0.
uint16_t NearestScale(float value, DType dtype);
float ScaleValue(uint16_t bits, DType dtype);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_INT_FIT_H_
