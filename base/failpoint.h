// Named places at which a test can have the process killed: as if it had crashed right there.
//
//   Failpoint("stage-gradients-done");
//
// CVXQ_FAILPOINT=stage-gradients-done kills at that place, NAME:3 when it is passed the third time.
#ifndef CVXQ_BASE_FAILPOINT_H_
#define CVXQ_BASE_FAILPOINT_H_

#include <string_view>

namespace cvxq {

// Any thread. Costs a look at one constant where the variable is not set.
void Failpoint(std::string_view name);

}  // namespace cvxq

#endif  // CVXQ_BASE_FAILPOINT_H_
