#include "service/workers/wire.h"

#include <zlib.h>

#include <algorithm>
#include <utility>

#include "pipeline/replicas.h"
#include "quant/scaled_format.h"
#include "service/errors.h"
#include "storage/source_fingerprint.h"

namespace cvxq {
namespace {

// Messages hold whole calibration sets and matrices; protobuf itself ends at 2 GiB.
constexpr uint64_t kLargestMessage = (uint64_t{1} << 31) - 1;

Status Damaged(const char* what) {
  return absl::DataLossError(absl::StrCat("a message of another process is damaged: ", what));
}

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

uint32_t Checksum(const void* data, size_t size) {
  return static_cast<uint32_t>(crc32_z(0, static_cast<const Bytef*>(data), size));
}

void ForEachPart(const std::string& message, const std::function<void(v1::Part)>& take) {
  size_t offset = 0;
  do {
    const size_t size = std::min(kPartBytes, message.size() - offset);
    v1::Part part;
    part.set_offset(offset);
    part.set_size(message.size());
    part.set_crc32(Checksum(message.data() + offset, size));
    part.set_data(message.data() + offset, size);
    take(std::move(part));
    offset += size;
  } while (offset < message.size());
}

StatusOr<bool> PartJoiner::Add(const v1::Part& part) {
  if (std::exchange(whole_, false)) message_.clear();
  if (part.offset() != message_.size()) return Damaged("a part is missing");
  if (part.size() > kLargestMessage) return Damaged("it is too large");
  if (part.crc32() != Checksum(part.data().data(), part.data().size())) {
    return Damaged("a checksum differs");
  }
  message_ += part.data();
  if (message_.size() > part.size() || (part.data().empty() && part.size() > 0)) {
    return Damaged("its size differs");
  }
  whole_ = message_.size() == part.size();
  return whole_;
}

v1::StageSpec ToProto(const StageJob& job) {
  v1::StageSpec spec;
  spec.set_model(job.files.folder);
  spec.set_damping(job.options.damping);
  spec.set_shrinkage(job.options.shrinkage);
  spec.set_feedback(static_cast<int>(job.feedback));
  spec.set_output_block(job.output_block);
  spec.set_compute(static_cast<int>(job.compute));
  if (job.state != nullptr) {
    spec.mutable_state()->set_address(job.state->address());
    spec.mutable_state()->set_digest(job.state->digest());
    spec.mutable_state()->set_save_seconds(job.save_seconds);
  }
  v1::StageSpec::Needs& needs = *spec.mutable_needs();
  needs.set_gradients(job.needs.gradients);
  needs.set_group_gradients(job.needs.group_gradients);
  needs.set_input_factors(job.needs.input_factors);
  needs.set_order(static_cast<int>(job.needs.order));
  needs.set_center(job.needs.center);
  needs.set_input_means(job.needs.input_means);
  needs.set_output_factors(job.needs.output_factors);
  v1::StageSpec::Gradients& gradients = *spec.mutable_gradients();
  gradients.set_objective(static_cast<int>(job.gradients.objective));
  gradients.set_estimator(static_cast<int>(job.gradients.estimator));
  gradients.set_first_sample(job.gradients.first_sample);
  gradients.set_samples(job.gradients.samples);
  gradients.set_stride(job.gradients.stride);
  gradients.set_seed(job.gradients.seed);
  gradients.set_components(job.gradients.components);
  v1::StageSpec::Calibration& calibration = *spec.mutable_calibration();
  calibration.set_samples(job.calibration.samples);
  calibration.set_seq_len(job.calibration.seq_len);
  calibration.mutable_ids()->Add(job.calibration.ids.begin(), job.calibration.ids.end());
  return spec;
}

StatusOr<std::unique_ptr<OwnedStageJob>> OpenStageJob(const v1::StageSpec& spec,
                                                      const std::string& spill_folder,
                                                      int threads) {
  auto owned = std::make_unique<OwnedStageJob>();
  CVXQ_ASSIGN_OR_RETURN(const std::string fingerprint, SourceFingerprint(spec.model()));
  if (fingerprint != spec.fingerprint()) {
    return absl::FailedPreconditionError(
        absl::StrCat(spec.model(),
                     " is not the same on the worker as on the coordinator, or was written to; "
                     "put models where all machines see the same files"));
  }
  CVXQ_ASSIGN_OR_RETURN(owned->files, OpenModel(spec.model(), threads, spill_folder));
  const int64_t layers = owned->files.spec.layers;
  CalibrationSet& calibration = owned->calibration;
  calibration.samples = spec.calibration().samples();
  calibration.seq_len = spec.calibration().seq_len();
  calibration.ids.assign(spec.calibration().ids().begin(), spec.calibration().ids().end());
  const bool ids_fit =
      calibration.samples > 0 && calibration.seq_len > 0 &&
      static_cast<int64_t>(calibration.ids.size()) / calibration.seq_len == calibration.samples &&
      static_cast<int64_t>(calibration.ids.size()) % calibration.seq_len == 0 &&
      std::all_of(calibration.ids.begin(), calibration.ids.end(),
                  [&](int32_t id) { return id >= 0 && id < owned->files.spec.vocabulary; });
  const v1::StageSpec::Gradients& gradients = spec.gradients();
  const bool samples_fit = gradients.first_sample() >= 0 && gradients.samples() > 0 &&
                           gradients.first_sample() <= calibration.samples &&
                           gradients.samples() <= calibration.samples - gradients.first_sample();
  const bool blocks_fit = spec.block_begin() >= 0 && spec.block_begin() < spec.block_end() &&
                          spec.block_end() <= layers;
  const int64_t per_wave = calibration.seq_len > 0 ? WaveSequences(calibration.seq_len) : 1;
  const int64_t waves = (gradients.samples() + per_wave - 1) / per_wave;
  const bool replicas_fit =
      spec.stages() > 0 && spec.replicas() > 0 && spec.replicas() <= PartCount(waves);
  if (!ids_fit || !samples_fit || !blocks_fit || !replicas_fit || owned->files.packed) {
    return absl::DataLossError("a stage was given out that does not fit its model");
  }
  owned->options.damping = spec.damping();
  owned->options.shrinkage = spec.shrinkage();
  const v1::StageSpec::Needs& needs = spec.needs();
  owned->job.emplace(
      StageJob{.options = owned->options,
               .files = owned->files,
               .calibration = owned->calibration,
               .needs = {.gradients = needs.gradients(),
                         .group_gradients = needs.group_gradients(),
                         .input_factors = needs.input_factors(),
                         .order = static_cast<WorkOrder>(needs.order()),
                         .center = needs.center(),
                         .input_means = needs.input_means(),
                         .output_factors = needs.output_factors()},
               .feedback = static_cast<Feedback>(spec.feedback()),
               .gradients = {.objective = static_cast<Objective>(gradients.objective()),
                             .estimator = static_cast<Estimator>(gradients.estimator()),
                             .first_sample = gradients.first_sample(),
                             .samples = gradients.samples(),
                             .stride = gradients.stride(),
                             .seed = gradients.seed(),
                             .components = gradients.components()},
               .output_block = spec.output_block(),
               .compute = static_cast<DType>(spec.compute()),
               .spill_folder = spill_folder});
  return owned;
}

v1::StageOrder ToProto(const EntropyOrder& order) {
  v1::StageOrder proto;
  proto.set_kind(static_cast<int>(order.kind));
  for (const EntropyOrder::Block& block : order.blocks) {
    v1::StageOrder::Block& to = *proto.add_blocks();
    to.set_block(block.block);
    to.set_log2_delta(block.log2_delta);
  }
  if (order.tables != nullptr) {
    const std::vector<uint8_t> bytes = order.tables->Serialize();
    proto.set_tables(bytes.data(), bytes.size());
  }
  proto.set_class_shift(order.class_shift);
  return proto;
}

StatusOr<EntropyOrder> FromProto(const v1::StageOrder& proto) {
  EntropyOrder order;
  order.kind = static_cast<EntropyOrder::Kind>(proto.kind());
  for (const v1::StageOrder::Block& block : proto.blocks()) {
    order.blocks.push_back({block.block(), block.log2_delta()});
  }
  if (!proto.tables().empty()) {
    CVXQ_ASSIGN_OR_RETURN(EntropyTables tables, EntropyTables::Parse(Bytes(proto.tables())));
    order.tables = std::make_shared<const EntropyTables>(std::move(tables));
  }
  order.class_shift = static_cast<int8_t>(proto.class_shift());
  return order;
}

v1::StageAnswer ToProto(const EntropyAnswer& answer) {
  v1::StageAnswer proto;
  for (const EntropyAnswer::Linear& linear : answer.linears) {
    v1::StageAnswer::Linear& to = *proto.add_linears();
    to.set_plan(linear.plan);
    to.set_bytes(linear.bytes);
    to.set_class_shift(linear.class_shift);
  }
  const std::span<const uint64_t> counts = answer.counts.all();
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    proto.add_count_places(static_cast<uint32_t>(i));
    proto.add_counts(counts[i]);
  }
  for (const SpreadHistogram& histogram : answer.histograms) {
    v1::StageAnswer::Histogram& to = *proto.add_histograms();
    const std::span<const double> bins = histogram.bins();
    for (size_t i = 0; i < bins.size(); ++i) {
      if (bins[i] == 0) continue;
      to.add_places(static_cast<uint32_t>(i));
      to.add_weights(bins[i]);
    }
  }
  return proto;
}

StatusOr<EntropyAnswer> FromProto(const v1::StageAnswer& proto) {
  EntropyAnswer answer;
  for (const v1::StageAnswer::Linear& linear : proto.linears()) {
    answer.linears.push_back({linear.plan(), linear.bytes(), linear.class_shift()});
  }
  if (proto.counts_size() != proto.count_places_size()) return Damaged("counts without a place");
  for (int i = 0; i < proto.counts_size(); ++i) {
    if (proto.count_places(i) >= answer.counts.all().size()) return Damaged("a count's place");
    answer.counts.Set(proto.count_places(i), proto.counts(i));
  }
  for (const v1::StageAnswer::Histogram& from : proto.histograms()) {
    SpreadHistogram& histogram = answer.histograms.emplace_back();
    if (from.weights_size() != from.places_size()) return Damaged("weights without a place");
    for (int i = 0; i < from.places_size(); ++i) {
      if (from.places(i) >= histogram.bins().size()) return Damaged("a spread's place");
      histogram.Set(from.places(i), from.weights(i));
    }
  }
  return answer;
}

google::rpc::Status ToProto(const Status& error) {
  google::rpc::Status proto = ToRpcStatus(error);
  if (ReasonOf(error).empty()) proto.clear_details();
  return proto;
}

v1::CodedLinear ToProto(const LinearPlan& plan) {
  v1::CodedLinear proto;
  proto.set_index(plan.index);
  proto.set_packed(plan.packed.data(), plan.packed.size());
  proto.mutable_bias()->Add(plan.bias.begin(), plan.bias.end());
  proto.set_code_bytes(plan.code_bytes);
  proto.set_zero_weights(plan.zero_weights);
  proto.set_distortion(plan.distortion);
  proto.mutable_depth_histogram()->Add(plan.depth_histogram.begin(), plan.depth_histogram.end());
  return proto;
}

Status FromProto(const v1::CodedLinear& proto, std::vector<LinearPlan>& plans) {
  if (proto.index() < 0 || proto.index() >= static_cast<int64_t>(plans.size())) {
    return Damaged("no such linear");
  }
  LinearPlan& plan = plans[proto.index()];
  if (proto.depth_histogram_size() != static_cast<int>(plan.depth_histogram.size()) ||
      (proto.bias_size() != 0 && proto.bias_size() != plan.rows)) {
    return Damaged("a linear of another shape");
  }
  const std::span<const uint8_t> packed = Bytes(proto.packed());
  plan.SetPacked({packed.begin(), packed.end()});
  plan.bias.assign(proto.bias().begin(), proto.bias().end());
  plan.code_bytes = proto.code_bytes();
  plan.zero_weights = proto.zero_weights();
  plan.distortion = proto.distortion();
  std::copy(proto.depth_histogram().begin(), proto.depth_histogram().end(),
            plan.depth_histogram.begin());
  return absl::OkStatus();
}

}  // namespace cvxq
