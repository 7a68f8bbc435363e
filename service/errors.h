// Errors with details, as clients of the service get them: one google.rpc.ErrorInfo always, and
// what else helps. Details travel as payloads of absl::Status, keyed by their type's URL, and so
// survive every CVXQ_RETURN_IF_ERROR; at the border they become a google.rpc.Status.
#ifndef CVXQ_SERVICE_ERRORS_H_
#define CVXQ_SERVICE_ERRORS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "service/reasons.h"

namespace cvxq {

// `reason` is one of service/reasons.h; `message` one line for people.
Status ServiceError(absl::StatusCode code, const char* reason, const std::string& message);

// The same with one detail more: google.rpc.BadRequest, PreconditionFailure, QuotaFailure,
// RetryInfo, ResourceInfo.
Status WithDetail(Status status, const google::protobuf::Message& detail);

struct FieldViolation {
  std::string field, description;
};
// kInvalidArgument BAD_REQUEST with all violations, of which the message tells the first.
Status BadRequestError(const std::vector<FieldViolation>& violations);
Status BadFieldError(const std::string& field, const std::string& description);

// The reason of an error; empty where it has none.
std::string ReasonOf(const Status& status);
// Gives an error without a reason the one that fits its code; `reason_of_code` may be told by the
// caller for what its part of the program means by a code.
Status WithReason(const Status& status, const char* (*reason_of_code)(absl::StatusCode));

// To and from the wire. An error without a reason gets one by its code.
google::rpc::Status ToRpcStatus(const Status& status);
Status FromRpcStatus(const google::rpc::Status& status);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_ERRORS_H_
