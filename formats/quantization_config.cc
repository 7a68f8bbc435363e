#include "formats/quantization_config.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

using nlohmann::json;
using Layout = StoredScheme::Layout;

constexpr int64_t kLargestGroup = int64_t{1} << 31;

Status Broken(const std::string& what) {
  return absl::DataLossError(absl::StrCat("quantization_config ", what, "; get the file again"));
}

Status Unknown(const std::string& what) {
  return absl::UnimplementedError(absl::StrCat("quantization_config ", what, " is not supported"));
}

// A value as it is printed in messages.
std::string Text(const json& value) {
  return Quoted(value.is_string() ? value.get<std::string>()
                                  : value.dump(-1, ' ', true, json::error_handler_t::replace));
}

// Fields; null is as good as none.
const json* Find(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

StatusOr<std::string> String(const json& object, const char* name, const std::string& missing) {
  const json* found = Find(object, name);
  if (found == nullptr) return missing;
  if (!found->is_string()) return Broken(absl::StrCat("has a ", name, " that is no string"));
  return found->get<std::string>();
}

StatusOr<bool> Bool(const json& object, const char* name, bool missing) {
  const json* found = Find(object, name);
  if (found == nullptr) return missing;
  if (!found->is_boolean())
    return Broken(absl::StrCat("has a ", name, " that is not true or false"));
  return found->get<bool>();
}

StatusOr<int64_t> Integer(const json& object, const char* name, std::optional<int64_t> missing,
                          int64_t least, int64_t most) {
  const json* found = Find(object, name);
  if (found == nullptr && missing) return *missing;
  if (found == nullptr) return Broken(absl::StrCat("has no ", name));
  if (!found->is_number_integer() || found->get<int64_t>() < least ||
      found->get<int64_t>() > most ||
      (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(most))) {
    return Broken(
        absl::StrCat("has ", name, " ", Text(*found), ", not from ", least, " to ", most));
  }
  return found->get<int64_t>();
}

// Fields that say something about the model's computation that is not done here.
Status RefuseFields(const json& object, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const json* found = Find(object, name);
    if (found != nullptr && !found->empty()) return Unknown(absl::StrCat("with ", name));
  }
  return absl::OkStatus();
}

StatusOr<StoredScheme> ParseWeights(const json& args, const std::string& format) {
  if (!args.is_object()) return Broken("has a group whose weights are no object");
  StoredScheme scheme;
  CVXQ_ASSIGN_OR_RETURN(const std::string type, String(args, "type", "int"));
  CVXQ_ASSIGN_OR_RETURN(const int64_t bits, Integer(args, "num_bits", 8, 1, 64));
  CVXQ_ASSIGN_OR_RETURN(scheme.symmetric, Bool(args, "symmetric", true));
  CVXQ_ASSIGN_OR_RETURN(int64_t group, Integer(args, "group_size", 0, -1, kLargestGroup));
  if (group == -1) group = 0;
  CVXQ_ASSIGN_OR_RETURN(const std::string strategy,
                        String(args, "strategy", group > 0 ? "group" : "tensor"));
  CVXQ_RETURN_IF_ERROR(RefuseFields(args, {"block_structure"}));
  if (const json* order = Find(args, "actorder");
      order != nullptr && *order != "weight" && *order != "static" && *order != false) {
    return Unknown(absl::StrCat("with actorder ", Text(*order)));
  }
  scheme.bits = static_cast<int>(bits);
  const bool grouped = strategy == "group" || strategy == "tensor_group";
  if (!grouped && strategy != "channel" && strategy != "tensor") {
    return Unknown(absl::StrCat("with the strategy ", Quoted(strategy)));
  }
  if (grouped && group < 1) return Broken("has a group strategy without group_size");
  scheme.group = grouped ? group : 0;
  const bool is_int = type == "int", is_float = type == "float";
  if (format == "pack-quantized" && is_int && bits <= 8 && strategy != "tensor") {
    scheme.layout = Layout::kPackedInt;
  } else if (format == "int-quantized" && is_int && bits == 8) {
    scheme.layout = Layout::kInt8;
  } else if ((format == "float-quantized" || format == "naive-quantized") && is_float &&
             bits == 8 && scheme.symmetric && !grouped) {
    scheme.layout = Layout::kFp8;
  } else if (format == "nvfp4-pack-quantized" && is_float && bits == 4 && scheme.symmetric &&
             group == 16) {
    scheme.layout = Layout::kNvfp4;
  } else if (format == "mxfp4-pack-quantized" && is_float && bits == 4 && scheme.symmetric &&
             group == 32) {
    scheme.layout = Layout::kMxfp4;
  } else {
    return Unknown(absl::StrCat("with the format ", Quoted(format), " for ", Quoted(type), " of ",
                                bits, " bits, strategy ", Quoted(strategy), ", group_size ",
                                group));
  }
  return scheme;
}

}  // namespace

std::string SchemeName(const StoredScheme& scheme) {
  switch (scheme.layout) {
    case Layout::kFp8:
      return "fp8";
    case Layout::kNvfp4:
      return "nvfp4";
    case Layout::kMxfp4:
      return "mxfp4";
    default:
      return absl::StrCat("int", scheme.bits, scheme.symmetric ? "" : "a",
                          scheme.group > 0 ? absl::StrCat("_g", scheme.group) : "_channel");
  }
}

bool QuantizationConfig::Target::Matches(const std::string& linear) const {
  if (every || name == linear) return true;
  if (!expression) return false;
  bool matches = false;
  tokenization::MatchRegion region;
  expression->ForEachRange(linear, region, [&](size_t begin, size_t, bool is_match) {
    matches = matches || (is_match && begin == 0);
  });
  return matches;
}

StatusOr<QuantizationConfig::Target> QuantizationConfig::ParseTarget(std::string text) {
  Target target;
  if (text.starts_with("re:")) {
    StatusOr<tokenization::Pattern> pattern =
        tokenization::Pattern::Regex(absl::StrCat("\\A(?:", text.substr(3), ")"));
    if (!pattern.ok()) {
      return Broken(absl::StrCat("has ", Quoted(text), ": ", pattern.status().message()));
    }
    target.expression = *std::move(pattern);
  } else {
    target.every = text == "Linear";
    target.name = std::move(text);
  }
  return target;
}

StatusOr<QuantizationConfig> QuantizationConfig::Parse(const json& config,
                                                       const std::string& where) {
  QuantizationConfig parsed;
  parsed.where_ = where;
  const auto parse = [&]() -> Status {
    if (!config.is_object()) return Broken("is no object");
    CVXQ_ASSIGN_OR_RETURN(parsed.method_, String(config, "quant_method", ""));
    if (parsed.method_ == "compressed-tensors") return parsed.ParseCompressed(config);
    if (parsed.method_ == "gptq") return parsed.ParseGptq(config);
    if (parsed.method_ == "awq") return parsed.ParseAwq(config);
    return Unknown(absl::StrCat("with quant_method ", Quoted(parsed.method_)));
  };
  if (const Status status = parse(); !status.ok()) {
    return Status(status.code(), absl::StrCat(where, ": ", status.message()));
  }
  return parsed;
}

Status QuantizationConfig::ParseCompressed(const json& config) {
  CVXQ_RETURN_IF_ERROR(
      RefuseFields(config, {"kv_cache_scheme", "sparsity_config", "transform_config"}));
  CVXQ_ASSIGN_OR_RETURN(const std::string status,
                        String(config, "quantization_status", "compressed"));
  if (status != "compressed") {
    return Unknown(absl::StrCat("with quantization_status ", Quoted(status)));
  }
  CVXQ_ASSIGN_OR_RETURN(const std::string format, String(config, "format", ""));
  if (const json* ignore = Find(config, "ignore")) {
    if (!ignore->is_array()) return Broken("has an ignore that is no list");
    for (const json& entry : *ignore) {
      if (!entry.is_string()) return Broken("ignores something that is no string");
      CVXQ_ASSIGN_OR_RETURN(Target target, ParseTarget(entry.get<std::string>()));
      rules_.push_back({std::move(target), std::nullopt});
    }
  }
  const json* groups = Find(config, "config_groups");
  if (groups == nullptr || !groups->is_object()) return Broken("has no config_groups");
  // Names go before expressions, and these before classes.
  std::array<std::vector<Rule>, 3> by_kind;
  for (const auto& [name, group] : groups->items()) {
    if (!group.is_object()) return Unknown(absl::StrCat("with the group ", Quoted(name)));
    CVXQ_RETURN_IF_ERROR(RefuseFields(group, {"input_activations", "output_activations"}));
    const json* weights = Find(group, "weights");
    const json* targets = Find(group, "targets");
    if (weights == nullptr || targets == nullptr || !targets->is_array()) {
      return Broken(absl::StrCat("has the group ", Quoted(name), " without weights or targets"));
    }
    CVXQ_ASSIGN_OR_RETURN(const std::string own_format, String(group, "format", format));
    CVXQ_ASSIGN_OR_RETURN(const StoredScheme scheme, ParseWeights(*weights, own_format));
    for (const json& entry : *targets) {
      if (!entry.is_string()) return Broken("targets something that is no string");
      CVXQ_ASSIGN_OR_RETURN(Target target, ParseTarget(entry.get<std::string>()));
      const int kind = target.every ? 2 : target.expression ? 1 : 0;
      by_kind[kind].push_back({std::move(target), scheme});
    }
  }
  for (std::vector<Rule>& rules : by_kind) {
    for (Rule& rule : rules) rules_.push_back(std::move(rule));
  }
  return absl::OkStatus();
}

Status QuantizationConfig::ParseGptq(const json& config) {
  CVXQ_ASSIGN_OR_RETURN(const std::string version, String(config, "checkpoint_format", "gptq"));
  if (version != "gptq" && version != "gptq_v2") {
    return Unknown(absl::StrCat("with checkpoint_format ", Quoted(version)));
  }
  CVXQ_ASSIGN_OR_RETURN(const std::string word, String(config, "pack_dtype", "int32"));
  if (word != "int32") return Unknown(absl::StrCat("with pack_dtype ", Quoted(word)));
  // Fills bits and group of `scheme` from an object that may leave them out.
  const auto fill = [](const json& from, bool must, StoredScheme& scheme) -> Status {
    const std::optional<int64_t> bits_before = scheme.bits, group_before = scheme.group;
    CVXQ_ASSIGN_OR_RETURN(const int64_t bits,
                          Integer(from, "bits", must ? std::nullopt : bits_before, 1, 64));
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
      return Unknown(absl::StrCat("with GPTQ of ", bits, " bits"));
    }
    CVXQ_ASSIGN_OR_RETURN(const int64_t group,
                          Integer(from, "group_size", group_before, -1, kLargestGroup));
    scheme.bits = static_cast<int>(bits);
    scheme.group = std::max<int64_t>(group, 0);
    return absl::OkStatus();
  };
  StoredScheme base{.layout = Layout::kGptq, .one_less = version == "gptq"};
  CVXQ_RETURN_IF_ERROR(fill(config, /*must=*/true, base));
  CVXQ_ASSIGN_OR_RETURN(base.symmetric, Bool(config, "sym", true));
  if (const json* dynamic = Find(config, "dynamic")) {
    if (!dynamic->is_object()) return Broken("has a dynamic that is no object");
    for (const auto& [pattern, rule] : dynamic->items()) {
      const bool skip = pattern.starts_with("-:");
      if (!rule.is_object()) return Broken("has a dynamic rule that is no object");
      const std::string expression =
          skip || pattern.starts_with("+:") ? pattern.substr(2) : pattern;
      CVXQ_ASSIGN_OR_RETURN(Target target, ParseTarget("re:" + expression));
      StoredScheme scheme = base;
      if (!skip) CVXQ_RETURN_IF_ERROR(fill(rule, /*must=*/false, scheme));
      rules_.push_back({std::move(target), skip ? std::nullopt : std::optional(scheme)});
    }
  }
  rules_.push_back({{.name = "", .expression = std::nullopt, .every = true}, base});
  return absl::OkStatus();
}

Status QuantizationConfig::ParseAwq(const json& config) {
  CVXQ_ASSIGN_OR_RETURN(const std::string version, String(config, "version", "gemm"));
  if (version != "gemm" && version != "GEMM") {
    return Unknown(absl::StrCat("with AWQ's version ", Quoted(version)));
  }
  CVXQ_ASSIGN_OR_RETURN(const int64_t bits, Integer(config, "bits", std::nullopt, 1, 64));
  if (bits != 4) return Unknown(absl::StrCat("with AWQ of ", bits, " bits"));
  StoredScheme scheme{.layout = Layout::kAwq, .symmetric = false};
  CVXQ_ASSIGN_OR_RETURN(scheme.group,
                        Integer(config, "group_size", std::nullopt, -1, kLargestGroup));
  scheme.group = std::max<int64_t>(scheme.group, 0);
  rules_.push_back({{.name = "", .expression = std::nullopt, .every = true}, scheme});
  return absl::OkStatus();
}

StatusOr<StoredScheme> QuantizationConfig::Of(const std::string& linear) const {
  for (const Rule& rule : rules_) {
    if (!rule.target.Matches(linear)) continue;
    if (rule.scheme) return *rule.scheme;
    break;
  }
  return absl::DataLossError(absl::StrCat(where_, ": quantization_config does not describe ",
                                          Quoted(linear), ", which is stored quantised"));
}

}  // namespace cvxq
