#include "base/size.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"

namespace cvxq {
namespace {

struct Unit {
  absl::string_view name;
  int64_t bytes;
};
constexpr Unit kUnits[] = {
    {"", 1},
    {"B", 1},
    {"KB", 1000},
    {"MB", 1000'000},
    {"GB", 1000'000'000},
    {"TB", 1000'000'000'000},
    {"KiB", int64_t{1} << 10},
    {"MiB", int64_t{1} << 20},
    {"GiB", int64_t{1} << 30},
    {"TiB", int64_t{1} << 40},
};

// Eighteen digits stay far below the 127 bits in which number * unit is computed.
constexpr size_t kMaxDigits = 18;

}  // namespace

StatusOr<int64_t> ParseByteSize(std::string_view argument) {
  // Debian's Abseil has a string_view of its own.
  const absl::string_view text(argument.data(), argument.size());
  const auto refuse = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text,
                     "\" is not a size: write a number and KiB, MiB, GiB, TiB, KB, MB, GB or TB, "
                     "for instance 1.5GiB"));
  };
  const absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  size_t i = 0, digits = 0;
  __int128 number = 0, divisor = 1;
  bool fraction = false;
  for (; i < trimmed.size(); ++i) {
    const char c = trimmed[i];
    if (c == '.' && !fraction && digits > 0) {
      fraction = true;
    } else if (absl::ascii_isdigit(static_cast<unsigned char>(c))) {
      if (++digits > kMaxDigits) return refuse();
      number = number * 10 + (c - '0');
      if (fraction) divisor *= 10;
    } else {
      break;
    }
  }
  if (digits == 0 || trimmed[i - 1] == '.') return refuse();
  const absl::string_view suffix = absl::StripLeadingAsciiWhitespace(trimmed.substr(i));
  const auto* unit = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const Unit& u) {
    return absl::EqualsIgnoreCase(u.name, suffix);
  });
  if (unit == std::end(kUnits) || (fraction && unit->bytes == 1)) return refuse();
  const __int128 bytes = number * unit->bytes / divisor;
  if (bytes > std::numeric_limits<int64_t>::max()) return refuse();
  return static_cast<int64_t>(bytes);
}

std::string FormatBytes(int64_t bytes) {
  if (std::abs(bytes) < 1024) return absl::StrCat(bytes, " B");
  static constexpr const char* kNames[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 999.5 would be shown as four digits: such a value goes to the next unit.
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kNames)) {
    value /= 1024;
    ++unit;
  }
  const double magnitude = std::abs(value);
  const int decimals = magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0;
  return absl::StrFormat("%.*f %s", decimals, value, kNames[unit]);
}

std::string FormatDuration(double seconds) {
  if (!(seconds > 0)) seconds = 0;
  if (seconds < 9.995) return absl::StrFormat("%.2f s", seconds);
  if (seconds < 59.95) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::min(seconds + 0.5, 9e15));
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  const int64_t minutes = (whole + 30) / 60;
  if (minutes < 24 * 60) return absl::StrFormat("%d h %02d min", minutes / 60, minutes % 60);
  const int64_t hours = (minutes + 30) / 60;
  return absl::StrFormat("%d d %02d h", hours / 24, hours % 24);
}

}  // namespace cvxq
