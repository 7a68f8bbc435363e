// The bytes of a scaled matrix on disk: one tensor "<linear>.scaled" of type U8 for each linear in
// an ordinary safetensors file, plus "cvxq.entropy" (entropy_tables.h), shared by the whole model.
// docs/packed_format.md draws the file; this is one scaled matrix, little-endian, where a *count*
// is an unsigned number in groups of 7 bits from the lowest, with 128 added to all bytes but the
// last:
//
//   0   u8     log2 of the scale steps
//   1   f32    gain
//   5   count  rows M, columns N, rows after which the trellis starts anew T (below M; 0: never),
//              bytes of the classes C, bytes of the scales S (those here)
//       classes, C bytes, one range-coded stream (range_coder.h): row classes, column classes
//       scales, S bytes: the end of another such stream: row scales, column scales. It begins in
//         the seeds of the chunks (rans.h), two bytes a lane; S = 0 if it ends there
//       for each chunk (rans.h):
//         count  words W, bytes of escapes E
//         words, 2 W bytes; escapes, E bytes
//         u32    CRC-32 of everything since the CRC before, or since the beginning
//
// A sequence of classes v: a plain bit that tells the mode, a first guess + 64 (plain, 7 bits), and
// for each its difference to the guess (mode 0) or to the one before (mode 1; first: to the guess).
// Scales: a plain bit, the lean s (plain, 3 bits), a first guess + 2048 (plain, 12 bits), and the
// same of  index + round(s * class * steps / 16),  as larger scales go with smaller integers.
#ifndef CVXQ_QUANT_SCALED_FORMAT_H_
#define CVXQ_QUANT_SCALED_FORMAT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/scaled_matrix.h"
#include "quant/entropy_tables.h"
#include "quant/scaled_codes.h"

namespace cvxq {

// Of codes whose fields are all set, within their limits. `pool` may be null; the bytes do not
// depend on it.
std::vector<uint8_t> SerializeScaledMatrix(const ScaledCodes& codes, const EntropyTables& tables,
                                           ThreadPool* pool = nullptr);

// The size of that, exactly, without memory for the bytes; hardly faster. An estimate within the
// side information is the sum of EntropyTables::Cost.
int64_t ScaledMatrixBytes(const ScaledCodes& codes, const EntropyTables& tables,
                          ThreadPool* pool = nullptr);

// The inverse, for a matrix that must be [rows, columns]. Every lie in the bytes (length, checksum,
// range, shape) is kDataLoss and names the chunk; no input makes it read out of range, run for
// longer than its bytes and shape warrant, or allocate more than a few bytes for each of these.
StatusOr<ScaledMatrix> ParseScaledMatrix(std::span<const uint8_t> bytes,
                                         const EntropyTables& tables, int64_t rows, int64_t columns,
                                         ThreadPool* pool = nullptr);

}  // namespace cvxq

#endif  // CVXQ_QUANT_SCALED_FORMAT_H_
