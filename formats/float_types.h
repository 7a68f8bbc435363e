// The small floats of compressed-tensors as types: E4M3 with a scale for each row, and E2M1 in
// blocks of 16 or 32 columns with the scales of NVFP4 and MXFP4.
#ifndef CVXQ_FORMATS_FLOAT_TYPES_H_
#define CVXQ_FORMATS_FLOAT_TYPES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "formats/weight_type.h"

namespace cvxq {

// E4M3, called "fp8". Fields of a row: the scale's bits, F16 or BF16. Codes are those of
// float_codes.h. As with integers, engines round the product to the scale's type.
class Fp8Type : public WeightType {
 public:
  Fp8Type(int64_t columns, DType scale) : columns_(columns), scale_(scale) {}

  DType scale() const { return scale_; }
  std::string name() const override { return "fp8"; }
  int64_t Bytes(int64_t rows, int64_t columns) const override { return rows * (columns + 2); }
  int64_t block() const override { return columns_; }
  int64_t field_bytes() const override { return 2; }
  std::span<const float> levels() const override;
  void Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale, uint8_t* fields,
           float* step, float* offset) const override;
  void Grids(const uint8_t* fields, int64_t blocks, float matrix_scale, float* step,
             float* offset) const override;

 private:
  const int64_t columns_;
  const DType scale_;
};

// E2M1 with the grids and the search of GGUF's types of the same names, whose blocks may be longer.
// Fields of a block: its scale, E4M3 ("nvfp4", 16 columns) or E8M0 ("mxfp4", 32).
class Fp4Type : public WeightType {
 public:
  // nvfp4 has a scale for the whole matrix, a power of two, so that it does not matter whether an
  // engine multiplies by it or divides by its inverse. Matrices that share it give the `largest`
  // |w| of all.
  enum class Kind : uint8_t { kNvfp4, kMxfp4 };
  explicit Fp4Type(Kind kind, std::optional<float> largest = std::nullopt);

  Kind kind() const { return kind_; }
  std::string name() const override { return kind_ == Kind::kNvfp4 ? "nvfp4" : "mxfp4"; }
  int64_t Bytes(int64_t rows, int64_t columns) const override;
  int64_t block() const override { return kind_ == Kind::kNvfp4 ? 16 : 32; }
  int64_t field_bytes() const override { return 1; }
  std::span<const float> levels() const override { return base_.levels(); }
  float MatrixScale(float largest) const override;
  void Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale, uint8_t* fields,
           float* step, float* offset) const override;
  void Grids(const uint8_t* fields, int64_t blocks, float matrix_scale, float* step,
             float* offset) const override;

 private:
  const Kind kind_;
  const WeightType& base_;
  const std::optional<float> largest_;
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_FLOAT_TYPES_H_
