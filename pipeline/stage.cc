#include "pipeline/stage.h"

#include <algorithm>
#include <limits>

#include "pipeline/stage_times.h"

namespace cvxq {
namespace {

std::vector<LinearPlan> PlansOf(const ArchSpec& spec, BlockRange blocks) {
  std::vector<LinearPlan> plans = MakePlans(spec);
  std::erase_if(plans, [&](const LinearPlan& plan) {
    return plan.block < blocks.begin || plan.block >= blocks.end;
  });
  return plans;
}

// Blocks whose second moments fit in so many bytes together, at least one.
int64_t BlocksAtOnce(const ArchSpec& spec, int64_t memory) {
  std::array<bool, kInputCount> seen{};
  int64_t bytes = 0;
  for (const LinearId id : spec.linears()) {
    if (std::exchange(seen[static_cast<int>(InputOf(id))], true)) continue;
    bytes += spec.columns(id) * spec.columns(id) * static_cast<int64_t>(sizeof(float));
  }
  return std::max<int64_t>(1, memory / bytes);
}

}  // namespace

double HeadBlocks(const ArchSpec& spec) {
  const double head = static_cast<double>(spec.vocabulary * spec.embedding_dim);
  std::array<double, kInputCount> width{};
  double weights = 0, moments = 0;
  for (const LinearId id : spec.linears()) {
    weights += static_cast<double>(spec.rows(id) * spec.columns(id));
    width[static_cast<int>(InputOf(id))] = static_cast<double>(spec.columns(id));
  }
  for (const double n : width) moments += n * n;
  // Products of a token: a block goes forward for gradients, again on the way back, and for
  // moments, has two on the way back, and the second moments of its inputs; the head one forward,
  // one back.
  return 2 * head / (5 * weights + moments);
}

std::vector<BlockRange> CutStages(const ArchSpec& spec, int64_t stages) {
  const int64_t layers = spec.layers;
  stages = std::clamp<int64_t>(stages, 1, layers);
  // All blocks cost the same: only how many of them the last stage has is to be found.
  int64_t last = layers;
  if (stages > 1) {
    double least = std::numeric_limits<double>::infinity();
    for (int64_t blocks = 1; blocks <= layers - stages + 1; ++blocks) {
      const int64_t others = (layers - blocks + stages - 2) / (stages - 1);
      const double most =
          std::max(static_cast<double>(others), static_cast<double>(blocks) + HeadBlocks(spec));
      if (most > least) continue;
      least = most;
      last = blocks;
    }
  }
  std::vector<BlockRange> ranges;
  for (int64_t stage = 0; stage + 1 < stages; ++stage) {
    const int64_t rest = layers - last;
    ranges.push_back({rest * stage / (stages - 1), rest * (stage + 1) / (stages - 1)});
  }
  ranges.push_back({layers - last, layers});
  return ranges;
}

Stage::Stage(const StageJob& job, const StagePlace& place, int threads, int64_t memory)
    : job_(job),
      place_(place),
      memory_(memory),
      pool_(threads),
      backend_(MakeCpuBackend(threads)),
      store_(job.spill_folder, memory / 2),
      plans_(PlansOf(job.files.spec, place.blocks)),
      context_{job.options,    *job.files.checkpoint,
               job.files.spec, gradients_,
               inputs_,        outputs_,
               store_,         pool_,
               plans_} {}

StatusOr<std::unique_ptr<Model>> Stage::LoadModel() {
  return Model::Load(job_.files.spec, *job_.files.weights,
                     {.compute = job_.compute, .resident_bytes = memory_ / 2}, *backend_);
}

Status Stage::Gradients(Progress::Phase& progress) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel());
  CVXQ_ASSIGN_OR_RETURN(
      gradients_,
      CollectGradients(*model, job_.calibration, job_.gradients,
                       {.output_block = job_.needs.output_factors ? job_.output_block : 0,
                        .token_squares = job_.needs.output_factors},
                       progress, &place_));
  if (!job_.needs.output_factors) return absl::OkStatus();
  const auto order = [](int64_t, LinearId, int64_t first, std::span<const float> diagonal) {
    return EntropyRowOrder(first, static_cast<int64_t>(diagonal.size()));
  };
  const StageTimes::Timer timer(place_.times, StageTask::kFactorOutputs, place_.blocks.size());
  CVXQ_ASSIGN_OR_RETURN(
      outputs_, FactorOutputMoments(job_.files.spec, place_.blocks, job_.output_block,
                                    job_.options.shrinkage, order, gradients_, pool_, store_));
  return absl::OkStatus();
}

Status Stage::Moments(Progress::Phase& progress) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel());
  TokenWeights weights;
  if (job_.needs.output_factors) weights = WeighTokens(gradients_);
  MomentOptions options{.factor = job_.needs.input_factors,
                        .order = job_.needs.order,
                        .damping = job_.options.damping,
                        .center = job_.needs.center,
                        .weights = weights.empty() ? nullptr : &weights};
  const bool alone = place_.before == nullptr && place_.after == nullptr;
  if (!alone) options.blocks_at_once = BlocksAtOnce(job_.files.spec, memory_ / 2);
  CVXQ_ASSIGN_OR_RETURN(inputs_, CollectInputMoments(*model, job_.calibration, options, pool_,
                                                     store_, progress, &place_));
  return absl::OkStatus();
}

StatusOr<EntropyAnswer> Stage::CarryOut(const EntropyOrder& order, Progress::Phase& phase) {
  if (!linears_) linears_.emplace(context_, job_.feedback);
  EntropyOrder own = order;
  std::erase_if(own.blocks, [&](const EntropyOrder::Block& block) {
    return block.block < place_.blocks.begin || block.block >= place_.blocks.end;
  });
  const bool codes = order.kind == EntropyOrder::Kind::kCode;
  const StageTimes::Timer timer(place_.times, codes ? StageTask::kCode : StageTask::kForesee,
                                static_cast<int64_t>(own.blocks.size()));
  return linears_->CarryOut(own, phase);
}

Status Stage::CorrectBiases(const EntropyTables& tables) { return linears_->CorrectBiases(tables); }

double Stage::output_damping() const {
  double damping = 0;
  for (const auto& block : outputs_) {
    for (const OutputMoments& moments : block) damping = std::max(damping, moments.damping);
  }
  return damping;
}

double Stage::input_damping() const {
  double damping = 0;
  for (const auto& block : inputs_) {
    for (const InputMoments& moments : block) damping = std::max(damping, moments.damping);
  }
  return damping;
}

}  // namespace cvxq
