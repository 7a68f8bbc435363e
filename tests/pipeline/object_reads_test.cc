// How much of a model in a bucket is read.
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "model/model.h"
#include "pipeline/linear_plan.h"
#include "pipeline/model_files.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {
namespace {

TEST(ObjectReadsTest, AStageReadsItsBlocksOnce) {
  FakeS3 server;
  server.SetEnvironment();
  ScratchFolder scratch;
  const std::string example = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::ifstream file(example + "/" + name, std::ios::binary);
    server.Put(std::string("m/") + name, {std::istreambuf_iterator<char>(file), {}});
  }
  const auto files = OpenModel("s3://bucket/m", 1, scratch.path());
  ASSERT_TRUE(files.ok()) << files.status();
  const int64_t opening = server.body_bytes_sent();
  EXPECT_LT(opening, 10'000) << "the list of objects, the config, and the header";

  int64_t owned = 0;
  for (const std::string& name : files->checkpoint->names()) {
    if (name.find(".layers.1.") != name.npos || name.find(".layers.2.") != name.npos) {
      owned += files->checkpoint->Find(name)->bytes();
    }
  }
  ASSERT_GT(owned, 500'000);
  const auto backend = MakeCpuBackend(1);
  const auto plans = MakePlans(files->spec);
  const auto same = OpenModel(example, 1);
  ASSERT_TRUE(same.ok()) << same.status();
  // Gradients, moments and two passes of coding.
  for (int pass = 0; pass < 4; ++pass) {
    const auto model = Model::Load(files->spec, *files->weights,
                                   {.resident_bytes = 0, .first = false, .last = false}, *backend);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const int64_t block : {1, 2}) {
      const auto weights = LoadBlock(*files->weights, files->spec, block, DType::kBF16, *backend);
      ASSERT_TRUE(weights.ok()) << weights.status();
      ReleaseBlock(*files->weights, files->spec, block);
    }
    for (const LinearPlan& plan : plans) {
      if (plan.block != 1 && plan.block != 2) continue;
      const auto values = ReadWeights(*files->checkpoint, plan);
      ASSERT_TRUE(values.ok()) << values.status();
      EXPECT_TRUE(*values == *ReadWeights(*same->checkpoint, plan)) << plan.name;
    }
  }
  EXPECT_EQ(server.body_bytes_sent() - opening, owned);
}

}  // namespace
}  // namespace cvxq
