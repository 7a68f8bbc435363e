#include "pipeline/entropy_rate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "pipeline/packed_weights.h"

namespace cvxq {
namespace {

constexpr int64_t kMaxPasses = 12;
constexpr int64_t kSurveyStride = 4;  // every so many blocks are surveyed
// A trim changes delta by this many times what would do for all blocks at once, so that about one
// in so many is coded again. At most by kMaxTrim octaves: the loss grows with its square.
constexpr double kTrimFactor = 4, kMaxTrim = 0.05;
// Blocks that a trim takes one after another are this share of the model apart, about: any number
// of them lie in many stages.
constexpr double kTrimStride = 0.618;
constexpr double kFirstLog2Delta = -10;  // anywhere: the ascent finds its way

}  // namespace

void EntropyAnswer::Append(EntropyAnswer other) {
  linears.insert(linears.end(), other.linears.begin(), other.linears.end());
  counts.Add(other.counts);
  std::move(other.histograms.begin(), other.histograms.end(), std::back_inserter(histograms));
}

EntropyRate::EntropyRate(CodingContext& context)
    : context_(context), target_(context), blocks_(context.spec.layers) {
  trim_stride_ = std::llround(kTrimStride * static_cast<double>(blocks_));
  while (std::gcd(trim_stride_, blocks_) != 1) ++trim_stride_;  // all blocks have their turn
  context_.writer.Share({});
}

StatusOr<EntropyOrder> EntropyRate::Start() {
  step_ = Step::kForesee;
  EntropyOrder order{.kind = EntropyOrder::Kind::kForesee, .phase = "foresee"};
  for (int64_t block = 0; block < blocks_; ++block) order.blocks.push_back({block, 0});
  return order;
}

StatusOr<EntropyOrder> EntropyRate::Next(const EntropyAnswer& answer) {
  for (const EntropyAnswer::Linear& linear : answer.linears) {
    context_.plans[linear.plan].packed_bytes = linear.bytes;
  }
  switch (step_) {
    case Step::kForesee:
      return Foreseen(answer);
    case Step::kSurveyCounts:
      return SurveyCounted(answer);
    case Step::kSurveyBits:
      return Surveyed(answer);
    case Step::kCode:
      return Coded(answer);
    case Step::kTrim:
      return Trimmed();
  }
  return Done();
}

StatusOr<EntropyOrder> EntropyRate::Foreseen(const EntropyAnswer& answer) {
  for (int64_t block = 0; block < blocks_; ++block) {
    foreseen_.Merge(answer.histograms[block]);
    if (block % kSurveyStride == 0) surveyed_.Merge(answer.histograms[block]);
  }
  const double overhead = 8.0 * target_.Counted();  // bits of everything but the matrices
  budget_ = 8.0 * target_.aim() - overhead;
  if (budget_ <= 0) return target_.TooSmall(target_.Counted(), "");
  ample_ = budget_ > kMaxDepth * context_.quantized_weights();
  if (ample_) budget_ = kMaxDepth * context_.quantized_weights();
  log2_delta_ = AscendDelta(foreseen_, correction_, budget_, kFirstLog2Delta);
  slope_ = -0.9 * context_.quantized_weights();
  return Survey(Step::kSurveyCounts);
}

// Codes some blocks twice: for statistics, and with them for the bits.
EntropyOrder EntropyRate::Survey(Step step) {
  step_ = step;
  EntropyOrder order{.kind = EntropyOrder::Kind::kCode,
                     .phase = "survey",
                     .tables = tables_,
                     .class_shift = class_shift_};
  for (int64_t block = 0; block < blocks_; block += kSurveyStride) {
    order.blocks.push_back({block, log2_delta_});
  }
  return order;
}

StatusOr<EntropyOrder> EntropyRate::SurveyCounted(const EntropyAnswer& answer) {
  double shift = 0;
  for (const EntropyAnswer::Linear& linear : answer.linears) {
    shift += linear.class_shift / static_cast<double>(answer.linears.size());
  }
  class_shift_ = static_cast<int8_t>(std::round(std::clamp(shift, -20.0, 20.0)));
  Learn(answer.counts);
  return Survey(Step::kSurveyBits);
}

StatusOr<EntropyOrder> EntropyRate::Surveyed(const EntropyAnswer& answer) {
  double bytes = 0;
  for (const EntropyAnswer::Linear& linear : answer.linears) {
    bytes += static_cast<double>(linear.bytes);
  }
  correction_ = 8 * bytes / surveyed_.Bits(log2_delta_);
  Learn(answer.counts);
  return CodeAll(AscendDelta(foreseen_, correction_, budget_, log2_delta_));
}

EntropyOrder EntropyRate::CodeAll(double log2_delta) {
  step_ = Step::kCode;
  if (++passes_ > 1) Learn(counts_);
  log2_delta_ = log2_delta;
  block_delta_.assign(blocks_, log2_delta);
  EntropyOrder order{.kind = EntropyOrder::Kind::kCode,
                     .phase = passes_ == 1 ? "code" : absl::StrCat("code (pass ", passes_, ")"),
                     .tables = tables_,
                     .class_shift = class_shift_};
  for (int64_t block = 0; block < blocks_; ++block) order.blocks.push_back({block, log2_delta});
  return order;
}

StatusOr<EntropyOrder> EntropyRate::Coded(const EntropyAnswer& answer) {
  counts_ = answer.counts;
  if (passes_ > 2 && coded_step_ != 0) LearnSlope();
  // The first pass had the statistics of the survey alone: a second one is always worth it.
  if (ample_) return passes_ == 1 ? CodeAll(log2_delta_) : Done();
  return Decide();
}

StatusOr<EntropyOrder> EntropyRate::Decide() {
  if (passes_ > 1 && target_.Met()) return Done();
  if (passes_ == kMaxPasses) {
    if (target_.Counted() <= target_.bytes()) return Done();
    return target_.TooSmall(target_.Counted(), "");
  }
  coded_excess_ = Excess();
  coded_step_ = -coded_excess_ / slope_;
  if (passes_ == 1 || std::abs(coded_step_) > kMaxTrim / 2) {
    return CodeAll(log2_delta_ + coded_step_);
  }
  ++passes_;
  const double factor = std::min(kTrimFactor, static_cast<double>(blocks_));
  trim_change_ = std::clamp(factor * coded_step_, -kMaxTrim, kMaxTrim);
  trimmed_ = 0;
  return TrimNext();
}

// The next blocks each time: as many as what is left is worth, so that stages work side by side,
// and by what it is worth to them.
EntropyOrder EntropyRate::TrimNext() {
  step_ = Step::kTrim;
  EntropyOrder order{.kind = EntropyOrder::Kind::kCode,
                     .phase = absl::StrCat("trim (pass ", passes_, ")"),
                     .tables = tables_,
                     .class_shift = class_shift_};
  coded_excess_ = Excess();
  const double all = -coded_excess_ / slope_ * static_cast<double>(blocks_);
  const int64_t worth = std::llround(all / trim_change_);
  const int64_t count = std::clamp<int64_t>(worth, 1, blocks_ - trimmed_);
  const double change = std::clamp(all / static_cast<double>(count), -kMaxTrim, kMaxTrim);
  coded_step_ = change * static_cast<double>(count) / static_cast<double>(blocks_);
  for (int64_t i = 0; i < count; ++i) {
    block_delta_[next_trim_] += change;
    order.blocks.push_back({next_trim_, block_delta_[next_trim_]});
    next_trim_ = (next_trim_ + trim_stride_) % blocks_;
  }
  trimmed_ += count;
  std::sort(order.blocks.begin(), order.blocks.end(),
            [](const auto& a, const auto& b) { return a.block < b.block; });
  return order;
}

StatusOr<EntropyOrder> EntropyRate::Trimmed() {
  if (std::abs(coded_step_) * static_cast<double>(blocks_) > kMaxTrim / 10) LearnSlope();
  const bool turned = (Excess() > 0) != (trim_change_ > 0);
  if (!turned && trimmed_ < blocks_ && !target_.Met()) return TrimNext();
  return Decide();
}

EntropyOrder EntropyRate::Done() { return {.kind = EntropyOrder::Kind::kDone}; }

void EntropyRate::Learn(const SymbolCounts& counts) {
  tables_ = std::make_shared<const EntropyTables>(EntropyTables::Train(counts));
  std::vector<uint8_t> bytes = tables_->Serialize();
  const int64_t size = static_cast<int64_t>(bytes.size());
  context_.writer.Share({{{std::string(kEntropyName), DType::kU8, {size}}, std::move(bytes)}});
}

// From what the last order has changed.
void EntropyRate::LearnSlope() {
  const double weights = context_.quantized_weights();
  slope_ = std::clamp((Excess() - coded_excess_) / coded_step_ / weights, -1.2, -0.15) * weights;
}

double EntropyRate::Excess() const {
  return 8.0 * static_cast<double>(target_.Counted() - target_.aim());
}

}  // namespace cvxq
