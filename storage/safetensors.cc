#include "storage/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "storage/errors.h"
#include "storage/mapped_file.h"
#include "storage/object_map.h"
#include "storage/safetensors_header.h"

namespace cvxq {
namespace {

constexpr int64_t kPrefixBytes = 8;

struct OtherType {
  std::string_view name;
  int64_t bits;
};

// Types of the format that DType lacks. Their tensors are checked like the others.
constexpr std::array kOtherTypes = {
    OtherType{"F4", 4},          OtherType{"F6_E2M3", 6}, OtherType{"F6_E3M2", 6},
    OtherType{"F8_E5M2", 8},     OtherType{"F8_E8M0", 8}, OtherType{"F8_E4M3FNUZ", 8},
    OtherType{"F8_E5M2FNUZ", 8}, OtherType{"I16", 16},    OtherType{"U64", 64},
    OtherType{"C64", 64},
};

// Bits of one element of any type of the format, 0 for a type unknown to it.
int64_t BitsOf(const std::string& name) {
  if (const StatusOr<DType> dtype = ParseDType(name); dtype.ok()) return 8 * ByteSize(*dtype);
  for (const OtherType& other : kOtherTypes) {
    if (other.name == name) return other.bits;
  }
  return 0;
}

// Bytes of a tensor, -1 if they overflow or end within a byte. Multiplies in the order of
// Shape::elements, so that a shape that passes here does not overflow there.
int64_t BytesOf(const std::vector<int64_t>& shape, int64_t bits) {
  int64_t elements = 1, total = 0;
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(elements, extent, &elements)) return -1;
  }
  if (__builtin_mul_overflow(elements, bits, &total) || total % 8 != 0) return -1;
  return total / 8;
}

uint64_t LittleEndian64(const std::byte* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint64_t>(bytes[i]);
  return value;
}

// kDataLoss for one entry that lies by itself: a type, a shape and offsets that do not fit.
Status CheckEntry(const SafetensorsEntry& entry) {
  const std::string tensor = absl::StrCat("tensor ", Quoted(entry.name));
  if (entry.offsets.size() != 2) {
    return absl::DataLossError(absl::StrCat(tensor, " has no pair of data_offsets"));
  }
  const int64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end) {
    return absl::DataLossError(
        absl::StrCat(tensor, " ends at ", end, ", before it begins at ", begin));
  }
  const int64_t bits = BitsOf(entry.dtype);
  if (bits == 0) {
    return absl::DataLossError(absl::StrCat(tensor, " has the unknown type ", Quoted(entry.dtype)));
  }
  const int64_t bytes = BytesOf(entry.shape, bits);
  if (bytes < 0) {
    return absl::DataLossError(
        absl::StrCat(tensor, " has a shape that makes no possible number of bytes"));
  }
  if (bytes != end - begin) {
    return absl::DataLossError(absl::StrCat(tensor, " needs ", bytes,
                                            " bytes by its type and shape but has ", end - begin));
  }
  return absl::OkStatus();
}

// kDataLoss unless the entries, in the order of their offsets, fill the data section exactly.
Status CheckPlacement(const std::vector<SafetensorsEntry>& entries, int64_t data_bytes) {
  int64_t reached = 0;
  for (const SafetensorsEntry& entry : entries) {
    const int64_t begin = entry.offsets[0], end = entry.offsets[1];
    const std::string tensor = absl::StrCat("tensor ", Quoted(entry.name));
    if (begin < reached) {
      return absl::DataLossError(absl::StrCat(tensor, " overlaps the tensor before it"));
    }
    if (begin > reached) {
      return absl::DataLossError(
          absl::StrCat(begin - reached, " bytes before ", tensor, " belong to no tensor"));
    }
    if (end > data_bytes) {
      return absl::DataLossError(absl::StrCat(tensor, " ends at byte ", end,
                                              " of the data, which has ", data_bytes,
                                              " bytes: the file is cut short"));
    }
    reached = end;
  }
  if (reached != data_bytes) {
    return absl::DataLossError(
        absl::StrCat("the last ", data_bytes - reached, " bytes belong to no tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  CVXQ_ASSIGN_OR_RETURN(file->map_, MappedFile::Open(path, "a safetensors file"));
  file->path_ = path;
  file->bytes_ = file->map_->bytes();
  CVXQ_RETURN_IF_ERROR(file->ReadHeader());
  return file;
}

StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Parse(
    std::span<const std::byte> bytes, std::string path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = std::move(path);
  file->bytes_ = bytes;
  CVXQ_RETURN_IF_ERROR(file->ReadHeader());
  return file;
}

StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    std::shared_ptr<ObjectMap> object) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = object->address();
  file->bytes_ = object->bytes();
  file->object_ = std::move(object);
  CVXQ_RETURN_IF_ERROR(file->ReadHeader());
  file->header_holds_.clear();
  return file;
}

SafetensorsFile::~SafetensorsFile() = default;

Status SafetensorsFile::Need(int64_t offset, int64_t size) {
  if (object_ == nullptr) return absl::OkStatus();
  return object_->Load(offset, size, header_holds_.emplace_back());
}

Status SafetensorsFile::ReadHeader() {
  const auto broken = [&](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", path_, ": ", what, "; download or write the file again"));
  };
  const int64_t size = static_cast<int64_t>(bytes_.size());
  if (size < kPrefixBytes) {
    return broken(absl::StrCat("it has ", size, " bytes, too few for safetensors"));
  }
  CVXQ_RETURN_IF_ERROR(Need(0, kPrefixBytes));
  const uint64_t claimed = LittleEndian64(bytes_.data());
  if (claimed > static_cast<uint64_t>(kLargestSafetensorsHeader)) {
    return broken(absl::StrCat("it claims a header of ", claimed, " bytes, more than the largest, ",
                               kLargestSafetensorsHeader));
  }
  const int64_t header_bytes = static_cast<int64_t>(claimed);
  if (header_bytes > size - kPrefixBytes) {
    return broken(
        absl::StrCat("its header of ", header_bytes, " bytes goes beyond the end of the file"));
  }
  CVXQ_RETURN_IF_ERROR(Need(kPrefixBytes, header_bytes));
  StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(
      {reinterpret_cast<const char*>(bytes_.data()) + kPrefixBytes, claimed});
  if (!header.ok()) return broken(std::string(header.status().message()));

  std::vector<SafetensorsEntry>& entries = header->entries;
  for (const SafetensorsEntry& entry : entries) {
    if (const Status status = CheckEntry(entry); !status.ok())
      return broken(std::string(status.message()));
  }
  std::sort(
      entries.begin(), entries.end(),
      [](const SafetensorsEntry& a, const SafetensorsEntry& b) { return a.offsets < b.offsets; });
  data_bytes_ = size - kPrefixBytes - header_bytes;
  if (const Status status = CheckPlacement(entries, data_bytes_); !status.ok()) {
    return broken(std::string(status.message()));
  }

  metadata_ = std::move(header->metadata);
  const int64_t data = kPrefixBytes + header_bytes;
  for (SafetensorsEntry& entry : entries) {
    if (const StatusOr<DType> dtype = ParseDType(entry.dtype); dtype.ok()) {
      const int64_t offset = data + entry.offsets[0];
      HostTensor& tensor = tensors_[entry.name];
      tensor = {{*dtype, Shape(std::move(entry.shape))}, nullptr};
      if (object_ == nullptr) {
        tensor.data = bytes_.data() + offset;
      } else {
        offsets_[std::move(entry.name)] = offset;
      }
    } else {
      unsupported_[std::move(entry.name)] = std::move(entry.dtype);
    }
  }
  return absl::OkStatus();
}

const HostTensor* SafetensorsFile::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

StatusOr<HostTensor> SafetensorsFile::Load(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("tensor ", Quoted(name), " is missing in ", path_));
  }
  HostTensor tensor = found->second;
  if (object_ == nullptr) return tensor;
  const int64_t offset = offsets_.at(name);
  CVXQ_RETURN_IF_ERROR(object_->Load(offset, tensor.bytes(), tensor.hold));
  tensor.data = bytes_.data() + offset;
  return tensor;
}

void SafetensorsFile::Release(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end() || found->second.bytes() == 0) return;
  const HostTensor& tensor = found->second;
  if (object_ != nullptr) object_->Release(offsets_.at(name));
  if (map_ != nullptr) map_->Release({tensor.data, static_cast<size_t>(tensor.bytes())});
}

}  // namespace cvxq
