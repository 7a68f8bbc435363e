#include "service/job_spec.h"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"
#include "service/errors.h"
#include "service/utf8.h"
#include "storage/folder.h"

namespace cvxq {
namespace {

using v1::QuantizeSpec;

constexpr size_t kLongestUri = 4096;
constexpr int kMostInputs = 1000;

bool IsRevision(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Collects what is wrong, by field.
class Checker {
 public:
  void Require(bool good, const std::string& field, const std::string& description) {
    if (!good) violations_.push_back({field, description});
  }
  void Range(const std::string& field, int64_t value, int64_t least, int64_t most) {
    Require(value >= least && value <= most, field,
            absl::StrCat("must be from ", least, " to ", most, ", not ", value));
  }
  void Uri(const std::string& field, const std::string& uri) {
    Require(!uri.empty(), field, "is required");
    Require(uri.size() <= kLongestUri, field,
            absl::StrCat("has ", uri.size(), " bytes; at most ", kLongestUri, " are allowed"));
    const bool control =
        std::any_of(uri.begin(), uri.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    Require(!control, field, "has control characters");
  }
  Status Finish() const {
    return violations_.empty() ? absl::OkStatus() : BadRequestError(violations_);
  }

 private:
  std::vector<FieldViolation> violations_;
};

constexpr int64_t kMillion = 1'000'000;
const std::string kSpec = "quantize_model_job.spec";

void CheckTarget(const QuantizeSpec& spec, Checker& check) {
  switch (spec.target_case()) {
    case QuantizeSpec::kBits:
      check.Require(spec.bits() > 0 && spec.bits() <= 8, kSpec + ".bits",
                    "must be above 0 and at most 8");
      break;
    case QuantizeSpec::kSizeBytes:
      check.Require(spec.size_bytes() > 0, kSpec + ".size_bytes", "must be positive");
      check.Require(!spec.nominal(), kSpec + ".nominal", "needs bits, not size_bytes");
      break;
    case QuantizeSpec::TARGET_NOT_SET:
      check.Require(false, kSpec + ".bits", "is required, or size_bytes");
  }
}

void CheckCalibration(const v1::CalibrationSpec& calibration, Checker& check) {
  const std::string field = kSpec + ".calibration";
  check.Range(field + ".samples", calibration.samples(), 0, kMillion);
  check.Range(field + ".seq_len", calibration.seq_len(), 0, kMillion);
  check.Require(calibration.seq_len() != 1, field + ".seq_len", "must be at least 2");
  check.Require(calibration.field().size() <= 256, field + ".field", "is longer than 256 bytes");
  check.Require(calibration.inputs_size() <= kMostInputs, field + ".inputs",
                absl::StrCat("has more than ", kMostInputs, " entries"));
  for (int i = 0; i < std::min(calibration.inputs_size(), kMostInputs); ++i) {
    const auto& input = calibration.inputs(i);
    const std::string of_input = absl::StrCat(field, ".inputs[", i, "]");
    check.Uri(of_input + ".uri", input.uri());
    check.Require(input.weight() == 0 || (input.weight() >= 1e-9 && input.weight() <= 1e9),
                  of_input + ".weight", "must be from 1e-9 to 1e9");
  }
}

void CheckSpec(const QuantizeSpec& spec, Checker& check) {
  CheckTarget(spec, check);
  const auto known = [&check](bool valid, const char* field) {
    check.Require(valid, absl::StrCat(kSpec, ".", field),
                  "has a value that this server does not know");
  };
  known(QuantizeSpec::Codec_IsValid(spec.codec()), "codec");
  known(QuantizeSpec::Objective_IsValid(spec.objective()), "objective");
  known(QuantizeSpec::Estimator_IsValid(spec.estimator()), "estimator");
  known(QuantizeSpec::Partition_IsValid(spec.partition()), "partition");
  known(QuantizeSpec::Feedback_IsValid(spec.feedback()), "feedback");
  known(QuantizeSpec::Compute_IsValid(spec.compute()), "compute");
  check.Range(kSpec + ".stride", spec.stride(), 0, kMillion);
  CheckCalibration(spec.calibration(), check);
  if (spec.has_grad_samples()) {
    check.Range(kSpec + ".grad_samples", spec.grad_samples(), 1, kMillion);
  }
  check.Range(kSpec + ".iterations", spec.iterations(), 0, 1000);
  if (spec.has_group_rows()) check.Range(kSpec + ".group_rows", spec.group_rows(), 1, kMillion);
  check.Range(kSpec + ".tune", spec.tune(), 0, 1000);
  check.Range(kSpec + ".group_size", spec.group_size(), 0, kMillion);
  if (spec.has_damping()) {
    check.Require(spec.damping() >= 0 && spec.damping() <= 1, kSpec + ".damping",
                  "must be from 0 to 1");
  }
  if (spec.has_shrinkage()) {
    check.Require(spec.shrinkage() >= 0 && spec.shrinkage() < 1, kSpec + ".shrinkage",
                  "must be at least 0 and below 1");
  }
}

// The value of the library for one of the wire's; nullopt: the default.
template <typename To, typename From>
std::optional<To> Choose(From value, std::initializer_list<std::pair<From, To>> table) {
  for (const auto& [from, to] : table) {
    if (from == value) return to;
  }
  return std::nullopt;
}

template <typename T>
void SetIf(T& target, const std::optional<T>& value) {
  if (value) target = *value;
}

void SetChoices(const QuantizeSpec& spec, QuantizeOptions& options) {
  SetIf(options.codec,
        Choose<CodecKind>(spec.codec(), {{QuantizeSpec::COMPANDED, CodecKind::kCompanded},
                                         {QuantizeSpec::LLOYD, CodecKind::kLloyd},
                                         {QuantizeSpec::ENTROPY, CodecKind::kEntropy},
                                         {QuantizeSpec::RTN, CodecKind::kRtn},
                                         {QuantizeSpec::GPTQ, CodecKind::kGptq},
                                         {QuantizeSpec::AWQ, CodecKind::kAwq},
                                         {QuantizeSpec::OWQ, CodecKind::kOwq}}));
  SetIf(options.objective,
        Choose<Objective>(spec.objective(), {{QuantizeSpec::FISHER, Objective::kFisher},
                                             {QuantizeSpec::HIDDEN, Objective::kHidden}}));
  options.estimator =
      Choose<Estimator>(spec.estimator(), {{QuantizeSpec::LABELS, Estimator::kLabels},
                                           {QuantizeSpec::SIGNS, Estimator::kSigns},
                                           {QuantizeSpec::TOKENS, Estimator::kTokens}});
  SetIf(options.partition,
        Choose<Partition>(spec.partition(), {{QuantizeSpec::COLUMNS, Partition::kColumns},
                                             {QuantizeSpec::ROWS, Partition::kRows}}));
  options.feedback = Choose<Feedback>(spec.feedback(), {{QuantizeSpec::NONE, Feedback::kNone},
                                                        {QuantizeSpec::ONE_SIDED, Feedback::kOne},
                                                        {QuantizeSpec::TWO_SIDED, Feedback::kTwo}});
  SetIf(options.compute,
        Choose<ComputeKind>(spec.compute(), {{QuantizeSpec::FP32, ComputeKind::kF32},
                                             {QuantizeSpec::BF16, ComputeKind::kBF16}}));
}

Status SetCalibration(const v1::CalibrationSpec& calibration, const StoragePolicy& policy,
                      CalibrationOptions& options) {
  for (int i = 0; i < calibration.inputs_size(); ++i) {
    const auto& input = calibration.inputs(i);
    CVXQ_ASSIGN_OR_RETURN(
        const std::string path,
        policy.Allowed(absl::StrCat(kSpec, ".calibration.inputs[", i, "].uri"), input.uri()));
    // With a weight always, so that none is read out of the path.
    options.inputs.push_back(absl::StrCat(path, ":", input.weight() == 0 ? 1 : input.weight()));
  }
  if (!calibration.field().empty()) options.field = calibration.field();
  if (calibration.samples() > 0) options.samples = calibration.samples();
  if (calibration.seq_len() > 0) options.seq_len = calibration.seq_len();
  options.seed = calibration.seed();
  return absl::OkStatus();
}

}  // namespace

Status ValidateJob(const Job& job) {
  Checker check;
  check.Uri("quantize_model_job.source.uri", job.source().uri());
  const std::string& revision = job.source().revision();
  check.Require(revision.empty() || IsBucketAddress(job.source().uri()),
                "quantize_model_job.source.revision", "must be empty: folders have no revisions");
  check.Require(revision.empty() || IsRevision(revision), "quantize_model_job.source.revision",
                "must be 64 hex digits, as cvxq inspect tells them");
  check.Uri("quantize_model_job.output.uri", job.output().uri());
  CheckSpec(job.spec(), check);
  const std::string resources = "quantize_model_job.resources";
  check.Range(resources + ".threads", job.resources().threads(), 0, 1024);
  check.Range(resources + ".memory_bytes", job.resources().memory_bytes(), 0, int64_t{1} << 50);
  check.Range(resources + ".max_attempts", job.resources().max_attempts(), 0, 1000);
  return check.Finish();
}

StatusOr<QuantizeOptions> ToQuantizeOptions(const Job& job, const StoragePolicy& policy) {
  const QuantizeSpec& spec = job.spec();
  QuantizeOptions options;
  CVXQ_ASSIGN_OR_RETURN(options.model,
                        policy.Allowed("quantize_model_job.source.uri", job.source().uri()));
  CVXQ_ASSIGN_OR_RETURN(options.output,
                        policy.Allowed("quantize_model_job.output.uri", job.output().uri()));
  if (spec.target_case() == QuantizeSpec::kBits) options.bits = spec.bits();
  if (spec.target_case() == QuantizeSpec::kSizeBytes) options.size = spec.size_bytes();
  options.nominal = spec.nominal();
  SetChoices(spec, options);
  CVXQ_RETURN_IF_ERROR(SetCalibration(spec.calibration(), policy, options.calibration));
  options.stride = spec.stride();
  if (spec.has_grad_samples()) options.grad_samples = spec.grad_samples();
  if (spec.iterations() > 0) options.iterations = spec.iterations();
  if (spec.has_group_rows()) options.group_rows = spec.group_rows();
  if (spec.group_size() > 0) options.group = spec.group_size();
  options.tune = spec.tune();
  if (spec.has_damping()) options.damping = spec.damping();
  if (spec.has_shrinkage()) options.shrinkage = spec.shrinkage();
  options.threads = std::min(job.resources().threads(), AvailableProcessors());
  if (job.resources().memory_bytes() > 0) options.memory = job.resources().memory_bytes();
  return options;
}

v1::ResultManifest ToManifest(const Job& job, const QuantizeReport& report) {
  v1::ResultManifest manifest;
  manifest.set_uri(job.output().uri());
  for (const auto& [path, sha256] : report.sha256) {
    auto* file = manifest.add_files();
    file->set_path(CleanUtf8(path, kLongestUri));
    file->set_sha256(sha256);
  }
  manifest.set_bits_per_weight(report.bits_per_weight);
  manifest.set_nominal_bits_per_weight(report.nominal_bits_per_weight);
  manifest.set_file_bytes(report.file_bytes);
  manifest.set_parameters(report.parameters);
  manifest.set_quantized_parameters(report.quantized_parameters);
  manifest.set_log2_lambda(report.log2_lambda);
  manifest.set_numerics_class(report.numerics_class);
  return manifest;
}

}  // namespace cvxq
