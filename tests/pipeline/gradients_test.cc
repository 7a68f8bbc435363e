// The sampled statistics against exact ones: every label of every token enumerated, squares summed
// in plain loops.
#include "pipeline/gradients.h"

#include <cmath>
#include <functional>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

// One linear's exact curvature per token: F [M, N] and H_O [M, M].
struct Exact {
  int64_t rows = 0, columns = 0;
  std::vector<double> f, output_moment;
};
using ExactModel = std::vector<std::array<Exact, kLinearCount>>;

// For each sequence and token: gives the gradients [B, E] with respect to the token's final hidden
// state, each already times the root of its weight in the sum.
using TokenGradients = std::function<std::vector<float>(const Tensor& hidden_row)>;

ExactModel Enumerate(TinyModel& tiny, const CalibrationSet& set, const TokenGradients& gradients) {
  const ArchSpec& spec = tiny.files.spec;
  const int64_t T = set.seq_len, E = spec.embedding_dim;
  ExactModel exact(spec.layers);
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      const int64_t M = spec.rows(id), N = spec.columns(id);
      exact[block][static_cast<int>(id)] = {M, N, std::vector<double>(M * N),
                                            std::vector<double>(M * M)};
    }
  }
  const double share = 1.0 / static_cast<double>(set.samples * T);
  for (int64_t sample = 0; sample < set.samples; ++sample) {
    const std::vector<int32_t> ids(&set.ids[sample * T], &set.ids[sample * T] + T);
    for (int64_t t = 0; t < T; ++t) {
      const auto run = [&](int64_t B, std::vector<Tensor>* inputs) {
        std::vector<int32_t> copies;
        for (int64_t b = 0; b < B; ++b) copies.insert(copies.end(), ids.begin(), ids.end());
        Tensor id_tensor = tiny.backend->Allocate(DType::kI32, {B * T});
        tiny.backend->Upload(copies.data(), id_tensor);
        Tensor x = *tiny.model->Embed({.B = B, .T = T}, id_tensor);
        for (int64_t block = 0; block < spec.layers; ++block) {
          if (inputs != nullptr) inputs->push_back(tiny.Floats(tiny.ToHost(x), x.shape));
          EXPECT_TRUE(tiny.model->ForwardBlock(block, {.B = B, .T = T}, x, nullptr).ok());
        }
        return x;
      };
      const std::vector<float> rows =
          gradients(tiny.model->FinalHidden(run(1, nullptr)).Rows(t, t + 1));
      const int64_t B = static_cast<int64_t>(rows.size()) / E;
      std::vector<Tensor> inputs;
      const Tensor x = run(B, &inputs);
      std::vector<float> g(B * T * E);  // zero but for token t of each copy
      for (int64_t b = 0; b < B; ++b) std::copy_n(&rows[b * E], E, &g[(b * T + t) * E]);
      Tensor back = tiny.model->FinalHiddenBackward(x, tiny.Floats(g, {B * T, E}));
      for (int64_t block = spec.layers - 1; block >= 0; --block) {
        const LinearObserver observer = [&](LinearId id, const Tensor& x, const Tensor& gy) {
          Exact& out = exact[block][static_cast<int>(id)];
          const int64_t M = out.rows, N = out.columns;
          const std::vector<float> in = tiny.ToHost(x), grad = tiny.ToHost(gy);
          for (int64_t b = 0; b < B; ++b) {
            std::vector<double> dw(M * N);
            for (int64_t s = b * T; s < (b + 1) * T; ++s) {
              for (int64_t m = 0; m < M; ++m) {
                for (int64_t n = 0; n < N; ++n) dw[m * N + n] += grad[s * M + m] * in[s * N + n];
                for (int64_t k = 0; k < M; ++k) {
                  out.output_moment[m * M + k] += share * grad[s * M + m] * grad[s * M + k];
                }
              }
            }
            for (int64_t i = 0; i < M * N; ++i) out.f[i] += share * dw[i] * dw[i];
          }
        };
        EXPECT_TRUE(
            tiny.model->BackwardBlock(block, {.B = B, .T = T}, inputs[block], back, &observer)
                .ok());
      }
    }
  }
  return exact;
}

// The diagonal Fisher information: the sum over y of p(y) (d log p(y) / dW)^2.
ExactModel ExactFisher(TinyModel& tiny, const CalibrationSet& set) {
  return Enumerate(tiny, set, [&](const Tensor& hidden) {
    const std::vector<float> logits = tiny.ToHost(tiny.model->Logits(hidden));
    const int64_t V = static_cast<int64_t>(logits.size());
    const float most = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float z : logits) total += std::exp(static_cast<double>(z - most));
    std::vector<float> g(V * V), repeated;
    for (int64_t y = 0; y < V; ++y) {
      repeated.insert(repeated.end(), logits.begin(), logits.end());
      const double weight = std::sqrt(std::exp(static_cast<double>(logits[y] - most)) / total);
      for (int64_t v = 0; v < V; ++v) {
        const double p = std::exp(static_cast<double>(logits[v] - most)) / total;
        g[y * V + v] = static_cast<float>(weight * ((v == y ? 1.0 : 0.0) - p));
      }
    }
    return tiny.ToHost(
        tiny.model->LogitsBackward(tiny.Floats(repeated, {V, V}), tiny.Floats(g, {V, V})));
  });
}

// The squared error of the hidden states along their components: the sum over k of
// (d c_k.h / dW)^2.
ExactModel ExactHidden(TinyModel& tiny, const CalibrationSet& set, const GradientOptions& options) {
  const std::vector<float> components = *HiddenComponents(*tiny.model, set, options);
  return Enumerate(tiny, set, [&](const Tensor&) { return components; });
}

StatusOr<ModelGradients> Collect(TinyModel& tiny, const CalibrationSet& set,
                                 const GradientOptions& options, const GradientRequest& request) {
  Progress progress(ProgressMode::kQuiet);
  auto phase = progress.Start("", 0, "");
  return CollectGradients(*tiny.model, set, options, request, phase);
}

// Mean and standard error of each value over many runs.
class Spread {
 public:
  void Add(const std::vector<float>& values) {
    sum_.resize(values.size());
    square_.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      sum_[i] += values[i];
      square_[i] += static_cast<double>(values[i]) * values[i];
    }
    ++runs_;
  }
  // Each mean lies within so many standard errors (and a rounding error) of its expectation.
  void ExpectMeans(const std::vector<double>& expected, const std::string& what,
                   double errors = 5) const {
    ASSERT_EQ(sum_.size(), expected.size()) << what;
    double total = 0, scale = 0, widest = 0, largest = 0;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    for (size_t i = 0; i < expected.size(); ++i) {
      const double mean = sum_[i] / runs_;
      const double variance = std::max(0.0, square_[i] / runs_ - mean * mean);
      const double error = std::sqrt(variance / (runs_ - 1));
      EXPECT_NEAR(mean, expected[i], errors * error + 1e-4 * std::abs(expected[i]) + 1e-6 * largest)
          << what << " at " << i;
      total += std::abs(mean - expected[i]);
      scale += std::abs(expected[i]);
      widest += error;
    }
    // The test is worth something: the errors are small against the values.
    EXPECT_LT(widest, 0.25 * scale) << what;
    EXPECT_LT(total, 2 * widest + 1e-4 * scale) << what;
  }

 private:
  std::vector<double> sum_, square_;
  int runs_ = 0;
};

std::vector<double> MemberSums(const Exact& exact, Partition partition) {
  std::vector<double> sums(partition == Partition::kColumns ? exact.rows : exact.columns);
  for (int64_t m = 0; m < exact.rows; ++m) {
    for (int64_t n = 0; n < exact.columns; ++n) {
      sums[partition == Partition::kColumns ? m : n] += exact.f[m * exact.columns + n];
    }
  }
  return sums;
}

void ExpectUnbiased(TinyModel& tiny, const CalibrationSet& set, GradientOptions options,
                    const ExactModel& exact, int seeds) {
  const ArchSpec& spec = tiny.files.spec;
  options.samples = set.samples;
  std::vector<std::array<Spread, kLinearCount>> members(spec.layers), moments(spec.layers);
  for (int seed = 1; seed <= seeds; ++seed) {
    options.seed = static_cast<uint64_t>(seed);
    const auto found = Collect(tiny, set, options, {.output_block = 1 << 20});
    ASSERT_TRUE(found.ok()) << found.status();
    for (int64_t block = 0; block < spec.layers; ++block) {
      for (const LinearId id : spec.linears()) {
        const int i = static_cast<int>(id);
        members[block][i].Add((*found)[block][i].member);
        moments[block][i].Add((*found)[block][i].output_moment);
      }
    }
  }
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      const int i = static_cast<int>(id);
      const Exact& truth = exact[block][i];
      members[block][i].ExpectMeans(MemberSums(truth, Partition::kColumns),
                                    "F of " + spec.LinearName(block, id));
      // Thousands of products of two rows: by chance alone some lie 4 errors off.
      moments[block][i].ExpectMeans(truth.output_moment, "H_O of " + spec.LinearName(block, id), 6);
    }
  }
}

TEST(GradientsTest, FisherEstimatorsMeetTheExactInformation) {
  TinyModel tiny("llama");
  const ExactModel exact = ExactFisher(tiny, RandomSequences(tiny.files.spec, 2, 6));
  // Rare labels have large gradients: many draws in each run, so that runs scatter normally.
  const CalibrationSet set = RandomSequences(tiny.files.spec, 2, 6, /*copies=*/50);
  {
    SCOPED_TRACE("labels");
    ExpectUnbiased(tiny, set, {.estimator = Estimator::kLabels}, exact, 40);
  }
  {
    SCOPED_TRACE("signs");
    ExpectUnbiased(tiny, set, {.estimator = Estimator::kSigns}, exact, 40);
  }
  {
    SCOPED_TRACE("tokens, all");
    ExpectUnbiased(tiny, set, {.estimator = Estimator::kTokens, .stride = 1}, exact, 20);
  }
  {
    SCOPED_TRACE("tokens, every fourth of six");
    ExpectUnbiased(tiny, set, {.estimator = Estimator::kTokens, .stride = 4}, exact, 40);
  }
}

TEST(GradientsTest, LabelsMeetItWithBiasesAndATiedHead) {
  TinyModel tiny("opt");
  const ExactModel exact = ExactFisher(tiny, RandomSequences(tiny.files.spec, 1, 5));
  ExpectUnbiased(tiny, RandomSequences(tiny.files.spec, 1, 5, /*copies=*/100), {}, exact, 40);
}

TEST(GradientsTest, HiddenEstimatorsMeetTheExactSquaredError) {
  TinyModel tiny("llama");
  // Sample i takes component i mod 3: the copies of a sequence take all of them equally often.
  const CalibrationSet set = RandomSequences(tiny.files.spec, 2, 6, /*copies=*/30);
  GradientOptions options{.objective = Objective::kHidden, .samples = set.samples, .components = 3};
  const CalibrationSet once = RandomSequences(tiny.files.spec, 2, 6);
  GradientOptions options_once = options;
  options_once.samples = once.samples;
  const ExactModel exact = ExactHidden(tiny, once, options_once);
  options.estimator = Estimator::kSigns;
  ExpectUnbiased(tiny, set, options, exact, 40);
  options.stride = 4;
  options.estimator = Estimator::kTokens;
  ExpectUnbiased(tiny, set, options, exact, 40);
  // With every token nothing is left to chance.
  options.stride = 1;
  ExpectUnbiased(tiny, set, options, exact, 2);
}

TEST(GradientsTest, LabelsNeedADistribution) {
  TinyModel tiny("llama");
  const auto found = Collect(tiny, RandomSequences(tiny.files.spec, 1, 4),
                             {.objective = Objective::kHidden, .samples = 1}, {});
  EXPECT_EQ(found.status().code(), absl::StatusCode::kInvalidArgument);
}

// Sums of one run, cut in every way, fit together.
TEST(GradientsTest, MembersGroupsAndBlocksAgree) {
  TinyModel tiny("llama");
  const ArchSpec& spec = tiny.files.spec;
  const CalibrationSet set = RandomSequences(spec, 5, 8);
  const GradientOptions options{.first_sample = 1, .samples = 3, .seed = 3};
  std::array<ModelGradients, 2> member, group;
  std::array<ModelLayouts, 2> layouts;
  for (const Partition partition : {Partition::kColumns, Partition::kRows}) {
    const int p = static_cast<int>(partition);
    member[p] = *Collect(tiny, set, options, {.partition = partition, .output_block = 10});
    layouts[p].resize(spec.layers);
    for (int64_t block = 0; block < spec.layers; ++block) {
      for (const LinearId id : spec.linears()) {
        const int i = static_cast<int>(id);
        layouts[p][block][i] = MakeGroupLayout(spec.rows(id), spec.columns(id), partition, 5,
                                               member[p][block][i].member);
      }
    }
    group[p] = *Collect(tiny, set, options,
                        {.partition = partition, .layouts = &layouts[p], .output_block = 1000});
  }
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      SCOPED_TRACE(spec.LinearName(block, id));
      const int i = static_cast<int>(id);
      std::array<double, 2> total{};
      for (int p = 0; p < 2; ++p) {
        const GroupLayout& layout = layouts[p][block][i];
        const std::vector<float>& sums = member[p][block][i].member;
        const std::vector<float>& means = group[p][block][i].group;
        ASSERT_EQ(static_cast<int64_t>(sums.size()), layout.member_count());
        ASSERT_EQ(static_cast<int64_t>(means.size()), layout.group_count());
        EXPECT_TRUE(group[p][block][i].member.empty());
        for (int64_t c = 0; c < layout.cluster_count(); ++c) {
          double of_members = 0, of_groups = 0;
          for (int64_t at = layout.cluster_begin(c); at < layout.cluster_end(c); ++at) {
            of_members += sums[layout.members[at]];
          }
          for (int64_t line = 0; line < layout.line_count(); ++line) {
            of_groups += static_cast<double>(means[c * layout.line_count() + line]) *
                         static_cast<double>(layout.members_in(c));
          }
          EXPECT_NEAR(of_groups, of_members, 1e-5 * of_members);
          total[p] += of_members;
        }
      }
      EXPECT_NEAR(total[0], total[1], 1e-5 * total[0]);
      EXPECT_GT(total[0], 0);
      // H_O in blocks of 10 rows is cut from the whole, the last block filled up with zeros.
      const int64_t M = spec.rows(id), b = 10;
      const std::vector<float>& blocks = member[0][block][i].output_moment;
      const std::vector<float>& whole = group[0][block][i].output_moment;
      ASSERT_EQ(static_cast<int64_t>(blocks.size()), (M + b - 1) / b * b * b);
      ASSERT_EQ(static_cast<int64_t>(whole.size()), M * M);
      for (int64_t at = 0; at < static_cast<int64_t>(blocks.size()); ++at) {
        const int64_t r = at / (b * b) * b + at / b % b, c = at / (b * b) * b + at % b;
        const float expected = r < M && c < M ? whole[r * M + c] : 0;
        EXPECT_NEAR(blocks[at], expected, 1e-6 + 1e-4 * std::abs(expected));
      }
    }
  }
}

// A group's mean is the mean of exactly its own weights' curvature.
TEST(GradientsTest, GroupMeansMeetTheExactOnes) {
  TinyModel tiny("llama");
  const ArchSpec& spec = tiny.files.spec;
  const CalibrationSet set = RandomSequences(spec, 1, 5);
  GradientOptions options{.objective = Objective::kHidden,
                          .estimator = Estimator::kTokens,
                          .samples = 1,
                          .stride = 1,
                          .components = 1};
  const ExactModel exact = ExactHidden(tiny, set, options);
  for (const Partition partition : {Partition::kColumns, Partition::kRows}) {
    ModelLayouts layouts(spec.layers);
    for (int64_t block = 0; block < spec.layers; ++block) {
      for (const LinearId id : spec.linears()) {
        const int64_t members = partition == Partition::kColumns ? spec.rows(id) : spec.columns(id);
        std::vector<float> keys;
        for (int64_t m = 0; m < members; ++m) keys.push_back(RandomUniform(5, m));
        layouts[block][static_cast<int>(id)] =
            MakeGroupLayout(spec.rows(id), spec.columns(id), partition, 7, keys);
      }
    }
    const auto found = Collect(tiny, set, options, {.partition = partition, .layouts = &layouts});
    ASSERT_TRUE(found.ok()) << found.status();
    for (int64_t block = 0; block < spec.layers; ++block) {
      for (const LinearId id : spec.linears()) {
        const int i = static_cast<int>(id);
        const GroupLayout& layout = layouts[block][i];
        const Exact& truth = exact[block][i];
        for (int64_t c = 0; c < layout.cluster_count(); ++c) {
          for (int64_t line = 0; line < layout.line_count(); ++line) {
            double mean = 0;
            for (int64_t at = layout.cluster_begin(c); at < layout.cluster_end(c); ++at) {
              const int64_t member = layout.members[at];
              mean += partition == Partition::kColumns ? truth.f[member * truth.columns + line]
                                                       : truth.f[line * truth.columns + member];
            }
            mean /= static_cast<double>(layout.members_in(c));
            EXPECT_NEAR((*found)[block][i].group[c * layout.line_count() + line], mean,
                        1e-9 + 1e-3 * mean)
                << spec.LinearName(block, id);
          }
        }
      }
    }
  }
}

TEST(GradientsTest, SameBitsForAnyNumberOfThreads) {
  std::vector<ModelGradients> found;
  for (const int threads : {1, 2, 3}) {
    TinyModel tiny("llama", threads);
    const CalibrationSet set = RandomSequences(tiny.files.spec, 6, 16);
    found.push_back(*Collect(tiny, set, {.samples = 6}, {.output_block = 8}));
  }
  for (size_t run = 1; run < found.size(); ++run) {
    for (size_t block = 0; block < found[0].size(); ++block) {
      for (int i = 0; i < kLinearCount; ++i) {
        EXPECT_EQ(found[run][block][i].member, found[0][block][i].member);
        EXPECT_EQ(found[run][block][i].output_moment, found[0][block][i].output_moment);
      }
    }
  }
}

TEST(GradientsTest, NanWeightsAndOverflowGiveOneClearLine) {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  {
    TinyModel tiny("llama");
    tiny.Spoil(name, std::numeric_limits<float>::quiet_NaN());
    const auto found = Collect(tiny, RandomSequences(tiny.files.spec, 1, 8), {.samples = 1}, {});
    EXPECT_EQ(found.status().code(), absl::StatusCode::kDataLoss) << found.status();
    EXPECT_THAT(std::string(found.status().message()), HasSubstr(name));
  }
  {
    TinyModel tiny("llama");
    tiny.Spoil(name, 3e38f);  // finite, but no product with it is
    const auto found = Collect(tiny, RandomSequences(tiny.files.spec, 1, 8), {.samples = 1}, {});
    EXPECT_EQ(found.status().code(), absl::StatusCode::kDataLoss) << found.status();
    EXPECT_THAT(std::string(found.status().message()), HasSubstr("not finite"));
  }
}

}  // namespace
}  // namespace cvxq
