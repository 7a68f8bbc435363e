#include "pipeline/input_moments.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/interrupt.h"
#include "pipeline/gradients.h"
#include "pipeline/part_sums.h"
#include "pipeline/stage_times.h"

namespace cvxq {
namespace {

// The moments of one block while they grow, on the backend: of the part of the waves under way.
struct BlockSums {
  std::array<Tensor, kInputCount> moment, sum;
};

class MomentCollector {
 public:
  MomentCollector(Model& model, const CalibrationSet& calibration, const MomentOptions& options,
                  ThreadPool& pool, Rounder& rounder, SpillStore& store, const StagePlace& place)
      : model_(model),
        backend_(model.backend()),
        calibration_(calibration),
        options_(options),
        pool_(pool),
        rounder_(rounder),
        store_(store),
        place_(place),
        parts_(place_, StageBoundary::Stream::kMomentSums, WaveCount(calibration), 2 * kInputCount,
               store) {}

  StatusOr<ModelMoments> Run(Progress::Phase& progress) {
    ModelMoments result(model_.spec().layers);
    int64_t stop = place_.blocks.end;  // nobody needs what comes after
    for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
      if (Known(block)) result[block] = (*options_.known)[block];
    }
    while (place_.after == nullptr && stop > place_.blocks.begin && Known(stop - 1)) --stop;
    progress.Advance(place_.blocks.end - stop);
    activations_.assign(parts_.waves().end, -1);
    for (int64_t begin = place_.blocks.begin; begin < stop;) {
      const int64_t end = std::min(begin + options_.blocks_at_once, stop);
      std::vector<BlockSums> sums(end - begin);
      for (int64_t block = begin; block < end; ++block) {
        if (!Known(block)) sums[block - begin] = NewSums();
      }
      for (int64_t wave = parts_.waves().begin; wave < parts_.waves().end; ++wave) {
        CVXQ_RETURN_IF_ERROR(CheckInterrupted());
        CVXQ_ASSIGN_OR_RETURN(Tensor x, begin == place_.blocks.begin ? Enter(wave) : Again(wave));
        for (int64_t block = begin; block < end; ++block) {
          CVXQ_RETURN_IF_ERROR(RunBlock(block, wave, x, sums[block - begin]));
          if (parts_.EndsPart(wave + 1)) {
            CVXQ_RETURN_IF_ERROR(EndPart(block, sums[block - begin]));
          }
        }
        CVXQ_RETURN_IF_ERROR(Leave(wave, x, end == stop));
      }
      // Everything is given before anything is waited for.
      for (int64_t block = begin; block < end; ++block) {
        if (!place_.owns(block)) CVXQ_RETURN_IF_ERROR(GiveBlock(block, sums[block - begin]));
      }
      for (int64_t block = begin; block < end; ++block) {
        if (!place_.owns(block)) continue;
        progress.Advance();
        if (Known(block)) continue;
        CVXQ_RETURN_IF_ERROR(FinishBlock(block, sums[block - begin], result[block]));
        if (options_.finished) options_.finished(block, result[block]);
      }
      begin = end;
    }
    return result;
  }

 private:
  static int64_t WaveCount(const CalibrationSet& calibration) {
    const int64_t per_wave = WaveSequences(calibration.seq_len);
    return (calibration.samples + per_wave - 1) / per_wave;
  }

  // Others wait for the sums of what is not owned here, whatever this stage may have.
  bool Known(int64_t block) const {
    if (options_.known == nullptr || !place_.owns(block)) return false;
    const auto& inputs = (*options_.known)[block];
    return std::any_of(inputs.begin(), inputs.end(),
                       [](const InputMoments& moments) { return !moments.mean.empty(); });
  }

  Wave WaveAt(int64_t index) const {
    const int64_t per_wave = WaveSequences(calibration_.seq_len);
    const int64_t first = index * per_wave;
    return {.B = std::min(per_wave, calibration_.samples - first), .T = calibration_.seq_len};
  }

  // The input of the stage's first block.
  StatusOr<Tensor> Enter(int64_t index) {
    const Wave wave = WaveAt(index);
    if (place_.before == nullptr) {
      const int64_t first = index * WaveSequences(calibration_.seq_len) * calibration_.seq_len;
      Tensor ids = backend_.Allocate(DType::kI32, {wave.rows()});
      backend_.Upload(&calibration_.ids[first], ids);
      return model_.Embed(wave, ids);
    }
    Tensor x = backend_.Allocate(DType::kF32, {wave.rows(), model_.spec().hidden});
    buffer_.resize(x.shape.elements());
    CVXQ_RETURN_IF_ERROR(place_.before->Receive(StageBoundary::Stream::kMoments, index, buffer_));
    backend_.Upload(buffer_.data(), x);
    return x;
  }

  // What the blocks before have left.
  StatusOr<Tensor> Again(int64_t index) {
    Tensor x = backend_.Allocate(DType::kF32, {WaveAt(index).rows(), model_.spec().hidden});
    buffer_.resize(x.shape.elements());
    CVXQ_RETURN_IF_ERROR(store_.Get(activations_[index], buffer_));
    backend_.Upload(buffer_.data(), x);
    return x;
  }

  Status Leave(int64_t index, const Tensor& x, bool last) {
    if (last && place_.after == nullptr) return absl::OkStatus();
    buffer_.resize(x.shape.elements());
    backend_.Download(x, buffer_.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    if (last) return place_.after->Send(StageBoundary::Stream::kMoments, index, buffer_);
    if (activations_[index] >= 0) return store_.Overwrite(activations_[index], buffer_);
    CVXQ_ASSIGN_OR_RETURN(activations_[index], store_.Put(buffer_));
    return absl::OkStatus();
  }

  BlockSums NewSums() {
    BlockSums sums;
    for (const LinearId id : model_.spec().linears()) {
      const int input = static_cast<int>(InputOf(id));
      const int64_t n = model_.spec().columns(id);
      if (!sums.sum[input].empty()) continue;
      sums.sum[input] = backend_.Allocate(DType::kF32, {n});
      backend_.Fill(sums.sum[input], 0);
      if (!options_.factor) continue;
      sums.moment[input] = backend_.Allocate(DType::kF32, {n, n});
      backend_.Fill(sums.moment[input], 0);
    }
    return sums;
  }

  // Calls body(number of the sum in the block, sum) for all sums of a block.
  template <typename Body>
  static Status EachSum(BlockSums& sums, const Body& body) {
    for (int i = 0; i < kInputCount; ++i) {
      for (Tensor* sum : {&sums.sum[i], &sums.moment[i]}) {
        if (sum->empty()) continue;
        CVXQ_RETURN_IF_ERROR(body(2 * i + (sum == &sums.moment[i]), *sum));
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
  Status EndPart(int64_t block, BlockSums& sums) {
    const StageTimes::Timer timer(place_.times, StageTask::kReduce);
    return EachSum(sums, [&](int64_t number, Tensor& sum) -> Status {
      std::vector<float> values = ToHost(sum);
      backend_.Fill(sum, 0);
      CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
      return parts_.Add(block, number, std::move(values));
    });
  }

  Status GiveBlock(int64_t block, BlockSums& sums) {
    return EachSum(sums, [&](int64_t number, Tensor& sum) -> Status {
      std::vector<float> values = ToHost(sum);
      sum = Tensor();
      return parts_.Give(block, number, std::move(values));
    });
  }

  Status RunBlock(int64_t block, int64_t index, Tensor& x, BlockSums& sums) {
    if (Known(block)) return model_.ForwardBlock(block, WaveAt(index), x, nullptr);
    const StageTimes::Timer timer(place_.times, StageTask::kMoments);
    std::array<bool, kInputCount> seen{};
    const LinearObserver observer = [&](LinearId id, const Tensor& input, const Tensor&) {
      const int which = static_cast<int>(InputOf(id));
      if (seen[which]) return;  // q, k, v share one input, gate and up another
      seen[which] = true;
      const bool centered = Centered(which);
      backend_.AddColumnSums(centered ? Weighted(block, which, index, input, /*power=*/1) : input,
                             sums.sum[which]);
      if (options_.factor) {
        backend_.AddSecondMoment(Weighted(block, which, index, input, /*power=*/0.5),
                                 sums.moment[which]);
      }
    };
    return model_.ForwardBlock(block, WaveAt(index), x, &observer);
  }

  bool Centered(int which) const {
    return options_.center && BiasesTakeMean(model_.spec(), static_cast<InputId>(which));
  }

  // The inputs of a wave, each row times a power of its token's weight.
  Tensor Weighted(int64_t block, int which, int64_t wave, const Tensor& input, double power) {
    if (options_.weights == nullptr || (*options_.weights)[block][which].empty()) return input;
    const std::vector<float>& weights = (*options_.weights)[block][which];
    const int64_t first = wave * WaveSequences(calibration_.seq_len) * calibration_.seq_len;
    std::vector<float> factor(input.shape[0], 1.0f);
    for (int64_t i = 0; i < input.shape[0]; ++i) {
      if (first + i >= static_cast<int64_t>(weights.size())) break;
      factor[i] = static_cast<float>(std::pow(weights[first + i], power));
    }
    Tensor scale = backend_.Allocate(DType::kF32, {input.shape[0]});
    backend_.Upload(factor.data(), scale);
    Tensor scaled = backend_.Allocate(DType::kF32, input.shape);
    backend_.Convert(input, scaled);
    backend_.ScaleRows(scale, scaled);
    if (input.dtype == DType::kF32) return scaled;
    Tensor rounded = backend_.Allocate(input.dtype, input.shape);
    backend_.Convert(scaled, rounded);
    return rounded;
  }

  Status FinishBlock(int64_t block, BlockSums& sums, std::array<InputMoments, kInputCount>& out) {
    std::array<std::vector<float>, 2 * kInputCount> totals;
    CVXQ_RETURN_IF_ERROR(EachSum(sums, [&](int64_t number, Tensor& sum) -> Status {
      totals[number] = ToHost(sum);
      sum = Tensor();
      return parts_.Total(block, number, totals[number]);
    }));
    const StageTimes::Timer timer(place_.times, StageTask::kFactorInputs);
    const double tokens = static_cast<double>(calibration_.samples * calibration_.seq_len);
    std::array<std::vector<float>, kInputCount> moments;
    for (int i = 0; i < kInputCount; ++i) {
      if (totals[2 * i].empty()) continue;
      out[i].mean = std::move(totals[2 * i]);
      for (float& value : out[i].mean) value = static_cast<float>(value / tokens);
      if (!options_.factor) continue;
      const int64_t n = static_cast<int64_t>(out[i].mean.size());
      moments[i] = std::move(totals[2 * i + 1]);
      for (float& value : moments[i]) value = static_cast<float>(value / tokens);
      out[i].diagonal.resize(n);
      for (int64_t k = 0; k < n; ++k) out[i].diagonal[k] = moments[i][k * n + k];
      out[i].centered = Centered(i);
      if (out[i].centered) RemoveMean(out[i].mean, moments[i]);
    }
    if (!options_.factor) return absl::OkStatus();
    std::array<Status, kInputCount> status;
    pool_.ParallelFor(kInputCount, [&](int64_t i) {
      if (!moments[i].empty()) status[i] = Factor(block, std::move(moments[i]), out[i]);
    });
    for (const Status& s : status) CVXQ_RETURN_IF_ERROR(s);
    return absl::OkStatus();
  }

  // E[x x^T] - m m^T in place.
  static void RemoveMean(const std::vector<float>& mean, std::vector<float>& moment) {
    const size_t n = mean.size();
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < n; ++k) moment[i * n + k] -= mean[i] * mean[k];
      moment[i * n + i] = std::max(moment[i * n + i], 0.0f);  // constant inputs, rounded
    }
  }

  Status Factor(int64_t block, std::vector<float> moment, InputMoments& out) {
    const int64_t n = static_cast<int64_t>(out.diagonal.size());
    StatusOr<CurvatureFactor> factor =
        rounder_.FactorCurvature(std::move(moment), n, options_.damping, options_.order);
    if (!factor.ok()) {
      return Status(factor.status().code(),
                    absl::StrCat("block ", block, ", inputs: ", factor.status().message()));
    }
    out.order = factor->order;
    out.damping = factor->damping;
    out.conditional.resize(n);
    for (int64_t i = 0; i < n; ++i) out.conditional[factor->order[i]] = factor->diagonal[i];
    std::vector<float>& lower = factor->lower;  // closed up to its strict lower triangle in place
    float* end = lower.data();
    for (int64_t i = 0; i < n; ++i) end = std::copy_n(&lower[i * n], i, end);
    CVXQ_ASSIGN_OR_RETURN(out.lower, store_.Put({lower.data(), end}));
    return absl::OkStatus();
  }

  Model& model_;
  Backend& backend_;
  const CalibrationSet& calibration_;
  const MomentOptions& options_;
  ThreadPool& pool_;
  Rounder& rounder_;
  SpillStore& store_;
  const StagePlace place_;
  PartSums parts_;
  std::vector<SpillStore::Handle> activations_;  // of each wave
  std::vector<float> buffer_;
};

}  // namespace

bool BiasesTakeMean(const ArchSpec& spec, InputId input) {
  const std::vector<LinearId> linears = spec.linears();
  return std::all_of(linears.begin(), linears.end(), [&](LinearId id) {
    return InputOf(id) != input || spec.bias[static_cast<int>(id)];
  });
}

TokenWeights WeighTokens(const ModelGradients& gradients) {
  TokenWeights weights(gradients.size());
  for (size_t block = 0; block < gradients.size(); ++block) {
    for (int id = 0; id < kLinearCount; ++id) {
      const std::vector<float>& squares = gradients[block][id].token_square;
      std::vector<float>& sum =
          weights[block][static_cast<int>(InputOf(static_cast<LinearId>(id)))];
      if (sum.empty()) sum.resize(squares.size());
      for (size_t t = 0; t < squares.size(); ++t) sum[t] += squares[t];
    }
    for (std::vector<float>& sum : weights[block]) {
      const double total = std::accumulate(sum.begin(), sum.end(), 0.0);
      if (!(total > 0)) {
        sum.clear();
        continue;
      }
      for (float& value : sum) value = static_cast<float>(value * sum.size() / total);
    }
  }
  return weights;
}

StatusOr<ModelMoments> CollectInputMoments(Model& model, const CalibrationSet& calibration,
                                           const MomentOptions& options, ThreadPool& pool,
                                           Rounder& rounder, SpillStore& store,
                                           Progress::Phase& progress, const StagePlace* place) {
  return MomentCollector(model, calibration, options, pool, rounder, store,
                         place != nullptr ? *place : StagePlace::Whole(model.spec().layers))
      .Run(progress);
}

StatusOr<CurvatureFactor> LoadFactor(const InputMoments& moments, const SpillStore& store) {
  CurvatureFactor factor;
  const int64_t n = static_cast<int64_t>(moments.order.size());
  factor.n = n;
  factor.order = moments.order;
  factor.damping = moments.damping;
  factor.diagonal.resize(n);
  for (int64_t i = 0; i < n; ++i) factor.diagonal[i] = moments.conditional[moments.order[i]];
  std::vector<float> triangle(n * (n - 1) / 2);
  CVXQ_RETURN_IF_ERROR(store.Get(moments.lower, triangle));
  factor.lower.assign(n * n, 0.0f);
  const float* next = triangle.data();
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(next, i, &factor.lower[i * n]);
    next += i;
    factor.lower[i * n + i] = 1;
  }
  return factor;
}

}  // namespace cvxq
