#include "storage/s3/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace cvxq {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kConnectMs = 10'000;
constexpr long kReceiveBuffer = 512 << 10;
constexpr long kSendBuffer = 1 << 20;
constexpr size_t kLongestHeader = 8192;

// One exchange, as curl's callbacks see it.
struct Exchange {
  CURL* curl;
  const HttpRequest& request;
  HttpAnswer answer;
  bool too_large = false, chunked = false, cancelled = false;
  curl_off_t moved = 0;  // bytes in both directions until
  Clock::time_point moved_at = Clock::now();
};

size_t TakeHeader(char* data, size_t, size_t size, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const absl::string_view line = absl::StripAsciiWhitespace(absl::string_view(data, size));
  if (absl::StartsWith(line, "HTTP/")) {  // of a 100 Continue, a proxy or the answer itself
    exchange.answer.headers.clear();
    exchange.chunked = false;
    return size;
  }
  const size_t colon = line.find(':');
  if (colon == absl::string_view::npos || line.size() > kLongestHeader) return size;
  const std::string name = absl::AsciiStrToLower(line.substr(0, colon));
  const std::string value(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  if (name == "transfer-encoding") exchange.chunked = absl::EqualsIgnoreCase(value, "chunked");
  for (const char* kept : kKeptHeaders) {
    if (name == kept) exchange.answer.headers[name] = value;
  }
  return size;
}

long StatusOf(CURL* curl) {
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  return status;
}

// Returning another number than `size` makes curl end the exchange.
size_t TakeBody(char* data, size_t, size_t size, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const HttpRequest& request = exchange.request;
  HttpAnswer& answer = exchange.answer;
  if (!request.into.empty() && StatusOf(exchange.curl) == 206) {
    exchange.too_large = size > request.into.size() - answer.received;
    if (exchange.too_large) return 0;
    std::memcpy(request.into.data() + answer.received, data, size);
    answer.received += size;
    return size;
  }
  exchange.too_large = static_cast<int64_t>(answer.body.size() + size) > request.largest_body;
  if (exchange.too_large) return 0;
  answer.body.append(data, size);
  return size;
}

// Curl calls this often while bytes move and about once a second while none do.
int Watch(void* user, curl_off_t, curl_off_t down, curl_off_t, curl_off_t up) {
  auto& exchange = *static_cast<Exchange*>(user);
  const HttpRequest& request = exchange.request;
  if (request.cancelled != nullptr && *request.cancelled) {
    exchange.cancelled = true;
    return 1;
  }
  const auto now = Clock::now();
  if (down + up != exchange.moved) {
    exchange.moved = down + up;
    exchange.moved_at = now;
  }
  return now - exchange.moved_at > std::chrono::milliseconds(request.patience_ms) ? 1 : 0;
}

// curl's own words name neither keys nor secrets.
Status Outcome(CURLcode code, const Exchange& exchange) {
  const long status = StatusOf(exchange.curl);
  // Without a length, an answer that was cut looks like a whole one.
  const bool needs_length = exchange.request.method == "HEAD" ? status == 200 : status != 204;
  if (code == CURLE_OK && needs_length && !exchange.chunked &&
      exchange.answer.header("content-length").empty()) {
    return absl::UnavailableError("the answer has no length");
  }
  if (code == CURLE_OK) return absl::OkStatus();
  if (exchange.too_large && status > 299) return absl::OkStatus();  // enough of an error message
  if (exchange.too_large) return absl::ResourceExhaustedError("the answer is too large");
  if (exchange.cancelled) return absl::CancelledError("cancelled");
  switch (code) {
    case CURLE_ABORTED_BY_CALLBACK:
      return absl::UnavailableError("the server does not go on");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return absl::FailedPreconditionError(
          absl::StrCat(curl_easy_strerror(code), "; AWS_CA_BUNDLE names certificates to trust"));
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return absl::InvalidArgumentError(curl_easy_strerror(code));
    case CURLE_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError(curl_easy_strerror(code));
    default:
      return absl::UnavailableError(curl_easy_strerror(code));
  }
}

}  // namespace

HttpClient::HttpClient(std::string ca_bundle) : ca_bundle_(std::move(ca_bundle)) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  static_cast<void>(initialised);  // without it curl_easy_init fails, and so does Send
}

HttpClient::~HttpClient() {
  for (void* handle : idle_) curl_easy_cleanup(handle);
}

HttpAnswer HttpClient::Send(const HttpRequest& request) {
  CURL* curl = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      curl = idle_.back();
      idle_.pop_back();
    }
  }
  if (curl == nullptr) curl = curl_easy_init();
  HttpAnswer none;
  none.exchange = absl::InternalError("libcurl cannot be initialised");
  if (curl == nullptr) return none;

  Exchange exchange{.curl = curl, .request = request};
  const auto set = [&](CURLoption option, auto value) { curl_easy_setopt(curl, option, value); };
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_PATH_AS_IS, 1L);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_USERAGENT, "cvxq");
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  set(CURLOPT_BUFFERSIZE, kReceiveBuffer);
  set(CURLOPT_UPLOAD_BUFFERSIZE, kSendBuffer);
  set(CURLOPT_CONNECTTIMEOUT_MS,
      static_cast<long>(std::clamp<int64_t>(request.patience_ms, 1, kConnectMs)));
  if (!ca_bundle_.empty()) set(CURLOPT_CAINFO, ca_bundle_.c_str());
  set(CURLOPT_HEADERFUNCTION, TakeHeader);
  set(CURLOPT_HEADERDATA, &exchange);
  set(CURLOPT_WRITEFUNCTION, TakeBody);
  set(CURLOPT_WRITEDATA, &exchange);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, Watch);
  set(CURLOPT_XFERINFODATA, &exchange);
  if (request.method == "HEAD") {
    set(CURLOPT_NOBODY, 1L);
  } else if (request.method == "PUT" || request.method == "POST") {
    // As a form would be sent, but for its type: so curl can send the body again by itself where a
    // kept connection turns out to be dead.
    set(CURLOPT_POST, 1L);
    set(CURLOPT_POSTFIELDS, request.body.data() == nullptr ? "" : request.body.data());
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  }
  if (request.method != "HEAD") set(CURLOPT_CUSTOMREQUEST, request.method.c_str());

  curl_slist* lines = nullptr;
  const auto add = [&](const std::string& line) {
    curl_slist* longer = curl_slist_append(lines, line.c_str());
    if (longer != nullptr) lines = longer;
    return longer != nullptr;
  };
  // Without the wait for 100 Continue.
  bool added = add("Expect:") && add("Content-Type:");
  for (const auto& [name, value] : request.headers) added = added && add(name + ": " + value);
  set(CURLOPT_HTTPHEADER, lines);

  const CURLcode code = added ? curl_easy_perform(curl) : CURLE_OUT_OF_MEMORY;
  HttpAnswer& answer = exchange.answer;
  answer.status = static_cast<int>(StatusOf(curl));
  answer.exchange = Outcome(code, exchange);
  curl_slist_free_all(lines);
  curl_easy_reset(curl);  // keeps connections, known hosts and TLS sessions
  std::lock_guard lock(mutex_);
  idle_.push_back(curl);
  return std::move(answer);
}

}  // namespace cvxq
