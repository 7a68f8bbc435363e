#include "formats/int_types.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/int_fit.h"

namespace cvxq {
namespace {

constexpr std::array<std::pair<std::string_view, int64_t>, 4> kGroupSuffixes = {
    {{"_g32", 32}, {"_g64", 64}, {"_g128", 128}, {"_channel", 0}}};

}  // namespace

std::optional<IntName> ParseIntName(std::string_view name) {
  if (!name.starts_with("int") || name.size() < 4) return std::nullopt;
  IntName parsed;
  parsed.bits = name[3] - '0';
  if (parsed.bits < 2 || parsed.bits > 8) return std::nullopt;
  name.remove_prefix(4);
  if (name.starts_with("a")) {
    parsed.symmetric = false;
    name.remove_prefix(1);
  }
  if (name.empty()) return parsed;
  for (const auto& [suffix, group] : kGroupSuffixes) {
    if (name != suffix) continue;
    parsed.group = group;
    return parsed;
  }
  return std::nullopt;
}

NamedIntSpec SpecFor(const IntName& name, int64_t group, int64_t columns, DType scale) {
  const int64_t asked = name.group.value_or(group);
  const bool channel = asked <= 0 || columns % asked != 0;
  NamedIntSpec named;
  named.name = absl::StrCat("int", name.bits, name.symmetric ? "" : "a");
  if (channel) {
    named.name += "_channel";
  } else if (name.group) {
    absl::StrAppend(&named.name, "_g", asked);
  }
  named.spec = {.bits = name.bits,
                .symmetric = name.symmetric,
                .group = channel ? columns : asked,
                .channel = channel,
                .scale = scale};
  return named;
}

void NoteWholeRows(int64_t asked, const NamedIntSpec& named, int64_t columns,
                   std::set<std::string>& reasons) {
  if (asked < 1 || !named.spec.channel) return;
  reasons.insert(absl::StrCat(columns, " columns do not divide into groups of ", asked,
                              ": one scale for a row"));
}

uint16_t ScaleField(const uint8_t* fields) {
  return static_cast<uint16_t>(fields[0] | fields[1] << 8);
}

IntType::IntType(std::string name, const IntSpec& spec, CountBytes count)
    : name_(std::move(name)), spec_(spec), count_(count) {
  const int first = spec.symmetric ? -(1 << (spec.bits - 1)) : 0;
  for (int k = 0; k < 1 << spec.bits; ++k) levels_.push_back(static_cast<float>(first + k));
}

void IntType::Fit(const float* x, const float* weight, int64_t blocks, float matrix_scale,
                  uint8_t* fields, float* step, float* offset) const {
  IntSearch search(spec_.bits, spec_.scale, spec_.group);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = b * spec_.group;
    const IntFit fit = spec_.symmetric ? search.Symmetric(x + at, weight + at)
                                       : search.Asymmetric(x + at, weight + at);
    uint8_t* field = fields + b * field_bytes();
    field[0] = static_cast<uint8_t>(fit.scale);
    field[1] = static_cast<uint8_t>(fit.scale >> 8);
    if (!spec_.symmetric) field[2] = fit.zero;
  }
  Grids(fields, blocks, matrix_scale, step, offset);
}

void IntType::Grids(const uint8_t* fields, int64_t blocks, float /*matrix_scale*/, float* step,
                    float* offset) const {
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* field = fields + b * field_bytes();
    step[b] = ScaleValue(ScaleField(field), spec_.scale);
    if (!spec_.symmetric) offset[b] = -static_cast<float>(ZeroField(field)) * step[b];
  }
}

}  // namespace cvxq
