// What packed models are worth: near the original on every path through the code, nearer with more
// bits and with tuning, and known to be damaged where they are.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "gtest/gtest.h"
#include "pipeline/evaluate.h"
#include "pipeline/model_files.h"
#include "storage/files.h"
#include "tests/pipeline/quantize_job.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

using QuantizeQualityTest = QuantizeJob;

// Every combination of options that changes the path through the code gives a model that is near
// the original, at so little calibration: 0.02 to 0.14 nats a token (untrained, it would be 3).
TEST_F(QuantizeQualityTest, EveryPathGivesAWorkingModel) {
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

TEST_F(QuantizeQualityTest, MoreBitsAreNearerToTheOriginal) {
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

TEST_F(QuantizeQualityTest, TuningBringsTheModelNearerAtTheSameSize) {
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

// The dense model that a packed one stands for, written with its decoded weights.
TEST_F(QuantizeQualityTest, PackedWeightsComputeAsTheirDecodedValues) {
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

// Wherever a byte of the weights is wrong, evaluation says so and names the tensor.
TEST_F(QuantizeQualityTest, DamagedFilesAreDetectedEverywhere) {
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

}  // namespace
}  // namespace cvxq
