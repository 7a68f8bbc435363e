#include "pipeline/coding.h"

#include <optional>

#include "base/interrupt.h"
#include "quant/codec.h"
#include "quant/packed_format.h"

namespace cvxq {
namespace {

StatusOr<std::vector<float>> CorrectedBias(const Checkpoint& checkpoint, const LinearPlan& plan,
                                           const std::vector<float>& w,
                                           const std::vector<float>& decoded,
                                           const std::vector<float>& mean_input) {
  std::vector<float> bias(plan.rows, 0.0f);
  if (const HostTensor* old = checkpoint.Find(plan.name + ".bias"); old != nullptr) {
    CVXQ_ASSIGN_OR_RETURN(bias, ToFloats(*old));
  }
  for (int64_t r = 0; r < plan.rows; ++r) {
    double shift = 0;
    for (int64_t k = 0; k < plan.columns; ++k) {
      const int64_t at = r * plan.columns + k;
      shift += static_cast<double>(decoded[at] - w[at]) * mean_input[k];
    }
    bias[r] = static_cast<float>(bias[r] - shift);
  }
  return bias;
}

}  // namespace

Status CodePlans(const CodingOptions& options, const LevelTables& tables,
                 const Checkpoint& checkpoint, const ModelMoments& moments, const SpillStore& store,
                 ThreadPool& pool, Progress::Phase& progress, std::vector<LinearPlan>& plans) {
  std::optional<CurvatureFactor> factor;
  std::pair<int64_t, InputId> factor_of;
  for (LinearPlan& plan : plans) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    const std::pair<int64_t, InputId> input(plan.block, InputOf(plan.id));
    if (options.feedback && (!factor || factor_of != input)) {
      CVXQ_ASSIGN_OR_RETURN(factor,
                            LoadFactor(moments[plan.block][static_cast<int>(input.second)], store));
      factor_of = input;
    }
    CVXQ_ASSIGN_OR_RETURN(const std::vector<float> w, ReadWeights(checkpoint, plan));
    const CodecInput input_of_codec{.w = w.data(),
                                    .layout = &plan.layout,
                                    .depth = &plan.depth,
                                    .inputs = options.feedback ? &*factor : nullptr,
                                    .tables = &tables,
                                    .scale_steps = options.scale_steps};
    const PackedMatrix matrix = options.codec == CodecKind::kLloyd
                                    ? CodeLloyd(input_of_codec, pool)
                                    : CodeCompanded(input_of_codec, pool);
    plan.packed = SerializePackedMatrix(matrix, options.scale_steps, /*table_family=*/0);
    plan.code_bytes = static_cast<int64_t>(matrix.codes.size());
    plan.zero_weights = 0;
    for (size_t g = 0; g < matrix.depth.size(); ++g) {
      if (matrix.depth[g] == 0) {
        plan.zero_weights += plan.layout.members_in(g / plan.layout.line_count());
      }
    }
    if (options.bias_correction) {
      CVXQ_ASSIGN_OR_RETURN(
          plan.bias, CorrectedBias(checkpoint, plan, w, Decode(matrix),
                                   moments[plan.block][static_cast<int>(InputOf(plan.id))].mean));
    }
    progress.Advance();
  }
  return absl::OkStatus();
}

}  // namespace cvxq
