#include "formats/compressed_layouts.h"

#include "formats/bit_pack.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kShapeBytes = 16;

std::vector<uint16_t> Scales(const GridMatrix& grid) {
  const int64_t width = grid.type->field_bytes();
  std::vector<uint16_t> scales(grid.fields.size() / width);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = ScaleField(&grid.fields[i * width]);
  return scales;
}

int64_t PackedIntBytes(const IntSpec& spec, int64_t rows, int64_t columns) {
  constexpr int64_t kWordBytes = 4, kScaleBytes = 2;
  const int64_t groups = GroupsOf(spec, columns);
  const int64_t zeros = spec.symmetric ? 0 : WordsFor(rows, spec.bits) * groups;
  return kWordBytes * (rows * WordsFor(columns, spec.bits) + zeros) + kScaleBytes * rows * groups +
         kShapeBytes;
}

class PackedInts : public CompressedLayout {
 public:
  explicit PackedInts(const NamedIntSpec& named)
      : spec_(named.spec), type_(named.name, named.spec, PackedIntBytes) {}

  const WeightType& type() const override { return type_; }
  std::string format() const override { return "pack-quantized"; }

  ordered_json weights() const override {
    ordered_json args = {{"num_bits", spec_.bits},
                         {"type", "int"},
                         {"symmetric", spec_.symmetric},
                         {"strategy", spec_.channel ? "channel" : "group"}};
    if (!spec_.channel) args["group_size"] = spec_.group;
    args["dynamic"] = false;
    return args;
  }

  std::vector<TensorEntry> Tensors(const std::string& linear, int64_t rows,
                                   int64_t columns) const override {
    const int64_t groups = GroupsOf(spec_, columns);
    std::vector<TensorEntry> tensors = {
        {linear + ".weight_packed", DType::kI32, {rows, WordsFor(columns, spec_.bits)}},
        {linear + ".weight_scale", spec_.scale, {rows, groups}},
        {linear + ".weight_shape", DType::kI64, {2}}};
    if (!spec_.symmetric) {
      tensors.push_back(
          {linear + ".weight_zero_point", DType::kI32, {WordsFor(rows, spec_.bits), groups}});
    }
    return tensors;
  }

  Status Append(const GridMatrix& grid, const SafetensorsFolder::Append& append) const override {
    const int64_t words = WordsFor(grid.columns, spec_.bits);
    std::vector<uint32_t> packed(grid.rows * words);
    for (int64_t r = 0; r < grid.rows; ++r) {
      PackCodes(&grid.codes[r * grid.columns], 1, grid.columns, spec_.bits, &packed[r * words], 1);
    }
    CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(packed))));
    const std::vector<uint16_t> scales = Scales(grid);
    CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(scales))));
    const int64_t shape[2] = {grid.rows, grid.columns};
    CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(shape))));
    return spec_.symmetric ? absl::OkStatus() : AppendZeros(grid, append);
  }

 private:
  Status AppendZeros(const GridMatrix& grid, const SafetensorsFolder::Append& append) const {
    const int64_t groups = GroupsOf(spec_, grid.columns);
    std::vector<uint32_t> packed(WordsFor(grid.rows, spec_.bits) * groups);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t width = type_.field_bytes();
      PackCodes(&grid.fields[g * width + 2], groups * width, grid.rows, spec_.bits, &packed[g],
                groups);
    }
    return append(std::as_bytes(std::span(packed)));
  }

  const IntSpec spec_;
  const IntType type_;
};

}  // namespace

std::unique_ptr<CompressedLayout> PackedIntLayout(const NamedIntSpec& spec) {
  return std::make_unique<PackedInts>(spec);
}

}  // namespace cvxq
