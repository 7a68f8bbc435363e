// The program as its users meet it: exit codes, what goes to which stream, one line for each error,
// and nothing left behind.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/cli_testing.h"

namespace cvxq {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST_F(CliTest, QuantizeSpeaksJson) {
  const ProcessResult result = Cvxq(Quantize(kModel, {"--bits", "3", "--json"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out, nullptr, false);
  ASSERT_TRUE(report.is_object()) << result.out;
  for (const char* key :
       {"output", "codec", "parameters", "quantized_parameters", "bits_per_weight",
        "nominal_bits_per_weight", "file_bits", "file_bytes", "log2_lambda", "zero_fraction",
        "iterations", "tune_epochs", "notes", "seconds", "peak_memory_bytes", "backend",
        "numerics_class", "sha256", "layers"}) {
    ASSERT_TRUE(report.contains(key)) << key;
    EXPECT_FALSE(report[key].is_null()) << key;
  }
  EXPECT_GT(report["seconds"]["total"], 0);
  EXPECT_EQ(report["output"], Path("box/out"));
  ASSERT_EQ(report["layers"].size(), 28u);
  for (const json& layer : report["layers"]) {
    for (const char* key : {"name", "rows", "columns", "bits_per_weight", "predicted_distortion",
                            "depth_histogram"}) {
      EXPECT_TRUE(layer.contains(key)) << key;
    }
  }
  for (const auto& [file, sha] : report["sha256"].items()) {
    EXPECT_TRUE(fs::exists(Path("box/out/" + file))) << file;
    EXPECT_EQ(sha.get<std::string>().size(), 64u);
  }
  // Progress went to standard error, a line for each phase and no escape codes.
  EXPECT_THAT(result.err, HasSubstr("gradients"));
  EXPECT_THAT(result.err, Not(HasSubstr("\x1b")));
  EXPECT_THAT(result.err, Not(HasSubstr("\r")));
}

TEST_F(CliTest, EvalInspectAndGenerateSpeakJson) {
  ASSERT_EQ(Cvxq(Quantize(kModel, {"--bits", "4", "--quiet"})).code, 0);
  const std::string packed = Path("box/out");
  const Arguments eval = {"eval",      packed, "--text",          kText, "--text", kText,
                          "--seq-len", "64",   "--max-sequences", "3"};
  {
    const ProcessResult result = Cvxq(eval + Arguments{"--reference", kModel, "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const json report = json::parse(result.out, nullptr, false);
    for (const char* key :
         {"model", "reference", "texts", "perplexity", "reference_perplexity", "kl_mean", "kl_p99",
          "top1_agreement", "seconds", "tokens_per_second"}) {
      ASSERT_TRUE(report.contains(key)) << key;
      EXPECT_FALSE(report[key].is_null()) << key;
    }
    ASSERT_EQ(report["texts"].size(), 2u);
    for (const char* key : {"path", "tokens", "perplexity", "nll"}) {
      EXPECT_TRUE(report["texts"][0].contains(key)) << key;
    }
    EXPECT_EQ(report["texts"][0]["tokens"], 3 * 63);
  }
  {
    const json report =
        json::parse(Cvxq(eval + Arguments{"--json", "--quiet"}).out, nullptr, false);
    EXPECT_TRUE(report["reference"].is_null());
    EXPECT_FALSE(report.contains("kl_mean"));
  }
  for (const std::string& model : {packed, kModel}) {
    const ProcessResult result = Cvxq({"inspect", model, "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const json report = json::parse(result.out, nullptr, false);
    for (const char* key : {"model", "family", "packed", "parameters", "quantized_parameters",
                            "file_bytes", "file_bits"}) {
      EXPECT_TRUE(report.contains(key)) << key;
    }
    EXPECT_EQ(report["packed"], model == packed);
  }
  const Arguments generate = {"generate", packed, "-p", "In the beginning", "-n", "8"};
  const ProcessResult result = Cvxq(generate + Arguments{"--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json report = json::parse(result.out, nullptr, false);
  for (const char* key : {"model", "text", "prompt_tokens", "tokens", "stop"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  EXPECT_EQ(report["tokens"], 8);
  // Without --json the same text, after its prompt.
  EXPECT_EQ(Cvxq(generate).out, "In the beginning" + report["text"].get<std::string>() + "\n");
}

TEST_F(CliTest, QuietSaysNothing) {
  ProcessResult result = Cvxq(Quantize(kModel, {"--bits", "3", "--quiet"}));
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out + result.err, "");
  // Of commands that are asked for a result, the result alone.
  result = Cvxq(
      {"eval", kModel, "--text", kText, "--seq-len", "4096", "--max-sequences", "1", "--quiet"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("perplexity"));
}

TEST_F(CliTest, EveryCommandHasHelpWithAnExample) {
  for (const std::string command : {"quantize", "eval", "export", "generate", "inspect"}) {
    const ProcessResult result = Cvxq({command, "--help"});
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_THAT(result.out, HasSubstr("Example:\n  cvxq " + command + " "));
    for (const char* flag : {"--json", "--quiet", "--verbose", "--help"}) {
      EXPECT_THAT(result.out, HasSubstr(flag)) << command;
    }
    EXPECT_THAT(Cvxq({"--help"}).out, HasSubstr("\n  " + command + " "));
  }
  const ProcessResult version = Cvxq({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, StartsWith("cvxq "));
}

TEST_F(CliTest, WrongUsage) {
  ExpectFailure({}, 2, "name a command (quantize, eval, generate, inspect, ");
  ExpectFailure({"compress", kModel}, 2, "\"compress\" is none of the commands");
  ExpectFailure({"inspect"}, 2, "MODEL is required");
  ExpectFailure({"inspect", kModel, "--colour"}, 2, "--colour; see cvxq inspect --help");
  ExpectFailure({"quantize", kModel, "--bits", "3"}, 2, "--output is required");
  ExpectFailure(Quantize(kModel, {}), 2, "give either --bits or --size");
  ExpectFailure(Quantize(kModel, {"--bits", "three"}), 2, "--bits");
  ExpectFailure(Quantize(kModel, {"--bits", "0"}), 2, "--bits 0 is out of range");
  ExpectFailure(Quantize(kModel, {"--bits", "9"}), 2, "--bits 9 is out of range");
  ExpectFailure(Quantize(kModel, {"--bits", "0.01"}), 2, "--bits 0.01 is too low");
  ExpectFailure(Quantize(kModel, {"--size", "100KB"}), 2, "too small");
  ExpectFailure(Quantize(kModel, {"--size", "big"}), 2, "big");
  ExpectFailure(Quantize(kModel, {"--bits", "3", "--codec", "zip"}), 2, "zip");
  ExpectFailure(Quantize(kModel, {"--bits", "3", "--threads", "0"}), 2, "1 to 1024, not 0");
  ExpectFailure(Quantize(kModel, {"--bits", "3", "--threads", "100000"}), 2, "1 to 1024");
  ExpectFailure(Quantize(kModel, {"--bits", "3", "--seed", "-1"}), 2, "--seed");
  ExpectFailure(Quantize(kModel, {"--bits", "3", "--samples", "0"}), 2, "--samples");
  ExpectFailure({"eval", kModel, "--text", kText, "--max-sequences", "-1"}, 2, "--max-sequences");
  ExpectFailure({"generate", kModel, "-p", "a", "-n", "0"}, 2, "-n must be at least 1");
  ExpectFailure({"generate", kModel, "-p", "a", "--top-p", "2"}, 2, "--top-p");
}

TEST_F(CliTest, ModelsThatAreNotThereOrBroken) {
  const Arguments bits = {"--bits", "3"};
  ExpectFailure(Quantize("/nonexistent/model", bits), 1, "/nonexistent/model");
  ExpectFailure({"inspect", "/nonexistent/model"}, 1, "/nonexistent/model");
  ExpectFailure({"generate", "/nonexistent/model", "-p", "Hi"}, 1, "/nonexistent/model");
  ExpectFailure({"eval", kModel, "--text", "/nonexistent/text"}, 1, "/nonexistent/text");
  ExpectFailure({"inspect", "gs://bucket/model"}, 1, "name a folder");
  ExpectFailure({"inspect", kSource}, 1, "config.json");

  std::string model = CopyModel();
  fs::resize_file(model + "/model.safetensors", 1'000'000);
  ExpectFailure(Quantize(model, bits), 1, "model.safetensors");
  ExpectFailure({"inspect", model}, 1, "model.safetensors");

  model = CopyModel();
  fs::rename(model + "/model.safetensors", model + "/model-00001-of-00002.safetensors");
  scratch_.Write("model/model.safetensors.index.json",
                 R"({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors",
                     "model.norm.weight": "model-00002-of-00002.safetensors"}})");
  ExpectFailure(Quantize(model, bits), 1, "model-00002-of-00002.safetensors");

  model = CopyModel();
  json config = json::parse(Slurp(model + "/config.json"));
  config["model_type"] = "abacus";
  scratch_.Write("model/config.json", config.dump());
  ExpectFailure(Quantize(model, bits), 1, "abacus");
  scratch_.Write("model/config.json", "{");
  ExpectFailure(Quantize(model, bits), 1, "config.json");

  model = CopyModel();
  fs::remove(model + "/tokenizer.json");
  ExpectFailure(Quantize(model, bits), 1, "tokenizer.json");
}

TEST_F(CliTest, NanWeightsAreNamed) {
  const std::string model = CopyModel(), file = model + "/model.safetensors";
  std::string bytes = Slurp(file);
  uint64_t header_size = 0;
  std::copy_n(bytes.data(), 8, reinterpret_cast<char*>(&header_size));
  const json header = json::parse(bytes.substr(8, header_size));
  const std::string name = "model.layers.2.mlp.down_proj.weight";
  const uint64_t at = 8 + header_size + header[name]["data_offsets"][0].get<uint64_t>() + 1000;
  bytes[at] = '\xc0';  // a NaN of BF16
  bytes[at + 1] = '\x7f';
  std::ofstream(file, std::ios::binary) << bytes;
  ExpectFailure(Quantize(model, {"--bits", "3"}), 1, name);
  ExpectFailure({"eval", model, "--text", kText, "--seq-len", "32", "--max-sequences", "1"}, 1,
                name);
}

TEST_F(CliTest, CalibrationTexts) {
  const auto with = [&](const std::string& text) {
    return Quantize(kModel, {"--bits", "3", "--calib", text});
  };
  ExpectFailure(with(scratch_.Write("empty.txt", "")), 2, "empty.txt: is empty");
  ExpectFailure(with(scratch_.Write("short.txt", "In the beginning")), 2, "short.txt");
  ExpectFailure(with(scratch_.Write("binary.txt", std::string("\x00\x01\x02\x7f", 4))), 1,
                "binary.txt");
  ExpectFailure(with(Path("missing.txt")), 1, "missing.txt");
  ExpectFailure(with(scratch_.Write("broken.jsonl", "{\"text\": ")), 1, "broken.jsonl");
  // A text that is too short for all samples is used, and the user is told.
  std::string verse;
  for (int i = 0; i < 8; ++i) verse += "And God said, Let there be light: and there was light. ";
  const ProcessResult result = Cvxq(with(scratch_.Write("verse.txt", verse)));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("they overlap"));
}

TEST_F(CliTest, OutputsThatCannotBe) {
  const auto to = [&](const std::string& output, const Arguments& more = {}) {
    return Arguments{"quantize", kModel, "-o", output, "--bits", "3"} + more;
  };
  const std::string file = scratch_.Write("file", "a file");
  ExpectFailure(to(file), 2, "exists");
  ExpectFailure(to(file + "/out"), 1, file);
  ExpectFailure(to(Path("missing/out")), 1, "missing");
  ExpectFailure(to("/proc/out"), 1, "/proc/out");
  ExpectFailure(to("gs://bucket/out"), 1, "name a folder");
  ExpectFailure(to(kModel), 2, "model's own folder");
  ExpectFailure(to(fs::path(kModel).parent_path()), 2, "model's own folder");
  const std::string letters = fs::path(scratch_.Write("letters/a.txt", "dear")).parent_path();
  ExpectFailure(to(letters), 2, "exists");
  ExpectFailure(to(letters, {"--overwrite"}), 2, "--overwrite is for");
  EXPECT_TRUE(fs::exists(letters + "/a.txt"));
}

TEST_F(CliTest, APackedModelIsNotQuantisedAgainButMayBeReplaced) {
  ASSERT_EQ(Cvxq(Quantize(kModel, {"--bits", "3", "--quiet"})).code, 0);
  const std::string packed = Path("box/out"), weights = packed + "/model.safetensors";
  fs::rename(packed, Path("packed"));
  ExpectFailure(Quantize(Path("packed"), {"--bits", "2"}), 2, "already packed");
  fs::rename(Path("packed"), packed);
  const auto size = fs::file_size(weights);
  EXPECT_EQ(Cvxq(Quantize(kModel, {"--bits", "2", "--quiet"})).code, 2);
  EXPECT_EQ(fs::file_size(weights), size);
  EXPECT_EQ(Cvxq(Quantize(kModel, {"--bits", "2", "--quiet", "--overwrite"})).code, 0);
  EXPECT_LT(fs::file_size(weights), size);
  EXPECT_EQ(std::distance(fs::directory_iterator(Path("box")), fs::directory_iterator()), 1);
}

// A limit on file sizes stands in for a full disk: the same paths, without a file system to fill.
TEST_F(CliTest, AFullDiskIsAFailureThatLeavesNothing) {
  ExpectFailure(Quantize(kModel, {"--bits", "3"}), 1, "File too large",
                {.file_size_limit = 100'000});
  ExpectFailure(Quantize(kModel, {"--bits", "3", "--memory", "0"}), 1, "fewer --samples",
                {.file_size_limit = 1000});
}

TEST_F(CliTest, AResultThatCannotBeWrittenIsAFailure) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  for (const Arguments& arguments :
       {Arguments{"inspect", kModel}, Arguments{"inspect", kModel, "--json"},
        Arguments{"generate", kModel, "-p", "Hi", "-n", "2"}}) {
    ExpectFailure(arguments, 1, "standard output", {.output = "/dev/full"});
  }
}

TEST_F(CliTest, AnInterruptLeavesNothing) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const Arguments arguments = {"quantize", kModel,      "-o",   Path("box/out"), "--bits",
                                 "3",        "--samples", "4000", "--seq-len",     "512"};
    ExpectFailure(arguments, 130, "interrupted", {.signal_at_first_stderr = signal});
  }
}

TEST_F(CliTest, AnInterruptedRunGoesOnWhereItWas) {
  const Arguments arguments = {"quantize",  kModel, "-o",           Path("box/out"),
                               "--bits",    "3",    "--samples",    "128",
                               "--seq-len", "64",   "--save-every", "0"};
  ProcessResult result =
      Cvxq(arguments, {.signal_at_first_stderr = SIGINT, .signal_after = "input moments"});
  EXPECT_EQ(result.code, 130);
  EXPECT_THAT(result.err, HasSubstr("cvxq: interrupted"));
  EXPECT_THAT(result.err, HasSubstr("kept in " + Path("box/out.resume")));
  result = Cvxq(arguments);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("going on behind"));
  EXPECT_FALSE(fs::exists(Path("box/out.resume")));
}

TEST_F(CliTest, OnATerminalABarThatErrorsDoNotTear) {
  ProcessResult result = Cvxq(Quantize(kModel, {"--bits", "3"}), {.terminal = true});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("─"));
  EXPECT_THAT(result.err, EndsWith("bits a weight\r\n"));
  EXPECT_THAT(result.out, HasSubstr("bits a weight"));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
  fs::remove_all(Path("box/out"));
  result = Cvxq(Quantize(kModel, {"--bits", "0.01"}), {.terminal = true});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("\r\ncvxq: --bits 0.01"));
}

}  // namespace
}  // namespace cvxq
