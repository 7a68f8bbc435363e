// Opening a model folder, dense or packed, as everything later wants it.
#ifndef CVXQ_PIPELINE_MODEL_FILES_H_
#define CVXQ_PIPELINE_MODEL_FILES_H_

#include <memory>
#include <string>
#include <vector>

#include "model/arch_spec.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "quant/packed_format.h"
#include "storage/checkpoint.h"

namespace cvxq {

// Name endings and names of the packed format's tensors (docs/packed_format.md).
inline constexpr std::string_view kPackedSuffix = ".packed";
inline constexpr std::string_view kTablesName = "cvxq.tables";
inline constexpr int kPackedFormatVersion = 1;

// A packed checkpoint's linears; everything else is dense.
class PackedWeights : public WeightSource {
 public:
  // Reads and checks the tables; matrices are parsed when asked for.
  static StatusOr<std::unique_ptr<PackedWeights>> Open(
      std::shared_ptr<const Checkpoint> checkpoint);
  HostTensor Dense(const std::string& name) const override;
  bool IsPacked(const std::string& linear) const override;
  StatusOr<std::shared_ptr<const PackedMatrix>> Packed(const std::string& linear) const override;
  void Release(const std::string& name) const override;

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::vector<TableSet> tables_;
};

struct ModelFiles {
  std::string folder;
  std::shared_ptr<const Checkpoint> checkpoint;
  ArchSpec spec;
  std::unique_ptr<WeightSource> weights;
  bool packed = false;

  int64_t parameters() const;  // of all tensors; packed matrices count their weights
};

// kNotFound, kDataLoss, kUnimplemented, each with the path.
StatusOr<ModelFiles> OpenModel(const std::string& folder);

// The tables as the bytes of one tensor F32 [families, 510]: for each family the levels of depth 1,
// then 2, ... then 8.
std::vector<float> FlattenTables(const std::vector<TableSet>& families);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_MODEL_FILES_H_
