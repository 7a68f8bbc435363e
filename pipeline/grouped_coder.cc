// The codecs `lloyd` and `companded`: groups of weights of one depth and scale, depths by dual
// ascent over the whole model.
//
//   (allocate -> code)* until the bytes meet the target: side information is known only after
//   coding
#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "pipeline/job_steps.h"
#include "pipeline/linear_blocks.h"
#include "pipeline/model_coder.h"
#include "pipeline/model_files.h"
#include "quant/codec.h"
#include "quant/packed_format.h"

namespace cvxq {
namespace {

constexpr int kMaxPasses = 8;
constexpr int kFeedbackRounds = 3;  // of allocation, each with the noise of the last one's depths
constexpr int64_t kDefaultClusterRows = 64;
constexpr int kLloydScaleSteps = 4, kCompandedScaleSteps = 16;

class GroupedCoder : public ModelCoder {
 public:
  explicit GroupedCoder(const QuantizeOptions& options)
      : options_(options),
        lloyd_(options.codec == CodecKind::kLloyd),
        tables_(lloyd_ ? LloydMaxTables(2.0) : CompanderTables()) {}

  std::string name() const override { return lloyd_ ? "lloyd" : "companded"; }

  StatusOr<Feedback> ChooseFeedback(std::optional<Feedback> asked) override {
    feedback_ = asked.value_or(lloyd_ ? Feedback::kTwo : Feedback::kNone);
    if (feedback_ != Feedback::kNone && !lloyd_) {
      return absl::InvalidArgumentError(
          "--codec companded has no error feedback; use --feedback none or --codec lloyd");
    }
    return feedback_;
  }

  // Group sums are what the papers allocate by; under feedback sums over rows are enough.
  StatisticsNeeds Needs() const override {
    return {.gradients = true,
            .group_gradients = feedback_ == Feedback::kNone || by_rows(),
            .input_factors = feedback_ != Feedback::kNone,
            .center = true,
            .input_means = !lloyd_,
            .output_factors = feedback_ == Feedback::kTwo};
  }

  Status Plan(const StageContext& context, int64_t output_block) override {
    const int64_t cluster = options_.group_rows.value_or(kDefaultClusterRows);
    return PlanGroups(context.checkpoint, context.gradients, options_.partition, cluster,
                      feedback_ == Feedback::kTwo && !by_rows() ? output_block : 0, context.pool,
                      context.plans);
  }

  std::vector<int32_t> RowOrder(const LinearPlan& plan, int64_t first,
                                std::span<const float> diagonal) const override {
    const int64_t rows = static_cast<int64_t>(diagonal.size());
    std::vector<int32_t> order(rows);
    for (int64_t i = 0; i < rows; ++i) {
      order[i] = by_rows() ? static_cast<int32_t>(first + i) : plan.layout.members[first + i];
    }
    return order;
  }

  std::unique_ptr<BlockCoder> Blocks(const StageContext& context) override {
    return std::make_unique<LinearBlocks>(
        context, [this](const StageContext& stage, std::span<LinearPlan> plans,
                        Progress::Phase& phase) { return CodeBlock(stage, plans, phase); });
  }

  Status Code(CodingContext& context) override {
    for (LinearPlan& plan : context.plans) {  // of the iteration before
      plan.depth.clear();
      plan.SetPacked({});
      plan.bias.clear();
      plan.suffix = kPackedSuffix;
    }
    context.writer.Share({TablesTensor({tables_.table})});
    if (feedback_ != Feedback::kNone) {
      const StageContext& whole = *context.whole;
      PlanRowGradients(whole.gradients, whole.inputs, whole.outputs, whole.plans);
    }
    const double weights = context.quantized_weights();
    if (options_.nominal) {
      CVXQ_RETURN_IF_ERROR(
          Allocate(context, static_cast<int64_t>(std::floor(*options_.bits * weights)), true));
      CVXQ_RETURN_IF_ERROR(CodeAll(context, 1));
      return context.steps.Collect(nullptr, context.plans);
    }
    const SizeTarget target(context);
    const std::string advice = ", or raise --group-rows";
    // Bytes beside the allocated bits: at first a guess, then what the last pass has shown.
    int64_t beside = target.Counted() + static_cast<int64_t>(weights * 0.02 / 8);
    for (int pass = 1;; ++pass) {
      const int64_t budget = (target.aim() - beside) * 8;
      if (budget < 0) return target.TooSmall(beside, advice);
      CVXQ_RETURN_IF_ERROR(Allocate(context, budget, pass == 1));
      CVXQ_RETURN_IF_ERROR(CodeAll(context, pass));
      target.Tell(log2_lambda_);
      const int64_t counted = target.Counted();
      const bool all_depths_full = allocation_.bits + 8 * kMaxDepth < budget &&
                                   allocation_.bits >= static_cast<int64_t>(weights) * kMaxDepth;
      if (target.Met() || (counted <= target.bytes() && all_depths_full)) break;
      if (pass == kMaxPasses) {
        if (counted <= target.bytes()) break;
        return target.TooSmall(counted, advice);
      }
      beside = counted - allocation_.bits / 8;
    }
    return context.steps.Collect(nullptr, context.plans);
  }

  StatusOr<std::vector<float>> Decoded(const LinearPlan& plan) const override {
    CVXQ_ASSIGN_OR_RETURN(const PackedMatrix matrix,
                          ParsePackedMatrix(plan.packed, std::vector<TableSet>{tables_.table}));
    return Decode(matrix);
  }

 private:
  bool by_rows() const { return options_.partition == Partition::kRows; }

  Status Allocate(CodingContext& context, int64_t budget_bits, bool first) {
    const bool by_feedback = feedback_ != Feedback::kNone && !by_rows();
    const int rounds = by_feedback && first ? kFeedbackRounds + 1 : 1;
    for (int round = 0; round < rounds; ++round) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      if (first) {
        CVXQ_RETURN_IF_ERROR(PlanImportance(by_feedback ? ImportanceKind::kFeedback
                                            : lloyd_    ? ImportanceKind::kGroupSquare
                                                        : ImportanceKind::kGroup,
                                            /*average=*/round >= 2, tables_.distortion,
                                            context.whole->inputs, context.whole->store,
                                            context.whole->pool, context.plans));
      }
      allocation_ = PlanDepths(DepthModel::Paper(0), budget_bits, context.plans);
    }
    log2_lambda_ = allocation_.log2_lambda;
    return absl::OkStatus();
  }

  Status CodeAll(CodingContext& context, int pass) {
    auto phase = context.progress.Start(pass == 1 ? "code" : absl::StrCat("code (pass ", pass, ")"),
                                        static_cast<int64_t>(context.plans.size()), "linears");
    CVXQ_RETURN_IF_ERROR(CodeAllBlocks(context, phase));
    for (LinearPlan& plan : context.plans) {  // those of an earlier run had biases as well
      if (NewBias(MomentsOf(*context.whole, plan))) plan.bias.resize(plan.rows);
    }
    phase.Done(absl::StrFormat("%.4f bits a weight",
                               8.0 * context.writer.PackedBytes() / context.quantized_weights()));
    ++passes_;
    context.watch.Lap("code");
    return absl::OkStatus();
  }

  static const InputMoments* MomentsOf(const StageContext& context, const LinearPlan& plan) {
    if (context.inputs.empty()) return nullptr;
    return &context.inputs[plan.block][static_cast<int>(InputOf(plan.id))];
  }

  bool NewBias(const InputMoments* moments) const {
    return !lloyd_ || (moments != nullptr && moments->centered);
  }

  // Linears of one block, at the depths that they have.
  Status CodeBlock(const StageContext& context, std::span<LinearPlan> plans,
                   Progress::Phase& phase) {
    std::optional<CurvatureFactor> factor;
    const InputMoments* factor_of = nullptr;
    for (LinearPlan& plan : plans) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      const InputMoments* moments = MomentsOf(context, plan);
      if (feedback_ != Feedback::kNone && factor_of != moments) {
        CVXQ_ASSIGN_OR_RETURN(factor, LoadFactor(*moments, context.store));
        factor_of = moments;
      }
      std::vector<RowBlock> blocks;
      if (feedback_ == Feedback::kTwo) {
        CVXQ_ASSIGN_OR_RETURN(
            blocks,
            LoadRowBlocks(context.outputs[plan.block][static_cast<int>(plan.id)], context.store));
      }
      CVXQ_ASSIGN_OR_RETURN(const std::vector<float> w, ReadWeights(context.checkpoint, plan));
      const CodecInput codec_input{.w = w.data(),
                                   .layout = &plan.layout,
                                   .depth = &plan.depth,
                                   .inputs = factor ? &*factor : nullptr,
                                   .blocks = blocks,
                                   .tables = &tables_,
                                   .scale_steps = scale_steps()};
      PackedMatrix matrix;
      if (lloyd_) {
        CVXQ_ASSIGN_OR_RETURN(matrix, CodeLloyd(codec_input, context.pool, context.rounder));
      } else {
        matrix = CodeCompanded(codec_input, context.pool);
      }
      Keep(matrix, plan);
      if (NewBias(moments)) {
        CVXQ_ASSIGN_OR_RETURN(
            plan.bias, CorrectedBias(context.checkpoint, plan, w, Decode(matrix), moments->mean));
      }
      phase.Advance();
    }
    return absl::OkStatus();
  }

  void Keep(const PackedMatrix& matrix, LinearPlan& plan) const {
    plan.SetPacked(SerializePackedMatrix(matrix, scale_steps(), /*table_family=*/0));
    plan.code_bytes = static_cast<int64_t>(matrix.codes.size());
    plan.zero_weights = plan.distortion = 0;
    plan.depth_histogram.fill(0);
    for (size_t g = 0; g < matrix.depth.size(); ++g) {
      const int64_t weights = plan.layout.members_in(g / plan.layout.line_count());
      plan.depth_histogram[plan.depth[g]] += weights;
      if (matrix.depth[g] == 0) plan.zero_weights += weights;
      if (!std::isfinite(plan.log2_importance[g])) continue;
      plan.distortion += 0.5 * static_cast<double>(weights) * std::exp2(plan.log2_importance[g]) *
                         tables_.distortion[plan.depth[g]];
    }
  }

  int scale_steps() const { return lloyd_ ? kLloydScaleSteps : kCompandedScaleSteps; }

  const QuantizeOptions& options_;
  const bool lloyd_;
  const LevelTables tables_;
  Feedback feedback_ = Feedback::kNone;
  Allocation allocation_;
};

}  // namespace

std::unique_ptr<ModelCoder> MakeGroupedCoder(const QuantizeOptions& options) {
  return std::make_unique<GroupedCoder>(options);
}

}  // namespace cvxq
