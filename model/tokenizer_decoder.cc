// The decoder's steps, each from a list of strings to a list of strings.
#include "model/tokenizer_decoder.h"

#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "model/tokenizer_bytes.h"
#include "model/tokenizer_unicode.h"

namespace cvxq::tokenization {
namespace {

using Tokens = std::vector<std::string>;

// The bytes of a token all in GPT-2's alphabet; any other token stands for itself.
void AppendBytes(const std::string& token, std::string* out) {
  const size_t before = out->size();
  for (size_t at = 0; at < token.size();) {
    const Utf8Char c = CharAt(token, at);
    at += static_cast<size_t>(c.size);
    const int byte =
        c.code < kByteAlphabet.byte_of_code.size() ? kByteAlphabet.byte_of_code[c.code] : -1;
    if (byte < 0) {
      out->resize(before);
      out->append(token);
      return;
    }
    out->push_back(static_cast<char>(byte));
  }
}

Tokens Apply(const ByteLevelDecode&, Tokens tokens) {
  std::string bytes;
  for (const std::string& token : tokens) AppendBytes(token, &bytes);
  return {IsValidUtf8(bytes) ? std::move(bytes) : RepairUtf8(bytes)};
}

Tokens Apply(const ByteFallbackDecode&, Tokens tokens) {
  Tokens out;
  std::string run;
  const auto end_run = [&] {
    if (run.empty()) return;
    if (IsValidUtf8(run)) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), "\xef\xbf\xbd");
    }
    run.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = ByteOfToken(token)) {
      run.push_back(*byte);
    } else {
      end_run();
      out.push_back(std::move(token));
    }
  }
  end_run();
  return out;
}

Tokens Apply(const FuseDecode&, Tokens tokens) { return {absl::StrJoin(tokens, "")}; }

Tokens Apply(const StripDecode& step, Tokens tokens) {
  for (std::string& token : tokens) {
    std::string_view rest = token;
    for (size_t i = 0; i < step.start && rest.starts_with(step.content); ++i) {
      rest.remove_prefix(step.content.size());
    }
    for (size_t i = 0; i < step.stop && rest.ends_with(step.content); ++i) {
      rest.remove_suffix(step.content.size());
    }
    token = std::string(rest);
  }
  return tokens;
}

Tokens Apply(const MetaspaceDecode& step, Tokens tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const char* space = i == 0 && step.prepended ? "" : " ";
    tokens[i] = absl::StrReplaceAll(tokens[i], {{step.replacement, space}});
  }
  return tokens;
}

Tokens Apply(const ReplaceStep& step, Tokens tokens) {
  MatchRegion region;
  for (std::string& token : tokens) token = step.Apply(token, region);
  return tokens;
}

}  // namespace

std::string DecodeTokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens) {
  for (const DecoderStep& step : steps) {
    tokens = std::visit([&](const auto& s) { return Apply(s, std::move(tokens)); }, step);
  }
  return absl::StrJoin(tokens, "");
}

std::optional<char> ByteOfToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token.back() != '>') return std::nullopt;
  int value = 0;
  for (const char digit : token.substr(3, 2)) {
    const int number = digit >= '0' && digit <= '9'   ? digit - '0'
                       : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                       : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                                      : -1;
    if (number < 0) return std::nullopt;
    value = value * 16 + number;
  }
  return static_cast<char>(value);
}

}  // namespace cvxq::tokenization
