#include "quant/codec.h"

namespace cvxq {

PackedMatrix StartPackedMatrix(const CodecInput& input, bool means) {
  const GroupLayout& layout = *input.layout;
  PackedMatrix matrix;
  matrix.rows = layout.rows;
  matrix.columns = layout.columns;
  matrix.partition = layout.partition;
  matrix.cluster_size = layout.cluster_size;
  matrix.members = layout.members;
  matrix.depth = *input.depth;
  matrix.scale.assign(matrix.depth.size(), 1.0f);
  if (means) matrix.mean.assign(matrix.depth.size(), 0.0f);
  matrix.table = input.tables->table;
  return matrix;
}

}  // namespace cvxq
