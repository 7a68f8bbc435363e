// Quantisation from end to end on the example models: rates, sizes, and the same bytes however a
// job is run.
#include "pipeline/quantize.h"

#include <map>

#include "gtest/gtest.h"
#include "pipeline/evaluate.h"
#include "pipeline/inspect.h"
#include "storage/files.h"
#include "tests/pipeline/quantize_job.h"

namespace cvxq {
namespace {

using QuantizeTest = QuantizeJob;

TEST_F(QuantizeTest, MeetsEveryRateFromBelow) {
  for (const CodecKind codec : {CodecKind::kLloyd, CodecKind::kEntropy, CodecKind::kCompanded}) {
    for (const double bits : {1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0}) {
      // The compander takes its time: its extremes and one between are enough.
      if (codec == CodecKind::kCompanded && bits != 1.2 && bits != 2.5 && bits != 6) continue;
      const std::string model = kModels[codec == CodecKind::kCompanded ? 1 : 0];
      QuantizeOptions options = Quick(model, Out());
      options.bits = bits;
      options.codec = codec;
      const auto report = Run(options);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_LE(report->bits_per_weight, bits) << model;
      EXPECT_GE(report->bits_per_weight, bits * 0.999) << model;
      EXPECT_NEAR(figures_["size_ratio"], report->bits_per_weight / bits, 1e-4);
      EXPECT_EQ(figures_["log2_lambda"], report->log2_lambda);
      EXPECT_LT(report->nominal_bits_per_weight, report->bits_per_weight);
      EXPECT_EQ(report->file_bytes, OutBytes());
      // inspect tells the same of the finished folder (but for the padding of a header).
      const auto inspected = Inspect(Out());
      ASSERT_TRUE(inspected.ok()) << inspected.status();
      EXPECT_NEAR(inspected->bits_per_weight, report->bits_per_weight, 0.002);
      EXPECT_EQ(inspected->nominal_bits_per_weight, report->nominal_bits_per_weight);
      EXPECT_EQ(inspected->file_bytes, report->file_bytes);
      EXPECT_EQ(inspected->parameters, report->parameters);
    }
  }
}

TEST_F(QuantizeTest, MeetsSizesFromBelow) {
  for (const int64_t size : {700'000, 777'777, 900'000, 1'100'000}) {
    for (const char* model : kModels) {
      QuantizeOptions options = Quick(model, Out());
      options.size = size;
      const auto report = Run(options);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(OutBytes(), report->file_bytes);
      EXPECT_LE(report->file_bytes, size) << model;
      EXPECT_GE(report->file_bytes, size - size / 1000) << model;
    }
  }
}

TEST_F(QuantizeTest, ALargeSizeGivesEveryWeightEightBits) {
  QuantizeOptions options = Quick(kModels[0], Out());
  options.size = int64_t{1} << 40;
  const auto entropy = Run(options);
  ASSERT_TRUE(entropy.ok()) << entropy.status();
  EXPECT_NEAR(entropy->nominal_bits_per_weight, 8, 0.3);
  options.codec = CodecKind::kLloyd;
  const auto report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->nominal_bits_per_weight, 8, 1e-3);
  EXPECT_EQ(report->coding_passes, 1);
}

TEST_F(QuantizeTest, NominalCountsCodesAlone) {
  for (const double bits : {0.5, 2.0, 3.3}) {
    QuantizeOptions options = Quick(kModels[0], Out());
    options.bits = bits;
    options.nominal = true;
    const auto report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_LE(report->nominal_bits_per_weight, bits + 0.002);  // codes end on whole bytes
    EXPECT_GE(report->nominal_bits_per_weight, bits * 0.995);
    EXPECT_GT(report->bits_per_weight, report->nominal_bits_per_weight);
  }
}

TEST_F(QuantizeTest, AffineCodecsHaveTheirWidth) {
  struct Case {
    CodecKind codec;
    double bits;
    std::optional<Feedback> feedback;
  };
  const Case cases[] = {
      {CodecKind::kRtn, 4, {}}, {CodecKind::kGptq, 4, {}},  {CodecKind::kGptq, 4, Feedback::kTwo},
      {CodecKind::kAwq, 4, {}}, {CodecKind::kOwq, 4.5, {}}, {CodecKind::kRtn, 8, {}}};
  for (const Case& c : cases) {
    for (const char* model : kModels) {
      QuantizeOptions options = Quick(model, Out());
      options.codec = c.codec;
      options.bits = c.bits;
      options.feedback = c.feedback;
      options.group = 64;
      const auto report = Run(options);
      ASSERT_TRUE(report.ok()) << report.status();
      SCOPED_TRACE(absl::StrCat(model, ", ", report->codec));
      EXPECT_NEAR(report->nominal_bits_per_weight, c.bits,
                  c.codec == CodecKind::kOwq ? 0.12 : 1e-3);
      EXPECT_GT(report->bits_per_weight, report->nominal_bits_per_weight + 0.3);  // scales, zeros
      EXPECT_LT(report->bits_per_weight, report->nominal_bits_per_weight + 0.7);
      EvaluateOptions evaluate{
          .model = Out(),
          .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
          .reference = Example(model),
          .seq_len = 64,
          .max_sequences = 8};
      Progress progress(ProgressMode::kQuiet);
      const auto result = Evaluate(evaluate, progress);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_LT(result->kl_mean, 0.1);
    }
  }
}

TEST_F(QuantizeTest, SameBytesForAnyNumberOfThreadsAndFromRunToRun) {
  for (const CodecKind codec : {CodecKind::kLloyd, CodecKind::kEntropy, CodecKind::kCompanded,
                                CodecKind::kGptq, CodecKind::kAwq}) {
    const bool ours = codec == CodecKind::kLloyd || codec == CodecKind::kEntropy;
    std::map<std::string, std::string> first;
    for (const int threads : ours ? std::vector{1, 2, 3, 1} : std::vector{1, 3}) {
      QuantizeOptions options = Quick(kModels[ours ? 0 : 1], Out());
      options.codec = codec;
      options.bits = ours || codec == CodecKind::kCompanded ? 2.7 : 3;
      options.iterations = codec == CodecKind::kLloyd ? 2 : 1;
      options.tune = 1;
      options.threads = threads;
      const auto report = Run(options);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(report->sha256.size(), 5u);
      for (const auto& [file, sha] : report->sha256)
        EXPECT_EQ(*FileSha256(Out() + "/" + file), sha);
      if (first.empty()) first = report->sha256;
      EXPECT_EQ(report->sha256, first) << threads << " threads";
    }
  }
}

// Memory changes where things are kept and not what they are, but for the blocks of two-sided
// feedback.
TEST_F(QuantizeTest, SameBytesWithAndWithoutSpilling) {
  QuantizeOptions options = Quick(kModels[0], Out());
  options.feedback = Feedback::kOne;
  options.bits = 2.7;
  options.tune = 1;
  const auto expected = Run(options);
  options.memory = 0;
  const auto spilled = Run(options);
  ASSERT_TRUE(expected.ok() && spilled.ok());
  EXPECT_EQ(spilled->sha256, expected->sha256);
}

TEST_F(QuantizeTest, TheSeedChoosesTheSamples) {
  QuantizeOptions options = Quick(kModels[0], Out());
  options.bits = 2.7;
  const auto one = Run(options);
  options.calibration.seed = 1;
  const auto other = Run(options);
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_NE(one->sha256.at("model.safetensors"), other->sha256.at("model.safetensors"));
}

}  // namespace
}  // namespace cvxq
