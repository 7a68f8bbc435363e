#include "storage/s3/s3_store.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "base/interrupt.h"
#include "storage/s3/s3_client.h"
#include "storage/s3/s3_upload.h"
#include "storage/s3/s3_xml.h"

namespace cvxq {
namespace {

constexpr int kMostEmptyPages = 1000;  // of a listing, one after another
constexpr size_t kMostListed = 10'000'000;

Status Broken(const char* what) {
  return absl::DataLossError(absl::StrCat("a broken answer (", what, ")"));
}

// A header that holds a count: digits only.
StatusOr<int64_t> Count(const std::string& text, const char* what) {
  int64_t value = 0;
  bool digits = !text.empty();
  for (const char c : text) digits = digits && absl::ascii_isdigit(c);
  if (!digits || !absl::SimpleAtoi(text, &value)) return Broken(what);
  return value;
}

// Where a ranged answer to a request for bytes from `offset` on brings something else.
Status CheckRange(const HttpAnswer& answer, int64_t offset, int64_t count) {
  const std::string wanted = absl::StrCat("bytes ", offset, "-", offset + count - 1, "/");
  if (answer.status != 206) return Broken("a range was asked for, not the whole");
  const std::string range = answer.header("content-range");
  if (absl::StartsWith(range, wanted)) return absl::OkStatus();
  // A server cuts a range at the object's end.
  const size_t slash = range.find('/');
  const auto size =
      Count(slash == std::string::npos ? "" : range.substr(slash + 1), "Content-Range");
  if (size.ok() && *size < offset + count) return absl::OutOfRangeError("beyond its end");
  return Broken("another range than was asked for");
}

class S3Store : public ObjectStore {
 public:
  S3Store(S3Config config, const ObjectStoreOptions& options)
      : client_(std::move(config), options) {}

  std::string address() const override { return client_.config().address(); }

  StatusOr<ObjectInfo> Head(const std::string& key) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    const S3Reply reply = client_.Send({.method = "HEAD", .key = key});
    if (!reply.ok()) return client_.Failure("read", key, reply);
    ObjectInfo info{.key = key, .etag = reply.http.header("etag")};
    const auto size = Count(reply.http.header("content-length"), "Content-Length");
    if (!size.ok()) return client_.Failure("read", key, size.status());
    if (reply.http.status != 200) return client_.Failure("read", key, Broken("not the whole"));
    if (info.etag.empty()) return client_.Failure("read", key, Broken("no ETag"));
    info.size = *size;
    return info;
  }

  Status Read(const std::string& key, const std::string& etag, int64_t offset,
              std::span<std::byte> out) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    const int64_t count = out.size();
    if (offset < 0 || offset > std::numeric_limits<int64_t>::max() - count) {
      return BeyondEnd(key, offset, count);
    }
    const ObjectStoreOptions& options = client_.options();
    const int64_t parts = (count + options.part_bytes - 1) / options.part_bytes;
    std::string version = etag;
    if (parts == 0 || (parts > 1 && etag.empty())) {
      CVXQ_ASSIGN_OR_RETURN(const ObjectInfo info, Head(key));
      if (!etag.empty() && info.etag != etag) return Changed(key);
      if (offset + count > info.size) return BeyondEnd(key, offset, count);
      version = info.etag;
    }
    if (parts == 0) return absl::OkStatus();

    std::atomic<int64_t> next = 0;
    std::atomic<bool> failed = false;
    std::mutex mutex;
    Status status;
    const auto* stop = StopScope::Current();
    const auto work = [&] {
      const StopScope scope(stop);
      for (int64_t part; !failed && (part = next++) < parts;) {
        const int64_t begin = part * options.part_bytes;
        const Status read =
            ReadPart(key, version, offset + begin,
                     out.subspan(begin, std::min(options.part_bytes, count - begin)), &failed);
        if (read.ok()) continue;
        const std::lock_guard lock(mutex);
        if (status.ok()) status = read;
        failed = true;
      }
    };
    {
      std::vector<std::jthread> helpers;
      const int64_t others = std::min<int64_t>(options.parallel_requests, parts) - 1;
      for (int64_t i = 0; i < others; ++i) {
        try {
          helpers.emplace_back(work);
        } catch (const std::system_error&) {
          break;  // no more threads to be had: slower, not wrong
        }
      }
      work();
    }
    return status;
  }

  StatusOr<std::string> ReadAll(const std::string& key, int64_t limit) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    constexpr int64_t kRoomForErrors = 64 << 10;
    S3Reply reply = client_.Send(
        {.method = "GET", .key = key, .largest_body = std::max(limit, kRoomForErrors)});
    const bool too_large = static_cast<int64_t>(reply.http.body.size()) > limit;
    if (reply.http.exchange.code() == absl::StatusCode::kResourceExhausted ||
        (reply.ok() && too_large)) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot read ", address(), "/", key,
                                                       ": it has more than the ", limit,
                                                       " bytes that are allowed here"));
    }
    if (!reply.ok()) return client_.Failure("read", key, reply);
    if (reply.http.status != 200) return client_.Failure("read", key, Broken("not the whole"));
    return std::move(reply.http.body);
  }

  Status Write(const std::string& key, std::string_view bytes) override {
    CVXQ_RETURN_IF_ERROR(CheckSmall(key, bytes));
    const S3Reply reply = client_.Send({.method = "PUT", .key = key, .body = bytes});
    return reply.ok() ? absl::OkStatus() : client_.Failure("write", key, reply);
  }

  Status WriteIfAbsent(const std::string& key, std::string_view bytes) override {
    CVXQ_RETURN_IF_ERROR(CheckSmall(key, bytes));
    Tries tries(client_.options(), nullptr);
    while (true) {
      const S3Reply reply = client_.Send(
          {.method = "PUT", .key = key, .headers = {{"if-none-match", "*"}}, .body = bytes});
      if (reply.ok()) return absl::OkStatus();
      if (reply.http.status != 412) return client_.Failure("write", key, reply);
      const auto found = ReadAll(key, bytes.size());
      if (found.ok() && *found == bytes) return absl::OkStatus();
      if (found.ok() || found.status().code() == absl::StatusCode::kResourceExhausted) {
        return absl::AlreadyExistsError(absl::StrCat("cannot write ", address(), "/", key,
                                                     ": something else has been written there"));
      }
      if (found.status().code() != absl::StatusCode::kNotFound) return found.status();
      // Removed between the two requests.
      if (!tries.Again()) return found.status();
    }
  }

  StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key,
                                                 int64_t expected_bytes) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    return StartS3Upload(client_, key, expected_bytes);
  }

  Status Delete(const std::string& key) override {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    const S3Reply reply = client_.Send({.method = "DELETE", .key = key});
    const bool gone = reply.http.status == 404 && reply.error.code != "NoSuchBucket";
    return reply.ok() || gone ? absl::OkStatus() : client_.Failure("remove", key, reply);
  }

  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) override {
    const size_t slash = prefix.rfind('/');
    if (slash != std::string::npos) CVXQ_RETURN_IF_ERROR(CheckKey(prefix.substr(0, slash)));
    const std::string& root = client_.config().prefix;
    const std::string base = root.empty() ? "" : root + "/";
    std::vector<ObjectInfo> found;
    std::string token;
    for (int empty_pages = 0; empty_pages < kMostEmptyPages;) {
      S3Request request{
          .method = "GET",
          .query = {{"list-type", "2"}, {"encoding-type", "url"}, {"prefix", base + prefix}},
          .largest_body = kLargestXml};
      if (!token.empty()) request.query.emplace_back("continuation-token", token);
      const S3Reply reply = client_.Send(request);
      if (!reply.ok()) return client_.Failure("list", prefix, reply);
      auto page = ParseListObjects(reply.http.body);
      if (!page.ok()) return client_.Failure("list", prefix, page.status());
      for (ObjectInfo& info : page->objects) {
        if (!absl::StartsWith(info.key, base + prefix)) {
          return client_.Failure("list", prefix, Broken("a key that was not asked for"));
        }
        info.key.erase(0, base.size());
        if (CheckKey(info.key).ok()) found.push_back(std::move(info));
      }
      if (page->next.empty()) {
        std::sort(found.begin(), found.end(),
                  [](const ObjectInfo& a, const ObjectInfo& b) { return a.key < b.key; });
        return found;
      }
      if (page->next == token) break;
      if (found.size() > kMostListed) {
        return absl::ResourceExhaustedError(absl::StrCat("cannot list ", address(), "/", prefix,
                                                         ": more than ", kMostListed, " objects"));
      }
      empty_pages = page->objects.empty() ? empty_pages + 1 : 0;
      token = std::move(page->next);
    }
    return client_.Failure("list", prefix, Broken("a list without end"));
  }

 private:
  Status CheckSmall(const std::string& key, std::string_view bytes) const {
    CVXQ_RETURN_IF_ERROR(CheckKey(key));
    if (static_cast<int64_t>(bytes.size()) <= kLargestSmallObject) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("cannot write ", address(), "/", key,
                                                   " in one piece: it has ", bytes.size(),
                                                   " bytes, more than ", kLargestSmallObject));
  }
  Status Changed(const std::string& key) const {
    return absl::FailedPreconditionError(absl::StrCat("cannot read ", address(), "/", key,
                                                      ": it was changed meanwhile; start again"));
  }
  Status BeyondEnd(const std::string& key, int64_t offset, int64_t count) const {
    return absl::OutOfRangeError(absl::StrCat("cannot read ", address(), "/", key, ": ", count,
                                              " bytes at ", offset, " are beyond its end"));
  }

  // One request, or several where answers are cut: each asks for what is still missing.
  Status ReadPart(const std::string& key, std::string version, int64_t offset,
                  std::span<std::byte> out, const std::atomic<bool>* cancelled) {
    Tries tries(client_.options(), cancelled);
    while (true) {
      const int64_t count = out.size();
      S3Request request{
          .method = "GET",
          .key = key,
          .headers = {{"range", absl::StrCat("bytes=", offset, "-", offset + count - 1)}},
          .into = out,
          .cancelled = cancelled};
      if (!version.empty()) request.headers.emplace_back("if-match", version);
      S3Reply reply = client_.Try(request);
      reply.tries = tries.count();
      const HttpAnswer& http = reply.http;
      if (http.status == 412) return Changed(key);
      if (http.status == 416) return BeyondEnd(key, offset, count);
      // Of an answer that was cut, only what came after its headers counts.
      const bool broken = http.exchange.code() == absl::StatusCode::kUnavailable;
      if (http.status >= 200 && http.status <= 299 && (!broken || http.received > 0)) {
        const Status range = CheckRange(http, offset, count);
        if (range.code() == absl::StatusCode::kOutOfRange) return BeyondEnd(key, offset, count);
        if (!range.ok()) return client_.Failure("read", key, range);
        const std::string etag = http.header("etag");
        if (etag.empty()) return client_.Failure("read", key, Broken("no ETag"));
        if (version.empty()) version = etag;
        if (etag != version) return Changed(key);
        if (http.received > 0) tries.Progressed();
        out = out.subspan(http.received);
        offset += http.received;
        if (out.empty()) return absl::OkStatus();
        if (reply.ok()) return client_.Failure("read", key, Broken("fewer bytes than it says"));
      }
      if (!reply.may_pass || !tries.Again()) return client_.Failure("read", key, reply);
    }
  }

  S3Client client_;
};

}  // namespace

StatusOr<std::unique_ptr<ObjectStore>> OpenS3Store(S3Config config,
                                                   const ObjectStoreOptions& options) {
  return std::make_unique<S3Store>(std::move(config), options);
}

}  // namespace cvxq
