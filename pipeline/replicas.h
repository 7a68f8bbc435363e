// How a job is laid out over workers: stages, which are runs of blocks, times replicas, which are
// whole pipelines that take a share of the waves each. What a pass sums up over all waves has the
// same bits for any layout, because its order is that of a tree over fixed parts of the waves:
//
//   waves   0 .. W-1 in P parts in a row; P depends on W alone
//   sum     ((p0 + p1) + (p2 + p3)) + ((p4 + p5) + (p6 + p7)), each part wave by wave from zero
//
// A replica has whole parts, a pass for gradients and one for input moments may have other waves.
#ifndef CVXQ_PIPELINE_REPLICAS_H_
#define CVXQ_PIPELINE_REPLICAS_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "model/arch_spec.h"
#include "pipeline/stage_place.h"

namespace cvxq {

struct JobPosition;  // job_state.h
struct StageJob;     // stage.h

// [begin, end) of waves, or of parts.
struct WaveRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// P: the largest power of two up to kMostParts that leaves a wave to each part.
inline constexpr int64_t kMostParts = 8;
int64_t PartCount(int64_t waves);
// Of these parts the waves.
WaveRange WavesOf(int64_t waves, WaveRange parts);
// The parts of a replica. Not empty where there are at least as many parts.
WaveRange PartsOf(int64_t waves, int64_t replica, int64_t replicas);
// Parts in a row as whole subtrees, the largest that there are, in their order.
std::vector<WaveRange> Subtrees(WaveRange parts);
// Whether `right` is what the subtree `left` is added to, to make the next larger one.
bool AreSiblings(WaveRange left, WaveRange right);

// Of a stage's blocks those that this replica's stage factors and codes.
BlockRange OwnedBlocks(BlockRange blocks, int64_t replica, int64_t replicas);

struct JobLayout {
  int64_t stages = 1, replicas = 1;
};
// The layout for so many workers: as many stages as there are workers and blocks, and no more
// replicas than pay, by what the steps are foreseen to take. `most_replicas` is what the passes
// have parts for; `asked`, unless it is 0, is taken in place of what pays.
JobLayout ChooseLayout(const ArchSpec& spec, int64_t workers, int64_t waves, int64_t most_replicas,
                       int64_t asked = 0);
// The layout of a job.
JobLayout LayoutOf(const StageJob& job, int64_t workers, int64_t asked);
// kDataLoss where a job with this layout cannot go on from there: sums of the first waves of the
// gradients are those of one pipeline.
Status CheckRestorable(const JobPosition& position, const JobLayout& layout);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_REPLICAS_H_
