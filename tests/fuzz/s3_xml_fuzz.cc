// Fuzz target: any bytes as each of the XML answers of an S3 server, and as an address. What is
// accepted must be fit for headers, queries and error lines.
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "storage/s3/s3_config.h"
#include "storage/s3/s3_xml.h"

namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

void CheckName(const std::string& name) {
  Check(!name.empty());
  for (const char c : name) Check(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
}

void CheckRefusal(const cvxq::Status& status) {
  Check(status.code() == absl::StatusCode::kDataLoss);
}

void ParseXml(std::string_view xml) {
  const cvxq::S3Error error = cvxq::ParseS3Error(xml);
  for (const char c : error.code + error.region) {
    Check(std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-');
  }
  const auto listed = cvxq::ParseListObjects(xml);
  if (listed.ok()) {
    for (const cvxq::ObjectInfo& info : listed->objects) {
      Check(info.size >= 0);
      CheckName(info.etag);
    }
  } else {
    CheckRefusal(listed.status());
  }
  const auto id = cvxq::ParseUploadId(xml);
  id.ok() ? CheckName(*id) : CheckRefusal(id.status());
  const auto parts = cvxq::ParseListParts(xml);
  if (parts.ok()) {
    for (const cvxq::ListedPart& part : *parts) {
      Check(part.size >= 0 && part.number >= 0 && part.number <= 10'000);
      CheckName(part.etag);
    }
  } else {
    CheckRefusal(parts.status());
  }
  const cvxq::Status completed = cvxq::ParseCompleted(xml);
  if (!completed.ok()) CheckRefusal(completed);
}

void ParseAddress(const std::string& address) {
  const auto config = cvxq::S3ConfigFromEnvironment(address);
  if (!config.ok()) {
    Check(config.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  Check(config->prefix.empty() || cvxq::CheckKey(config->prefix).ok());
  Check(config->address() == address || config->address() + "/" == address);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  ParseXml(text);
  ParseAddress(text);
  ParseAddress("s3://" + text);
  return 0;
}
