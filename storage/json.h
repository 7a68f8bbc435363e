// Reading JSON files that may be broken or hostile.
#ifndef CVXQ_STORAGE_JSON_H_
#define CVXQ_STORAGE_JSON_H_

#include <string>
#include <string_view>

#include "base/status.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// Parses JSON in UTF-8; kDataLoss names `path`. Values nested deeper than 100 levels are refused,
// so that copying or printing the result cannot exhaust the stack.
StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& path);

// ReadFile and ParseJson.
StatusOr<nlohmann::json> ReadJson(const std::string& path);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_JSON_H_
