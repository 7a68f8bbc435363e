#include "base/memory.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace cvxq {
namespace {

TEST(Memory, SeesMemoryThatIsTouched) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  const int64_t before = ResidentBytes();
  {
    std::vector<char> block(kBytes);
    std::memset(block.data(), 1, block.size());
    EXPECT_GT(ResidentBytes(), before + kBytes / 2);
  }
  EXPECT_GT(PeakResidentBytes(), kBytes);
  // The peak stays when the block is gone.
  EXPECT_GE(PeakResidentBytes(), before + kBytes / 2);
}

}  // namespace
}  // namespace cvxq
