// UTF-8 by hand (it is the fast path of every Encode), character facts from utf8proc and Oniguruma.
#include "model/tokenizer_unicode.h"

#include <oniguruma.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace cvxq::tokenization {
namespace {

constexpr auto kNfc = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
constexpr char kReplacement[] = "\xef\xbf\xbd";

// Bytes from `at` on that are ASCII, found eight at a time.
size_t AsciiRun(std::string_view text, size_t at) {
  size_t i = at;
  for (uint64_t word; i + 8 <= text.size(); i += 8) {
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<uint8_t>(text[i]) < 0x80) ++i;
  return i - at;
}

int CombiningClass(int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Decomposes, orders and composes one run. utf8proc_map does the same, but its ordering is
// quadratic in the number of combining marks in a row.
void AppendNfc(std::string_view run, std::string* out) {
  std::vector<int32_t> codes;
  codes.reserve(run.size());
  for (size_t at = 0; at < run.size();) {
    const Utf8Char c = CharAt(run, at);
    at += c.size;
    int32_t parts[32];  // no canonical decomposition has more than four characters
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<int32_t>(c.code), parts, 32, kNfc, &boundary);
    if (count < 1 || count > 32) {
      codes.push_back(static_cast<int32_t>(c.code));
    } else {
      codes.insert(codes.end(), parts, parts + count);
    }
  }
  for (auto mark = codes.begin(); mark != codes.end();) {
    const auto is_mark = [](int32_t code) { return CombiningClass(code) != 0; };
    mark = std::find_if(mark, codes.end(), is_mark);
    const auto end = std::find_if_not(mark, codes.end(), is_mark);
    std::stable_sort(mark, end,
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    mark = end;
  }
  const auto length =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), kNfc);
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    AppendUtf8(static_cast<uint32_t>(codes[static_cast<size_t>(i)]), out);
  }
}

}  // namespace

Utf8Part FirstPart(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead < 0xc2 || lead > 0xf4) return {0, 1, false};
  const int size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte is what rules out overlong forms, surrogates and codes past U+10FFFF.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (int i = 1; i < size; ++i) {
    if (static_cast<size_t>(i) == text.size() || byte(i) < (i == 1 ? low : 0x80) ||
        byte(i) > (i == 1 ? high : 0xbf)) {
      return {0, i, false};
    }
  }
  return {CharAt(text, 0).code, size, true};
}

Utf8Char LastChar(std::string_view valid) {
  size_t at = valid.size() - 1;
  while ((static_cast<uint8_t>(valid[at]) & 0xc0) == 0x80) --at;
  return CharAt(valid, at);
}

void AppendUtf8(uint32_t code, std::string* out) {
  const auto add = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xc0 | code >> 6);
    add(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    add(0xe0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3f));
    add(0x80 | (code & 0x3f));
  } else {
    add(0xf0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3f));
    add(0x80 | (code >> 6 & 0x3f));
    add(0x80 | (code & 0x3f));
  }
}

bool IsValidUtf8(std::string_view text) {
  for (size_t at = AsciiRun(text, 0); at < text.size(); at += AsciiRun(text, at)) {
    const Utf8Part part = FirstPart(text.substr(at));
    if (!part.valid) return false;
    at += part.size;
  }
  return true;
}

std::string RepairUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Part part = FirstPart(text.substr(at));
    out.append(part.valid ? text.substr(at, part.size) : std::string_view(kReplacement));
    at += part.size;
  }
  return out;
}

std::string ToNfc(std::string_view valid) {
  // ASCII never changes, but the last ASCII character before others may take up a mark.
  std::string out;
  out.reserve(valid.size());
  for (size_t at = 0; at < valid.size();) {
    size_t ascii = AsciiRun(valid, at);
    if (at + ascii == valid.size()) {
      out.append(valid.substr(at));
      break;
    }
    if (ascii > 0) --ascii;
    out.append(valid.substr(at, ascii));
    at += ascii;
    size_t end = at + 1;
    while (end < valid.size() && static_cast<uint8_t>(valid[end]) >= 0x80) ++end;
    AppendNfc(valid.substr(at, end - at), &out);
    at = end;
  }
  return out;
}

bool IsNumber(uint32_t code) {
  const auto category = utf8proc_category(static_cast<int32_t>(code));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsWordChar(uint32_t code) {
  switch (utf8proc_category(static_cast<int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_SO:  // circled and squared letters are alphabetic
      return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
             (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
    default:
      return code == 0x200c || code == 0x200d;  // the joiners
  }
}

bool IsWhitespace(uint32_t code) {
  return ONIGENC_IS_CODE_CTYPE(ONIG_ENCODING_UTF8, code, ONIGENC_CTYPE_SPACE) != 0;
}

}  // namespace cvxq::tokenization
