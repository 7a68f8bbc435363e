#include "cli/job_view.h"

#include "absl/strings/str_format.h"
#include "service/errors.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

using nlohmann::ordered_json;

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", FromTimestamp(time), absl::UTCTimeZone());
}

ordered_json ResultJson(const v1::ResultManifest& result) {
  ordered_json json;
  json["output"] = result.uri();
  json["parameters"] = result.parameters();
  json["quantized_parameters"] = result.quantized_parameters();
  json["bits_per_weight"] = result.bits_per_weight();
  json["nominal_bits_per_weight"] = result.nominal_bits_per_weight();
  json["file_bytes"] = result.file_bytes();
  json["log2_lambda"] = result.log2_lambda();
  json["numerics_class"] = result.numerics_class();
  json["sha256"] = ordered_json::object();
  for (const auto& file : result.files()) json["sha256"][file.path()] = file.sha256();
  return json;
}

}  // namespace

ordered_json JobJson(const Job& job) {
  ordered_json json;
  json["name"] = job.name();
  json["uid"] = job.uid();
  json["state"] = Job::State_Name(job.state());
  json["revision"] = job.revision();
  json["attempt"] = job.attempt();
  json["create_time"] = TimeText(job.create_time());
  json["update_time"] = TimeText(job.update_time());
  json["source"] = job.source().uri();
  json["output"] = job.output().uri();
  json["percent"] = job.progress().percent();
  json["phase"] = job.progress().phase();
  json["remaining_seconds"] = nullptr;
  if (job.progress().has_estimated_remaining()) {
    json["remaining_seconds"] =
        absl::ToDoubleSeconds(FromDuration(job.progress().estimated_remaining()));
  }
  json["error"] = nullptr;
  if (job.has_error()) {
    const Status error = FromRpcStatus(job.error());
    json["error"] = {{"code", absl::StatusCodeToString(error.code())},
                     {"message", job.error().message()},
                     {"reason", ReasonOf(error)}};
  }
  json["result"] = nullptr;
  if (job.state() == Job::SUCCEEDED) json["result"] = ResultJson(job.result());
  return json;
}

std::string JobLine(const Job& job) {
  std::string line =
      absl::StrFormat("%-48s %-10s %3d %%  %s", job.name(), Job::State_Name(job.state()),
                      job.progress().percent(), job.progress().phase());
  if (job.has_error()) absl::StrAppend(&line, "  ", job.error().message());
  return line;
}

Status OutcomeOf(const Job& job) {
  if (job.state() == Job::SUCCEEDED) return absl::OkStatus();
  // Not by the error's own code: what failed is the job, not the use of the command.
  return absl::AbortedError(absl::StrCat(job.name(), " ",
                                         job.state() == Job::CANCELLED ? "was cancelled" : "failed",
                                         ": ", job.error().message()));
}

void WatchView::Show(const v1::JobEvent& event) {
  if (event.has_log()) progress_.Note(event.log().text());
  if (!event.has_snapshot()) return;
  const Job& job = event.snapshot();
  if (job.state() != state_) {
    state_ = job.state();
    phase_.reset();
    phase_name_.clear();
    progress_.Note(absl::StrCat(job.name(), " is ", Job::State_Name(state_)));
  }
  const auto metric = [&job](const char* name) {
    const auto found = job.progress().metrics().find(name);
    return found == job.progress().metrics().end() ? 0 : static_cast<int64_t>(found->second);
  };
  if (IsTerminal(state_) || job.progress().phase().empty()) return;
  if (job.progress().phase() != phase_name_) {
    phase_.reset();
    phase_name_ = job.progress().phase();
    done_ = 0;
    progress_.Note(absl::StrFormat("%3d %%  %s", job.progress().percent(), phase_name_));
    phase_ = std::make_unique<Progress::Phase>(
        progress_.Start(phase_name_, metric("phase_total"), "steps"));
  }
  phase_->Advance(std::max<int64_t>(0, metric("phase_done") - done_));
  done_ = std::max(done_, metric("phase_done"));
}

}  // namespace cvxq
