// What the fake S3 server does once a request is read and found to be signed.
#include <algorithm>
#include <chrono>

#include "tests/storage/fake_s3.h"
#include "tests/storage/fake_s3_text.h"

namespace cvxq {
namespace {

using fake_s3::Between;
using fake_s3::Digest;
using fake_s3::Encode;
using fake_s3::Value;
using fake_s3::XmlText;

constexpr int kPageSize = 3;

}  // namespace

FakeS3::Answer FakeS3::Error(int status, const std::string& code) {
  return {.status = status,
          .body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>" + code +
                  "</Code><Message>words</Message></Error>"};
}

FakeS3::Answer FakeS3::Do(const Request& request) {
  std::unique_lock lock(mutex_);
  const bool conditional = Value(request.headers, "if-none-match") == "*";
  if (request.op == S3Op::kPut && conditional && conditions_ == S3Conditions::kLooksFirst) {
    // Looks, waits until somebody else has looked too (or nobody comes), then writes.
    if (objects_.count(request.key) > 0) return Error(412, "PreconditionFailed");
    int& looking = looking_[request.key];
    ++looking;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::milliseconds(200), [&] { return looking > 1 || stop_; });
  }
  switch (request.op) {
    case S3Op::kGet:
    case S3Op::kHead:
      return Get(request);
    case S3Op::kPut:
      return PutObject(request);
    case S3Op::kDelete:
      objects_.erase(request.key);
      return {.status = 204};
    case S3Op::kList:
      return List(request);
    case S3Op::kStartUpload:
      return StartUpload(request);
    case S3Op::kPutPart:
      return PutPart(request);
    case S3Op::kListParts:
      return ListParts(request);
    case S3Op::kComplete:
      return Complete(request);
    case S3Op::kAbort:
      return uploads_.erase(Value(request.query, "uploadId")) > 0 ? Answer{.status = 204}
                                                                  : Error(404, "NoSuchUpload");
    default:
      return Error(400, "InvalidRequest");
  }
}

FakeS3::Answer FakeS3::Get(const Request& request) {
  const auto found = objects_.find(request.key);
  if (found == objects_.end()) return Error(404, "NoSuchKey");
  const Object& object = found->second;
  const std::string if_match = Value(request.headers, "if-match");
  if (!if_match.empty() && if_match != object.etag && !ignores_if_match_) {
    return Error(412, "PreconditionFailed");
  }
  const int64_t size = object.bytes.size();
  Answer answer = {.headers = {{"etag", object.etag}, {"content-length", std::to_string(size)}}};
  if (!object.mark.empty()) answer.headers["x-amz-meta-cvxq-upload"] = object.mark;
  if (request.op == S3Op::kHead) return answer;
  const std::string range = Value(request.headers, "range");
  if (range.empty() || ignores_range_) {
    answer.body = object.bytes;
    return answer;
  }
  long long first = 0, last = 0;
  if (std::sscanf(range.c_str(), "bytes=%lld-%lld", &first, &last) != 2 || last < first) {
    return Error(400, "InvalidArgument");
  }
  if (first >= size) return Error(416, "InvalidRange");
  last = std::min<long long>(last, size - 1);
  answer.status = 206;
  answer.body = object.bytes.substr(first, last - first + 1);
  answer.headers["content-range"] =
      "bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" + std::to_string(size);
  return answer;
}

FakeS3::Answer FakeS3::PutObject(const Request& request) {
  if (Value(request.headers, "if-none-match") == "*") {
    if (conditions_ == S3Conditions::kRefused) return Error(501, "NotImplemented");
    if (conditions_ == S3Conditions::kAtomic && objects_.count(request.key) > 0) {
      return Error(412, "PreconditionFailed");
    }
  }
  const std::string etag = "\"" + Digest(EVP_md5(), request.body) + "\"";
  objects_[request.key] = {request.body, etag, ""};
  return {.headers = {{"etag", etag}}};
}

FakeS3::Answer FakeS3::List(const Request& request) {
  const std::string prefix = Value(request.query, "prefix");
  const std::string after = Value(request.query, "continuation-token");
  const bool url = Value(request.query, "encoding-type") == "url";
  std::string entries, next;
  int listed = 0;
  for (auto it = objects_.lower_bound(prefix); it != objects_.end(); ++it) {
    if (it->first.rfind(prefix, 0) != 0) break;
    if (!after.empty() && "token " + it->first <= after) continue;
    if (listed == kPageSize) {
      next = "token " + std::prev(it)->first;
      break;
    }
    ++listed;
    entries += "<Contents><Key>" + XmlText(url ? Encode(it->first, "/") : it->first) +
               "</Key><ETag>" + XmlText(it->second.etag) + "</ETag><Size>" +
               std::to_string(it->second.bytes.size()) + "</Size></Contents>";
  }
  return {.body = std::string("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://x/\">") +
                  (url ? "<EncodingType>url</EncodingType>" : "") + "<IsTruncated>" +
                  (next.empty() ? "false" : "true") + "</IsTruncated>" +
                  (next.empty()
                       ? ""
                       : "<NextContinuationToken>" + XmlText(next) + "</NextContinuationToken>") +
                  entries + "</ListBucketResult>"};
}

FakeS3::Answer FakeS3::StartUpload(const Request& request) {
  const std::string id = "upload/+" + std::to_string(++uploads_started_);
  uploads_[id] = {request.key, Value(request.headers, "x-amz-meta-cvxq-upload"), {}};
  return {.body = "<InitiateMultipartUploadResult><UploadId>" + id +
                  "</UploadId></InitiateMultipartUploadResult>"};
}

FakeS3::Answer FakeS3::PutPart(const Request& request) {
  const auto upload = uploads_.find(Value(request.query, "uploadId"));
  if (upload == uploads_.end()) return Error(404, "NoSuchUpload");
  const std::string etag = "\"" + Digest(EVP_md5(), request.body) + "\"";
  upload->second.parts[std::stoi(Value(request.query, "partNumber"))] = {request.body, etag, ""};
  return {.headers = {{"etag", etag}}};
}

FakeS3::Answer FakeS3::ListParts(const Request& request) {
  const auto upload = uploads_.find(Value(request.query, "uploadId"));
  if (upload == uploads_.end()) return Error(404, "NoSuchUpload");
  const int after = std::atoi(Value(request.query, "part-number-marker").c_str());
  int left = std::atoi(Value(request.query, "max-parts").c_str());
  std::string entries;
  for (const auto& [number, part] : upload->second.parts) {
    if (number <= after || left-- <= 0) continue;
    entries += "<Part><PartNumber>" + std::to_string(number) + "</PartNumber><ETag>" +
               XmlText(part.etag) + "</ETag><Size>" + std::to_string(part.bytes.size()) +
               "</Size></Part>";
  }
  return {.body = "<ListPartsResult>" + entries + "</ListPartsResult>"};
}

FakeS3::Answer FakeS3::Complete(const Request& request) {
  const auto found = uploads_.find(Value(request.query, "uploadId"));
  if (found == uploads_.end()) return Error(404, "NoSuchUpload");
  Upload& upload = found->second;
  std::string whole, digests, rest = request.body;
  int count = 0;
  for (std::string part; !(part = Between(rest, "<Part>", "</Part>")).empty();) {
    rest = rest.substr(rest.find("</Part>") + 7);
    const Object& there = upload.parts[std::stoi(Between(part, "<PartNumber>", "<"))];
    if (there.etag.empty() || there.etag != Between(part, "<ETag>", "</ETag>")) {
      return Error(400, "InvalidPart");
    }
    whole += there.bytes;
    digests += Digest(EVP_md5(), there.bytes, false);
    ++count;
  }
  if (count == 0) return Error(400, "MalformedXML");
  const std::string etag = "\"" + Digest(EVP_md5(), digests) + "-" + std::to_string(count) + "\"";
  objects_[upload.key] = {whole, etag, upload.mark};
  uploads_.erase(found);
  return {.body = "<CompleteMultipartUploadResult><ETag>" + XmlText(etag) +
                  "</ETag></CompleteMultipartUploadResult>"};
}

}  // namespace cvxq
