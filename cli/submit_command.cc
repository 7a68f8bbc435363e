#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/size.h"
#include "cli/job_view.h"
#include "cli/service_client.h"
#include "service/uuid.h"

namespace cvxq {
namespace {

using v1::QuantizeSpec;

// An address as the server is to see it: paths of this machine are made absolute.
std::string Address(const std::string& text) {
  if (text.find("://") != std::string::npos) return text;
  std::string path = std::filesystem::absolute(text).lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

class SubmitCommand : public Command {
 public:
  explicit SubmitCommand(CLI::App& app) {
    CLI::App* command = Declare(app, "submit", "Give a job to a coordinator",
                                "cvxq submit models/llama --bits 3 -o /models/llama-3bit --wait");
    command->add_option("MODEL", model_, "Checkpoint, as the server sees it: folder or s3://BUCKET/PREFIX")->required();
    command->add_option("-o,--output", output_, "Folder or s3://BUCKET/PREFIX to make")->required();
    command->add_option("--bits", bits_, "Bits a quantised weight, all bytes counted");
    command->add_option("--size", size_, "Bytes of the whole output: 700MB, 1.5GiB");
    DeclareSpec(command);
    command->add_option("--id", id_, "Last part of the job's name (default: chosen by the server)");
    command->add_option("--request-id", request_id_,
                        "UUID; the same one gives the same job (default: a new one)");
    command->add_flag("--validate-only", validate_only_, "Only look whether the job could start");
    command->add_flag("--wait", wait_, "Show progress and wait for the end");
    client_.Declare(command);
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(const ServiceClient client, ServiceClient::Open(client_));
    CVXQ_ASSIGN_OR_RETURN(const v1::CreateQuantizeModelJobRequest request,
                          Request(client.parent()));
    CVXQ_ASSIGN_OR_RETURN(const std::string name, client.Create(request));
    if (validate_only_) {
      if (common.json) PrintJson({{"valid", true}});
      return absl::OkStatus();
    }
    Job job;
    if (wait_) {
      Progress progress(progress_mode());
      WatchView view(progress);
      CVXQ_ASSIGN_OR_RETURN(
          job, client.Watch(name, [&view](const v1::JobEvent& event) { view.Show(event); }));
    } else {
      CVXQ_ASSIGN_OR_RETURN(job, client.Get(name));
    }
    if (common.json) {
      PrintJson(JobJson(job));
    } else {
      std::printf("%s\n", name.c_str());
    }
    return wait_ ? OutcomeOf(job) : absl::OkStatus();
  }

 private:
  // The flags of `cvxq quantize` that a job can have, with the same meanings.
  void DeclareSpec(CLI::App* command) {
    command->add_flag("--nominal", nominal_, "--bits counts codes only, as papers do");
    Choice(command, "--codec", codec_,
           {"companded", "lloyd", "entropy", "rtn", "gptq", "awq", "owq"});
    Choice(command, "--objective", objective_, {"fisher", "hidden"});
    Choice(command, "--estimator", estimator_, {"labels", "signs", "tokens"});
    Choice(command, "--partition", partition_, {"columns", "rows"});
    Choice(command, "--feedback", feedback_, {"none", "one", "two"});
    Choice(command, "--compute", compute_, {"auto", "fp32", "bf16"});
    command->add_option("--calib", calibration_, "PATH[:WEIGHT] of calibration text; repeatable");
    command->add_option("--calib-field", field_, "Field of JSON lines");
    command->add_option("--samples", samples_, "Calibration sequences");
    command->add_option("--grad-samples", grad_samples_, "Of them, for gradients");
    command->add_option("--seq-len", seq_len_, "Tokens of a sequence");
    command->add_option("--seed", seed_, "Seed of all random choices")->check(NotNegative());
    command->add_option("--stride", stride_, "Tokens between those of --estimator tokens");
    command->add_option("--iterations", iterations_, "Rounds of gradients and coding");
    command->add_option("--group-rows", group_rows_, "Size of a cluster");
    command->add_option("--group", group_, "Columns that share a scale");
    command->add_option("--shrinkage", shrinkage_, "Of output curvature, 0 to 1");
    command->add_option("--tune", tune_, "Epochs of tuning what stays unquantised");
    AddThreads(command, threads_);
    command->add_option("--memory", memory_, "Bytes to use beyond one block");
  }

  static void Choice(CLI::App* command, const std::string& flag, std::string& target,
                     const std::vector<std::string>& names) {
    command->add_option(flag, target, "As of cvxq quantize")->check(CLI::IsMember(names));
  }

  // Sets an enum by the lower-case name of its value; an empty one stays unset.
  template <typename Enum>
  static void SetEnum(const std::string& name,
                      bool (*parse)(google::protobuf::ConstStringParam, Enum*),
                      const std::function<void(Enum)>& set) {
    Enum value;
    if (!name.empty() && parse(absl::AsciiStrToUpper(name), &value)) set(value);
  }

  StatusOr<v1::CreateQuantizeModelJobRequest> Request(const std::string& parent) const {
    v1::CreateQuantizeModelJobRequest request;
    request.set_parent(parent);
    request.set_quantize_model_job_id(id_);
    request.set_request_id(request_id_.empty() ? NewUuid() : request_id_);
    request.set_validate_only(validate_only_);
    Job& job = *request.mutable_quantize_model_job();
    job.mutable_source()->set_uri(Address(model_));
    job.mutable_output()->set_uri(Address(output_));
    job.mutable_resources()->set_threads(threads_);
    if (memory_) {
      CVXQ_ASSIGN_OR_RETURN(const int64_t bytes, ParseByteSize(*memory_));
      job.mutable_resources()->set_memory_bytes(bytes);
    }
    CVXQ_RETURN_IF_ERROR(SetSpec(*job.mutable_spec()));
    return request;
  }

  Status SetSpec(QuantizeSpec& spec) const {
    if (bits_.has_value() == size_.has_value()) {
      return absl::InvalidArgumentError("give either --bits or --size");
    }
    if (bits_) spec.set_bits(*bits_);
    if (size_) {
      CVXQ_ASSIGN_OR_RETURN(const int64_t bytes, ParseByteSize(*size_));
      spec.set_size_bytes(bytes);
    }
    spec.set_nominal(nominal_);
    SetEnum<QuantizeSpec::Codec>(codec_, QuantizeSpec::Codec_Parse,
                                 [&spec](auto value) { spec.set_codec(value); });
    SetEnum<QuantizeSpec::Objective>(objective_, QuantizeSpec::Objective_Parse,
                                     [&spec](auto value) { spec.set_objective(value); });
    SetEnum<QuantizeSpec::Estimator>(estimator_, QuantizeSpec::Estimator_Parse,
                                     [&spec](auto value) { spec.set_estimator(value); });
    SetEnum<QuantizeSpec::Partition>(partition_, QuantizeSpec::Partition_Parse,
                                     [&spec](auto value) { spec.set_partition(value); });
    SetEnum<QuantizeSpec::Compute>(compute_, QuantizeSpec::Compute_Parse,
                                   [&spec](auto value) { spec.set_compute(value); });
    if (feedback_ == "none") spec.set_feedback(QuantizeSpec::NONE);
    if (feedback_ == "one") spec.set_feedback(QuantizeSpec::ONE_SIDED);
    if (feedback_ == "two") spec.set_feedback(QuantizeSpec::TWO_SIDED);
    spec.set_stride(stride_);
    if (grad_samples_) spec.set_grad_samples(*grad_samples_);
    spec.set_iterations(iterations_);
    if (group_rows_) spec.set_group_rows(*group_rows_);
    spec.set_group_size(group_);
    spec.set_tune(tune_);
    if (shrinkage_) spec.set_shrinkage(*shrinkage_);
    SetCalibration(*spec.mutable_calibration());
    return absl::OkStatus();
  }

  void SetCalibration(v1::CalibrationSpec& calibration) const {
    for (const std::string& argument : calibration_) {
      auto& input = *calibration.add_inputs();
      // What follows the last colon is a weight if it is a number.
      const size_t colon = argument.rfind(':');
      double weight = 0;
      if (colon != std::string::npos && absl::SimpleAtod(argument.substr(colon + 1), &weight)) {
        input.set_uri(Address(argument.substr(0, colon)));
        input.set_weight(weight);
      } else {
        input.set_uri(Address(argument));
      }
    }
    calibration.set_field(field_);
    calibration.set_samples(samples_);
    calibration.set_seq_len(seq_len_);
    calibration.set_seed(seed_);
  }

  ClientFlags client_;
  std::string model_, output_, id_, request_id_;
  bool validate_only_ = false, wait_ = false, nominal_ = false;
  std::optional<double> bits_, shrinkage_;
  std::optional<std::string> size_, memory_;
  std::string codec_, objective_, estimator_, partition_, feedback_, compute_, field_;
  std::vector<std::string> calibration_;
  int64_t samples_ = 0, seq_len_ = 0, stride_ = 0, iterations_ = 0, group_ = 0, tune_ = 0;
  std::optional<int64_t> grad_samples_, group_rows_;
  uint64_t seed_ = 0;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<Command> MakeSubmitCommand(CLI::App& app) {
  return std::make_unique<SubmitCommand>(app);
}

}  // namespace cvxq
