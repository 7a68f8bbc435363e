// How this folder words its errors: one line that says what failed, where, and what to do.
#ifndef CVXQ_STORAGE_ERRORS_H_
#define CVXQ_STORAGE_ERRORS_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace cvxq {

// "ACTION PATH: REASON" from errno, with advice for the usual causes. A full disk, a used-up quota
// and a file size limit are kResourceExhausted; the rest follows absl::ErrnoToStatusCode.
Status ErrnoStatus(int error, const std::string& action, const std::string& path);

// A name from a file, safe to print on one line: quoted, escaped, cut after 120 bytes.
std::string Quoted(std::string_view name);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_ERRORS_H_
