// Quick quantisation jobs on the example models.
#ifndef CVXQ_TESTS_PIPELINE_QUANTIZE_JOB_H_
#define CVXQ_TESTS_PIPELINE_QUANTIZE_JOB_H_

#include <filesystem>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "pipeline/quantize.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {

inline std::string Example(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/examples/models/" + name;
}
inline constexpr const char* kModels[] = {"kjv-llama-1m", "kjv-opt-1m"};

// A quick run: 8 sequences of 32 tokens, `lloyd`.
inline QuantizeOptions Quick(const std::string& model, const std::string& output) {
  QuantizeOptions options;
  options.model = Example(model);
  options.output = output;
  options.codec = CodecKind::kLloyd;
  options.calibration.samples = 8;
  options.calibration.seq_len = 32;
  return options;
}

class QuantizeJob : public testing::Test {
 protected:
  StatusOr<QuantizeReport> Run(QuantizeOptions options) {
    options.overwrite = true;
    figures_.clear();
    Progress progress({.listener = [this](const ProgressUpdate& update) {
      if (update.kind != ProgressUpdate::Kind::kFigure) return;
      figures_[std::string(update.note)] = update.value;
    }});
    return Quantize(options, progress);
  }
  std::string Out(const std::string& name = "out") const { return scratch_.path() + "/" + name; }
  int64_t OutBytes() const {
    int64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(Out())) bytes += entry.file_size();
    return bytes;
  }

  ScratchFolder scratch_;
  std::map<std::string, double> figures_;  // as told last
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_PIPELINE_QUANTIZE_JOB_H_
