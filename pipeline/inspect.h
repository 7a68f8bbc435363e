// What a model folder holds: its architecture, and for a packed one how the bits were spent.
#ifndef CVXQ_PIPELINE_INSPECT_H_
#define CVXQ_PIPELINE_INSPECT_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/packed_matrix.h"
#include "nlohmann/json.hpp"

namespace cvxq {

struct InspectLinear {
  std::string name;
  int64_t rows = 0, columns = 0, bytes = 0;
  double bits_per_weight = 0, nominal_bits_per_weight = 0, zero_fraction = 0;
  std::array<int64_t, kMaxDepth + 1> depth_histogram{};  // weights at each depth
};

struct InspectReport {
  std::string model, family, dtype;  // dtype of the dense tensors (the commonest)
  bool packed = false;
  nlohmann::json quantization_config;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, vocabulary = 0, max_positions = 0;
  int64_t parameters = 0, quantized_parameters = 0, file_bytes = 0;
  double bits_per_weight = 0, nominal_bits_per_weight = 0, file_bits = 0;
  std::vector<InspectLinear> linears;

  nlohmann::ordered_json ToJson() const;
  std::string ToText() const;  // tables and a histogram, for people
};

StatusOr<InspectReport> Inspect(const std::string& model);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_INSPECT_H_
