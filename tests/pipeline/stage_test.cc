// Jobs cut into stages: the cut, the same bytes for any number of them, and failures that stop them
// all with the error of the one that failed.
#include "pipeline/stage.h"

#include <filesystem>
#include <fstream>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/local_stages.h"
#include "pipeline/quantize.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/pipeline/spoilt_model.h"
#include "tests/pipeline/tiny_model.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string Example(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/examples/models/" + name;
}

TEST(CutStagesTest, CoversAllBlocksOnceAndLeavesTheHeadItsShare) {
  ArchSpec spec = TinyModel("llama").files.spec;
  for (const int64_t layers : {1, 2, 5, 32, 126}) {
    spec.layers = layers;
    for (const int64_t stages : {1, 2, 3, 4, 7, 8, 64, 200}) {
      const std::vector<BlockRange> ranges = CutStages(spec, stages);
      ASSERT_EQ(static_cast<int64_t>(ranges.size()), std::min(stages, layers));
      int64_t next = 0, most = 0;
      for (const BlockRange& range : ranges) {
        EXPECT_EQ(range.begin, next);
        EXPECT_GT(range.size(), 0);
        next = range.end;
        most = std::max(most, range.size());
      }
      EXPECT_EQ(next, layers);
      EXPECT_LE(ranges.back().size(), most);
    }
  }
  // A head that is worth several blocks leaves the last stage fewer of them.
  spec.layers = 16;
  spec.vocabulary = 100'000;
  EXPECT_LT(CutStages(spec, 2)[1].size(), 8);
}

// What a cut costs: the most blocks of a stage, the head counted where it is.
double CostOf(const ArchSpec& spec, const std::vector<int64_t>& sizes) {
  double most = static_cast<double>(sizes.back()) + HeadBlocks(spec);
  for (const int64_t size : sizes) most = std::max(most, static_cast<double>(size));
  return most;
}

// Of all cuts of so many blocks into so many stages.
double LeastCost(const ArchSpec& spec, int64_t blocks, int64_t stages, std::vector<int64_t> sizes) {
  if (stages == 1) {
    sizes.push_back(blocks);
    return CostOf(spec, sizes);
  }
  double least = 1e9;
  for (int64_t size = 1; size <= blocks - stages + 1; ++size) {
    sizes.push_back(size);
    least = std::min(least, LeastCost(spec, blocks - size, stages - 1, sizes));
    sizes.pop_back();
  }
  return least;
}

TEST(CutStagesTest, NoCutIsBetter) {
  ArchSpec spec = TinyModel("llama").files.spec;
  for (const int64_t vocabulary : {0, 100, 1'000, 3'000, 10'000, 100'000}) {
    spec.vocabulary = vocabulary;
    for (int64_t layers = 1; layers <= 11; ++layers) {
      spec.layers = layers;
      for (int64_t stages = 1; stages <= std::min<int64_t>(layers, 5); ++stages) {
        std::vector<int64_t> sizes;
        for (const BlockRange& range : CutStages(spec, stages)) sizes.push_back(range.size());
        EXPECT_EQ(CostOf(spec, sizes), LeastCost(spec, layers, stages, {}))
            << layers << " blocks, " << stages << " stages, vocabulary " << vocabulary;
      }
    }
  }
}

class StagesTest : public testing::Test {
 protected:
  QuantizeOptions Options(const std::string& model, int64_t workers) const {
    QuantizeOptions options;
    options.model = model;
    options.output = scratch_.path() + "/out";
    options.overwrite = true;
    options.bits = 2.2;
    options.workers = workers;
    options.threads = 2;
    // Two waves of 4096 tokens and a part of a third.
    options.calibration.samples = 140;
    options.calibration.seq_len = 64;
    return options;
  }
  StatusOr<QuantizeReport> Run(const QuantizeOptions& options) {
    Progress progress(ProgressMode::kQuiet);
    return Quantize(options, progress);
  }

  ScratchFolder scratch_;
};

TEST_F(StagesTest, SameBytesForAnyNumberOfWorkers) {
  for (const char* model : {"kjv-llama-1m", "kjv-opt-1m"}) {
    const auto alone = Run(Options(Example(model), 1));
    ASSERT_TRUE(alone.ok()) << alone.status();
    for (const int64_t workers : {2, 3, 4, 8}) {
      const auto together = Run(Options(Example(model), workers));
      ASSERT_TRUE(together.ok()) << together.status();
      EXPECT_EQ(together->sha256, alone->sha256) << model << ", workers " << workers;
      EXPECT_EQ(together->coding_passes, alone->coding_passes);
      for (size_t i = 0; i < alone->layers.size(); ++i) {
        EXPECT_EQ(together->layers[i].predicted_distortion, alone->layers[i].predicted_distortion);
      }
    }
  }
}

TEST_F(StagesTest, SameBytesForAnyNumberOfReplicas) {
  struct Layout {
    int64_t workers, replicas;
  };
  const std::map<std::string, std::vector<Layout>> layouts = {
      {"kjv-llama-1m", {{2, 2}, {3, 3}, {8, 0}}}, {"kjv-opt-1m", {{4, 2}}}};
  for (const auto& [model, of_model] : layouts) {
    QuantizeOptions options = Options(Example(model), 1);
    options.calibration.samples = 260;  // four waves and a part of a fifth: four parts
    options.grad_samples = 230;         // three and a part: four parts, others
    const auto alone = Run(options);
    ASSERT_TRUE(alone.ok()) << alone.status();
    for (const Layout& layout : of_model) {
      options.workers = layout.workers;
      options.replicas = layout.replicas;
      int64_t sequences = 0;
      Progress progress({.listener = [&](const ProgressUpdate& update) {
        if (update.phase == "gradients") sequences = std::max(sequences, update.count);
      }});
      const auto together = Quantize(options, progress);
      ASSERT_TRUE(together.ok()) << together.status();
      EXPECT_EQ(together->sha256, alone->sha256)
          << model << ", workers " << layout.workers << ", replicas " << layout.replicas;
      const int64_t replicas = layout.replicas > 0 ? layout.replicas : 2;
      EXPECT_EQ(sequences, 230 * layout.workers / replicas);  // each through all stages, once
      for (size_t i = 0; i < alone->layers.size(); ++i) {
        EXPECT_EQ(together->layers[i].predicted_distortion, alone->layers[i].predicted_distortion);
      }
    }
  }
}

TEST_F(StagesTest, ReplicasThatMemoryIsShortFor) {
  QuantizeOptions options = Options(Example("kjv-llama-1m"), 1);
  options.calibration.samples = 260;
  options.memory = 400'000;  // sums and activations go to disk, a block's moments do not fit
  const auto alone = Run(options);
  ASSERT_TRUE(alone.ok()) << alone.status();
  options.workers = 4;
  options.replicas = 2;
  const auto together = Run(options);
  ASSERT_TRUE(together.ok()) << together.status();
  EXPECT_EQ(together->sha256, alone->sha256);
}

TEST_F(StagesTest, SameBytesWithOtherFeedback) {
  for (const Feedback feedback : {Feedback::kNone, Feedback::kOne}) {
    QuantizeOptions options = Options(Example("kjv-llama-1m"), 1);
    options.feedback = feedback;
    const auto alone = Run(options);
    ASSERT_TRUE(alone.ok()) << alone.status();
    options.workers = 3;
    options.replicas = 2;  // and a worker that there is no use for
    const auto together = Run(options);
    ASSERT_TRUE(together.ok()) << together.status();
    EXPECT_EQ(together->sha256, alone->sha256);
  }
}

TEST_F(StagesTest, AFailureStopsAllAndIsTold) {
  // A weight of the third block is not a number: the stage that has it says so, whichever it is.
  const std::string model = scratch_.path() + "/model";
  ASSERT_NO_FATAL_FAILURE(
      CopyWithNan(Example("kjv-llama-1m"), model, "model.layers.2.mlp.up_proj.weight"));
  for (const int64_t workers : {1, 2, 4}) {
    const auto report = Run(Options(model, workers));
    ASSERT_FALSE(report.ok());
    EXPECT_THAT(std::string(report.status().message()), HasSubstr("model.layers.2.mlp.up_proj"))
        << workers;
    EXPECT_FALSE(fs::exists(scratch_.path() + "/out"));
  }
  QuantizeOptions options = Options(model, 4);
  options.replicas = 2;
  EXPECT_THAT(std::string(Run(options).status().message()),
              HasSubstr("model.layers.2.mlp.up_proj"));
}

TEST_F(StagesTest, OtherCodecsAndEstimatorsAreRefused) {
  QuantizeOptions options = Options(Example("kjv-llama-1m"), 2);
  options.codec = CodecKind::kLloyd;
  EXPECT_THAT(std::string(Run(options).status().message()), HasSubstr("--workers is for"));
  options = Options(Example("kjv-llama-1m"), 0);
  EXPECT_THAT(std::string(Run(options).status().message()),
              HasSubstr("--workers must be at least 1"));
  options.workers = 2;
  options.replicas = 3;
  EXPECT_THAT(std::string(Run(options).status().message()), HasSubstr("--replicas must be"));
  options = Options(Example("kjv-llama-1m"), 2);
  options.estimator = Estimator::kTokens;
  EXPECT_THAT(std::string(Run(options).status().message()), HasSubstr("--workers is for"));
}

}  // namespace
}  // namespace cvxq
