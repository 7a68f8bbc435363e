// An export's report as the JSON that lies beside the files.
#include "pipeline/export.h"

namespace cvxq {

nlohmann::ordered_json ExportReport::ToJson() const {
  nlohmann::ordered_json json;
  json["output"] = output;
  json["format"] = format;
  json["calibration"] = calibration;
  json["file_bytes"] = file_bytes;
  json["asked_bytes"] = asked_bytes ? nlohmann::ordered_json(*asked_bytes) : nullptr;
  json["least_step_bytes"] = least_step_bytes;
  json["most_step_bytes"] = most_step_bytes;
  json["bits_per_weight"] = bits_per_weight;
  json["log2_lambda"] = log2_lambda;
  json["predicted_distortion"] = predicted_distortion;
  json["measured_distortion"] = measured_distortion;
  json["kl"] = kl ? nlohmann::ordered_json(*kl) : nullptr;
  json["uniform"] = nullptr;
  if (uniform_kl) {
    json["uniform"] = {{"type", uniform}, {"file_bytes", *uniform_bytes}, {"kl", *uniform_kl}};
  }
  json["fell_back"] = fell_back;
  json["notes"] = notes;
  for (const auto& [phase, time] : seconds) json["seconds"][phase] = time;
  json["sha256"] = sha256;
  json["matrices"] = nlohmann::ordered_json::array();
  for (const Matrix& matrix : matrices) {
    json["matrices"].push_back({{"name", matrix.name},
                                {"type", matrix.type},
                                {"rows", matrix.rows},
                                {"columns", matrix.columns},
                                {"bytes", matrix.bytes},
                                {"predicted_distortion", matrix.predicted_distortion},
                                {"measured_distortion", matrix.measured_distortion}});
    if (!matrix.fallback.empty()) json["matrices"].back()["fallback"] = matrix.fallback;
  }
  return json;
}

}  // namespace cvxq
