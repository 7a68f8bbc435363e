#include "formats/ggml_types.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "formats/float_codes.h"
#include "formats/ggml_fit.h"
#include "formats/ggml_layout.h"

namespace cvxq {
namespace {

constexpr int kQ8_0 = 8, kMxfp4 = 39, kNvfp4 = 40;

class DenseType final : public GgmlType {
 public:
  DenseType(std::string name, int id, DType dtype)
      : name_(std::move(name)), id_(id), dtype_(dtype) {}

  std::string name() const override { return name_; }
  int id() const override { return id_; }
  std::optional<DType> dense() const override { return dtype_; }
  int64_t block_bytes() const override { return ByteSize(dtype_); }
  int64_t Bytes(int64_t rows, int64_t columns) const override {
    return rows * columns * ByteSize(dtype_);
  }

 private:
  const std::string name_;
  const int id_;
  const DType dtype_;
};

// Between the code of a level and the bits that are stored for it.
uint8_t StoredBits(int id, uint8_t code) {
  if (id == kMxfp4 || id == kNvfp4) return E2M1Bits(code);
  return id == kQ8_0 ? code ^ 0x80 : code;
}
uint8_t CodeOfBits(int id, uint8_t bits) {
  if (id == kMxfp4 || id == kNvfp4) return static_cast<uint8_t>(E2M1Code(bits));
  return id == kQ8_0 ? bits ^ 0x80 : bits;
}

std::vector<float> LevelsOf(int id) {
  std::vector<float> levels;
  const ScaleSearch* search = SearchOf(id);
  if (search == nullptr) {
    for (const float level : kE2M1Levels) levels.push_back(2 * level);
  } else if (search->levels == LevelKind::kIq4) {
    levels.assign(std::begin(kIq4Levels), std::end(kIq4Levels));
  } else {
    for (int q = search->lowest; q <= search->highest; ++q) {
      levels.push_back(static_cast<float>(q));
    }
  }
  return levels;
}

class GridType final : public GgmlType {
 public:
  explicit GridType(int id) : layout_(LayoutOf(id)), levels_(LevelsOf(id)) {
    for (const FieldRun& run : layout_.fields) field_bytes_ += run.bytes;
    const ScaleSearch* search = SearchOf(id);
    if (search != nullptr && search->levels == LevelKind::kUniform) lowest_ = search->lowest;
    has_offset_ = search != nullptr && search->has_offset;
  }

  std::string name() const override { return std::string(layout_.name); }
  int id() const override { return layout_.id; }
  int64_t block_bytes() const override { return layout_.block_bytes; }
  int64_t Bytes(int64_t rows, int64_t columns) const override {
    const int64_t scale = id() == kNvfp4 ? sizeof(float) : 0;  // the tensor beside it
    return rows * (columns / layout_.block) * layout_.block_bytes + scale;
  }
  int64_t block() const override { return layout_.block; }
  int64_t sub() const override { return layout_.sub; }
  int64_t field_bytes() const override { return field_bytes_; }
  bool has_offset() const override { return has_offset_; }
  std::span<const float> levels() const override { return levels_; }
  std::optional<int> uniform() const override { return lowest_; }

  float MatrixScale(float largest) const override {
    if (id() != kNvfp4) return 1;
    const float scale = largest / (6 * kE4M3Most);
    return scale > 0x1p-100f ? scale : 1;
  }

  void Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale, uint8_t* fields,
           float* step, float* offset) const override {
    FitFields(layout_, ScaleSearchHere(), x, weight, blocks, matrix_scale, fields);
    Grids(fields, blocks, matrix_scale, step, offset);
  }

  void Grids(const uint8_t* fields, int64_t blocks, float matrix_scale, float* step,
             float* offset) const override {
    const int subs = layout_.block / layout_.sub;
    for (int64_t b = 0; b < blocks; ++b) {
      layout_.grids(fields + b * field_bytes_, step + b * subs,
                    has_offset_ ? offset + b * subs : nullptr);
    }
    if (id() != kNvfp4) return;
    for (int64_t i = 0; i < blocks * subs; ++i) step[i] *= matrix_scale;
  }

  void Pack(const uint8_t* fields, const uint8_t* codes, int64_t blocks,
            uint8_t* bytes) const override {
    uint8_t bits[256];
    for (int64_t b = 0; b < blocks; ++b) {
      for (int e = 0; e < layout_.block; ++e) bits[e] = StoredBits(id(), *codes++);
      PackBlock(layout_, fields + b * field_bytes_, bits, bytes + b * layout_.block_bytes);
    }
  }

  void Unpack(const uint8_t* bytes, int64_t blocks, uint8_t* fields,
              uint8_t* codes) const override {
    for (int64_t b = 0; b < blocks; ++b) {
      UnpackBlock(layout_, bytes + b * layout_.block_bytes, fields + b * field_bytes_, codes);
      for (int e = 0; e < layout_.block; ++e, ++codes) *codes = CodeOfBits(id(), *codes);
    }
  }

 private:
  const GgmlLayout& layout_;
  const std::vector<float> levels_;
  int64_t field_bytes_ = 0;
  std::optional<int> lowest_;
  bool has_offset_ = false;
};

std::vector<const GgmlType*> MakeTypes() {
  std::vector<const GgmlType*> types = {new DenseType("f32", 0, DType::kF32),
                                        new DenseType("f16", 1, DType::kF16),
                                        new DenseType("bf16", 30, DType::kBF16)};
  for (const int id : {kQ8_0, 14, 13, 12, 11, 10, 23, 20, kMxfp4, kNvfp4, 2, 3, 6, 7}) {
    types.push_back(new GridType(id));
  }
  return types;
}

}  // namespace

std::span<const GgmlType* const> GgmlTypes() {
  static const std::vector<const GgmlType*>& types = *new std::vector<const GgmlType*>(MakeTypes());
  return types;
}

const GgmlType* FindGgmlType(std::string_view name) {
  for (const GgmlType* type : GgmlTypes()) {
    if (type->name() == name) return type;
  }
  return nullptr;
}

const GgmlType* FindGgmlType(int id) {
  for (const GgmlType* type : GgmlTypes()) {
    if (type->id() == id) return type;
  }
  return nullptr;
}

}  // namespace cvxq
