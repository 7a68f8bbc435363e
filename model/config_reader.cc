#include "model/config_reader.h"

#include <cmath>

namespace cvxq {
namespace {

constexpr int64_t kLargestSize = int64_t{1} << 30;

// A value for a message: short whatever the file holds.
std::string Shown(const nlohmann::json& value) {
  std::string text =
      value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& object, std::string where, std::string prefix)
    : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {
  if (!object_.is_object()) {
    std::string name = prefix_.empty() ? "the whole" : prefix_.substr(0, prefix_.size() - 1);
    status_ = absl::DataLossError(absl::StrCat(where_, ": ", name, " must be a JSON object"));
  }
}

void ConfigReader::Broken(const std::string& field, const std::string& text) {
  Keep(absl::DataLossError(absl::StrCat(where_, ": ", prefix_, field, " ", text)));
}

void ConfigReader::Unsupported(const std::string& field, const std::string& text) {
  Keep(absl::UnimplementedError(absl::StrCat(where_, ": ", prefix_, field, " ", text)));
}

const nlohmann::json* ConfigReader::Find(const std::string& field) const {
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(field);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::IsNull(const std::string& field) const {
  return object_.is_object() && object_.contains(field) && object_[field].is_null();
}

int64_t ConfigReader::Size(const std::string& field, std::optional<int64_t> missing) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (!missing) Broken(field, "is missing");
    return missing.value_or(1);
  }
  if (!value->is_number_integer()) {
    Broken(field, absl::StrCat("must be a whole number, not ", Shown(*value)));
    return 1;
  }
  // The largest integers are there as unsigned ones.
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= kLargestSize
                                                : value->get<int64_t>() <= kLargestSize;
  if (!fits || value->get<int64_t>() < 1) {
    Broken(field, absl::StrCat("must be from 1 to ", kLargestSize, ", not ", Shown(*value)));
    return 1;
  }
  return value->get<int64_t>();
}

int64_t ConfigReader::SizeOrNone(const std::string& field, int64_t missing) {
  return IsNull(field) || (missing == 0 && !Has(field)) ? 0 : Size(field, missing);
}

double ConfigReader::Number(const std::string& field, std::optional<double> missing) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (!missing) Broken(field, "is missing");
    return missing.value_or(1);
  }
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    Broken(field, absl::StrCat("must be a finite number, not ", Shown(*value)));
    return 1;
  }
  return value->get<double>();
}

double ConfigReader::Positive(const std::string& field, std::optional<double> missing) {
  const double value = Number(field, missing);
  if (value <= 0) {
    Broken(field, absl::StrCat("must be above 0, not ", value));
    return 1;
  }
  return value;
}

double ConfigReader::PositiveOrNone(const std::string& field, double missing) {
  return IsNull(field) || (missing == 0 && !Has(field)) ? 0 : Positive(field, missing);
}

bool ConfigReader::Bool(const std::string& field, bool missing) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return missing;
  if (!value->is_boolean()) {
    Broken(field, absl::StrCat("must be true or false, not ", Shown(*value)));
    return missing;
  }
  return value->get<bool>();
}

std::string ConfigReader::String(const std::string& field, std::optional<std::string> missing) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (!missing) Broken(field, "is missing");
    return missing.value_or("");
  }
  if (!value->is_string()) {
    Broken(field, absl::StrCat("must be a string, not ", Shown(*value)));
    return missing.value_or("");
  }
  return value->get<std::string>();
}

void ConfigReader::Expect(const std::string& field, const nlohmann::json& value) {
  const nlohmann::json* given = Find(field);
  if (given != nullptr && *given != value) {
    Unsupported(field,
                absl::StrCat("is ", Shown(*given), "; only ", Shown(value), " is supported"));
  }
}

}  // namespace cvxq
