#include "formats/compressed_layouts.h"
#include "formats/float_codes.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

class Fp8 : public CompressedLayout {
 public:
  Fp8(int64_t columns, DType scale) : type_(columns, scale) {}

  const WeightType& type() const override { return type_; }
  std::string format() const override { return "float-quantized"; }

  ordered_json weights() const override {
    return {{"num_bits", 8},
            {"type", "float"},
            {"symmetric", true},
            {"strategy", "channel"},
            {"dynamic", false}};
  }

  std::vector<TensorEntry> Tensors(const std::string& linear, int64_t rows,
                                   int64_t columns) const override {
    return {{linear + ".weight", DType::kF8E4M3, {rows, columns}},
            {linear + ".weight_scale", type_.scale(), {rows, 1}}};
  }

  Status Append(const GridMatrix& grid, const SafetensorsFolder::Append& append) const override {
    std::vector<uint8_t> bits(grid.codes.size());
    for (size_t i = 0; i < bits.size(); ++i) bits[i] = E4M3Bits(grid.codes[i]);
    CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(bits))));
    return append(std::as_bytes(std::span(grid.fields)));
  }

 private:
  const Fp8Type type_;
};

class Fp4 : public CompressedLayout {
 public:
  Fp4(Fp4Type::Kind kind, std::optional<float> largest) : type_(kind, largest) {}

  const WeightType& type() const override { return type_; }
  std::string format() const override { return type_.name() + "-pack-quantized"; }

  ordered_json weights() const override {
    return {{"num_bits", 4},
            {"type", "float"},
            {"symmetric", true},
            {"strategy", nvfp4() ? "tensor_group" : "group"},
            {"group_size", type_.block()},
            {"dynamic", false},
            {"scale_dtype", nvfp4() ? "torch.float8_e4m3fn" : "torch.uint8"}};
  }

  std::vector<TensorEntry> Tensors(const std::string& linear, int64_t rows,
                                   int64_t columns) const override {
    std::vector<TensorEntry> tensors = {
        {linear + ".weight_packed", DType::kU8, {rows, columns / 2}},
        {linear + ".weight_scale",
         nvfp4() ? DType::kF8E4M3 : DType::kU8,
         {rows, columns / type_.block()}}};
    if (nvfp4()) tensors.push_back({linear + ".weight_global_scale", DType::kF32, {1}});
    return tensors;
  }

  Status Append(const GridMatrix& grid, const SafetensorsFolder::Append& append) const override {
    std::vector<uint8_t> packed(grid.codes.size() / 2);
    for (size_t i = 0; i < packed.size(); ++i) {
      const uint8_t low = E2M1Bits(grid.codes[2 * i]), high = E2M1Bits(grid.codes[2 * i + 1]);
      packed[i] = static_cast<uint8_t>(low | high << 4);
    }
    CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(packed))));
    CVXQ_RETURN_IF_ERROR(append(std::as_bytes(std::span(grid.fields))));
    if (!nvfp4()) return absl::OkStatus();
    const float divisor = 1 / grid.matrix_scale;
    return append(std::as_bytes(std::span(&divisor, 1)));
  }

 private:
  bool nvfp4() const { return type_.kind() == Fp4Type::Kind::kNvfp4; }

  const Fp4Type type_;
};

}  // namespace

std::unique_ptr<CompressedLayout> Fp8Layout(int64_t columns, DType scale) {
  return std::make_unique<Fp8>(columns, scale);
}

std::unique_ptr<CompressedLayout> Fp4Layout(Fp4Type::Kind kind, std::optional<float> largest) {
  return std::make_unique<Fp4>(kind, largest);
}

}  // namespace cvxq
