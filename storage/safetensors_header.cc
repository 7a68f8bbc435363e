#include "storage/safetensors_header.h"

#include <limits>
#include <unordered_set>
#include <utility>

#include "nlohmann/json.hpp"
#include "storage/errors.h"

namespace cvxq {
namespace {

using nlohmann::json;

// Takes the parser's events and allows exactly the structure of a header; the first thing out of
// place ends the parse. Events rather than a tree: a tree would hide keys that come twice.
class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  SafetensorsHeader& header() { return header_; }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("true or false"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Unexpected("a fractional or too large number");
  }

  bool number_unsigned(number_unsigned_t value) override {
    std::vector<int64_t>* list = place_ == Place::kShape     ? &header_.entries.back().shape
                                 : place_ == Place::kOffsets ? &header_.entries.back().offsets
                                                             : nullptr;
    if (list == nullptr) return Unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Unexpected("a too large number");
    }
    list->push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      if (header_.metadata.try_emplace(key_, std::move(value)).second) return true;
      return Fail(absl::StrCat("the metadata key ", Quoted(key_), " comes twice"));
    }
    if (place_ != Place::kEntry || key_ != "dtype") return Unexpected("a string");
    header_.entries.back().dtype = std::move(value);
    return true;
  }

  bool key(string_t& value) override {
    key_ = std::move(value);
    if (place_ == Place::kTop && !names_.insert(key_).second) {
      return Fail(absl::StrCat("the name ", Quoted(key_), " comes twice"));
    }
    if (place_ == Place::kEntry) {
      const unsigned field = key_ == "dtype" ? 1 : key_ == "shape" ? 2 : 4;
      if (field == 4 && key_ != "data_offsets") return Fail(In("has the unknown field ", key_));
      if (fields_ & field) return Fail(In("has twice the field ", key_));
      fields_ |= field;
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && key_ == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      place_ = Place::kEntry;
      fields_ = 0;
      header_.entries.emplace_back().name = key_;
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry && fields_ != 7) {
      return Fail(absl::StrCat("tensor ", Quoted(header_.entries.back().name),
                               " lacks one of dtype, shape, data_offsets"));
    }
    place_ = place_ == Place::kTop ? Place::kStart : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kEntry || key_ == "dtype") return Unexpected("a list");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("the header is no valid JSON in UTF-8 near its byte ", position));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kEntry, kShape, kOffsets };

  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  std::string In(const char* what, const std::string& key) const {
    return absl::StrCat("tensor ", Quoted(header_.entries.back().name), " ", what, Quoted(key));
  }

  bool Unexpected(const char* what) {
    switch (place_) {
      case Place::kStart:
        return Fail(absl::StrCat("the header is ", what, ", not an object"));
      case Place::kTop:
        return Fail(absl::StrCat("the entry ", Quoted(key_), " is ", what, ", not an object"));
      case Place::kMetadata:
        return Fail(absl::StrCat("the metadata of ", Quoted(key_), " is ", what, ", not a string"));
      default:
        return Fail(absl::StrCat("tensor ", Quoted(header_.entries.back().name), " has ", what,
                                 " in its ", key_));
    }
  }

  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  std::string error_, key_;
  Place place_ = Place::kStart;
  unsigned fields_ = 0;  // of the current entry: 1 dtype, 2 shape, 4 data_offsets
};

}  // namespace

StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text) {
  if (text.empty() || text[0] != '{') {
    return absl::DataLossError("the header does not begin with {");
  }
  // The JSON library takes a zero byte for the end of its input.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return absl::DataLossError(absl::StrCat("the header holds a zero byte at its byte ", zero));
  }
  HeaderReader reader;
  if (!json::sax_parse(text.begin(), text.end(), &reader)) {
    return absl::DataLossError(reader.error());
  }
  return std::move(reader.header());
}

}  // namespace cvxq
