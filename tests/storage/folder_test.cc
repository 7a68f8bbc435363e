// Folders of objects, and the manifests that make outputs exist.
#include "storage/folder.h"

#include "gmock/gmock.h"
#include "storage/checkpoint.h"
#include "storage/output_manifest.h"
#include "storage/s3/sigv4.h"
#include "tests/storage/fake_s3.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

using absl::StatusCode;

class FolderTest : public testing::Test {
 protected:
  FolderTest() { server_.SetEnvironment(); }
  StatusOr<std::shared_ptr<const Folder>> Open(const std::string& address) {
    return Folder::Open(address, scratch_.path());
  }
  OutputManifest Output() {
    OutputManifest manifest;
    manifest.files["config.json"] = {2, Sha256Hex("{}")};
    manifest.facts = {{"bits_per_weight", 3.0}};
    server_.Put("out/" + manifest.Folder() + "/config.json", "{}");
    server_.Put("out/manifest.json", manifest.Serialize());
    return manifest;
  }

  FakeS3 server_;
  TempFolder scratch_;
};

TEST_F(FolderTest, HoldsTheObjectsBelowThePrefix) {
  server_.Put("models/a/config.json", "{}");
  server_.Put("models/a/sub/other", "x");
  server_.Put("models/ab/config.json", "{}");
  const auto folder = Open("s3://bucket/models/a/");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ((*folder)->address(), "s3://bucket/models/a");
  const auto files = (*folder)->List();
  ASSERT_EQ(files->size(), 1u);
  EXPECT_EQ(files->front().name, "config.json");
  EXPECT_TRUE((*folder)->Has("config.json"));
  EXPECT_FALSE((*folder)->Has("other"));
  EXPECT_EQ(*(*folder)->Read("config.json"), "{}");
  ExpectError((*folder)->Read("none").status(), StatusCode::kNotFound, "s3://bucket/models/a/none");
  // Contents are those of when it was opened.
  const std::string before = *(*folder)->Revision();
  server_.Put("models/a/config.json", "[]");
  ExpectError((*folder)->Read("config.json").status(), StatusCode::kFailedPrecondition, "changed");
  EXPECT_EQ(before.size(), 64u);
  EXPECT_EQ(*(*folder)->Revision(), before);
  EXPECT_NE(*(*Open("s3://bucket/models/a"))->Revision(), before);
}

TEST_F(FolderTest, WhatIsNotThereIsToldFromWhatIsRefused) {
  ExpectError(Open("s3://bucket/none").status(), StatusCode::kNotFound, "s3://bucket/none");
  server_.Break(S3Op::kList, {.kind = S3Fault::kAnswer, .status = 404, .text = "NoSuchBucket"});
  ExpectError(Open("s3://bucket/none").status(), StatusCode::kNotFound, "NoSuchBucket");
  server_.Put("models/a/weights", "x");
  ExpectError(Checkpoint::Open("s3://bucket/models/a").status(), StatusCode::kNotFound,
              "s3://bucket/models/a/config.json is missing");
  server_.Break(S3Op::kList, {.kind = S3Fault::kAnswer, .status = 403, .text = "AccessDenied"});
  ExpectError(Open("s3://bucket/models/a").status(), StatusCode::kPermissionDenied, "AccessDenied");
  unsetenv("AWS_SESSION_TOKEN");
  unsetenv("AWS_ACCESS_KEY_ID");
  unsetenv("AWS_SECRET_ACCESS_KEY");
  const Status status = Open("s3://bucket/models/a").status();
  ExpectError(status, StatusCode::kPermissionDenied, "s3://bucket/models/a");
}

TEST_F(FolderTest, AnOutputIsFoundByItsManifest) {
  const OutputManifest manifest = Output();
  server_.Put("out/" + std::string(64, 'f') + "/config.json", "of a lost attempt");
  const auto folder = Open("s3://bucket/out");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(*(*folder)->Read("config.json"), "{}");
  EXPECT_EQ((*folder)->List()->size(), 1u);

  server_.Put("out/" + manifest.Folder() + "/config.json", "[]");
  ExpectError((*Open("s3://bucket/out"))->Read("config.json").status(), StatusCode::kDataLoss,
              "checksum");
  server_.Put("out/" + manifest.Folder() + "/config.json", "{ }");
  ExpectError(Open("s3://bucket/out").status(), StatusCode::kDataLoss, "another size");
  server_.Put("out/manifest.json", "{}");
  ExpectError(Open("s3://bucket/out").status(), StatusCode::kDataLoss, "manifest");
}

TEST(OutputManifestTest, SameFilesSameBytes) {
  OutputManifest a, b;
  a.files["x"] = {1, std::string(64, '0')};
  a.files["a"] = {2, std::string(64, '1')};
  b.files["a"] = {2, std::string(64, '1')};
  b.files["x"] = {1, std::string(64, '0')};
  a.facts = b.facts = {{"bits_per_weight", 0.1}, {"a", 1}};
  EXPECT_EQ(a.Serialize(), b.Serialize());
  const auto parsed = OutputManifest::Parse(a.Serialize(), "m");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->files, a.files);
  EXPECT_EQ(parsed->Serialize(), a.Serialize());
  b.files["x"].size = 3;
  EXPECT_NE(a.Folder(), b.Folder());
}

TEST(OutputManifestTest, HostileOnesAreRefused) {
  int refused = 0;
  const std::string folder = std::string(CVXQ_SOURCE_DIR) + "/tests/data/hostile/output_manifest";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const std::string name = entry.path().filename();
    const auto parsed = OutputManifest::Parse(text, name);
    if (name.starts_with("good")) {
      EXPECT_TRUE(parsed.ok()) << parsed.status();
      continue;
    }
    EXPECT_EQ(parsed.status().code(), StatusCode::kDataLoss) << name;
    EXPECT_THAT(std::string(parsed.status().message()), testing::HasSubstr(name));
    ++refused;
  }
  EXPECT_GE(refused, 25);
}

}  // namespace
}  // namespace cvxq
