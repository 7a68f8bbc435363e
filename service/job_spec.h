// What clients ask for: whether it makes sense, and what it means for the library.
#ifndef CVXQ_SERVICE_JOB_SPEC_H_
#define CVXQ_SERVICE_JOB_SPEC_H_

#include "pipeline/quantize.h"
#include "service/job.h"
#include "service/storage_policy.h"

namespace cvxq {

// kInvalidArgument with every field of the request that cannot be right; looks at nothing else.
Status ValidateJob(const Job& job);

// The options of Quantize() for a valid job. Errors of the policy name the field.
StatusOr<QuantizeOptions> ToQuantizeOptions(const Job& job, const StoragePolicy& policy);

// A report as the service keeps it.
v1::ResultManifest ToManifest(const Job& job, const QuantizeReport& report);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_JOB_SPEC_H_
