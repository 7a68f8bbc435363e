// Quantisation from end to end on the example models: rates, sizes, determinism, refusals, and what
// the packed model is worth.
#include "pipeline/quantize.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/evaluate.h"
#include "pipeline/inspect.h"
#include "pipeline/model_files.h"
#include "storage/files.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string Example(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/examples/models/" + name;
}
const char* const kModels[] = {"kjv-llama-1m", "kjv-opt-1m"};

// A quick run: 8 sequences of 32 tokens, `lloyd`.
QuantizeOptions Quick(const std::string& model, const std::string& output) {
  QuantizeOptions options;
  options.model = Example(model);
  options.output = output;
  options.codec = CodecKind::kLloyd;
  options.calibration.samples = 8;
  options.calibration.seq_len = 32;
  return options;
}

class QuantizeTest : public testing::Test {
 protected:
  StatusOr<QuantizeReport> Run(QuantizeOptions options) {
    options.overwrite = true;
    figures_.clear();
    Progress progress({.listener = [this](const ProgressUpdate& update) {
      if (update.kind != ProgressUpdate::Kind::kFigure) return;
      figures_[std::string(update.note)] = update.value;
    }});
    return Quantize(options, progress);
  }
  std::string Out(const std::string& name = "out") const { return scratch_.path() + "/" + name; }
  int64_t OutBytes() const {
    int64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(Out())) bytes += entry.file_size();
    return bytes;
  }

  ScratchFolder scratch_;
  std::map<std::string, double> figures_;  // as told last
};

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

// Every combination of options that changes the path through the code gives a model that is near
// the original, at so little calibration: 0.02 to 0.14 nats a token (untrained, it would be 3).
TEST_F(QuantizeTest, EveryPathGivesAWorkingModel) {
  struct Path {
    const char* name;
    void (*set)(QuantizeOptions&);
  };
  const Path paths[] = {
      {"lloyd", [](QuantizeOptions&) {}},
      {"lloyd without feedback", [](QuantizeOptions& o) { o.feedback = Feedback::kNone; }},
      {"lloyd by rows", [](QuantizeOptions& o) { o.partition = Partition::kRows; }},
      {"lloyd by rows without feedback",
       [](QuantizeOptions& o) {
         o.partition = Partition::kRows;
         o.feedback = Feedback::kNone;
       }},
      {"companded", [](QuantizeOptions& o) { o.codec = CodecKind::kCompanded; }},
      {"companded by rows",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kCompanded;
         o.partition = Partition::kRows;
       }},
      {"hidden", [](QuantizeOptions& o) { o.objective = Objective::kHidden; }},
      {"hidden, tokens, companded, two rounds",
       [](QuantizeOptions& o) {
         o.objective = Objective::kHidden;
         o.estimator = Estimator::kTokens;
         o.codec = CodecKind::kCompanded;
         o.iterations = 2;
         o.grad_samples = 4;
       }},
      {"signs", [](QuantizeOptions& o) { o.estimator = Estimator::kSigns; }},
      {"tokens",
       [](QuantizeOptions& o) {
         o.estimator = Estimator::kTokens;
         o.stride = 8;
       }},
      {"two rounds", [](QuantizeOptions& o) { o.iterations = 2; }},
      {"two rounds by rows",
       [](QuantizeOptions& o) {
         o.iterations = 2;
         o.partition = Partition::kRows;
       }},
      {"entropy", [](QuantizeOptions& o) { o.codec = CodecKind::kEntropy; }},
      {"entropy again", [](QuantizeOptions& o) { o.codec = CodecKind::kEntropy; }},  // other model
      {"entropy, one-sided",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kEntropy;
         o.feedback = Feedback::kOne;
       }},
      {"entropy without feedback",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kEntropy;
         o.feedback = Feedback::kNone;
       }},
      {"entropy, output moments in small blocks, everything spilled",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kEntropy;
         o.memory = 0;
       }},
      {"entropy, two rounds, hidden",
       [](QuantizeOptions& o) {
         o.codec = CodecKind::kEntropy;
         o.objective = Objective::kHidden;
         o.iterations = 2;
       }},
      {"lloyd, one-sided", [](QuantizeOptions& o) { o.feedback = Feedback::kOne; }},
      {"clusters of 7", [](QuantizeOptions& o) { o.group_rows = 7; }},
      {"clusters larger than any matrix", [](QuantizeOptions& o) { o.group_rows = 100000; }},
      {"everything spilled", [](QuantizeOptions& o) { o.memory = 0; }},
  };
  int next = 0;
  for (const Path& path : paths) {
    const char* model = kModels[next++ % 2];
    SCOPED_TRACE(absl::StrCat(model, ", ", path.name));
    QuantizeOptions options = Quick(model, Out());
    options.bits = 3.5;
    path.set(options);
    const auto report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_LE(report->bits_per_weight, 3.5);
    EXPECT_GE(report->bits_per_weight, 3.5 * 0.999);
    double weights = 0;
    for (const LayerReport& layer : report->layers) {
      double sum = 0;
      for (const int64_t count : layer.depth_histogram) sum += static_cast<double>(count);
      EXPECT_EQ(sum, static_cast<double>(layer.rows * layer.columns)) << layer.name;
      EXPECT_TRUE(std::isfinite(layer.predicted_distortion)) << layer.name;
      weights += sum;
    }
    EXPECT_EQ(weights, static_cast<double>(report->quantized_parameters));
    EvaluateOptions evaluate{
        .model = Out(),
        .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
        .reference = Example(model),
        .seq_len = 64,
        .max_sequences = 8};
    Progress progress(ProgressMode::kQuiet);
    const auto result = Evaluate(evaluate, progress);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LT(result->kl_mean, 0.3);
    EXPECT_GT(result->kl_mean, 0);
  }
}

TEST_F(QuantizeTest, MoreBitsAreNearerToTheOriginal) {
  for (const CodecKind codec : {CodecKind::kLloyd, CodecKind::kEntropy, CodecKind::kCompanded}) {
    double last = 1;
    for (const double bits : {2.0, 3.0}) {
      QuantizeOptions options = Quick(kModels[0], Out());
      options.codec = codec;
      options.bits = bits;
      ASSERT_TRUE(Run(options).ok());
      EvaluateOptions evaluate{
          .model = Out(),
          .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
          .reference = Example(kModels[0]),
          .seq_len = 128,
          .max_sequences = 10};
      Progress progress(ProgressMode::kQuiet);
      const auto result = Evaluate(evaluate, progress);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_LT(result->kl_mean, last / 2) << bits;
      EXPECT_LT(result->kl_mean, bits < 3 ? 0.5 : 0.15) << bits;
      last = result->kl_mean;
    }
  }
}

// The divergence of the model in Out() from the example, on held-out text.
double DivergenceOf(const std::string& folder, const std::string& model) {
  EvaluateOptions evaluation{.model = folder, .reference = model, .seq_len = 128};
  evaluation.texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"};
  evaluation.max_sequences = 8;
  Progress progress(ProgressMode::kQuiet);
  const auto result = Evaluate(evaluation, progress);
  EXPECT_TRUE(result.ok()) << result.status();
  return result->kl_mean;
}

TEST_F(QuantizeTest, TuningBringsTheModelNearerAtTheSameSize) {
  struct Case {
    const char* model;
    CodecKind codec;
  };
  for (const auto& [model, codec] :
       {Case{kModels[0], CodecKind::kEntropy}, Case{kModels[1], CodecKind::kEntropy},
        Case{kModels[1], CodecKind::kRtn}}) {
    QuantizeOptions options = Quick(model, Out());
    options.codec = codec;
    options.calibration.samples = 48;
    options.calibration.seq_len = 128;
    options.bits = 2;
    const auto plain = Run(options);
    ASSERT_TRUE(plain.ok()) << plain.status();
    const double before = DivergenceOf(Out(), options.model);
    options.tune = 2;
    const auto tuned = Run(options);
    ASSERT_TRUE(tuned.ok()) << tuned.status();
    EXPECT_EQ(tuned->tune_epochs, 2);
    EXPECT_LT(DivergenceOf(Out(), options.model), 0.99 * before) << model << " " << tuned->codec;
    EXPECT_LE(tuned->file_bytes, plain->file_bytes);
    EXPECT_GE(tuned->file_bytes, plain->file_bytes - 100);  // the header may say F16 for BF16
    EXPECT_LE(tuned->bits_per_weight, plain->bits_per_weight);
    EXPECT_NEAR(tuned->bits_per_weight, plain->bits_per_weight, 0.002);
    EXPECT_EQ(tuned->file_bytes, OutBytes());
    // Every tensor is there, with its checksum.
    const auto files = OpenModel(Out());
    ASSERT_TRUE(files.ok()) << files.status();
    for (const std::string& name : files->checkpoint->names()) {
      EXPECT_TRUE(files->weights->Verify(name).ok()) << name;
    }
    EXPECT_EQ(files->weights->Describe(files->spec.names.final_norm + ".weight")->dtype,
              DType::kF16);
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

// Wherever a byte of the weights is wrong, evaluation says so and names the tensor.
TEST_F(QuantizeTest, DamagedFilesAreDetectedEverywhere) {
  for (const CodecKind codec :
       {CodecKind::kEntropy, CodecKind::kLloyd, CodecKind::kCompanded, CodecKind::kGptq}) {
    QuantizeOptions options = Quick(kModels[1], Out());
    options.codec = codec;
    options.bits = 3;
    ASSERT_TRUE(Run(options).ok());
    const std::string path = Out() + "/model.safetensors";
    const std::string good = *ReadFile(path);
    uint64_t header;
    std::memcpy(&header, good.data(), sizeof(header));
    const size_t first = 8 + header, step = (good.size() - first) / 97;
    for (size_t at = first; at < good.size(); at += step) {
      std::string bad = good;
      bad[at] ^= 0x10;
      ASSERT_TRUE(WriteFile(path, bad).ok());
      EvaluateOptions evaluate{
          .model = Out(),
          .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
          .seq_len = 16,
          .max_sequences = 1};
      Progress progress(ProgressMode::kQuiet);
      const auto result = Evaluate(evaluate, progress);
      EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << at << result.status();
    }
  }
}

TEST_F(QuantizeTest, OptionsThatACodecDoesNotHaveAreRefused) {
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

// A refusal is one clear line, and nothing is left where the output would be.
class RefusalTest : public QuantizeTest {
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

// Copies the example so that nothing can happen to it.
class OutputTest : public QuantizeTest {
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

// The dense model that a packed one stands for, written with its decoded weights.
TEST_F(QuantizeTest, PackedWeightsComputeAsTheirDecodedValues) {
  for (const char* model : kModels) {
    QuantizeOptions options = Quick(model, Out());
    options.bits = 3;
    options.codec = model == kModels[0] ? CodecKind::kLloyd : CodecKind::kCompanded;
    ASSERT_TRUE(Run(options).ok());
    const auto packed = OpenModel(Out());
    ASSERT_TRUE(packed.ok()) << packed.status();
    ASSERT_TRUE(packed->packed);

    std::map<std::string, std::vector<float>> decoded;
    std::vector<TensorEntry> entries;
    for (int64_t block = 0; block < packed->spec.layers; ++block) {
      for (const LinearId id : packed->spec.linears()) {
        const std::string linear = packed->spec.LinearName(block, id);
        ASSERT_TRUE(packed->weights->IsPacked(linear)) << linear;
        const auto matrix = packed->weights->Packed(linear);
        ASSERT_TRUE(matrix.ok()) << matrix.status();
        decoded[linear + ".weight"] = Decode(**matrix);
        entries.push_back(
            {linear + ".weight", DType::kF32, {packed->spec.rows(id), packed->spec.columns(id)}});
      }
    }
    std::vector<std::string> dense;
    for (const std::string& name : packed->checkpoint->names()) {
      if (IsQuantizedTensor(name)) continue;
      const TensorInfo& tensor = *packed->checkpoint->Find(name);
      entries.push_back({name, tensor.dtype, tensor.shape});
      dense.push_back(name);
    }
    const std::string folder = Out("decoded");
    fs::remove_all(folder);
    fs::copy(Example(model), folder);
    auto writer = *SafetensorsWriter::Create(folder + "/model.safetensors", entries, {});
    for (const TensorEntry& entry : entries) {
      if (!decoded.contains(entry.name)) continue;
      ASSERT_TRUE(writer->Append(std::as_bytes(std::span(decoded[entry.name]))).ok());
    }
    for (const std::string& name : dense) {
      const HostTensor tensor = *packed->checkpoint->Get(name);
      ASSERT_TRUE(writer->Append({tensor.data, static_cast<size_t>(tensor.bytes())}).ok());
    }
    ASSERT_TRUE(writer->Finish().ok());

    EvaluateOptions evaluate{
        .model = Out(),
        .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
        .reference = folder,
        .seq_len = 64,
        .max_sequences = 10};
    Progress progress(ProgressMode::kQuiet);
    const auto result = Evaluate(evaluate, progress);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_NEAR(result->perplexity, result->reference_perplexity, 1e-4 * result->perplexity);
    EXPECT_LT(result->kl_mean, 1e-6);
    EXPECT_GT(result->top1_agreement, 0.99);
  }
}

// Perplexities that the reference implementation gives for the same text, cut the same way.
TEST(EvaluateTest, ExampleModelsHaveTheirKnownPerplexity) {
  const std::pair<const char*, double> known[] = {{kModels[0], 16.0802}, {kModels[1], 16.5216}};
  for (const auto& [model, perplexity] : known) {
    EvaluateOptions options{.model = Example(model),
                            .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
                            .reference = Example(model),
                            .seq_len = 256,
                            .max_sequences = 40};
    Progress progress(ProgressMode::kQuiet);
    const auto report = Evaluate(options, progress);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_NEAR(report->perplexity, perplexity, 0.00015) << model;
    EXPECT_EQ(report->texts[0].tokens, 40 * 255);
    EXPECT_EQ(report->texts[0].blocks, 40);
    EXPECT_NEAR(std::exp(report->texts[0].nll), report->perplexity, 1e-9);
    // Against itself a model has no divergence.
    EXPECT_EQ(report->reference_perplexity, report->perplexity);
    EXPECT_EQ(report->top1_agreement, 1);
    EXPECT_NEAR(report->kl_mean, 0, 1e-7);
  }
}

}  // namespace
}  // namespace cvxq
