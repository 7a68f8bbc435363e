// Progress of long work on standard error.
//
//   Progress progress(ChooseProgressMode(/*quiet=*/false));
//   auto phase = progress.Start("statistics", 128, "sequences");
//   for (...) phase.Advance();
//   phase.Done("2.1 GiB of statistics");
//
// On a terminal a bar, redrawn in place:
//   statistics    ━━━━━━━━━━━━━──────────────────  45 %   58/128 sequences   0:27   0:33 left
// Elsewhere one line when a phase ends, and one about every ten seconds while it runs:
//   statistics     45 %   58/128 sequences   0:27   0:33 left
//   statistics    128 sequences in 60.4 s, 2.1 GiB of statistics
#ifndef CVXQ_BASE_PROGRESS_H_
#define CVXQ_BASE_PROGRESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cvxq {

enum class ProgressMode { kQuiet, kLines, kBar };

// kQuiet if asked for; kBar if standard error is a terminal that can redraw a line; else kLines.
ProgressMode ChooseProgressMode(bool quiet);

// What a listener is told. The views hold during the call only.
struct ProgressUpdate {
  enum class Kind { kStart, kAdvance, kDone, kNote, kFigure };
  Kind kind = Kind::kStart;
  std::string_view phase, unit;  // of the running phase; kNote, kFigure: empty
  std::string_view note;         // of kDone and kNote; the name of kFigure
  int64_t count = 0, total = 0;  // total 0: unknown
  double value = 0;              // of kFigure
};

// What Progress takes from the world outside; tests put their own in.
struct ProgressOptions {
  ProgressMode mode = ProgressMode::kQuiet;
  std::function<void(std::string_view)> sink;  // default: standard error, one write a call
  std::function<double()> clock;               // seconds; default: the steady clock
  std::function<int()> width;                  // columns; default: the terminal's, 80 if unknown
  bool unicode = true;                         // bar of box characters, otherwise of '#' and '-'
  bool heartbeat = false;  // a thread redraws the bar each second, so that its time runs on
  // Told of everything, whatever the mode, from the thread that did it, one call at a time: must be
  // quick and may not call back.
  std::function<void(const ProgressUpdate&)> listener;
};

// All members of Progress and Phase may be called from any thread. One phase runs at a time:
// starting the next one ends the one before without its last line.
class Progress {
 public:
  explicit Progress(ProgressMode mode);
  explicit Progress(ProgressOptions options);
  // Clears the bar if a phase has not ended.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Must not outlive its Progress. Dropped before Done (an error on the way) it clears the bar
  // and says nothing, so that the error message stands on a line of its own.
  class Phase {
   public:
    Phase(Phase&& other) noexcept;
    Phase& operator=(Phase&&) = delete;
    ~Phase();
    void Advance(int64_t count = 1);
    // Ends the phase with one line that tells count, time and `note` (may be empty).
    void Done(std::string_view note = {});

   private:
    friend class Progress;
    Phase(Progress* progress, uint64_t id) : progress_(progress), id_(id) {}
    Progress* progress_;  // null once done or moved from
    uint64_t id_;
  };

  // `total` counts of `unit` are to come (0: unknown, shown without bar and percentage). Counts of
  // the unit "bytes" are shown as sizes.
  [[nodiscard]] Phase Start(std::string name, int64_t total, std::string unit);

  // Prints one line above the bar; nothing in kQuiet.
  void Note(std::string_view line);
  // A figure by which work is judged while it runs, for the listener alone.
  void Figure(std::string_view name, double value);
  // All lines so far, for reports; in kQuiet too.
  std::vector<std::string> notes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cvxq

#endif  // CVXQ_BASE_PROGRESS_H_
