// Reading fields of a JSON object whose types are not to be trusted. A field that is absent and one
// that is null are the same. All errors are kDataLoss and start with `where`.
#ifndef CVXQ_MODEL_TOKENIZER_JSON_H_
#define CVXQ_MODEL_TOKENIZER_JSON_H_

#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "nlohmann/json.hpp"

namespace cvxq::tokenization {

// Null if `value` is not an object or lacks the field.
const nlohmann::json* Field(const nlohmann::json& value, const char* name);

StatusOr<bool> BoolField(const nlohmann::json& value, const char* name, bool fallback,
                         const std::string& where);
StatusOr<std::string> StringField(const nlohmann::json& value, const char* name,
                                  const std::string& where);
// The elements' owner; an error unless the field is an array.
StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& value, const char* name,
                                           const std::string& where);
// A token's id: an integer from 0 to kLargestId.
inline constexpr int64_t kLargestId = (int64_t{1} << 30) - 1;
StatusOr<int32_t> IdOf(const nlohmann::json& value, const std::string& where);

// The text in quotes, escaped to one short line, for messages.
std::string Quote(const std::string& text);

Status Broken(const std::string& where, const std::string& what);
Status Unsupported(const std::string& where, const std::string& what);

// Calls visit(component, type) for `value`, or for each member of it in order where it is (perhaps
// nested) {"type": "Sequence", `list_name`: [...]}. Null: no call.
Status ForEachComponent(
    const nlohmann::json& value, const char* list_name, const std::string& where,
    const std::function<Status(const nlohmann::json&, const std::string&)>& visit);

}  // namespace cvxq::tokenization

#endif  // CVXQ_MODEL_TOKENIZER_JSON_H_
