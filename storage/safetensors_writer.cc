#include <limits>
#include <set>
#include <utility>

#include "nlohmann/json.hpp"
#include "storage/atomic_file.h"
#include "storage/errors.h"
#include "storage/safetensors.h"
#include "storage/safetensors_header.h"

namespace cvxq {
namespace {

constexpr int64_t kDataAlignment = 64;

std::string JsonString(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool IsUtf8(const std::string& text) {
  try {
    nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    return false;
  }
  return true;
}

// The first bytes of the file up to the data section. Tensors stand in the order given, so the
// same call makes the same bytes.
std::string Prefix(const std::vector<TensorEntry>& entries,
                   const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  const auto add = [&](const std::string& name, const std::string& value) {
    absl::StrAppend(&json, json.size() > 1 ? "," : "", JsonString(name), ":", value);
  };
  if (!metadata.empty()) {
    std::string list;
    for (const auto& [key, value] : metadata) {
      absl::StrAppend(&list, list.empty() ? "" : ",", JsonString(key), ":", JsonString(value));
    }
    add("__metadata__", absl::StrCat("{", list, "}"));
  }
  int64_t offset = 0;
  for (const TensorEntry& entry : entries) {
    const int64_t end = offset + entry.shape.elements() * ByteSize(entry.dtype);
    std::string extents;
    for (const int64_t extent : entry.shape.extents()) {
      absl::StrAppend(&extents, extents.empty() ? "" : ",", extent);
    }
    add(entry.name, absl::StrCat("{\"dtype\":\"", std::string(Name(entry.dtype)), "\",\"shape\":[",
                                 extents, "],\"data_offsets\":[", offset, ",", end, "]}"));
    offset = end;
  }
  json += "}";
  while ((8 + json.size()) % kDataAlignment != 0) json += ' ';
  std::string prefix;
  for (int i = 0; i < 8; ++i) prefix += static_cast<char>(json.size() >> (8 * i));
  return prefix + json;
}

int64_t DataBytes(const std::vector<TensorEntry>& entries) {
  int64_t total = 0;
  for (const TensorEntry& entry : entries) total += entry.shape.elements() * ByteSize(entry.dtype);
  return total;
}

// kInvalidArgument for entries that no reader would take.
Status CheckEntries(const std::string& path, const std::vector<TensorEntry>& entries,
                    const std::map<std::string, std::string>& metadata) {
  const auto wrong = [&](const std::string& name, const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write ", path, ": ", Quoted(name), " ", what));
  };
  std::set<std::string_view> names;
  int64_t total = 0;
  for (const TensorEntry& entry : entries) {
    if (!names.insert(entry.name).second) return wrong(entry.name, "is declared twice");
    if (entry.name == "__metadata__") return wrong(entry.name, "cannot be a tensor's name");
    if (!IsUtf8(entry.name)) return wrong(entry.name, "is no valid UTF-8");
    int64_t bytes = 1;
    bool overflow = false;
    for (const int64_t extent : entry.shape.extents()) {
      if (extent < 0) return wrong(entry.name, "has a negative extent");
      overflow = overflow || __builtin_mul_overflow(bytes, extent, &bytes);
    }
    if (overflow || __builtin_mul_overflow(bytes, ByteSize(entry.dtype), &bytes) ||
        __builtin_add_overflow(total, bytes, &total)) {
      return wrong(entry.name, "is too large");
    }
  }
  for (const auto& [key, value] : metadata) {
    if (!IsUtf8(key) || !IsUtf8(value)) return wrong(key, "has metadata that is no valid UTF-8");
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<TensorEntry> entries,
    const std::map<std::string, std::string>& metadata) {
  CVXQ_RETURN_IF_ERROR(CheckEntries(path, entries, metadata));
  const std::string prefix = Prefix(entries, metadata);
  if (static_cast<int64_t>(prefix.size()) - 8 > kLargestSafetensorsHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write ", path, ": its header of ", prefix.size(),
                     " bytes is too large; write more than one file"));
  }
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter);
  writer->path_ = path;
  writer->expected_ = DataBytes(entries);
  CVXQ_ASSIGN_OR_RETURN(writer->file_, AtomicFile::Create(path));
  CVXQ_RETURN_IF_ERROR(writer->file_->Write(prefix));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() = default;

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (size > expected_ - written_) {
    return absl::InternalError(absl::StrCat("more bytes come for ", path_, " than the ", expected_,
                                            " that its tensors were declared to have"));
  }
  CVXQ_RETURN_IF_ERROR(file_->Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  written_ += size;
  return absl::OkStatus();
}

Status SafetensorsWriter::Finish() {
  if (written_ != expected_) {
    return absl::InternalError(absl::StrCat("only ", written_, " of ", expected_,
                                            " bytes came for the tensors of ", path_));
  }
  return file_->Commit();
}

int64_t SafetensorsFileSize(const std::vector<TensorEntry>& entries,
                            const std::map<std::string, std::string>& metadata) {
  return static_cast<int64_t>(Prefix(entries, metadata).size()) + DataBytes(entries);
}

}  // namespace cvxq
