// `cvxq export` as its users meet it: every format written, read back by `cvxq eval`, its report,
// and what is refused.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/cli_testing.h"

namespace cvxq {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr char kReport[] = "cvxq_export.json";

class ExportCommandTest : public CliTest {
 protected:
  std::string out() const { return Path("box/out"); }
  // With few short sequences, unless `more` says otherwise.
  Arguments Export(const std::string& format, const Arguments& more,
                   const std::string& model = kModel) const {
    Arguments arguments = {"export", model, "--format", format, "-o", out()};
    for (const auto& [flag, value] :
         {std::pair{"--samples", "8"}, {"--seq-len", "32"}, {"--check-samples", "2"}}) {
      if (std::find(more.begin(), more.end(), flag) != more.end()) continue;
      arguments = arguments + Arguments{flag, value};
    }
    return arguments + more;
  }
  // Exports, and gives the report that is printed.
  json Exported(const Arguments& arguments) const {
    const ProcessResult result = Cvxq(arguments + Arguments{"--json"});
    EXPECT_EQ(result.code, 0) << result.err;
    json report = json::parse(result.out, nullptr, false);
    EXPECT_TRUE(report.is_object()) << result.out;
    return report;
  }
  json ReportFile() const { return json::parse(Slurp(out() + "/" + kReport), nullptr, false); }
  // Bytes by the name of a file, the report not among them.
  std::map<std::string, int64_t> Files() const {
    std::map<std::string, int64_t> files;
    for (const auto& entry : fs::directory_iterator(out())) {
      const std::string name = entry.path().filename();
      if (name != kReport) files[name] = static_cast<int64_t>(entry.file_size());
    }
    return files;
  }
  static std::set<std::string> Types(const json& report) {
    std::set<std::string> types;
    for (const json& matrix : report["matrices"]) types.insert(matrix["type"]);
    return types;
  }
  // KL to the original of what was written, as `cvxq eval` reads it.
  double Divergence() const {
    const ProcessResult result =
        Cvxq({"eval", out(), "--reference", kModel, "--text", kText, "--seq-len", "64",
              "--max-sequences", "4", "--json", "--quiet"});
    EXPECT_EQ(result.code, 0) << result.err;
    const json report = json::parse(result.out, nullptr, false);
    for (const char* key : {"perplexity", "reference_perplexity", "kl_mean", "top1_agreement"}) {
      EXPECT_TRUE(report.contains(key) && report[key].is_number()) << key;
    }
    EXPECT_GT(report["top1_agreement"], 0.7);
    return report["kl_mean"];
  }
};

TEST_F(ExportCommandTest, TheReportHasEveryKey) {
  const json printed = Exported(Export("gguf", {"--bits", "4.6"}));
  json report = ReportFile();
  ASSERT_TRUE(report.is_object());
  for (const char* key : {"output", "format", "calibration"}) {
    EXPECT_TRUE(report[key].is_string()) << key;
  }
  for (const char* key :
       {"bits_per_weight", "log2_lambda", "predicted_distortion", "measured_distortion", "kl"}) {
    EXPECT_TRUE(report[key].is_number()) << key;
  }
  EXPECT_GT(report["least_step_bytes"].get<int64_t>(), 0);
  EXPECT_GT(report["most_step_bytes"], report["least_step_bytes"]);
  EXPECT_EQ(report["output"], out());
  EXPECT_EQ(report["format"], "gguf");
  EXPECT_TRUE(report["asked_bytes"].is_null());  // bits were
  EXPECT_TRUE(report["fell_back"].is_boolean());
  EXPECT_TRUE(report["notes"].is_array());
  ASSERT_TRUE(report["uniform"].is_object());
  EXPECT_TRUE(report["uniform"]["type"].is_string());
  EXPECT_TRUE(report["uniform"]["file_bytes"].is_number_integer());
  EXPECT_TRUE(report["uniform"]["kl"].is_number());
  for (const char* phase : {"calibration", "statistics", "measure", "code", "check", "total"}) {
    EXPECT_TRUE(report["seconds"][phase].is_number()) << phase;
  }
  // Bytes are those on the disk, in all and of each file.
  int64_t bytes = 0;
  for (const auto& [name, size] : Files()) {
    bytes += size;
    EXPECT_EQ(report["sha256"][name].get<std::string>().size(), 64u) << name;
  }
  EXPECT_EQ(report["file_bytes"], bytes);
  EXPECT_EQ(report["sha256"].size(), Files().size());
  // Bits, distortions and bytes are those of the matrices.
  ASSERT_EQ(report["matrices"].size(), 30u);
  double weights = 0, of_matrices = 0, predicted = 0, measured = 0;
  for (const json& matrix : report["matrices"]) {
    EXPECT_TRUE(matrix["name"].is_string() && matrix["type"].is_string());
    weights += matrix["rows"].get<double>() * matrix["columns"].get<double>();
    of_matrices += matrix["bytes"].get<double>();
    predicted += matrix["predicted_distortion"].get<double>();
    measured += matrix["measured_distortion"].get<double>();
    // The menu has types of blocks of 256, and rows here are shorter.
    EXPECT_THAT(matrix["fallback"].get<std::string>(),
                HasSubstr("columns do not divide into blocks of 256"));
  }
  EXPECT_NEAR(report["bits_per_weight"].get<double>(), 8 * of_matrices / weights, 1e-9);
  EXPECT_LE(report["bits_per_weight"], 4.6);
  EXPECT_NEAR(report["predicted_distortion"].get<double>(), predicted, 1e-9 * predicted);
  EXPECT_NEAR(report["measured_distortion"].get<double>(), measured, 1e-9 * measured);
  EXPECT_GT(measured, 0);
  // What is printed is the same, but for the time that writing the report itself takes.
  json shown = printed;
  shown.erase("seconds");
  report.erase("seconds");
  EXPECT_EQ(shown, report);
  const double kl = Divergence();
  EXPECT_GT(kl, 0);
  EXPECT_LT(kl, 0.05);
}

TEST_F(ExportCommandTest, GgufOfASizeInParts) {
  constexpr int64_t kSize = 860'000, kPart = 300'000;
  const json report = Exported(Export("gguf", {"--size", std::to_string(kSize), "--split",
                                               std::to_string(kPart), "--check-samples", "0"}));
  EXPECT_EQ(report["asked_bytes"], kSize);
  EXPECT_LE(report["file_bytes"], kSize);
  EXPECT_LT(kSize - report["file_bytes"].get<int64_t>(), report["least_step_bytes"]);
  EXPECT_TRUE(report["kl"].is_null());
  EXPECT_TRUE(report["uniform"].is_null());
  const auto files = Files();
  ASSERT_GE(files.size(), 3u);
  int part = 0;
  for (const auto& [name, size] : files) {
    char expected[64];
    std::snprintf(expected, sizeof(expected), "model-%05d-of-%05zu.gguf", ++part, files.size());
    EXPECT_EQ(name, expected);
    EXPECT_LE(size, kPart);
  }
  EXPECT_LT(Divergence(), 0.05);
}

TEST_F(ExportCommandTest, CompressedTensorsForVllm) {
  const json report =
      Exported(Export("compressed-tensors", {"--bits", "5.5", "--engine", "vllm", "--menu",
                                             "int3,int4,int8,dense", "--group", "32"}));
  std::map<std::string, std::set<std::string>> fused;  // types of what vLLM computes as one
  for (const json& matrix : report["matrices"]) {
    const std::string name = matrix["name"], block = name.substr(0, name.find('.', 13));
    for (const char* one : {"q_proj", "k_proj", "v_proj"}) {
      if (name.ends_with(one)) fused[block + " qkv"].insert(matrix["type"]);
    }
    for (const char* one : {"gate_proj", "up_proj"}) {
      if (name.ends_with(one)) fused[block + " gate_up"].insert(matrix["type"]);
    }
    if (!name.starts_with("model.layers.")) continue;
    EXPECT_EQ(matrix["fallback"], "vLLM has no kernel for int3") << name;
  }
  EXPECT_EQ(fused.size(), 8u);
  for (const auto& [name, types] : fused) EXPECT_EQ(types.size(), 1u) << name;
  EXPECT_TRUE(Types(report).contains("int4"));
  EXPECT_TRUE(Types(report).contains("int8"));
  EXPECT_FALSE(Types(report).contains("int3"));
  EXPECT_LT(Divergence(), 0.05);
}

TEST_F(ExportCommandTest, GptqAndAwq) {
  json report = Exported(Export("gptq", {"--bits", "6"}));
  EXPECT_LE(report["bits_per_weight"], 6);
  EXPECT_TRUE(fs::exists(out() + "/quantize_config.json"));
  EXPECT_LT(Divergence(), 0.05);

  constexpr int64_t kSize = 1'400'000;
  report = Exported(
      Export("awq", {"--size", std::to_string(kSize), "--menu", "int4a,dense", "--overwrite"}));
  EXPECT_EQ(report["format"], "awq");
  EXPECT_LE(report["file_bytes"], kSize);
  EXPECT_TRUE(Types(report).contains("int4a"));
  // 352 columns do not divide into groups of 64: AWQ has no scales for whole rows.
  for (const json& matrix : report["matrices"]) {
    if (!matrix["name"].get<std::string>().ends_with("down_proj")) continue;
    EXPECT_EQ(matrix["type"], "bf16");
    EXPECT_THAT(matrix["fallback"].get<std::string>(), HasSubstr("352 columns"));
  }
  EXPECT_FALSE(fs::exists(out() + "/quantize_config.json"));
  EXPECT_LT(Divergence(), 0.05);
}

TEST_F(ExportCommandTest, OneTypeEverywhereWithoutCalibration) {
  const ProcessResult result = Cvxq(
      Export("compressed-tensors", {"--uniform", "int8", "--nearest", "--check-samples", "0"}));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("352 columns do not divide into groups of 64"));
  EXPECT_THAT(result.err, Not(HasSubstr("calibration")));
  EXPECT_THAT(result.out, HasSubstr("compressed-tensors, "));
  EXPECT_THAT(result.out, HasSubstr("matrices: 2 bf16, 24 int8, 4 int8_channel"));
  EXPECT_THAT(result.out, HasSubstr("report: " + out() + "/" + kReport));
  const json report = ReportFile();
  EXPECT_EQ(report["calibration"], "");
  EXPECT_TRUE(report["kl"].is_null());
  EXPECT_LT(Divergence(), 0.01);
}

TEST_F(ExportCommandTest, AMenuIsKeptToAndQuietSaysNothing) {
  const ProcessResult result = Cvxq(
      Export("gguf", {"--bits", "6", "--menu", "q4_0,q8_0", "--check-samples", "0", "--quiet"}));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out + result.err, "");
  EXPECT_EQ(Types(ReportFile()), (std::set<std::string>{"q4_0", "q8_0"}));
}

TEST_F(ExportCommandTest, WrongUsage) {
  const Arguments bits = {"--bits", "4"};
  ExpectFailure({"export", kModel, "-o", out(), "--bits", "4"}, 2, "--format is required");
  ExpectFailure({"export", kModel, "--format", "gguf", "--bits", "4"}, 2, "--output is required");
  ExpectFailure(Export("onnx", bits), 2, "onnx");
  ExpectFailure(Export("gguf", {}), 2, "give one of --bits, --size and --uniform");
  ExpectFailure(Export("gguf", bits + Arguments{"--size", "1MB"}), 2, "give one of");
  ExpectFailure(Export("gguf", {"--bits", "33"}), 2, "--bits 33 is out of range");
  ExpectFailure(Export("gguf", {"--size", "big"}), 2, "big");
  ExpectFailure(Export("gguf", bits + Arguments{"--nearest"}), 2, "--nearest is for --uniform");
  ExpectFailure(Export("gguf", bits + Arguments{"--menu", "q4_z"}), 2, "q4_z");
  ExpectFailure(Export("gguf", {"--uniform", "int4"}), 2, "gguf has no type \"int4\"; it has");
  ExpectFailure(Export("gguf", bits + Arguments{"--engine", "vllm"}), 2, "not for the engine vllm");
  ExpectFailure(Export("gguf", bits + Arguments{"--engine", "ollama"}), 2, "ollama");
  ExpectFailure(Export("gptq", bits + Arguments{"--menu", "int5"}), 2,
                "int5 is not known for gptq");
  ExpectFailure(Export("awq", bits + Arguments{"--group", "48"}), 2, "groups of 48");
  ExpectFailure(Export("gguf", bits + Arguments{"--check-samples", "-1"}), 2, "--check-samples");
}

TEST_F(ExportCommandTest, WhatCannotBe) {
  ExpectFailure(Export("gguf", {"--bits", "4"}, kSource + "/examples/models/kjv-opt-1m"), 1,
                "export it as compressed-tensors, gptq or awq");
  ExpectFailure(Export("gguf", {"--bits", "4"}, "/nonexistent/model"), 1, "/nonexistent/model");
  // Too small: what would be possible.
  ExpectFailure(Export("gguf", {"--size", "100KB", "--menu", "q4_0,q8_0", "--samples", "2"}), 2,
                "too small for --format gguf: the least is ");
  ExpectFailure(Export("gptq", {"--bits", "3", "--samples", "2"}), 2,
                "--bits 3 is too small for --format gptq: the least is ");
}

TEST_F(ExportCommandTest, OutputsThatCannotBe) {
  const auto to = [](const std::string& output, const Arguments& more = {}) {
    return Arguments{"export", kModel,      "--format",        "gguf", "-o", output, "--uniform",
                     "q8_0",   "--nearest", "--check-samples", "0"} +
           more;
  };
  const std::string letters = fs::path(scratch_.Write("letters/a.txt", "dear")).parent_path();
  ExpectFailure(to(letters), 2, "exists");
  ExpectFailure(to(letters, {"--overwrite"}), 2, "--overwrite is for");
  EXPECT_TRUE(fs::exists(letters + "/a.txt"));
  ExpectFailure(to(kModel), 2, "model's own folder");
  ExpectFailure(to(Path("box/" + std::string(300, 'a'))), 2, "File name too long");
  ExpectFailure(to(out()), 1, "File too large", {.file_size_limit = 100'000});
  ASSERT_EQ(Cvxq(to(out(), {"--quiet"})).code, 0);
  const json first = ReportFile();
  EXPECT_EQ(Cvxq(to(out(), {"--quiet"})).code, 2);
  EXPECT_EQ(Cvxq(to(out(), {"--quiet", "--overwrite"})).code, 0);
  EXPECT_EQ(ReportFile()["sha256"], first["sha256"]);
  // What was exported is no source for another export.
  fs::rename(out(), Path("exported"));
  ExpectFailure(Export("gguf", {"--bits", "4"}, Path("exported")), 2, "is quantised already");
}

TEST_F(ExportCommandTest, AnInterruptLeavesNothing) {
  ExpectFailure(Export("gguf", {"--bits", "4", "--samples", "4000", "--seq-len", "512"}), 130,
                "interrupted", {.signal_at_first_stderr = SIGINT});
}

}  // namespace
}  // namespace cvxq
