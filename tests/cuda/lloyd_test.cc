// The codec `lloyd` with the GPU's rounder against the host's.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "quant/codec.h"
#include "quant/packed_format.h"
#include "tests/cuda/quant_problems.h"

namespace cvxq {
namespace {

constexpr int kSteps = 4;

// A linear with curvatures of both sides. Under kColumns its blocks are the layout's members.
struct Linear {
  Problem p;
  GroupLayout layout;
  std::vector<uint8_t> depth;
};

Linear MakeLinear(Partition partition, int64_t columns, std::vector<int64_t> blocks,
                  int64_t cluster_size) {
  std::vector<BlockShape> shapes;
  for (const int64_t rows : blocks) shapes.push_back({rows, true});
  Linear linear{.p = MakeProblem(columns, true, shapes, cluster_size)};
  Problem& p = linear.p;
  // Groups of nothing but zeros, under either partition; feedback fills those that come late.
  for (int64_t c = 0; c < columns; ++c) p.w[7 * columns + c] = 0;
  for (int64_t r = 0; r < p.rows; ++r) p.w[r * columns + 3] = 0;
  linear.layout = MakeGroupLayout(p.rows, columns, partition, cluster_size,
                                  MemberVariances(p.rows, columns, partition, p.w.data()));
  if (partition == Partition::kColumns) {
    auto member = linear.layout.members.begin();
    for (RowBlock& block : p.blocks) {
      member = std::ranges::copy_n(member, std::ssize(block.rows), block.rows.begin()).in;
    }
  }
  Draws draws(5);
  for (int64_t g = 0; g < linear.layout.group_count(); ++g) {
    linear.depth.push_back(static_cast<uint8_t>(draws.Below(6)));
  }
  return linear;
}

StatusOr<PackedMatrix> Code(const Linear& linear, Feedback feedback, Rounder& rounder) {
  static const LevelTables* const tables = new LevelTables(LloydMaxTables(2.0));
  ThreadPool pool(1);
  CodecInput input{.w = linear.p.w.data(),
                   .layout = &linear.layout,
                   .depth = &linear.depth,
                   .inputs = feedback == Feedback::kNone ? nullptr : &linear.p.inputs,
                   .tables = tables,
                   .scale_steps = kSteps};
  if (feedback == Feedback::kTwo) input.blocks = linear.p.blocks;
  return CodeLloyd(input, pool, rounder);
}

class CudaLloydTest : public CudaQuantTest {
 protected:
  StatusOr<PackedMatrix> OnCpu(const Linear& linear, Feedback feedback) {
    return Code(linear, feedback, *MakeCpuRounder(pool_));
  }
  StatusOr<PackedMatrix> OnGpu(const Linear& linear, Feedback feedback) {
    return Code(linear, feedback, *MakeRounder(*Gpu(), pool_));
  }

  ThreadPool pool_{1};
};

constexpr Feedback kFeedbacks[] = {Feedback::kNone, Feedback::kOne, Feedback::kTwo};

TEST_F(CudaLloydTest, CodesAsOnTheCpu) {
  const Linear linears[] = {
      MakeLinear(Partition::kColumns, 45, {80, 50}, 40),
      MakeLinear(Partition::kColumns, 33, {128, 30}, 128),  // the longest tile of a device
      MakeLinear(Partition::kColumns, 140, {9}, 3),
      MakeLinear(Partition::kRows, 45, {70, 20}, 16),
      MakeLinear(Partition::kRows, 140, {40}, 140),
  };
  for (const Linear& linear : linears) {
    for (const Feedback feedback : kFeedbacks) {
      SCOPED_TRACE(testing::Message()
                   << &linear - linears << ", feedback " << static_cast<int>(feedback));
      const auto cpu = OnCpu(linear, feedback), gpu = OnGpu(linear, feedback),
                 again = OnGpu(linear, feedback);
      ASSERT_TRUE(cpu.ok()) << cpu.status();
      ASSERT_TRUE(gpu.ok()) << gpu.status();
      ASSERT_TRUE(again.ok()) << again.status();
      ASSERT_TRUE(gpu->Validate().ok()) << gpu->Validate();
      EXPECT_EQ(gpu->depth, cpu->depth);
      ExpectAlike(linear.p, {.values = Decode(*gpu)}, {.values = Decode(*cpu)});
      EXPECT_EQ(SerializePackedMatrix(*again, kSteps, 0), SerializePackedMatrix(*gpu, kSteps, 0));
    }
  }
}

TEST_F(CudaLloydTest, LongerClustersAreCodedOnTheHost) {
  const Linear linear = MakeLinear(Partition::kColumns, 20, {200, 31}, 200);
  for (const Feedback feedback : kFeedbacks) {
    const auto cpu = OnCpu(linear, feedback), gpu = OnGpu(linear, feedback);
    ASSERT_TRUE(gpu.ok()) << gpu.status();
    EXPECT_EQ(SerializePackedMatrix(*gpu, kSteps, 0), SerializePackedMatrix(*cpu, kSteps, 0));
  }
}

TEST_F(CudaLloydTest, ZerosAreExact) {
  for (const Partition partition : {Partition::kColumns, Partition::kRows}) {
    Linear linear = MakeLinear(partition, 35, {32, 32, 5}, 16);
    std::ranges::fill(linear.p.w, 0.0f);
    for (const Feedback feedback : kFeedbacks) {
      const auto gpu = OnGpu(linear, feedback);
      ASSERT_TRUE(gpu.ok()) << gpu.status();
      EXPECT_TRUE(gpu->codes.empty());
      EXPECT_EQ(Decode(*gpu), linear.p.w);
    }
  }
}

// Which also shows who rounds.
TEST_F(CudaLloydTest, ErrorsOfTheDeviceAreGiven) {
  const std::unique_ptr<Backend> failed = MakeCudaBackend().value();
  failed->Allocate(DType::kF32, {int64_t{1} << 60});
  const std::unique_ptr<Rounder> rounder = MakeRounder(*failed, pool_);
  for (const Feedback feedback : kFeedbacks) {
    for (const Partition partition : {Partition::kColumns, Partition::kRows}) {
      EXPECT_EQ(Code(MakeLinear(partition, 8, {128, 9}, 128), feedback, *rounder).status().code(),
                absl::StatusCode::kResourceExhausted);
    }
    const Linear longer = MakeLinear(Partition::kColumns, 8, {129, 9}, 129);
    EXPECT_TRUE(Code(longer, feedback, *rounder).ok());
  }
}

}  // namespace
}  // namespace cvxq
