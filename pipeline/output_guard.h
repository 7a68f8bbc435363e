// What an output folder may not be, so that no slip of the hand costs a user a checkpoint.
#ifndef CVXQ_PIPELINE_OUTPUT_GUARD_H_
#define CVXQ_PIPELINE_OUTPUT_GUARD_H_

#include <string>

#include "base/status.h"

namespace cvxq {

// kInvalidArgument if `output` is the folder `model` or lies above it (through links, too), or if
// it is to be overwritten and holds anything but a packed model of this program. An output that
// exists and is not to be overwritten is left to OutputFolder.
Status CheckOutput(const std::string& model, const std::string& output, bool overwrite);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_OUTPUT_GUARD_H_
