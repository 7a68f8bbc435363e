// Text for protobuf strings: a message with one that is not UTF-8 cannot be read back.
#ifndef CVXQ_SERVICE_UTF8_H_
#define CVXQ_SERVICE_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace cvxq {

// At most `limit` bytes of `text`, cut between characters; bytes that are not UTF-8 become '?'.
std::string CleanUtf8(std::string_view text, size_t limit);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_UTF8_H_
