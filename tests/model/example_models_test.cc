// The models of examples/ against transformers.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/model/model_test_util.h"

namespace cvxq {
namespace {

class ExampleModelTest : public testing::TestWithParam<std::string> {};

TEST_P(ExampleModelTest, LogitsAreThoseOfTransformers) {
  const TestModel test =
      TestModel::Open(std::string(CVXQ_SOURCE_DIR) + "/examples/models/" + GetParam(), "cpu");
  const Golden golden(DataFolder() + GetParam() + ".golden.safetensors");
  const std::vector<int32_t> ids = golden.Ints("ids");
  const std::vector<float> logits = test.Logits({.T = static_cast<int64_t>(ids.size())}, ids);
  const int64_t V = test.model->spec().vocabulary;
  std::vector<float> rows;
  for (const int32_t row : golden.Ints("rows")) {
    rows.insert(rows.end(), logits.begin() + row * V, logits.begin() + (row + 1) * V);
  }
  EXPECT_LT(LargestDifference(rows, golden.Floats("logits")), 2e-4f);
}

INSTANTIATE_TEST_SUITE_P(Examples, ExampleModelTest, testing::Values("kjv-llama-1m", "kjv-opt-1m"),
                         [](const auto& info) {
                           return info.param == "kjv-opt-1m" ? "opt" : "llama";
                         });

}  // namespace
}  // namespace cvxq
