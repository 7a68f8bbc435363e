// What the exports to safetensors formats share: all linears of blocks may be coded, everything
// else is copied from the checkpoint as it is. A format says which tensors stand for a coded
// matrix, and what its config.json says.
#ifndef CVXQ_FORMATS_SAFETENSORS_FORMAT_H_
#define CVXQ_FORMATS_SAFETENSORS_FORMAT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "formats/export_format.h"
#include "formats/safetensors_folder.h"
#include "nlohmann/json.hpp"

namespace cvxq {

class SafetensorsFormat : public ExportFormat {
 public:
  SafetensorsFormat(const Checkpoint& checkpoint, const ArchSpec& spec,
                    const ExportFormatOptions& options)
      : checkpoint_(checkpoint), spec_(spec), options_(options) {}

  // Finds the matrices and what each may be; before anything else. The errors of MakeGptq.
  Status Prepare();
  int64_t TotalBytes(const std::vector<const WeightType*>& choice) const override;
  Status Write(const std::vector<const WeightType*>& choice,
               const std::function<StatusOr<ExportedMatrix>(size_t index)>& matrix,
               const std::string& folder) override;

 protected:
  // Reads the options, before any matrix is filled.
  virtual Status ReadMenu() = 0;
  // Gives a linear its types, by SetTypes.
  virtual Status FillTypes(ExportMatrix& matrix) = 0;
  // Whether q, k and v, and gate and up, must share a type, for engines that compute them as one.
  virtual bool ties_fused() const { return true; }

  // The type of tensors that stay as they are in the checkpoint.
  const WeightType* Dense(DType dtype) const;
  // Of a matrix in the checkpoint.
  DType StoredType(const ExportMatrix& matrix) const;

  // kInvalidArgument for an engine that is none of these, or a group that nothing takes.
  Status CheckOptions(const std::vector<std::string>& engines) const;
  // Makes these the matrix's types, cheapest first, or its own type where there are none; and tells
  // the reasons for what is not among them.
  void SetTypes(const std::vector<const WeightType*>& types, const std::set<std::string>& reasons,
                ExportMatrix& matrix) const;

  // The tensors of a coded matrix, in the order in which Append gives their bytes.
  virtual std::vector<TensorEntry> Tensors(const ExportMatrix& matrix,
                                           const WeightType& type) const = 0;
  virtual Status AppendTensors(const GridMatrix& grid,
                               const SafetensorsFolder::Append& append) const = 0;
  // quantization_config of config.json, null where nothing is coded; and files beside it.
  virtual nlohmann::ordered_json Config(const std::vector<const WeightType*>& choice) const = 0;
  virtual std::map<std::string, std::string> MoreFiles(
      const std::vector<const WeightType*>& /*choice*/) const {
    return {};
  }

  const Checkpoint& checkpoint_;
  const ArchSpec spec_;
  const ExportFormatOptions options_;

 private:
  using Matrix = std::function<StatusOr<ExportedMatrix>(size_t index)>;
  // The linears, then embedding and head, which have their own type alone. Those of linears are
  // left to be filled. kDataLoss where one is missing.
  Status FindMatrices();
  void TieFused();
  SafetensorsFolder Draw(const std::vector<const WeightType*>& choice, const Matrix& matrix) const;

  std::map<std::string, int64_t> companions_;
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_SAFETENSORS_FORMAT_H_
