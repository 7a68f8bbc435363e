// The Rounder of a device: what goes to its memory and what comes back.
#include <algorithm>
#include <mutex>

#include "kernels/device_rounder.h"
#include "quant/rounder.h"
#include "quant/scale_grid.h"

namespace cvxq {
namespace {

static_assert(DeviceTrellis::kMagnitudes == kPricedMagnitudes);
static_assert(DeviceTable::kDepths == kMaxDepth + 1);

class DeviceBackedRounder : public Rounder {
 public:
  DeviceBackedRounder(Backend& backend, std::unique_ptr<DeviceRounder> rounder, ThreadPool& pool)
      : backend_(backend), rounder_(std::move(rounder)), host_(MakeCpuRounder(pool)) {}

  StatusOr<CurvatureFactor> FactorInOrder(std::vector<float> h, std::vector<int32_t> order,
                                          double damping) override {
    const std::lock_guard lock(mutex_);
    const int64_t n = std::ssize(order);
    CurvatureFactor factor;
    factor.n = n;
    const Tensor sent = Send<float>(DType::kF32, {n, n}, h);
    CVXQ_ASSIGN_OR_RETURN(DeviceFactor made, rounder_->Factor(sent, std::move(order), damping));
    factor.order = std::move(made.order);
    factor.damping = made.damping;
    factor.lower = std::move(h);  // as large
    factor.diagonal.resize(n);
    backend_.Download(made.lower, factor.lower.data());
    backend_.Download(made.diagonal, factor.diagonal.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    return factor;
  }

  StatusOr<double> RoundToTrellis(const FeedbackInput& feedback, const TrellisRule& rule,
                                  std::span<int16_t> integers) override {
    const std::lock_guard lock(mutex_);
    const int64_t m = feedback.rows, n = feedback.columns;
    const std::vector<int32_t> row_class(rule.row_class.begin(), rule.row_class.end());
    const std::vector<int32_t> column_class(rule.column_class.begin(), rule.column_class.end());
    const Tensor codes = backend_.Allocate(DType::kU16, {m, n});
    const DeviceTrellis sent = {
        .row_step = Send(DType::kF32, {m}, rule.row_step),
        .row_weight = Send(DType::kF32, {m}, rule.row_weight),
        .column_step = Send(DType::kF32, {n}, rule.column_step),
        .column_weight = Send(DType::kF32, {n}, rule.column_weight),
        .row_class = Send<int32_t>(DType::kI32, {m}, row_class),
        .column_class = Send<int32_t>(DType::kI32, {n}, column_class),
        .price = Send<float>(DType::kF32, {rule.prices->classes(), 2, kPricedMagnitudes},
                             rule.prices->price),
        .row_curvature = Send(DType::kF32, {m}, rule.row_curvature),
        .squares = backend_.Allocate(DType::kF32, {n})};
    DeviceFeedback problem = Send(feedback);
    if (std::ranges::none_of(feedback.blocks, [](const RowBlock& b) { return b.lower.empty(); })) {
      problem.tile_rows = std::min(problem.tile_rows, kDeviceTileRows);
    }
    rounder_->Round(problem, sent, codes);
    std::vector<float> squares(n);
    backend_.Download(sent.squares, squares.data());
    backend_.Download(codes, integers.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    double sum = 0;
    for (int64_t c = 0; c < n; ++c) {
      sum += 0.5 * static_cast<double>(squares[c]) * rule.column_curvature[c];
    }
    return sum;
  }

  Status RoundToLevels(const FeedbackInput& feedback, const LevelRule& rule,
                       std::span<uint8_t> codes) override {
    const std::lock_guard lock(mutex_);
    const int64_t m = feedback.rows, n = feedback.columns, clusters = std::ssize(rule.depth) / m;
    const SentTables tables = Send(*rule.tables);
    const Tensor wide = backend_.Allocate(DType::kU16, {m, n});
    rounder_->Round(Send(feedback),
                    DeviceTable{.depth = Send(DType::kU8, {clusters, m}, rule.depth),
                                .scale = Send(DType::kF32, {clusters, m}, rule.scale),
                                .cluster = Send(DType::kI32, {n}, rule.cluster),
                                .table = tables.table,
                                .boundary = tables.boundary},
                    wide);
    return DownloadBytes(wide, codes);
  }

  Status RoundToFittedLevels(const FeedbackInput& feedback, const FittedLevelRule& rule,
                             std::span<uint8_t> codes) override {
    if (feedback.tile_rows > DeviceFittedTable::kMostRows) {
      return host_->RoundToFittedLevels(feedback, rule, codes);
    }
    const std::lock_guard lock(mutex_);
    const int64_t m = feedback.rows, n = feedback.columns, tiles = std::ssize(rule.depth) / n;
    const int first = kMinScaleIndex / (16 / rule.scale_steps);
    const int last = kMaxScaleIndex / (16 / rule.scale_steps);
    const int64_t places = last - first + 1;
    std::vector<float> scales(2 * places);
    for (int64_t i = 0; i < places; ++i) {
      scales[i] = ScaleFromIndex(first + static_cast<int>(i), rule.scale_steps);
      scales[places + i] = 1 / scales[i];
    }
    const SentTables tables = Send(*rule.tables);
    const DeviceFittedTable sent = {.depth = Send<uint8_t>(DType::kU8, {tiles, n}, rule.depth),
                                    .place = backend_.Allocate(DType::kI32, {tiles, n}),
                                    .scales = Send<float>(DType::kF32, {2, places}, scales),
                                    .first = first,
                                    .steps = rule.scale_steps,
                                    .reach = rule.reach,
                                    .table = tables.table,
                                    .boundary = tables.boundary};
    const Tensor wide = backend_.Allocate(DType::kU16, {m, n});
    rounder_->Round(Send(feedback), sent, wide);
    std::vector<int32_t> place(tiles * n);
    backend_.Download(sent.place, place.data());
    backend_.Download(sent.depth, rule.depth.data());
    CVXQ_RETURN_IF_ERROR(DownloadBytes(wide, codes));
    for (int64_t g = 0; g < tiles * n; ++g) {
      if (rule.depth[g] > 0) rule.scale[g] = scales[place[g]];
    }
    return absl::OkStatus();
  }

  Status RoundToGrids(const FeedbackInput& feedback, AffineMatrix& m) override {
    const std::lock_guard lock(mutex_);
    const auto kept = std::ssize(m.kept_columns);
    std::vector<uint8_t> is_kept(m.columns);
    for (const int32_t column : m.kept_columns) is_kept[column] = 1;
    const Tensor codes = backend_.Allocate(DType::kU16, {m.rows, m.columns});
    rounder_->Round(
        Send(feedback),
        DeviceGrid{.scale = Send<float>(DType::kF32, {m.rows, m.group_count()}, m.scale),
                   .zero = Send<uint8_t>(DType::kU8, {m.rows, m.group_count()}, m.zero),
                   .group = m.group,
                   .bits = m.bits,
                   .kept = Send<uint8_t>(DType::kU8, {m.columns}, is_kept)},
        codes);
    std::vector<uint16_t> all(m.rows * m.columns);
    backend_.Download(codes, all.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    for (int64_t r = 0; r < m.rows; ++r) {
      const uint16_t* of_row = &all[r * m.columns];
      uint8_t* codes = &m.codes[r * m.columns];
      for (int64_t c = 0; c < m.columns; ++c) {
        codes[c] = is_kept[c] == 0 ? static_cast<uint8_t>(of_row[c]) : codes[c];
      }
      for (int64_t k = 0; k < kept; ++k) {
        m.kept[r * kept + k] = F16ToFloat(of_row[m.kept_columns[k]]);
      }
    }
    return absl::OkStatus();
  }

 private:
  struct SentTables {
    Tensor table, boundary;
  };

  template <typename T>
  Tensor Send(DType dtype, Shape shape, std::span<const T> data) {
    Tensor tensor = backend_.Allocate(dtype, std::move(shape));
    backend_.Upload(data.data(), tensor);
    return tensor;
  }

  SentTables Send(const LevelTables& tables) {
    constexpr int64_t kDepths = DeviceTable::kDepths, kLevels = DeviceTable::kLevels;
    std::vector<float> table(kDepths * kLevels), boundary(kDepths * kLevels);
    for (int64_t depth = 1; depth < kDepths; ++depth) {
      std::ranges::copy(tables.table[depth], &table[depth * kLevels]);
      std::ranges::copy(tables.boundary[depth], &boundary[depth * kLevels]);
    }
    return {Send<float>(DType::kF32, {kDepths, kLevels}, table),
            Send<float>(DType::kF32, {kDepths, kLevels}, boundary)};
  }

  // Codes of at most 8 bits. Waits.
  Status DownloadBytes(const Tensor& wide, std::span<uint8_t> codes) {
    std::vector<uint16_t> all(codes.size());
    backend_.Download(wide, all.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    std::ranges::transform(all, codes.begin(), [](uint16_t c) { return static_cast<uint8_t>(c); });
    return absl::OkStatus();
  }

  DeviceFeedback Send(const FeedbackInput& feedback) {
    const int64_t m = feedback.rows, n = feedback.columns;
    DeviceFeedback sent;
    sent.tile_rows = feedback.tile_rows;
    sent.w = Send<float>(DType::kF32, {m, n}, {feedback.w, static_cast<size_t>(m * n)});
    if (feedback.inputs != nullptr) {
      sent.lower = Send<float>(DType::kF32, {n, n}, feedback.inputs->lower);
      sent.order = feedback.inputs->order;
    }
    for (const RowBlock& block : feedback.blocks) {
      DeviceFeedback::Block& of_rows = sent.blocks.emplace_back();
      of_rows.rows = block.rows;
      const int64_t rows = std::ssize(block.rows);
      if (!block.lower.empty()) {
        of_rows.lower = Send<float>(DType::kF32, {rows, rows}, block.lower);
      }
    }
    return sent;
  }

  std::mutex mutex_;
  Backend& backend_;
  const std::unique_ptr<DeviceRounder> rounder_;
  const std::unique_ptr<Rounder> host_;  // of what the device does not take
};

}  // namespace

std::unique_ptr<Rounder> MakeRounder(Backend& backend, ThreadPool& pool) {
  std::unique_ptr<DeviceRounder> rounder = MakeDeviceRounder(backend);
  if (rounder == nullptr) return MakeCpuRounder(pool);
  return std::make_unique<DeviceBackedRounder>(backend, std::move(rounder), pool);
}

}  // namespace cvxq
