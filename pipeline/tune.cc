#include "pipeline/tune.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "base/random.h"
#include "pipeline/adam.h"
#include "pipeline/distillation.h"
#include "pipeline/quantized_overlay.h"
#include "pipeline/save_clock.h"
#include "pipeline/tuned_weights.h"

namespace cvxq {
namespace {

constexpr int64_t kBatchTokens = 2048;  // of one step
// The first step's rate, over the root of the divergence: the changes that are called for grow with
// the errors of the matrices, whose square the divergence is.
constexpr double kRate = 0.012;

class Tuner {
 public:
  explicit Tuner(const TuneContext& context)
      : context_(context),
        calibration_(context.calibration),
        batch_(std::max<int64_t>(1, kBatchTokens / calibration_.seq_len)),
        phase_(context.progress.Start("tune", calibration_.samples * (context.epochs + 3),
                                      "sequences")),
        state_(context.state),
        clock_(context.save_seconds) {}

  Status Run() {
    CVXQ_ASSIGN_OR_RETURN(const HiddenStates teacher, Teacher());
    const QuantizedOverlay coded(context_.original, context_.plans, context_.coder);
    CVXQ_ASSIGN_OR_RETURN(weights_, TunedWeights::Make(context_.spec, context_.plans, coded));
    CVXQ_ASSIGN_OR_RETURN(student_,
                          Model::Load(context_.spec, *weights_, context_.memory, context_.backend));
    distillation_ =
        std::make_unique<Distillation>(*student_, *weights_, calibration_, teacher, context_.store);
    CVXQ_RETURN_IF_ERROR(Begin());
    CVXQ_RETURN_IF_ERROR(Descend(kRate * std::sqrt(std::max(0.0, point_.before))));
    CVXQ_RETURN_IF_ERROR(Set(weights_->Rounded(weights_->values())));
    CVXQ_ASSIGN_OR_RETURN(const double after, Divergence());
    if (after < point_.before) {
      Publish();
      phase_.Done(absl::StrFormat("KL %.3g to %.3g", point_.before, after));
    } else {
      phase_.Done(
          absl::StrFormat("KL %.3g would become %.3g: nothing changed", point_.before, after));
    }
    return absl::OkStatus();
  }

 private:
  // The model of the original lives only in here.
  StatusOr<HiddenStates> Teacher() {
    CVXQ_ASSIGN_OR_RETURN(
        const std::unique_ptr<Model> original,
        Model::Load(context_.spec, context_.original, context_.memory, context_.backend));
    return KeepHiddenStates(*original, calibration_, context_.store, phase_);
  }

  // Mean over all sequences at the present values.
  StatusOr<double> Divergence() {
    std::vector<int64_t> all(calibration_.samples);
    std::iota(all.begin(), all.end(), 0);
    double sum = 0;
    CVXQ_RETURN_IF_ERROR(InBatches(all, [&](std::span<const int64_t> batch) -> Status {
      CVXQ_ASSIGN_OR_RETURN(const double kl, distillation_->Run(batch, nullptr));
      sum += kl * static_cast<double>(batch.size());
      return absl::OkStatus();
    }));
    return sum / static_cast<double>(calibration_.samples);
  }

  // Where an earlier run was, or the start.
  Status Begin() {
    point_ = Point(weights_->values().size());
    Point kept = point_;
    const Status read = Read(kept);
    if (read.ok() && kept.done > 0) {
      progress().Note(absl::StrCat("going on behind ", kept.done, " steps of tuning of an earlier ",
                                   "run (", state_->address(), ")"));
      point_ = std::move(kept);
      phase_.Advance(calibration_.samples);
      return Set(point_.values);
    }
    if (!read.ok()) {
      progress().Note(absl::StrCat("tuning begins anew: ", read.message()));
    }
    CVXQ_ASSIGN_OR_RETURN(point_.before, Divergence());
    return absl::OkStatus();
  }

  int64_t StepsOfEpoch() const { return (calibration_.samples + batch_ - 1) / batch_; }

  // The rate falls to zero on a straight line.
  Status Descend(double first_rate) {
    std::vector<float> gradient;
    const double steps = static_cast<double>(StepsOfEpoch() * context_.epochs);
    int64_t step = 0;
    for (int64_t epoch = 0; epoch < context_.epochs; ++epoch) {
      CVXQ_RETURN_IF_ERROR(InBatches(Order(epoch), [&](std::span<const int64_t> batch) -> Status {
        if (step++ < point_.done) return absl::OkStatus();
        CVXQ_ASSIGN_OR_RETURN(const double kl, distillation_->Run(batch, &gradient));
        if (!std::isfinite(kl)) {
          return absl::DataLossError(
              "the divergence from the original is not finite (NaN or overflow); leave --tune out, "
              "or use --compute fp32");
        }
        std::vector<float> values = weights_->values();
        const double rate = first_rate * (1 - static_cast<double>(point_.done) / steps);
        point_.adam.Step(rate, gradient, values);
        ++point_.done;
        CVXQ_RETURN_IF_ERROR(Set(std::move(values)));
        if (clock_.Due() || step % StepsOfEpoch() == 0) Keep();
        return absl::OkStatus();
      }));
    }
    return absl::OkStatus();
  }

  // A place on the way down.
  struct Point {
    explicit Point(size_t parameters = 0) : adam(parameters) {}
    double before = 0;  // the divergence at the start
    int64_t done = 0;   // steps
    std::vector<float> values;
    Adam adam;
  };

  Status Read(Point& point) {
    if (state_ == nullptr) return absl::OkStatus();
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader, state_->ReadTuning());
    if (reader == nullptr) return absl::OkStatus();
    CVXQ_RETURN_IF_ERROR(reader->Get(point.before));
    CVXQ_RETURN_IF_ERROR(reader->Get(point.done));
    CVXQ_RETURN_IF_ERROR(
        reader->GetExactly(point.values, static_cast<int64_t>(weights_->values().size())));
    CVXQ_RETURN_IF_ERROR(point.adam.Load(*reader));
    return reader->Finish();
  }

  Status Write() {
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveWriter> writer, state_->WriteTuning(0));
    CVXQ_RETURN_IF_ERROR(writer->Put(point_.before));
    CVXQ_RETURN_IF_ERROR(writer->Put(point_.done));
    CVXQ_RETURN_IF_ERROR(writer->Put(weights_->values()));
    CVXQ_RETURN_IF_ERROR(point_.adam.Save(*writer));
    Failpoint("tuning-before-commit");
    return writer->Commit();
  }

  void Keep() {
    if (state_ == nullptr) return;
    const absl::Time begin = absl::Now();
    const Status kept = Write();
    if (!kept.ok() && !Interrupted()) {
      progress().Note(
          absl::StrCat("what is tuned cannot be kept, the job goes on without: ", kept.message()));
      state_ = nullptr;
    }
    clock_.Saved(absl::Now() - begin);
    Failpoint("tuning-saved");
  }

  Progress& progress() { return context_.progress; }

  // The sequences in the random order of an epoch.
  std::vector<int64_t> Order(int64_t epoch) const {
    const uint64_t key = DeriveKey(context_.seed, kOrderStream, epoch);
    std::vector<std::pair<uint64_t, int64_t>> keyed;
    for (int64_t i = 0; i < calibration_.samples; ++i) keyed.emplace_back(RandomBits(key, i), i);
    std::sort(keyed.begin(), keyed.end());
    std::vector<int64_t> order;
    for (const auto& [bits, sample] : keyed) order.push_back(sample);
    return order;
  }

  template <typename Body>
  Status InBatches(const std::vector<int64_t>& samples, const Body& body) {
    for (size_t first = 0; first < samples.size(); first += batch_) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      const size_t count = std::min<size_t>(batch_, samples.size() - first);
      CVXQ_RETURN_IF_ERROR(body(std::span(samples).subspan(first, count)));
      phase_.Advance(static_cast<int64_t>(count));
    }
    return absl::OkStatus();
  }

  Status Set(std::vector<float> values) {
    weights_->Set(std::move(values));
    return student_->ReloadParameters();
  }

  void Publish() {
    for (const TunedWeights::Entry& entry : weights_->entries()) {
      const auto begin = weights_->values().begin() + entry.offset;
      std::vector<float> values(begin, begin + entry.shape.elements());
      const auto plan = std::find_if(
          context_.plans.begin(), context_.plans.end(), [&](const LinearPlan& candidate) {
            return !candidate.bias.empty() && candidate.name + ".bias" == entry.name;
          });
      if (plan != context_.plans.end()) {
        plan->bias = std::move(values);
      } else {
        context_.writer.Replace({entry.name, entry.stored, entry.shape}, values);
      }
    }
  }

  static constexpr uint64_t kOrderStream = 1;

  const TuneContext& context_;
  const CalibrationSet& calibration_;
  const int64_t batch_;  // sequences of one step
  Progress::Phase phase_;
  JobState* state_;
  SaveClock clock_;
  Point point_;
  std::unique_ptr<TunedWeights> weights_;
  std::unique_ptr<Model> student_;  // reads from weights_
  std::unique_ptr<Distillation> distillation_;
};

}  // namespace

Status TuneParameters(const TuneContext& context) { return Tuner(context).Run(); }

}  // namespace cvxq
