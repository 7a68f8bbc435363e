// Models in GGUF files, through what users call.
#include <gtest/gtest.h>

#include <filesystem>

#include "pipeline/evaluate.h"
#include "pipeline/generate.h"
#include "pipeline/inspect.h"
#include "pipeline/model_files.h"
#include "pipeline/quantize.h"
#include "tests/formats/gguf_testing.h"

namespace cvxq {
namespace {

class GgufReadsTest : public testing::Test {
 protected:
  // The example with every matrix in this type, in a folder of its own.
  std::string Write(const std::string& type, int64_t split_bytes = 0) {
    const std::string out = folder_.File(type);
    auto made = GgufExport::Make(kExample, {.menu = {type}, .split_bytes = split_bytes});
    EXPECT_TRUE(made.ok()) << made.status();
    const auto choice = made->Choose(type);
    EXPECT_TRUE(made->Write(choice, out).ok());
    int64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(out)) {
      bytes += static_cast<int64_t>(entry.file_size());
    }
    EXPECT_EQ(bytes, made->format->TotalBytes(choice));
    return out;
  }
  StatusOr<EvaluateReport> Eval(const std::string& model) {
    Progress progress(ProgressMode::kQuiet);
    return Evaluate({.model = model,
                     .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
                     .reference = kExample,
                     .seq_len = 128,
                     .max_sequences = 2,
                     .threads = 2},
                    progress);
  }

  TempFolder folder_;
};

TEST_F(GgufReadsTest, TheSameModelComesOutOfTheFile) {
  const std::string out = Write("bf16");
  const auto report = Eval(out + "/model.gguf");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->perplexity, report->reference_perplexity);
  EXPECT_LT(report->kl_mean, 1e-9);
  const GenerateOptions options{.prompt = "In the beginning", .tokens = 12, .threads = 2};
  GenerateOptions original = options, exported = options;
  original.model = kExample;
  exported.model = out;  // the folder that holds the file
  const auto before = Generate(original, [](std::string_view) {});
  const auto after = Generate(exported, [](std::string_view) {});
  ASSERT_TRUE(before.ok() && after.ok()) << before.status() << after.status();
  EXPECT_EQ(before->text, after->text);
  EXPECT_EQ(before->prompt_tokens, after->prompt_tokens);
}

TEST_F(GgufReadsTest, GridsAndSetsAreRead) {
  const std::string out = Write("q8_0", 200'000);
  EXPECT_GT(std::distance(std::filesystem::directory_iterator(out),
                          std::filesystem::directory_iterator()),
            3);
  const auto report = Eval(out);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->kl_mean, 0);
  EXPECT_LT(report->kl_mean, 1e-3);
  for (const auto& entry : std::filesystem::directory_iterator(out)) {
    EXPECT_LE(entry.file_size(), 200'000u) << entry.path();
  }
}

TEST_F(GgufReadsTest, InspectTellsTypesAndSizes) {
  const std::string path = Write("q8_0") + "/model.gguf";
  const auto report = Inspect(path);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->dtype, "q8_0");
  EXPECT_TRUE(report->packed);
  EXPECT_DOUBLE_EQ(report->bits_per_weight, 8.5);
  EXPECT_EQ(report->file_bytes, static_cast<int64_t>(std::filesystem::file_size(path)));
  const auto original = Inspect(kExample);
  ASSERT_TRUE(original.ok());
  EXPECT_EQ(report->parameters, original->parameters);
  EXPECT_EQ(report->quantized_parameters, original->quantized_parameters);
  EXPECT_NE(report->ToText().find("q8_0"), std::string::npos);
  EXPECT_EQ(report->ToJson()["quantization_config"]["quant_method"], "gguf");
}

TEST_F(GgufReadsTest, IsNoSourceOfAJob) {
  const std::string out = Write("bf16");
  QuantizeOptions options{.model = out, .output = folder_.File("packed"), .bits = 3};
  Progress progress(ProgressMode::kQuiet);
  ExpectError(Quantize(options, progress).status(), absl::StatusCode::kInvalidArgument,
              "quantise from the original");
}

TEST_F(GgufReadsTest, NamesWhatItCannotOpen) {
  const std::string out = Write("bf16");
  std::filesystem::copy_file(out + "/model.gguf", out + "/other.gguf");
  ExpectError(OpenModel(out).status(), absl::StatusCode::kInvalidArgument, "holds 2 GGUF models");
  ExpectError(OpenModel(folder_.File("none.gguf")).status(), absl::StatusCode::kNotFound,
              "none.gguf");
  Put(folder_.File("bad.gguf"), "GGUF and nothing more");
  ExpectError(OpenModel(folder_.File("bad.gguf")).status(), absl::StatusCode::kDataLoss,
              "bad.gguf");
}

}  // namespace
}  // namespace cvxq
