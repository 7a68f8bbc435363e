// Text and digests for the fake S3 server, written apart from the client's own.
#ifndef CVXQ_TESTS_STORAGE_FAKE_S3_TEXT_H_
#define CVXQ_TESTS_STORAGE_FAKE_S3_TEXT_H_

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace cvxq::fake_s3 {

inline std::string Hex(const unsigned char* bytes, unsigned int size) {
  std::string text;
  char two[3];
  for (unsigned int i = 0; i < size; ++i) {
    std::snprintf(two, sizeof(two), "%02x", bytes[i]);
    text += two;
  }
  return text;
}

inline std::string Digest(const EVP_MD* kind, const std::string& bytes, bool hex = true) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, kind, nullptr);
  return hex ? Hex(digest, size) : std::string(reinterpret_cast<char*>(digest), size);
}

inline std::string Hmac(const std::string& key, const std::string& text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &size);
  return {reinterpret_cast<char*>(digest), size};
}

inline std::string Decode(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      plain += static_cast<char>(std::strtol(text.substr(i + 1, 2).c_str(), nullptr, 16));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

inline std::string Encode(const std::string& plain, const std::string& also_kept) {
  std::ostringstream text;
  for (const char c : plain) {
    if (std::isalnum(static_cast<unsigned char>(c)) || std::string("-._~").find(c) < 4 ||
        also_kept.find(c) != std::string::npos) {
      text << c;
    } else {
      char hex[4];
      std::snprintf(hex, sizeof(hex), "%%%02X", static_cast<unsigned char>(c));
      text << hex;
    }
  }
  return text.str();
}

inline std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

inline std::string Between(const std::string& text, const std::string& begin,
                           const std::string& end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  const size_t to = text.find(end, from + begin.size());
  return text.substr(from + begin.size(), to == std::string::npos ? to : to - from - begin.size());
}

inline std::string XmlText(const std::string& plain) {
  std::string text;
  for (const char c : plain) {
    text += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '"' ? "&quot;" : std::string(1, c);
  }
  return text;
}

template <typename Map>
inline std::string Value(const Map& map, const std::string& name) {
  const auto found = map.find(name);
  return found == map.end() ? "" : found->second;
}

}  // namespace cvxq::fake_s3

#endif  // CVXQ_TESTS_STORAGE_FAKE_S3_TEXT_H_
