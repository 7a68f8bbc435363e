// Names of resources: projects/{project}/quantizeModelJobs/{id}, and projects/{project}/operations/
// {id} for the operation that stands for the job.
#ifndef CVXQ_SERVICE_NAMES_H_
#define CVXQ_SERVICE_NAMES_H_

#include <string>

#include "base/status.h"

namespace cvxq {

struct JobName {
  std::string project, id;

  std::string parent() const { return absl::StrCat("projects/", project); }
  std::string job() const { return absl::StrCat(parent(), "/quantizeModelJobs/", id); }
  std::string operation() const { return absl::StrCat(parent(), "/operations/", id); }
};

// ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$, of projects and jobs.
bool IsId(const std::string& text);

// kInvalidArgument BAD_REQUEST for the field they come from.
StatusOr<JobName> ParseJobName(const std::string& name);
StatusOr<JobName> ParseOperationName(const std::string& name);
StatusOr<JobName> ParseParent(const std::string& field, const std::string& parent);  // id is empty

}  // namespace cvxq

#endif  // CVXQ_SERVICE_NAMES_H_
