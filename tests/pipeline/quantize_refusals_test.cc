// Jobs that are refused: rates and options that cannot be, and outputs that would cost somebody a
// model.
#include <filesystem>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/files.h"
#include "tests/pipeline/quantize_job.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// A refusal is one clear line, and nothing is left where the output would be.
class RefusalTest : public QuantizeJob {
 protected:
  void Expect(QuantizeOptions options, const std::string& part,
              absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    Progress progress(ProgressMode::kQuiet);
    const Status status = Quantize(options, progress).status();
    EXPECT_EQ(status.code(), code) << status;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(part));
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 400u) << message;
    EXPECT_TRUE(fs::is_empty(scratch_.path())) << "left behind after: " << message;
  }
  QuantizeOptions At(double bits) {
    QuantizeOptions options = Quick(kModels[0], Out());
    options.bits = bits;
    return options;
  }
};

TEST_F(RefusalTest, ImpossibleRates) {
  for (const double bits : {0.0, -1.0, 9.0, 8.0001, std::numeric_limits<double>::quiet_NaN()}) {
    Expect(At(bits), "out of range");
  }
  Expect(At(0.01), "--bits 0.01 is too low");
  QuantizeOptions options = Quick(kModels[0], Out());
  Expect(options, "--bits or --size");
  options.size = 100'000;
  Expect(options, "--size 97.7 KiB is too small");
  options.size = 0;
  Expect(options, "too small");
  options.bits = 3;
  Expect(options, "--bits or --size");
}

TEST_F(RefusalTest, SenselessOptions) {
  QuantizeOptions options = At(3);
  options.calibration.samples = 0;
  Expect(options, "--samples");
  options = At(3);
  options.calibration.seq_len = 1;
  Expect(options, "--seq-len");
  options = At(3);
  options.iterations = 0;
  Expect(options, "--iterations");
  options = At(3);
  options.tune = -1;
  Expect(options, "--tune");
  options = At(3);
  options.group_rows = 0;
  Expect(options, "--group-rows");
  options = At(3);
  options.codec = CodecKind::kCompanded;
  options.feedback = Feedback::kOne;
  Expect(options, "--feedback");
  options = At(3);
  options.objective = Objective::kHidden;
  options.estimator = Estimator::kLabels;
  Expect(options, "--estimator labels");
}

TEST_F(RefusalTest, OptionsThatACodecDoesNotHaveAreRefused) {
  const auto refused = [&](auto set) {
    QuantizeOptions options = Quick(kModels[0], Out("refused"));
    options.bits = 3;
    set(options);
    const auto report = Run(options);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument) << report.status();
    EXPECT_FALSE(fs::exists(Out("refused")));
  };
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kEntropy, o.nominal = true; });
  refused(
      [](QuantizeOptions& o) { o.codec = CodecKind::kEntropy, o.partition = Partition::kRows; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kEntropy, o.bits = 0.01; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kCompanded, o.feedback = Feedback::kTwo; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kRtn, o.bits = 2.5; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kRtn, o.bits = 1; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kRtn, o.feedback = Feedback::kOne; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kGptq, o.feedback = Feedback::kNone; });
  refused([](QuantizeOptions& o) { o.codec = CodecKind::kOwq, o.feedback = Feedback::kTwo; });
  refused([](QuantizeOptions& o) {
    o.codec = CodecKind::kGptq;
    o.bits.reset();
    o.size = 1'000'000;
  });
  refused([](QuantizeOptions& o) { o.shrinkage = 1; });
  refused([](QuantizeOptions& o) { o.group = 0; });
}

// Copies the example so that nothing can happen to it.
class OutputTest : public QuantizeJob {
 protected:
  OutputTest() {
    fs::create_directory(Out("models"));
    fs::copy(Example(kModels[0]), model_);
  }
  Status Run(const std::string& output, bool overwrite) {
    QuantizeOptions options = Quick(kModels[0], output);
    options.model = model_;
    options.bits = 3;
    options.overwrite = overwrite;
    Progress progress(ProgressMode::kQuiet);
    return Quantize(options, progress).status();
  }
  const std::string model_ = Out("models/llama");
};

TEST_F(OutputTest, NeverReplacesItsOwnModel) {
  fs::create_directory_symlink(model_, Out("link"));
  const std::string sha = *FileSha256(model_ + "/model.safetensors");
  for (const std::string& output : {model_, model_ + "/", Out("models/../models/llama"),
                                    Out("link"), Out("models"), Out(".")}) {
    for (const bool overwrite : {false, true}) {
      const Status status = Run(output, overwrite);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << output << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("model's own folder")) << output;
    }
  }
  EXPECT_EQ(*FileSha256(model_ + "/model.safetensors"), sha);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch_.path()), fs::directory_iterator()), 2);
}

TEST_F(OutputTest, OverwritesOnlyWhatItWroteItself) {
  fs::create_directory(Out("empty"));
  EXPECT_TRUE(Run(Out("empty"), true).ok());
  EXPECT_TRUE(Run(Out("empty"), true).ok());  // now a packed model
  EXPECT_EQ(Run(Out("empty"), false).code(), absl::StatusCode::kAlreadyExists);

  fs::copy(model_, Out("dense"));
  scratch_.Write("letters/a.txt", "dear");
  scratch_.Write("broken/config.json", "{\"quantization_config\": ");
  scratch_.Write("other/config.json", R"({"quantization_config": {"quant_method": "gptq"}})");
  for (const char* folder : {"dense", "letters", "broken", "other"}) {
    const Status status = Run(Out(folder), true);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--overwrite is for"));
  }
  EXPECT_TRUE(fs::exists(Out("letters/a.txt")));
  EXPECT_TRUE(fs::exists(Out("dense/model.safetensors")));
  scratch_.Write("file", "a file");
  EXPECT_FALSE(Run(Out("file"), true).ok());
}

TEST_F(OutputTest, WillNotQuantiseTwice) {
  ASSERT_TRUE(Run(Out("packed"), false).ok());
  QuantizeOptions options = Quick(kModels[0], Out("again"));
  options.model = Out("packed");
  options.bits = 2;
  Progress progress(ProgressMode::kQuiet);
  const Status status = Quantize(options, progress).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("already packed"));
}

}  // namespace
}  // namespace cvxq
