#include "pipeline/gradients.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "base/random.h"
#include "pipeline/part_sums.h"
#include "pipeline/principal_components.h"
#include "pipeline/stage_times.h"

namespace cvxq {
namespace {

constexpr int64_t kWaveTokens = 4096;
constexpr int64_t kHeadTokens = 256;  // rows of logits at a time: a vocabulary can be wide

// Sub-streams of the seed.
enum Stream : uint64_t { kLabelStream = 1, kSignStream = 2, kTokenStream = 3 };

// What is summed up of each linear, part by part of the waves.
enum Summed : int64_t { kMember, kGroup, kOutputMoment, kSummedCount };

int64_t WaveCount(const CalibrationSet& calibration, const GradientOptions& options) {
  const int64_t per_wave = WaveSequences(calibration.seq_len);
  return (options.samples + per_wave - 1) / per_wave;
}

// The sums of one linear on the backend, while they grow: of the part under way, but for
// token_square.
struct Accumulator {
  Tensor member, group, output_moment, token_square;
  Tensor row_group, column_group;  // of `group`; of `member` one side is all zeros
};

class GradientCollector {
 public:
  GradientCollector(Model& model, const CalibrationSet& calibration, const GradientOptions& options,
                    const GradientRequest& request, const StagePlace& place, SpillStore& store,
                    GradientSaves* saves)
      : model_(model),
        backend_(model.backend()),
        spec_(model.spec()),
        calibration_(calibration),
        options_(options),
        request_(request),
        place_(place),
        saves_(saves),
        parts_(place_, StageBoundary::Stream::kGradientSums, WaveCount(calibration, options),
               kLinearCount * kSummedCount, store) {}

  StatusOr<ModelGradients> Run(Progress::Phase& progress) {
    if (options_.objective == Objective::kHidden) {
      CVXQ_ASSIGN_OR_RETURN(components_, HiddenComponents(model_, calibration_, options_));
    }
    Allocate();
    const int64_t waves = parts_.waves().end;
    int64_t first = parts_.waves().begin;
    if (saves_ != nullptr && saves_->first_wave() > 0) {
      first = std::min(saves_->first_wave(), waves);
      CVXQ_RETURN_IF_ERROR(Restore(first));
      progress.Advance(std::min(first * WaveSequences(calibration_.seq_len), options_.samples));
    }
    // Backward passes go in the order of the waves, however many forward passes are ahead.
    for (int64_t forward = first, backward = first; backward < waves;) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      if (forward < waves && forward - backward < place_.waves_ahead) {
        CVXQ_RETURN_IF_ERROR(Forward(forward++));
        continue;
      }
      const int64_t sequences = ahead_.front().wave.B;
      CVXQ_RETURN_IF_ERROR(Backward(ahead_.front()));
      ahead_.pop_front();
      ++backward;
      progress.Advance(sequences);
      if (parts_.EndsPart(backward)) CVXQ_RETURN_IF_ERROR(EndPart());
      if (saves_ != nullptr && backward < waves && saves_->Wanted(backward)) {
        CVXQ_RETURN_IF_ERROR(Save(backward));
      }
    }
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    return Finish();
  }

 private:
  Tensor Zeros(Shape shape) {
    Tensor tensor = backend_.Allocate(DType::kF32, std::move(shape));
    backend_.Fill(tensor, 0);
    return tensor;
  }

  Tensor Indices(const std::vector<int32_t>& values) {
    Tensor tensor = backend_.Allocate(DType::kI32, {static_cast<int64_t>(values.size())});
    backend_.Upload(values.data(), tensor);
    return tensor;
  }

  void Allocate() {
    sums_.resize(spec_.layers);
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      for (const LinearId id : spec_.linears()) {
        const int64_t rows = spec_.rows(id), columns = spec_.columns(id);
        const bool by_rows = request_.partition == Partition::kColumns;  // members are rows
        Accumulator& sum = sums_[block][static_cast<int>(id)];
        if (request_.layouts != nullptr) {
          const GroupLayout& layout = (*request_.layouts)[block][static_cast<int>(id)];
          const int64_t clusters = layout.cluster_count();
          (by_rows ? sum.row_group : sum.column_group) = Indices(layout.ClusterOfMember());
          sum.group = by_rows ? Zeros({clusters, columns}) : Zeros({rows, clusters});
        } else {
          const std::vector<int32_t> one_group(by_rows ? columns : rows, 0);
          (by_rows ? sum.column_group : sum.row_group) = Indices(one_group);
          sum.member = by_rows ? Zeros({rows, 1}) : Zeros({1, columns});
        }
        if (request_.output_block > 0) {
          const int64_t b = std::min(request_.output_block, rows);
          sum.output_moment = Zeros({(rows + b - 1) / b, b, b});
        }
        if (request_.token_squares) {
          sum.token_square = Zeros({options_.samples * calibration_.seq_len});
        }
      }
    }
  }

  // What is summed up of a linear: on the backend, and where it goes.
  static std::array<std::pair<Tensor*, std::vector<float>*>, kSummedCount> SumsOf(
      Accumulator& sum, LinearGradients& values) {
    return {{{&sum.member, &values.member},
             {&sum.group, &values.group},
             {&sum.output_moment, &values.output_moment}}};
  }

  // Calls body(block, linear, number of the sum in the block, sum, values) for all sums of some
  // blocks, values being those of `result`.
  template <typename Body>
  Status EachSum(BlockRange blocks, ModelGradients& result, const Body& body) {
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      for (const LinearId id : spec_.linears()) {
        const int linear = static_cast<int>(id);
        const auto sums = SumsOf(sums_[block][linear], result[block][linear]);
        for (int64_t i = 0; i < kSummedCount; ++i) {
          if (sums[i].first->empty()) continue;
          CVXQ_RETURN_IF_ERROR(
              body(block, id, linear * kSummedCount + i, *sums[i].first, *sums[i].second));
        }
      }
    }
    return absl::OkStatus();
  }

  std::vector<float> ToHost(const Tensor& tensor) {
    std::vector<float> values(tensor.shape.elements());
    backend_.Download(tensor, values.data());
    return values;
  }

  // Sums of the part under way go to those of the parts before; the next part begins.
  Status EndPart() {
    const StageTimes::Timer timer(place_.times, StageTask::kReduce, place_.blocks.size());
    ModelGradients none(spec_.layers);
    return EachSum(place_.blocks, none,
                   [&](int64_t block, LinearId, int64_t number, Tensor& sum, auto&) -> Status {
                     std::vector<float> values = ToHost(sum);
                     backend_.Fill(sum, 0);
                     CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
                     return parts_.Add(block, number, std::move(values));
                   });
  }

  // Of the blocks one by one: what parts before have come to, and the part under way.
  Status Save(int64_t waves) {
    const size_t subtrees = parts_.SubtreesOf(waves).size();
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      std::vector<std::array<LinearGradients, kLinearCount>> sums;
      for (size_t subtree = 0; subtree <= subtrees; ++subtree) {
        ModelGradients values(spec_.layers);
        CVXQ_RETURN_IF_ERROR(
            EachSum({block, block + 1}, values,
                    [&](int64_t, LinearId, int64_t number, Tensor& sum, auto& into) -> Status {
                      if (subtree == subtrees) {
                        into = ToHost(sum);
                      } else {
                        CVXQ_ASSIGN_OR_RETURN(into, parts_.Get(block, number, subtree));
                      }
                      return absl::OkStatus();
                    }));
        sums.push_back(std::move(values[block]));
      }
      for (const LinearId id : spec_.linears()) {
        const Tensor& squares = sums_[block][static_cast<int>(id)].token_square;
        if (!squares.empty()) {
          sums.back()[static_cast<int>(id)].token_square = ToHost(squares);
        }
      }
      CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
      saves_->Save(waves, block, sums);
    }
    saves_->Saved(waves);
    return absl::OkStatus();
  }

  Status Restore(int64_t waves) {
    const std::vector<WaveRange> subtrees = parts_.SubtreesOf(waves);
    const auto fits = [](const std::vector<float>& values, const Tensor& tensor) {
      const size_t elements = tensor.empty() ? 0 : tensor.shape.elements();
      return values.size() == elements ? absl::OkStatus()
                                       : absl::DataLossError(
                                             "sums of gradients that were saved are of another "
                                             "model");
    };
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      CVXQ_ASSIGN_OR_RETURN(auto saved, saves_->Load(block, subtrees.size() + 1));
      for (size_t subtree = 0; subtree <= subtrees.size(); ++subtree) {
        ModelGradients values(spec_.layers);
        values[block] = std::move(saved[subtree]);
        CVXQ_RETURN_IF_ERROR(
            EachSum({block, block + 1}, values,
                    [&](int64_t, LinearId, int64_t number, Tensor& sum, auto& from) -> Status {
                      CVXQ_RETURN_IF_ERROR(fits(from, sum));
                      if (subtree < subtrees.size()) {
                        return parts_.Restore(block, number, subtrees[subtree], from);
                      }
                      backend_.Upload(from.data(), sum);
                      return absl::OkStatus();
                    }));
        if (subtree < subtrees.size()) continue;
        for (const LinearId id : spec_.linears()) {
          Tensor& squares = sums_[block][static_cast<int>(id)].token_square;
          const std::vector<float>& from = values[block][static_cast<int>(id)].token_square;
          CVXQ_RETURN_IF_ERROR(fits(from, squares));
          if (!squares.empty()) backend_.Upload(from.data(), squares);
        }
        CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
      }
    }
    return absl::OkStatus();
  }

  // A wave between its forward and its backward pass.
  struct WaveAhead {
    int64_t index = 0, sample = 0;  // its number, its first sequence
    Wave wave;
    std::vector<Tensor> inputs;  // of each block of the stage
    Tensor output, gradient;  // of the last stage: the last block's, and at the final hidden states
  };

  Status Forward(int64_t index) {
    WaveAhead& ahead = ahead_.emplace_back();
    const int64_t T = calibration_.seq_len, per_wave = WaveSequences(T);
    ahead.index = index;
    ahead.sample = options_.first_sample + index * per_wave;
    ahead.wave = {.B = std::min(per_wave, options_.samples - index * per_wave), .T = T};
    Tensor x;
    if (place_.before == nullptr) {
      Tensor ids = backend_.Allocate(DType::kI32, {ahead.wave.rows()});
      backend_.Upload(&calibration_.ids[ahead.sample * T], ids);
      CVXQ_ASSIGN_OR_RETURN(x, model_.Embed(ahead.wave, ids));
    } else {
      CVXQ_ASSIGN_OR_RETURN(x, Receive(*place_.before, StageBoundary::Stream::kForward, ahead));
    }
    CVXQ_RETURN_IF_ERROR(ForwardBlocks(ahead, x));
    if (place_.after != nullptr) {
      return Send(*place_.after, StageBoundary::Stream::kForward, ahead, x);
    }
    const StageTimes::Timer timer(place_.times, StageTask::kHead);
    ahead.gradient = OutputGradient(model_.FinalHidden(x), ahead.sample, ahead.wave.B);
    ahead.output = std::move(x);
    return backend_.Synchronize();
  }

  Status ForwardBlocks(WaveAhead& ahead, Tensor& x) {
    const StageTimes::Timer timer(place_.times, StageTask::kForward, place_.blocks.size());
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      Tensor& input = ahead.inputs.emplace_back(backend_.Allocate(DType::kF32, x.shape));
      backend_.Convert(x, input);
      CVXQ_RETURN_IF_ERROR(model_.ForwardBlock(block, ahead.wave, x, nullptr));
    }
    return backend_.Synchronize();
  }

  Status Backward(const WaveAhead& ahead) {
    if (place_.after != nullptr) {
      CVXQ_ASSIGN_OR_RETURN(Tensor g,
                            Receive(*place_.after, StageBoundary::Stream::kBackward, ahead));
      return Backward(ahead, std::move(g));
    }
    const Tensor& gradient = ahead.gradient;
    if (options_.estimator != Estimator::kTokens) {
      return Backward(ahead, model_.FinalHiddenBackward(ahead.output, gradient));
    }
    // One pass for each strided token: all other rows of the gradient are zero. The first token is
    // random, so that every token has the same chance, and each pass counts for `stride` of them.
    const int64_t T = calibration_.seq_len;
    const int64_t stride = options_.stride > 0 ? options_.stride : std::max<int64_t>(1, T / 17);
    const uint64_t key = DeriveKey(options_.seed, kTokenStream);
    std::vector<float> mask(ahead.wave.rows());
    Tensor mask_tensor = backend_.Allocate(DType::kF32, {ahead.wave.rows()});
    for (int64_t pass = 0; pass * stride < T; ++pass) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      std::fill(mask.begin(), mask.end(), 0.0f);
      for (int64_t b = 0; b < ahead.wave.B; ++b) {
        const int64_t t = RandomBits(key, ahead.sample + b) % stride + pass * stride;
        if (t < T) mask[b * T + t] = std::sqrt(static_cast<float>(stride));
      }
      backend_.Upload(mask.data(), mask_tensor);
      Tensor masked = backend_.Allocate(DType::kF32, gradient.shape);
      backend_.Convert(gradient, masked);
      backend_.ScaleRows(mask_tensor, masked);
      CVXQ_RETURN_IF_ERROR(Backward(ahead, model_.FinalHiddenBackward(ahead.output, masked)));
    }
    return absl::OkStatus();
  }

  StatusOr<Tensor> Receive(StageBoundary& boundary, StageBoundary::Stream stream,
                           const WaveAhead& ahead) {
    Tensor x = backend_.Allocate(DType::kF32, {ahead.wave.rows(), spec_.hidden});
    buffer_.resize(x.shape.elements());
    CVXQ_RETURN_IF_ERROR(boundary.Receive(stream, ahead.index, buffer_));
    backend_.Upload(buffer_.data(), x);
    return x;
  }

  Status Send(StageBoundary& boundary, StageBoundary::Stream stream, const WaveAhead& ahead,
              const Tensor& x) {
    buffer_.resize(x.shape.elements());
    backend_.Download(x, buffer_.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    return boundary.Send(stream, ahead.index, buffer_);
  }

  // The gradient of the sampled objective with respect to the final hidden states [n, E].
  Tensor OutputGradient(const Tensor& hidden, int64_t sample, int64_t count) {
    const int64_t T = calibration_.seq_len, n = count * T, E = hidden.shape[1];
    Tensor gradient = backend_.Allocate(DType::kF32, {n, E});
    if (options_.objective == Objective::kHidden) {
      // Sample i takes component i mod K; times sqrt(K), so that its square stands for all K.
      const int64_t K = static_cast<int64_t>(components_.size()) / E;
      std::vector<float> rows(n * E);
      for (int64_t b = 0; b < count; ++b) {
        const float* component = &components_[((sample + b) % K) * E];
        for (int64_t i = 0; i < T * E; ++i) {
          rows[b * T * E + i] = component[i % E] * std::sqrt(static_cast<float>(K));
        }
      }
      backend_.Upload(rows.data(), gradient);
    } else {
      const uint64_t key = DeriveKey(options_.seed, kLabelStream);
      for (int64_t first = 0; first < n; first += kHeadTokens) {
        const int64_t rows = std::min(kHeadTokens, n - first);
        const Tensor logits = model_.Logits(hidden.Rows(first, first + rows));
        Tensor g = backend_.Allocate(DType::kF32, logits.shape);
        backend_.SampleLabelGradient(logits, key, sample * T + first, g);
        backend_.Convert(model_.LogitsBackward(logits, g), gradient.Rows(first, first + rows));
      }
    }
    if (options_.estimator == Estimator::kSigns) {
      const uint64_t key = DeriveKey(options_.seed, kSignStream);
      std::vector<float> sign(n);
      for (int64_t i = 0; i < n; ++i) {
        sign[i] = (RandomBits(key, sample * T + i) >> 63) != 0 ? -1.0f : 1.0f;
      }
      Tensor signs = backend_.Allocate(DType::kF32, {n});
      backend_.Upload(sign.data(), signs);
      backend_.ScaleRows(signs, gradient);
    }
    return gradient;
  }

  Status Backward(const WaveAhead& ahead, Tensor g) {
    CVXQ_RETURN_IF_ERROR(BackwardBlocks(ahead, g));
    if (place_.before == nullptr) return absl::OkStatus();
    return Send(*place_.before, StageBoundary::Stream::kBackward, ahead, g);
  }

  Status BackwardBlocks(const WaveAhead& ahead, Tensor& g) {
    const StageTimes::Timer timer(place_.times, StageTask::kBackward, place_.blocks.size());
    for (int64_t block = place_.blocks.end - 1; block >= place_.blocks.begin; --block) {
      const LinearObserver observer = [&](LinearId id, const Tensor& x, const Tensor& gy) {
        Observe(sums_[block][static_cast<int>(id)], ahead.sample, ahead.wave, x, gy);
      };
      CVXQ_RETURN_IF_ERROR(model_.BackwardBlock(
          block, ahead.wave, ahead.inputs[block - place_.blocks.begin], g, &observer));
    }
    return backend_.Synchronize();
  }

  void Observe(Accumulator& sum, int64_t sample, const Wave& wave, const Tensor& x,
               const Tensor& gy) {
    Tensor& sums = sum.group.empty() ? sum.member : sum.group;
    for (int64_t b = 0; b < wave.B; ++b) {  // the square is of the gradient of one sequence
      backend_.AddSquaredGradient(gy.Rows(b * wave.T, (b + 1) * wave.T),
                                  x.Rows(b * wave.T, (b + 1) * wave.T), sum.row_group,
                                  sum.column_group, sums);
    }
    if (!sum.output_moment.empty()) backend_.AddBlockSecondMoment(gy, sum.output_moment);
    if (!sum.token_square.empty()) {
      const int64_t first = (sample - options_.first_sample) * wave.T;
      backend_.AddRowSquares(gy, sum.token_square.Rows(first, first + wave.rows()));
    }
  }

  // From sums over tokens to means.
  Status Divide(std::vector<float>& values, int64_t block, LinearId id) const {
    const float scale = 1.0f / static_cast<float>(options_.samples * calibration_.seq_len);
    for (float& value : values) {
      value *= scale;
      if (!std::isfinite(value)) {
        return absl::DataLossError(absl::StrFormat(
            "%s: the gradient is not finite (NaN or overflow); check the model's weights and the "
            "calibration text, or use --compute fp32",
            spec_.LinearName(block, id)));
      }
    }
    return absl::OkStatus();
  }

  StatusOr<ModelGradients> Finish() {
    ModelGradients result(spec_.layers);
    // Everything is given before anything is waited for.
    for (const BlockRange& others : {BlockRange{place_.blocks.begin, place_.owned.begin},
                                     BlockRange{place_.owned.end, place_.blocks.end}}) {
      CVXQ_RETURN_IF_ERROR(
          EachSum(others, result,
                  [&](int64_t block, LinearId, int64_t number, Tensor& sum, auto&) -> Status {
                    std::vector<float> values = ToHost(sum);
                    sum = Tensor();
                    return parts_.Give(block, number, std::move(values));
                  }));
    }
    CVXQ_RETURN_IF_ERROR(FinishTokenSquares(result));
    CVXQ_RETURN_IF_ERROR(EachSum(
        place_.owned, result,
        [&](int64_t block, LinearId id, int64_t number, Tensor& sum, auto& values) -> Status {
          values = ToHost(sum);
          sum = Tensor();
          CVXQ_RETURN_IF_ERROR(parts_.Total(block, number, values));
          return Divide(values, block, id);
        }));
    for (int64_t block = place_.owned.begin; block < place_.owned.end; ++block) {
      for (const LinearId id : spec_.linears()) {
        std::vector<float>& group = result[block][static_cast<int>(id)].group;
        if (group.empty()) continue;
        group = GroupMeans((*request_.layouts)[block][static_cast<int>(id)], group);
      }
    }
    return result;
  }

  // Each replica gets those of all tokens: together they say what one token counts.
  Status FinishTokenSquares(ModelGradients& result) {
    if (!request_.token_squares) return absl::OkStatus();
    constexpr auto kStream = StageBoundary::Stream::kTokenSquares;
    const int64_t own = place_.replica;
    const auto number = [](int64_t block, LinearId id, int64_t from, int64_t to) {
      const int64_t linear = block * kLinearCount + static_cast<int>(id);
      return (linear * kMostParts + from) * kMostParts + to;
    };
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      for (const LinearId id : spec_.linears()) {
        std::vector<float>& squares = result[block][static_cast<int>(id)].token_square;
        squares = ToHost(sums_[block][static_cast<int>(id)].token_square);
        for (int64_t other = 0; other < place_.replicas; ++other) {
          if (other == own) continue;
          CVXQ_RETURN_IF_ERROR(place_.peers[other]->Send(kStream, number(block, id, own, other),
                                                         TokensOf(own, squares)));
        }
      }
    }
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      for (const LinearId id : spec_.linears()) {
        std::vector<float>& squares = result[block][static_cast<int>(id)].token_square;
        for (int64_t other = 0; other < place_.replicas; ++other) {
          if (other == own) continue;
          CVXQ_RETURN_IF_ERROR(place_.peers[other]->Receive(kStream, number(block, id, other, own),
                                                            TokensOf(other, squares)));
        }
        CVXQ_RETURN_IF_ERROR(Divide(squares, block, id));
      }
    }
    return absl::OkStatus();
  }

  // Those of a replica among the values of all tokens.
  std::span<float> TokensOf(int64_t replica, std::vector<float>& all) const {
    const WaveRange waves = parts_.WavesOfReplica(replica);
    const int64_t per_wave = WaveSequences(calibration_.seq_len) * calibration_.seq_len;
    const int64_t begin = waves.begin * per_wave;
    const int64_t end = std::min(waves.end * per_wave, static_cast<int64_t>(all.size()));
    return std::span(all).subspan(begin, end - begin);
  }

  // Sums [clusters, lines] (kColumns) or [lines, clusters] (kRows) as means [clusters, lines].
  static std::vector<float> GroupMeans(const GroupLayout& layout, const std::vector<float>& sums) {
    const int64_t clusters = layout.cluster_count(), lines = layout.line_count();
    std::vector<float> means(sums.size());
    for (int64_t c = 0; c < clusters; ++c) {
      const float n = static_cast<float>(layout.members_in(c));
      for (int64_t j = 0; j < lines; ++j) {
        const int64_t at =
            layout.partition == Partition::kColumns ? c * lines + j : j * clusters + c;
        means[c * lines + j] = sums[at] / n;
      }
    }
    return means;
  }

  Model& model_;
  Backend& backend_;
  const ArchSpec& spec_;
  const CalibrationSet& calibration_;
  const GradientOptions& options_;
  const GradientRequest& request_;
  const StagePlace place_;
  GradientSaves* const saves_;
  PartSums parts_;
  std::vector<float> components_;  // [K, E]
  std::deque<WaveAhead> ahead_;    // in their order
  std::vector<float> buffer_;
  std::vector<std::array<Accumulator, kLinearCount>> sums_;
};

}  // namespace

int64_t WaveSequences(int64_t seq_len) { return std::max<int64_t>(1, kWaveTokens / seq_len); }

StatusOr<ModelGradients> CollectGradients(Model& model, const CalibrationSet& calibration,
                                          const GradientOptions& options,
                                          const GradientRequest& request, Progress::Phase& progress,
                                          const StagePlace* place, SpillStore* store,
                                          GradientSaves* saves) {
  if (options.objective == Objective::kHidden && options.estimator == Estimator::kLabels) {
    return absl::InvalidArgumentError(
        "--estimator labels needs --objective fisher; use signs or tokens with hidden");
  }
  SpillStore in_memory("", std::numeric_limits<int64_t>::max());
  return GradientCollector(model, calibration, options, request,
                           place != nullptr ? *place : StagePlace::Whole(model.spec().layers),
                           store != nullptr ? *store : in_memory, saves)
      .Run(progress);
}

StatusOr<std::vector<float>> HiddenComponents(Model& model, const CalibrationSet& calibration,
                                              const GradientOptions& options) {
  Backend& backend = model.backend();
  const int64_t T = calibration.seq_len, E = model.spec().embedding_dim;
  Tensor moment = backend.Allocate(DType::kF32, {E, E}), sums = backend.Allocate(DType::kF32, {E});
  backend.Fill(moment, 0);
  backend.Fill(sums, 0);
  const int64_t last = options.first_sample + options.samples;
  for (int64_t sample = options.first_sample; sample < last; sample += WaveSequences(T)) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    const Wave wave{.B = std::min(WaveSequences(T), last - sample), .T = T};
    Tensor ids = backend.Allocate(DType::kI32, {wave.rows()});
    backend.Upload(&calibration.ids[sample * T], ids);
    CVXQ_ASSIGN_OR_RETURN(const Tensor hidden, model.Forward(wave, ids));
    backend.AddSecondMoment(hidden, moment);
    backend.AddColumnSums(hidden, sums);
  }
  std::vector<float> covariance(E * E), mean(E);
  backend.Download(moment, covariance.data());
  backend.Download(sums, mean.data());
  CVXQ_RETURN_IF_ERROR(backend.Synchronize());
  const double tokens = static_cast<double>(options.samples * T);
  for (int64_t i = 0; i < E; ++i) {
    for (int64_t j = 0; j < E; ++j) {
      covariance[i * E + j] = static_cast<float>(covariance[i * E + j] / tokens -
                                                 mean[i] / tokens * (mean[j] / tokens));
    }
  }
  const int64_t K = std::min(E, options.components > 0 ? options.components : options.samples);
  return PrincipalComponents(covariance, E, K);
}

}  // namespace cvxq
