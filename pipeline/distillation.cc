#include "pipeline/distillation.h"

#include <algorithm>
#include <cmath>

#include "base/interrupt.h"
#include "pipeline/gradients.h"

namespace cvxq {
namespace {

constexpr int64_t kHeadTokens = 256;  // rows of logits at a time: a vocabulary can be wide

Tensor Ids(const CalibrationSet& calibration, std::span<const int64_t> samples, Backend& backend) {
  const int64_t T = calibration.seq_len;
  std::vector<int32_t> ids;
  for (const int64_t sample : samples) {
    const auto begin = calibration.ids.begin() + sample * T;
    ids.insert(ids.end(), begin, begin + T);
  }
  Tensor tensor = backend.Allocate(DType::kI32, {static_cast<int64_t>(ids.size())});
  backend.Upload(ids.data(), tensor);
  return tensor;
}

}  // namespace

StatusOr<HiddenStates> KeepHiddenStates(Model& original, const CalibrationSet& calibration,
                                        SpillStore& store, Progress::Phase& progress) {
  Backend& backend = original.backend();
  const int64_t T = calibration.seq_len, E = original.spec().embedding_dim;
  const int64_t wave_sequences = WaveSequences(T);
  HiddenStates states;
  std::vector<float> rows(T * E);
  for (int64_t first = 0; first < calibration.samples; first += wave_sequences) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    std::vector<int64_t> samples;
    for (int64_t i = first; i < std::min(calibration.samples, first + wave_sequences); ++i) {
      samples.push_back(i);
    }
    const int64_t count = static_cast<int64_t>(samples.size());
    CVXQ_ASSIGN_OR_RETURN(
        const Tensor hidden,
        original.Forward({.B = count, .T = T}, Ids(calibration, samples, backend)));
    for (int64_t b = 0; b < count; ++b) {
      backend.Download(hidden.Rows(b * T, (b + 1) * T), rows.data());
      CVXQ_ASSIGN_OR_RETURN(states.emplace_back(), store.Put(rows));
    }
    progress.Advance(count);
  }
  CVXQ_RETURN_IF_ERROR(backend.Synchronize());
  return states;
}

Distillation::Distillation(Model& student, const TunedWeights& weights,
                           const CalibrationSet& calibration, const HiddenStates& teacher,
                           const SpillStore& store)
    : student_(student),
      backend_(student.backend()),
      spec_(student.spec()),
      weights_(weights),
      calibration_(calibration),
      teacher_(teacher),
      store_(store) {
  for (const TunedWeights::Entry& entry : weights.entries()) {
    sums_[entry.name] = backend_.Allocate(DType::kF32, entry.shape);
  }
}

StatusOr<double> Distillation::Run(std::span<const int64_t> samples, std::vector<float>* gradient) {
  const Wave wave{.B = static_cast<int64_t>(samples.size()), .T = calibration_.seq_len};
  CVXQ_ASSIGN_OR_RETURN(Tensor x, student_.Embed(wave, Ids(calibration_, samples, backend_)));
  std::vector<Tensor> inputs;
  for (int64_t block = 0; block < spec_.layers; ++block) {
    if (gradient != nullptr) {
      backend_.Convert(x, inputs.emplace_back(backend_.Allocate(DType::kF32, x.shape)));
    }
    CVXQ_RETURN_IF_ERROR(student_.ForwardBlock(block, wave, x, nullptr));
  }
  const Tensor hidden = student_.FinalHidden(x);
  Tensor ghidden;
  if (gradient != nullptr) ghidden = backend_.Allocate(DType::kF32, hidden.shape);
  double kl = 0;
  CVXQ_RETURN_IF_ERROR(Head(hidden, samples, ghidden, kl));
  const double share = 1 / static_cast<double>(wave.rows());
  if (gradient != nullptr) {
    CVXQ_RETURN_IF_ERROR(Backward(wave, inputs, x, ghidden));
    gradient->resize(weights_.values().size());
    for (const TunedWeights::Entry& entry : weights_.entries()) {
      backend_.Download(sums_[entry.name], gradient->data() + entry.offset);
    }
    for (float& value : *gradient) value = static_cast<float>(value * share);
  }
  CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
  return kl * share;
}

Status Distillation::Head(const Tensor& hidden, std::span<const int64_t> samples, Tensor ghidden,
                          double& kl) {
  const int64_t T = calibration_.seq_len, E = spec_.embedding_dim;
  std::vector<float> states(T * E), divergence;
  for (size_t b = 0; b < samples.size(); ++b) {
    CVXQ_RETURN_IF_ERROR(store_.Get(teacher_[samples[b]], states));
    const Tensor teacher = backend_.Allocate(DType::kF32, {T, E});
    backend_.Upload(states.data(), teacher);
    for (int64_t t = 0; t < T; t += kHeadTokens) {
      const int64_t rows = std::min(kHeadTokens, T - t), begin = b * T + t;
      const Tensor reference = student_.Logits(teacher.Rows(t, t + rows));
      const Tensor logits = student_.Logits(hidden.Rows(begin, begin + rows));
      const Tensor each = backend_.Allocate(DType::kF32, {rows});
      const Tensor agree = backend_.Allocate(DType::kF32, {rows});
      backend_.KlDivergence(reference, logits, each, agree);
      divergence.resize(rows);
      backend_.Download(each, divergence.data());
      for (const float value : divergence) kl += value;
      if (ghidden.empty()) continue;
      const Tensor g = backend_.Allocate(DType::kF32, logits.shape);
      backend_.KlGradient(reference, logits, g);
      backend_.Convert(student_.LogitsBackward(logits, g), ghidden.Rows(begin, begin + rows));
    }
  }
  return absl::OkStatus();
}

Status Distillation::Backward(const Wave& wave, const std::vector<Tensor>& inputs, const Tensor& x,
                              const Tensor& ghidden) {
  for (auto& [name, sum] : sums_) backend_.Fill(sum, 0);
  const NormNames final_norm = FinalNorm(spec_);
  const NormObserver of_final = [&](NormWeight BlockWeights::*, const Tensor& in,
                                    const Tensor& gy) { Observe(final_norm, spec_.norm, in, gy); };
  Tensor g = student_.FinalHiddenBackward(x, ghidden, &of_final);
  for (int64_t block = spec_.layers - 1; block >= 0; --block) {
    const std::vector<NormNames> names = NormsOfBlock(spec_, block);
    const NormObserver of_norms = [&](NormWeight BlockWeights::*member, const Tensor& in,
                                      const Tensor& gy) {
      const bool of_heads =
          member == &BlockWeights::query_norm || member == &BlockWeights::key_norm;
      const auto norm = std::find_if(names.begin(), names.end(), [&](const NormNames& candidate) {
        return candidate.member == member;
      });
      Observe(*norm, of_heads ? spec_.qk_norm_kind : spec_.norm, in, gy);
    };
    const LinearObserver of_linears = [&](LinearId id, const Tensor&, const Tensor& gy) {
      const auto bias = sums_.find(spec_.LinearName(block, id) + ".bias");
      if (bias != sums_.end()) backend_.AddColumnSums(gy, bias->second);
    };
    CVXQ_RETURN_IF_ERROR(
        student_.BackwardBlock(block, wave, inputs[block], g, &of_linears, &of_norms));
  }
  return absl::OkStatus();
}

void Distillation::Observe(const NormNames& names, NormKind kind, const Tensor& x,
                           const Tensor& gy) {
  if (const auto weight = sums_.find(names.weight); weight != sums_.end()) {
    backend_.AddNormGradient(kind, spec_.norm_epsilon, x, gy, weight->second);
  }
  if (const auto bias = sums_.find(names.bias); bias != sums_.end()) {
    backend_.AddColumnSums(gy, bias->second);
  }
}

}  // namespace cvxq
