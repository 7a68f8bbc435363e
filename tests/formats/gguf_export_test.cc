// What MakeGguf offers, refuses and writes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "formats/ggml_types.h"
#include "formats/gguf_matrix.h"
#include "formats/gguf_menu.h"
#include "tests/formats/gguf_testing.h"

namespace cvxq {
namespace {

std::vector<std::string> Names(const ExportMatrix& matrix) {
  std::vector<std::string> names;
  for (const WeightType* type : matrix.types) names.push_back(type->name());
  return names;
}

const ExportMatrix& Find(const GgufExport& made, const std::string& name) {
  for (const ExportMatrix& matrix : made.format->matrices()) {
    if (matrix.name == name) return matrix;
  }
  ADD_FAILURE() << name;
  return made.format->matrices().front();
}

class GgufExportTest : public testing::Test {
 protected:
  // A model of tests/data/models with a changed config.
  Status Make(const std::string& name, const nlohmann::json& edit,
              const ExportFormatOptions& options = {}) {
    CopyModel(name, folder_.path(), edit);
    return GgufExport::Make(folder_.path(), options).status();
  }
  TempFolder folder_;
};

TEST_F(GgufExportTest, OffersSubstitutesWhereBlocksDoNotFit) {
  auto made = GgufExport::Make(kExample);  // 128 and 352 columns
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(made->format->matrices().size(), 4u * 7 + 2);
  EXPECT_EQ(made->format->name(), "gguf");
  const ExportMatrix& linear = Find(*made, "model.layers.2.self_attn.k_proj");
  EXPECT_EQ(linear.role, ExportMatrix::Role::kLinear);
  EXPECT_EQ(linear.block, 2);
  EXPECT_EQ(linear.id, LinearId::kKey);
  EXPECT_EQ(linear.rows, 64);
  EXPECT_EQ(linear.columns, 128);
  EXPECT_EQ(linear.tie, -1);
  EXPECT_EQ(linear.fallback, "128 columns do not divide into blocks of 256");
  // The cheapest first; the scale beside NVFP4 counts.
  const std::vector<std::string> all = {"mxfp4", "q4_0", "iq4_nl", "nvfp4", "q5_0",
                                        "q5_1",  "q8_0", "f16",    "bf16"};
  std::vector<std::string> names = Names(linear);
  std::sort(names.begin() + 1, names.begin() + 3);
  std::vector<std::string> sorted = all;
  std::sort(sorted.begin() + 1, sorted.begin() + 3);
  EXPECT_EQ(names, sorted);
  for (size_t i = 1; i < linear.types.size(); ++i) {
    EXPECT_LE(linear.types[i - 1]->Bytes(64, 128), linear.types[i]->Bytes(64, 128));
  }
  // 352 columns do not divide into NVFP4's blocks of 64 either.
  const std::vector<std::string> down = Names(Find(*made, "model.layers.2.mlp.down_proj"));
  EXPECT_EQ(std::count(down.begin(), down.end(), "nvfp4"), 0);
  for (const char* name : {"model.embed_tokens", "lm_head"}) {
    const std::vector<std::string> ends = Names(Find(*made, name));
    EXPECT_EQ(std::count(ends.begin(), ends.end(), "nvfp4"), 0) << name;
  }
  EXPECT_EQ(Find(*made, "lm_head").role, ExportMatrix::Role::kHead);
  EXPECT_EQ(Find(*made, "model.embed_tokens").role, ExportMatrix::Role::kEmbedding);
}

TEST_F(GgufExportTest, FallsBackTo16BitsWhereNothingFits) {
  ASSERT_TRUE(Make("mistral", {}, {.menu = {"q4_k"}}).ok());  // 24 and 28 columns, BF16
  const auto made = GgufExport::Make(folder_.path(), {.menu = {"q4_k"}});
  for (const ExportMatrix& matrix : made->format->matrices()) {
    EXPECT_EQ(Names(matrix), std::vector<std::string>{"bf16"});
    EXPECT_NE(matrix.fallback.find("columns do not divide into blocks of 256"), std::string::npos);
  }
  TempFolder other;
  CopyModel("llama", other.path());  // F32
  const auto f32 = GgufExport::Make(other.path(), {.menu = {"q8_0"}});
  ASSERT_TRUE(f32.ok()) << f32.status();
  EXPECT_EQ(Names(f32->format->matrices()[0]), std::vector<std::string>{"f16"});
}

TEST_F(GgufExportTest, RefusesMenusAndEngines) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectError(Make("llama", {}, {.menu = {"q9_k"}}), kInvalid, "gguf has no type \"q9_k\"; it has");
  ExpectError(Make("llama", {}, {.engine = "vllm"}), kInvalid, "for llama.cpp, not for the engine");
  EXPECT_TRUE(Make("llama", {}, {.engine = "llama.cpp"}).ok());
}

TEST_F(GgufExportTest, RefusesWhatLlamaCppDoesNotCompute) {
  const auto expect = [&](const std::string& name, const nlohmann::json& edit,
                          const std::string& part) {
    SCOPED_TRACE(name + edit.dump());
    const Status status = Make(name, edit);
    ExpectError(status, absl::StatusCode::kUnimplemented, part);
    ExpectError(status, absl::StatusCode::kUnimplemented, "compressed-tensors, gptq or awq");
  };
  expect("opt", {}, "no place for a model of the family opt");
  expect("gemma2", {}, "not scaled by the root of 8");  // query_pre_attn_scalar is 5
  expect("gemma2", {{"query_pre_attn_scalar", 8}, {"attn_logit_softcapping", nullptr}},
         "it caps no scores");
  expect("gemma3", {{"query_pre_attn_scalar", 8}, {"final_logit_softcapping", 30}}, "it caps");
  expect("cohere", {}, "norms of queries and keys");
  expect("cohere2", {{"layer_types", nlohmann::json(4, "full_attention")}}, "do not alternate");
  expect("cohere2",
         {{"layer_types",
           {"full_attention", "sliding_attention", "sliding_attention", "full_attention"}}},
         "do not alternate");
  expect("gemma2", {{"query_pre_attn_scalar", 8}, {"hidden_activation", "gelu"}}, "activation");
  expect("gemma2", {{"query_pre_attn_scalar", 8}, {"tie_word_embeddings", false}},
         "a head of its own");
  expect("qwen3",
         {{"rope_parameters",
           {{"rope_type", "llama3"},
            {"rope_theta", 1000.0},
            {"factor", 4.0},
            {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 64}}}},
         "as Llama 3 does");
  expect("qwen3", {{"attention_bias", true}}, "biases that llama.cpp does not read");
}

// A bias that the config does not tell of, as bias correction leaves it.
TEST_F(GgufExportTest, RefusesABiasThatIsNotRead) {
  CopyModel("qwen3", folder_.path());
  const auto checkpoint = Checkpoint::Open(folder_.path()).value();
  std::vector<TensorEntry> entries;
  for (const std::string& name : checkpoint->names()) {
    entries.push_back({name, checkpoint->Find(name)->dtype, checkpoint->Find(name)->shape});
  }
  entries.push_back({"model.layers.1.mlp.down_proj.bias", DType::kF32, {24}});
  TempFolder other;
  for (const char* name : {"config.json", "tokenizer.json"}) {
    std::filesystem::copy_file(folder_.File(name), other.File(name));
  }
  auto writer = SafetensorsWriter::Create(other.File("model.safetensors"), entries, {}).value();
  for (const TensorEntry& entry : entries) {
    std::vector<std::byte> bytes(entry.shape.elements() * ByteSize(entry.dtype));
    ASSERT_TRUE(writer->Append(bytes).ok());
  }
  ASSERT_TRUE(writer->Finish().ok());
  ExpectError(GgufExport::Make(other.path()).status(), absl::StatusCode::kUnimplemented,
              "model.layers.1.mlp.down_proj.bias\" is a bias that llama.cpp does not read");
}

// Where llama.cpp would not multiply by it, no scale is written.
TEST(GgufMenuTest, OffersNoScaleThatIsNotRead) {
  const GgufMenu menu = GgufMenu::Make({.menu = {"nvfp4", "q4_k"}}).value();
  ExportMatrix matrix{.rows = 8, .columns = 256};
  menu.Choose(DType::kBF16, /*scaled=*/true, matrix);
  EXPECT_EQ(matrix.types.size(), 2u);
  EXPECT_EQ(matrix.fallback, "");
  menu.Choose(DType::kBF16, /*scaled=*/false, matrix);
  EXPECT_EQ(Names(matrix), std::vector<std::string>{"q4_k"});
  EXPECT_EQ(matrix.fallback, "llama.cpp takes no scale of nvfp4 beside this matrix");
  for (const char* family : {"qwen2", "cohere", "gemma2", "gemma3_text"}) {
    EXPECT_FALSE(FindGgufArchitecture(family).value()->matrix_scales) << family;
  }
}

// Two classes of types, rows of q and k among them, come back to the bit where they belong.
TEST_F(GgufExportTest, GridsComeBackInTheirRows) {
  for (const char* type : {"q8_0", "q4_0", "nvfp4"}) {
    SCOPED_TRACE(type);
    auto made = GgufExport::Make(kExample, {.menu = {type}});
    ASSERT_TRUE(made.ok()) << made.status();
    const auto choice = made->Choose(type);
    const std::string out = folder_.File(type);
    ASSERT_TRUE(made->Write(choice, out).ok());
    EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(out + "/model.gguf")),
              made->format->TotalBytes(choice));
    const auto model = GgufModel::Open(out + "/model.gguf");
    ASSERT_TRUE(model.ok()) << model.status();
    const GgufWeights weights(*model);
    for (size_t i = 0; i < made->format->matrices().size(); ++i) {
      const ExportMatrix& matrix = made->format->matrices()[i];
      if (choice[i]->dense()) continue;
      const ExportedMatrix exported = made->Matrix(i, *choice[i]).value();
      const auto read = weights.Dense(matrix.name + ".weight");
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(*ToFloats(*read), Decode(exported.grid)) << matrix.name;
      EXPECT_EQ(weights.Describe(matrix.name + ".weight")->dtype, DType::kF32);
    }
  }
}

// The file itself, not as it is read: of a head of D rows, row 2i + j is row j D/2 + i of the
// checkpoint, for q and k of llama alone; Gemma's norms have 1 added.
TEST_F(GgufExportTest, TurnsRowsAndNormsAsLlamaCppHasThem) {
  const auto floats = [](std::span<const std::byte> bytes) {
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  };
  for (const char* family : {"llama", "qwen2", "gemma2"}) {
    SCOPED_TRACE(family);
    const std::string folder = folder_.File(family), out = folder + "/out";
    CopyModel(family, folder, EditFor(family));
    auto made = GgufExport::Make(folder, {.menu = {"f32"}});
    ASSERT_TRUE(made.ok()) << made.status();
    ASSERT_TRUE(made->Write(made->Choose("f32"), out).ok());
    const auto file = GgufFile::Open(out + "/model.gguf").value();
    const bool turned = std::string(family) == "llama";
    for (const std::string name : {"q", "k", "v"}) {
      const auto values = floats(file->FindTensor("blk.0.attn_" + name + ".weight")->bytes);
      const std::string tensor = "model.layers.0.self_attn." + name + "_proj.weight";
      const auto original = *ToFloats(*made->checkpoint->Get(tensor));
      ASSERT_EQ(values.size(), original.size());
      const int64_t columns = made->spec.hidden, D = made->spec.head_dim;
      for (size_t at = 0; at < values.size(); ++at) {
        const int64_t row = static_cast<int64_t>(at) / columns, in_head = row % D;
        const int64_t from =
            turned && name != "v" ? row - in_head + in_head % 2 * (D / 2) + in_head / 2 : row;
        ASSERT_EQ(values[at], original[from * columns + at % columns]) << name << " row " << row;
      }
    }
    const auto norm = floats(file->FindTensor("output_norm.weight")->bytes);
    const auto original = *ToFloats(*made->checkpoint->Get("model.norm.weight"));
    for (size_t i = 0; i < norm.size(); ++i) {
      EXPECT_EQ(norm[i], original[i] + (std::string(family) == "gemma2" ? 1.0f : 0.0f));
    }
  }
}

TEST_F(GgufExportTest, TellsTheTypeOfMostWeights) {
  auto made = GgufExport::Make(kExample);
  ASSERT_TRUE(made.ok());
  auto choice = made->Choose("q8_0");
  for (size_t i = 0; i < choice.size(); i += 2) choice[i] = FindGgmlType("q5_0");
  for (size_t i = 0; i < choice.size(); ++i) {
    if (made->format->matrices()[i].id == LinearId::kDown) choice[i] = FindGgmlType("q8_0");
  }
  ASSERT_TRUE(made->Write(choice, folder_.File("out")).ok());
  const auto file = GgufFile::Open(folder_.File("out") + "/model.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("general.file_type")->Integer(), 7);
  EXPECT_EQ((*file)->FindTensor("token_embd.weight")->type, 6u);
  EXPECT_EQ((*file)->FindTensor("blk.0.ffn_down.weight")->type, 8u);
}

TEST(GgufMatrixTest, RefusesWhatDoesNotFit) {
  const GgmlType& f16 = *FindGgmlType("f16");
  ExportedMatrix matrix{.grid = {}, .values = {1, 2, 3, 70000}};
  ExpectError(PackGgufMatrix(f16, 2, 2, matrix, {}).status(), absl::StatusCode::kInvalidArgument,
              "beyond the range of f16");
  EXPECT_EQ(PackGgufMatrix(f16, 2, 3, matrix, {}).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(PackGgufMatrix(*FindGgmlType("q8_0"), 2, 2, matrix, {}).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(PackGgufMatrix(*FindGgmlType("bf16"), 2, 2, matrix, {}).ok());
}

// A context longer than the window would be computed otherwise.
TEST_F(GgufExportTest, WindowsEndTheContextWhereThereAreNone) {
  CopyModel("mistral", folder_.path());
  auto made = GgufExport::Make(folder_.path(), {.menu = {"f32"}});
  ASSERT_TRUE(made.ok());
  ASSERT_TRUE(made->Write(made->Choose("f32"), folder_.File("out")).ok());
  const auto file = GgufFile::Open(folder_.File("out") + "/model.gguf");
  EXPECT_EQ((*file)->Find("llama.context_length")->Integer(), 3);
  EXPECT_EQ((*file)->Find("llama.rope.freq_base")->Float(), 10000);
}

}  // namespace
}  // namespace cvxq
