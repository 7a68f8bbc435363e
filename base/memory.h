// How much memory this process holds, as the system counts it.
#ifndef CVXQ_BASE_MEMORY_H_
#define CVXQ_BASE_MEMORY_H_

#include <cstdint>

namespace cvxq {

// Bytes of physical memory held now, and the most ever held since the process began. Mapped files
// count while their pages are in memory. 0 where the system does not tell. Any thread.
int64_t ResidentBytes();
int64_t PeakResidentBytes();

}  // namespace cvxq

#endif  // CVXQ_BASE_MEMORY_H_
