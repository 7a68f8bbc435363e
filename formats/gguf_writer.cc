#include "formats/gguf_writer.h"

#include <set>
#include <utility>

#include "formats/gguf_file.h"
#include "storage/atomic_file.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr uint32_t kVersion = 3;

template <typename T>
void Put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void PutString(std::string& bytes, std::string_view text) {
  Put<uint64_t>(bytes, text.size());
  bytes.append(text);
}

int64_t Padded(int64_t bytes) {
  return (bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
}

std::string Header(const GgufMetadata& metadata, const std::vector<GgufEntry>& entries) {
  std::string header = "GGUF";
  Put<uint32_t>(header, kVersion);
  Put<uint64_t>(header, entries.size());
  Put<int64_t>(header, metadata.count());
  header += metadata.bytes();
  int64_t offset = 0;
  for (const GgufEntry& entry : entries) {
    PutString(header, entry.name);
    Put<uint32_t>(header, static_cast<uint32_t>(entry.shape.rank()));
    for (int i = entry.shape.rank() - 1; i >= 0; --i) Put<int64_t>(header, entry.shape[i]);
    Put<uint32_t>(header, entry.type);
    Put<int64_t>(header, offset);
    offset += Padded(entry.bytes());
  }
  header.resize(static_cast<size_t>(Padded(static_cast<int64_t>(header.size()))), '\0');
  return header;
}

}  // namespace

void GgufMetadata::Key(const std::string& key, GgufType type) {
  PutString(bytes_, key);
  Put(bytes_, static_cast<uint32_t>(type));
  ++count_;
}

void GgufMetadata::Array(const std::string& key, GgufType type, uint64_t count) {
  Key(key, GgufType::kArray);
  Put(bytes_, static_cast<uint32_t>(type));
  Put(bytes_, count);
}

void GgufMetadata::U16(const std::string& key, uint16_t value) {
  Key(key, GgufType::kU16);
  Put(bytes_, value);
}
void GgufMetadata::U32(const std::string& key, uint32_t value) {
  Key(key, GgufType::kU32);
  Put(bytes_, value);
}
void GgufMetadata::I32(const std::string& key, int32_t value) {
  Key(key, GgufType::kI32);
  Put(bytes_, value);
}
void GgufMetadata::F32(const std::string& key, float value) {
  Key(key, GgufType::kF32);
  Put(bytes_, value);
}
void GgufMetadata::Bool(const std::string& key, bool value) {
  Key(key, GgufType::kBool);
  Put<uint8_t>(bytes_, value ? 1 : 0);
}
void GgufMetadata::String(const std::string& key, std::string_view value) {
  Key(key, GgufType::kString);
  PutString(bytes_, value);
}
void GgufMetadata::Strings(const std::string& key, const std::vector<std::string>& values) {
  Array(key, GgufType::kString, values.size());
  for (const std::string& value : values) PutString(bytes_, value);
}
void GgufMetadata::I32s(const std::string& key, const std::vector<int32_t>& values) {
  Array(key, GgufType::kI32, values.size());
  for (const int32_t value : values) Put(bytes_, value);
}
void GgufMetadata::F32s(const std::string& key, const std::vector<float>& values) {
  Array(key, GgufType::kF32, values.size());
  for (const float value : values) Put(bytes_, value);
}

void GgufMetadata::Append(const GgufMetadata& more) {
  bytes_ += more.bytes_;
  count_ += more.count_;
}

int64_t GgufEntry::bytes() const {
  const GgufBlock block = GgufBlockOf(type);
  return shape.elements() / block.elements * block.bytes;
}

int64_t GgufFileSize(int64_t metadata_bytes, const std::vector<GgufEntry>& entries) {
  constexpr int64_t kFixed = 4 + 4 + 8 + 8;          // magic, version, two counts
  constexpr int64_t kFixedOfTensor = 8 + 4 + 4 + 8;  // length of the name, rank, type, offset
  int64_t header = kFixed + metadata_bytes, data = 0;
  for (const GgufEntry& entry : entries) {
    header += kFixedOfTensor + static_cast<int64_t>(entry.name.size()) + 8 * entry.shape.rank();
    data += Padded(entry.bytes());
  }
  return Padded(header) + data;
}

StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::Create(const std::string& path,
                                                         const GgufMetadata& metadata,
                                                         std::vector<GgufEntry> entries) {
  std::set<std::string_view> names;
  for (const GgufEntry& entry : entries) {
    const auto wrong = [&](const std::string& what) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot write ", path, ": tensor ", Quoted(entry.name), " ", what));
    };
    if (static_cast<int64_t>(entry.name.size()) > kLongestGgufName) {
      return wrong(absl::StrCat("has a name of ", entry.name.size(), " bytes; llama.cpp takes ",
                                kLongestGgufName,
                                ": export the model as compressed-tensors, gptq or awq"));
    }
    if (!names.insert(entry.name).second) return wrong("is declared twice");
    const GgufBlock block = GgufBlockOf(entry.type);
    if (block.elements == 0 || entry.shape.rank() == 0 ||
        entry.shape[entry.shape.rank() - 1] % block.elements != 0) {
      return wrong("has rows that do not divide into the blocks of its type");
    }
  }
  std::unique_ptr<GgufWriter> writer(new GgufWriter);
  writer->path_ = path;
  CVXQ_ASSIGN_OR_RETURN(writer->file_, AtomicFile::Create(path));
  CVXQ_RETURN_IF_ERROR(writer->file_->Write(Header(metadata, entries)));
  writer->entries_ = std::move(entries);
  return writer;
}

GgufWriter::~GgufWriter() = default;

Status GgufWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return absl::OkStatus();
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (next_ == entries_.size() || size > entries_[next_].bytes() - written_) {
    return absl::InternalError(
        absl::StrCat("more bytes come for ", path_, " than its tensors were declared to have"));
  }
  CVXQ_RETURN_IF_ERROR(file_->Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  written_ += size;
  return written_ == entries_[next_].bytes() ? Pad() : absl::OkStatus();
}

Status GgufWriter::Pad() {
  const std::string zeros(static_cast<size_t>(Padded(written_) - written_), '\0');
  ++next_;
  written_ = 0;
  return file_->Write(zeros);
}

Status GgufWriter::Finish() {
  if (next_ != entries_.size()) {
    return absl::InternalError(
        absl::StrCat("the tensor ", entries_[next_].name, " of ", path_, " did not come whole"));
  }
  return file_->Commit();
}

}  // namespace cvxq
