// Jobs whose models and outputs lie in a bucket.
#include "gmock/gmock.h"
#include "tests/service/test_service.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {
namespace {

TEST(StoragePolicyTest, BucketsArePrefixes) {
  const auto policy = StoragePolicy::Make({"s3://bucket/models/", "s3://whole"});
  ASSERT_TRUE(policy.ok()) << policy.status();
  const auto allowed = [&](const std::string& uri) { return policy->Allowed("field", uri); };
  EXPECT_EQ(*allowed("s3://bucket/models"), "s3://bucket/models");
  EXPECT_EQ(*allowed("s3://bucket/models/a/b/"), "s3://bucket/models/a/b");
  EXPECT_EQ(*allowed("s3://whole/x"), "s3://whole/x");
  // Percent signs are part of names: these lie below the prefix, and nowhere else.
  EXPECT_EQ(*allowed("s3://bucket/models/%2e%2e/x"), "s3://bucket/models/%2e%2e/x");
  for (const char* uri : {"s3://bucket", "s3://bucket/other", "s3://bucket/modelsx/a",
                          "s3://bucket/model", "s3://bucket2/models/a", "s3://Bucket/models/a",
                          "s3://bucket/%6dodels/a", "s3://wholes/x", "/models"}) {
    EXPECT_EQ(ReasonOf(allowed(uri).status()), reason::kStorageDenied) << uri;
  }
  for (const char* uri :
       {"s3://bucket/models/../x", "s3://bucket/models/..", "s3://bucket//models/a",
        "s3://bucket/models//a", "s3://bucket/models/./a", "s3://", "s3:///models",
        "s3://bucket\\models/a", "s3://user@bucket/models/a"}) {
    EXPECT_EQ(ReasonOf(allowed(uri).status()), reason::kBadRequest) << uri;
  }
  EXPECT_EQ(ReasonOf(allowed("gs://bucket/models/a").status()), reason::kStorageUnsupported);
  EXPECT_FALSE(StoragePolicy::Make({"s3://bucket/../x"}).ok());
}

class ObjectJobsTest : public TestOfService {
 protected:
  ObjectJobsTest() {
    server_.SetEnvironment();
    server_.Put("allowed/model/config.json", "{}");
  }
  v1::CreateQuantizeModelJobRequest Request(const TestService& service, const std::string& id) {
    v1::CreateQuantizeModelJobRequest request = service.Request(id);
    request.mutable_quantize_model_job()->mutable_source()->set_uri("s3://bucket/allowed/model");
    request.mutable_quantize_model_job()->mutable_output()->set_uri("s3://bucket/allowed/out");
    return request;
  }
  static std::string Reason(const Job& job) { return ReasonOf(FromRpcStatus(job.error())); }

  FakeS3 server_;
};

TEST_F(ObjectJobsTest, APublishedOutputHasAManifestAndIsNotReplaced) {
  TestService service;
  ASSERT_TRUE(service.Create(Request(service, "a")).ok());
  service.work_.Release(2);
  EXPECT_EQ(service.Finished("a").state(), Job::SUCCEEDED);
  EXPECT_TRUE(server_.objects().contains("allowed/out/manifest.json"));
  ASSERT_TRUE(service.Create(Request(service, "b")).ok());
  const Job again = service.Finished("b");
  EXPECT_EQ(again.state(), Job::FAILED);
  EXPECT_EQ(Reason(again), reason::kOutputExists);
}

TEST_F(ObjectJobsTest, ASourceThatChanges) {
  TestService service;
  ASSERT_TRUE(service.Create(Request(service, "a")).ok());
  service.work_.WaitUntilBegun(1);
  server_.Put("allowed/model/config.json", "{ }");
  service.work_.Release(1);
  EXPECT_EQ(Reason(service.Finished("a")), reason::kSourceChanged);
  EXPECT_FALSE(server_.objects().contains("allowed/out/manifest.json"));

  auto request = Request(service, "b");
  request.mutable_quantize_model_job()->mutable_source()->set_revision(std::string(64, '0'));
  ASSERT_TRUE(service.Create(request).ok());
  EXPECT_EQ(Reason(service.Finished("b")), reason::kSourceChanged);
  request = Request(service, "c");
  request.mutable_quantize_model_job()->mutable_source()->set_revision(
      *(*Folder::Open("s3://bucket/allowed/model"))->Revision());
  service.work_.Release(1);
  ASSERT_TRUE(service.Create(request).ok());
  EXPECT_EQ(service.Finished("c").state(), Job::SUCCEEDED);
  request = Request(service, "d");
  request.mutable_quantize_model_job()->mutable_source()->set_revision("main");
  EXPECT_EQ(ReasonOf(service.Create(request).status()), reason::kBadRequest);
}

TEST_F(ObjectJobsTest, ABucketThatRefuses) {
  TestService service;
  auto request = Request(service, "a");
  request.mutable_quantize_model_job()->mutable_output()->set_uri("s3://bucket/other/out");
  EXPECT_EQ(ReasonOf(service.Create(request).status()), reason::kStorageDenied);
  server_.Break(S3Op::kList, {.kind = S3Fault::kAnswer, .status = 403, .text = "AccessDenied"});
  ASSERT_TRUE(service.Create(Request(service, "b")).ok());
  EXPECT_EQ(Reason(service.Finished("b")), reason::kFileDenied);
  server_.Break(S3Op::kPut, {.kind = S3Fault::kAnswer, .status = 403, .text = "AccessDenied"});
  ASSERT_TRUE(service.Create(Request(service, "c")).ok());
  service.work_.Release(1);
  EXPECT_EQ(Reason(service.Finished("c")), reason::kFileDenied);
}

}  // namespace
}  // namespace cvxq
