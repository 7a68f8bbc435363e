// Every operation of the GPU backend against the reference, and the same bits from run to run.
#include "kernels/backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "tests/kernels/backend_cases.h"

namespace cvxq {
namespace {

// One for all tests: making one takes a second. Null where there is no GPU.
Backend* Gpu() {
  static StatusOr<std::unique_ptr<Backend>>* const backend =
      new StatusOr<std::unique_ptr<Backend>>(MakeCudaBackend());
  if (!backend->ok()) return nullptr;
  return (*backend)->get();
}

class CudaBackendTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (Gpu() == nullptr) GTEST_SKIP() << MakeCudaBackend().status().message();
  }
};

TEST_P(CudaBackendTest, AgreesWithReference) {
  const Case& c = GetParam();
  for (DType compute : {DType::kF32, DType::kBF16}) {
    ExpectClose(RunCase(c, *Gpu(), compute), RunCase(c, *MakeReferenceBackend(), compute), c,
                compute, "cuda");
  }
}

TEST_P(CudaBackendTest, SameBitsFromRunToRun) {
  const Case& c = GetParam();
  for (DType compute : {DType::kF32, DType::kBF16}) {
    const auto first = RunCase(c, *Gpu(), compute), second = RunCase(c, *Gpu(), compute);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(std::memcmp(first[i].data(), second[i].data(), first[i].size() * sizeof(float)), 0)
          << Name(compute) << " output " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaBackendTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) { return CaseName(info.param, info.index); });

}  // namespace
}  // namespace cvxq
