#include "kernels/cuda/packed_columns.h"

#include <algorithm>
#include <bit>
#include <iterator>

namespace cvxq::cuda {

TablePlaces PlaceTables(uint32_t depths) {
  TablePlaces places;
  // Largest first: then each begins at a multiple of its size.
  for (int32_t& place : places.of) place = -1;
  for (int b = kMaxDepth; b > kMaxOctetDepth; --b) {
    if ((depths >> b & 1) == 0) continue;
    places.of[b] = places.bytes;
    places.bytes += TableBytes(b);
    places.alignment = std::max(places.alignment, TableBytes(b));
  }
  return places;
}

ProductPlan PlanProduct(int64_t steps, int strips, int max_depth, StepFields fields,
                        const TablePlaces& tables, int multiprocessors, int64_t shared_limit) {
  ProductPlan plan;
  plan.slot_bytes = fields.words * 4 + RunQuarters(kStepLines, strips) * max_depth * kWarp * 4;
  plan.ring_bytes = kRingSlots * plan.slot_bytes + kStagedWords * 4;
  // Tables begin at a multiple of `alignment`; rings stand before and behind them.
  const auto bytes = [&](int64_t warps) {
    const bool aligned = tables.alignment <= 16;
    return tables.bytes +
           (aligned ? warps * plan.ring_bytes
                    : std::max<int64_t>(tables.alignment, (warps + 1) * plan.ring_bytes));
  };
  plan.blocks = std::clamp<int64_t>(steps, 1, multiprocessors);
  plan.warps =
      static_cast<int>(std::clamp<int64_t>(CeilDiv(steps, plan.blocks), 1, kMaxProductWarps));
  if (fields.wide) plan.warps = 0;
  while (plan.warps > 0 && bytes(plan.warps) > shared_limit) --plan.warps;
  plan.shared_bytes = bytes(plan.warps);
  return plan;
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
  view.rows = upload(layout.rows);
  view.tile_cluster = upload(layout.tile_cluster);
  view.tile_word = upload(layout.tile_word);
  view.counts = upload(layout.counts);
  view.first_position = upload(layout.first_position);
  view.fields = StepFields(matrix.columns > kMaxNarrowLines, !matrix.mean.empty());
  view.field_units = view.fields.words / 4;
  view.field_words = upload(JoinFields(layout, view.fields));
  view.words = upload(layout.words);
  view.tables = upload(JoinTables(matrix));
  const auto upload_levels = [&](const Levels& levels) {
    LevelsView on_device{.values = upload(levels.values)};
    std::copy(std::begin(levels.octets), std::end(levels.octets), on_device.octets);
    std::copy(std::begin(levels.unit), std::end(levels.unit), on_device.unit);
    return on_device;
  };
  weight->integers = upload_levels(LevelsInIntegers(matrix));
  weight->bf16 = upload_levels(LevelsInBF16(matrix));
  view.arrived = upload(std::vector<uint32_t>(view.tiles));
  weight->row_of = view.rows;
  uint32_t depths = 0;
  for (const LineCounts& counts : layout.counts) {
    for (int b = 1; b <= kMaxDepth; ++b) depths |= uint32_t{counts.lines[b] > 0} << b;
  }
  view.places = PlaceTables(depths);
  const int max_depth = depths == 0 ? 0 : std::bit_width(depths) - 1;
  weight->plan = PlanProduct(StepCount(layout), layout.strips, max_depth, view.fields, view.places,
                             device.multiprocessors(), device.shared_bytes_of_a_block());
  view.slot_bytes = weight->plan.slot_bytes;
  view.ring_bytes = weight->plan.ring_bytes;
  const Shares shares =
      ShareSteps(layout, view.fields, weight->plan.blocks * std::max(weight->plan.warps, 1));
  view.pieces = upload(shares.pieces);
  view.parts = upload(shares.parts);
  view.part_count = shares.part_count;
  return weight;
}

void PackedColumns::MultiplyFew(Device& device, const Tensor& x, const Tensor& bias,
                                const Tensor& y) const {
  const bool in_float = compute == DType::kF32 || plan.warps == 0;
  const auto multiply = in_float          ? MultiplyColumnsFloat
                        : x.shape[0] == 1 ? MultiplyColumnsOne
                                          : MultiplyColumnsFew;
  multiply(device, *this, x, bias, y);
}

}  // namespace cvxq::cuda
