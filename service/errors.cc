#include "service/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "service/utf8.h"

namespace cvxq {
namespace {

constexpr size_t kLongestMessage = 1024;  // errors travel in HTTP headers of at most 8 KiB
constexpr int kMostViolations = 16;
constexpr char kTypePrefix[] = "type.googleapis.com/";

std::string TypeUrl(const google::protobuf::Message& message) {
  return kTypePrefix + message.GetDescriptor()->full_name();
}

const char* ReasonOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return reason::kBadRequest;
    case absl::StatusCode::kUnavailable:
      return reason::kStoreUnavailable;
    case absl::StatusCode::kUnimplemented:
      return reason::kUnimplemented;
    default:
      return reason::kInternal;
  }
}

}  // namespace

Status ServiceError(absl::StatusCode code, const char* reason, const std::string& message) {
  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(reason);
  return WithDetail(Status(code, message), info);
}

Status WithDetail(Status status, const google::protobuf::Message& detail) {
  status.SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
  return status;
}

Status BadRequestError(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest details;
  for (const FieldViolation& violation : violations) {
    if (details.field_violations_size() == kMostViolations) break;
    auto* added = details.add_field_violations();
    added->set_field(violation.field);
    added->set_description(CleanUtf8(violation.description, 128));
  }
  std::string message = absl::StrCat(violations.front().field, " ", violations.front().description);
  if (violations.size() > 1) {
    absl::StrAppend(&message, " (and ", violations.size() - 1, " more)");
  }
  return WithDetail(ServiceError(absl::StatusCode::kInvalidArgument, reason::kBadRequest, message),
                    details);
}

Status BadFieldError(const std::string& field, const std::string& description) {
  return BadRequestError({{field, description}});
}

std::string ReasonOf(const Status& status) {
  google::rpc::ErrorInfo info;
  const auto payload = status.GetPayload(TypeUrl(info));
  if (!payload || !info.ParseFromString(std::string(*payload))) return "";
  return info.reason();
}

Status WithReason(const Status& status, const char* (*reason_of_code)(absl::StatusCode)) {
  if (status.ok() || !ReasonOf(status).empty()) return status;
  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(reason_of_code(status.code()));
  return WithDetail(status, info);
}

google::rpc::Status ToRpcStatus(const Status& status) {
  const Status complete = WithReason(status, ReasonOfCode);
  google::rpc::Status result;
  result.set_code(static_cast<int>(complete.code()));
  result.set_message(CleanUtf8(
      std::string_view(complete.message().data(), complete.message().size()), kLongestMessage));
  complete.ForEachPayload([&result](absl::string_view url, const absl::Cord& bytes) {
    auto* detail = result.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(bytes));
  });
  return result;
}

Status FromRpcStatus(const google::rpc::Status& status) {
  Status result(static_cast<absl::StatusCode>(status.code()), status.message());
  for (const auto& detail : status.details()) {
    result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

}  // namespace cvxq
