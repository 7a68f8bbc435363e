// A stage: a run of blocks of the model that one worker does the statistics and the coding of. What
// passes between neighbouring stages is activations, wave after wave, and gradients back. There may
// be several pipelines of such stages, replicas, each with a share of the waves: then stages of the
// same blocks pass sums to each other. The tiles of all sums, and the order in which these are
// added, come from the model and the calibration set alone, never from the stages: any number of
// them gives the same bits.
#ifndef CVXQ_PIPELINE_STAGE_PLACE_H_
#define CVXQ_PIPELINE_STAGE_PLACE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace cvxq {

class StageTimes;  // stage_times.h

struct BlockRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// What two stages share. Each end is used from one thread at a time.
class StageBoundary {
 public:
  enum class Stream : uint8_t {
    // Between neighbours: the values of one wave [tokens, D]. Waves are 0, 1, 2, ...
    kForward,   // activations of the gradient pass, towards the head
    kBackward,  // gradients of these, towards the embedding
    kMoments,   // activations of the pass for input moments, towards the head
    // Between replicas: sums, or values of tokens, by numbers that say whose and of what.
    kGradientSums,
    kTokenSquares,
    kMomentSums,
  };
  static constexpr int kStreams = 6;
  virtual ~StageBoundary() = default;

  // Hands values over, without waiting where they go to another replica. Each is for one receiver.
  virtual Status Send(Stream stream, int64_t number, std::span<const float> values) = 0;
  // Waits for them. An error where the other side will never send them: kAborted, or its own.
  virtual Status Receive(Stream stream, int64_t number, std::span<float> values) = 0;
};

// When the stages of a model, all at the same wave of the gradient pass, save their sums. Each
// stage has one, and uses it from one thread.
class WaveCuts {
 public:
  virtual ~WaveCuts() = default;
  // Asked after every wave's backward pass but the last: whether to save the sums of so many now.
  virtual bool Wanted(int64_t waves) = 0;
  // Those that were wanted are saved, which took so long, or could not be: that is no reason to
  // stop.
  virtual void Saved(int64_t waves, const Status& status, absl::Duration took) = 0;
};

struct StagePlace {
  BlockRange blocks;
  StageBoundary* before = nullptr;  // nullptr: the first stage, which embeds
  StageBoundary* after = nullptr;   // nullptr: the last stage, which has the head
  // Waves whose forward pass this stage may be ahead of their backward pass: as many as there are
  // stages from this one on, so that none waits.
  int64_t waves_ahead = 1;
  StageTimes* times = nullptr;  // nullptr: nobody asks

  // All of the blocks are run through; of these the owned ones have their sums from all replicas
  // here, and are factored and coded (replicas.h).
  BlockRange owned;
  int64_t replica = 0, replicas = 1;
  std::vector<StageBoundary*> peers;  // to stages of the same blocks, by replica
  bool owns(int64_t block) const { return block >= owned.begin && block < owned.end; }

  static StagePlace Whole(int64_t layers) { return {.blocks = {0, layers}, .owned = {0, layers}}; }
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_STAGE_PLACE_H_
