#include "storage/s3/s3_config.h"

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "storage/errors.h"
#include "storage/object_store.h"

namespace cvxq {
namespace {

// An empty variable is as good as none.
std::string Variable(const char* name, const std::string& otherwise = "") {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? otherwise : value;
}

bool IsPrintable(const std::string& text) {
  for (const char c : text) {
    if (c <= 0x20 || c >= 0x7f) return false;
  }
  return true;
}

Status CheckBucket(const std::string& bucket) {
  bool good = bucket.size() >= 3 && bucket.size() <= 255 && absl::ascii_isalnum(bucket.front()) &&
              absl::ascii_isalnum(bucket.back());
  for (const char c : bucket) {
    good = good && (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_');
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("no bucket can be called ", Quoted(bucket), "; write s3://BUCKET/PREFIX"));
}

// Sets config.endpoint and config.host from "http(s)://HOST[:PORT][/]".
Status SetEndpoint(std::string url, const char* variable, S3Config& config) {
  if (url.ends_with('/')) url.pop_back();
  const size_t scheme = url.find("://");
  const bool known = absl::StartsWith(url, "https://") || absl::StartsWith(url, "http://");
  const std::string host = known ? url.substr(scheme + 3) : "";
  bool good = !host.empty();
  for (const char c : host) {
    good =
        good && (absl::ascii_isalnum(c) || absl::StrContains("-._:[]", absl::string_view(&c, 1)));
  }
  if (!good) {
    // Not quoted: somebody may have put a password into it.
    return absl::InvalidArgumentError(absl::StrCat(
        variable, " is no address of a server; write http://HOST:PORT or https://HOST"));
  }
  config.host = host;
  config.endpoint = url;
  return absl::OkStatus();
}

}  // namespace

StatusOr<S3Config> S3ConfigFromEnvironment(const std::string& address) {
  S3Config config;
  if (!absl::StartsWith(address, "s3://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("no address of a bucket: ", Quoted(address), "; write s3://BUCKET/PREFIX"));
  }
  const std::string place = address.substr(5);
  const size_t slash = place.find('/');
  config.bucket = place.substr(0, slash);
  CVXQ_RETURN_IF_ERROR(CheckBucket(config.bucket));
  if (slash != std::string::npos) config.prefix = place.substr(slash + 1);
  if (config.prefix.size() > 1 && config.prefix.ends_with('/')) config.prefix.pop_back();
  if (!config.prefix.empty()) CVXQ_RETURN_IF_ERROR(CheckKey(config.prefix));

  config.region = Variable("AWS_REGION", Variable("AWS_DEFAULT_REGION", "us-east-1"));
  for (const char c : config.region) {
    if (!absl::ascii_isalnum(c) && c != '-') {
      return absl::InvalidArgumentError(
          absl::StrCat("AWS_REGION is no region: ", Quoted(config.region)));
    }
  }
  const char* variable =
      Variable("AWS_ENDPOINT_URL_S3").empty() ? "AWS_ENDPOINT_URL" : "AWS_ENDPOINT_URL_S3";
  const std::string own = Variable(variable);
  const char* china = absl::StartsWith(config.region, "cn-") ? ".cn" : "";
  const std::string amazon = absl::StrCat("https://s3.", config.region, ".amazonaws.com", china);
  CVXQ_RETURN_IF_ERROR(SetEndpoint(own.empty() ? amazon : own, variable, config));

  // No certificate covers names with further dots.
  const bool path = !own.empty() || absl::StrContains(config.bucket, ".");
  const std::string addressing = Variable("CVXQ_S3_ADDRESSING", path ? "path" : "virtual");
  if (addressing != "path" && addressing != "virtual") {
    return absl::InvalidArgumentError(
        absl::StrCat("CVXQ_S3_ADDRESSING is ", Quoted(addressing), "; set it to path or virtual"));
  }
  config.bucket_in_path = addressing == "path";
  if (!config.bucket_in_path) {
    const size_t scheme = config.endpoint.find("://") + 3;
    config.endpoint.insert(scheme, config.bucket + ".");
    config.host = config.endpoint.substr(scheme);
  }

  config.credentials = {.access_key_id = Variable("AWS_ACCESS_KEY_ID"),
                        .secret_access_key = Variable("AWS_SECRET_ACCESS_KEY"),
                        .session_token = Variable("AWS_SESSION_TOKEN")};
  const S3Credentials& credentials = config.credentials;
  if (credentials.access_key_id.empty() != credentials.secret_access_key.empty()) {
    return absl::InvalidArgumentError(
        "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set; set "
        "both or none");
  }
  // They become parts of headers: a line end would begin another one.
  if (!IsPrintable(credentials.access_key_id) || !IsPrintable(credentials.session_token)) {
    return absl::InvalidArgumentError(
        "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN "
        "has blanks or line ends; remove them");
  }
  if (credentials.empty()) config.credentials.session_token.clear();
  config.ca_bundle = Variable("AWS_CA_BUNDLE");
  return config;
}

}  // namespace cvxq
