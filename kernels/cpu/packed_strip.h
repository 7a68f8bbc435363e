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
//
// Where a CPU multiplies pairs of BF16 numbers, strips of depths up to kMaxPairDepth may be laid
// out *in pairs* instead: each half of a lane's word is a stream of its own, the low one of the
// columns 0, 2, 4, .., the high one of the columns 1, 3, 5, .., without codes across words:
//
//   words[i * 16 + lane], i in [0, ceil(ceil(columns / 2) / p)), p = floor(16 / b)
//   codes of columns 2k and 2k + 1: b bits from bits k % p * b and 16 + k % p * b of word k / p
//
// There the lookup gives 32 weights, for 1 / 16 more memory where 16 / b leaves a rest.
#ifndef CVXQ_KERNELS_CPU_PACKED_STRIP_H_
#define CVXQ_KERNELS_CPU_PACKED_STRIP_H_

#include <stdint.h>

namespace cvxq {

inline constexpr int kStripLanes = 16;
inline constexpr int kMaxStripBatch = 8;
inline constexpr int kMaxPairDepth = 5;

// 32-bit words of each lane for a run of columns.
inline constexpr int64_t StripWords(int64_t columns, int depth) {
  return (columns * depth + 31) / 32;
}
inline constexpr int64_t PairStripWords(int64_t columns, int depth) {
  const int pairs = 16 / depth;
  return ((columns + 1) / 2 + pairs - 1) / pairs;
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

// For matrices whose strips of depths [1, kMaxPairDepth] are in pairs; those of other depths are
// left to StripKernels.
struct PairKernels {
  // As in StripKernels for a strip in pairs, but x is what split gives for this depth, and values
  // of the table are rounded to BF16, to nearest even. Products are exact and sums in float.
  void (*multiply)(int depth, const uint32_t* words, int64_t columns, const float* table,
                   const float* x, int64_t x_stride, int batch, float* sums);

  // As in StripKernels for a strip in pairs.
  void (*look_up)(int depth, const uint32_t* words, int64_t columns, const float* table,
                  float* values);

  // As in StripKernels, but x[j] * scale[j] in pairs is rounded to BF16, to nearest even: two
  // columns stand in the place of a float, and a last column without a partner is followed by 0.
  // Where `out` points to afterwards is not defined.
  float (*split)(int64_t columns, const uint8_t* depth, const float* scale, const float* mean,
                 const float* x, uint32_t depths, float** out);
};

extern const StripKernels kStripKernelsBaseline;
extern const StripKernels kStripKernelsAvx2;
extern const StripKernels kStripKernelsAvx512;
extern const PairKernels kPairKernelsAvx512Bf16;

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_PACKED_STRIP_H_
