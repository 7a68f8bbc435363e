#include "pipeline/block_state.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace cvxq {
namespace {

// A triangle of a factor.
Status SaveFactor(SpillStore::Handle handle, const SpillStore& store, ArchiveWriter& writer) {
  std::vector<float> values;
  if (handle >= 0) {
    values.resize(store.size(handle));
    CVXQ_RETURN_IF_ERROR(store.Get(handle, values));
  }
  CVXQ_RETURN_IF_ERROR(writer.Put(static_cast<int8_t>(handle >= 0)));
  return writer.Put(values);
}

Status LoadFactor(ArchiveReader& reader, SpillStore& store, SpillStore::Handle& handle) {
  int8_t there = 0;
  std::vector<float> values;
  CVXQ_RETURN_IF_ERROR(reader.Get(there));
  CVXQ_RETURN_IF_ERROR(reader.Get(values));
  handle = -1;
  if (there != 0) {
    CVXQ_ASSIGN_OR_RETURN(handle, store.Put(values));
  }
  return absl::OkStatus();
}

int64_t FactorBytes(SpillStore::Handle handle, const SpillStore& store) {
  return handle < 0 ? 0 : store.size(handle) * static_cast<int64_t>(sizeof(float));
}

}  // namespace

Status SaveGradients(const BlockGradients& gradients, ArchiveWriter& writer) {
  for (const LinearGradients& linear : gradients) {
    CVXQ_RETURN_IF_ERROR(writer.Put(linear.member));
    CVXQ_RETURN_IF_ERROR(writer.Put(linear.group));
    CVXQ_RETURN_IF_ERROR(writer.Put(linear.output_moment));
    CVXQ_RETURN_IF_ERROR(writer.Put(linear.token_square));
  }
  return absl::OkStatus();
}

Status LoadGradients(ArchiveReader& reader, BlockGradients& gradients) {
  for (LinearGradients& linear : gradients) {
    CVXQ_RETURN_IF_ERROR(reader.Get(linear.member));
    CVXQ_RETURN_IF_ERROR(reader.Get(linear.group));
    CVXQ_RETURN_IF_ERROR(reader.Get(linear.output_moment));
    CVXQ_RETURN_IF_ERROR(reader.Get(linear.token_square));
  }
  return absl::OkStatus();
}

Status SaveOutputs(const BlockOutputs& outputs, const SpillStore& store, ArchiveWriter& writer) {
  for (const OutputMoments& moments : outputs) {
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.block));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.order));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.conditional));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.trace));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.damping));
    CVXQ_RETURN_IF_ERROR(SaveFactor(moments.lower, store, writer));
  }
  return absl::OkStatus();
}

Status LoadOutputs(ArchiveReader& reader, SpillStore& store, BlockOutputs& outputs) {
  for (OutputMoments& moments : outputs) {
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.block));
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.order));
    CVXQ_RETURN_IF_ERROR(
        reader.GetExactly(moments.conditional, static_cast<int64_t>(moments.order.size())));
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.trace));
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.damping));
    CVXQ_RETURN_IF_ERROR(LoadFactor(reader, store, moments.lower));
  }
  return absl::OkStatus();
}

Status SaveInputs(const BlockInputs& inputs, const SpillStore& store, ArchiveWriter& writer) {
  for (const InputMoments& moments : inputs) {
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.diagonal));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.mean));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.conditional));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.order));
    CVXQ_RETURN_IF_ERROR(writer.Put(moments.damping));
    CVXQ_RETURN_IF_ERROR(writer.Put(static_cast<int8_t>(moments.centered)));
    CVXQ_RETURN_IF_ERROR(SaveFactor(moments.lower, store, writer));
  }
  return absl::OkStatus();
}

Status LoadInputs(ArchiveReader& reader, SpillStore& store, BlockInputs& inputs) {
  for (InputMoments& moments : inputs) {
    int8_t centered = 0;
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.diagonal));
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.mean));
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.conditional));
    CVXQ_RETURN_IF_ERROR(
        reader.GetExactly(moments.order, static_cast<int64_t>(moments.conditional.size())));
    CVXQ_RETURN_IF_ERROR(reader.Get(moments.damping));
    CVXQ_RETURN_IF_ERROR(reader.Get(centered));
    moments.centered = centered != 0;
    CVXQ_RETURN_IF_ERROR(LoadFactor(reader, store, moments.lower));
  }
  return absl::OkStatus();
}

Status SaveLinear(const LinearPlan& plan, ArchiveWriter& writer) {
  CVXQ_RETURN_IF_ERROR(writer.Put(plan.packed));
  CVXQ_RETURN_IF_ERROR(writer.Put(plan.bias));
  CVXQ_RETURN_IF_ERROR(writer.Put(plan.code_bytes));
  CVXQ_RETURN_IF_ERROR(writer.Put(plan.zero_weights));
  CVXQ_RETURN_IF_ERROR(writer.Put(plan.distortion));
  return writer.Put(std::span<const int64_t>(plan.depth_histogram));
}

Status LoadLinear(ArchiveReader& reader, LinearState& linear) {
  CVXQ_RETURN_IF_ERROR(reader.Get(linear.packed));
  CVXQ_RETURN_IF_ERROR(reader.Get(linear.bias));
  CVXQ_RETURN_IF_ERROR(reader.Get(linear.code_bytes));
  CVXQ_RETURN_IF_ERROR(reader.Get(linear.zero_weights));
  CVXQ_RETURN_IF_ERROR(reader.Get(linear.distortion));
  return reader.GetExactly(linear.depth_histogram, kMaxDepth + 1);
}

void LinearState::MoveTo(LinearPlan& plan) && {
  plan.SetPacked(std::move(packed));
  plan.bias = std::move(bias);
  plan.code_bytes = code_bytes;
  plan.zero_weights = zero_weights;
  plan.distortion = distortion;
  std::copy(depth_histogram.begin(), depth_histogram.end(), plan.depth_histogram.begin());
}

int64_t StateBytes(const BlockGradients& gradients) {
  size_t floats = 0;
  for (const LinearGradients& linear : gradients) {
    floats += linear.member.size() + linear.group.size() + linear.output_moment.size() +
              linear.token_square.size();
  }
  return static_cast<int64_t>(floats * sizeof(float));
}

int64_t StateBytes(const BlockOutputs& outputs, const SpillStore& store) {
  int64_t bytes = 0;
  for (const OutputMoments& moments : outputs) {
    bytes += static_cast<int64_t>(moments.order.size()) * 8 + FactorBytes(moments.lower, store);
  }
  return bytes;
}

int64_t StateBytes(const BlockInputs& inputs, const SpillStore& store) {
  int64_t bytes = 0;
  for (const InputMoments& moments : inputs) {
    bytes += static_cast<int64_t>(moments.order.size()) * 16 + FactorBytes(moments.lower, store);
  }
  return bytes;
}

}  // namespace cvxq
