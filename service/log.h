// The service's own log: one JSON object a line on standard error.
//
//   {"time":"2026-01-02T03:04:05.678Z","level":"info","message":"job ended","job":"projects/..."}
#ifndef CVXQ_SERVICE_LOG_H_
#define CVXQ_SERVICE_LOG_H_

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cvxq {

enum class LogLevel { kInfo, kWarning, kError };

// `fields` follow the message; never put tokens or other secrets in. Any thread; lines stay whole.
void Log(LogLevel level, std::string_view message,
         const std::vector<std::pair<std::string, std::string>>& fields = {});

// Sends lines elsewhere (nullptr: to standard error again). For tests; call it while nothing logs.
void SetLogSink(std::function<void(std::string_view)> sink);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_LOG_H_
