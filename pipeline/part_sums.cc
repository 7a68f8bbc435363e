#include "pipeline/part_sums.h"

#include "base/failpoint.h"

namespace cvxq {
namespace {

void AddTo(std::vector<float>& sum, const std::vector<float>& values) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
}

}  // namespace

PartSums::PartSums(const StagePlace& place, StageBoundary::Stream stream, int64_t waves,
                   int64_t tensors, SpillStore& store)
    : place_(place),
      stream_(stream),
      all_waves_(waves),
      tensors_(tensors),
      store_(store),
      parts_(PartsOf(waves, place.replica, place.replicas)),
      waves_(WavesOf(waves, parts_)) {}

WaveRange PartSums::WavesOfReplica(int64_t replica) const {
  return WavesOf(all_waves_, PartsOf(all_waves_, replica, place_.replicas));
}

bool PartSums::EndsPart(int64_t waves) const {
  for (int64_t part = parts_.begin + 1; part < parts_.end; ++part) {
    if (WavesOf(all_waves_, {part, part}).begin == waves) return true;
  }
  return false;
}

StatusOr<WaveRange> PartSums::Merge(std::vector<Subtree>& kept, std::vector<float>& values) {
  const int64_t part = kept.empty() ? parts_.begin : kept.back().parts.end;
  WaveRange parts = {part, part + 1};
  std::vector<float> left;
  for (; !kept.empty() && AreSiblings(kept.back().parts, parts); kept.pop_back()) {
    left.resize(values.size());
    CVXQ_RETURN_IF_ERROR(store_.Get(kept.back().handle, left));
    AddTo(values, left);
    parts.begin = kept.back().parts.begin;
    store_.Drop(kept.back().handle);
  }
  return parts;
}

int64_t PartSums::Number(const Key& key, const WaveRange& parts) const {
  return (key.first * tensors_ + key.second) * kMostParts + parts.begin;
}

Status PartSums::Add(int64_t block, int64_t tensor, std::vector<float> values) {
  std::vector<Subtree>& kept = kept_[{block, tensor}];
  CVXQ_ASSIGN_OR_RETURN(const WaveRange parts, Merge(kept, values));
  return Restore(block, tensor, parts, values);
}

Status PartSums::Restore(int64_t block, int64_t tensor, WaveRange subtree,
                         std::span<const float> values) {
  CVXQ_ASSIGN_OR_RETURN(const SpillStore::Handle handle, store_.Put(values));
  kept_[{block, tensor}].push_back({subtree, handle});
  return absl::OkStatus();
}

Status PartSums::Give(int64_t block, int64_t tensor, std::vector<float> values) {
  const Key key = {block, tensor};
  std::vector<Subtree>& kept = kept_[key];
  CVXQ_ASSIGN_OR_RETURN(const WaveRange last, Merge(kept, values));
  int64_t owner = 0;
  while (OwnedBlocks(place_.blocks, owner, place_.replicas).end <= block) ++owner;
  StageBoundary& to = *place_.peers[owner];
  CVXQ_RETURN_IF_ERROR(to.Send(stream_, Number(key, last), values));
  Failpoint("sums-given");
  for (const Subtree& subtree : kept) {
    CVXQ_RETURN_IF_ERROR(store_.Get(subtree.handle, values));
    CVXQ_RETURN_IF_ERROR(to.Send(stream_, Number(key, subtree.parts), values));
    store_.Drop(subtree.handle);
  }
  kept.clear();
  return absl::OkStatus();
}

Status PartSums::Total(int64_t block, int64_t tensor, std::vector<float>& values) {
  const Key key = {block, tensor};
  const size_t size = values.size();
  std::vector<Subtree>& kept = kept_[key];
  CVXQ_RETURN_IF_ERROR(Merge(kept, values).status());
  std::vector<std::pair<WaveRange, std::vector<float>>> sums;  // of subtrees in a row
  size_t next = 0;                                             // of those kept
  for (int64_t replica = 0; replica < place_.replicas; ++replica) {
    for (WaveRange parts : Subtrees(PartsOf(all_waves_, replica, place_.replicas))) {
      std::vector<float> sum;
      if (replica != place_.replica) {
        sum.resize(size);
        CVXQ_RETURN_IF_ERROR(place_.peers[replica]->Receive(stream_, Number(key, parts), sum));
        Failpoint("sums-taken");
      } else if (next < kept.size()) {
        sum.resize(size);
        CVXQ_RETURN_IF_ERROR(store_.Get(kept[next].handle, sum));
        store_.Drop(kept[next++].handle);
      } else {
        sum = std::move(values);
      }
      for (; !sums.empty() && AreSiblings(sums.back().first, parts); sums.pop_back()) {
        AddTo(sum, sums.back().second);
        parts.begin = sums.back().first.begin;
      }
      sums.emplace_back(parts, std::move(sum));
    }
  }
  kept.clear();
  values = std::move(sums.front().second);
  return absl::OkStatus();
}

std::vector<WaveRange> PartSums::SubtreesOf(int64_t waves) const {
  int64_t parts = 0;
  while (parts + 1 < parts_.end && WavesOf(all_waves_, {0, parts + 1}).end <= waves) ++parts;
  return Subtrees({0, parts});
}

StatusOr<std::vector<float>> PartSums::Get(int64_t block, int64_t tensor, size_t subtree) const {
  const Subtree& kept = kept_.at({block, tensor}).at(subtree);
  std::vector<float> values(store_.size(kept.handle));
  CVXQ_RETURN_IF_ERROR(store_.Get(kept.handle, values));
  return values;
}

}  // namespace cvxq
