#include "storage/s3/sigv4.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace cvxq {
namespace {

std::string Sha256(std::string_view bytes) {
  std::string digest(32, '\0');
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr,
             EVP_sha256(), nullptr);
  return digest;
}

std::string HmacSha256(const std::string& key, const std::string& text) {
  std::string digest(32, '\0');
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(),
       reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  return digest;
}

// Without blanks at the ends, runs of blanks as one.
std::string Trimmed(const std::string& value) {
  std::string trimmed;
  for (const char c : value) {
    const bool blank = c == ' ' || c == '\t';
    if (!blank) trimmed += c;
    if (blank && !trimmed.empty() && trimmed.back() != ' ') trimmed += ' ';
  }
  if (trimmed.ends_with(' ')) trimmed.pop_back();
  return trimmed;
}

}  // namespace

std::string Sha256Hex(std::string_view bytes) { return absl::BytesToHexString(Sha256(bytes)); }

std::string PercentEncode(std::string_view text, bool keep_slashes) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (letter || c == '-' || c == '.' || c == '_' || c == '~' || (c == '/' && keep_slashes)) {
      encoded += c;
    } else {
      encoded += '%';
      encoded += kHex[byte >> 4];
      encoded += kHex[byte & 15];
    }
  }
  return encoded;
}

std::string CanonicalQuery(const NamedValues& query) {
  NamedValues encoded;
  for (const auto& [name, value] : query) {
    encoded.emplace_back(PercentEncode(name, false), PercentEncode(value, false));
  }
  std::sort(encoded.begin(), encoded.end());
  return absl::StrJoin(encoded, "&", absl::PairFormatter("="));
}

NamedValues SignV4(const RequestToSign& request, const S3Credentials& credentials,
                   const std::string& region, std::time_t now) {
  std::tm utc;
  gmtime_r(&now, &utc);
  char text[20];
  const std::string time(text, std::strftime(text, sizeof(text), "%Y%m%dT%H%M%SZ", &utc));
  const std::string day = time.substr(0, 8);

  const std::string body_digest = Sha256Hex(request.body);
  NamedValues added = {{"x-amz-content-sha256", body_digest}, {"x-amz-date", time}};
  if (!credentials.session_token.empty()) {
    added.emplace_back("x-amz-security-token", credentials.session_token);
  }
  NamedValues headers = request.headers;
  headers.insert(headers.end(), added.begin(), added.end());
  std::sort(headers.begin(), headers.end());

  std::string lines, names;
  for (const auto& [name, value] : headers) {
    absl::StrAppend(&lines, name, ":", Trimmed(value), "\n");
    absl::StrAppend(&names, names.empty() ? "" : ";", name);
  }
  const std::string canonical =
      absl::StrCat(request.method, "\n", request.path, "\n", request.query, "\n", lines, "\n",
                   names, "\n", body_digest);
  const std::string scope = absl::StrCat(day, "/", region, "/s3/aws4_request");
  const std::string to_sign =
      absl::StrCat("AWS4-HMAC-SHA256\n", time, "\n", scope, "\n", Sha256Hex(canonical));

  std::string key = "AWS4" + credentials.secret_access_key;
  for (const std::string& step : {day, region, std::string("s3"), std::string("aws4_request")}) {
    key = HmacSha256(key, step);
  }
  added.emplace_back("authorization",
                     absl::StrCat("AWS4-HMAC-SHA256 Credential=", credentials.access_key_id, "/",
                                  scope, ",SignedHeaders=", names,
                                  ",Signature=", absl::BytesToHexString(HmacSha256(key, to_sign))));
  return added;
}

}  // namespace cvxq
