// Which types a matrix of a GGUF file may have.
#ifndef CVXQ_FORMATS_GGUF_MENU_H_
#define CVXQ_FORMATS_GGUF_MENU_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "formats/export_format.h"
#include "formats/ggml_types.h"

namespace cvxq {

class GgufMenu {
 public:
  // kInvalidArgument for a type or an engine that is not known.
  static StatusOr<GgufMenu> Make(const ExportFormatOptions& options);

  // Sets `types` and `fallback` of a matrix whose other fields are set. Where its columns do not
  // divide into a type's blocks, llama.cpp's substitute for that type stands in; where none fits,
  // 16 bits. `stored` is the type in the checkpoint, `scaled` whether the engine takes a scale
  // beside this matrix.
  void Choose(DType stored, bool scaled, ExportMatrix& matrix) const;

 private:
  std::vector<const GgmlType*> types_;
};

// general.file_type: the type of most weights, by llama.cpp's numbers for whole files.
uint32_t GgufFileType(const std::vector<ExportMatrix>& matrices,
                      const std::vector<const WeightType*>& choice);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_MENU_H_
