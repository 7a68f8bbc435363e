#include "pipeline/output_guard.h"

#include <algorithm>
#include <filesystem>

#include "nlohmann/json.hpp"
#include "pipeline/export.h"
#include "storage/files.h"
#include "storage/folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

// Whether this program wrote the folder: an export's report is there, or config.json says so.
bool IsOurs(const std::string& folder) {
  std::error_code error;
  if (fs::exists(folder + "/" + kExportReportName, error)) return true;
  const StatusOr<std::string> text = ReadFile(folder + "/config.json");
  if (!text.ok()) return false;
  const auto config = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return false;
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || !quantization->is_object()) return false;
  const auto method = quantization->find("quant_method");
  return method != quantization->end() && *method == "cvxq";
}

// Outputs in buckets replace nothing; within a model, or around one, they would confuse it.
Status CheckBucketOutput(const std::string& model, const std::string& output) {
  const std::string inner = output + "/", outer = model + "/";
  if (!inner.starts_with(outer) && !outer.starts_with(inner)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the output ", output, " lies at, in or around the model ", model, "; choose another name"));
}

}  // namespace

Status CheckOutput(const std::string& model, const std::string& output, bool overwrite) {
  if (IsBucketAddress(model) || IsBucketAddress(output)) {
    return CheckBucketOutput(model, output);
  }
  std::error_code error;
  const fs::path model_path = fs::canonical(model, error);
  if (error) return absl::OkStatus();  // there is no model to lose
  const fs::path output_path = fs::weakly_canonical(output, error);
  if (!error &&
      std::mismatch(output_path.begin(), output_path.end(), model_path.begin(), model_path.end())
              .first == output_path.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", output, output_path == model_path ? " is " : " would replace ",
                     "the model's own folder ", model, "; choose another name"));
  }
  if (!overwrite || !fs::is_directory(output, error) || fs::is_empty(output, error) ||
      IsOurs(output)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot replace ", output,
                   ": --overwrite is for empty folders and for what cvxq wrote, and this is "
                   "neither; choose another name or remove it yourself"));
}

}  // namespace cvxq
