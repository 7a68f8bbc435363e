// Sizes in bytes and durations, as users write them and as they are shown.
#ifndef CVXQ_BASE_SIZE_H_
#define CVXQ_BASE_SIZE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace cvxq {

// "1.5GiB", "700 MB" or "4096": a decimal number and one of B, KiB, MiB, GiB, TiB (powers of 1024),
// KB, MB, GB, TB (powers of 1000), in any case. Exact, no floating point; a part of a byte is
// dropped, so the result is never above what was asked. kInvalidArgument for anything else.
StatusOr<int64_t> ParseByteSize(std::string_view text);

// "512 B", "1.50 KiB", "23.4 MiB": three digits, powers of 1024.
std::string FormatBytes(int64_t bytes);

// "0.42 s", "12.3 s", "3 min 05 s", "2 h 03 min", "3 d 04 h". Negative counts as 0.
std::string FormatDuration(double seconds);

}  // namespace cvxq

#endif  // CVXQ_BASE_SIZE_H_
