#include "pipeline/linear_blocks.h"

#include <algorithm>
#include <vector>

#include "pipeline/block_state.h"
#include "pipeline/job_steps.h"

namespace cvxq {

std::span<LinearPlan> LinearBlocks::PlansOf(int64_t block) const {
  std::vector<LinearPlan>& plans = context_.plans;
  const auto of_block = [&](const LinearPlan& plan) { return plan.block == block; };
  const auto begin = std::find_if(plans.begin(), plans.end(), of_block);
  return {begin, std::find_if_not(begin, plans.end(), of_block)};
}

void LinearBlocks::AppendAnswer(int64_t block, EntropyAnswer& answer) const {
  for (const LinearPlan& plan : PlansOf(block)) {
    answer.linears.push_back({.plan = plan.index, .bytes = plan.packed_bytes});
  }
}

StatusOr<EntropyAnswer> LinearBlocks::CarryOut(const EntropyOrder& order, Progress::Phase& phase) {
  EntropyAnswer answer;
  for (const EntropyOrder::Block& block : order.blocks) {
    CVXQ_RETURN_IF_ERROR(code_(context_, PlansOf(block.block), phase));
    AppendAnswer(block.block, answer);
  }
  return answer;
}

Status LinearBlocks::Save(int64_t block, ArchiveWriter& writer) const {
  for (const LinearPlan& plan : PlansOf(block)) CVXQ_RETURN_IF_ERROR(SaveLinear(plan, writer));
  return absl::OkStatus();
}

Status LinearBlocks::Load(int64_t block, ArchiveReader& reader, EntropyAnswer& answer) {
  const std::span<LinearPlan> plans = PlansOf(block);
  std::vector<LinearState> linears(plans.size());
  for (LinearState& linear : linears) CVXQ_RETURN_IF_ERROR(LoadLinear(reader, linear));
  CVXQ_RETURN_IF_ERROR(reader.Finish());
  for (size_t i = 0; i < plans.size(); ++i) std::move(linears[i]).MoveTo(plans[i]);
  AppendAnswer(block, answer);
  return absl::OkStatus();
}

Status CodeAllBlocks(CodingContext& context, Progress::Phase& phase) {
  EntropyOrder order{.kind = EntropyOrder::Kind::kCode};
  for (int64_t block = 0; block < context.spec.layers; ++block) order.blocks.push_back({block, 0});
  CVXQ_ASSIGN_OR_RETURN(const EntropyAnswer answer, context.steps.CarryOut(order, phase));
  for (const EntropyAnswer::Linear& linear : answer.linears) {
    context.plans[linear.plan].packed_bytes = linear.bytes;
  }
  return absl::OkStatus();
}

}  // namespace cvxq
