#include "model/model.h"

#include <algorithm>

#include "model/layers.h"

namespace cvxq {
namespace {

// Positions that the rotary tables have at least: growing them is rare then.
constexpr int64_t kFirstRopePositions = 1024;

}  // namespace

StatusOr<std::unique_ptr<Model>> Model::Load(ArchSpec spec, const WeightSource& source,
                                             const ModelOptions& options, Backend& backend) {
  AdaptNames(source, spec);
  for (int64_t i = 0; i < spec.layers; ++i) {
    CVXQ_RETURN_IF_ERROR(CheckBlock(source, spec, i));
    ReleaseBlock(source, spec, i);
  }
  auto model = std::unique_ptr<Model>(new Model(std::move(spec), source, options, backend));
  CVXQ_RETURN_IF_ERROR(model->LoadEnds());
  return model;
}

Status Model::LoadEnds() {
  const ArchSpec::Names& names = spec_.names;
  const int64_t V = spec_.vocabulary, E = spec_.embedding_dim, D = spec_.hidden;
  const auto load = [&](const std::string& name, const Shape& shape, std::optional<DType> dtype) {
    return LoadTensor(source_, name + ".weight", shape, dtype, backend_);
  };
  if (options_.first || (options_.last && spec_.tied_head)) {
    CVXQ_ASSIGN_OR_RETURN(embedding_, load(names.embedding, {V, E}, std::nullopt));
  }
  if (spec_.learned_positions && options_.first) {
    const int64_t rows = spec_.max_positions + spec_.position_offset;
    CVXQ_ASSIGN_OR_RETURN(positions_, load(names.positions, {rows, D}, std::nullopt));
  }
  if (!names.project_in.empty() && options_.first) {
    CVXQ_ASSIGN_OR_RETURN(project_in_, load(names.project_in, {D, E}, compute()));
  }
  resident_.resize(spec_.layers);
  rope_.resize(spec_.layers);
  if (options_.last) CVXQ_RETURN_IF_ERROR(LoadHead());
  return backend_.Synchronize();
}

Status Model::LoadHead() {
  const ArchSpec::Names& names = spec_.names;
  const int64_t V = spec_.vocabulary, E = spec_.embedding_dim, D = spec_.hidden;
  CVXQ_RETURN_IF_ERROR(LoadFinalNorm());
  if (!names.project_out.empty()) {
    CVXQ_ASSIGN_OR_RETURN(project_out_, LoadTensor(source_, names.project_out + ".weight", {E, D},
                                                   compute(), backend_));
  }
  head_ = embedding_;
  if (!spec_.tied_head) {
    CVXQ_ASSIGN_OR_RETURN(
        head_, LoadTensor(source_, names.head + ".weight", {V, E}, std::nullopt, backend_));
  }
  // The head comes first in the memory for weights: else it is converted for each call.
  const int64_t converted_bytes = V * E * ByteSize(compute());
  if (head_.dtype != compute() && converted_bytes <= options_.resident_bytes) {
    head_ = ToCompute(head_, compute(), backend_);
    resident_bytes_ = converted_bytes;
    if (!spec_.tied_head) source_.Release(names.head + ".weight");
  }
  return absl::OkStatus();
}

Status Model::LoadFinalNorm() {
  if (!spec_.final_norm) return absl::OkStatus();
  CVXQ_ASSIGN_OR_RETURN(final_norm_, LoadNorm(source_, spec_.names.final_norm, {spec_.hidden},
                                              spec_.norm_weight, spec_.norm_bias, backend_));
  return absl::OkStatus();
}

Status Model::ReloadParameters() {
  CVXQ_RETURN_IF_ERROR(LoadFinalNorm());
  for (size_t i = 0; i < resident_.size(); ++i) {
    if (resident_[i] == nullptr) continue;
    auto weights = std::make_shared<BlockWeights>(*resident_[i]);
    CVXQ_RETURN_IF_ERROR(cvxq::ReloadParameters(source_, spec_, i, backend_, *weights));
    resident_[i] = std::move(weights);
  }
  return backend_.Synchronize();
}

StatusOr<std::shared_ptr<const BlockWeights>> Model::Weights(int64_t index) {
  if (resident_[index] != nullptr) return resident_[index];
  CVXQ_ASSIGN_OR_RETURN(BlockWeights loaded, LoadBlock(source_, spec_, index, compute(), backend_));
  auto weights = std::make_shared<const BlockWeights>(std::move(loaded));
  if (weights->bytes <= options_.resident_bytes - resident_bytes_) {
    resident_bytes_ += weights->bytes;
    resident_[index] = weights;
  }
  return weights;
}

Status Model::CheckWave(const Wave& wave) const {
  if (wave.position + wave.T <= spec_.max_positions) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("position ", wave.position + wave.T - 1,
                                                 " is beyond the model's ", spec_.max_positions,
                                                 " positions; use shorter texts"));
}

void Model::GrowRope(int64_t positions) {
  if (positions <= rope_positions_) return;
  rope_positions_ = std::min(spec_.max_positions,
                             std::max({positions, 2 * rope_positions_, kFirstRopePositions}));
  for (size_t i = 0; i < rope_.size(); ++i) {
    const RopeSpec& rope = spec_.layer[i].rope;
    size_t same = 0;
    while (!(spec_.layer[same].rope == rope)) ++same;
    rope_[i] =
        same < i ? rope_[same] : MakeRopeTables(rope, spec_.head_dim, rope_positions_, backend_);
  }
}

StatusOr<Tensor> Model::Embed(const Wave& wave, const Tensor& ids) {
  CVXQ_RETURN_IF_ERROR(CheckWave(wave));
  std::vector<int32_t> host(wave.rows());
  backend_.Download(ids, host.data());
  for (const int32_t id : host) {
    if (id < 0 || id >= spec_.vocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the model's vocabulary of ", spec_.vocabulary,
                       "; is this the model's own tokenizer?"));
    }
  }
  Tensor x = backend_.Allocate(DType::kF32, {wave.rows(), spec_.embedding_dim});
  backend_.Embed(embedding_, ids, static_cast<float>(spec_.embedding_scale), x);
  if (!project_in_.empty()) {
    Tensor projected = backend_.Allocate(DType::kF32, {wave.rows(), spec_.hidden});
    backend_.Linear(ToCompute(x, compute(), backend_), project_in_, Tensor{}, projected);
    x = projected;
  }
  if (spec_.learned_positions) {
    backend_.AddPositions(positions_, wave.position + spec_.position_offset, wave.T, x);
  }
  return x;
}

Status Model::ForwardBlock(int64_t index, const Wave& wave, Tensor x,
                           const LinearObserver* observer, KeyValueCache* cache) {
  CVXQ_RETURN_IF_ERROR(CheckWave(wave));
  GrowRope(wave.position + wave.T);
  CVXQ_ASSIGN_OR_RETURN(const auto weights, Weights(index));
  const BlockContext context{spec_,        spec_.layer[index], *weights,
                             rope_[index], compute(),          backend_};
  BlockForward(context, wave, x, observer, cache);
  return Finish(index);
}

Status Model::BackwardBlock(int64_t index, const Wave& wave, const Tensor& x, Tensor g,
                            const LinearObserver* observer, const NormObserver* norms) {
  CVXQ_RETURN_IF_ERROR(CheckWave(wave));
  GrowRope(wave.position + wave.T);
  CVXQ_ASSIGN_OR_RETURN(const auto weights, Weights(index));
  const BlockContext context{spec_,     spec_.layer[index], *weights, rope_[index],
                             compute(), backend_,           norms};
  BlockBackward(context, wave, x, g, observer);
  return Finish(index);
}

Status Model::Finish(int64_t index) {
  if (resident_[index] != nullptr) return absl::OkStatus();
  // A streamed block: its weights may go when the work on them is done.
  CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
  ReleaseBlock(source_, spec_, index);
  return absl::OkStatus();
}

Tensor Model::FinalHidden(const Tensor& x) {
  const DType type = project_out_.empty() ? DType::kF32 : compute();
  Tensor hidden = backend_.Allocate(type, x.shape);
  if (spec_.final_norm) {
    backend_.Norm(spec_.norm, spec_.norm_epsilon, x, final_norm_.w, final_norm_.b, hidden);
  } else {
    backend_.Convert(x, hidden);
  }
  if (project_out_.empty()) return hidden;
  Tensor projected = backend_.Allocate(DType::kF32, {x.shape[0], spec_.embedding_dim});
  backend_.Linear(hidden, project_out_, Tensor{}, projected);
  return projected;
}

Tensor Model::FinalHiddenBackward(const Tensor& x, const Tensor& gh, const NormObserver* norms) {
  Tensor ghidden = gh;
  if (!project_out_.empty()) {
    ghidden = backend_.Allocate(DType::kF32, x.shape);
    backend_.LinearBackward(ToCompute(gh, compute(), backend_), project_out_, ghidden,
                            /*accumulate=*/false);
  }
  Tensor g = backend_.Allocate(DType::kF32, x.shape);
  if (spec_.final_norm) {
    if (norms != nullptr) (*norms)(nullptr, x, ghidden);
    backend_.NormBackward(spec_.norm, spec_.norm_epsilon, x, final_norm_.w, ghidden, g,
                          /*accumulate=*/false);
  } else {
    backend_.Convert(ghidden, g);
  }
  return g;
}

Tensor Model::Logits(const Tensor& hidden) {
  Tensor logits = backend_.Allocate(DType::kF32, {hidden.shape[0], spec_.vocabulary});
  backend_.Linear(ToCompute(hidden, compute(), backend_), ToCompute(head_, compute(), backend_),
                  Tensor{}, logits);
  if (spec_.logit_scale != 1 || spec_.logit_softcap != 0) {
    backend_.ScaleAndCap(static_cast<float>(spec_.logit_scale),
                         static_cast<float>(spec_.logit_softcap), logits);
  }
  return logits;
}

Tensor Model::LogitsBackward(const Tensor& logits, Tensor glogits) {
  if (spec_.logit_scale != 1 || spec_.logit_softcap != 0) {
    backend_.ScaleAndCapBackward(static_cast<float>(spec_.logit_scale),
                                 static_cast<float>(spec_.logit_softcap), logits, glogits);
  }
  Tensor gh = backend_.Allocate(DType::kF32, {logits.shape[0], spec_.embedding_dim});
  backend_.LinearBackward(ToCompute(glogits, compute(), backend_),
                          ToCompute(head_, compute(), backend_), gh, /*accumulate=*/false);
  return gh;
}

StatusOr<Tensor> Model::Forward(const Wave& wave, const Tensor& ids) {
  CVXQ_ASSIGN_OR_RETURN(Tensor x, Embed(wave, ids));
  for (int64_t i = 0; i < spec_.layers; ++i) {
    CVXQ_RETURN_IF_ERROR(ForwardBlock(i, wave, x, nullptr));
  }
  return FinalHidden(x);
}

}  // namespace cvxq
