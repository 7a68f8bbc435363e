// Every family against transformers: logits and gradients, in F32 and BF16, on every backend; and
// against itself: generation with a cache, streamed weights.
#include <gmock/gmock.h>

#include <cstring>
#include <map>

#include "model_test_util.h"

namespace cvxq {
namespace {

using Gradients = std::map<std::string, std::vector<float>>;

// softmax of one row in double.
std::vector<double> Softmax(const float* logits, int64_t V) {
  std::vector<double> p(V);
  double largest = -INFINITY, sum = 0;
  for (int64_t v = 0; v < V; ++v) largest = std::max<double>(largest, logits[v]);
  for (int64_t v = 0; v < V; ++v) sum += p[v] = std::exp(logits[v] - largest);
  for (double& value : p) value /= sum;
  return p;
}

// Forward through all blocks, then backward from the gradient of sum log p(labels): the gradient
// of every linear's output, by its name.
Gradients AllGradients(const TestModel& test, const Golden& golden) {
  Model& model = *test.model;
  Backend& backend = *test.backend;
  const ArchSpec& spec = model.spec();
  const Wave wave = golden.wave();
  const int64_t n = wave.rows(), V = spec.vocabulary;

  std::vector<Tensor> inputs;
  auto embedded = model.Embed(wave, test.Ids(golden.Ints("ids")));
  EXPECT_TRUE(embedded.ok()) << embedded.status();
  Tensor x = *embedded;
  for (int64_t i = 0; i < spec.layers; ++i) {
    inputs.push_back(backend.Allocate(DType::kF32, x.shape));
    backend.Convert(x, inputs.back());
    EXPECT_TRUE(model.ForwardBlock(i, wave, x, nullptr).ok());
  }
  const Tensor logits = model.Logits(model.FinalHidden(x));

  const std::vector<float> host = ToHost<float>(logits, backend);
  const std::vector<int32_t> labels = golden.Ints("labels");
  std::vector<float> glogits(n * V);
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> p = Softmax(host.data() + i * V, V);
    for (int64_t v = 0; v < V; ++v) glogits[i * V + v] = (v == labels[i]) - p[v];
  }
  const Tensor g_logits = backend.Allocate(DType::kF32, {n, V});
  backend.Upload(glogits.data(), g_logits);
  Tensor g = model.FinalHiddenBackward(x, model.LogitsBackward(logits, g_logits));

  Gradients gradients;
  for (int64_t i = spec.layers - 1; i >= 0; --i) {
    const LinearObserver keep = [&](LinearId id, const Tensor& input, const Tensor& gy) {
      EXPECT_EQ(input.dtype, model.compute());
      EXPECT_EQ(gy.dtype, model.compute());
      EXPECT_EQ(input.shape, (Shape{n, spec.columns(id)}));
      gradients[spec.LinearName(i, id)] = ToFloats(gy, backend);
    };
    EXPECT_TRUE(model.BackwardBlock(i, wave, inputs[i], g, &keep).ok());
  }
  EXPECT_TRUE(backend.Synchronize().ok());
  return gradients;
}

class ModelGoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  std::string folder() const { return DataFolder() + std::get<0>(GetParam()); }
  TestModel Open(const ModelOptions& options = {}) const {
    return TestModel::Open(folder(), std::get<1>(GetParam()), options);
  }
  Golden golden() const { return Golden(folder() + "/golden.safetensors"); }
};

TEST_P(ModelGoldenTest, LogitsAreThoseOfTransformers) {
  const TestModel test = Open();
  const Golden expected = golden();
  const std::vector<float> logits = test.Logits(expected.wave(), expected.Ints("ids"));
  EXPECT_LT(LargestDifference(logits, expected.Floats("logits")), 1e-4f);
}

TEST_P(ModelGoldenTest, GradientsAreThoseOfTransformers) {
  const TestModel test = Open();
  const Golden expected = golden();
  const Gradients gradients = AllGradients(test, expected);
  const ArchSpec& spec = test.model->spec();
  EXPECT_EQ(gradients.size(), spec.layers * spec.linears().size());
  for (const auto& [name, values] : gradients) {
    const std::vector<float> wanted = expected.Floats("grad." + name);
    EXPECT_LT(RelativeDifference(values, wanted), 1e-3) << name;
    const double floor = 1e-3 * NormOf(wanted) / std::sqrt(wanted.size());
    ASSERT_EQ(values.size(), wanted.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(values[i], wanted[i], 1e-3 * std::abs(wanted[i]) + floor) << name << " " << i;
    }
  }
}

TEST_P(ModelGoldenTest, BF16IsClose) {
  const TestModel test = Open({.compute = DType::kBF16});
  const Golden expected = golden();
  const std::vector<float> wanted = expected.Floats("logits");
  const std::vector<float> logits = test.Logits(expected.wave(), expected.Ints("ids"));
  ASSERT_EQ(logits.size(), wanted.size());
  const int64_t V = test.model->spec().vocabulary, n = expected.wave().rows();
  double kl = 0;
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> p = Softmax(wanted.data() + i * V, V);
    const std::vector<double> q = Softmax(logits.data() + i * V, V);
    for (int64_t v = 0; v < V; ++v) kl += p[v] * std::log(p[v] / q[v]) / n;
  }
  EXPECT_LT(kl, 5e-4);
  EXPECT_GT(kl, 1e-9) << "computed in F32?";

  for (const auto& [name, values] : AllGradients(test, expected)) {
    EXPECT_LT(RelativeDifference(values, expected.Floats("grad." + name)), 0.15) << name;
  }
}

TEST_P(ModelGoldenTest, GenerationWithCacheEqualsFullForward) {
  const TestModel test = Open();
  const ArchSpec& spec = test.model->spec();
  Backend& backend = *test.backend;
  const Golden expected = golden();
  const int64_t T = expected.wave().T;
  std::vector<int32_t> ids = expected.Ints("ids");
  ids.resize(T);  // the first sequence

  std::vector<KeyValueCache> caches(spec.layers);
  for (KeyValueCache& cache : caches) {
    const Shape shape{T + 3, int64_t{spec.kv_heads} * spec.head_dim};
    cache.keys = backend.Allocate(DType::kF32, shape);
    cache.values = backend.Allocate(DType::kF32, shape);
    backend.Fill(cache.keys, NAN);  // rows that are not written yet must not be read
    backend.Fill(cache.values, NAN);
  }
  std::vector<float> logits;
  for (int64_t begin = 0; begin < T;) {
    const int64_t end = begin == 0 ? 3 : begin + 1;
    const Wave wave{.B = 1, .T = end - begin, .position = begin};
    auto x = test.model->Embed(wave, test.Ids({ids.begin() + begin, ids.begin() + end}));
    ASSERT_TRUE(x.ok()) << x.status();
    for (int64_t i = 0; i < spec.layers; ++i) {
      ASSERT_TRUE(test.model->ForwardBlock(i, wave, *x, nullptr, &caches[i]).ok());
    }
    const std::vector<float> piece =
        ToHost<float>(test.model->Logits(test.model->FinalHidden(*x)), backend);
    logits.insert(logits.end(), piece.begin(), piece.end());
    begin = end;
  }
  std::vector<float> wanted = expected.Floats("logits");
  wanted.resize(T * spec.vocabulary);
  EXPECT_LT(LargestDifference(logits, wanted), 1e-4f);
}

TEST_P(ModelGoldenTest, StreamedWeightsGiveTheSameBytes) {
  const Golden expected = golden();
  const TestModel resident = Open();
  const std::vector<float> logits = resident.Logits(expected.wave(), expected.Ints("ids"));
  const Gradients gradients = AllGradients(resident, expected);
  // Nothing resident; then room for some of the blocks.
  for (const int64_t bytes : {0, 25000}) {
    const TestModel streamed = Open({.resident_bytes = bytes});
    EXPECT_EQ(logits, streamed.Logits(expected.wave(), expected.Ints("ids")));
    EXPECT_EQ(gradients, AllGradients(streamed, expected));
  }
}

TEST_P(ModelGoldenTest, ObserverSeesEveryLinearInOrder) {
  const TestModel test = Open();
  const ArchSpec& spec = test.model->spec();
  const Golden expected = golden();
  auto x = test.model->Embed(expected.wave(), test.Ids(expected.Ints("ids")));
  ASSERT_TRUE(x.ok()) << x.status();
  std::vector<LinearId> seen;
  std::map<InputId, const Buffer*> inputs;
  const LinearObserver observer = [&](LinearId id, const Tensor& input, const Tensor& gy) {
    seen.push_back(id);
    EXPECT_TRUE(gy.empty());
    const Buffer*& buffer = inputs[InputOf(id)];
    if (buffer == nullptr) buffer = input.buffer.get();
    EXPECT_EQ(buffer, input.buffer.get()) << "linears that share an input get one tensor";
  };
  ASSERT_TRUE(test.model->ForwardBlock(0, expected.wave(), *x, &observer).ok());
  EXPECT_EQ(seen, spec.linears());
}

INSTANTIATE_TEST_SUITE_P(Families, ModelGoldenTest,
                         testing::Combine(testing::ValuesIn(AllCases()),
                                          testing::ValuesIn(TestBackends())),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ModelGoldenTest);  // without a GPU

}  // namespace
}  // namespace cvxq
