// The types in which engines store matrices: how a row is cut into blocks that share scales, which
// values a block can hold, and how many bytes that takes. A type is either dense (F16, BF16, F32)
// or a grid: every weight is one of a few levels, on a scale that its block stores.
#ifndef CVXQ_FORMATS_WEIGHT_TYPE_H_
#define CVXQ_FORMATS_WEIGHT_TYPE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace cvxq {

// Immutable; every member may be called from any thread. Types live as long as the program, or as
// the format that made them.
class WeightType {
 public:
  virtual ~WeightType() = default;

  virtual std::string name() const = 0;  // as --menu has it: q4_k, int4, nvfp4, bf16
  // Of a dense type, its elements'; what follows below is of grids alone.
  virtual std::optional<DType> dense() const { return std::nullopt; }
  // Bytes of a matrix in the file, with all that belongs to it (scales beside it, padding not).
  virtual int64_t Bytes(int64_t rows, int64_t columns) const = 0;
  // Whether rows of so many columns can be cut into its blocks.
  virtual bool Fits(int64_t columns) const { return columns % block() == 0; }

  virtual int64_t block() const { return 1; }        // columns that share the fields of a block
  virtual int64_t sub() const { return block(); }    // columns that share step and offset
  virtual int64_t field_bytes() const { return 0; }  // of a block: all but the codes
  virtual bool has_offset() const { return false; }
  // Code k stands for step * level[k] + offset. Ascending, at most 256.
  virtual std::span<const float> levels() const { return {}; }
  // The first level, where each is one more than the one before.
  virtual std::optional<int> uniform() const { return std::nullopt; }

  // A scale of the whole matrix, for types that have one; given the largest |w|.
  virtual float MatrixScale(float /*largest*/) const { return 1; }

  // Chooses the fields of `blocks` neighbouring blocks of one row: those of about the least sum of
  // weight (x - value)^2, with the value nearest to each x [blocks * block()]. weight: as many,
  // none negative; where all of a block are 0 they count the same. Writes fields [blocks,
  // field_bytes()], and the grids they stand for: step, offset [blocks * block() / sub()], as Grids
  // gives them. x must be finite. offset may be nullptr for types without.
  virtual void Fit(const float* /*x*/, const float* /*weight*/, int64_t /*blocks*/,
                   float /*matrix_scale*/, uint8_t* /*fields*/, float* /*step*/,
                   float* /*offset*/) const {}
  // The grids that fields stand for, exactly as engines compute them.
  virtual void Grids(const uint8_t* /*fields*/, int64_t /*blocks*/, float /*matrix_scale*/,
                     float* /*step*/, float* /*offset*/) const {}
};

// A matrix on the grids of one type:
//   w[r, c] = step[r, c / sub] * level[codes[r, c]] + offset[r, c / sub]
// in float, the product rounded and then the sum.
struct GridMatrix {
  const WeightType* type = nullptr;
  int64_t rows = 0, columns = 0;    // M, N
  float matrix_scale = 1;           // in step and offset already
  std::vector<uint8_t> fields;      // [M, N / block, field_bytes]
  std::vector<float> step, offset;  // [M, N / sub]; offset is empty where the type has none
  std::vector<uint8_t> codes;       // [M, N], indices of levels
  double distortion = 0;            // sum of D_O D_I (rounding error)^2; see grid_coder.h
};

// The plain decoder: w[M, N].
std::vector<float> Decode(const GridMatrix& matrix);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_WEIGHT_TYPE_H_
