#include "service/job_reporter.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "service/timestamps.h"

namespace cvxq {
namespace {

constexpr size_t kMostLines = 1000;  // kept between two reports; more are dropped
constexpr double kPublishingAt = 0.98;

// What share of the work is done when a phase ends that begins at `from`. Phases of coding come in
// unknown number: each takes a part of what is left.
double EndOf(const std::string& phase, double from) {
  if (phase == "gradients") return std::max(from, 0.4);
  if (phase == "input moments") return std::max(from, 0.6);
  return from + 0.4 * (kPublishingAt - from);
}

}  // namespace

JobReporter::JobReporter(JobSink& sink, std::string name, int32_t attempt, absl::Duration interval,
                         std::atomic<bool>& stop)
    : sink_(sink),
      name_(std::move(name)),
      attempt_(attempt),
      interval_(interval),
      stop_(stop),
      start_(absl::Now()),
      thread_([this] { Work(); }) {}

JobReporter::~JobReporter() { End(); }

void JobReporter::End() {
  {
    std::lock_guard lock(mutex_);
    end_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

double JobReporter::Fraction() const {
  if (total_ <= 0) return from_;
  return from_ + (to_ - from_) * static_cast<double>(std::min(count_, total_)) /
                     static_cast<double>(total_);
}

void JobReporter::Listen(const ProgressUpdate& update) {
  std::lock_guard lock(mutex_);
  const auto add_line = [this](std::string text) {
    if (lines_.size() == kMostLines) return;
    v1::LogLine& line = lines_.emplace_back();
    line.set_severity(v1::LogLine::INFO);
    line.set_text(std::move(text));
  };
  switch (update.kind) {
    case ProgressUpdate::Kind::kStart:
      from_ = std::max(from_, Fraction());
      phase_ = std::string(update.phase);
      to_ = EndOf(phase_, from_);
      break;
    case ProgressUpdate::Kind::kAdvance:
      break;
    case ProgressUpdate::Kind::kDone:
      from_ = to_;
      if (!update.note.empty()) {
        add_line(absl::StrCat(std::string(update.phase), ": ", std::string(update.note)));
      }
      break;
    case ProgressUpdate::Kind::kNote:
      add_line(std::string(update.note));
      urgent_ = true;
      wake_.notify_one();
      return;
    case ProgressUpdate::Kind::kFigure:
      figures_[std::string(update.note)] = update.value;
      changed_ = true;
      return;
  }
  count_ = update.count;
  total_ = update.total;
  changed_ = true;
  if (update.kind == ProgressUpdate::Kind::kAdvance) return;
  urgent_ = true;
  wake_.notify_one();
}

void JobReporter::Work() {
  std::unique_lock lock(mutex_);
  while (!end_) {
    wake_.wait_for(lock, absl::ToChronoMilliseconds(interval_), [this] { return end_ || urgent_; });
    if (end_) return;
    urgent_ = false;
    if (!changed_ && lines_.empty()) continue;
    std::vector<v1::LogLine> lines = std::move(lines_);
    lines_.clear();
    const bool changed = std::exchange(changed_, false);
    v1::Progress progress;
    const double fraction = Fraction();
    progress.set_percent(static_cast<int32_t>(100 * fraction));
    progress.set_phase(phase_);
    (*progress.mutable_metrics())["phase_done"] = static_cast<double>(count_);
    (*progress.mutable_metrics())["phase_total"] = static_cast<double>(total_);
    for (const auto& [name, value] : figures_) (*progress.mutable_metrics())[name] = value;
    if (fraction > 0.03) {
      *progress.mutable_estimated_remaining() =
          ToDuration((absl::Now() - start_) * ((1 - fraction) / fraction));
    }
    lock.unlock();
    Send(std::move(lines), progress, changed);
    lock.lock();
  }
}

void JobReporter::Send(std::vector<v1::LogLine> lines, const v1::Progress& progress, bool changed) {
  if (!std::exchange(running_, true)) Tell({.kind = JobInput::Kind::kRun});
  for (v1::LogLine& line : lines) {
    Tell({.kind = JobInput::Kind::kLog, .log = std::move(line)});
  }
  if (changed) Tell({.kind = JobInput::Kind::kProgress, .progress = progress});
}

void JobReporter::Tell(JobInput input) {
  input.attempt = attempt_;
  const Status status = sink_.Report(name_, input).status();
  // Where the store is busy a report may be lost; where the job says no, the work is for nothing.
  if (!status.ok() && !absl::IsUnavailable(status)) stop_ = true;
}

void JobReporter::Finish() {
  End();
  // The lines since the last report; of the progress nobody asks now.
  Send(std::move(lines_), {}, /*changed=*/false);
}

}  // namespace cvxq
