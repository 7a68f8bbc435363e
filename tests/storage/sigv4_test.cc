// Signatures, against the examples that Amazon publishes for S3.
#include "storage/s3/sigv4.h"

#include <gtest/gtest.h>

namespace cvxq {
namespace {

const S3Credentials kExample = {.access_key_id = "AKIAIOSFODNN7EXAMPLE",
                                .secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"};
constexpr char kHost[] = "examplebucket.s3.amazonaws.com";
constexpr std::time_t kMay24 = 1369353600;  // 2013, midnight UTC

std::string Value(const NamedValues& headers, const std::string& name) {
  for (const auto& header : headers) {
    if (header.first == name) return header.second;
  }
  return "";
}

void ExpectSignature(const RequestToSign& request, const std::string& names,
                     const std::string& signature) {
  const NamedValues added = SignV4(request, kExample, "us-east-1", kMay24);
  EXPECT_EQ(Value(added, "x-amz-date"), "20130524T000000Z");
  EXPECT_EQ(Value(added, "x-amz-content-sha256"), Sha256Hex(request.body));
  EXPECT_EQ(Value(added, "authorization"),
            "AWS4-HMAC-SHA256 "
            "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=" +
                names + ",Signature=" + signature);
}

TEST(SignV4, GetsAnObject) {
  ExpectSignature(
      {.method = "GET", .path = "/test.txt", .headers = {{"host", kHost}, {"range", "bytes=0-9"}}},
      "host;range;x-amz-content-sha256;x-amz-date",
      "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

TEST(SignV4, PutsAnObject) {
  ExpectSignature({.method = "PUT",
                   .path = "/" + PercentEncode("test$file.text", true),
                   .headers = {{"host", kHost},
                               {"date", "Fri, 24 May 2013 00:00:00 GMT"},
                               {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                   .body = "Welcome to Amazon S3."},
                  "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                  "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

TEST(SignV4, TakesAQueryWithoutValue) {
  ExpectSignature({.method = "GET",
                   .path = "/",
                   .query = CanonicalQuery({{"lifecycle", ""}}),
                   .headers = {{"host", kHost}}},
                  "host;x-amz-content-sha256;x-amz-date",
                  "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

TEST(SignV4, ListsObjects) {
  ExpectSignature({.method = "GET",
                   .path = "/",
                   .query = CanonicalQuery({{"prefix", "J"}, {"max-keys", "2"}}),
                   .headers = {{"host", kHost}}},
                  "host;x-amz-content-sha256;x-amz-date",
                  "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

TEST(SignV4, SignsTheSessionToken) {
  S3Credentials credentials = kExample;
  credentials.session_token = "token";
  const RequestToSign request = {.method = "GET", .path = "/", .headers = {{"host", kHost}}};
  const NamedValues added = SignV4(request, credentials, "us-east-1", kMay24);
  EXPECT_EQ(Value(added, "x-amz-security-token"), "token");
  EXPECT_NE(Value(added, "authorization")
                .find("host;x-amz-content-sha256;x-amz-date;x-amz-security-token"),
            std::string::npos);
}

TEST(PercentEncode, KeepsOnlyUnreservedBytes) {
  EXPECT_EQ(PercentEncode("AZaz09-._~", false), "AZaz09-._~");
  EXPECT_EQ(PercentEncode("a/b", true), "a/b");
  EXPECT_EQ(PercentEncode("a/b", false), "a%2Fb");
  EXPECT_EQ(PercentEncode(" +%&=*'\xc3\xbc", false), "%20%2B%25%26%3D%2A%27%C3%BC");
}

TEST(CanonicalQuery, SortsTheEncodedNames) {
  EXPECT_EQ(CanonicalQuery({{"b", "2"}, {"a b", ""}, {"a", "x/y"}, {"B", "1"}}),
            "B=1&a=x%2Fy&a%20b=&b=2");
  EXPECT_EQ(CanonicalQuery({}), "");
}

}  // namespace
}  // namespace cvxq
