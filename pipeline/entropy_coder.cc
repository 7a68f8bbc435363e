// The codec `entropy`: one delta for the whole model, found by dual ascent (entropy_rate.h), and
// all linears coded at it (entropy_linears.h). Factors are made once and read back for each pass.
#include <optional>

#include "absl/strings/str_format.h"
#include "pipeline/entropy_linears.h"
#include "pipeline/entropy_rate.h"
#include "pipeline/job_steps.h"
#include "pipeline/model_coder.h"
#include "quant/scaled_format.h"

namespace cvxq {
namespace {

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

  Status Plan(const StageContext&, int64_t) override { return absl::OkStatus(); }

  std::vector<int32_t> RowOrder(const LinearPlan&, int64_t first,
                                std::span<const float> diagonal) const override {
    return EntropyRowOrder(first, static_cast<int64_t>(diagonal.size()));
  }

  std::unique_ptr<BlockCoder> Blocks(const StageContext& context) override {
    return std::make_unique<EntropyLinears>(context, feedback_);
  }

  Status Code(CodingContext& context) override {
    StartEntropyPlans(context.spec, context.plans);
    EntropyRate rate(context);
    std::optional<Progress::Phase> phase;
    std::string phase_name;
    const auto coded = [&] { return phase_name != "foresee" && phase_name != "survey"; };
    const auto finish = [&] {
      if (!phase) return;
      phase->Done(coded()
                      ? absl::StrFormat("%.4f bits a weight", 8.0 * context.writer.PackedBytes() /
                                                                  context.quantized_weights())
                      : "");
      context.watch.Lap(phase_name.substr(0, phase_name.find(' ')));
    };
    CVXQ_ASSIGN_OR_RETURN(EntropyOrder order, rate.Start());
    while (order.kind != EntropyOrder::Kind::kDone) {
      if (order.phase != phase_name) {
        finish();
        phase_name = order.phase;
        phase.emplace(context.progress.Start(phase_name, Linears(context, order), "linears"));
      }
      CVXQ_ASSIGN_OR_RETURN(const EntropyAnswer answer, context.steps.CarryOut(order, *phase));
      const double log2_lambda = 2 * rate.log2_delta();
      StatusOr<EntropyOrder> next = rate.Next(answer);
      if (coded()) SizeTarget(context).Tell(log2_lambda);
      if (!next.ok()) finish();
      CVXQ_ASSIGN_OR_RETURN(order, std::move(next));
    }
    finish();
    tables_ = rate.tables();
    passes_ += rate.passes();
    log2_lambda_ = 2 * rate.log2_delta();
    return context.steps.Collect(tables_.get(), context.plans);
  }

  StatusOr<std::vector<float>> Decoded(const LinearPlan& plan) const override {
    CVXQ_ASSIGN_OR_RETURN(const ScaledMatrix matrix,
                          ParseScaledMatrix(plan.packed, *tables_, plan.rows, plan.columns));
    return Decode(matrix);
  }

 private:
  // What a phase that begins with this order has to do; 0 where that is not known.
  static int64_t Linears(const CodingContext& context, const EntropyOrder& order) {
    const int64_t each = static_cast<int64_t>(context.spec.linears().size());
    const int64_t count = static_cast<int64_t>(order.blocks.size()) * each;
    if (order.phase == "survey") return 2 * count;
    return order.phase.starts_with("trim") ? 0 : count;
  }

  const QuantizeOptions& options_;
  Feedback feedback_ = Feedback::kTwo;
  std::shared_ptr<const EntropyTables> tables_;
};

}  // namespace

std::unique_ptr<ModelCoder> MakeEntropyCoder(const QuantizeOptions& options) {
  return std::make_unique<EntropyCoder>(options);
}

}  // namespace cvxq
