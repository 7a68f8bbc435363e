#include "formats/gguf_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/ggml_types.h"
#include "tests/formats/gguf_testing.h"

namespace cvxq {
namespace {

// Logits [T, V] of ids.
std::vector<float> Logits(const ArchSpec& spec, const WeightSource& weights,
                          const std::vector<int32_t>& ids) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  auto model = Model::Load(spec, weights, {}, *backend);
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  const int64_t T = static_cast<int64_t>(ids.size());
  const Tensor input = backend->Allocate(DType::kI32, {T});
  backend->Upload(ids.data(), input);
  auto hidden = (*model)->Forward({.B = 1, .T = T}, input);
  EXPECT_TRUE(hidden.ok()) << hidden.status();
  const Tensor logits = (*model)->Logits(*hidden);
  std::vector<float> values(logits.shape.elements());
  backend->Download(logits, values.data());
  return values;
}

// Windows end the context of architectures without them (mistral: 3, qwen2: 3).
std::vector<int32_t> Ids(int64_t limit) {
  std::vector<int32_t> ids = {0, 17, 3, 60, 22, 22, 41, 5};
  ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(limit)));
  return ids;
}

class GgufModelTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(All, GgufModelTest,
                         testing::Values("llama", "llama_v4", "mistral", "cohere", "cohere2",
                                         "qwen2", "qwen3", "gemma2", "gemma3"),
                         [](const auto& info) { return info.param; });

// Every architecture: in F32 the file gives the same weights, bit for bit but for Gemma's norms,
// and the model the same logits.
TEST_P(GgufModelTest, ComesBackAsItWas) {
  const TempFolder folder;
  CopyModel(GetParam(), folder.path(), EditFor(GetParam()));
  auto made = GgufExport::Make(folder.path(), {.menu = {"f32"}});
  ASSERT_TRUE(made.ok()) << made.status();
  const auto choice = made->Choose("f32");
  ASSERT_TRUE(made->Write(choice, folder.File("out")).ok());
  const std::string path = folder.File("out") + "/model.gguf";
  EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(path)),
            made->format->TotalBytes(choice));

  auto model = GgufModel::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const GgufWeights weights(*model);
  for (const std::string& name : made->checkpoint->names()) {
    if (made->spec.tied_head && name == "lm_head.weight") continue;
    if (!made->spec.qk_norm && name.find("_norm.weight") != std::string::npos &&
        name.find("self_attn") != std::string::npos) {
      continue;  // cohere without norms of queries and keys
    }
    const auto read = weights.Dense(name);
    ASSERT_TRUE(read.ok()) << read.status();
    const std::vector<float> values = *ToFloats(*read);
    const std::vector<float> expected = *ToFloats(*made->checkpoint->Get(name));
    EXPECT_EQ(read->shape, made->checkpoint->Find(name)->shape);
    ASSERT_EQ(values.size(), expected.size());
    const float tolerance = (*model)->Find(name)->place.plus_one ? 1e-7f : 0.0f;
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(values[i], expected[i], tolerance) << name << " " << i;
    }
  }
  const DenseWeights dense(made->checkpoint);
  const std::vector<int32_t> ids = Ids((*model)->spec().max_positions);
  const std::vector<float> before = Logits(made->spec, dense, ids);
  const std::vector<float> after = Logits((*model)->spec(), weights, ids);
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(before[i], after[i], 2e-6f) << i;
}

}  // namespace
}  // namespace cvxq
