#include "kernels/cuda/packed_columns.h"

#include <algorithm>
#include <iterator>

namespace cvxq::cuda {

TablePlaces PlaceTables(uint32_t depths) {
  TablePlaces places;
  // Largest first: then each begins at a multiple of its size.
  constexpr int kBySize[] = {4, 8, 7, 3, 6, 5, 2, 1};
  for (int32_t& place : places.of) place = -1;
  for (int b : kBySize) {
    if ((depths >> b & 1) == 0) continue;
    places.of[b] = places.bytes;
    places.bytes += TableBytes(b);
    places.alignment = std::max(places.alignment, TableBytes(b));
  }
  return places;
}

std::shared_ptr<CudaPackedWeight> MakePackedColumns(Device& device, const PackedMatrix& matrix,
                                                    DType compute) {
  auto weight = std::make_shared<PackedColumns>();
  const ColumnLayout layout = LayOutColumns(matrix, StripsFor(matrix.rows, matrix.cluster_size));
  weight->rows = matrix.rows;
  weight->columns = matrix.columns;
  weight->compute = compute;
  weight->strips = layout.strips;
  weight->row_step = layout.tile_rows();
  weight->stored_rows = layout.tiles() * layout.tile_rows();

  ColumnsView& view = weight->view;
  auto next = std::begin(weight->memory);
  const auto upload = [&]<typename T>(const std::vector<T>& values) -> T* {
    *next = Upload(device, values);
    return device.failed() ? nullptr : reinterpret_cast<T*>(DeviceBytes(*next++));
  };
  view.M = matrix.rows;
  view.N = matrix.columns;
  view.tiles = layout.tiles();
  view.splits = SplitsFor(view.tiles, layout.most_units);
  view.rows = upload(layout.rows);
  view.tile_cluster = upload(layout.tile_cluster);
  view.tile_word = upload(layout.tile_word);
  view.counts = upload(layout.counts);
  view.first_position = upload(layout.first_position);
  view.wide = matrix.columns > 1 << 16;
  view.line = view.wide ? static_cast<const void*>(upload(layout.line))
                        : upload(std::vector<uint16_t>(layout.line.begin(), layout.line.end()));
  view.scale = upload(layout.scale);
  if (!matrix.mean.empty()) view.mean = upload(layout.mean);
  view.words = upload(layout.words);
  view.tables = upload(JoinTables(matrix));
  view.arrived = upload(std::vector<uint32_t>(view.tiles));
  weight->row_of = view.rows;
  uint32_t depths = 0;
  for (const LineCounts& counts : layout.counts) {
    for (int b = 1; b <= kMaxDepth; ++b) depths |= uint32_t{counts.lines[b] > 0} << b;
  }
  view.places = PlaceTables(depths);
  return weight;
}

void PackedColumns::MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                                const Tensor& y) const {
  (compute == DType::kBF16 ? MultiplyColumnsBF16 : MultiplyColumnsFloat)(device, *this, x, bias, y);
}

}  // namespace cvxq::cuda
