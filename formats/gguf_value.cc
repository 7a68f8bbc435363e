#include "formats/gguf_value.h"

#include <array>
#include <cstring>

namespace cvxq {
namespace {

struct TypeRow {
  uint32_t type;
  GgufBlock block;
};
constexpr std::array kTypes = {
    TypeRow{0, {1, 4}},      TypeRow{1, {1, 2}},      TypeRow{2, {32, 18}},
    TypeRow{3, {32, 20}},    TypeRow{6, {32, 22}},    TypeRow{7, {32, 24}},
    TypeRow{8, {32, 34}},    TypeRow{9, {32, 36}},    TypeRow{10, {256, 84}},
    TypeRow{11, {256, 110}}, TypeRow{12, {256, 144}}, TypeRow{13, {256, 176}},
    TypeRow{14, {256, 210}}, TypeRow{15, {256, 292}}, TypeRow{16, {256, 66}},
    TypeRow{17, {256, 74}},  TypeRow{18, {256, 98}},  TypeRow{19, {256, 50}},
    TypeRow{20, {32, 18}},   TypeRow{21, {256, 110}}, TypeRow{22, {256, 82}},
    TypeRow{23, {256, 136}}, TypeRow{24, {1, 1}},     TypeRow{25, {1, 2}},
    TypeRow{26, {1, 4}},     TypeRow{27, {1, 8}},     TypeRow{28, {1, 8}},
    TypeRow{29, {256, 56}},  TypeRow{30, {1, 2}},     TypeRow{34, {256, 54}},
    TypeRow{35, {256, 66}},  TypeRow{39, {32, 17}},   TypeRow{40, {64, 36}},
    TypeRow{41, {128, 18}},  TypeRow{42, {64, 18}},
};

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

}  // namespace

int64_t GgufSizeOf(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

GgufBlock GgufBlockOf(uint32_t type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return row.block;
  }
  return {};
}

std::optional<int64_t> GgufValue::IntegerAt(const std::byte* at) const {
  switch (type_) {
    case GgufType::kU8:
      return Load<uint8_t>(at);
    case GgufType::kI8:
      return Load<int8_t>(at);
    case GgufType::kU16:
      return Load<uint16_t>(at);
    case GgufType::kI16:
      return Load<int16_t>(at);
    case GgufType::kU32:
      return Load<uint32_t>(at);
    case GgufType::kI32:
      return Load<int32_t>(at);
    case GgufType::kI64:
      return Load<int64_t>(at);
    case GgufType::kU64:
      if (const uint64_t value = Load<uint64_t>(at); value <= INT64_MAX) {
        return static_cast<int64_t>(value);
      }
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::optional<double> GgufValue::FloatAt(const std::byte* at) const {
  if (type_ == GgufType::kF32) return Load<float>(at);
  if (type_ == GgufType::kF64) return Load<double>(at);
  return std::nullopt;
}

std::optional<int64_t> GgufValue::Integer() const {
  return array_ ? std::nullopt : IntegerAt(bytes_.data());
}
std::optional<double> GgufValue::Float() const {
  return array_ ? std::nullopt : FloatAt(bytes_.data());
}
std::optional<bool> GgufValue::Bool() const {
  if (array_ || type_ != GgufType::kBool) return std::nullopt;
  return Load<uint8_t>(bytes_.data()) != 0;
}

std::optional<std::string_view> GgufValue::String() const {
  if (array_ || type_ != GgufType::kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(bytes_.data()) + 8, bytes_.size() - 8);
}

std::optional<std::vector<std::string_view>> GgufValue::Strings() const {
  if (!array_ || type_ != GgufType::kString) return std::nullopt;
  std::vector<std::string_view> all;
  all.reserve(count_);
  for (const std::byte* at = bytes_.data(); all.size() < count_; at += 8 + all.back().size()) {
    all.emplace_back(reinterpret_cast<const char*>(at) + 8, Load<uint64_t>(at));
  }
  return all;
}

std::optional<std::vector<int64_t>> GgufValue::Integers() const {
  if (!array_) return std::nullopt;
  std::vector<int64_t> all(count_);
  for (uint64_t i = 0; i < count_; ++i) {
    const auto value = IntegerAt(bytes_.data() + i * bytes_.size() / count_);
    if (!value) return std::nullopt;
    all[i] = *value;
  }
  return all;
}

std::optional<std::vector<double>> GgufValue::Floats() const {
  if (!array_) return std::nullopt;
  std::vector<double> all(count_);
  for (uint64_t i = 0; i < count_; ++i) {
    const auto value = FloatAt(bytes_.data() + i * bytes_.size() / count_);
    if (!value) return std::nullopt;
    all[i] = *value;
  }
  return all;
}

}  // namespace cvxq
