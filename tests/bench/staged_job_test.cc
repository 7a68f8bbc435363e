// What the simulation says of jobs whose times can be worked out by hand.
#include "bench/scaling/staged_job.h"

#include "bench/scaling/gpu_costs.h"
#include "gtest/gtest.h"

namespace cvxq {
namespace {

StagedJob Job() {
  StagedJob job{.blocks = 4, .waves = 8};
  job.costs = {.forward = 1, .backward = 2, .moments = 1, .factor_outputs = 3, .factor_inputs = 5};
  job.orders = {{{0, 1, 2, 3}, 10}, {{2}, 10}};
  return job;
}

TEST(StagedJobTest, OneStageDoesItAll) {
  const auto one = Predict(Job(), {.stages = {{0, 4}}});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_DOUBLE_EQ(one->gradients, 4 * (8 * 3 + 3));
  EXPECT_DOUBLE_EQ(one->moments, 4 * (8 + 5));
  EXPECT_DOUBLE_EQ(one->orders, 50);
  EXPECT_DOUBLE_EQ(one->total, WorkSeconds(Job()));
}

TEST(StagedJobTest, APipelineFillsAndEmptiesOnce) {
  const auto two = Predict(Job(), {.stages = {{0, 2}, {2, 4}}});
  ASSERT_TRUE(two.ok()) << two.status();
  // A wave is 2 forward and 4 back in each stage. The second stage begins after the first one's
  // forward pass and does not wait again; the first ends one backward pass after it.
  EXPECT_DOUBLE_EQ(two->gradients, 2 + 8 * 6 + 4 + 6);
  EXPECT_DOUBLE_EQ(two->moments, 2 + 8 * 2 + 10);
  EXPECT_DOUBLE_EQ(two->orders, 20 + 10);  // the second order is of one stage alone
}

TEST(StagedJobTest, MomentsThatDoNotFitHoldUpTheNextStage) {
  StageLayout layout{.stages = {{0, 2}, {2, 4}}, .blocks_at_once = 1};
  const auto held = Predict(Job(), layout);
  ASSERT_TRUE(held.ok()) << held.status();
  // The second stage begins when the first one has its first block done and a wave of the next.
  EXPECT_DOUBLE_EQ(held->moments, (8 + 5) + 1 + 2 * (8 + 5));
  layout.inputs_kept = true;
  const auto free = Predict(Job(), layout);
  ASSERT_TRUE(free.ok()) << free.status();
  EXPECT_DOUBLE_EQ(free->moments, 2 * (8 + 5));
}

TEST(StagedJobTest, ReplicasShareTheWavesAndAddUpTheirSums) {
  StagedJob job = Job();
  job.costs.reduce_outputs = 0.5;
  job.costs.fold_outputs = 0.25;
  const auto two = Predict(job, {.stages = {{0, 4}}, .replicas = 2});
  ASSERT_TRUE(two.ok()) << two.status();
  // Eight parts of a wave: four each, put together three times; then each has the sums of two
  // blocks from the other, factors and codes them.
  EXPECT_DOUBLE_EQ(two->gradients, 4 * (4 * 3 + 3 * 0.25) + 2 * (0.5 + 3));
  EXPECT_DOUBLE_EQ(two->orders, 20 + 10);
  const auto eight = Predict(job, {.stages = {{0, 4}}, .replicas = 8});
  ASSERT_TRUE(eight.ok()) << eight.status();
  EXPECT_DOUBLE_EQ(eight->gradients, 4 * 3 + 7 * 0.5 + 3);  // four of them have a block
  EXPECT_DOUBLE_EQ(eight->orders, 10 + 10);
}

TEST(StagedJobTest, ALostStageCostsItsOwnWork) {
  StageLayout layout{.stages = {{0, 2}, {2, 4}}};
  const double whole = Predict(Job(), layout)->total;
  layout.losses = {{.process = 1, .at = 40, .seconds = 5}};
  const auto lost = Predict(Job(), layout);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_GT(lost->total, whole);
  EXPECT_LE(lost->total, whole + 5 + 40);
}

TEST(GpuCostsTest, CountsOperationsAndBytes) {
  const auto parsed = ParseArchSpec({{"model_type", "llama"},
                                     {"num_hidden_layers", 2},
                                     {"hidden_size", 1000},
                                     {"intermediate_size", 2000},
                                     {"vocab_size", 100},
                                     {"num_attention_heads", 10},
                                     {"max_position_embeddings", 2048},
                                     {"rms_norm_eps", 1e-5},
                                     {"hidden_act", "silu"}},
                                    "here");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const ArchSpec& spec = *parsed;
  const GpuAssumptions gpu{.bf16_flops = 1e12,
                           .fp32_flops = 1e12,
                           .share = 1,
                           .link_bytes = 1e9,
                           .latency = 0,
                           .memory = 1e9};
  const GpuJob job{.sequences = 8, .tokens = 512, .output_block = 1000};
  const StagedJob staged = GpuStagedJob(spec, job, gpu, /*streamed=*/false);
  EXPECT_EQ(staged.waves, 1);
  // 10 million weights, and attention of 2 x 512 x 1000 a token.
  EXPECT_NEAR(staged.costs.forward, 4096 * (20e6 + 1.024e6) / 1e12, 1e-9);
  EXPECT_NEAR(staged.costs.factor_inputs, (3 * 1e9 + 8e9) / 3 / 1e12, 1e-9);
  EXPECT_NEAR(staged.costs.transfer, 4096 * 1000 * 4 / 1e9, 1e-9);
  const GpuMemory memory = MemoryOf(spec, job, gpu, 2, 1);
  EXPECT_DOUBLE_EQ(memory.weights, 2 * 2 * 10e6);
  EXPECT_FALSE(memory.streamed);
  EXPECT_TRUE(memory.fits);
  GpuAssumptions small = gpu;
  small.memory = 1e8;
  EXPECT_TRUE(MemoryOf(spec, job, small, 2, 1).streamed);
}

}  // namespace
}  // namespace cvxq
