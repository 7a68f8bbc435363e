// Integers of 2 to 8 bits with a scale, and perhaps a zero point, for each group of columns: what
// compressed-tensors, GPTQ and AWQ store.
//
// A weight is (code - zero) * scale. In a GridMatrix that product is exact, since both factors are
// short. Engines hold weights in 16 bits and round the product to the scale's type before they
// multiply by it; so does what reads these formats back (quantized_checkpoint.h).
#ifndef CVXQ_FORMATS_INT_TYPES_H_
#define CVXQ_FORMATS_INT_TYPES_H_

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/weight_type.h"

namespace cvxq {

struct IntSpec {
  int bits = 4;
  bool symmetric = true;       // codes around 0 and no zero point, else 0 .. 2^bits - 1
  int64_t group = 64;          // columns
  bool channel = false;        // the group is a whole row
  DType scale = DType::kBF16;  // or F16
};

// The number of groups in a row.
inline int64_t GroupsOf(const IntSpec& spec, int64_t columns) { return columns / spec.group; }

// What a menu calls integers: "int4", and "int4a" if asymmetric, each perhaps with "_g32",
// "_g64", "_g128" (groups of so many columns) or "_channel" behind it.
struct IntName {
  int bits = 0;
  bool symmetric = true;
  std::optional<int64_t> group;  // columns, 0 for whole rows; nullopt: not said
};
std::optional<IntName> ParseIntName(std::string_view name);
// The type that a matrix of so many columns gets; a group below 1, and one that does not divide the
// columns, is the whole row. Its name says so.
struct NamedIntSpec {
  std::string name;
  IntSpec spec;
};
NamedIntSpec SpecFor(const IntName& name, int64_t group, int64_t columns, DType scale);
// Adds why a matrix has whole rows where groups were asked for, if it has.
void NoteWholeRows(int64_t asked, const NamedIntSpec& named, int64_t columns,
                   std::set<std::string>& reasons);

// Fields of a block: the scale's bits (two bytes, little-endian), then, if asymmetric, the zero
// point (a byte). A scale is never 0; that of symmetric integers may be negative.
class IntType : public WeightType {
 public:
  // Bytes of a matrix in the format that the type is for.
  using CountBytes = int64_t (*)(const IntSpec& spec, int64_t rows, int64_t columns);

  IntType(std::string name, const IntSpec& spec, CountBytes count);

  const IntSpec& spec() const { return spec_; }
  std::string name() const override { return name_; }
  int64_t Bytes(int64_t rows, int64_t columns) const override {
    return count_(spec_, rows, columns);
  }
  int64_t block() const override { return spec_.group; }
  int64_t field_bytes() const override { return spec_.symmetric ? 2 : 3; }
  bool has_offset() const override { return !spec_.symmetric; }
  std::span<const float> levels() const override { return levels_; }
  std::optional<int> uniform() const override { return static_cast<int>(levels_[0]); }
  void Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale, uint8_t* fields,
           float* step, float* offset) const override;
  void Grids(const uint8_t* fields, int64_t blocks, float matrix_scale, float* step,
             float* offset) const override;

 private:
  const std::string name_;
  const IntSpec spec_;
  const CountBytes count_;
  std::vector<float> levels_;
};

// The scale and the zero point (0 if symmetric) in a block's fields.
uint16_t ScaleField(const uint8_t* fields);
inline uint8_t ZeroField(const uint8_t* fields) { return fields[2]; }

}  // namespace cvxq

#endif  // CVXQ_FORMATS_INT_TYPES_H_
