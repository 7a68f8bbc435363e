// The divergence of a model whose norms and biases were moved from the one it stands for: its
// gradient against finite differences, for every architecture; and the optimiser that uses it.
#include "pipeline/distillation.h"

#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "pipeline/adam.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

// A tiny model as the original, and itself with other norms and biases as the quantised one.
struct Pair {
  TinyModel tiny;
  ScratchFolder scratch;
  SpillStore store{scratch.path(), 0};  // all on disk
  CalibrationSet calibration;
  HiddenStates teacher;
  std::unique_ptr<TunedWeights> weights;
  std::unique_ptr<Model> student;
  std::unique_ptr<Distillation> distillation;

  explicit Pair(const std::string& name, const ModelOptions& options = {})
      : tiny(name), calibration(RandomSequences(tiny.files.spec, 3, 12)) {
    Progress progress(ProgressMode::kQuiet);
    auto phase = progress.Start("test", 0, "");
    auto kept = KeepHiddenStates(*tiny.model, calibration, store, phase);
    EXPECT_TRUE(kept.ok()) << kept.status();
    teacher = *std::move(kept);
    const ArchSpec& spec = tiny.files.spec;
    auto made = TunedWeights::Make(spec, MakePlans(spec), *tiny.files.weights);
    EXPECT_TRUE(made.ok()) << made.status();
    weights = *std::move(made);
    auto loaded = Model::Load(spec, *weights, options, *tiny.backend);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    student = *std::move(loaded);
    distillation = std::make_unique<Distillation>(*student, *weights, calibration, teacher, store);
  }

  void Set(std::vector<float> values) {
    weights->Set(std::move(values));
    EXPECT_TRUE(student->ReloadParameters().ok());
  }
  double Divergence(std::vector<float>* gradient = nullptr) {
    const std::vector<int64_t> samples{2, 0, 1};
    const auto kl = distillation->Run(samples, gradient);
    EXPECT_TRUE(kl.ok()) << kl.status();
    return *kl;
  }
};

std::vector<float> Moved(std::vector<float> values, float distance) {
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] += distance * (2 * RandomUniform(3, i) - 1);
  }
  return values;
}

TEST(DistillationTest, AModelDoesNotDivergeFromItself) {
  Pair pair("llama");
  EXPECT_NEAR(pair.Divergence(), 0, 1e-6);
  pair.Set(Moved(pair.weights->values(), 0.2f));
  EXPECT_GT(pair.Divergence(), 1e-4);
}

// The derivative along one random direction within each parameter.
TEST(DistillationTest, GradientsAreThoseOfFiniteDifferences) {
  for (const char* name : {"llama", "opt", "opt_350m", "opt_plain", "qwen2", "qwen3", "gemma2",
                           "gemma3", "cohere", "cohere2"}) {
    Pair pair(name);
    const std::vector<float> at = Moved(pair.weights->values(), 0.2f);
    pair.Set(at);
    std::vector<float> gradient;
    pair.Divergence(&gradient);
    ASSERT_EQ(gradient.size(), at.size());
    double largest = 0;
    std::vector<std::pair<double, double>> found;  // differences, gradient
    for (const TunedWeights::Entry& entry : pair.weights->entries()) {
      const int64_t n = entry.shape.elements();
      std::vector<float> direction(at.size());
      double expected = 0;
      for (int64_t i = entry.offset; i < entry.offset + n; ++i) {
        direction[i] = gradient[i] >= 0 ? 1 : -1;
        expected += std::abs(gradient[i]);
      }
      const auto along = [&](float step) {
        std::vector<float> values = at;
        for (size_t i = 0; i < values.size(); ++i) values[i] += step * direction[i];
        pair.Set(std::move(values));
        return pair.Divergence();
      };
      const float h = 1.0f / 128;
      const double near = along(h) - along(-h), far = along(2 * h) - along(-2 * h);
      found.emplace_back((8 * near - far) / (12 * h), expected);
      largest = std::max(largest, expected);
    }
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i].first, found[i].second, 0.01 * found[i].second + 2e-3 * largest)
          << name << " " << pair.weights->entries()[i].name;
    }
  }
}

TEST(DistillationTest, StreamedWeightsGiveTheSame) {
  for (const char* name : {"opt", "gemma3"}) {
    Pair resident(name), streamed(name, {.resident_bytes = 0});
    for (Pair* pair : {&resident, &streamed}) pair->Set(Moved(pair->weights->values(), 0.1f));
    std::vector<float> expected, gradient;
    EXPECT_EQ(streamed.Divergence(&gradient), resident.Divergence(&expected)) << name;
    EXPECT_EQ(gradient, expected) << name;
  }
}

TEST(TunedWeightsTest, HoldsAllNormsAndBiases) {
  Pair opt("opt"), llama("llama");
  // OPT: six linears with a bias, and two norms with weight and bias; Llama: two weights.
  EXPECT_EQ(opt.weights->entries().size(), opt.tiny.files.spec.layers * (6 + 4) + 2u);
  EXPECT_EQ(llama.weights->entries().size(), llama.tiny.files.spec.layers * 2 + 1u);
  int64_t next = 0;
  for (const TunedWeights::Entry& entry : opt.weights->entries()) {
    EXPECT_EQ(entry.offset, next);
    next += entry.shape.elements();
    EXPECT_EQ(opt.weights->Describe(entry.name)->shape, entry.shape);
  }
  EXPECT_EQ(next, static_cast<int64_t>(opt.weights->values().size()));
}

// Tensors of several types under names of a Llama model.
class FakeWeights : public WeightSource {
 public:
  std::optional<TensorInfo> Describe(const std::string& name) const override {
    const auto found = tensors.find(name);
    if (found == tensors.end()) return std::nullopt;
    return TensorInfo{found->second.first, {2}};
  }
  StatusOr<HostTensor> Dense(const std::string& name) const override {
    const auto& values = tensors.at(name).second;
    return HostTensor{*Describe(name), reinterpret_cast<const std::byte*>(values.data())};
  }
  void Release(const std::string&) const override {}

  std::map<std::string, std::pair<DType, std::vector<uint16_t>>> tensors;
};

TEST(TunedWeightsTest, RoundsAsTheFileStores) {
  const auto bf16 = [](float a, float b) {
    return std::vector<uint16_t>{FloatToBF16(a), FloatToBF16(b)};
  };
  FakeWeights base;
  base.tensors["norm.weight"] = {DType::kBF16, bf16(1, 2)};
  base.tensors["norm.bias"] = {DType::kBF16, bf16(1, 70000)};  // beyond F16
  base.tensors["a.bias"] = {DType::kF32, {0, 0x3f80, 1, 0x3f80}};
  base.tensors["b.bias"] = {DType::kF32, {0, 0x3f80, 1, 0x3f80}};
  ArchSpec spec;
  spec.norm_bias = true;
  spec.names.final_norm = "norm";
  LinearPlan a, b, c;
  a.name = "a";
  b.name = "b";
  b.bias = {1, 1};  // made by coding: stored as F16
  c.name = "c";     // has none
  auto made = TunedWeights::Make(spec, {a, b, c}, base);
  ASSERT_TRUE(made.ok()) << made.status();
  const std::map<std::string, DType> expected{{"norm.weight", DType::kF16},
                                              {"norm.bias", DType::kBF16},
                                              {"a.bias", DType::kF32},
                                              {"b.bias", DType::kF16}};
  EXPECT_EQ((*made)->entries().size(), expected.size());
  const std::vector<float> rounded =
      (*made)->Rounded(std::vector<float>((*made)->values().size(), 1.0005f));
  for (const TunedWeights::Entry& entry : (*made)->entries()) {
    EXPECT_EQ(entry.stored, expected.at(entry.name)) << entry.name;
    const float nearest = entry.stored == DType::kF32    ? 1.0005f
                          : entry.stored == DType::kBF16 ? 1.0f
                                                         : 1.0009765625f;
    EXPECT_EQ(rounded[entry.offset], nearest) << entry.name;
  }
}

TEST(AdamTest, StepsOfThePaper) {
  Adam adam(3);
  std::vector<float> values{1, 1, 1};
  // The first step is the rate, whatever the size of the gradient.
  adam.Step(0.1, std::vector<float>{4, -0.001f, 0}, values);
  EXPECT_NEAR(values[0], 0.9, 1e-5);
  EXPECT_NEAR(values[1], 1.1, 1e-5);
  EXPECT_EQ(values[2], 1);
  // The second: means .9 * .1 * 4 + .1 * 2 over .19, and .999 * .001 * 16 + .001 * 4 over .001999.
  adam.Step(0.1, std::vector<float>{2, 0, 0}, values);
  EXPECT_NEAR(values[0], 0.9 - 0.1 * (0.56 / 0.19) / std::sqrt(0.019984 / 0.001999), 1e-5);
}

TEST(AdamTest, FindsTheLeastOfASquare) {
  Adam adam(2);
  std::vector<float> values{3, -2};
  for (int step = 0; step < 500; ++step) {
    adam.Step(0.05 * (1 - step / 500.0),
              std::vector<float>{2 * (values[0] - 1), 20 * (values[1] - 0.5f)}, values);
  }
  EXPECT_NEAR(values[0], 1, 1e-2);
  EXPECT_NEAR(values[1], 0.5, 1e-2);
}

}  // namespace
}  // namespace cvxq
