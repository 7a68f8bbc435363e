// The inner loops over packed weights, one set for each instruction set. Plain C in spirit: files
// compiled for a newer CPU include only this, so that none of their code reaches the common path.
//
// A *strip* is 16 rows ("lanes") times a run of columns that share a bit depth b. Each lane is a
// little-endian bit stream over the columns, b bits each, in 32-bit words; word i of all lanes
// stand together:
//
//   words[i * 16 + lane], i in [0, ceil(columns * b / 32))
//   code of column k: bits [k * b, (k + 1) * b) of the lane's stream
//
// So one load, one shift by a constant and one table lookup give a column of 16 weights.
#ifndef CVXQ_KERNELS_CPU_PACKED_STRIP_H_
#define CVXQ_KERNELS_CPU_PACKED_STRIP_H_

#include <stdint.h>

namespace cvxq {

inline constexpr int kStripLanes = 16;
inline constexpr int kMaxStripBatch = 8;

// 32-bit words of each lane for a run of columns.
inline constexpr int64_t StripWords(int64_t columns, int depth) {
  return (columns * depth + 31) / 32;
}

// In all of these depth is in [1, 8] and `table` has max(16, 2^depth) values, the 2^depth ones
// repeated; arrays need no alignment and are never read beyond their ends.
struct StripKernels {
  // sums[t * 16 + lane] += sum over columns k of x[t * x_stride + k] * table[code(lane, k)]
  // for t in [0, batch), batch <= kMaxStripBatch. The result of a t does not depend on the others
  // of its batch.
  void (*multiply)(int depth, const uint32_t* words, int64_t columns, const float* table,
                   const float* x, int64_t x_stride, int batch, float* sums);

  // values[k * 16 + lane] = table[code(lane, k)]
  void (*look_up)(int depth, const uint32_t* words, int64_t columns, const float* table,
                  float* values);

  // For each depth d in [1, 8] whose bit 1 << d is set in `depths`, appends x[j] * scale[j] of all
  // columns j with depth[j] == d to out[d]; out[d] moves on, and up to 16 floats beyond its end
  // are overwritten. Returns the sum of x[j] * mean[j] over all columns; 0 if mean is null.
  float (*split)(int64_t columns, const uint8_t* depth, const float* scale, const float* mean,
                 const float* x, uint32_t depths, float** out);

  // rows[lane][j] = values[position[j] * 16 + lane] * scale[j] + mean[j] (no addition where mean
  // is null) for j in [0, columns) and the first `lanes` lanes; two roundings.
  void (*write_float)(const float* values, const int32_t* position, const float* scale,
                      const float* mean, int64_t columns, int lanes, float* const* rows);
  // The same, rounded to BF16, to nearest even.
  void (*write_bf16)(const float* values, const int32_t* position, const float* scale,
                     const float* mean, int64_t columns, int lanes, uint16_t* const* rows);
};

extern const StripKernels kStripKernelsBaseline;
extern const StripKernels kStripKernelsAvx2;
extern const StripKernels kStripKernelsAvx512;

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_PACKED_STRIP_H_
