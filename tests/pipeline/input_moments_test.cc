// Second moments and means of the inputs against plain sums, and factors that come back from disk
// as they went.
#include "pipeline/input_moments.h"

#include <cmath>

#include "gtest/gtest.h"
#include "pipeline/gradients.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

struct Plain {
  std::vector<double> moment, mean;  // [N, N], [N]
};

// All sequences in one wave, observed block by block.
std::vector<std::array<Plain, kInputCount>> PlainMoments(TinyModel& tiny,
                                                         const CalibrationSet& set) {
  const ArchSpec& spec = tiny.files.spec;
  const Wave wave{.B = set.samples, .T = set.seq_len};
  Tensor ids = tiny.backend->Allocate(DType::kI32, {wave.rows()});
  tiny.backend->Upload(set.ids.data(), ids);
  Tensor x = *tiny.model->Embed(wave, ids);
  std::vector<std::array<Plain, kInputCount>> result(spec.layers);
  for (int64_t block = 0; block < spec.layers; ++block) {
    const LinearObserver observer = [&](LinearId id, const Tensor& input, const Tensor&) {
      Plain& plain = result[block][static_cast<int>(InputOf(id))];
      if (!plain.mean.empty()) return;
      const int64_t n = spec.columns(id);
      const std::vector<float> values = tiny.ToHost(input);
      const double share = 1.0 / static_cast<double>(wave.rows());
      plain.moment.resize(n * n);
      plain.mean.resize(n);
      for (int64_t row = 0; row < wave.rows(); ++row) {
        const float* v = &values[row * n];
        for (int64_t i = 0; i < n; ++i) {
          plain.mean[i] += share * v[i];
          for (int64_t j = 0; j < n; ++j) plain.moment[i * n + j] += share * v[i] * v[j];
        }
      }
    };
    EXPECT_TRUE(tiny.model->ForwardBlock(block, wave, x, &observer).ok());
  }
  return result;
}

StatusOr<ModelMoments> Collect(TinyModel& tiny, const CalibrationSet& set,
                               const MomentOptions& options, SpillStore& store, int threads = 2) {
  ThreadPool pool(threads);
  Progress progress(ProgressMode::kQuiet);
  auto phase = progress.Start("", 0, "");
  return CollectInputMoments(*tiny.model, set, options, pool, *MakeCpuRounder(pool), store, phase);
}

// With `center`, all inputs of the model with biases are taken about their mean.
void ExpectPlainSums(const std::string& name, bool center) {
  TinyModel tiny(name);
  const ArchSpec& spec = tiny.files.spec;
  // More than one wave of 4096 tokens.
  const CalibrationSet set = RandomSequences(spec, 67, 64);
  ASSERT_GT(set.samples, WaveSequences(set.seq_len));
  const auto plain = PlainMoments(tiny, set);
  SpillStore store("/nonexistent", int64_t{1} << 30);
  const auto found = Collect(tiny, set, {.damping = 0.01, .center = center}, store);
  ASSERT_TRUE(found.ok()) << found.status();
  const bool centered = center && name == "opt";
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (int i = 0; i < kInputCount; ++i) {
      SCOPED_TRACE(absl::StrCat(name, " block ", block, " input ", i));
      const InputMoments& moments = (*found)[block][i];
      Plain truth = plain[block][i];
      const int64_t n = static_cast<int64_t>(truth.mean.size());
      ASSERT_EQ(static_cast<int64_t>(moments.mean.size()), n);
      EXPECT_EQ(moments.centered, centered);
      double trace = 0;
      for (int64_t k = 0; k < n; ++k) trace += truth.moment[k * n + k];
      const double scale = trace / static_cast<double>(n);
      for (int64_t k = 0; k < n; ++k) {
        EXPECT_NEAR(moments.mean[k], truth.mean[k], 1e-4 * std::sqrt(scale));
        EXPECT_NEAR(moments.diagonal[k], truth.moment[k * n + k], 1e-4 * scale);
      }
      if (centered) {
        trace = 0;
        for (int64_t a = 0; a < n; ++a) {
          for (int64_t b = 0; b < n; ++b) truth.moment[a * n + b] -= truth.mean[a] * truth.mean[b];
          trace += truth.moment[a * n + a];
        }
      }
      const double damped = trace / static_cast<double>(n);
      // L D L^T is H_I in the factor's order, with the damping it tells of.
      const auto factor = LoadFactor(moments, store);
      ASSERT_TRUE(factor.ok()) << factor.status();
      for (int64_t a = 0; a < n; ++a) {
        EXPECT_EQ(moments.conditional[factor->order[a]], factor->diagonal[a]);
        for (int64_t b = 0; b < n; ++b) {
          double product = 0;
          for (int64_t k = 0; k <= std::min(a, b); ++k) {
            product += static_cast<double>(factor->lower[a * n + k]) * factor->diagonal[k] *
                       factor->lower[b * n + k];
          }
          const double expected = truth.moment[factor->order[a] * n + factor->order[b]] +
                                  (a == b ? factor->damping * damped : 0);
          EXPECT_NEAR(product, expected, 2e-4 * scale);
        }
      }
    }
  }
}

TEST(InputMomentsTest, MeetPlainSumsAndFactorThem) {
  for (const char* name : {"llama", "opt"}) ExpectPlainSums(name, /*center=*/false);
}

TEST(InputMomentsTest, AreTakenAboutTheMeanWhereBiasesTakeItUp) {
  for (const char* name : {"llama", "opt"}) ExpectPlainSums(name, /*center=*/true);
}

void ExpectSame(const ModelMoments& a, const SpillStore& a_store, const ModelMoments& b,
                const SpillStore& b_store) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t block = 0; block < a.size(); ++block) {
    for (int i = 0; i < kInputCount; ++i) {
      EXPECT_EQ(a[block][i].mean, b[block][i].mean);
      EXPECT_EQ(a[block][i].diagonal, b[block][i].diagonal);
      const auto a_factor = LoadFactor(a[block][i], a_store);
      const auto b_factor = LoadFactor(b[block][i], b_store);
      ASSERT_TRUE(a_factor.ok() && b_factor.ok());
      EXPECT_EQ(a_factor->order, b_factor->order);
      EXPECT_EQ(a_factor->lower, b_factor->lower);
      EXPECT_EQ(a_factor->diagonal, b_factor->diagonal);
    }
  }
}

TEST(InputMomentsTest, SameBitsSpilledAndForAnyNumberOfThreads) {
  TinyModel tiny("llama", 1);
  const CalibrationSet set = RandomSequences(tiny.files.spec, 140, 32);
  SpillStore in_memory("/nonexistent", int64_t{1} << 30);
  const auto expected = Collect(tiny, set, {}, in_memory, 1);
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(in_memory.bytes_on_disk(), 0);
  const ScratchFolder scratch;
  for (const int threads : {2, 3}) {
    TinyModel again("llama", threads);
    // The first store keeps a part in memory, the second nothing.
    SpillStore store(scratch.path(), threads == 2 ? 200000 : 0);
    const auto found = Collect(again, set, {}, store, threads);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_GT(store.bytes_on_disk(), 0);
    ExpectSame(*expected, in_memory, *found, store);
  }
}

TEST(InputMomentsTest, MeansAloneWithoutFactors) {
  TinyModel tiny("llama");
  const CalibrationSet set = RandomSequences(tiny.files.spec, 3, 16);
  SpillStore store("/nonexistent", int64_t{1} << 30);
  const auto found = Collect(tiny, set, {.factor = false}, store);
  ASSERT_TRUE(found.ok()) << found.status();
  const auto plain = PlainMoments(tiny, set);
  for (size_t block = 0; block < found->size(); ++block) {
    for (int i = 0; i < kInputCount; ++i) {
      const InputMoments& moments = (*found)[block][i];
      EXPECT_TRUE(moments.order.empty());
      ASSERT_EQ(moments.mean.size(), plain[block][i].mean.size());
      for (size_t k = 0; k < moments.mean.size(); ++k) {
        EXPECT_NEAR(moments.mean[k], plain[block][i].mean[k], 1e-4);
      }
    }
  }
}

TEST(InputMomentsTest, AFolderThatTakesNothingIsAnError) {
  TinyModel tiny("llama");
  SpillStore store("/nonexistent", 0);
  const auto found = Collect(tiny, RandomSequences(tiny.files.spec, 1, 16), {}, store);
  EXPECT_FALSE(found.ok());
  EXPECT_NE(std::string(found.status().message()).find("/nonexistent"), std::string::npos);
}

}  // namespace
}  // namespace cvxq
