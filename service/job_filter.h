// What List takes: filters on the state, and page tokens.
#ifndef CVXQ_SERVICE_JOB_FILTER_H_
#define CVXQ_SERVICE_JOB_FILTER_H_

#include <functional>
#include <string>

#include "service/job.h"

namespace cvxq {

// `state = RUNNING`, `state != FAILED AND state != CANCELLED`, `state = QUEUED OR state = RUNNING`;
// OR binds tighter than AND (AIP-160). Empty: all. kInvalidArgument BAD_REQUEST for others.
StatusOr<std::function<bool(const Job&)>> ParseFilter(const std::string& filter);

// A token for the page after the job `after`, of the list that `query` (parent and filter) names.
std::string MakePageToken(const std::string& query, const std::string& after);
// kInvalidArgument BAD_REQUEST for what is no token, or one of another query. Empty: the beginning.
StatusOr<std::string> ParsePageToken(const std::string& query, const std::string& token);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_FILTER_H_
