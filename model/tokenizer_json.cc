// Checked access to JSON.
#include "model/tokenizer_json.h"

#include "absl/strings/escaping.h"

namespace cvxq::tokenization {
namespace {

using nlohmann::json;

constexpr int kDeepestSequence = 8;

Status Walk(const json& value, const char* list_name, const std::string& where, int depth,
            const std::function<Status(const json&, const std::string&)>& visit) {
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_object()) return Broken(where, "it is not an object");
  CVXQ_ASSIGN_OR_RETURN(const std::string type, StringField(value, "type", where));
  if (type != "Sequence") return visit(value, type);
  if (depth == kDeepestSequence) return Broken(where, "sequences are nested too deep");
  CVXQ_ASSIGN_OR_RETURN(const json* list, ArrayField(value, list_name, where));
  for (const json& member : *list) {
    CVXQ_RETURN_IF_ERROR(Walk(member, list_name, where, depth + 1, visit));
  }
  return absl::OkStatus();
}

}  // namespace

const json* Field(const json& value, const char* name) {
  if (!value.is_object()) return nullptr;
  const auto found = value.find(name);
  return found == value.end() || found->is_null() ? nullptr : &*found;
}

StatusOr<bool> BoolField(const json& value, const char* name, bool fallback,
                         const std::string& where) {
  const json* field = Field(value, name);
  if (field == nullptr) return fallback;
  if (!field->is_boolean()) return Broken(where, absl::StrCat(name, " is not true or false"));
  return field->get<bool>();
}

StatusOr<std::string> StringField(const json& value, const char* name, const std::string& where) {
  const json* field = Field(value, name);
  if (field == nullptr) return Broken(where, absl::StrCat(name, " is missing"));
  if (!field->is_string()) return Broken(where, absl::StrCat(name, " is not a string"));
  return field->get<std::string>();
}

StatusOr<const json*> ArrayField(const json& value, const char* name, const std::string& where) {
  const json* field = Field(value, name);
  if (field == nullptr) return Broken(where, absl::StrCat(name, " is missing"));
  if (!field->is_array()) return Broken(where, absl::StrCat(name, " is not an array"));
  return field;
}

StatusOr<int32_t> IdOf(const json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(kLargestId)) {
    return Broken(where, absl::StrCat("an id is not an integer from 0 to ", kLargestId));
  }
  return value.get<int32_t>();
}

Status Broken(const std::string& where, const std::string& what) {
  return absl::DataLossError(absl::StrCat(where, ": ", what));
}

std::string Quote(const std::string& text) {
  constexpr size_t kMost = 80;
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kMost)), "'");
}

Status Unsupported(const std::string& where, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(where, ": ", what, " is not supported"));
}

Status ForEachComponent(const json& value, const char* list_name, const std::string& where,
                        const std::function<Status(const json&, const std::string&)>& visit) {
  return Walk(value, list_name, where, 0, visit);
}

}  // namespace cvxq::tokenization
