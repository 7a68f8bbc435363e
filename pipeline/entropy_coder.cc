// The codec `entropy`: one delta for the whole model, found by dual ascent.
//
//   survey   code some blocks at a foreseen delta: symbol statistics, and how the bits compare with
//            what was foreseen
//   code     all linears at the delta that this predicts; again if it is far off
//   trim     some linears once more at a slightly different delta, until the bytes meet the target
//
// Factors are made once and read back for each pass.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "pipeline/model_coder.h"
#include "pipeline/model_files.h"
#include "quant/entropy.h"
#include "quant/entropy_tables.h"
#include "quant/scaled_format.h"

namespace cvxq {
namespace {

constexpr int kMaxPasses = 12;
constexpr int64_t kSurveyStride = 4;  // every so many blocks are surveyed
// A trim changes delta by this many times what would do for all blocks at once, so that about one
// in so many is coded again. At most by kMaxTrim octaves: the loss grows with its square.
constexpr double kTrimFactor = 4, kMaxTrim = 0.05;
constexpr int64_t kSmallLinear = 1 << 20;  // weights; threads take one each

class EntropyCoder : public ModelCoder {
 public:
  explicit EntropyCoder(const QuantizeOptions& options) : options_(options) {}

  std::string name() const override { return "entropy"; }

  StatusOr<Feedback> ChooseFeedback(std::optional<Feedback> asked) override {
    if (options_.nominal) {
      return absl::InvalidArgumentError(
          "--nominal is for codes of whole bits; --codec entropy has none");
    }
    if (options_.partition == Partition::kRows) {
      return absl::InvalidArgumentError(
          "--partition is for groups of weights; --codec entropy has none");
    }
    feedback_ = asked.value_or(Feedback::kTwo);
    return feedback_;
  }

  StatisticsNeeds Needs() const override {
    return {.gradients = true,
            .input_factors = true,
            .center = true,
            .output_factors = feedback_ == Feedback::kTwo};
  }

  Status Plan(CodingContext& context, int64_t) override {
    for (LinearPlan& plan : context.plans) {
      plan.layout = {.rows = plan.rows, .columns = plan.columns, .cluster_size = plan.rows};
    }
    return absl::OkStatus();
  }

  // The trellis runs from the first row down, and so does the work.
  std::vector<int32_t> RowOrder(const LinearPlan&, int64_t first,
                                std::span<const float> diagonal) const override {
    return Downwards(first, static_cast<int64_t>(diagonal.size()));
  }

  Status Code(CodingContext& context) override {
    context_ = &context;
    for (LinearPlan& plan : context.plans) {
      plan.packed.clear();
      plan.suffix = kScaledSuffix;
      plan.bias.clear();
      if (InputsOf(plan).centered) plan.bias.resize(plan.rows);
    }
    tables_.reset();
    known_.assign(context.plans.size(), {});
    shift_.assign(context.plans.size(), 0);
    class_shift_ = 0;
    prices_ = PricesOf(nullptr);
    context.writer.Share({});
    CVXQ_RETURN_IF_ERROR(Foresee());
    const SizeTarget target(context);
    const double overhead = 8.0 * target.Counted();  // bits of everything but the matrices
    double budget = 8.0 * target.aim() - overhead;
    if (budget <= 0) return target.TooSmall(target.Counted(), "");
    const bool ample = budget > kMaxDepth * context.quantized_weights();  // more than is of use
    if (ample) budget = kMaxDepth * context.quantized_weights();
    double correction = 0.85;  // of the bits foreseen: what the trellis and real weights save
    double log2_delta = AscendDelta(foreseen_, correction, budget, kFirstLog2Delta);
    CVXQ_RETURN_IF_ERROR(Survey(log2_delta, correction));
    log2_delta = AscendDelta(foreseen_, correction, budget, log2_delta);
    CVXQ_RETURN_IF_ERROR(CodeAll(log2_delta));
    if (ample) CVXQ_RETURN_IF_ERROR(CodeAll(log2_delta));
    // Dual ascent on the bits that were coded, with the slope that the last passes have shown.
    double slope = -0.9 * context.quantized_weights();
    // The first pass had the statistics of the survey alone: a second one is always worth it.
    while (!ample && (passes_ == 1 || !target.Met())) {
      if (passes_ == kMaxPasses) {
        if (target.Counted() <= target.bytes()) break;
        return target.TooSmall(target.Counted(), "");
      }
      const double excess = 8.0 * static_cast<double>(target.Counted() - target.aim());
      const double step = -excess / slope;
      if (passes_ > 1 && std::abs(step) <= kMaxTrim / 2) {
        CVXQ_RETURN_IF_ERROR(Trim(target, step));
        continue;
      }
      CVXQ_RETURN_IF_ERROR(CodeAll(log2_delta + step));
      const double now = 8.0 * static_cast<double>(target.Counted() - target.aim());
      if (passes_ > 2 && step != 0)
        slope = std::clamp((now - excess) / step / context.quantized_weights(), -1.2, -0.15) *
                context.quantized_weights();
      log2_delta += step;
    }
    log2_lambda_ = 2 * log2_delta;
    return CorrectBiases();
  }

  StatusOr<std::vector<float>> Decoded(const LinearPlan& plan) const override {
    CVXQ_ASSIGN_OR_RETURN(const ScaledMatrix matrix,
                          ParseScaledMatrix(plan.packed, *tables_, plan.rows, plan.columns));
    return Decode(matrix);
  }

 private:
  // The order of work from row `first` down.
  static std::vector<int32_t> Downwards(int64_t first, int64_t rows) {
    std::vector<int32_t> order(rows);
    std::iota(order.rbegin(), order.rend(), static_cast<int32_t>(first));
    return order;
  }

  // One linear with all that coding it takes.
  struct Linear {
    std::vector<float> w, row_curvature, column_curvature;
    std::optional<CurvatureFactor> factor;
    std::vector<RowBlock> blocks;
    EntropyInput input;
  };

  const InputMoments& InputsOf(const LinearPlan& plan) const {
    return context_->inputs[plan.block][static_cast<int>(InputOf(plan.id))];
  }

  // Feedback has left errors along the mean input to the biases, where there are any.
  Status CorrectBiases() {
    return Each(0, context_->plans.size(), [&](size_t i) -> Status {
      LinearPlan& plan = context_->plans[i];
      if (plan.bias.empty()) return absl::OkStatus();
      CVXQ_ASSIGN_OR_RETURN(const std::vector<float> w, ReadWeights(context_->checkpoint, plan));
      CVXQ_ASSIGN_OR_RETURN(const std::vector<float> decoded, Decoded(plan));
      CVXQ_ASSIGN_OR_RETURN(
          plan.bias, CorrectedBias(context_->checkpoint, plan, w, decoded, InputsOf(plan).mean));
      return absl::OkStatus();
    });
  }

  StatusOr<std::unique_ptr<Linear>> Load(const LinearPlan& plan, bool factors) {
    auto linear = std::make_unique<Linear>();
    CVXQ_ASSIGN_OR_RETURN(linear->w, ReadWeights(context_->checkpoint, plan));
    const InputMoments& inputs = InputsOf(plan);
    linear->row_curvature =
        RowCurvature(plan, context_->gradients, context_->inputs, context_->outputs);
    if (feedback_ != Feedback::kTwo) {
      // Towards their mean, as H_O is: rows that calibration hardly excites must not be given up.
      const double mean =
          std::accumulate(linear->row_curvature.begin(), linear->row_curvature.end(), 0.0) /
          static_cast<double>(plan.rows);
      for (float& a : linear->row_curvature) {
        a = static_cast<float>((1 - options_.shrinkage) * a + options_.shrinkage * mean);
      }
    }
    linear->column_curvature = inputs.conditional;
    const bool dead = std::all_of(inputs.diagonal.begin(), inputs.diagonal.end(),
                                  [](float d) { return !(d > 0); });
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
            linear->blocks, LoadRowBlocks(context_->outputs[plan.block][static_cast<int>(plan.id)],
                                          context_->store));
      }
    } else {
      for (int64_t first = 0; first < plan.rows; first += kEntropyFreeRows) {
        linear->blocks.push_back(
            {Downwards(first, std::min(kEntropyFreeRows, plan.rows - first)), {}});
      }
    }
    if (factors && feedback_ != Feedback::kNone) {
      CVXQ_ASSIGN_OR_RETURN(linear->factor, LoadFactor(inputs, context_->store));
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

  Status Foresee() {
    auto phase = context_->progress.Start("foresee", static_cast<int64_t>(context_->plans.size()),
                                          "linears");
    std::vector<SpreadHistogram> parts(context_->plans.size());
    CVXQ_RETURN_IF_ERROR(Each(0, context_->plans.size(), [&](size_t i) -> Status {
      CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Linear> linear,
                            Load(context_->plans[i], /*factors=*/false));
      parts[i].Add(linear->input, StartScaledCodes(linear->input));
      phase.Advance();
      return absl::OkStatus();
    }));
    foreseen_ = SpreadHistogram();
    for (const SpreadHistogram& part : parts) foreseen_.Merge(part);
    phase.Done();
    return absl::OkStatus();
  }

  // Calls body(i) for plans [begin, end) in parallel; the first error in their order.
  template <typename Body>
  Status Each(size_t begin, size_t end, const Body& body) {
    std::vector<Status> status(end - begin);
    context_->pool.ParallelFor(static_cast<int64_t>(end - begin), [&](int64_t i) {
      status[i] = CheckInterrupted();
      if (status[i].ok()) status[i] = body(begin + i);
    });
    for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
    return absl::OkStatus();
  }

  // Codes the linears of one block of the model, small ones side by side; counts[i] takes the
  // symbols of the i-th.
  Status CodeBlock(size_t begin, size_t end, double log2_delta, bool serialize,
                   std::vector<SymbolCounts>& counts, Progress::Phase& phase) {
    const auto code = [&](size_t i) -> Status {
      LinearPlan& plan = context_->plans[i];
      CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Linear> linear, Load(plan, true));
      linear->input.delta = std::exp2(log2_delta);
      ScaledCodes codes = StartScaledCodes(linear->input);
      if (known_[i].row_class.empty()) {
        ForeseeClasses(linear->input, codes);
        for (int8_t& row_class : codes.row_class) row_class += class_shift_;
      } else {
        codes.row_class = known_[i].row_class;
        codes.column_class = known_[i].column_class;
      }
      const double foreseen_class = MeanClass(codes);
      plan.distortion = CodeEntropy(linear->input, prices_, context_->pool, codes);
      AssignClasses(codes);
      if (tables_) RefineClasses(codes, *tables_);
      if (!tables_) shift_[i] = MeanClass(codes) - foreseen_class;
      known_[i] = {codes.row_class, codes.column_class};
      counts[i].Add(codes);
      if (serialize) {
        plan.packed = SerializeScaledMatrix(codes, *tables_);
        Tally(codes, plan);
      }
      phase.Advance();
      return absl::OkStatus();
    };
    int64_t largest = 0;
    for (size_t i = begin; i < end; ++i) {
      largest = std::max(largest, context_->plans[i].rows * context_->plans[i].columns);
    }
    if (largest <= kSmallLinear) return Each(begin, end, code);
    for (size_t i = begin; i < end; ++i) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      CVXQ_RETURN_IF_ERROR(code(i));
    }
    return absl::OkStatus();
  }

  // [begin, end) of the plans of each block of the model.
  std::vector<std::pair<size_t, size_t>> Blocks() const {
    std::vector<std::pair<size_t, size_t>> blocks;
    const std::vector<LinearPlan>& plans = context_->plans;
    for (size_t i = 0; i < plans.size(); i = blocks.back().second) {
      size_t end = i;
      while (end < plans.size() && plans[end].block == plans[i].block) ++end;
      blocks.emplace_back(i, end);
    }
    return blocks;
  }

  static double MeanClass(const ScaledCodes& codes) {
    return std::accumulate(codes.row_class.begin(), codes.row_class.end(), 0.0) / codes.rows +
           std::accumulate(codes.column_class.begin(), codes.column_class.end(), 0.0) /
               codes.columns;
  }

  // What a plan tells of its codes: weights at each width of their code in bits.
  static void Tally(const ScaledCodes& codes, LinearPlan& plan) {
    plan.depth_histogram.fill(0);
    for (const int16_t k : codes.integers) {
      int width = 0;
      for (int magnitude = std::abs(k); magnitude > 0; magnitude >>= 1) ++width;
      ++plan.depth_histogram[std::min(width + (k != 0), kMaxDepth)];
    }
    plan.zero_weights = static_cast<double>(plan.depth_histogram[0]);
    plan.code_bytes = static_cast<int64_t>(plan.packed.size());
  }

  void Learn(const std::vector<SymbolCounts>& counts) {
    SymbolCounts all;
    for (const SymbolCounts& part : counts) all.Add(part);
    tables_ = EntropyTables::Train(all);
    prices_ = PricesOf(&*tables_);
    std::vector<uint8_t> bytes = tables_->Serialize();
    const int64_t size = static_cast<int64_t>(bytes.size());
    context_->writer.Share({{{std::string(kEntropyName), DType::kU8, {size}}, std::move(bytes)}});
  }

  // Codes some blocks twice: for statistics, and with them for the bits.
  Status Survey(double log2_delta, double& correction) {
    std::vector<std::pair<size_t, size_t>> blocks;
    const auto all = Blocks();
    int64_t linears = 0;
    for (size_t i = 0; i < all.size(); i += kSurveyStride) {
      blocks.push_back(all[i]);
      linears += static_cast<int64_t>(all[i].second - all[i].first);
    }
    auto phase = context_->progress.Start("survey", 2 * linears, "linears");
    for (const bool serialize : {false, true}) {
      std::vector<SymbolCounts> counts(context_->plans.size(), SymbolCounts());
      for (const auto& [begin, end] : blocks) {
        CVXQ_RETURN_IF_ERROR(CodeBlock(begin, end, log2_delta, serialize, counts, phase));
      }
      Learn(counts);
      if (serialize) continue;
      double shift = 0;
      for (const auto& [begin, end] : blocks) {
        for (size_t i = begin; i < end; ++i) shift += shift_[i] / static_cast<double>(linears);
      }
      class_shift_ = static_cast<int8_t>(std::round(std::clamp(shift, -20.0, 20.0)));
    }
    SpreadHistogram surveyed;
    double bytes = 0;
    for (const auto& [begin, end] : blocks) {
      for (size_t i = begin; i < end; ++i) {
        CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Linear> linear,
                              Load(context_->plans[i], /*factors=*/false));
        surveyed.Add(linear->input, StartScaledCodes(linear->input));
        bytes += static_cast<double>(context_->plans[i].packed.size());
      }
    }
    correction = 8 * bytes / surveyed.Bits(log2_delta);
    phase.Done();
    context_->watch.Lap("survey");
    return absl::OkStatus();
  }

  Status CodeAll(double log2_delta) {
    if (++passes_ > 1) Learn(counts_);
    auto phase =
        context_->progress.Start(passes_ == 1 ? "code" : absl::StrCat("code (pass ", passes_, ")"),
                                 static_cast<int64_t>(context_->plans.size()), "linears");
    counts_.assign(context_->plans.size(), SymbolCounts());
    const auto blocks = Blocks();
    block_delta_.assign(blocks.size(), log2_delta);
    for (const auto& [begin, end] : blocks) {
      CVXQ_RETURN_IF_ERROR(CodeBlock(begin, end, log2_delta, true, counts_, phase));
    }
    phase.Done(BitsNow());
    context_->watch.Lap("code");
    return absl::OkStatus();
  }

  // Codes blocks again, the next ones each time, until the target is met: `step` octaves of all
  // blocks' delta would do it.
  Status Trim(const SizeTarget& target, double step) {
    ++passes_;
    const auto blocks = Blocks();
    const double change = std::clamp(kTrimFactor * step, -kMaxTrim, kMaxTrim);
    auto phase = context_->progress.Start(absl::StrCat("trim (pass ", passes_, ")"), 0, "linears");
    std::vector<SymbolCounts> counts(context_->plans.size(), SymbolCounts());
    for (size_t i = 0; i < blocks.size() && !target.Met(); ++i) {
      const size_t next = next_trim_++ % blocks.size();
      block_delta_[next] += change;
      CVXQ_RETURN_IF_ERROR(CodeBlock(blocks[next].first, blocks[next].second, block_delta_[next],
                                     true, counts, phase));
      // What the last blocks leave is less than one block's share: the next trim is finer.
      const double left = static_cast<double>(target.Counted() - target.aim());
      if ((left > 0) != (change > 0)) break;
    }
    phase.Done(BitsNow());
    context_->watch.Lap("trim");
    return absl::OkStatus();
  }

  std::string BitsNow() const {
    return absl::StrFormat("%.4f bits a weight",
                           8.0 * context_->writer.PackedBytes() / context_->quantized_weights());
  }

  static constexpr double kFirstLog2Delta = -10;  // anywhere: the ascent finds its way

  const QuantizeOptions& options_;
  CodingContext* context_ = nullptr;
  Feedback feedback_ = Feedback::kTwo;
  SpreadHistogram foreseen_;
  struct Classes {
    std::vector<int8_t> row_class, column_class;
  };
  std::vector<SymbolCounts> counts_;  // of each plan in the last pass over all
  std::vector<double> block_delta_;   // log2 delta of each block as it is coded
  size_t next_trim_ = 0;
  int8_t class_shift_ = 0;      // from foreseen classes to those that feedback makes
  std::vector<double> shift_;   // of each plan
  std::vector<Classes> known_;  // of each plan, as it was coded last
  std::optional<EntropyTables> tables_;
  TrellisPrices prices_;
};

}  // namespace

std::unique_ptr<ModelCoder> MakeEntropyCoder(const QuantizeOptions& options) {
  return std::make_unique<EntropyCoder>(options);
}

}  // namespace cvxq
