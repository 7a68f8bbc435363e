// Wall time by phase.
//
//   Stopwatch watch;
//   ...; watch.Lap("gradients"); ...; watch.Lap("code");
//   for (const auto& [phase, seconds] : watch.Finish()) ...   // "total" comes last
#ifndef CVXQ_BASE_STOPWATCH_H_
#define CVXQ_BASE_STOPWATCH_H_

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace cvxq {

class Stopwatch {
 public:
  // The time since the last lap (or the start) belongs to `phase`; phases of one name add up.
  void Lap(const std::string& phase) {
    const auto now = Clock::now();
    seconds_.emplace_back(phase, std::chrono::duration<double>(now - last_).count());
    last_ = now;
  }
  // Phases in the order of their first lap, then the total since the start, in seconds.
  std::vector<std::pair<std::string, double>> Finish() const {
    const double total = std::chrono::duration<double>(Clock::now() - start_).count();
    std::vector<std::pair<std::string, double>> merged;
    for (const auto& lap : seconds_) {
      const auto same = std::find_if(merged.begin(), merged.end(),
                                     [&](const auto& entry) { return entry.first == lap.first; });
      same == merged.end() ? merged.push_back(lap) : void(same->second += lap.second);
    }
    merged.emplace_back("total", total);
    return merged;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now(), last_ = start_;
  std::vector<std::pair<std::string, double>> seconds_;
};

}  // namespace cvxq

#endif  // CVXQ_BASE_STOPWATCH_H_
