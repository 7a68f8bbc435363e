// Exporting a model for other engines: straight from the original checkpoint to a file of an exact
// size in their format, every matrix in the type that the size is spent on best.
//
//   open -> calibration -> gradients -> input moments -> tables -> measure types -> choose
//   -> code and write -> check against the original and against one type everywhere
#ifndef CVXQ_PIPELINE_EXPORT_H_
#define CVXQ_PIPELINE_EXPORT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "formats/export_format.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "pipeline/calibration.h"

namespace cvxq {

enum class ExportFormatKind : uint8_t { kGguf, kCompressedTensors, kGptq, kAwq };

struct ExportOptions {
  std::string model, output;
  bool overwrite = false;
  ExportFormatKind format = ExportFormatKind::kGguf;
  ExportFormatOptions format_options;

  // Exactly one of the three. Bits are those of the matrices that have a choice of types, scales
  // included; bytes those of all files.
  std::optional<double> bits;
  std::optional<int64_t> size;
  std::optional<std::string> uniform;  // one type wherever it can be

  CalibrationOptions calibration;
  // Sequences beyond the calibration's own that the result is measured on; 0: nothing is measured,
  // and nothing compared with one type everywhere.
  int64_t check_samples = 16;
  bool nearest = false;  // with `uniform`: codes nearest to the weights, without any statistics
  double damping = 0.01, shrinkage = 0.1;
  int64_t measured_rows = 1024;  // coded to measure the types of a matrix, where it has many more
  int threads = 0;
  BackendKind backend = BackendKind::kAuto;
  std::optional<int64_t> memory;

  // For tests: what to choose by in place of the distortion of a type of matrix `index` that was
  // measured.
  std::function<double(size_t index, const WeightType& type, double measured)> believe;
};

struct ExportReport {
  struct Matrix {
    std::string name, type, fallback;
    int64_t rows = 0, columns = 0, bytes = 0;
    double predicted_distortion = 0;  // of the choice, nats a token
    double measured_distortion = 0;   // of the matrix as it was written
  };
  std::string output, format, calibration;
  int64_t file_bytes = 0;  // of all files of the model
  std::optional<int64_t> asked_bytes;
  double bits_per_weight = 0;
  // By how much one matrix, or those that are tied, could grow and lose less by the measure: what
  // is left of what was asked is less than the least of it. 0 and 0 where nothing could, or one
  // type everywhere was written.
  int64_t least_step_bytes = 0, most_step_bytes = 0;
  double log2_lambda = 0;
  double predicted_distortion = 0, measured_distortion = 0;
  std::optional<double> kl;  // on the sequences that check
  std::string uniform;       // what it was compared with, if anything
  std::optional<int64_t> uniform_bytes;
  std::optional<double> uniform_kl;
  bool fell_back = false;  // one type everywhere measured better and was written
  std::vector<std::string> notes;
  std::vector<std::pair<std::string, double>> seconds;
  std::vector<Matrix> matrices;
  std::map<std::string, std::string> sha256;

  nlohmann::ordered_json ToJson() const;
};

// The report's name in the output; it does not count in sizes.
inline constexpr char kExportReportName[] = "cvxq_export.json";

// The same files for any number of threads. kInvalidArgument for options that cannot be met (a size
// below the smallest says what is possible), kUnimplemented where the format cannot hold the model,
// kAlreadyExists for the output, kCancelled if interrupted.
StatusOr<ExportReport> Export(const ExportOptions& options, Progress& progress);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_EXPORT_H_
