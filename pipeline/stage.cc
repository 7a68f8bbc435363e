#include "pipeline/stage.h"

#include <algorithm>
#include <limits>

#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "pipeline/block_state.h"
#include "pipeline/entropy_linears.h"
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

Stage::Stage(const StageJob& job, const StagePlace& place, int threads, int64_t memory,
             std::unique_ptr<Backend> backend)
    : job_(job),
      place_(place),
      memory_(memory),
      pool_(threads),
      backend_(std::move(backend)),
      rounder_(MakeRounder(*backend_, pool_)),
      store_(job.spill_folder, memory / 2),
      own_plans_(PlansOf(job.files.spec, place.owned)),
      plans_(job.plans != nullptr ? *job.plans : own_plans_),
      context_{job.options,    *job.files.checkpoint,
               job.files.spec, gradients_,
               inputs_,        outputs_,
               store_,         pool_,
               *rounder_,      plans_},
      keeps_(job.state != nullptr),
      clock_(job.save_seconds) {}

// The sums of a stage's gradients in the job's state.
class Stage::Saves : public GradientSaves {
 public:
  // For the pass that is this step.
  Saves(Stage& stage, int64_t step, WaveCuts* cuts)
      : stage_(stage), before_(step - 1), cuts_(cuts) {}

  int64_t first_wave() const override {
    return stage_.begin_.step == before_ ? stage_.begin_.waves : 0;
  }
  StatusOr<std::vector<BlockGradients>> Load(int64_t block, size_t count) override {
    std::vector<BlockGradients> sums(count);
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                          stage_.job_.state->Read(block, BlockPart::kSums, stage_.begin_));
    for (BlockGradients& part : sums) CVXQ_RETURN_IF_ERROR(LoadGradients(*reader, part));
    CVXQ_RETURN_IF_ERROR(reader->Finish());
    return sums;
  }
  bool Wanted(int64_t waves) override {
    begin_ = absl::Now();
    return cuts_ != nullptr && cuts_->Wanted(waves);
  }
  void Save(int64_t waves, int64_t block, const std::vector<BlockGradients>& sums) override {
    if (status_.ok()) status_ = SaveBlock(waves, block, sums);
  }
  void Saved(int64_t waves) override {
    Failpoint("sums-saved");
    cuts_->Saved(waves, std::exchange(status_, absl::OkStatus()), absl::Now() - begin_);
  }

 private:
  Status SaveBlock(int64_t waves, int64_t block, const std::vector<BlockGradients>& sums) {
    int64_t bytes = 0;
    for (const BlockGradients& part : sums) bytes += StateBytes(part);
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveWriter> writer,
                          stage_.job_.state->Write(block, BlockPart::kSums,
                                                   {.step = before_, .waves = waves}, bytes));
    for (const BlockGradients& part : sums) CVXQ_RETURN_IF_ERROR(SaveGradients(part, *writer));
    Failpoint("sums-before-commit");
    return writer->Commit();
  }

  Stage& stage_;
  const int64_t before_;  // steps
  WaveCuts* const cuts_;
  Status status_;     // of the save under way
  absl::Time begin_;  // its
};

Status Stage::Restore(const JobPosition& position) {
  begin_ = position;
  gradients_.assign(job_.files.spec.layers, {});
  outputs_.assign(job_.needs.output_factors ? job_.files.spec.layers : 0, {});
  const bool inputs = job_.needs.input_factors || job_.needs.input_means;
  inputs_.assign(inputs ? job_.files.spec.layers : 0, {});
  coder_.reset();
  coded_.clear();
  to_load_.clear();
  unsaved_.clear();
  saved_.clear();
  if (job_.state == nullptr) return absl::OkStatus();
  std::vector<int64_t> coded;  // step, by block
  if (position.step > kMomentStep) {
    CVXQ_ASSIGN_OR_RETURN(coded, job_.state->Coded(position));
    coded.resize(job_.files.spec.layers);
  }
  for (int64_t block = place_.blocks.begin; block < place_.blocks.end; ++block) {
    if (place_.owns(block) && !coded.empty() && coded[block] > 0) to_load_[block] = coded[block];
    CVXQ_RETURN_IF_ERROR(RestoreBlock(position, block));
    if (keeps_) {  // codes beyond the commit: nobody counts on them
      StatusOr<std::vector<int64_t>> steps = job_.state->CodedSteps(block);
      keeps_ = steps.ok();
      if (keeps_) coded_[block] = *std::move(steps);
    }
    Failpoint("stage-block-restored");
  }
  return position.step >= kGradientStep && job_.needs.gradients ? Plan() : absl::OkStatus();
}

Status Stage::RestoreBlock(const JobPosition& position, int64_t block) {
  if (!place_.owns(block) && position.step != kGradientStep) return absl::OkStatus();
  if (position.step >= kGradientStep && job_.needs.gradients) {
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                          job_.state->Read(block, BlockPart::kGradients, {}));
    CVXQ_RETURN_IF_ERROR(LoadGradients(*reader, gradients_[block]));
    if (!place_.owns(block)) return absl::OkStatus();  // it takes the weights of tokens alone
    if (!outputs_.empty()) CVXQ_RETURN_IF_ERROR(LoadOutputs(*reader, store_, outputs_[block]));
    CVXQ_RETURN_IF_ERROR(reader->Finish());
    saved_.insert({block, BlockPart::kGradients});
  }
  if (position.step >= kMomentStep && !inputs_.empty()) {
    CVXQ_RETURN_IF_ERROR(LoadMoments(block));
  }
  return absl::OkStatus();
}

Status Stage::LoadMoments(int64_t block) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                        job_.state->Read(block, BlockPart::kMoments, {}));
  BlockInputs inputs;
  CVXQ_RETURN_IF_ERROR(LoadInputs(*reader, store_, inputs));
  CVXQ_RETURN_IF_ERROR(reader->Finish());
  inputs_[block] = std::move(inputs);
  saved_.insert({block, BlockPart::kMoments});
  return absl::OkStatus();
}

BlockCoder& Stage::Coder() {
  if (coder_ == nullptr) {
    coder_ = job_.coder != nullptr ? job_.coder->Blocks(context_)
                                   : std::make_unique<EntropyLinears>(context_, job_.feedback);
  }
  return *coder_;
}

// The codes that this has begun behind.
Status Stage::LoadCodes() {
  for (const auto& [block, step] : std::exchange(to_load_, {})) {
    EntropyAnswer known;  // to whoever gives the orders, already
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                          job_.state->Read(block, BlockPart::kCodes, {.step = step}));
    CVXQ_RETURN_IF_ERROR(Coder().Load(block, *reader, known));
  }
  return absl::OkStatus();
}

// Whether a lost worker, or an earlier run, has left the codes of this step, whole.
bool Stage::LoadCoded(int64_t block, int64_t step, EntropyAnswer& answer) {
  const std::vector<int64_t>& there = coded_[block];
  if (std::find(there.begin(), there.end(), step) == there.end()) return false;
  const auto reader = job_.state->Read(block, BlockPart::kCodes, {.step = step});
  return reader.ok() && Coder().Load(block, **reader, answer).ok();
}

Status Stage::SaveStatistics(int64_t block, BlockPart part) {
  if (saved_.contains({block, part})) return absl::OkStatus();
  const bool of_gradients = part == BlockPart::kGradients;
  int64_t bytes = of_gradients ? StateBytes(gradients_[block]) : StateBytes(inputs_[block], store_);
  if (of_gradients && !outputs_.empty()) bytes += StateBytes(outputs_[block], store_);
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveWriter> writer,
                        job_.state->Write(block, part, {}, bytes));
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
                          job_.state->Write(block, BlockPart::kCodes, {.step = step}, 0));
    CVXQ_RETURN_IF_ERROR(coder_->Save(block, *writer));
    Failpoint("codes-before-commit");
    CVXQ_RETURN_IF_ERROR(writer->Commit());
    unsaved_.erase(block);
    Failpoint("codes-saved");
  }
  return absl::OkStatus();
}

// What the pass for gradients that was the last has left.
Status Stage::SaveAverages() {
  if (unsaved_averages_ == 0) return absl::OkStatus();
  for (LinearPlan& plan : plans_) {
    if (plan.index > 0 && plan.block == plans_[plan.index - 1].block) continue;
    CVXQ_ASSIGN_OR_RETURN(
        const std::unique_ptr<ArchiveWriter> writer,
        job_.state->Write(plan.block, BlockPart::kAverages, {.step = unsaved_averages_}, 0));
    for (LinearPlan& of_block : plans_) {
      if (of_block.block == plan.block) CVXQ_RETURN_IF_ERROR(writer->Put(Averaged(of_block)));
    }
    CVXQ_RETURN_IF_ERROR(writer->Commit());
    Failpoint("averages-saved");
  }
  unsaved_averages_ = 0;
  return absl::OkStatus();
}

Status Stage::Save(int64_t step) {
  for (int64_t block = place_.owned.begin; block < place_.owned.end; ++block) {
    if (step >= kGradientStep && job_.needs.gradients) {
      CVXQ_RETURN_IF_ERROR(SaveStatistics(block, BlockPart::kGradients));
    }
    if (step >= kMomentStep && !inputs_.empty()) {
      CVXQ_RETURN_IF_ERROR(SaveStatistics(block, BlockPart::kMoments));
    }
  }
  CVXQ_RETURN_IF_ERROR(SaveAverages());
  return SaveCodes();
}

// Saves in the middle of a step, where it is time. Nobody counts on it: where that fails it is not
// tried again.
void Stage::KeepWhatIsDone(const std::function<Status()>& save) {
  if (!keeps_ || !clock_.Due()) return;
  const absl::Time begin = absl::Now();
  keeps_ = save().ok();
  clock_.Saved(absl::Now() - begin);
}

StatusOr<std::unique_ptr<Model>> Stage::LoadModel(const WeightSource& weights) {
  return Model::Load(job_.files.spec, weights,
                     {.compute = job_.compute,
                      .resident_bytes = memory_ / 2,
                      .first = place_.before == nullptr,
                      .last = place_.after == nullptr},
                     *backend_);
}

Status Stage::Plan() {
  return job_.coder != nullptr ? job_.coder->Plan(context_, job_.output_block) : absl::OkStatus();
}

Status Stage::Gradients(Progress::Phase& progress, WaveCuts* cuts) {
  Saves saves(*this, kGradientStep, cuts);
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(*job_.files.weights));
  CVXQ_ASSIGN_OR_RETURN(
      gradients_,
      CollectGradients(*model, job_.calibration, job_.gradients,
                       {.partition = job_.options.partition,
                        .output_block = job_.needs.output_factors ? job_.output_block : 0,
                        .token_squares = job_.needs.output_factors},
                       progress, &place_, &store_, job_.state != nullptr ? &saves : nullptr));
  CVXQ_RETURN_IF_ERROR(Plan());
  if (!job_.needs.output_factors) return absl::OkStatus();
  const auto order = [&](int64_t block, LinearId id, int64_t first,
                         std::span<const float> diagonal) {
    if (job_.coder == nullptr) {
      return EntropyRowOrder(first, static_cast<int64_t>(diagonal.size()));
    }
    const auto plan = std::find_if(plans_.begin(), plans_.end(), [&](const LinearPlan& candidate) {
      return candidate.block == block && candidate.id == id;
    });
    return job_.coder->RowOrder(*plan, first, diagonal);
  };
  const StageTimes::Timer timer(place_.times, StageTask::kFactorOutputs, place_.owned.size());
  CVXQ_ASSIGN_OR_RETURN(outputs_, FactorOutputMoments(job_.files.spec, place_.owned,
                                                      job_.output_block, job_.options.shrinkage,
                                                      order, gradients_, pool_, *rounder_, store_));
  return absl::OkStatus();
}

Status Stage::MoreGradients(const GradientPass& pass, int64_t step, Progress::Phase& progress,
                            WaveCuts* cuts) {
  CVXQ_RETURN_IF_ERROR(LoadCodes());  // the weights may be made of them
  Saves saves(*this, step, cuts);
  ModelLayouts layouts(job_.files.spec.layers);
  for (const LinearPlan& plan : plans_) {
    layouts[plan.block][static_cast<int>(plan.id)] = plan.layout;
  }
  GradientRequest request{.partition = job_.options.partition, .layouts = &layouts};
  if (!job_.needs.group_gradients) request.layouts = nullptr;
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(pass.weights));
  CVXQ_ASSIGN_OR_RETURN(
      ModelGradients found,
      CollectGradients(*model, job_.calibration, pass.options, request, progress, &place_, &store_,
                       job_.state != nullptr ? &saves : nullptr));
  const float share = 1.0f / static_cast<float>(pass.iteration + 1);
  for (LinearPlan& plan : plans_) {
    LinearGradients& of_plan = found[plan.block][static_cast<int>(plan.id)];
    std::vector<float>& value = job_.needs.group_gradients ? of_plan.group : of_plan.member;
    std::vector<float>& mean = Averaged(plan);
    if (pass.iteration == 0) {
      mean = std::move(value);
      continue;
    }
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += (value[i] - mean[i]) * share;
  }
  unsaved_averages_ = step;
  coder_.reset();  // the next iteration knows nothing of this one's codes
  unsaved_.clear();
  return absl::OkStatus();
}

// What gradient passes average: running means over the iterations.
std::vector<float>& Stage::Averaged(LinearPlan& plan) {
  return job_.needs.group_gradients ? plan.group_gradient
                                    : gradients_[plan.block][static_cast<int>(plan.id)].member;
}

Status Stage::LoadAverages(int64_t step) {
  std::unique_ptr<ArchiveReader> reader;
  for (LinearPlan& plan : plans_) {
    if (plan.index == 0 || plan.block != plans_[plan.index - 1].block) {
      if (reader != nullptr) CVXQ_RETURN_IF_ERROR(reader->Finish());
      CVXQ_ASSIGN_OR_RETURN(reader,
                            job_.state->Read(plan.block, BlockPart::kAverages, {.step = step}));
    }
    CVXQ_RETURN_IF_ERROR(reader->Get(Averaged(plan)));
  }
  return reader->Finish();
}

Status Stage::Moments(Progress::Phase& progress) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(*job_.files.weights));
  TokenWeights weights;
  if (job_.needs.output_factors) weights = WeighTokens(gradients_);
  MomentOptions options{.factor = job_.needs.input_factors,
                        .order = job_.needs.order,
                        .damping = job_.options.damping,
                        .center = job_.needs.center,
                        .weights = weights.empty() ? nullptr : &weights};
  const bool alone = place_.before == nullptr && place_.after == nullptr;
  if (!alone) options.blocks_at_once = BlocksAtOnce(job_.files.spec, memory_ / 2);
  int64_t kept = place_.owned.begin;  // those before are in the state
  if (job_.state != nullptr) {
    while (kept < place_.owned.end && LoadMoments(kept).ok()) ++kept;
    options.finished = [&](int64_t block, const BlockInputs& moments) {
      inputs_[block] = moments;
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
                                                     *rounder_, store_, progress, &place_));
  return absl::OkStatus();
}

StatusOr<EntropyAnswer> Stage::CarryOut(const EntropyOrder& order, int64_t step,
                                        Progress::Phase& phase) {
  CVXQ_RETURN_IF_ERROR(LoadCodes());
  const bool codes = order.kind == EntropyOrder::Kind::kCode;
  const int64_t linears = static_cast<int64_t>(job_.files.spec.linears().size());
  EntropyAnswer answer;
  for (const EntropyOrder::Block& block : order.blocks) {
    if (!place_.owns(block.block)) continue;
    if (codes && LoadCoded(block.block, step, answer)) {
      phase.Advance(linears);
      continue;
    }
    EntropyOrder one = order;
    one.blocks = {block};
    {
      const StageTimes::Timer timer(place_.times, codes ? StageTask::kCode : StageTask::kForesee);
      CVXQ_ASSIGN_OR_RETURN(EntropyAnswer part, Coder().CarryOut(one, phase));
      answer.Append(std::move(part));
    }
    if (!codes || job_.state == nullptr) continue;
    unsaved_[block.block] = step;
    KeepWhatIsDone([&] { return SaveCodes(); });
  }
  return answer;
}

Status Stage::Finish(const EntropyTables* tables) {
  CVXQ_RETURN_IF_ERROR(LoadCodes());
  return tables != nullptr ? Coder().CorrectBiases(*tables) : absl::OkStatus();
}

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
