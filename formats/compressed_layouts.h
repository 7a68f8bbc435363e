// The types of compressed-tensors: for each, its tensors in a file, and how a config describes it.
//
// pack-quantized, integers of 2 to 8 bits:
//   weight_packed      I32 [M, ceil(N bits / 32)]       codes from 0, densely, lowest bits first
//   weight_scale       F16 or BF16 [M, groups]
//   weight_shape       I64 [2]                          M, N
//   weight_zero_point  I32 [ceil(M bits / 32), groups]  if asymmetric; packed along the rows
// Codes cross words, as versions from 0.18 on have it; older ones differ for 3, 5, 6 and 7 bits.
//
// float-quantized, E4M3:
//   weight               F8_E4M3 [M, N]
//   weight_scale         F16 or BF16 [M, 1]
//
// nvfp4-pack-quantized and mxfp4-pack-quantized, E2M1:
//   weight_packed        U8 [M, N / 2]            the even column in the lower four bits
//   weight_scale         F8_E4M3 [M, N / 16], or U8 (E8M0) [M, N / 32]
//   weight_global_scale  F32 [1]                  nvfp4: what scales are divided by
#ifndef CVXQ_FORMATS_COMPRESSED_LAYOUTS_H_
#define CVXQ_FORMATS_COMPRESSED_LAYOUTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/float_types.h"
#include "formats/int_types.h"
#include "formats/safetensors_folder.h"
#include "formats/weight_type.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// Immutable. Two layouts whose types have the same name are described alike.
class CompressedLayout {
 public:
  virtual ~CompressedLayout() = default;
  virtual const WeightType& type() const = 0;
  virtual std::string format() const = 0;              // "pack-quantized"
  virtual nlohmann::ordered_json weights() const = 0;  // of a group's description
  // The tensors of a linear of this name, in the order in which Append gives their bytes.
  virtual std::vector<TensorEntry> Tensors(const std::string& linear, int64_t rows,
                                           int64_t columns) const = 0;
  virtual Status Append(const GridMatrix& grid, const SafetensorsFolder::Append& append) const = 0;
};

std::unique_ptr<CompressedLayout> PackedIntLayout(const NamedIntSpec& spec);
std::unique_ptr<CompressedLayout> Fp8Layout(int64_t columns, DType scale);
std::unique_ptr<CompressedLayout> Fp4Layout(Fp4Type::Kind kind,
                                            std::optional<float> largest = std::nullopt);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_COMPRESSED_LAYOUTS_H_
