#include "pipeline/linear_plan.h"

#include <cmath>
#include <numeric>

#include "quant/importance.h"

namespace cvxq {

std::vector<LinearPlan> MakePlans(const ArchSpec& spec) {
  std::vector<LinearPlan> plans;
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      LinearPlan& plan = plans.emplace_back();
      plan.index = static_cast<int64_t>(plans.size()) - 1;
      plan.block = block;
      plan.id = id;
      plan.name = spec.LinearName(block, id);
      plan.rows = spec.rows(id);
      plan.columns = spec.columns(id);
    }
  }
  return plans;
}

std::vector<std::pair<size_t, size_t>> InputRuns(std::span<const LinearPlan> plans) {
  std::vector<std::pair<size_t, size_t>> runs;
  for (size_t i = 0; i < plans.size(); i = runs.back().second) {
    size_t end = i + 1;
    while (end < plans.size() && plans[end].block == plans[i].block &&
           InputOf(plans[end].id) == InputOf(plans[i].id)) {
      ++end;
    }
    runs.emplace_back(i, end);
  }
  return runs;
}

StatusOr<std::vector<float>> ReadWeights(const Checkpoint& checkpoint, const LinearPlan& plan) {
  const std::string name = plan.name + ".weight";
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint.Get(name));
  if (tensor.shape != Shape{plan.rows, plan.columns}) {
    return absl::DataLossError(absl::StrCat(checkpoint.folder(), ": ", name, " has shape ",
                                            tensor.shape.ToString(), ", config.json asks for [",
                                            plan.rows, ", ", plan.columns, "]"));
  }
  StatusOr<std::vector<float>> values = ToFloats(tensor);
  checkpoint.Release(name);
  return values;
}

StatusOr<std::vector<float>> CorrectedBias(const Checkpoint& checkpoint, const LinearPlan& plan,
                                           const std::vector<float>& w,
                                           const std::vector<float>& decoded,
                                           const std::vector<float>& mean_input) {
  std::vector<float> bias(plan.rows, 0.0f);
  if (const std::string name = plan.name + ".bias"; checkpoint.Find(name) != nullptr) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor old, checkpoint.Get(name));
    CVXQ_ASSIGN_OR_RETURN(bias, ToFloats(old));
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

Status PlanGroups(const Checkpoint& checkpoint, const ModelGradients& gradients,
                  Partition partition, int64_t cluster_size, int64_t run, ThreadPool& pool,
                  std::vector<LinearPlan>& plans) {
  std::vector<Status> status(plans.size());
  pool.ParallelFor(static_cast<int64_t>(plans.size()), [&](int64_t i) {
    LinearPlan& plan = plans[i];
    StatusOr<std::vector<float>> w = ReadWeights(checkpoint, plan);
    if (!w.ok()) {
      status[i] = w.status();
      return;
    }
    std::vector<float> key = MemberVariances(plan.rows, plan.columns, partition, w->data());
    const std::vector<float>& member = gradients[plan.block][static_cast<int>(plan.id)].member;
    for (size_t m = 0; m < key.size(); ++m) key[m] *= member[m];
    plan.layout = MakeGroupLayout(plan.rows, plan.columns, partition, cluster_size, key, run);
    GroupMoments moments = ComputeGroupMoments(plan.layout, w->data());
    plan.variance = std::move(moments.variance);
    plan.mean_square = std::move(moments.mean);
    for (size_t g = 0; g < plan.variance.size(); ++g) {
      plan.mean_square[g] = plan.mean_square[g] * plan.mean_square[g] + plan.variance[g];
    }
  });
  for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

std::vector<float> RowCurvature(const LinearPlan& plan, const ModelGradients& gradients,
                                const ModelMoments& inputs, const ModelOutputs& outputs) {
  const std::vector<float>& diagonal =
      inputs[plan.block][static_cast<int>(InputOf(plan.id))].diagonal;
  const double trace = std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
  std::vector<float> curvature = gradients[plan.block][static_cast<int>(plan.id)].member;
  if (!outputs.empty()) {
    const OutputMoments& of_plan = outputs[plan.block][static_cast<int>(plan.id)];
    const double total = std::accumulate(curvature.begin(), curvature.end(), 0.0);
    curvature = of_plan.conditional;
    const double scale = trace > 0 && of_plan.trace > 0 ? total / (trace * of_plan.trace) : 0;
    for (float& value : curvature) value = static_cast<float>(value * scale);
    return curvature;
  }
  for (float& value : curvature) value = trace > 0 ? static_cast<float>(value / trace) : 0;
  return curvature;
}

void PlanRowGradients(const ModelGradients& gradients, const ModelMoments& inputs,
                      const ModelOutputs& outputs, std::vector<LinearPlan>& plans) {
  for (LinearPlan& plan : plans) {
    if (plan.layout.partition == Partition::kRows) continue;
    const std::vector<float> curvature = RowCurvature(plan, gradients, inputs, outputs);
    plan.row_gradient.assign(plan.layout.cluster_count(), 0.0f);
    for (int64_t c = 0; c < plan.layout.cluster_count(); ++c) {
      double sum = 0;
      for (int64_t i = plan.layout.cluster_begin(c); i < plan.layout.cluster_end(c); ++i) {
        sum += curvature[plan.layout.members[i]];
      }
      plan.row_gradient[c] = static_cast<float>(sum / plan.layout.members_in(c));
    }
  }
}

Status PlanImportance(ImportanceKind kind, bool average,
                      const std::array<double, kMaxDepth + 1>& distortion,
                      const ModelMoments& moments, const SpillStore& store, ThreadPool& pool,
                      std::vector<LinearPlan>& plans) {
  if (kind != ImportanceKind::kFeedback) {
    for (LinearPlan& plan : plans) {
      plan.log2_importance = GroupImportance(
          plan.group_gradient, kind == ImportanceKind::kGroup ? plan.variance : plan.mean_square);
    }
    return absl::OkStatus();
  }
  const std::vector<std::pair<size_t, size_t>> runs = InputRuns(plans);
  std::vector<Status> status(runs.size());
  pool.ParallelFor(static_cast<int64_t>(runs.size()), [&](int64_t run) {
    const auto [begin, end] = runs[run];
    StatusOr<CurvatureFactor> factor =
        LoadFactor(moments[plans[begin].block][static_cast<int>(InputOf(plans[begin].id))], store);
    if (!factor.ok()) {
      status[run] = factor.status();
      return;
    }
    for (size_t i = begin; i < end; ++i) {
      LinearPlan& plan = plans[i];
      std::vector<float> importance =
          FeedbackImportance({.layout = &plan.layout,
                              .factor = &*factor,
                              .row_gradient = plan.row_gradient,
                              .mean_square = plan.mean_square,
                              .depth = plan.depth.empty() ? nullptr : &plan.depth,
                              .distortion = distortion});
      if (average) {
        for (size_t g = 0; g < importance.size(); ++g) {
          importance[g] = 0.5f * (importance[g] + plan.log2_importance[g]);
        }
      }
      plan.log2_importance = std::move(importance);
    }
  });
  for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

Allocation PlanDepths(const DepthModel& model, int64_t budget_bits,
                      std::vector<LinearPlan>& plans) {
  std::vector<AllocationLayer> layers;
  for (const LinearPlan& plan : plans) layers.push_back({&plan.layout, plan.log2_importance});
  Allocation allocation = AllocateDepths(layers, model, budget_bits);
  for (size_t i = 0; i < plans.size(); ++i) plans[i].depth = std::move(allocation.depth[i]);
  allocation.depth.clear();
  return allocation;
}

}  // namespace cvxq
