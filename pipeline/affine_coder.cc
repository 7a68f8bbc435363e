// The codecs `rtn`, `gptq`, `awq` and `owq`: one width everywhere, scales for groups of columns, as
// their papers have them. For comparison, and for engines that load nothing else.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "pipeline/job_steps.h"
#include "pipeline/linear_blocks.h"
#include "pipeline/model_coder.h"
#include "pipeline/model_files.h"
#include "quant/affine_codecs.h"
#include "quant/affine_format.h"

namespace cvxq {
namespace {

class AffineCoder : public ModelCoder {
 public:
  explicit AffineCoder(const QuantizeOptions& options) : options_(options), codec_(options.codec) {}

  std::string name() const override {
    return codec_ == CodecKind::kRtn    ? "rtn"
           : codec_ == CodecKind::kGptq ? "gptq"
           : codec_ == CodecKind::kAwq  ? "awq"
                                        : "owq";
  }

  StatusOr<Feedback> ChooseFeedback(std::optional<Feedback> asked) override {
    if (!options_.bits) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--codec %s takes --bits, the width of a code, not --size", name()));
    }
    const bool fractional = codec_ == CodecKind::kOwq;
    if (*options_.bits < 2 || *options_.bits > 8 ||
        (!fractional && *options_.bits != std::floor(*options_.bits))) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--codec %s takes --bits of 2 to 8%s, not %g", name(),
                          fractional ? "" : ", a whole number", *options_.bits));
    }
    const bool feeds = codec_ == CodecKind::kGptq || codec_ == CodecKind::kOwq;
    feedback_ = asked.value_or(feeds ? Feedback::kOne : Feedback::kNone);
    if (feedback_ != Feedback::kNone && !feeds) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--codec %s has no error feedback; use --feedback none or --codec gptq", name()));
    }
    if (codec_ == CodecKind::kGptq && feedback_ == Feedback::kNone) {
      return absl::InvalidArgumentError("--codec gptq without feedback is --codec rtn");
    }
    if (codec_ == CodecKind::kOwq && feedback_ != Feedback::kOne) {
      return absl::InvalidArgumentError("--codec owq has --feedback one and no other");
    }
    return feedback_;
  }

  StatisticsNeeds Needs() const override {
    const bool papers = codec_ == CodecKind::kGptq && feedback_ == Feedback::kOne;
    return {.gradients = feedback_ == Feedback::kTwo,
            .input_factors = codec_ != CodecKind::kRtn,
            .order = papers ? WorkOrder::kFirstFirst : WorkOrder::kLargestFirst,
            .output_factors = feedback_ == Feedback::kTwo};
  }

  Status Plan(const StageContext&, int64_t) override { return absl::OkStatus(); }

  // The largest first: with one width everywhere they should carry no errors of others.
  std::vector<int32_t> RowOrder(const LinearPlan&, int64_t first,
                                std::span<const float> diagonal) const override {
    std::vector<int32_t> order(diagonal.size());
    std::iota(order.begin(), order.end(), 0);
    const auto key = [&](int32_t i) { return std::isfinite(diagonal[i]) ? diagonal[i] : 0.0f; };
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return key(a) < key(b); });
    for (int32_t& row : order) row += static_cast<int32_t>(first);
    return order;
  }

  // Linears of one input are coded together: they share its factor and, with awq, its scales.
  std::unique_ptr<BlockCoder> Blocks(const StageContext& context) override {
    return std::make_unique<LinearBlocks>(
        context,
        [this](const StageContext& stage, std::span<LinearPlan> plans,
               Progress::Phase& phase) -> Status {
          for (const auto& [begin, end] : InputRuns(plans)) {
            CVXQ_RETURN_IF_ERROR(CodeRun(stage, plans.subspan(begin, end - begin), phase));
          }
          return absl::OkStatus();
        });
  }

  Status Code(CodingContext& context) override {
    context.writer.Share({});
    for (LinearPlan& plan : context.plans) {
      plan.suffix = kAffineSuffix;
      plan.SetPacked({});  // of the iteration before
    }
    auto phase =
        context.progress.Start("code", static_cast<int64_t>(context.plans.size()), "linears");
    CVXQ_RETURN_IF_ERROR(CodeAllBlocks(context, phase));
    phase.Done(absl::StrFormat("%.4f bits a weight",
                               8.0 * context.writer.PackedBytes() / context.quantized_weights()));
    passes_ = 1;
    context.watch.Lap("code");
    return context.steps.Collect(nullptr, context.plans);
  }

  StatusOr<std::vector<float>> Decoded(const LinearPlan& plan) const override {
    CVXQ_ASSIGN_OR_RETURN(const AffineMatrix matrix, ParseAffineMatrix(plan.packed));
    return Decode(matrix);
  }

 private:
  Status CodeRun(const StageContext& context, std::span<LinearPlan> plans, Progress::Phase& phase) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    std::optional<CurvatureFactor> factor;
    const InputMoments* moments = nullptr;
    if (codec_ != CodecKind::kRtn) {
      moments = &context.inputs[plans[0].block][static_cast<int>(InputOf(plans[0].id))];
      CVXQ_ASSIGN_OR_RETURN(factor, LoadFactor(*moments, context.store));
    }
    std::vector<std::vector<float>> weights;
    std::vector<AffineInput> inputs;
    for (const LinearPlan& plan : plans) {
      CVXQ_ASSIGN_OR_RETURN(weights.emplace_back(), ReadWeights(context.checkpoint, plan));
      inputs.push_back({.w = weights.back().data(),
                        .rows = plan.rows,
                        .columns = plan.columns,
                        .bits = static_cast<int>(*options_.bits),
                        .group = std::min(options_.group, plan.columns),
                        .inputs = factor ? &*factor : nullptr});
    }
    int exponent = 0;
    if (codec_ == CodecKind::kAwq) {
      AwqErrors errors{};
      for (const AffineInput& input : inputs) {
        const AwqErrors of_linear = MeasureAwqErrors(input, moments->diagonal, context.pool);
        for (size_t e = 0; e < errors.size(); ++e) errors[e] += of_linear[e];
      }
      exponent = BestAwqExponent(errors);
    }
    for (size_t i = 0; i < plans.size(); ++i) {
      LinearPlan& plan = plans[i];
      CVXQ_ASSIGN_OR_RETURN(const AffineMatrix matrix,
                            CodeOne(context, plan, inputs[i], moments, exponent));
      plan.SetPacked(SerializeAffineMatrix(matrix));
      plan.code_bytes = CodeBytes(matrix);
      plan.depth_histogram.fill(0);
      plan.depth_histogram[matrix.bits] = plan.rows * plan.columns;
      phase.Advance();
    }
    return absl::OkStatus();
  }

  StatusOr<AffineMatrix> CodeOne(const StageContext& context, const LinearPlan& plan,
                                 const AffineInput& input, const InputMoments* moments,
                                 int exponent) const {
    switch (codec_) {
      case CodecKind::kAwq: {
        const bool clip = plan.id != LinearId::kQuery && plan.id != LinearId::kKey;
        return CodeAwq(input, moments->diagonal, exponent, clip, context.pool);
      }
      case CodecKind::kOwq:
        return CodeOwq(input, moments->diagonal, *options_.bits, context.pool, context.rounder);
      case CodecKind::kGptq: {
        std::vector<RowBlock> blocks;
        if (feedback_ == Feedback::kTwo) {
          CVXQ_ASSIGN_OR_RETURN(
              blocks,
              LoadRowBlocks(context.outputs[plan.block][static_cast<int>(plan.id)], context.store));
        } else {
          RowBlock& all = blocks.emplace_back();
          all.rows.resize(plan.rows);
          std::iota(all.rows.begin(), all.rows.end(), 0);
        }
        return CodeGptq(input, blocks,
                        feedback_ == Feedback::kTwo ? GroupRange::kTrimmed : GroupRange::kReached,
                        context.pool, context.rounder);
      }
      default:
        return CodeRtn(input, context.pool);
    }
  }

  const QuantizeOptions& options_;
  const CodecKind codec_;
  Feedback feedback_ = Feedback::kNone;
};

}  // namespace

std::unique_ptr<ModelCoder> MakeAffineCoder(const QuantizeOptions& options) {
  return std::make_unique<AffineCoder>(options);
}

}  // namespace cvxq
