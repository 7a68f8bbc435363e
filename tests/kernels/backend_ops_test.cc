// Every operation on every CPU variant against the reference backend, at odd shapes, and the same
// bits for any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/backend_cases.h"

namespace cvxq {
namespace {

// What the CPU backend would be on lesser machines too.
CpuFeatures Features(const std::string& variant) {
  CpuFeatures features;
  if (variant != "best") features.native_bf16 = false;
  if (variant == "avx2") features.level = std::min(features.level, VectorLevel::kAvx2);
  if (variant == "baseline") features.level = VectorLevel::kBaseline;
  return features;
}

class BackendOpsTest : public ::testing::TestWithParam<Case> {};

TEST_P(BackendOpsTest, AgreesWithReference) {
  const Case& c = GetParam();
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const auto expected = RunCase(c, *MakeReferenceBackend(), compute);
    for (const std::string variant : {"best", "avx2", "baseline"}) {
      CpuBackend backend(2, Features(variant));
      ExpectClose(RunCase(c, backend, compute), expected, c, compute, variant);
    }
  }
}

TEST_P(BackendOpsTest, SameBitsForAnyNumberOfThreads) {
  const Case& c = GetParam();
  for (DType compute : {DType::kF32, DType::kBF16}) {
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2, 3, 5}) {
      const auto values = RunCase(c, *MakeCpuBackend(threads), compute);
      if (threads == 1) first = values;
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(std::memcmp(values[i].data(), first[i].data(), values[i].size() * sizeof(float)),
                  0)
            << Name(compute) << ", " << threads << " threads, output " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendOpsTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) { return CaseName(info.param, info.index); });

}  // namespace
}  // namespace cvxq
