// Quantising a model on one machine, end to end: checkpoint folder in, packed folder out.
//
//   open -> calibration -> gradients -> groups -> input moments -> (allocate -> code)*
//   -> tune, if asked for -> write
//
// The loop runs until the bytes of the output meet the target: side information is known
// only after coding.
#ifndef CVXQ_PIPELINE_QUANTIZE_H_
#define CVXQ_PIPELINE_QUANTIZE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "pipeline/calibration.h"
#include "pipeline/gradients.h"
#include "pipeline/stages.h"
#include "quant/feedback.h"

namespace cvxq {

struct QuantizeReport;

enum class CodecKind : uint8_t { kCompanded, kLloyd, kEntropy, kRtn, kGptq, kAwq, kOwq };
enum class ComputeKind : uint8_t { kAuto, kF32, kBF16 };  // kAuto: BF16 where it is fast and exact

struct QuantizeOptions {
  std::string model, output;
  bool overwrite = false;

  std::optional<double> bits;   // per quantised weight (rtn, gptq, awq, owq: the width of a code);
                                // exactly one of bits and size
  std::optional<int64_t> size;  // bytes of the output folder
  bool nominal = false;         // bits counts codes only

  CodecKind codec = CodecKind::kEntropy;
  Objective objective = Objective::kFisher;
  std::optional<Estimator> estimator;  // default: labels for fisher, signs for hidden
  CalibrationOptions calibration;
  std::optional<int64_t> grad_samples;  // default: all with two-sided feedback, else 32
  int64_t stride = 0;
  int64_t iterations = 1;
  Partition partition = Partition::kColumns;
  std::optional<int64_t> group_rows;  // cluster size; default by codec
  int64_t group = 128;                // columns that share a scale; rtn, gptq, awq, owq
  std::optional<Feedback> feedback;   // default by codec
  double damping = 0.01;              // of H_I, as a share of the mean of its diagonal
  double shrinkage = 0.1;             // of H_O towards that mean

  int64_t tune = 0;  // epochs of tuning what stays unquantised, after coding

  ComputeKind compute = ComputeKind::kAuto;
  int threads = 0;                // 0: all that this process may use
  BackendKind backend = BackendKind::kAuto;
  int64_t workers = 1;            // stages that work at the same time, with their share of both
  int64_t replicas = 0;           // of the stages, each for a share of the samples; 0: as it pays
  MakeStages make_stages;         // given: in place of stages in this process
  // Given: with what the stages of make_stages would compute; nullopt: none are to be had.
  std::function<StatusOr<std::optional<Numerics>>()> stage_numerics;
  std::optional<int64_t> memory;  // bytes for what may else be spilled or streamed

  // Folder or s3:// address that what is done is kept at until the output is there: the same job
  // begun again, after a crash or an interruption, goes on from there. Empty: nowhere. Written
  // about so often (save_clock.h), and before tuning; 0: after each step.
  std::string state;
  double save_seconds = 60;

  // Called once the output is complete and before it appears under its name, with the whole report
  // (but for the time that appearing takes). An error is returned by Quantize, and nothing appears.
  std::function<Status(const QuantizeReport&)> before_publish;
};

struct LayerReport {
  std::string name;
  int64_t rows = 0, columns = 0;
  double bits_per_weight = 0, predicted_distortion = 0;
  std::array<int64_t, kMaxDepth + 1> depth_histogram{};  // weights at each depth
};

struct QuantizeReport {
  std::string output, codec, calibration, backend, numerics_class;
  int64_t parameters = 0, quantized_parameters = 0;
  double bits_per_weight = 0, nominal_bits_per_weight = 0, file_bits = 0;
  int64_t file_bytes = 0;  // of the output folder
  double log2_lambda = 0, zero_fraction = 0;
  int64_t iterations = 0, coding_passes = 0, tune_epochs = 0;
  std::vector<std::pair<std::string, double>> seconds;  // by phase, then "total"
  std::vector<std::string> notes;  // what was out of the ordinary, such as damping that was raised
  int64_t peak_memory_bytes = 0;
  std::map<std::string, std::string> sha256;  // by file
  std::vector<LayerReport> layers;

  nlohmann::ordered_json ToJson() const;
};

// kInvalidArgument for options that cannot be met (an impossible rate says what is possible),
// kAlreadyExists for the output, kCancelled if interrupted, otherwise as the parts say. Nothing is
// left under the output's name unless it is complete.
StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options, Progress& progress);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_QUANTIZE_H_
