#include "storage/npy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "storage/errors.h"

namespace cvxq {
namespace {

// NumPy itself refuses longer headers; ours need less than a hundred bytes.
constexpr uint32_t kMaxHeader = 10000;

// Reads the one form of dictionary that a header may have: three known keys, each once.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  StatusOr<std::pair<DType, Shape>> Parse() {
    if (!Take('{')) return Broken("does not begin with {");
    while (!Take('}')) {
      std::string key;
      if (!TakeString(&key) || !Take(':')) return Broken("has no quoted key where one is due");
      if (key == "descr" && !descr_) {
        CVXQ_RETURN_IF_ERROR(ParseDescr());
      } else if (key == "fortran_order" && !fortran_order_) {
        CVXQ_RETURN_IF_ERROR(ParseOrder());
      } else if (key == "shape" && !shape_) {
        CVXQ_RETURN_IF_ERROR(ParseShape());
      } else {
        return Broken("has a key that is unknown or comes twice");
      }
      if (!Take(',') && (SkipSpaces(), Peek() != '}')) return Broken("lacks a comma or }");
    }
    SkipSpaces();
    if (text_ != "\n") return Broken("does not end with one newline");
    if (!descr_ || !fortran_order_ || !shape_) {
      return Broken("lacks descr, fortran_order or shape");
    }
    return std::pair(*descr_, *shape_);
  }

 private:
  Status Broken(const char* what) const {
    return absl::DataLossError(absl::StrCat(where_, ": broken .npy file: its header ", what));
  }

  char Peek() const { return text_.empty() ? '\0' : text_.front(); }
  void SkipSpaces() {
    while (Peek() == ' ') text_.remove_prefix(1);
  }
  bool Take(char c) {
    SkipSpaces();
    if (Peek() != c || text_.empty()) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool TakeWord(std::string_view word) {
    SkipSpaces();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  bool TakeString(std::string* result) {
    SkipSpaces();
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return false;
    const size_t end = text_.find(quote, 1);
    if (end == std::string_view::npos) return false;
    *result = text_.substr(1, end - 1);
    text_.remove_prefix(end + 1);
    return true;
  }

  Status ParseDescr() {
    std::string type;
    if (!TakeString(&type)) {
      return absl::UnimplementedError(absl::StrCat(
          where_,
          ": holds records, not numbers; save token ids as int32, int64, uint16 or uint32"));
    }
    static constexpr std::pair<std::string_view, DType> kTypes[] = {
        {"<i4", DType::kI32}, {"<i8", DType::kI64}, {"<u2", DType::kU16}, {"<u4", DType::kU32}};
    for (const auto& [name, dtype] : kTypes) {
      if (type == name) descr_ = dtype;
    }
    if (descr_) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat(where_, ": holds elements of type ", Quoted(type),
                     "; save token ids as little-endian int32, int64, uint16 or uint32"));
  }

  Status ParseOrder() {
    if (TakeWord("True")) {
      return absl::UnimplementedError(
          absl::StrCat(where_, ": holds an array in Fortran order; save it in C order"));
    }
    if (!TakeWord("False")) return Broken("has a fortran_order that is neither True nor False");
    fortran_order_ = false;
    return absl::OkStatus();
  }

  // (), (3,), (3, 4) or (3, 4,): numbers of at most 18 digits.
  Status ParseShape() {
    if (!Take('(')) return Broken("has a shape that is not a tuple");
    std::vector<int64_t> extents;
    bool comma = true;
    while (!Take(')')) {
      if (!comma || extents.size() == 2) {
        return comma ? absl::UnimplementedError(absl::StrCat(
                           where_, ": has more than two axes; save token ids with one or two"))
                     : Broken("has a shape that is not a tuple of numbers");
      }
      SkipSpaces();
      const size_t digits = std::min(text_.find_first_not_of("0123456789"), text_.size());
      if (digits == 0 || digits > 18) return Broken("has a shape that is not a tuple of numbers");
      extents.push_back(std::stoll(std::string(text_.substr(0, digits))));
      text_.remove_prefix(digits);
      comma = Take(',');
    }
    if (extents.empty()) {
      return absl::UnimplementedError(
          absl::StrCat(where_, ": holds one number; save token ids with one or two axes"));
    }
    if (extents.size() == 1 && !comma) return Broken("has a shape that is a number, not a tuple");
    shape_ = Shape(std::move(extents));
    return absl::OkStatus();
  }

  std::string_view text_;  // what is left
  const std::string where_;
  std::optional<DType> descr_;
  std::optional<bool> fortran_order_;
  std::optional<Shape> shape_;
};

}  // namespace

StatusOr<std::shared_ptr<NpyFile>> NpyFile::Read(std::span<const std::byte> bytes,
                                                 const std::string& path) {
  const auto broken = [&](const auto&... what) {
    return absl::DataLossError(absl::StrCat(path, ": broken .npy file: ", what...));
  };
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with("\x93NUMPY")) return broken("it does not begin with the .npy signature");
  if (text.size() < 12) return broken("it ends within the header");
  const int major = static_cast<unsigned char>(text[6]), minor = text[7];
  if (major < 1 || major > 3 || minor != 0) return broken("its version is unknown");
  const size_t size_bytes = major == 1 ? 2 : 4;
  uint32_t header = 0;
  for (size_t i = 0; i < size_bytes; ++i) {
    header |= static_cast<uint32_t>(static_cast<unsigned char>(text[8 + i])) << (8 * i);
  }
  const size_t begin = 8 + size_bytes;
  if (header > kMaxHeader) return broken("its header has ", header, " bytes");
  if (header > text.size() - begin) return broken("it ends within the header");

  CVXQ_ASSIGN_OR_RETURN(auto type_and_shape,
                        HeaderParser(text.substr(begin, header), path).Parse());
  auto& [dtype, shape] = type_and_shape;
  int64_t expected = ByteSize(dtype);
  for (int64_t extent : shape.extents()) {
    if (__builtin_mul_overflow(expected, extent, &expected)) {
      return broken("its shape has too many elements");
    }
  }
  const auto data = bytes.subspan(begin + header);
  if (expected != static_cast<int64_t>(data.size())) {
    return broken("its shape ", shape.ToString(), " needs ", expected, " bytes, but ", data.size(),
                  " follow the header");
  }
  std::shared_ptr<NpyFile> file(new NpyFile);
  file->bytes_ = bytes;
  file->array_ = {{dtype, std::move(shape)}, data.data()};
  return file;
}

StatusOr<std::shared_ptr<const NpyFile>> NpyFile::Parse(std::span<const std::byte> bytes,
                                                        std::string path) {
  return Read(bytes, path);
}

StatusOr<std::shared_ptr<const NpyFile>> NpyFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::FailedPreconditionError(absl::StrCat(path, ": not a regular file"));
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) {
    close(fd);
    return absl::DataLossError(absl::StrCat(path, ": broken .npy file: it is empty"));
  }
  void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const Status failed =
      address == MAP_FAILED ? ErrnoStatus(errno, "cannot map", path) : absl::OkStatus();
  close(fd);
  CVXQ_RETURN_IF_ERROR(failed);
  auto file = Read({static_cast<const std::byte*>(address), size}, path);
  if (!file.ok()) {
    munmap(address, size);
    return file.status();
  }
  (*file)->mapped_ = true;
  return file;
}

NpyFile::~NpyFile() {
  if (mapped_) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace cvxq
