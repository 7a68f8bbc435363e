#include "service/log.h"

#include <unistd.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace cvxq {
namespace {

std::function<void(std::string_view)>& Sink() {
  static std::function<void(std::string_view)> sink;
  return sink;
}

}  // namespace

void Log(LogLevel level, std::string_view message,
         const std::vector<std::pair<std::string, std::string>>& fields) {
  constexpr const char* kNames[] = {"info", "warning", "error"};
  nlohmann::ordered_json json;
  json["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  json["level"] = kNames[static_cast<int>(level)];
  json["message"] = message;
  for (const auto& [key, value] : fields) json[key] = value;
  const std::string line =
      json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (Sink()) {
    Sink()(line);
  } else if (write(STDERR_FILENO, line.data(), line.size()) < 0) {
    return;  // nowhere left to complain
  }
}

void SetLogSink(std::function<void(std::string_view)> sink) { Sink() = std::move(sink); }

}  // namespace cvxq
