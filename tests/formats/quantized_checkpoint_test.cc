// Checkpoints of other tools, with the values that their libraries compute; and broken ones.
#include "formats/quantized_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "storage/json.h"
#include "storage/safetensors.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string Data(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/tests/data/" + name;
}

std::string Text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

StatusOr<std::unique_ptr<QuantizedCheckpoint>> Open(const std::string& folder) {
  CVXQ_ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(folder));
  return QuantizedCheckpoint::Open(std::move(checkpoint), 2);
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, ValuesAreThoseOfTheFormatsLibrary) {
  const std::string folder = Data("quantized/") + GetParam();
  const auto source = Open(folder);
  ASSERT_TRUE(source.ok()) << source.status();
  const auto golden = SafetensorsFile::Open(folder + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  ASSERT_FALSE((*golden)->tensors().empty());
  for (const auto& [name, expected] : (*golden)->tensors()) {
    SCOPED_TRACE(name);
    const auto info = (*source)->Describe(name);
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->dtype, expected.dtype);
    EXPECT_EQ(info->shape, expected.shape);
    const auto tensor = (*source)->Dense(name);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(ToFloats(*tensor).value(), ToFloats(expected).value());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Golden,
                         testing::Values("compressed_tensors", "gptq_v1", "gptq_v2", "awq",
                                         "llm_compressor"));

TEST(QuantizedCheckpoint, TensorsOfQuantisedLinearsAreNotSeen) {
  const auto source = Open(Data("quantized/compressed_tensors"));
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE((*source)->Owns("m.int4.weight_packed"));
  EXPECT_TRUE((*source)->Owns("m.fp8.weight"));
  EXPECT_FALSE((*source)->Owns("m.plain.weight"));
  EXPECT_FALSE((*source)->Describe("m.int4.weight_scale").has_value());
  EXPECT_TRUE((*source)->Describe("m.plain.weight").has_value());
  EXPECT_FALSE((*source)->Describe("m.nothing.weight").has_value());
  EXPECT_EQ(SchemeName((*source)->linears().at("m.int3a").scheme), "int3a_g32");
  EXPECT_EQ(SchemeName((*source)->linears().at("m.fp8").scheme), "fp8");
}

// A copy of one of the checkpoints above, to be spoilt.
class Spoilt {
 public:
  explicit Spoilt(const std::string& name) {
    for (const char* file : {"config.json", "model.safetensors"}) {
      folder_.Write(file, Text(Data("quantized/" + name + "/" + file)));
    }
  }
  // Replaces text of the same length in the tensors' header, where it comes first.
  void Header(const std::string& from, const std::string& to) {
    std::string bytes = Text(folder_.path() + "/model.safetensors");
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_EQ(from.size(), to.size());
    folder_.Write("model.safetensors", bytes.replace(at, from.size(), to));
  }
  // Overwrites bytes of a tensor from its beginning.
  void Tensor(const std::string& name, const std::vector<int64_t>& values) {
    std::string bytes = Text(folder_.path() + "/model.safetensors");
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    const json entries = json::parse(bytes.substr(8, header));
    const size_t at = 8 + header + entries[name]["data_offsets"][0].get<size_t>();
    std::memcpy(&bytes[at], values.data(), 8 * values.size());
    folder_.Write("model.safetensors", bytes);
  }
  void Config(const std::function<void(json&)>& change) {
    json config = json::parse(Text(folder_.path() + "/config.json"));
    change(config["quantization_config"]);
    folder_.Write("config.json", config.dump());
  }
  // kDataLoss in one line that names the folder; at opening, or at reading `tensor`.
  void ExpectLoss(const std::string& words, const std::string& tensor = "") const {
    const auto source = Open(folder_.path());
    Status status = source.status();
    if (source.ok()) status = (*source)->Dense(tensor).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status << " " << words;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(folder_.path()));
    EXPECT_THAT(message, HasSubstr(words));
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }

 private:
  ScratchFolder folder_;
};

TEST(QuantizedCheckpoint, ShapesThatDoNotFit) {
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {R"(m.int2.weight_scale":{"dtype":"BF16","shape":[6,2])",
            R"(m.int2.weight_scale":{"dtype":"BF16","shape":[2,6])"},
           {R"(m.int2.weight_packed":{"dtype":"I32","shape":[6,4])",
            R"(m.int2.weight_packed":{"dtype":"I32","shape":[4,6])"},
           {R"(m.nvfp4.weight_scale":{"dtype":"F8_E4M3")",
            R"(m.nvfp4.weight_scale":{"dtype":"F8_E5M2")"},
           {R"(m.fp8.weight_scale":{"dtype":"BF16","shape":[6,1])",
            R"(m.fp8.weight_scale":{"dtype":"BF16","shape":[1,6])"},
           {R"(m.int2.weight_shape)", R"(m.int2.weight_shade)"}}) {
    SCOPED_TRACE(to);
    Spoilt spoilt("compressed_tensors");
    spoilt.Header(from, to);
    spoilt.ExpectLoss("tensor m.");
  }
}

TEST(QuantizedCheckpoint, ShapesThatLie) {
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {6, 63}, {6, 65}, {7, 64}, {6, 0}, {6, -64}, {-6, 64}, {6, int64_t{1} << 62}}) {
    Spoilt spoilt("compressed_tensors");
    spoilt.Tensor("m.int2.weight_shape", shape);
    spoilt.ExpectLoss("tensor m.int2.weight_");
  }
}

TEST(QuantizedCheckpoint, GroupsThatDoNotExist) {
  Spoilt spoilt("gptq_v2");
  spoilt.Tensor("m.a.g_idx", {int64_t{7} << 32});
  spoilt.ExpectLoss("tensor m.a.g_idx names the group 7", "m.a.weight");
  Spoilt negative("gptq_v2");
  negative.Tensor("m.a.g_idx", {-1});
  negative.ExpectLoss("tensor m.a.g_idx names the group -1", "m.a.weight");
}

TEST(QuantizedCheckpoint, ConfigsThatDoNotFitTheTensors) {
  Spoilt wider("gptq_v1");
  wider.Config([](json& config) { config["dynamic"]["+:^m\\.two$"]["bits"] = 4; });
  wider.ExpectLoss("tensor m.two.");
  Spoilt skipped("gptq_v1");
  skipped.Config([](json& config) { config["dynamic"]["+:^m\\.two$"] = json::object(); });
  skipped.ExpectLoss("tensor m.two.");
  Spoilt dense("gptq_v1");
  dense.Config([](json& config) { config["dynamic"] = {{"-:^m\\.a$", json::object()}}; });
  dense.ExpectLoss("does not describe \"m.a\"");
  Spoilt group("awq");
  group.Config([](json& config) { config["group_size"] = 24; });
  group.ExpectLoss("is of 64 columns, in groups of 24");
  Spoilt untargeted("compressed_tensors");
  untargeted.Config([](json& config) { config["config_groups"].erase("group_0"); });
  untargeted.ExpectLoss("does not describe \"m.int2\"");
}

// Every hostile config: those named ok_* are read, those named unknown_* are not supported, the
// others are broken; each answer is one line with the file.
TEST(QuantizationConfig, HostileFiles) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(Data("hostile/quantization_config"))) {
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    ++count;
    const auto parsed = ParseJson(Text(entry.path()), name);
    const auto config = parsed.ok() ? QuantizationConfig::Parse(*parsed, name) : parsed.status();
    if (name.starts_with("ok_")) {
      ASSERT_TRUE(config.ok()) << config.status();
      (void)config->Of("model.layers.0.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.q_proj");
      continue;
    }
    EXPECT_EQ(config.status().code(), name.starts_with("unknown_")
                                          ? absl::StatusCode::kUnimplemented
                                          : absl::StatusCode::kDataLoss)
        << config.status();
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(name));
    EXPECT_EQ(config.status().message().find('\n'), std::string::npos);
  }
  EXPECT_GT(count, 40);
}

TEST(QuantizationConfig, NamesGoBeforeExpressionsAndTheseBeforeClasses) {
  const auto group = [](int bits, const char* target) {
    return json{{"targets", {target}},
                {"weights", {{"num_bits", bits}, {"strategy", "group"}, {"group_size", 32}}}};
  };
  const json config = {
      {"quant_method", "compressed-tensors"},
      {"format", "pack-quantized"},
      {"ignore", {"re:.*skip"}},
      {"config_groups",
       {{"a", group(2, "Linear")}, {"b", group(3, "re:x\\.")}, {"c", group(4, "x.y")}}}};
  const auto parsed = QuantizationConfig::Parse(config, "c.json");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->Of("x.y")->bits, 4);
  EXPECT_EQ(parsed->Of("x.z")->bits, 3);
  EXPECT_EQ(parsed->Of("a.x.z")->bits, 2);  // expressions begin with the name
  EXPECT_EQ(parsed->Of("x.skip").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace cvxq
