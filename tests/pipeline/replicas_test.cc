// How jobs are laid out over workers, and sums that have the same bits for any layout.
#include "pipeline/replicas.h"

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/job_state.h"
#include "pipeline/part_sums.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

TEST(PartsTest, DependOnTheNumberOfWavesAlone) {
  const std::map<int64_t, int64_t> expected = {{1, 1}, {2, 2}, {3, 2},  {4, 4},
                                               {7, 4}, {8, 8}, {64, 8}, {1000, 8}};
  for (const auto& [waves, parts] : expected) EXPECT_EQ(PartCount(waves), parts) << waves;
}

TEST(PartsTest, CoverAllWavesForAnyNumberOfReplicas) {
  for (int64_t waves = 1; waves <= 40; ++waves) {
    for (int64_t replicas = 1; replicas <= PartCount(waves); ++replicas) {
      int64_t next_part = 0, next_wave = 0;
      for (int64_t replica = 0; replica < replicas; ++replica) {
        const WaveRange parts = PartsOf(waves, replica, replicas);
        const WaveRange of_replica = WavesOf(waves, parts);
        EXPECT_EQ(parts.begin, next_part);
        EXPECT_EQ(of_replica.begin, next_wave);
        EXPECT_GT(of_replica.size(), 0);
        next_part = parts.end;
        next_wave = of_replica.end;
      }
      EXPECT_EQ(next_part, PartCount(waves));
      EXPECT_EQ(next_wave, waves);
    }
  }
}

TEST(PartsTest, SubtreesAreTheLargestThatFit) {
  const auto sizes = [](WaveRange parts) {
    std::vector<int64_t> sizes;
    int64_t next = parts.begin;
    for (const WaveRange& subtree : Subtrees(parts)) {
      EXPECT_EQ(subtree.begin, next);
      EXPECT_EQ(subtree.begin % subtree.size(), 0);
      sizes.push_back(subtree.size());
      next = subtree.end;
    }
    EXPECT_EQ(next, parts.end);
    return sizes;
  };
  EXPECT_THAT(sizes({0, 8}), testing::ElementsAre(8));
  EXPECT_THAT(sizes({0, 7}), testing::ElementsAre(4, 2, 1));
  EXPECT_THAT(sizes({2, 5}), testing::ElementsAre(2, 1));
  EXPECT_THAT(sizes({5, 8}), testing::ElementsAre(1, 2));
  EXPECT_THAT(sizes({3, 3}), testing::IsEmpty());
  EXPECT_TRUE(AreSiblings({4, 6}, {6, 8}));
  EXPECT_FALSE(AreSiblings({2, 4}, {4, 6}));
  EXPECT_FALSE(AreSiblings({0, 2}, {2, 3}));
}

TEST(OwnedBlocksTest, EachBlockHasOneOwner) {
  for (int64_t size = 1; size <= 9; ++size) {
    for (int64_t replicas = 1; replicas <= 8; ++replicas) {
      int64_t next = 3;
      for (int64_t replica = 0; replica < replicas; ++replica) {
        const BlockRange owned = OwnedBlocks({3, 3 + size}, replica, replicas);
        EXPECT_EQ(owned.begin, next);
        EXPECT_LE(owned.size(), (size + replicas - 1) / replicas);
        next = owned.end;
      }
      EXPECT_EQ(next, 3 + size);
    }
  }
}

class LayoutTest : public testing::Test {
 protected:
  LayoutTest() {
    spec_.layers = 4;
    spec_.vocabulary = 100;
  }
  std::pair<int64_t, int64_t> Choose(int64_t workers, int64_t waves, int64_t asked = 0) const {
    const JobLayout layout = ChooseLayout(spec_, workers, waves, PartCount(waves), asked);
    return {layout.stages, layout.replicas};
  }

  ArchSpec spec_ = TinyModel("llama").files.spec;
};

TEST_F(LayoutTest, ReplicasWhereThereAreMoreWorkersThanBlocks) {
  for (const int64_t waves : {4, 16, 64}) {
    for (const int64_t workers : {1, 2, 3, 4}) {
      EXPECT_EQ(Choose(workers, waves), std::pair(workers, int64_t{1})) << workers;
    }
    EXPECT_EQ(Choose(8, waves), std::pair(int64_t{4}, int64_t{2})) << waves;
  }
  EXPECT_EQ(Choose(32, 64), std::pair(int64_t{4}, int64_t{8}));
  EXPECT_EQ(Choose(512, 64), std::pair(int64_t{4}, int64_t{8}));  // as many as there are parts
  EXPECT_EQ(Choose(8, 1), std::pair(int64_t{4}, int64_t{1}));     // one wave has one part
  spec_.layers = 32;
  EXPECT_EQ(Choose(8, 64), std::pair(int64_t{8}, int64_t{1}));
}

TEST_F(LayoutTest, AHeadThatHoldsUpThePipelineIsReplicated) {
  EXPECT_EQ(Choose(4, 64), std::pair(int64_t{4}, int64_t{1}));
  spec_.vocabulary = 100'000;
  EXPECT_EQ(Choose(4, 64), std::pair(int64_t{2}, int64_t{2}));
}

TEST_F(LayoutTest, WhatIsAskedForIsTaken) {
  EXPECT_EQ(Choose(2, 64, 2), std::pair(int64_t{1}, int64_t{2}));
  EXPECT_EQ(Choose(8, 64, 1), std::pair(int64_t{4}, int64_t{1}));
  EXPECT_EQ(Choose(6, 64, 3), std::pair(int64_t{2}, int64_t{3}));
  EXPECT_EQ(Choose(8, 2, 8), std::pair(int64_t{4}, int64_t{2}));  // but for want of waves
  EXPECT_EQ(Choose(2, 64, 8), std::pair(int64_t{1}, int64_t{2}));
}

TEST(LayoutRestoreTest, SumsOfSomeWavesAreOfOnePipeline) {
  const JobPosition amid{.step = 0, .waves = 3};
  EXPECT_TRUE(CheckRestorable(amid, {.stages = 4, .replicas = 1}).ok());
  EXPECT_TRUE(absl::IsDataLoss(CheckRestorable(amid, {.stages = 1, .replicas = 2})));
  EXPECT_TRUE(CheckRestorable({}, {.stages = 1, .replicas = 2}).ok());
  EXPECT_TRUE(CheckRestorable({.step = 1}, {.stages = 1, .replicas = 2}).ok());
}

// Takes what is sent, and gives it to whoever asks.
class Mailbox : public StageBoundary {
 public:
  Status Send(Stream, int64_t number, std::span<const float> values) override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(mail_.try_emplace(number, values.begin(), values.end()).second) << number;
    came_.notify_all();
    return absl::OkStatus();
  }
  Status Receive(Stream, int64_t number, std::span<float> values) override {
    std::unique_lock lock(mutex_);
    came_.wait(lock, [&] { return mail_.contains(number); });
    const std::vector<float> sent = mail_.extract(number).mapped();
    EXPECT_EQ(sent.size(), values.size());
    std::copy(sent.begin(), sent.end(), values.begin());
    return absl::OkStatus();
  }
  size_t left() const { return mail_.size(); }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::map<int64_t, std::vector<float>> mail_;
};

constexpr int64_t kBlocks = 3, kTensors = 2, kValues = 5;

// What one wave adds to a sum: of sizes that make the order of additions show.
float Addend(int64_t wave, int64_t block, int64_t tensor, int64_t value) {
  const uint64_t bits = RandomBits(wave, (block * kTensors + tensor) * kValues + value);
  return static_cast<float>(bits >> 40) * (bits & 1 ? 1.0f : 1e-4f);
}

using Sums = std::map<std::pair<int64_t, int64_t>, std::vector<float>>;  // by block and tensor

// One replica's pass: the sums of the blocks that it owns.
Sums OnePass(int64_t waves, int64_t replica, int64_t replicas, Mailbox& mailbox) {
  StagePlace place{.blocks = {0, kBlocks}};
  place.owned = OwnedBlocks(place.blocks, replica, replicas);
  place.replica = replica;
  place.replicas = replicas;
  place.peers.assign(replicas, &mailbox);
  SpillStore store("/nonexistent", 1 << 20);
  PartSums parts(place, StageBoundary::Stream::kMomentSums, waves, kTensors, store);
  Sums sums;
  const auto each = [&](const std::function<void(int64_t, int64_t, std::vector<float>&)>& body) {
    for (int64_t block = 0; block < kBlocks; ++block) {
      for (int64_t tensor = 0; tensor < kTensors; ++tensor) {
        body(block, tensor, sums[{block, tensor}]);
      }
    }
  };
  each([](int64_t, int64_t, std::vector<float>& sum) { sum.assign(kValues, 0.0f); });
  for (int64_t wave = parts.waves().begin; wave < parts.waves().end; ++wave) {
    each([&](int64_t block, int64_t tensor, std::vector<float>& sum) {
      for (int64_t i = 0; i < kValues; ++i) sum[i] += Addend(wave, block, tensor, i);
    });
    if (!parts.EndsPart(wave + 1)) continue;
    each([&](int64_t block, int64_t tensor, std::vector<float>& sum) {
      EXPECT_TRUE(parts.Add(block, tensor, std::exchange(sum, std::vector<float>(kValues))).ok());
    });
  }
  each([&](int64_t block, int64_t tensor, std::vector<float>& sum) {
    if (!place.owns(block)) {
      EXPECT_TRUE(parts.Give(block, tensor, std::move(sum)).ok());
    }
  });
  each([&](int64_t block, int64_t tensor, std::vector<float>& sum) {
    if (place.owns(block)) {
      EXPECT_TRUE(parts.Total(block, tensor, sum).ok());
    }
  });
  std::erase_if(sums, [&](const auto& entry) { return !place.owns(entry.first.first); });
  EXPECT_EQ(store.bytes_in_memory(), 0);
  return sums;
}

TEST(PartSumsTest, SameBitsForAnyNumberOfReplicas) {
  for (const int64_t waves : {1, 2, 3, 5, 8, 13, 27}) {
    Sums expected;
    for (int64_t replicas = 1; replicas <= PartCount(waves); ++replicas) {
      Mailbox mailbox;
      std::vector<Sums> of_replica(replicas);
      std::vector<std::thread> threads;
      for (int64_t replica = 0; replica < replicas; ++replica) {
        threads.emplace_back(
            [&, replica] { of_replica[replica] = OnePass(waves, replica, replicas, mailbox); });
      }
      Sums all;
      for (int64_t replica = 0; replica < replicas; ++replica) {
        threads[replica].join();
        all.merge(of_replica[replica]);
        EXPECT_TRUE(of_replica[replica].empty());
      }
      EXPECT_EQ(mailbox.left(), 0u);
      ASSERT_EQ(all.size(), size_t{kBlocks * kTensors});
      if (replicas == 1) expected = all;
      EXPECT_EQ(all, expected) << waves << " waves, " << replicas << " replicas";
    }
  }
}

TEST(PartSumsTest, AreWhatTheTreeSays) {
  // Thirteen waves in eight parts, cut at 13 p / 8.
  Mailbox mailbox;
  const Sums sums = OnePass(13, 0, 1, mailbox);
  for (const auto& [key, sum] : sums) {
    for (int64_t i = 0; i < kValues; ++i) {
      const auto part = [&](int64_t p) {
        float total = 0;
        for (int64_t wave = 13 * p / 8; wave < 13 * (p + 1) / 8; ++wave) {
          total += Addend(wave, key.first, key.second, i);
        }
        return total;
      };
      EXPECT_EQ(sum[i], ((part(0) + part(1)) + (part(2) + part(3))) +
                            ((part(4) + part(5)) + (part(6) + part(7))));
    }
  }
}

// What is saved in the middle of a pass and put back makes the same sums.
TEST(PartSumsTest, GoOnFromWhatWasKept) {
  constexpr int64_t kWaves = 27;
  Mailbox mailbox;
  const Sums expected = OnePass(kWaves, 0, 1, mailbox);
  const StagePlace place = StagePlace::Whole(kBlocks);
  for (int64_t cut = 0; cut < kWaves; ++cut) {
    SpillStore store("/nonexistent", 1 << 20);
    PartSums before(place, StageBoundary::Stream::kGradientSums, kWaves, kTensors, store);
    PartSums after(place, StageBoundary::Stream::kGradientSums, kWaves, kTensors, store);
    std::vector<float> sum(kValues);
    for (int64_t wave = 0; wave < kWaves; ++wave) {
      if (wave == cut) {
        const std::vector<WaveRange> subtrees = before.SubtreesOf(cut);
        for (size_t i = 0; i < subtrees.size(); ++i) {
          const auto kept = before.Get(0, 1, i);
          ASSERT_TRUE(kept.ok()) << kept.status();
          ASSERT_TRUE(after.Restore(0, 1, subtrees[i], *kept).ok());
        }
      }
      PartSums& parts = wave < cut ? before : after;
      for (int64_t i = 0; i < kValues; ++i) sum[i] += Addend(wave, 0, 1, i);
      if (!parts.EndsPart(wave + 1)) continue;
      ASSERT_TRUE(parts.Add(0, 1, std::exchange(sum, std::vector<float>(kValues))).ok());
    }
    ASSERT_TRUE(after.Total(0, 1, sum).ok());
    EXPECT_EQ(sum, expected.at({0, 1})) << cut;
  }
}

}  // namespace
}  // namespace cvxq
