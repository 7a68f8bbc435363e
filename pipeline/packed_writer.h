// The output of quantisation: a folder with one safetensors file in the packed format, config.json
// with a quantization_config, and the tokenizer's files.
#ifndef CVXQ_PIPELINE_PACKED_WRITER_H_
#define CVXQ_PIPELINE_PACKED_WRITER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "nlohmann/json.hpp"
#include "pipeline/linear_plan.h"
#include "quant/packed_format.h"
#include "storage/checkpoint.h"
#include "storage/safetensors.h"

namespace cvxq {

// A tensor with its bytes: one that all linears share (level tables, symbol statistics), or one of
// the checkpoint's with other values.
struct SharedTensor {
  TensorEntry entry;
  std::vector<uint8_t> bytes;
};

// The level tables of the packed format as a shared tensor.
SharedTensor TablesTensor(const std::vector<TableSet>& families);

class PackedWriter {
 public:
  // `config` is the checkpoint's with quantization_config added. Reads the tensors that stay.
  static StatusOr<std::unique_ptr<PackedWriter>> Make(const Checkpoint& checkpoint,
                                                      const nlohmann::json& config,
                                                      const std::vector<LinearPlan>& plans);

  // Replaces the shared tensors.
  void Share(std::vector<SharedTensor> shared) { shared_ = std::move(shared); }

  // Writes these values in place of the checkpoint's tensor of the same name, as entry.dtype (a
  // float type). Not for the biases of plans.
  void Replace(const TensorEntry& entry, const std::vector<float>& values);

  // Bytes of the whole output folder, exactly, for the plans' present `packed` and `bias`.
  int64_t OutputBytes() const;
  // The part of it that is there for the quantised matrices: what the folder would shrink by
  // without them, what they share and their new biases.
  int64_t PackedBytes() const;

  // Writes all files into `folder`.
  Status Write(const std::string& folder) const;

 private:
  PackedWriter(const Checkpoint& checkpoint, const nlohmann::json& config,
               const std::vector<LinearPlan>& plans)
      : checkpoint_(checkpoint), config_(config.dump(2) + "\n"), plans_(plans) {}
  std::vector<TensorEntry> Entries(bool with_packed) const;
  std::map<std::string, std::string> Metadata(bool with_packed) const;
  int64_t FileBytes(bool with_packed) const;

  const Checkpoint& checkpoint_;
  const std::string config_;
  std::vector<SharedTensor> shared_;
  const std::vector<LinearPlan>& plans_;
  std::vector<std::string> dense_;                // names of the tensors that are copied
  std::map<std::string, std::string> checksums_;  // theirs
  std::map<std::string, SharedTensor> replaced_;  // those of them that have other values
  std::map<std::string, int64_t> other_files_;    // of its folder that are copied: sizes
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_PACKED_WRITER_H_
