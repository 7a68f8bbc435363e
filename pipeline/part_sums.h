// Sums of one pass over the waves, made from those of its parts in the order of the tree
// (replicas.h): of a stage whose replica has some parts, and other replicas the others.
//
//   while a part of this replica's is under way its sum grows elsewhere; at its end
//     CVXQ_RETURN_IF_ERROR(sums.Add(block, tensor, std::move(values)));
//   and at the end of the last one, first for all blocks of others, then for those owned here,
//     CVXQ_RETURN_IF_ERROR(sums.Give(block, tensor, std::move(values)));
//     CVXQ_RETURN_IF_ERROR(sums.Total(block, tensor, values));
//
// A replica that waited for sums before it had given its own would wait for ever.
#ifndef CVXQ_PIPELINE_PART_SUMS_H_
#define CVXQ_PIPELINE_PART_SUMS_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "pipeline/replicas.h"
#include "pipeline/stage_place.h"
#include "storage/spill_store.h"

namespace cvxq {

// Used from one thread. Errors: disk, and what the boundaries to other replicas give.
class PartSums {
 public:
  // Of a pass over so many waves, with at most `tensors` sums of each block. What waits is in
  // `store`. All that is referred to outlives this.
  PartSums(const StagePlace& place, StageBoundary::Stream stream, int64_t waves, int64_t tensors,
           SpillStore& store);

  // Of this replica.
  const WaveRange& waves() const { return waves_; }
  WaveRange WavesOfReplica(int64_t replica) const;
  // Whether a part of this replica's ends behind so many waves, and another one follows.
  bool EndsPart(int64_t waves) const;

  // The sum of the next part; but for the last one of this replica.
  Status Add(int64_t block, int64_t tensor, std::vector<float> values);
  // The sum of the last one, of a block that another replica owns: that gets all.
  Status Give(int64_t block, int64_t tensor, std::vector<float> values);
  // The same of a block that is owned here: `values` becomes the sum of all parts.
  Status Total(int64_t block, int64_t tensor, std::vector<float>& values);

  // For saves, of a replica that has all parts: what Add has made of those that end with the first
  // so many waves, as so many subtrees; and one of them, to be read or put back in their order.
  std::vector<WaveRange> SubtreesOf(int64_t waves) const;
  StatusOr<std::vector<float>> Get(int64_t block, int64_t tensor, size_t subtree) const;
  Status Restore(int64_t block, int64_t tensor, WaveRange subtree, std::span<const float> values);

 private:
  struct Subtree {
    WaveRange parts;
    SpillStore::Handle handle;
  };
  using Key = std::pair<int64_t, int64_t>;  // block, tensor
  // Adds what is kept to the next part's sum, as far as that is its sibling. The subtree it is of.
  StatusOr<WaveRange> Merge(std::vector<Subtree>& kept, std::vector<float>& values);
  int64_t Number(const Key& key, const WaveRange& parts) const;

  const StagePlace place_;
  const StageBoundary::Stream stream_;
  const int64_t all_waves_, tensors_;
  SpillStore& store_;
  const WaveRange parts_, waves_;             // of this replica
  std::map<Key, std::vector<Subtree>> kept_;  // in the order of their parts
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_PART_SUMS_H_
