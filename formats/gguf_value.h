// Values of GGUF's metadata and types of its tensors; the container is in gguf_file.h.
#ifndef CVXQ_FORMATS_GGUF_VALUE_H_
#define CVXQ_FORMATS_GGUF_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace cvxq {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

inline constexpr int64_t kGgufAlignment = 32;    // where general.alignment is not given
inline constexpr int64_t kLongestGgufName = 63;  // bytes of a tensor's name

// Elements of a block and its bytes, of a type of tensors; {0, 0} for an unknown one.
struct GgufBlock {
  int64_t elements = 0, bytes = 0;
};
GgufBlock GgufBlockOf(uint32_t type);

// A value of the metadata: a view of the file's bytes, which it must not outlive.
class GgufValue {
 public:
  GgufValue(GgufType type, uint64_t count, std::span<const std::byte> bytes, bool array)
      : type_(type), count_(count), bytes_(bytes), array_(array) {}

  bool array() const { return array_; }
  GgufType type() const { return type_; }    // of an array, its elements'
  uint64_t count() const { return count_; }  // elements of an array, else 1

  // Each is nullopt where the value is of another kind. Integers of any width that an int64 holds;
  // floats of both widths; arrays of these.
  std::optional<int64_t> Integer() const;
  std::optional<double> Float() const;
  std::optional<bool> Bool() const;
  std::optional<std::string_view> String() const;
  std::optional<std::vector<std::string_view>> Strings() const;
  std::optional<std::vector<int64_t>> Integers() const;
  std::optional<std::vector<double>> Floats() const;

 private:
  std::optional<int64_t> IntegerAt(const std::byte* at) const;
  std::optional<double> FloatAt(const std::byte* at) const;

  GgufType type_;
  uint64_t count_;
  std::span<const std::byte> bytes_;
  bool array_;
};

// Bytes of a value of a type of fixed size; 0 for strings, arrays and unknown types.
int64_t GgufSizeOf(GgufType type);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_VALUE_H_
