// Tuning a model whose matrices a stand-in for a codec has "coded". (quantize_quality_test.cc has
// it with the codecs, end to end.)
#include "pipeline/tune.h"

#include <cmath>
#include <filesystem>

#include "gtest/gtest.h"
#include "storage/files.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

// Every matrix comes back as the original's, each weight moved by up to `error`.
class FakeCoder : public ModelCoder {
 public:
  FakeCoder(const Checkpoint& checkpoint, float error) : checkpoint_(checkpoint), error_(error) {}
  std::string name() const override { return "fake"; }
  StatusOr<Feedback> ChooseFeedback(std::optional<Feedback>) override { return Feedback::kNone; }
  StatisticsNeeds Needs() const override { return {}; }
  Status Plan(const StageContext&, int64_t) override { return absl::OkStatus(); }
  std::unique_ptr<BlockCoder> Blocks(const StageContext&) override { return nullptr; }
  std::vector<int32_t> RowOrder(const LinearPlan&, int64_t, std::span<const float>) const override {
    return {};
  }
  Status Code(CodingContext&) override { return absl::OkStatus(); }
  StatusOr<std::vector<float>> Decoded(const LinearPlan& plan) const override {
    CVXQ_ASSIGN_OR_RETURN(std::vector<float> w, ReadWeights(checkpoint_, plan));
    for (size_t i = 0; i < w.size(); ++i) w[i] += error_ * (2 * RandomUniform(5, i) - 1);
    return w;
  }

 private:
  const Checkpoint& checkpoint_;
  const float error_;
};

// The bytes that are written after some epochs (0: untuned).
std::string TunedFile(const std::string& name, float error, int64_t epochs,
                      const ModelOptions& memory = {}) {
  TinyModel tiny(name);
  const ScratchFolder scratch;
  SpillStore store(scratch.path(), 0);
  const CalibrationSet calibration = RandomSequences(tiny.files.spec, 6, 16);
  const FakeCoder coder(*tiny.files.checkpoint, error);
  std::vector<LinearPlan> plans = MakePlans(tiny.files.spec);
  for (LinearPlan& plan : plans) plan.suffix = ".packed";
  const auto made = PackedWriter::Make(*tiny.files.checkpoint, {}, plans);
  EXPECT_TRUE(made.ok()) << made.status();
  PackedWriter& writer = **made;
  Progress progress(ProgressMode::kQuiet);
  if (epochs > 0) {
    const Status tuned = TuneParameters({.epochs = epochs,
                                         .spec = tiny.files.spec,
                                         .original = *tiny.files.weights,
                                         .calibration = calibration,
                                         .coder = coder,
                                         .memory = memory,
                                         .backend = *tiny.backend,
                                         .store = store,
                                         .progress = progress,
                                         .plans = plans,
                                         .writer = writer});
    EXPECT_TRUE(tuned.ok()) << tuned;
  }
  EXPECT_TRUE(writer.Write(scratch.path()).ok());
  return *ReadFile(scratch.path() + "/model.safetensors");
}

TEST(TuneTest, TunesWhatIsWrong) {
  for (const char* name : {"llama", "opt", "opt_350m", "gemma3"}) {
    const std::string tuned = TunedFile(name, 0.05f, 2);
    EXPECT_NE(tuned, TunedFile(name, 0.05f, 0)) << name;
    EXPECT_EQ(tuned, TunedFile(name, 0.05f, 2, {.resident_bytes = 0})) << name;
  }
}

TEST(TuneTest, WhereNothingIsToGainNothingChanges) {
  for (const char* name : {"llama", "opt"}) {
    EXPECT_EQ(TunedFile(name, 0, 1), TunedFile(name, 0, 0)) << name;
  }
}

TEST(TuneTest, RefusesWhatIsNotFinite) {
  TinyModel tiny("llama");
  tiny.Spoil(tiny.files.spec.names.final_norm + ".weight", 3e38f);
  const ScratchFolder scratch;
  SpillStore store(scratch.path(), 0);
  const CalibrationSet calibration = RandomSequences(tiny.files.spec, 2, 8);
  const FakeCoder coder(*tiny.files.checkpoint, 0.05f);
  std::vector<LinearPlan> plans = MakePlans(tiny.files.spec);
  const auto made = PackedWriter::Make(*tiny.files.checkpoint, {}, plans);
  EXPECT_TRUE(made.ok()) << made.status();
  PackedWriter& writer = **made;
  Progress progress(ProgressMode::kQuiet);
  const Status status = TuneParameters({.epochs = 1,
                                        .spec = tiny.files.spec,
                                        .original = *tiny.spoilt,
                                        .calibration = calibration,
                                        .coder = coder,
                                        .backend = *tiny.backend,
                                        .store = store,
                                        .progress = progress,
                                        .plans = plans,
                                        .writer = writer});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

}  // namespace
}  // namespace cvxq
