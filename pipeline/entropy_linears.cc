#include "pipeline/entropy_linears.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "base/interrupt.h"
#include "pipeline/block_state.h"
#include "pipeline/model_files.h"
#include "quant/entropy.h"
#include "quant/scaled_format.h"

namespace cvxq {
namespace {

constexpr int64_t kSmallLinear = 1 << 20;  // weights; threads take one each

double MeanClass(const ScaledCodes& codes) {
  return std::accumulate(codes.row_class.begin(), codes.row_class.end(), 0.0) / codes.rows +
         std::accumulate(codes.column_class.begin(), codes.column_class.end(), 0.0) / codes.columns;
}

// What a plan tells of its codes: weights at each width of their code in bits.
void Tally(const ScaledCodes& codes, LinearPlan& plan) {
  plan.depth_histogram.fill(0);
  for (const int16_t k : codes.integers) {
    int width = 0;
    for (int magnitude = std::abs(k); magnitude > 0; magnitude >>= 1) ++width;
    ++plan.depth_histogram[std::min(width + (k != 0), kMaxDepth)];
  }
  plan.zero_weights = static_cast<double>(plan.depth_histogram[0]);
  plan.code_bytes = plan.packed_bytes;
}

}  // namespace

std::vector<int32_t> EntropyRowOrder(int64_t first, int64_t rows) {
  std::vector<int32_t> order(rows);
  std::iota(order.rbegin(), order.rend(), static_cast<int32_t>(first));
  return order;
}

// One linear with all that coding it takes.
struct EntropyLinears::Linear {
  std::vector<float> w, row_curvature, column_curvature;
  std::optional<CurvatureFactor> factor;
  std::vector<RowBlock> blocks;
  EntropyInput input;
};

void StartEntropyPlans(const ArchSpec& spec, std::vector<LinearPlan>& plans) {
  for (LinearPlan& plan : plans) {
    plan.layout = {.rows = plan.rows, .columns = plan.columns, .cluster_size = plan.rows};
    plan.SetPacked({});
    plan.suffix = kScaledSuffix;
    plan.bias.clear();
    if (BiasesTakeMean(spec, InputOf(plan.id))) plan.bias.resize(plan.rows);
  }
}

EntropyLinears::EntropyLinears(const StageContext& context, Feedback feedback)
    : context_(context),
      feedback_(feedback),
      known_(context.plans.size()),
      class_shift_(context.plans.size()) {
  StartEntropyPlans(context_.spec, context_.plans);
}

const InputMoments& EntropyLinears::InputsOf(const LinearPlan& plan) const {
  return context_.inputs[plan.block][static_cast<int>(InputOf(plan.id))];
}

// [begin, end) of the plans of a block.
std::pair<size_t, size_t> EntropyLinears::PlansOf(int64_t block) const {
  const std::vector<LinearPlan>& plans = context_.plans;
  const auto before = [](const LinearPlan& plan, int64_t b) { return plan.block < b; };
  const auto begin = std::lower_bound(plans.begin(), plans.end(), block, before);
  const auto end = std::lower_bound(begin, plans.end(), block + 1, before);
  return {begin - plans.begin(), end - plans.begin()};
}

StatusOr<std::unique_ptr<EntropyLinears::Linear>> EntropyLinears::Load(const LinearPlan& plan,
                                                                       bool factors) {
  auto linear = std::make_unique<Linear>();
  CVXQ_ASSIGN_OR_RETURN(linear->w, ReadWeights(context_.checkpoint, plan));
  const InputMoments& inputs = InputsOf(plan);
  linear->row_curvature = RowCurvature(plan, context_.gradients, context_.inputs, context_.outputs);
  if (feedback_ != Feedback::kTwo) {
    // Towards their mean, as H_O is: rows that calibration hardly excites must not be given up.
    const double mean =
        std::accumulate(linear->row_curvature.begin(), linear->row_curvature.end(), 0.0) /
        static_cast<double>(plan.rows);
    for (float& a : linear->row_curvature) {
      a = static_cast<float>((1 - context_.options.shrinkage) * a +
                             context_.options.shrinkage * mean);
    }
  }
  linear->column_curvature = inputs.conditional;
  const bool dead =
      std::all_of(inputs.diagonal.begin(), inputs.diagonal.end(), [](float d) { return !(d > 0); });
  if (dead) {
    std::fill(linear->column_curvature.begin(), linear->column_curvature.end(), 0.0f);
  } else if (feedback_ == Feedback::kNone) {
    const double mean = std::accumulate(inputs.diagonal.begin(), inputs.diagonal.end(), 0.0) /
                        static_cast<double>(plan.columns);
    linear->column_curvature = inputs.diagonal;
    for (float& d : linear->column_curvature) d += static_cast<float>(inputs.damping * mean);
  }
  if (feedback_ == Feedback::kTwo) {
    if (factors) {
      CVXQ_ASSIGN_OR_RETURN(
          linear->blocks,
          LoadRowBlocks(context_.outputs[plan.block][static_cast<int>(plan.id)], context_.store));
    }
  } else {
    for (int64_t first = 0; first < plan.rows; first += kEntropyFreeRows) {
      linear->blocks.push_back(
          {EntropyRowOrder(first, std::min(kEntropyFreeRows, plan.rows - first)), {}});
    }
  }
  if (factors && feedback_ != Feedback::kNone) {
    CVXQ_ASSIGN_OR_RETURN(linear->factor, LoadFactor(inputs, context_.store));
  }
  linear->input = {.w = linear->w.data(),
                   .rows = plan.rows,
                   .columns = plan.columns,
                   .inputs = linear->factor ? &*linear->factor : nullptr,
                   .blocks = linear->blocks,
                   .row_curvature = linear->row_curvature,
                   .column_curvature = linear->column_curvature};
  return linear;
}

// Calls body(i) for plans [begin, end) in parallel; the first error in their order.
template <typename Body>
Status EntropyLinears::Each(size_t begin, size_t end, const Body& body) {
  std::vector<Status> status(end - begin);
  context_.pool.ParallelFor(static_cast<int64_t>(end - begin), [&](int64_t i) {
    status[i] = CheckInterrupted();
    if (status[i].ok()) status[i] = body(begin + i);
  });
  for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

StatusOr<EntropyAnswer> EntropyLinears::CarryOut(const EntropyOrder& order,
                                                 Progress::Phase& phase) {
  EntropyAnswer answer;
  prices_ = PricesOf(order.tables.get());
  for (const EntropyOrder::Block& block : order.blocks) {
    if (order.kind == EntropyOrder::Kind::kForesee) {
      CVXQ_ASSIGN_OR_RETURN(SpreadHistogram histogram, Foresee(block.block, phase));
      answer.histograms.push_back(std::move(histogram));
    } else {
      CVXQ_RETURN_IF_ERROR(CodeBlock(order, block, answer, phase));
    }
  }
  return answer;
}

StatusOr<SpreadHistogram> EntropyLinears::Foresee(int64_t block, Progress::Phase& phase) {
  const auto [first, last] = PlansOf(block);
  const size_t begin = first, end = last;
  std::vector<SpreadHistogram> parts(end - begin);
  CVXQ_RETURN_IF_ERROR(Each(begin, end, [&](size_t i) -> Status {
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Linear> linear,
                          Load(context_.plans[i], /*factors=*/false));
    parts[i - begin].Add(linear->input, StartScaledCodes(linear->input));
    phase.Advance();
    return absl::OkStatus();
  }));
  SpreadHistogram sum;
  for (const SpreadHistogram& part : parts) sum.Merge(part);
  return sum;
}

// Small linears side by side.
Status EntropyLinears::CodeBlock(const EntropyOrder& order, const EntropyOrder::Block& block,
                                 EntropyAnswer& answer, Progress::Phase& phase) {
  const auto [first, last] = PlansOf(block.block);
  const size_t begin = first, end = last;
  int64_t largest = 0;
  for (size_t i = begin; i < end; ++i) {
    largest = std::max(largest, context_.plans[i].rows * context_.plans[i].columns);
  }
  std::vector<Outcome> outcomes(end - begin);
  const auto code = [&](size_t i) -> Status {
    CVXQ_ASSIGN_OR_RETURN(outcomes[i - begin], CodeLinear(order, block.log2_delta, i));
    phase.Advance();
    return absl::OkStatus();
  };
  if (largest <= kSmallLinear) {
    CVXQ_RETURN_IF_ERROR(Each(begin, end, code));
  } else {
    for (size_t i = begin; i < end; ++i) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      CVXQ_RETURN_IF_ERROR(code(i));
    }
  }
  SymbolCounts& counts = counts_[block.block] = {};
  for (size_t i = begin; i < end; ++i) {
    counts.Add(outcomes[i - begin].counts);
    class_shift_[i] = outcomes[i - begin].class_shift;
  }
  AppendAnswer(block.block, answer);
  return absl::OkStatus();
}

// What came of the last order on a block.
void EntropyLinears::AppendAnswer(int64_t block, EntropyAnswer& answer) const {
  answer.counts.Add(counts_.at(block));
  const auto [begin, end] = PlansOf(block);
  for (size_t i = begin; i < end; ++i) {
    answer.linears.push_back({.plan = context_.plans[i].index,
                              .bytes = context_.plans[i].packed_bytes,
                              .class_shift = class_shift_[i]});
  }
}

Status EntropyLinears::Save(int64_t block, ArchiveWriter& writer) const {
  const auto [begin, end] = PlansOf(block);
  for (size_t i = begin; i < end; ++i) {
    CVXQ_RETURN_IF_ERROR(SaveLinear(context_.plans[i], writer));
    CVXQ_RETURN_IF_ERROR(writer.Put(known_[i].row_class));
    CVXQ_RETURN_IF_ERROR(writer.Put(known_[i].column_class));
    CVXQ_RETURN_IF_ERROR(writer.Put(class_shift_[i]));
  }
  return writer.Put(counts_.at(block).all());
}

Status EntropyLinears::Load(int64_t block, ArchiveReader& reader, EntropyAnswer& answer) {
  const auto [begin, end] = PlansOf(block);
  std::vector<LinearState> linears(end - begin);
  std::vector<Classes> known(end - begin);
  std::vector<double> shifts(end - begin);
  for (size_t i = begin; i < end; ++i) {
    const LinearPlan& plan = context_.plans[i];
    CVXQ_RETURN_IF_ERROR(LoadLinear(reader, linears[i - begin]));
    CVXQ_RETURN_IF_ERROR(reader.GetExactly(known[i - begin].row_class, plan.rows));
    CVXQ_RETURN_IF_ERROR(reader.GetExactly(known[i - begin].column_class, plan.columns));
    CVXQ_RETURN_IF_ERROR(reader.Get(shifts[i - begin]));
  }
  SymbolCounts counts;
  std::vector<uint64_t> all;
  CVXQ_RETURN_IF_ERROR(reader.GetExactly(all, static_cast<int64_t>(counts.all().size())));
  for (size_t i = 0; i < all.size(); ++i) counts.Set(i, all[i]);
  CVXQ_RETURN_IF_ERROR(reader.Finish());
  for (size_t i = begin; i < end; ++i) {
    std::move(linears[i - begin]).MoveTo(context_.plans[i]);
    known_[i] = std::move(known[i - begin]);
    class_shift_[i] = shifts[i - begin];
  }
  counts_[block] = std::move(counts);
  AppendAnswer(block, answer);
  return absl::OkStatus();
}

StatusOr<EntropyLinears::Outcome> EntropyLinears::CodeLinear(const EntropyOrder& order,
                                                             double log2_delta, size_t index) {
  LinearPlan& plan = context_.plans[index];
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Linear> linear, Load(plan, /*factors=*/true));
  linear->input.delta = std::exp2(log2_delta);
  ScaledCodes codes = StartScaledCodes(linear->input);
  if (known_[index].row_class.empty()) {
    ForeseeClasses(linear->input, codes);
    for (int8_t& row_class : codes.row_class) row_class += order.class_shift;
  } else {
    codes.row_class = known_[index].row_class;
    codes.column_class = known_[index].column_class;
  }
  Outcome outcome;
  const double foreseen_class = MeanClass(codes);
  CVXQ_ASSIGN_OR_RETURN(plan.distortion,
                        CodeEntropy(linear->input, prices_, context_.rounder, codes));
  AssignClasses(codes);
  if (order.tables != nullptr) {
    RefineClasses(codes, *order.tables);
  } else {
    outcome.class_shift = MeanClass(codes) - foreseen_class;
  }
  known_[index] = {codes.row_class, codes.column_class};
  outcome.counts.Add(codes);
  if (order.tables != nullptr) {
    plan.SetPacked(SerializeScaledMatrix(codes, *order.tables));
    Tally(codes, plan);
  }
  return outcome;
}

Status EntropyLinears::CorrectBiases(const EntropyTables& tables) {
  return Each(0, context_.plans.size(), [&](size_t i) -> Status {
    LinearPlan& plan = context_.plans[i];
    if (plan.bias.empty()) return absl::OkStatus();
    CVXQ_ASSIGN_OR_RETURN(const std::vector<float> w, ReadWeights(context_.checkpoint, plan));
    CVXQ_ASSIGN_OR_RETURN(const ScaledMatrix matrix,
                          ParseScaledMatrix(plan.packed, tables, plan.rows, plan.columns));
    CVXQ_ASSIGN_OR_RETURN(plan.bias, CorrectedBias(context_.checkpoint, plan, w, Decode(matrix),
                                                   InputsOf(plan).mean));
    return absl::OkStatus();
  });
}

}  // namespace cvxq
