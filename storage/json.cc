#include "storage/json.h"

#include "storage/files.h"

namespace cvxq {

using nlohmann::json;

StatusOr<json> ParseJson(std::string_view text, const std::string& path) {
  constexpr int kDeepest = 100;
  const auto broken = [&](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", path, ": ", what, "; mend it or download it again"));
  };
  // The JSON library takes a zero byte for the end of its input.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return broken(absl::StrCat("it holds a zero byte at byte ", zero));
  }
  bool too_deep = false;
  // `depth` counts the lists and objects around the one that begins.
  const auto keep = [&](int depth, json::parse_event_t event, json&) {
    using Event = json::parse_event_t;
    const bool begins = event == Event::object_start || event == Event::array_start;
    too_deep = too_deep || (begins && depth >= kDeepest);
    return !too_deep;
  };
  try {
    json value = json::parse(text.begin(), text.end(), keep);
    if (too_deep) return broken("its values are nested too deep");
    return value;
  } catch (const json::parse_error& error) {
    return broken(absl::StrCat("it is no valid JSON in UTF-8 near byte ", error.byte));
  } catch (const json::exception&) {
    return broken("it holds a number out of range");
  }
}

StatusOr<json> ReadJson(const std::string& path) {
  CVXQ_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseJson(text, path);
}

}  // namespace cvxq
