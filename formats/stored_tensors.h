// The tensors of one quantised linear, and how what is wrong with them is worded. Internal to
// stored_matrix.
#ifndef CVXQ_FORMATS_STORED_TENSORS_H_
#define CVXQ_FORMATS_STORED_TENSORS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "formats/bit_pack.h"
#include "storage/checkpoint.h"

namespace cvxq {

class LinearTensors {
 public:
  LinearTensors(const Checkpoint& checkpoint, const std::string& linear)
      : checkpoint_(checkpoint), linear_(linear) {}

  // By the end of its name; nullptr if it is not there.
  const TensorInfo* Find(const char* suffix) const { return checkpoint_.Find(linear_ + suffix); }
  StatusOr<HostTensor> Get(const char* suffix) const { return checkpoint_.Get(linear_ + suffix); }

  // kDataLoss if it is missing, or has another rank or type. `dtype` nullopt: of a scale, F16, BF16
  // or F32.
  StatusOr<TensorInfo> Must(const char* suffix, std::optional<DType> dtype, int rank) const;
  // The same, and kDataLoss for another shape.
  Status Shaped(const char* suffix, std::optional<DType> dtype, const Shape& shape) const;

  // kDataLoss that names the tensor.
  Status Wrong(const char* suffix, const std::string& what) const;
  Status WrongShape(const char* suffix, const TensorInfo& found) const;

 private:
  const Checkpoint& checkpoint_;
  const std::string linear_;
};

bool IsScaleType(DType dtype);

// Words that compressed-tensors before 0.18 wants for codes: none crosses words.
inline int64_t PaddedWords(int64_t codes, int bits) {
  const int64_t each = kWordBits / bits;
  return (codes + each - 1) / each;
}

}  // namespace cvxq

#endif  // CVXQ_FORMATS_STORED_TENSORS_H_
