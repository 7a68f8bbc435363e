// Errors are values: absl::Status and absl::StatusOr everywhere, with canonical codes.
//
//   CVXQ_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(folder));
//   CVXQ_RETURN_IF_ERROR(checkpoint.Validate());
//
// A message is one line for the user: what is wrong, where (the file), and what to do.
// Codes in use: kInvalidArgument wrong usage (exit 2); kCancelled interrupted (exit 130); all others
// failure (exit 1), of which kNotFound, kDataLoss (a broken file), kResourceExhausted (disk or
// memory), kUnimplemented and kInternal (our own bug) are the common ones.
#ifndef CVXQ_BASE_STATUS_H_
#define CVXQ_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace cvxq {

using absl::Status;
using absl::StatusOr;

}  // namespace cvxq

#define CVXQ_CONCAT_INNER(a, b) a##b
#define CVXQ_CONCAT(a, b) CVXQ_CONCAT_INNER(a, b)

// Returns the status of `expression` from the enclosing function unless it is OK.
#define CVXQ_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                  \
    if (absl::Status cvxq_status = (expression); !cvxq_status.ok()) return cvxq_status; \
  } while (false)

// Evaluates a StatusOr; on success moves its value into `lhs`, otherwise returns its status.
#define CVXQ_ASSIGN_OR_RETURN(lhs, expression) \
  CVXQ_ASSIGN_OR_RETURN_IMPL(CVXQ_CONCAT(cvxq_statusor_, __LINE__), lhs, expression)
#define CVXQ_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expression) \
  auto statusor = (expression);                               \
  if (!statusor.ok()) return std::move(statusor).status();    \
  lhs = std::move(statusor).value()

#endif  // CVXQ_BASE_STATUS_H_
