// Addresses and the environment.
#include "storage/s3/s3_config.h"

#include <cstdlib>

#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

using absl::StatusCode;

// Begins without any of the variables that matter and ends with those that were there.
class S3ConfigTest : public testing::Test {
 protected:
  S3ConfigTest() {
    for (const char* name : kNames) {
      const char* value = std::getenv(name);
      if (value != nullptr) before_.emplace_back(name, value);
      unsetenv(name);
    }
  }
  ~S3ConfigTest() override {
    for (const char* name : kNames) unsetenv(name);
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }

  static constexpr const char* kNames[] = {
      "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL",   "AWS_REGION",
      "AWS_DEFAULT_REGION",  "AWS_ACCESS_KEY_ID",  "AWS_SECRET_ACCESS_KEY",
      "AWS_SESSION_TOKEN",   "CVXQ_S3_ADDRESSING", "AWS_CA_BUNDLE"};
  std::vector<std::pair<std::string, std::string>> before_;
};

TEST_F(S3ConfigTest, IsAmazonWithoutAnEnvironment) {
  const auto config = S3ConfigFromEnvironment("s3://my-bucket/models/a b/");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->bucket, "my-bucket");
  EXPECT_EQ(config->prefix, "models/a b");
  EXPECT_EQ(config->region, "us-east-1");
  EXPECT_EQ(config->endpoint, "https://my-bucket.s3.us-east-1.amazonaws.com");
  EXPECT_EQ(config->host, "my-bucket.s3.us-east-1.amazonaws.com");
  EXPECT_FALSE(config->bucket_in_path);
  EXPECT_TRUE(config->credentials.empty());
  EXPECT_EQ(config->address(), "s3://my-bucket/models/a b");
  EXPECT_EQ(S3ConfigFromEnvironment("s3://my-bucket")->address(), "s3://my-bucket");
  EXPECT_EQ(S3ConfigFromEnvironment("s3://my-bucket/")->address(), "s3://my-bucket");
}

TEST_F(S3ConfigTest, KnowsTheRegionsOfChina) {
  setenv("AWS_REGION", "cn-north-1", 1);
  EXPECT_EQ(S3ConfigFromEnvironment("s3://my-bucket")->endpoint,
            "https://my-bucket.s3.cn-north-1.amazonaws.com.cn");
}

TEST_F(S3ConfigTest, NamesWithDotsGoIntoThePath) {
  const auto config = S3ConfigFromEnvironment("s3://my.bucket");
  EXPECT_EQ(config->endpoint, "https://s3.us-east-1.amazonaws.com");
  EXPECT_TRUE(config->bucket_in_path);
}

TEST_F(S3ConfigTest, ReadsTheVariables) {
  setenv("AWS_ENDPOINT_URL", "https://general:1", 1);
  setenv("AWS_DEFAULT_REGION", "default-1", 1);
  setenv("AWS_ACCESS_KEY_ID", "id", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
  setenv("AWS_SESSION_TOKEN", "token", 1);
  setenv("AWS_CA_BUNDLE", "/etc/own.pem", 1);
  auto config = S3ConfigFromEnvironment("s3://bucket");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->endpoint, "https://general:1");
  EXPECT_EQ(config->host, "general:1");
  EXPECT_TRUE(config->bucket_in_path);
  EXPECT_EQ(config->region, "default-1");
  EXPECT_EQ(config->credentials.access_key_id, "id");
  EXPECT_EQ(config->credentials.secret_access_key, "secret");
  EXPECT_EQ(config->credentials.session_token, "token");
  EXPECT_EQ(config->ca_bundle, "/etc/own.pem");
  setenv("AWS_ENDPOINT_URL_S3", "http://[::1]:9000/", 1);
  setenv("AWS_REGION", "own-2", 1);
  config = S3ConfigFromEnvironment("s3://bucket");
  EXPECT_EQ(config->endpoint, "http://[::1]:9000");
  EXPECT_EQ(config->region, "own-2");
  setenv("AWS_ENDPOINT_URL_S3", "http://server:9000", 1);
  setenv("CVXQ_S3_ADDRESSING", "virtual", 1);
  config = S3ConfigFromEnvironment("s3://bucket");
  EXPECT_EQ(config->endpoint, "http://bucket.server:9000");
  EXPECT_EQ(config->host, "bucket.server:9000");
  EXPECT_FALSE(config->bucket_in_path);
}

TEST_F(S3ConfigTest, RefusesWhatMakesNoSense) {
  const auto expect = [](const char* name, const char* value) {
    setenv(name, value, 1);
    const Status status = S3ConfigFromEnvironment("s3://bucket").status();
    ExpectError(status, StatusCode::kInvalidArgument, name);
    EXPECT_EQ(std::string(status.message()).find("hunter2"), std::string::npos) << status;
    unsetenv(name);
  };
  for (const char* url : {"server", "ftp://server", "https://", "https://user:hunter2@server",
                          "https://server/path", "https://server?x", "https://a b"}) {
    expect("AWS_ENDPOINT_URL", url);
    expect("AWS_ENDPOINT_URL_S3", url);
  }
  expect("AWS_REGION", "us/east");
  expect("CVXQ_S3_ADDRESSING", "yes");
  expect("AWS_ACCESS_KEY_ID", "alone");
  expect("AWS_SECRET_ACCESS_KEY", "hunter2");
  setenv("AWS_SECRET_ACCESS_KEY", "hunter2", 1);
  expect("AWS_ACCESS_KEY_ID", "id\r\nx-header: 1");
}

}  // namespace
}  // namespace cvxq
