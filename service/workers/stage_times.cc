#include "service/workers/stage_times.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "service/log.h"

namespace cvxq {

void ToProto(const StageTimes& times, v1::Report::Done& done) {
  for (int task = 0; task < kStageTaskCount; ++task) {
    const StageTimes::Sum& sum = times.of(static_cast<StageTask>(task));
    if (sum.count == 0) continue;
    v1::Report::Done::Time& time = *done.add_times();
    time.set_task(kStageTaskNames[task]);
    time.set_count(sum.count);
    time.set_seconds(sum.seconds);
  }
}

void LogStepBegins(const v1::Command& command) {
  const char* kind = command.has_gradients() ? "gradients"
                     : command.has_moments() ? "moments"
                     : command.has_order()   ? "order"
                     : command.has_collect() ? "collect"
                     : command.has_save()    ? "save"
                                             : "other";
  const std::string blocks = absl::StrJoin(
      command.order().blocks(), ",",
      [](std::string* out, const auto& block) { absl::StrAppend(out, block.block()); });
  Log(LogLevel::kInfo, "step begins",
      {{"step", absl::StrCat(command.step())}, {"kind", kind}, {"blocks", blocks}});
}

void LogStepDone(const v1::Report& report) {
  std::vector<std::pair<std::string, std::string>> fields = {
      {"step", absl::StrCat(report.step())}, {"stage", absl::StrCat(report.key().stage())}};
  for (const v1::Report::Done::Time& time : report.done().times()) {
    fields.emplace_back(time.task(), absl::StrFormat("%d %.6f", time.count(), time.seconds()));
  }
  Log(LogLevel::kInfo, "step done", fields);
}

}  // namespace cvxq
