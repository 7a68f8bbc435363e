#include "pipeline/quantize.h"

namespace cvxq {

nlohmann::ordered_json QuantizeReport::ToJson() const {
  nlohmann::ordered_json json = {{"output", output},
                                 {"codec", codec},
                                 {"calibration", calibration},
                                 {"parameters", parameters},
                                 {"quantized_parameters", quantized_parameters},
                                 {"bits_per_weight", bits_per_weight},
                                 {"nominal_bits_per_weight", nominal_bits_per_weight},
                                 {"file_bits", file_bits},
                                 {"file_bytes", file_bytes},
                                 {"log2_lambda", log2_lambda},
                                 {"zero_fraction", zero_fraction},
                                 {"iterations", iterations},
                                 {"coding_passes", coding_passes},
                                 {"tune_epochs", tune_epochs},
                                 {"notes", notes}};
  for (const auto& [phase, time] : seconds) json["seconds"][phase] = time;
  json["peak_memory_bytes"] = peak_memory_bytes;
  json["backend"] = backend;
  json["numerics_class"] = numerics_class;
  json["sha256"] = sha256;
  json["layers"] = nlohmann::ordered_json::array();
  for (const LayerReport& layer : layers) {
    json["layers"].push_back({{"name", layer.name},
                              {"rows", layer.rows},
                              {"columns", layer.columns},
                              {"bits_per_weight", layer.bits_per_weight},
                              {"predicted_distortion", layer.predicted_distortion},
                              {"depth_histogram", layer.depth_histogram}});
  }
  return json;
}

}  // namespace cvxq
