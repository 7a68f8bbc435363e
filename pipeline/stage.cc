#include "pipeline/stage.h"

#include <algorithm>
#include <limits>

#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "pipeline/block_state.h"
#include "pipeline/stage_times.h"

namespace cvxq {
namespace {

std::vector<LinearPlan> PlansOf(const ArchSpec& spec, BlockRange blocks) {
  std::vector<LinearPlan> plans = MakePlans(spec);
  std::erase_if(plans, [&](const LinearPlan& plan) {
    return plan.block < blocks.begin || plan.block >= blocks.end;
  });
  return plans;
}

// Blocks whose second moments fit in so many bytes together, at least one.
int64_t BlocksAtOnce(const ArchSpec& spec, int64_t memory) {
  std::array<bool, kInputCount> seen{};
  int64_t bytes = 0;
  for (const LinearId id : spec.linears()) {
    if (std::exchange(seen[static_cast<int>(InputOf(id))], true)) continue;
    bytes += spec.columns(id) * spec.columns(id) * static_cast<int64_t>(sizeof(float));
  }
  return std::max<int64_t>(1, memory / bytes);
}

}  // namespace

double HeadBlocks(const ArchSpec& spec) {
  const double head = static_cast<double>(spec.vocabulary * spec.embedding_dim);
  std::array<double, kInputCount> width{};
  double weights = 0, moments = 0;
  for (const LinearId id : spec.linears()) {
    weights += static_cast<double>(spec.rows(id) * spec.columns(id));
    width[static_cast<int>(InputOf(id))] = static_cast<double>(spec.columns(id));
  }
  for (const double n : width) moments += n * n;
  // Products of a token: a block goes forward for gradients, again on the way back, and for
  // moments, has two on the way back, and the second moments of its inputs; the head one forward,
  // one back.
  return 2 * head / (5 * weights + moments);
}

std::vector<BlockRange> CutStages(const ArchSpec& spec, int64_t stages) {
  const int64_t layers = spec.layers;
  stages = std::clamp<int64_t>(stages, 1, layers);
  // All blocks cost the same: only how many of them the last stage has is to be found.
  int64_t last = layers;
  if (stages > 1) {
    double least = std::numeric_limits<double>::infinity();
    for (int64_t blocks = 1; blocks <= layers - stages + 1; ++blocks) {
      const int64_t others = (layers - blocks + stages - 2) / (stages - 1);
      const double most =
          std::max(static_cast<double>(others), static_cast<double>(blocks) + HeadBlocks(spec));
      if (most > least) continue;
      least = most;
      last = blocks;
    }
  }
  std::vector<BlockRange> ranges;
  for (int64_t stage = 0; stage + 1 < stages; ++stage) {
    const int64_t rest = layers - last;
    ranges.push_back({rest * stage / (stages - 1), rest * (stage + 1) / (stages - 1)});
  }
  ranges.push_back({layers - last, layers});
  return ranges;
}

Stage::Stage(const StageJob& job, const StagePlace& place, int threads, int64_t memory)
    : job_(job),
      place_(place),
      memory_(memory),
      pool_(threads),
      backend_(MakeCpuBackend(threads)),
      store_(job.spill_folder, memory / 2),
      plans_(PlansOf(job.files.spec, place.owned)),
      context_{job.options,    *job.files.checkpoint,
               job.files.spec, gradients_,
               inputs_,        outputs_,
               store_,         pool_,
               plans_},
      keeps_(job.state != nullptr),
      last_save_(absl::Now()) {}

// The sums of a stage's gradients in the job's state.
class Stage::Saves : public GradientSaves {
 public:
  Saves(Stage& stage, WaveCuts* cuts) : stage_(stage), cuts_(cuts) {}

  int64_t first_wave() const override { return stage_.first_wave_; }
  StatusOr<std::vector<BlockGradients>> Load(int64_t block, size_t count) override {
    std::vector<BlockGradients> sums(count);
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                          stage_.job_.state->Read(block, BlockPart::kSums, stage_.first_wave_));
    if (reader == nullptr) return absl::DataLossError("sums of gradients are not there any more");
    for (BlockGradients& part : sums) CVXQ_RETURN_IF_ERROR(LoadGradients(*reader, part));
    CVXQ_RETURN_IF_ERROR(reader->Finish());
    return sums;
  }
  bool Wanted(int64_t waves) override { return cuts_ != nullptr && cuts_->Wanted(waves); }
  void Save(int64_t waves, int64_t block, const std::vector<BlockGradients>& sums) override {
    if (status_.ok()) status_ = SaveBlock(waves, block, sums);
  }
  void Saved(int64_t waves) override {
    Failpoint("sums-saved");
    cuts_->Saved(waves, std::exchange(status_, absl::OkStatus()));
  }

 private:
  Status SaveBlock(int64_t waves, int64_t block, const std::vector<BlockGradients>& sums) {
    int64_t bytes = 0;
    for (const BlockGradients& part : sums) bytes += StateBytes(part);
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveWriter> writer,
                          stage_.job_.state->Write(block, BlockPart::kSums, waves, bytes));
    for (const BlockGradients& part : sums) CVXQ_RETURN_IF_ERROR(SaveGradients(part, *writer));
    Failpoint("sums-before-commit");
    return writer->Commit();
  }

  Stage& stage_;
  WaveCuts* const cuts_;
  Status status_;  // of the save under way
};

Status Stage::Restore(const JobPosition& position) {
  first_wave_ = position.step == 0 ? position.waves : 0;
  gradients_.assign(job_.files.spec.layers, {});
  outputs_.assign(job_.needs.output_factors ? job_.files.spec.layers : 0, {});
  inputs_.assign(job_.files.spec.layers, {});
  linears_.reset();
  coded_.clear();
  unsaved_.clear();
  saved_.clear();
  if (job_.state == nullptr) return absl::OkStatus();
  if (position.step > kMomentStep) linears_.emplace(context_, job_.feedback);
  for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
    CVXQ_RETURN_IF_ERROR(RestoreBlock(position, block));
    Failpoint("stage-block-restored");
  }
  return absl::OkStatus();
}

Status Stage::RestoreBlock(const JobPosition& position, int64_t block) {
  if (!place_.owns(block) && position.step != kGradientStep) return absl::OkStatus();
  if (position.step >= kGradientStep) {
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                          job_.state->Read(block, BlockPart::kGradients, 0));
    if (reader == nullptr) return absl::DataLossError("gradients are not in the job's state");
    CVXQ_RETURN_IF_ERROR(LoadGradients(*reader, gradients_[block]));
    if (!place_.owns(block)) return absl::OkStatus();  // it takes the weights of tokens alone
    if (!outputs_.empty()) CVXQ_RETURN_IF_ERROR(LoadOutputs(*reader, store_, outputs_[block]));
    CVXQ_RETURN_IF_ERROR(reader->Finish());
    saved_.insert({block, BlockPart::kGradients});
  }
  if (position.step >= kMomentStep) {
    bool there = false;
    CVXQ_RETURN_IF_ERROR(LoadMoments(block, there));
    if (!there) return absl::DataLossError("input moments are not in the job's state");
  }
  CVXQ_ASSIGN_OR_RETURN(coded_[block], job_.state->CodedSteps(block));
  int64_t last = 0;
  for (const int64_t step : coded_[block]) {
    if (step <= position.step) last = step;
  }
  if (last == 0) return absl::OkStatus();
  EntropyAnswer known;  // to whoever gives the orders, already
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                        job_.state->Read(block, BlockPart::kCodes, last));
  if (reader == nullptr) return absl::DataLossError("codes are not in the job's state any more");
  return linears_->Load(block, *reader, known);
}

Status Stage::LoadMoments(int64_t block, bool& there) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                        job_.state->Read(block, BlockPart::kMoments, 0));
  there = reader != nullptr;
  if (!there) return absl::OkStatus();
  CVXQ_RETURN_IF_ERROR(LoadInputs(*reader, store_, inputs_[block]));
  CVXQ_RETURN_IF_ERROR(reader->Finish());
  saved_.insert({block, BlockPart::kMoments});
  return absl::OkStatus();
}

Status Stage::SaveStatistics(int64_t block, BlockPart part) {
  if (saved_.contains({block, part})) return absl::OkStatus();
  const bool of_gradients = part == BlockPart::kGradients;
  int64_t bytes = StateBytes(inputs_[block], store_);
  if (of_gradients) {
    bytes = StateBytes(gradients_[block]);
    if (!outputs_.empty()) bytes += StateBytes(outputs_[block], store_);
  }
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveWriter> writer,
                        job_.state->Write(block, part, 0, bytes));
  if (of_gradients) {
    CVXQ_RETURN_IF_ERROR(SaveGradients(gradients_[block], *writer));
    if (!outputs_.empty()) {
      CVXQ_RETURN_IF_ERROR(SaveOutputs(outputs_[block], store_, *writer));
    }
  } else {
    CVXQ_RETURN_IF_ERROR(SaveInputs(inputs_[block], store_, *writer));
  }
  Failpoint("statistics-before-commit");
  CVXQ_RETURN_IF_ERROR(writer->Commit());
  saved_.insert({block, part});
  Failpoint("statistics-saved");
  return absl::OkStatus();
}

Status Stage::SaveCodes() {
  while (!unsaved_.empty()) {
    const auto [block, step] = *unsaved_.begin();
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveWriter> writer,
                          job_.state->Write(block, BlockPart::kCodes, step, 0));
    CVXQ_RETURN_IF_ERROR(linears_->Save(block, *writer));
    Failpoint("codes-before-commit");
    CVXQ_RETURN_IF_ERROR(writer->Commit());
    unsaved_.erase(block);
    Failpoint("codes-saved");
  }
  return absl::OkStatus();
}

Status Stage::Save(int64_t step) {
  for (int64_t block = place_.owned.begin; block < place_.owned.end; ++block) {
    if (step >= kGradientStep) {
      CVXQ_RETURN_IF_ERROR(SaveStatistics(block, BlockPart::kGradients));
    }
    if (step >= kMomentStep) CVXQ_RETURN_IF_ERROR(SaveStatistics(block, BlockPart::kMoments));
  }
  CVXQ_RETURN_IF_ERROR(SaveCodes());
  last_save_ = absl::Now();
  return absl::OkStatus();
}

bool Stage::SaveDue() {
  return keeps_ && absl::Now() - last_save_ >= absl::Seconds(job_.save_seconds);
}

// Saves in the middle of a step, which nobody counts on: where that fails it is not tried again.
void Stage::KeepWhatIsDone(const std::function<Status()>& save) {
  const absl::Time begin = absl::Now();
  keeps_ = save().ok();
  last_save_ = absl::Now();
  // What saving takes must stay small against the work.
  if (job_.save_seconds > 0) last_save_ += 9 * (last_save_ - begin);
}

StatusOr<std::unique_ptr<Model>> Stage::LoadModel() {
  return Model::Load(job_.files.spec, *job_.files.weights,
                     {.compute = job_.compute,
                      .resident_bytes = memory_ / 2,
                      .first = place_.before == nullptr,
                      .last = place_.after == nullptr},
                     *backend_);
}

Status Stage::Gradients(Progress::Phase& progress, WaveCuts* cuts) {
  Saves saves(*this, cuts);
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel());
  CVXQ_ASSIGN_OR_RETURN(
      gradients_,
      CollectGradients(*model, job_.calibration, job_.gradients,
                       {.output_block = job_.needs.output_factors ? job_.output_block : 0,
                        .token_squares = job_.needs.output_factors},
                       progress, &place_, &store_, job_.state != nullptr ? &saves : nullptr));
  if (!job_.needs.output_factors) return absl::OkStatus();
  const auto order = [](int64_t, LinearId, int64_t first, std::span<const float> diagonal) {
    return EntropyRowOrder(first, static_cast<int64_t>(diagonal.size()));
  };
  const StageTimes::Timer timer(place_.times, StageTask::kFactorOutputs, place_.owned.size());
  CVXQ_ASSIGN_OR_RETURN(
      outputs_, FactorOutputMoments(job_.files.spec, place_.owned, job_.output_block,
                                    job_.options.shrinkage, order, gradients_, pool_, store_));
  return absl::OkStatus();
}

Status Stage::Moments(Progress::Phase& progress) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel());
  TokenWeights weights;
  if (job_.needs.output_factors) weights = WeighTokens(gradients_);
  MomentOptions options{.factor = job_.needs.input_factors,
                        .order = job_.needs.order,
                        .damping = job_.options.damping,
                        .center = job_.needs.center,
                        .weights = weights.empty() ? nullptr : &weights};
  const bool alone = place_.before == nullptr && place_.after == nullptr;
  if (!alone) options.blocks_at_once = BlocksAtOnce(job_.files.spec, memory_ / 2);
  inputs_.resize(job_.files.spec.layers);
  int64_t kept = place_.owned.begin;  // those before are in the state
  if (job_.state != nullptr) {
    for (bool there = true; kept < place_.owned.end; kept += there) {
      CVXQ_RETURN_IF_ERROR(LoadMoments(kept, there));
      if (!there) break;
    }
    options.finished = [&](int64_t block, const BlockInputs& moments) {
      inputs_[block] = moments;
      if (!SaveDue()) return;
      KeepWhatIsDone([&]() -> Status {
        for (; kept <= block; ++kept) {
          CVXQ_RETURN_IF_ERROR(SaveStatistics(kept, BlockPart::kMoments));
        }
        return absl::OkStatus();
      });
    };
  }
  const ModelMoments known = inputs_;
  options.known = &known;
  CVXQ_ASSIGN_OR_RETURN(inputs_, CollectInputMoments(*model, job_.calibration, options, pool_,
                                                     store_, progress, &place_));
  return absl::OkStatus();
}

StatusOr<EntropyAnswer> Stage::CarryOut(const EntropyOrder& order, int64_t step,
                                        Progress::Phase& phase) {
  if (!linears_) linears_.emplace(context_, job_.feedback);
  const bool codes = order.kind == EntropyOrder::Kind::kCode;
  const int64_t linears = static_cast<int64_t>(job_.files.spec.linears().size());
  EntropyAnswer answer;
  for (const EntropyOrder::Block& block : order.blocks) {
    if (!place_.owns(block.block)) continue;
    const std::vector<int64_t>& there = coded_[block.block];
    if (codes && std::find(there.begin(), there.end(), step) != there.end()) {
      CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                            job_.state->Read(block.block, BlockPart::kCodes, step));
      if (reader != nullptr) {
        CVXQ_RETURN_IF_ERROR(linears_->Load(block.block, *reader, answer));
        phase.Advance(linears);
        continue;
      }
    }
    EntropyOrder one = order;
    one.blocks = {block};
    {
      const StageTimes::Timer timer(place_.times, codes ? StageTask::kCode : StageTask::kForesee);
      CVXQ_ASSIGN_OR_RETURN(EntropyAnswer part, linears_->CarryOut(one, phase));
      answer.Append(std::move(part));
    }
    if (!codes || job_.state == nullptr) continue;
    unsaved_[block.block] = step;
    if (SaveDue()) KeepWhatIsDone([&] { return SaveCodes(); });
  }
  return answer;
}

Status Stage::CorrectBiases(const EntropyTables& tables) { return linears_->CorrectBiases(tables); }

double Stage::output_damping() const {
  double damping = 0;
  for (const auto& block : outputs_) {
    for (const OutputMoments& moments : block) damping = std::max(damping, moments.damping);
  }
  return damping;
}

double Stage::input_damping() const {
  double damping = 0;
  for (const auto& block : inputs_) {
    for (const InputMoments& moments : block) damping = std::max(damping, moments.damping);
  }
  return damping;
}

}  // namespace cvxq
