// Random identifiers (UUID version 4).
#ifndef CVXQ_SERVICE_UUID_H_
#define CVXQ_SERVICE_UUID_H_

#include <string>

namespace cvxq {

// Lower case, from the system's random numbers.
std::string NewUuid();
// Whether it is a UUID of version 4, in any case.
bool IsUuid4(const std::string& text);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_UUID_H_
