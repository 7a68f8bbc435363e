#include "base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/size.h"

namespace cvxq {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kLineSeconds = 10;
constexpr int kNameColumns = 13;
constexpr int kMinBar = 10, kMaxBar = 40;
// To the first column, and erase to the end of the line: in one write with the new text, so that
// no empty line is ever seen.
constexpr const char *kReturn = "\r", *kErase = "\x1b[K";

void WriteToStderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // nowhere left to complain
    text.remove_prefix(static_cast<size_t>(written));
  }
}

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int TerminalWidth() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string lower = absl::AsciiStrToLower(value);
    return absl::StrContains(lower, "utf-8") || absl::StrContains(lower, "utf8");
  }
  return false;
}

// "0:07", "12:34", "1:02:03".
std::string ClockTime(double seconds) {
  const auto s = static_cast<int64_t>(std::clamp(seconds, 0.0, 3.6e9));
  if (s < 3600) return absl::StrFormat("%d:%02d", s / 60, s % 60);
  return absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
}

std::string Repeat(const char* piece, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) absl::StrAppend(&result, piece);
  return result;
}

ProgressOptions DefaultOptions(ProgressMode mode) {
  ProgressOptions options;
  options.mode = mode;
  options.unicode = LocaleIsUtf8();
  options.heartbeat = mode == ProgressMode::kBar;
  return options;
}

}  // namespace

ProgressMode ChooseProgressMode(bool quiet) {
  if (quiet) return ProgressMode::kQuiet;
  const char* terminal = std::getenv("TERM");
  const bool redraws = isatty(STDERR_FILENO) == 1 && terminal != nullptr && *terminal != '\0' &&
                       std::string_view(terminal) != "dumb";
  return redraws ? ProgressMode::kBar : ProgressMode::kLines;
}

struct Progress::State {
  std::mutex mutex;  // guards everything
  ProgressOptions options;
  std::vector<std::string> notes;
  std::string name, unit;
  uint64_t id = 0;  // of the running phase
  bool running = false, drawn = false, stop = false;
  int64_t total = 0, count = 0;
  double start = 0, last_output = 0;
  std::condition_variable wake;
  std::thread heartbeat;

  std::string Quantity(int64_t value) const {
    return unit == "bytes" ? FormatBytes(value) : absl::StrCat(value);
  }

  std::string Title() const { return absl::StrFormat("%-*s ", kNameColumns, name); }

  // "58/128 sequences   0:27   0:33 left", columns of one width for the whole phase.
  std::string Figures(double now) const {
    const std::string all = Quantity(total);
    std::string text =
        total > 0 ? absl::StrFormat("%*s/%s", static_cast<int>(all.size()), Quantity(count), all)
                  : Quantity(count);
    if (unit != "bytes") absl::StrAppend(&text, " ", unit);
    const double elapsed = now - start;
    absl::StrAppend(&text, "   ", ClockTime(elapsed));
    // The first moments tell nothing of the rest.
    if (count > 0 && count < total && elapsed >= 1) {
      const double left = elapsed * static_cast<double>(total - count) / static_cast<double>(count);
      absl::StrAppend(&text, "   ", ClockTime(left), " left");
    }
    return text;
  }

  int Percent() const {
    return static_cast<int>(100.0 * static_cast<double>(std::min(count, total)) /
                            static_cast<double>(total));
  }

  // The bar takes what the text leaves, up to kMaxBar; on a narrow terminal it is left out, and at
  // last the line is cut, since a wrapped line could not be redrawn in place.
  std::string BarLine(double now) const {
    const int width = options.width() - 1;
    std::string line = Title();
    std::string rest = Figures(now);
    if (total > 0) {
      rest = absl::StrFormat("%3d %%   %s", Percent(), rest);
      // The remaining time comes and goes: keep its place, so that the bar keeps its length.
      const size_t full_rest = std::string_view("100 %    /    1:02:03   1:02:03 left").size() +
                               2 * Quantity(total).size() + unit.size();
      const int cells = std::min(
          kMaxBar, width - 1 - static_cast<int>(line.size() + std::max(rest.size(), full_rest)));
      if (cells >= kMinBar) {
        const int full = static_cast<int>(static_cast<double>(cells) *
                                          static_cast<double>(std::min(count, total)) /
                                          static_cast<double>(total));
        absl::StrAppend(&line, Repeat(options.unicode ? "━" : "#", full),
                        Repeat(options.unicode ? "─" : "-", cells - full), " ");
        return absl::StrCat(line, rest);
      }
    }
    absl::StrAppend(&line, rest);
    if (static_cast<int>(line.size()) > width) line.resize(static_cast<size_t>(std::max(width, 0)));
    return line;
  }

  void DrawBar(double now) {
    options.sink(absl::StrCat(kReturn, BarLine(now), kErase));
    drawn = true;
    last_output = now;
  }

  // What must stand before a whole line so that it replaces the bar.
  std::string ClearPrefix() {
    const bool was_drawn = std::exchange(drawn, false);
    return was_drawn ? absl::StrCat(kReturn, kErase) : std::string();
  }

  void EndSilently() {
    if (const std::string prefix = ClearPrefix(); !prefix.empty()) options.sink(prefix);
    running = false;
  }

  void Update() {
    const double now = options.clock();
    if (options.mode == ProgressMode::kBar && now - last_output >= kRedrawSeconds) {
      DrawBar(now);
    } else if (options.mode == ProgressMode::kLines && now - last_output >= kLineSeconds) {
      const std::string percent =
          total > 0 ? absl::StrFormat("%3d %%   ", Percent()) : std::string();
      options.sink(absl::StrCat(Title(), percent, Figures(now), "\n"));
      last_output = now;
    }
  }

  void Tell(ProgressUpdate::Kind kind, std::string_view note = {}) const {
    if (!options.listener) return;
    if (kind == ProgressUpdate::Kind::kNote) {
      options.listener({.kind = kind, .note = note});
    } else {
      options.listener({kind, name, unit, note, count, total});
    }
  }

  void Beat() {
    std::unique_lock lock(mutex);
    while (!stop) {
      wake.wait_for(lock, std::chrono::seconds(1));
      if (!stop && running) Update();
    }
  }
};

Progress::Progress(ProgressMode mode) : Progress(DefaultOptions(mode)) {}

Progress::Progress(ProgressOptions options) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.options = std::move(options);
  if (!s.options.sink) s.options.sink = WriteToStderr;
  if (!s.options.clock) s.options.clock = SteadySeconds;
  if (!s.options.width) s.options.width = TerminalWidth;
  if (s.options.heartbeat) s.heartbeat = std::thread([&s] { s.Beat(); });
}

Progress::~Progress() {
  State& s = *state_;
  {
    std::lock_guard lock(s.mutex);
    s.stop = true;
    if (s.running) s.EndSilently();
  }
  s.wake.notify_one();
  if (s.heartbeat.joinable()) s.heartbeat.join();
}

Progress::Phase Progress::Start(std::string name, int64_t total, std::string unit) {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  if (s.running) s.EndSilently();
  s.name = std::move(name);
  s.unit = std::move(unit);
  s.total = total;
  s.count = 0;
  s.running = true;
  s.start = s.last_output = s.options.clock();
  if (s.options.mode == ProgressMode::kBar) s.DrawBar(s.start);
  s.Tell(ProgressUpdate::Kind::kStart);
  return Phase(this, ++s.id);
}

void Progress::Note(std::string_view line) {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  s.notes.emplace_back(line);
  s.Tell(ProgressUpdate::Kind::kNote, line);
  if (s.options.mode == ProgressMode::kQuiet) return;
  const bool redraw = s.drawn;
  std::string text = absl::StrCat(s.ClearPrefix(), std::string(line), "\n");
  if (redraw) {
    absl::StrAppend(&text, s.BarLine(s.options.clock()));
    s.drawn = true;
  }
  s.options.sink(text);
}

void Progress::Figure(std::string_view name, double value) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->options.listener) return;
  state_->options.listener({.kind = ProgressUpdate::Kind::kFigure, .note = name, .value = value});
}

std::vector<std::string> Progress::notes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->notes;
}

Progress::Phase::Phase(Phase&& other) noexcept
    : progress_(std::exchange(other.progress_, nullptr)), id_(other.id_) {}

Progress::Phase::~Phase() {
  if (progress_ == nullptr) return;
  State& s = *progress_->state_;
  std::lock_guard lock(s.mutex);
  if (s.running && s.id == id_) s.EndSilently();
}

void Progress::Phase::Advance(int64_t count) {
  if (progress_ == nullptr) return;
  State& s = *progress_->state_;
  std::lock_guard lock(s.mutex);
  if (!s.running || s.id != id_) return;
  s.count += count;
  s.Update();
  s.Tell(ProgressUpdate::Kind::kAdvance);
}

void Progress::Phase::Done(std::string_view note) {
  if (progress_ == nullptr) return;
  State& s = *std::exchange(progress_, nullptr)->state_;
  std::lock_guard lock(s.mutex);
  if (!s.running || s.id != id_) return;
  s.running = false;
  s.Tell(ProgressUpdate::Kind::kDone, note);
  if (s.options.mode == ProgressMode::kQuiet) return;
  std::string line = absl::StrCat(s.ClearPrefix(), s.Title());
  if (s.count > 0) {
    absl::StrAppend(&line, s.Quantity(s.count), s.unit == "bytes" ? "" : " ",
                    s.unit == "bytes" ? "" : s.unit, " in ");
  }
  absl::StrAppend(&line, FormatDuration(s.options.clock() - s.start));
  if (!note.empty()) absl::StrAppend(&line, ", ", std::string(note));
  s.options.sink(absl::StrCat(line, "\n"));
}

}  // namespace cvxq
