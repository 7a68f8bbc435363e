// The header of a GGUF file, walked through with suspicion.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "formats/gguf_file.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr uint64_t kLongest = uint64_t{1} << 30;  // of strings and arrays, as llama.cpp has it
constexpr uint32_t kMostExtents = 4;

Status Lie(const std::string& what) { return absl::DataLossError(what); }

// Walks through the header; every step stays inside.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  StatusOr<std::span<const std::byte>> Take(uint64_t size) {
    if (size > left()) {
      return Lie(absl::StrCat("the header needs ", size, " bytes more at byte ", at_,
                              ", beyond the end of the file"));
    }
    const auto part = bytes_.subspan(at_, size);
    at_ += size;
    return part;
  }
  template <typename T>
  StatusOr<T> Number() {
    CVXQ_ASSIGN_OR_RETURN(const auto part, Take(sizeof(T)));
    T value;
    std::memcpy(&value, part.data(), sizeof(T));
    return value;
  }
  StatusOr<std::string_view> String() {
    CVXQ_ASSIGN_OR_RETURN(const uint64_t size, Number<uint64_t>());
    if (size > kLongest) return Lie(absl::StrCat("a string claims ", size, " bytes"));
    CVXQ_ASSIGN_OR_RETURN(const auto part, Take(size));
    return std::string_view(reinterpret_cast<const char*>(part.data()), part.size());
  }

 private:
  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
};

StatusOr<GgufValue> ReadValue(Cursor& cursor, std::span<const std::byte> file) {
  CVXQ_ASSIGN_OR_RETURN(uint32_t type, cursor.Number<uint32_t>());
  const bool array = type == static_cast<uint32_t>(GgufType::kArray);
  uint64_t count = 1;
  if (array) {
    CVXQ_ASSIGN_OR_RETURN(type, cursor.Number<uint32_t>());
    CVXQ_ASSIGN_OR_RETURN(count, cursor.Number<uint64_t>());
    if (count > kLongest) return Lie(absl::StrCat("an array claims ", count, " elements"));
  }
  const uint64_t begin = cursor.at();
  if (type == static_cast<uint32_t>(GgufType::kString)) {
    for (uint64_t i = 0; i < count; ++i) CVXQ_RETURN_IF_ERROR(cursor.String().status());
  } else if (const int64_t size = GgufSizeOf(static_cast<GgufType>(type)); size > 0) {
    CVXQ_RETURN_IF_ERROR(cursor.Take(count * static_cast<uint64_t>(size)).status());
  } else {
    return Lie(type == static_cast<uint32_t>(GgufType::kArray)
                   ? std::string("an array of arrays")
                   : absl::StrCat("the unknown type of values ", type));
  }
  return GgufValue(static_cast<GgufType>(type), count, file.subspan(begin, cursor.at() - begin),
                   array);
}

// Extents, type and offset of one tensor; its bytes are still without their place.
struct Listed {
  std::string name;
  GgufTensor tensor;
  uint64_t offset = 0, bytes = 0;
};

StatusOr<Listed> ReadListing(Cursor& cursor) {
  Listed listed;
  CVXQ_ASSIGN_OR_RETURN(const std::string_view name, cursor.String());
  listed.name = std::string(name);
  const std::string where = absl::StrCat("tensor ", Quoted(name));
  if (static_cast<int64_t>(name.size()) > kLongestGgufName) {
    return Lie(absl::StrCat(where, " has a name of more than ", kLongestGgufName, " bytes"));
  }
  CVXQ_ASSIGN_OR_RETURN(const uint32_t rank, cursor.Number<uint32_t>());
  if (rank > kMostExtents) return Lie(absl::StrCat(where, " has ", rank, " extents, more than 4"));
  std::vector<int64_t> extents(rank);
  int64_t elements = 1;
  bool overflow = false;
  for (uint32_t i = 0; i < rank; ++i) {
    CVXQ_ASSIGN_OR_RETURN(const int64_t extent, cursor.Number<int64_t>());
    if (extent < 0) return Lie(where + " has a negative extent");
    extents[rank - 1 - i] = extent;
    overflow = overflow || __builtin_mul_overflow(elements, extent, &elements);
  }
  CVXQ_ASSIGN_OR_RETURN(listed.tensor.type, cursor.Number<uint32_t>());
  CVXQ_ASSIGN_OR_RETURN(listed.offset, cursor.Number<uint64_t>());
  const GgufBlock block = GgufBlockOf(listed.tensor.type);
  if (block.elements == 0) {
    return Lie(absl::StrCat(where, " has the unknown type ", listed.tensor.type));
  }
  const int64_t columns = extents.empty() ? 1 : extents.back();
  if (columns % block.elements != 0) {
    return Lie(absl::StrCat(where, " has rows of ", columns,
                            ", which do not divide into blocks of ", block.elements));
  }
  int64_t bytes = 0;
  if (overflow || __builtin_mul_overflow(elements / block.elements, block.bytes, &bytes)) {
    return Lie(where + " claims more elements than can be");
  }
  listed.bytes = static_cast<uint64_t>(bytes);
  // The product in another order must not overflow either, whatever zeros hide.
  double size = 1;
  for (const int64_t extent : extents) size *= static_cast<double>(std::max<int64_t>(1, extent));
  if (size > 9e18) return Lie(where + " claims more elements than can be");
  listed.tensor.shape = Shape(std::move(extents));
  return listed;
}

}  // namespace

Status GgufFile::Read(std::span<const std::byte> bytes) {
  file_bytes_ = static_cast<int64_t>(bytes.size());
  Cursor cursor(bytes);
  CVXQ_ASSIGN_OR_RETURN(const auto magic, cursor.Take(4));
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) return Lie("it does not begin with GGUF");
  CVXQ_ASSIGN_OR_RETURN(const uint32_t version, cursor.Number<uint32_t>());
  if (version != 2 && version != 3) {
    return Lie(absl::StrCat("it has the version ", version, "; 2 and 3 are known"));
  }
  CVXQ_ASSIGN_OR_RETURN(const int64_t tensors, cursor.Number<int64_t>());
  CVXQ_ASSIGN_OR_RETURN(const int64_t pairs, cursor.Number<int64_t>());
  if (tensors < 0 || pairs < 0) return Lie("it claims a negative number of tensors or values");
  for (int64_t i = 0; i < pairs; ++i) {
    CVXQ_ASSIGN_OR_RETURN(const std::string_view key, cursor.String());
    if (key.empty()) return Lie(absl::StrCat("the key ", i, " is empty"));
    StatusOr<GgufValue> value = ReadValue(cursor, bytes);
    if (!value.ok()) {
      return Lie(absl::StrCat("the value of ", Quoted(key), ": ", value.status().message()));
    }
    if (!metadata_.emplace(key, *value).second) {
      return Lie(absl::StrCat("the key ", Quoted(key), " comes twice"));
    }
  }
  uint64_t alignment = kGgufAlignment;
  if (const GgufValue* value = Find("general.alignment")) {
    const bool u32 = !value->array() && value->type() == GgufType::kU32;
    if (u32) alignment = static_cast<uint64_t>(*value->Integer());
    if (!u32 || !std::has_single_bit(alignment)) {
      return Lie("general.alignment is no power of two in 32 bits");
    }
  }

  std::vector<Listed> list;
  for (int64_t i = 0; i < tensors; ++i) {
    CVXQ_ASSIGN_OR_RETURN(Listed listed, ReadListing(cursor));
    list.push_back(std::move(listed));
  }
  const auto align = [&](uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
  const uint64_t data = align(cursor.at());
  uint64_t expected = 0;
  for (Listed& listed : list) {
    const std::string where = absl::StrCat("tensor ", Quoted(listed.name));
    if (listed.offset != expected) {
      return Lie(absl::StrCat(where, " lies at ", listed.offset, ", but those before it end at ",
                              expected));
    }
    if (data > bytes.size() || listed.offset > bytes.size() - data ||
        listed.bytes > bytes.size() - data - listed.offset) {
      return Lie(where + " ends beyond the end of the file");
    }
    listed.tensor.bytes = bytes.subspan(data + listed.offset, listed.bytes);
    expected += align(listed.bytes);
    if (!tensors_.emplace(listed.name, std::move(listed.tensor)).second) {
      return Lie(where + " comes twice");
    }
  }
  return absl::OkStatus();
}

}  // namespace cvxq
