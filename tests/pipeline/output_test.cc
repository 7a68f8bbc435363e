// Outputs in buckets: whole or not there, and the first one wins.
#include "pipeline/output.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/files.h"
#include "storage/output_manifest.h"
#include "storage/s3/s3_store.h"
#include "storage/s3/sigv4.h"
#include "tests/pipeline/scratch_folder.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {
namespace {

class BucketOutputTest : public testing::Test {
 protected:
  BucketOutputTest() { server_.SetEnvironment(); }
  ~BucketOutputTest() override {
    EXPECT_TRUE(std::filesystem::is_empty(scratch_.path())) << "something is left";
    EXPECT_THAT(server_.complaints(), testing::IsEmpty());
  }
  std::unique_ptr<Output> Start(const std::string& place) {
    auto store = OpenS3Store(server_.Config(place), {.backoff_ms = 1});
    return Output::ToStore(*std::move(store), scratch_.path()).value();
  }
  static Status Fill(Output& output, const std::string& text) {
    CVXQ_RETURN_IF_ERROR(WriteFile(output.folder() + "/config.json", "{}"));
    CVXQ_RETURN_IF_ERROR(WriteFile(output.folder() + "/model", text));
    return output.Upload({{"bits", 3}});
  }

  FakeS3 server_;
  ScratchFolder scratch_;
};

TEST_F(BucketOutputTest, IsThereWhenItIsPublished) {
  const std::map<std::string, std::string> files = {{"config.json", Sha256Hex("{}")},
                                                    {"model", Sha256Hex("a")}};
  const std::string address = "s3://bucket/out";
  auto output = Output::Create(address, false, scratch_.path());
  ASSERT_TRUE(output.ok()) << output.status();
  ASSERT_TRUE(Fill(**output, "a").ok());
  EXPECT_FALSE(server_.objects().contains("out/manifest.json"));
  EXPECT_EQ(*FindOutput(address, files), OutputState::kNone);
  ASSERT_TRUE((*output)->Publish().ok());
  output->reset();
  EXPECT_EQ(server_.objects().size(), 3u) << "scratch objects are left";
  EXPECT_EQ(*FindOutput(address, files), OutputState::kSame);
  EXPECT_EQ(*FindOutput(address, {{"model", Sha256Hex("a")}}), OutputState::kOther);
  EXPECT_EQ(Output::Create(address, false, scratch_.path()).status().code(),
            absl::StatusCode::kAlreadyExists);
  server_.Put("out/manifest.json", "nonsense");
  EXPECT_EQ(*FindOutput(address, files), OutputState::kOther);
}

TEST_F(BucketOutputTest, OneThatIsGivenUpIsNotThere) {
  {
    const auto output = Start("out");
    ASSERT_TRUE(Fill(*output, "a").ok());
  }
  EXPECT_EQ(*FindOutput("s3://bucket/out", {}), OutputState::kNone);
  server_.Break(S3Op::kPut, {.kind = S3Fault::kAnswer, .status = 403, .text = "AccessDenied"});
  const auto refused = Start("out");
  EXPECT_EQ(Fill(*refused, "a").code(), absl::StatusCode::kPermissionDenied);
}

// Two at once: exactly one manifest, and all that it names is there.
TEST_F(BucketOutputTest, TheFirstOfTwoWins) {
  int wins[2] = {0, 0}, both = 0;
  for (int race = 0; race < 1000; ++race) {
    const bool same = race % 4 == 0;
    const std::string place = absl::StrCat("race", race);
    Status outcome[2];
    {
      std::vector<std::jthread> publishers;
      for (int i = 0; i < 2; ++i) {
        publishers.emplace_back([&, i] {
          const auto output = Start(place);
          outcome[i] = Fill(*output, absl::StrCat(place, same ? 0 : i));
          if (outcome[i].ok()) outcome[i] = output->Publish();
        });
      }
    }
    const auto objects = server_.objects();
    const auto manifest = OutputManifest::Parse(objects.at(place + "/manifest.json"), place);
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    ASSERT_EQ(manifest->files.size(), 2u);
    for (const auto& [name, file] : manifest->files) {
      const auto found = objects.find(absl::StrCat(place, "/", manifest->Folder(), "/", name));
      ASSERT_NE(found, objects.end()) << "a dangling reference";
      EXPECT_EQ(Sha256Hex(found->second), file.sha256);
    }
    if (same) {
      EXPECT_TRUE(outcome[0].ok() && outcome[1].ok()) << outcome[0] << outcome[1];
      ++both;
    } else {
      const int winner = outcome[0].ok() ? 0 : 1;
      EXPECT_TRUE(outcome[winner].ok()) << outcome[winner];
      EXPECT_EQ(outcome[1 - winner].code(), absl::StatusCode::kAlreadyExists);
      EXPECT_EQ(manifest->files.at("model").sha256, Sha256Hex(absl::StrCat(place, winner)));
      ++wins[winner];
    }
    for (const auto& [key, bytes] : objects) {
      if (key.starts_with(place + "/")) server_.Remove(key);
    }
  }
  EXPECT_EQ(wins[0] + wins[1] + both, 1000);
}

}  // namespace
}  // namespace cvxq
