// One quantised linear in a checkpoint of another engine's format: what its tensors must be, and
// its values.
#ifndef CVXQ_FORMATS_STORED_MATRIX_H_
#define CVXQ_FORMATS_STORED_MATRIX_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "formats/quantization_config.h"
#include "storage/checkpoint.h"

namespace cvxq {

struct StoredMatrix {
  std::string name;  // without ".weight"
  StoredScheme scheme;
  int64_t rows = 0, columns = 0;  // M, N
  DType dtype = DType::kBF16;     // of the values
  int64_t groups = 1;             // scales in a row
  bool one_scale = false;         // for the whole matrix
  bool padded_words = false;      // compressed-tensors before 0.18: no code crosses words
  bool has_order = false;         // g_idx says which group each column has

  std::vector<std::string> tensors(const Checkpoint& checkpoint) const;  // that are there
};

// The linear that a tensor of this name and type belongs to, where it is one that only quantised
// linears have; empty otherwise.
std::string QuantizedLinearOf(std::string_view tensor, DType dtype);

// Checks that all tensors are there with types and shapes that fit together. `model` is the type
// that the checkpoint's config gives the model, if it does. kDataLoss names the tensor.
StatusOr<StoredMatrix> CheckStoredMatrix(const Checkpoint& checkpoint, const std::string& name,
                                         const StoredScheme& scheme, std::optional<DType> model);

// The values [M, N] of `dtype` as bytes. kDataLoss for a group that does not exist; errors of
// reading.
StatusOr<std::vector<std::byte>> DecodeStoredMatrix(const Checkpoint& checkpoint,
                                                    const StoredMatrix& matrix, ThreadPool& pool);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_STORED_MATRIX_H_
