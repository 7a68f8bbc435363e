#include "pipeline/replicas.h"

#include <algorithm>
#include <array>

#include "pipeline/gradients.h"
#include "pipeline/stage.h"

namespace cvxq {
namespace {

constexpr double kWaveTokens = 4096;
// What it costs to have a float of a sum from another replica, in multiply-adds; what coding a
// block costs, in passes of a wave through it. Between what CPUs and what GPUs would give.
constexpr double kMultiplyAddsOfMove = 1000, kWavesOfCoding = 8;
constexpr double kPays = .9;  // of the time without

// Seconds of a layout, the passes of one wave through one block for gradients and moments being 1.
double Foreseen(const ArchSpec& spec, const JobLayout& layout, int64_t waves) {
  double weights = 0, inputs = 0, sums = 0;  // of a block: products of a token, floats of all sums
  std::array<double, kInputCount> width{};
  for (const LinearId id : spec.linears()) {
    const double rows = static_cast<double>(spec.rows(id));
    const double columns = static_cast<double>(spec.columns(id));
    weights += rows * columns;
    sums += rows * rows;
    width[static_cast<int>(InputOf(id))] = columns;
  }
  for (const double n : width) inputs += n * n;
  sums += inputs;
  const double all = 5 * weights + inputs, of_gradients = 4 * weights / all;

  int64_t longest = 0;  // waves of a replica
  for (int64_t replica = 0; replica < layout.replicas; ++replica) {
    const WaveRange parts = PartsOf(waves, replica, layout.replicas);
    longest = std::max(longest, WavesOf(waves, parts).size());
  }
  // One wave goes through all stages; then the slowest one sets the pace.
  double gradients = 0, moments = 0, slowest_gradients = 0, slowest_moments = 0;
  int64_t owned = 0;
  for (const BlockRange& blocks : CutStages(spec, layout.stages)) {
    const double n = static_cast<double>(blocks.size());
    const double head = blocks.end == spec.layers ? HeadBlocks(spec) : 0;
    const double for_gradients = of_gradients * n + head, for_moments = (1 - of_gradients) * n;
    gradients += for_gradients;
    moments += for_moments;
    slowest_gradients = std::max(slowest_gradients, for_gradients);
    slowest_moments = std::max(slowest_moments, for_moments);
    owned = std::max(owned, (blocks.size() + layout.replicas - 1) / layout.replicas);
  }
  const double others = static_cast<double>(layout.replicas - 1);
  const double move = kMultiplyAddsOfMove * sums / (kWaveTokens * all);
  return gradients + moments +
         static_cast<double>(longest - 1) * (slowest_gradients + slowest_moments) +
         static_cast<double>(owned) * (others * move + kWavesOfCoding);
}

}  // namespace

int64_t PartCount(int64_t waves) {
  int64_t parts = 1;
  while (2 * parts <= std::min(waves, kMostParts)) parts *= 2;
  return parts;
}

WaveRange WavesOf(int64_t waves, WaveRange parts) {
  const int64_t count = PartCount(waves);
  return {waves * parts.begin / count, waves * parts.end / count};
}

WaveRange PartsOf(int64_t waves, int64_t replica, int64_t replicas) {
  const int64_t count = PartCount(waves);
  return {count * replica / replicas, count * (replica + 1) / replicas};
}

std::vector<WaveRange> Subtrees(WaveRange parts) {
  std::vector<WaveRange> subtrees;
  for (int64_t begin = parts.begin; begin < parts.end;) {
    int64_t size = 1;
    while (begin % (2 * size) == 0 && begin + 2 * size <= parts.end) size *= 2;
    subtrees.push_back({begin, begin + size});
    begin += size;
  }
  return subtrees;
}

bool AreSiblings(WaveRange left, WaveRange right) {
  return left.end == right.begin && left.size() == right.size() &&
         left.begin % (2 * left.size()) == 0;
}

BlockRange OwnedBlocks(BlockRange blocks, int64_t replica, int64_t replicas) {
  return {blocks.begin + blocks.size() * replica / replicas,
          blocks.begin + blocks.size() * (replica + 1) / replicas};
}

JobLayout ChooseLayout(const ArchSpec& spec, int64_t workers, int64_t waves, int64_t most_replicas,
                       int64_t asked) {
  const auto with = [&](int64_t replicas) {
    return JobLayout{std::clamp<int64_t>(workers / replicas, 1, spec.layers), replicas};
  };
  most_replicas = std::clamp<int64_t>(most_replicas, 1, std::max<int64_t>(1, workers));
  if (asked > 0) return with(std::min(asked, most_replicas));
  JobLayout best = with(1);
  // A stage has the weights and sums of its blocks in memory: it shall not get many more of them.
  const int64_t least_stages = (best.stages + 1) / 2;
  double least = Foreseen(spec, best, waves);
  for (int64_t replicas = 2; replicas <= most_replicas; ++replicas) {
    const JobLayout layout = with(replicas);
    const double seconds = Foreseen(spec, layout, waves);
    if (layout.stages < least_stages || seconds > kPays * least) continue;
    best = layout;
    least = seconds;
  }
  return best;
}

JobLayout LayoutOf(const StageJob& job, int64_t workers, int64_t asked) {
  const int64_t per_wave = WaveSequences(job.calibration.seq_len);
  const int64_t of_gradients = (job.gradients.samples + per_wave - 1) / per_wave;
  const int64_t of_moments = (job.calibration.samples + per_wave - 1) / per_wave;
  const int64_t most = std::min(PartCount(of_gradients), PartCount(of_moments));
  return ChooseLayout(job.files.spec, workers, of_gradients, most, asked);
}

Status CheckRestorable(const JobPosition& position, const JobLayout& layout) {
  if (position.step > 0 || position.waves == 0 || layout.replicas == 1) return absl::OkStatus();
  return absl::DataLossError("sums of the first waves of gradients, while there are replicas now");
}

}  // namespace cvxq
