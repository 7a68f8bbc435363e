// The curvature of the tables against what small errors of them do to the output.
#include "pipeline/table_moments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "pipeline/evaluate.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

// A checkpoint with random noise on some tensors.
class NoisyWeights : public WeightSource {
 public:
  NoisyWeights(const WeightSource& original, const std::vector<std::string>& names, float size)
      : original_(original) {
    uint64_t next = 0;
    for (const std::string& name : names) {
      std::vector<float>& values = values_[name];
      values = *ToFloats(*original.Dense(name));
      for (float& value : values) value += size * (2 * RandomUniform(5, next++) - 1);
    }
  }
  std::optional<TensorInfo> Describe(const std::string& name) const override {
    std::optional<TensorInfo> info = original_.Describe(name);
    if (info && values_.contains(name)) info->dtype = DType::kF32;
    return info;
  }
  StatusOr<HostTensor> Dense(const std::string& name) const override {
    const auto found = values_.find(name);
    if (found == values_.end()) return original_.Dense(name);
    return HostTensor{*Describe(name), reinterpret_cast<const std::byte*>(found->second.data())};
  }
  void Release(const std::string&) const override {}

 private:
  const WeightSource& original_;
  std::map<std::string, std::vector<float>> values_;
};

double Trace(const std::vector<float>& matrix, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += matrix[i * n + i];
  return sum;
}

// What uniform noise of +-size on every weight should cost.
double Foreseen(const TableMoments& table, int64_t columns, float size) {
  double rows = 0;
  for (const float row : table.row) rows += row;
  return 0.5 * size * size / 3 * rows * Trace(table.column, columns);
}

double Measured(TinyModel& tiny, const CalibrationSet& set, const std::string& tensor, float size) {
  const NoisyWeights noisy(*tiny.files.weights, {tensor}, size);
  auto model = Model::Load(tiny.files.spec, noisy, {}, *tiny.backend);
  EXPECT_TRUE(model.ok()) << model.status();
  Progress progress(ProgressMode::kQuiet);
  auto phase = progress.Start("check", 0, "");
  return *MeanDivergence(**model, *tiny.model, set.ids, set.seq_len, phase);
}

StatusOr<TablesMoments> Collect(TinyModel& tiny, const CalibrationSet& set) {
  Progress progress(ProgressMode::kQuiet);
  auto phase = progress.Start("tables", set.samples, "sequences");
  return CollectTableMoments(*tiny.model, set, {.samples = set.samples}, phase);
}

class TableMomentsTest : public testing::TestWithParam<std::string> {};

TEST_P(TableMomentsTest, ForeseeSmallErrors) {
  TinyModel tiny(GetParam());
  const ArchSpec& spec = tiny.files.spec;
  const CalibrationSet set = RandomSequences(spec, 64, 32);
  const StatusOr<TablesMoments> moments = Collect(tiny, set);
  ASSERT_TRUE(moments.ok()) << moments.status();
  const float size = 0.003f;
  const float of_embedding = size / static_cast<float>(spec.embedding_scale);
  const double embedding = Foreseen(moments->embedding, spec.hidden, of_embedding);
  EXPECT_NEAR(Measured(tiny, set, spec.names.embedding + ".weight", of_embedding) / embedding, 1,
              0.35);
  if (spec.tied_head) {
    EXPECT_TRUE(moments->head.row.empty());
    return;
  }
  const double head = Foreseen(moments->head, spec.hidden, size);
  EXPECT_NEAR(Measured(tiny, set, spec.names.head + ".weight", size) / head, 1, 0.2);
}

INSTANTIATE_TEST_SUITE_P(Families, TableMomentsTest,
                         testing::Values("llama", "gemma2", "cohere", "qwen2"));

TEST(TableMomentsOfThreadsTest, TheSameForAnyNumber) {
  std::vector<TablesMoments> results;
  for (const int threads : {1, 3}) {
    TinyModel tiny("llama", threads);
    results.push_back(*Collect(tiny, RandomSequences(tiny.files.spec, 8, 16)));
  }
  EXPECT_EQ(results[0].embedding.row, results[1].embedding.row);
  EXPECT_EQ(results[0].embedding.column, results[1].embedding.column);
  EXPECT_EQ(results[0].head.row, results[1].head.row);
  EXPECT_EQ(results[0].head.column, results[1].head.column);
}

TEST(TableMomentsOfOptTest, ATableOfAnotherWidthIsRefused) {
  TinyModel tiny("opt_350m");
  EXPECT_TRUE(
      absl::IsUnimplemented(Collect(tiny, RandomSequences(tiny.files.spec, 2, 8)).status()));
}

}  // namespace
}  // namespace cvxq
