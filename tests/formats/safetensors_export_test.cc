// Exports to compressed-tensors, GPTQ and AWQ: files of the size foretold, which read back as what
// was written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "formats/quantized_checkpoint.h"
#include "tests/formats/fixed_export.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string Example(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/examples/models/" + name;
}
std::string TestModel(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/tests/data/models/" + name;
}

std::map<std::string, std::string> FilesOf(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ostringstream text;
    text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    files[entry.path().filename().string()] = text.str();
  }
  return files;
}

float Rounded(float value, DType dtype) {
  if (dtype == DType::kF32) return value;
  return dtype == DType::kF16 ? F16ToFloat(FloatToF16(value)) : BF16ToFloat(FloatToBF16(value));
}

// Writes an export, and holds what is read back against what went in: the values rounded to the
// type that they have when they are read, and all other tensors. Gives quantization_config.
json RoundTrip(const std::string& model, MakeFormat make, const ExportFormatOptions& options,
               int64_t expected_files = 0) {
  StatusOr<FixedExport> out = DrawFixedExport(model, make, options);
  EXPECT_TRUE(out.ok()) << out.status();
  if (!out.ok()) return nullptr;
  const ScratchFolder folder;
  const Status written = WriteFixedExport(*out, folder.path());
  EXPECT_TRUE(written.ok()) << written;
  int64_t bytes = 0;
  const auto files = FilesOf(folder.path());
  for (const auto& [name, text] : files) bytes += static_cast<int64_t>(text.size());
  EXPECT_EQ(out->format->TotalBytes(out->choice), bytes);
  if (expected_files > 0) {
    EXPECT_EQ(std::ssize(files), expected_files);
  }

  const auto checkpoint = Checkpoint::Open(folder.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto source = QuantizedCheckpoint::Open(*checkpoint, 2);
  EXPECT_TRUE(source.ok()) << source.status();
  if (!source.ok()) return nullptr;
  const std::vector<ExportMatrix>& matrices = out->format->matrices();
  std::set<std::string> of_matrices;
  int64_t coded = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const std::string name = matrices[i].name + ".weight";
    of_matrices.insert(name);
    const auto info = (*source)->Describe(name);
    EXPECT_TRUE(info.has_value()) << name;
    EXPECT_EQ(info->shape, (Shape{matrices[i].rows, matrices[i].columns})) << name;
    const auto tensor = (*source)->Dense(name);
    EXPECT_TRUE(tensor.ok()) << tensor.status();
    const auto values = ToFloats(*tensor);
    const std::vector<float>& expected = out->values[i];
    int64_t different = 0;
    for (size_t k = 0; k < expected.size(); ++k) {
      different += (*values)[k] != Rounded(expected[k], info->dtype) ? 1 : 0;
    }
    EXPECT_EQ(different, 0) << name << " as " << out->choice[i]->name();
    coded += out->choice[i]->dense() ? 0 : 1;
  }
  EXPECT_EQ(std::ssize((*source)->linears()), coded);
  EXPECT_EQ((*source)->parameters(), [&] {
    int64_t sum = 0;
    for (const std::string& name : out->checkpoint->names()) {
      sum += out->checkpoint->Find(name)->shape.elements();
    }
    return sum;
  }());
  for (const std::string& name : out->checkpoint->names()) {
    if (of_matrices.contains(name)) continue;
    const auto before = out->checkpoint->Get(name), after = (*source)->Dense(name);
    EXPECT_TRUE(after.ok()) << after.status();
    EXPECT_EQ(std::memcmp(before->data, after->data, before->bytes()), 0) << name;
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(files.contains(name), std::filesystem::exists(model + "/" + name)) << name;
  }
  return (*checkpoint)->config()["quantization_config"];
}

ExportFormatOptions Menu(std::vector<std::string> menu, int64_t group = 64,
                         const std::string& engine = "") {
  return {.menu = std::move(menu), .engine = engine, .group = group};
}

TEST(CompressedTensors, ReadsBackWhatItWrote) {
  for (const char* model : {"kjv-llama-1m", "kjv-opt-1m"}) {
    SCOPED_TRACE(model);
    RoundTrip(Example(model), MakeCompressedTensors, {});  // all widths in turn
    RoundTrip(Example(model), MakeCompressedTensors, Menu({"int4"}, 32));
    RoundTrip(Example(model), MakeCompressedTensors, Menu({"int3a", "int5a", "int8a"}, -1));
    RoundTrip(Example(model), MakeCompressedTensors, Menu({"fp8", "nvfp4", "mxfp4", "int2a"}));
    RoundTrip(Example(model), MakeCompressedTensors, Menu({"int4_g128", "int6_channel", "dense"}));
  }
}

// Matrices of 24 and 28 columns: nothing divides, all have scales for whole rows. In F32.
TEST(CompressedTensors, EveryFamilyOfModels) {
  for (const char* model : {"llama", "llama_v4", "mistral", "qwen2", "qwen3", "cohere", "cohere2",
                            "gemma2", "gemma3", "opt", "opt_350m", "opt_plain"}) {
    SCOPED_TRACE(model);
    RoundTrip(TestModel(model), MakeCompressedTensors, Menu({"int3", "int4a", "fp8"}));
  }
}

TEST(CompressedTensors, SplitsFiles) {
  ExportFormatOptions options = Menu({"int4"}, 32);
  options.split_bytes = 300'000;
  StatusOr<FixedExport> out =
      DrawFixedExport(Example("kjv-llama-1m"), MakeCompressedTensors, options);
  ASSERT_TRUE(out.ok());
  const ScratchFolder folder;
  ASSERT_TRUE(WriteFixedExport(*out, folder.path()).ok());
  int64_t shards = 0;
  for (const auto& [name, text] : FilesOf(folder.path())) {
    if (!name.ends_with(".safetensors")) continue;
    ++shards;
    EXPECT_LE(std::ssize(text), options.split_bytes);
  }
  EXPECT_GT(shards, 2);
  RoundTrip(Example("kjv-llama-1m"), MakeCompressedTensors, options, shards + 5);
}

TEST(CompressedTensors, OneFormatIsNamedPlainly) {
  const json config = RoundTrip(Example("kjv-llama-1m"), MakeCompressedTensors, Menu({"int4"}, 32));
  EXPECT_EQ(config["quant_method"], "compressed-tensors");
  EXPECT_EQ(config["format"], "pack-quantized");
  EXPECT_EQ(config["version"], "0.20.0");
  EXPECT_EQ(config["ignore"], json({"lm_head"}));
  ASSERT_EQ(config["config_groups"].size(), 1);
  const json& group = config["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"].size(), 7);
  EXPECT_EQ(group["targets"][0], "re:^model\\.layers\\.\\d+\\.self_attn\\.q_proj$");
  EXPECT_EQ(group["weights"], json({{"num_bits", 4},
                                    {"type", "int"},
                                    {"symmetric", true},
                                    {"strategy", "group"},
                                    {"group_size", 32},
                                    {"dynamic", false}}));
}

TEST(CompressedTensors, MixedFormatsAndDenseLinears) {
  const json config =
      RoundTrip(Example("kjv-opt-1m"), MakeCompressedTensors, Menu({"int4", "fp8", "dense"}));
  EXPECT_EQ(config["format"], "mixed-precision");
  EXPECT_EQ(config["config_groups"].size(), 2);
  EXPECT_GT(config["ignore"].size(), 1);  // the dense ones
  for (const auto& [name, group] : config["config_groups"].items()) {
    EXPECT_TRUE(group.contains("format")) << name;
  }
  EXPECT_TRUE(
      RoundTrip(Example("kjv-opt-1m"), MakeCompressedTensors, Menu({"int4", "fp8"})).is_object());
}

TEST(CompressedTensors, FallsBackAndSaysSo) {
  const auto out = DrawFixedExport(Example("kjv-llama-1m"), MakeCompressedTensors, Menu({"int4"}));
  ASSERT_TRUE(out.ok());
  for (const ExportMatrix& matrix : out->format->matrices()) {
    if (matrix.id == LinearId::kDown && matrix.role == ExportMatrix::Role::kLinear) {
      EXPECT_EQ(matrix.types[0]->name(), "int4_channel");
      EXPECT_EQ(matrix.fallback,
                "352 columns do not divide into groups of 64: one scale for a row");
    } else {
      EXPECT_EQ(matrix.fallback, "");
    }
    EXPECT_EQ(matrix.tie, -1);
  }
}

TEST(CompressedTensors, EmbeddingAndHeadStayAsTheyAre) {
  for (const auto& [model, ends] : {std::pair{"kjv-llama-1m", 2}, std::pair{"kjv-opt-1m", 1}}) {
    const auto out = DrawFixedExport(Example(model), MakeCompressedTensors, {});
    ASSERT_TRUE(out.ok());
    int found = 0;
    for (const ExportMatrix& matrix : out->format->matrices()) {
      if (matrix.role == ExportMatrix::Role::kLinear) continue;
      ++found;
      ASSERT_EQ(matrix.types.size(), 1);
      EXPECT_EQ(matrix.types[0]->dense(), DType::kBF16);
    }
    EXPECT_EQ(found, ends) << model;
  }
}

TEST(CompressedTensors, VllmTiesWhatItComputesAsOne) {
  const auto out = DrawFixedExport(Example("kjv-llama-1m"), MakeCompressedTensors,
                                   Menu({"int3", "int4", "int8", "int8a", "nvfp4"}, 64, "vllm"));
  ASSERT_TRUE(out.ok());
  std::map<int64_t, std::set<const WeightType*>> first;
  for (const ExportMatrix& matrix : out->format->matrices()) {
    if (matrix.role != ExportMatrix::Role::kLinear) continue;
    const InputId input = InputOf(matrix.id);
    EXPECT_EQ(matrix.tie >= 0, input == InputId::kAttention || input == InputId::kMlp);
    EXPECT_THAT(matrix.fallback, HasSubstr("vLLM has no kernel for int3"));
    EXPECT_THAT(matrix.fallback, HasSubstr("vLLM has no kernel for int8a"));
    ASSERT_EQ(matrix.types.size(), 3);
    if (matrix.tie < 0) continue;
    for (const WeightType* type : matrix.types) first[matrix.tie].insert(type);
  }
  EXPECT_EQ(first.size(), 8);
  for (const auto& [tie, types] : first) EXPECT_EQ(types.size(), 3);  // the very same objects
  RoundTrip(Example("kjv-llama-1m"), MakeCompressedTensors, Menu({"int4", "nvfp4"}, 64, "vllm"));

  const auto small =
      DrawFixedExport(TestModel("llama"), MakeCompressedTensors, Menu({"int4"}, 64, "vllm"));
  ASSERT_TRUE(small.ok());
  EXPECT_TRUE(small->format->matrices()[0].types[0]->dense());
  EXPECT_EQ(small->format->matrices()[0].fallback,
            "vLLM's kernels want multiples of 32 rows and columns, not 32 and 24");

  const auto zeros =
      DrawFixedExport(Example("kjv-llama-1m"), MakeCompressedTensors, Menu({"int4a"}, 32, "vllm"));
  ASSERT_TRUE(zeros.ok());
  for (const ExportMatrix& matrix : zeros->format->matrices()) {
    if (matrix.role != ExportMatrix::Role::kLinear) continue;
    const bool fits = matrix.rows % 128 == 0 && matrix.columns % 128 == 0;
    EXPECT_EQ(matrix.types[0]->name(), fits ? "int4a" : "bf16") << matrix.name;
    if (fits) continue;
    EXPECT_THAT(matrix.fallback, HasSubstr("want multiples of 128 rows and columns"));
  }
}

TEST(CompressedTensors, Fp4OfATieHasOneGlobalScale) {
  StatusOr<FixedExport> out =
      DrawFixedExport(Example("kjv-llama-1m"), MakeCompressedTensors, Menu({"nvfp4"}, 64, "vllm"));
  ASSERT_TRUE(out.ok());
  const ScratchFolder folder;
  ASSERT_TRUE(WriteFixedExport(*out, folder.path()).ok());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok());
  std::map<int64_t, std::set<float>> scales;
  for (const ExportMatrix& matrix : out->format->matrices()) {
    if (matrix.tie < 0) continue;
    const auto tensor = (*checkpoint)->Get(matrix.name + ".weight_global_scale");
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    scales[matrix.tie].insert(ToFloats(*tensor)->at(0));
  }
  ASSERT_EQ(scales.size(), 8);
  for (const auto& [tie, values] : scales) EXPECT_EQ(values.size(), 1) << tie;
}

TEST(Gptq, ReadsBackWhatItWrote) {
  for (const char* model : {"kjv-llama-1m", "kjv-opt-1m"}) {
    SCOPED_TRACE(model);
    RoundTrip(Example(model), MakeGptq, {});
    RoundTrip(Example(model), MakeGptq, Menu({"int2", "int3", "int4", "int8"}, 32));
    RoundTrip(Example(model), MakeGptq, Menu({"int4"}, -1));
  }
}

TEST(Gptq, WidthsThatDifferAreRules) {
  const json config =
      RoundTrip(Example("kjv-llama-1m"), MakeGptq, Menu({"int4", "int8", "dense"}, 32));
  EXPECT_EQ(config["quant_method"], "gptq");
  EXPECT_EQ(config["checkpoint_format"], "gptq");
  EXPECT_EQ(config["desc_act"], false);
  EXPECT_EQ(config["sym"], true);
  EXPECT_EQ(config["lm_head"], false);
  std::string all;
  for (const auto& [pattern, rule] : config["dynamic"].items()) {
    all += pattern + "\n";
    EXPECT_TRUE(pattern.starts_with("+:^model") || pattern.starts_with("-:^model")) << pattern;
    EXPECT_TRUE(pattern.ends_with("$")) << pattern;
    EXPECT_EQ(rule.contains("bits"), pattern.starts_with("+:"));
  }
  EXPECT_THAT(all, HasSubstr("\\.qkv_proj$"));  // as engines call what they fuse
  EXPECT_FALSE(
      RoundTrip(Example("kjv-llama-1m"), MakeGptq, Menu({"int4"}, 32)).contains("dynamic"));
}

TEST(Gptq, SmallMatricesStayDense) {
  const auto out = DrawFixedExport(TestModel("llama"), MakeGptq, Menu({"int4"}));
  ASSERT_TRUE(out.ok());
  const ExportMatrix& matrix = out->format->matrices()[0];
  EXPECT_TRUE(matrix.types[0]->dense());
  EXPECT_EQ(matrix.fallback, "GPTQ wants multiples of 32 rows and columns, not 32 and 24");
  // With nothing coded there is no quantization_config, and no file beside it.
  const ScratchFolder folder;
  StatusOr<FixedExport> dense = DrawFixedExport(TestModel("llama"), MakeGptq, Menu({"dense"}));
  ASSERT_TRUE(WriteFixedExport(*dense, folder.path()).ok());
  const auto files = FilesOf(folder.path());
  EXPECT_EQ(files.size(), 2);
  EXPECT_FALSE(json::parse(files.at("config.json")).contains("quantization_config"));
}

TEST(Awq, ReadsBackWhatItWrote) {
  for (const char* model : {"kjv-llama-1m", "kjv-opt-1m"}) {
    SCOPED_TRACE(model);
    RoundTrip(Example(model), MakeAwq, Menu({}, 32));
    const json config = RoundTrip(Example(model), MakeAwq, Menu({"int4a", "dense"}, 128));
    EXPECT_EQ(config["quant_method"], "awq");
    EXPECT_EQ(config["zero_point"], true);
    EXPECT_EQ(config["group_size"], 128);
    EXPECT_GT(config["modules_to_not_convert"].size(), 1);
  }
}

TEST(SafetensorsFormats, SameBytesEachTime) {
  for (const MakeFormat make : {MakeCompressedTensors, MakeGptq, MakeAwq}) {
    std::map<std::string, std::string> first;
    for (int time = 0; time < 2; ++time) {
      StatusOr<FixedExport> out = DrawFixedExport(Example("kjv-llama-1m"), make, {});
      const ScratchFolder folder;
      ASSERT_TRUE(WriteFixedExport(*out, folder.path()).ok());
      if (time == 0) first = FilesOf(folder.path());
      EXPECT_EQ(FilesOf(folder.path()), first);
    }
  }
}

TEST(SafetensorsFormats, RefuseWhatTheyDoNotKnow) {
  const auto refused = [](MakeFormat make, const ExportFormatOptions& options,
                          const std::string& words) {
    const auto out = DrawFixedExport(Example("kjv-llama-1m"), make, options);
    EXPECT_EQ(out.status().code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_THAT(std::string(out.status().message()), HasSubstr(words));
    EXPECT_EQ(out.status().message().find('\n'), std::string::npos);
  };
  for (const MakeFormat make : {MakeCompressedTensors, MakeGptq, MakeAwq}) {
    refused(make, Menu({"q4_k"}), "the type q4_k is not known");
    refused(make, Menu({}, 64, "tgi"), "the engine tgi is not known");
    refused(make, Menu({}, 48), "groups of 48");
  }
  refused(MakeGptq, Menu({"int4a"}), "int4a is not known for gptq");
  refused(MakeGptq, Menu({"int5"}), "int5 is not known for gptq");
  refused(MakeGptq, Menu({"int3"}, 64, "vllm"), "vLLM loads GPTQ of 4 and 8 bits");
  refused(MakeAwq, Menu({"int4"}), "int4 is not known for awq");
  refused(MakeAwq, Menu({}, -1), "awq has no scales for whole rows");
}

}  // namespace
}  // namespace cvxq
