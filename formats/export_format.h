// What an export writes, seen from the pipeline: a format of other engines, bound to one model. It
// says which matrices have a choice of types, what each choice costs, and writes the files.
#ifndef CVXQ_FORMATS_EXPORT_FORMAT_H_
#define CVXQ_FORMATS_EXPORT_FORMAT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/weight_type.h"
#include "model/arch_spec.h"
#include "storage/checkpoint.h"

namespace cvxq {

// A matrix of the model that a format can store in more than one way.
struct ExportMatrix {
  enum class Role : uint8_t { kLinear, kEmbedding, kHead };
  std::string name;  // of its tensor in the checkpoint, without ".weight"
  Role role = Role::kLinear;
  int64_t block = 0;  // of a linear
  LinearId id{};      // of a linear
  int64_t rows = 0, columns = 0;
  // Rows that one another's engine computes as one must share a type (q, k, v): matrices of the
  // same tie >= 0.
  int64_t tie = -1;
  // What may be chosen here, cheapest first; never empty. `fallback` says why a type of the menu is
  // not among them ("704 columns do not divide into blocks of 256"), or is empty.
  std::vector<const WeightType*> types;
  std::string fallback;
};

// A matrix as it goes into the file: its codes where its type is a grid, else its values.
struct ExportedMatrix {
  GridMatrix grid;            // of a grid type
  std::vector<float> values;  // [M, N] of a dense one
};

class ExportFormat {
 public:
  virtual ~ExportFormat() = default;

  virtual std::string name() const = 0;  // as --format has it
  const std::vector<ExportMatrix>& matrices() const { return matrices_; }
  // Bytes of all files, exactly, where matrix i has the type choice[i].
  virtual int64_t TotalBytes(const std::vector<const WeightType*>& choice) const = 0;
  // Writes all files into a folder that is there (each closed and on disk); asks for each matrix
  // once, in any order. Errors: those of `matrix`, disk.
  virtual Status Write(const std::vector<const WeightType*>& choice,
                       const std::function<StatusOr<ExportedMatrix>(size_t index)>& matrix,
                       const std::string& folder) = 0;

 protected:
  std::vector<ExportMatrix> matrices_;
};

struct ExportFormatOptions {
  std::vector<std::string> menu;  // names of types; empty: the format's own
  std::string engine;             // whose limits are kept: "", "vllm"
  int64_t group = 64;             // columns that share a scale, where the format leaves a choice
  int64_t split_bytes = 0;        // largest file; 0: one file
};

// The checkpoint outlives the format. kUnimplemented: an architecture that the format cannot hold,
// naming those formats that can; kInvalidArgument: a menu or an engine that it does not know.
StatusOr<std::unique_ptr<ExportFormat>> MakeGguf(const Checkpoint& checkpoint, const ArchSpec& spec,
                                                 const ExportFormatOptions& options);
StatusOr<std::unique_ptr<ExportFormat>> MakeCompressedTensors(const Checkpoint& checkpoint,
                                                              const ArchSpec& spec,
                                                              const ExportFormatOptions& options);
StatusOr<std::unique_ptr<ExportFormat>> MakeGptq(const Checkpoint& checkpoint, const ArchSpec& spec,
                                                 const ExportFormatOptions& options);
StatusOr<std::unique_ptr<ExportFormat>> MakeAwq(const Checkpoint& checkpoint, const ArchSpec& spec,
                                                const ExportFormatOptions& options);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_EXPORT_FORMAT_H_
