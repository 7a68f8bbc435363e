// What a model folder holds: its architecture, and for a packed one how the bits were spent.
#ifndef CVXQ_PIPELINE_INSPECT_H_
#define CVXQ_PIPELINE_INSPECT_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/packed_matrix.h"
#include "nlohmann/json.hpp"
#include "pipeline/packed_weights.h"

namespace cvxq {

struct InspectLinear {
  std::string name;
  LinearForm form{};
  int64_t rows = 0, columns = 0, bytes = 0, code_bytes = 0;
  // Nominal bits are those of codes alone; in the scaled form codes and all else cannot be told
  // apart, and all of it counts.
  double bits_per_weight = 0, nominal_bits_per_weight = 0, zero_fraction = 0;
  std::array<int64_t, kMaxDepth + 1> depth_histogram{};  // packed: weights at each depth
  int width = 0;                                         // affine: bits of a code
  int64_t group = 0, kept_columns = 0;                   // affine
};

struct InspectReport {
  std::string model, family, dtype;  // dtype of the dense tensors (the commonest)
  std::string revision;              // as Folder::Revision
  bool packed = false;
  nlohmann::json quantization_config;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, vocabulary = 0, max_positions = 0;
  int64_t parameters = 0, quantized_parameters = 0, file_bytes = 0;
  double bits_per_weight = 0, nominal_bits_per_weight = 0, file_bits = 0;
  std::vector<InspectLinear> linears;
  std::map<std::string, int64_t> linears_by_scheme;  // of another tool's format: how many

  nlohmann::ordered_json ToJson() const;
  std::string ToText() const;  // tables and a histogram, for people
};

StatusOr<InspectReport> Inspect(const std::string& model);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_INSPECT_H_
