// What every RPC does before and after its own work: who calls, how often, how large; one rich
// error at most; a line in the metrics.
#ifndef CVXQ_SERVICE_API_CALL_H_
#define CVXQ_SERVICE_API_CALL_H_

#include <grpcpp/server_context.h>

#include <atomic>
#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "service/api/access.h"
#include "service/coordinator.h"

namespace cvxq {

// What all services of one server share.
struct ApiContext {
  Coordinator& coordinator;
  const Access access;
  RateLimit rate;
  const size_t largest_request;
  const int most_watches;
  std::atomic<int> watches = 0;
};

// How long a waiting call sleeps at most before it looks whether its client is still there.
inline constexpr absl::Duration kWaitSlice = absl::Milliseconds(250);

class Call {
 public:
  Call(ApiContext& api, grpc::ServerContext& context, const char* method)
      : api_(api), context_(context), method_(method), start_(absl::Now()) {}

  // Whether the caller may send this request at all; then CheckProject before anything is looked
  // up.
  Status Admit(const google::protobuf::Message& request);
  Status CheckProject(const std::string& project) const { return caller_.CheckProject(project); }
  bool cancelled() const { return context_.IsCancelled(); }
  absl::Time deadline() const { return absl::FromChrono(context_.deadline()); }

  // The response's status; counts the call.
  grpc::Status Finish(const Status& status);

 private:
  ApiContext& api_;
  grpc::ServerContext& context_;
  const char* const method_;
  const absl::Time start_;
  Caller caller_;
};

// Counts one call that stays open, with the thread that it holds, for as long as it lives.
class OpenWatch {
 public:
  explicit OpenWatch(ApiContext& api);
  ~OpenWatch();
  OpenWatch(const OpenWatch&) = delete;
  OpenWatch& operator=(const OpenWatch&) = delete;

  // kResourceExhausted TOO_MANY_WATCHES.
  Status Check() const;

 private:
  ApiContext& api_;
  const int count_;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_CALL_H_
