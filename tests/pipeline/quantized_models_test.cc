// Models in other tools' formats, opened and inspected like any other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "formats/quantized_checkpoint.h"
#include "model/model.h"
#include "pipeline/inspect.h"
#include "pipeline/model_files.h"
#include "tests/formats/fixed_export.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

const std::string kExample = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";

void Export(MakeFormat make, const std::string& type, const std::string& folder) {
  StatusOr<FixedExport> out = DrawFixedExport(kExample, make, {.menu = {type}, .group = 32});
  ASSERT_TRUE(out.ok()) << out.status();
  const Status written = WriteFixedExport(*out, folder);
  ASSERT_TRUE(written.ok()) << written;
}

// Logits of a few tokens.
std::vector<float> LogitsOf(const std::string& folder) {
  const auto files = OpenModel(folder, 1);
  EXPECT_TRUE(files.ok()) << files.status();
  const std::unique_ptr<Backend> backend = MakeCpuBackend(1);
  const auto model = Model::Load(files->spec, *files->weights, {}, *backend);
  EXPECT_TRUE(model.ok()) << model.status();
  const std::vector<int32_t> tokens = {0, 17, 261, 305, 402, 77, 513, 8};
  const Tensor ids = backend->Allocate(DType::kI32, {8});
  backend->Upload(tokens.data(), ids);
  const auto x = (*model)->Forward({.B = 1, .T = 8}, ids);
  EXPECT_TRUE(x.ok()) << x.status();
  const Tensor logits = (*model)->Logits(*x);
  std::vector<float> values(logits.shape.elements());
  backend->Download(logits, values.data());
  return values;
}

TEST(QuantizedModels, ComputeNearlyWhatTheOriginalDoes) {
  const std::vector<float> original = LogitsOf(kExample);
  double size = 0;
  for (const float v : original) size += v * v;
  for (const MakeFormat make : {MakeCompressedTensors, MakeGptq}) {
    const ScratchFolder folder;
    Export(make, "int8", folder.path());
    const std::vector<float> logits = LogitsOf(folder.path());
    double difference = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      difference += (logits[i] - original[i]) * (logits[i] - original[i]);
    }
    EXPECT_GT(difference, 0);
    EXPECT_LT(std::sqrt(difference / size), 0.02);
  }
}

TEST(QuantizedModels, AreInspected) {
  const ScratchFolder folder;
  Export(MakeAwq, "int4a", folder.path());
  const auto original = Inspect(kExample), report = Inspect(folder.path());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->packed);
  EXPECT_EQ(report->parameters, original->parameters);
  EXPECT_EQ(report->dtype, "BF16");
  EXPECT_NEAR(report->bits_per_weight, 4 + 20.0 / 32, 1e-9);
  EXPECT_EQ(report->linears_by_scheme.at("int4a_g32"), 28);
  EXPECT_THAT(report->ToText(), HasSubstr("awq: 4.6250 bits a weight"));
  EXPECT_EQ(report->ToJson()["quantization_config"]["quant_method"], "awq");
}

TEST(QuantizedModels, OtherMethodsAreRefused) {
  const ScratchFolder folder;
  Export(MakeAwq, "int4a", folder.path());
  nlohmann::json config = nlohmann::json::parse(std::ifstream(folder.path() + "/config.json"));
  config["quantization_config"]["quant_method"] = "bitsandbytes";
  folder.Write("config.json", config.dump());
  const auto files = OpenModel(folder.path());
  EXPECT_EQ(files.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(files.status().message()), HasSubstr("bitsandbytes"));
  EXPECT_THAT(std::string(files.status().message()), HasSubstr(folder.path()));
}

}  // namespace
}  // namespace cvxq
