// Times between Abseil and the wire.
#ifndef CVXQ_SERVICE_TIMESTAMPS_H_
#define CVXQ_SERVICE_TIMESTAMPS_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace cvxq {

inline google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp result;
  const int64_t seconds = absl::ToUnixSeconds(time);
  result.set_seconds(seconds);
  result.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return result;
}

inline absl::Time FromTimestamp(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

inline google::protobuf::Duration ToDuration(absl::Duration duration) {
  google::protobuf::Duration result;
  result.set_seconds(absl::ToInt64Seconds(duration));
  result.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(duration - absl::Seconds(result.seconds()))));
  return result;
}

// Clamped to what absl::Duration holds without loss; nothing a client sends can overflow.
inline absl::Duration FromDuration(const google::protobuf::Duration& duration) {
  constexpr int64_t kMost = 315'576'000'000;  // the limit of the type, 10,000 years
  return absl::Seconds(std::clamp(duration.seconds(), -kMost, kMost)) +
         absl::Nanoseconds(duration.nanos());
}

}  // namespace cvxq

#endif  // CVXQ_SERVICE_TIMESTAMPS_H_
