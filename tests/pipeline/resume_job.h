// A job that a test stops, spoils and begins again.
#ifndef CVXQ_TESTS_PIPELINE_RESUME_JOB_H_
#define CVXQ_TESTS_PIPELINE_RESUME_JOB_H_

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "gtest/gtest.h"
#include "pipeline/quantize.h"
#include "storage/files.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {

class ResumeJob : public testing::Test {
 protected:
  using Sha256 = std::map<std::string, std::string>;

  ResumeJob() {
    options_.model = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-opt-1m";
    options_.output = scratch_.path() + "/out";
    options_.overwrite = true;
    options_.bits = 2.2;
    options_.threads = 2;
    options_.calibration.samples = 200;  // three waves of 4096 tokens and a part of a fourth
    options_.calibration.seq_len = 64;
    options_.state = options_.output + ".resume";
    options_.save_seconds = 0;
  }

  // Stops it where `stop_at` says so of an update; empty: never.
  StatusOr<QuantizeReport> Run(
      const std::function<bool(const ProgressUpdate&)>& stop_at = nullptr) {
    std::atomic<bool> stop = false;
    const StopScope scope(&stop);
    notes_.clear();
    phases_.clear();
    Progress progress({.listener = [&](const ProgressUpdate& update) {
      if (update.kind == ProgressUpdate::Kind::kNote) notes_.emplace_back(update.note);
      if (update.kind == ProgressUpdate::Kind::kStart) phases_.emplace_back(update.phase);
      if (stop_at && stop_at(update)) stop = true;
    }});
    return Quantize(options_, progress);
  }
  // Of the same job without a state, with its phases in phases_; made once for each set of options.
  const Sha256& Expected() {
    struct Whole {
      Sha256 sha256;
      std::vector<std::string> phases;
    };
    static auto* const whole = new std::map<std::string, Whole>();
    const auto [found, fresh] = whole->emplace(Options(), Whole());
    if (fresh) {
      const std::string state = std::exchange(options_.state, "");
      const auto report = Run();
      options_.state = state;
      EXPECT_TRUE(report.ok()) << report.status();
      if (report.ok()) found->second = {report->sha256, phases_};
    }
    phases_ = found->second.phases;
    return found->second.sha256;
  }
  // Runs to the end, which gives the bytes of a job that was never interrupted.
  void ExpectFinished() {
    const Sha256& expected = Expected();
    const auto report = Run();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->sha256, expected);
    EXPECT_FALSE(std::filesystem::exists(options_.state));
  }
  void StopIn(const std::string& phase, int64_t count) {
    const auto report = Run([&](const ProgressUpdate& update) {
      return update.phase == phase && update.count >= count;
    });
    ASSERT_TRUE(absl::IsCancelled(report.status())) << report.status();
  }
  // What the bytes depend on, as far as tests set it.
  std::string Options() const {
    const QuantizeOptions& o = options_;
    return absl::StrFormat(
        "%s %d %g %d %d %d %d %d %d %d %d %d %d %d", o.model, o.codec, o.bits.value_or(0),
        o.nominal, o.objective, o.feedback ? static_cast<int>(*o.feedback) : -1, o.iterations,
        o.grad_samples.value_or(0), o.partition, o.group, o.group_rows.value_or(0), o.tune,
        o.calibration.samples, o.calibration.seq_len);
  }
  // Cuts a file short, removes it, or turns a bit, by `how`.
  static void Damage(const std::string& file, int how) {
    if (how == 0) std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
    if (how == 1) std::filesystem::remove(file);
    if (how == 2) {
      std::string bytes = *ReadFile(file);
      bytes[bytes.size() * 2 / 3] ^= 4;
      std::ofstream(file, std::ios::binary) << bytes;
    }
  }
  std::vector<std::string> StateFiles() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(options_.state)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  ScratchFolder scratch_;
  QuantizeOptions options_;
  std::vector<std::string> notes_, phases_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_PIPELINE_RESUME_JOB_H_
