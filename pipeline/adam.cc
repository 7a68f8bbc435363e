#include "pipeline/adam.h"

#include <cmath>

namespace cvxq {
namespace {

constexpr double kMeanDecay = 0.9, kSquareDecay = 0.999, kEpsilon = 1e-8;

}  // namespace

void Adam::Step(double rate, std::span<const float> gradient, std::span<float> values) {
  ++steps_;
  // Both means start at zero: divided by their weights so far they have no bias.
  const double mean_weight = 1 - std::pow(kMeanDecay, static_cast<double>(steps_));
  const double square_weight = 1 - std::pow(kSquareDecay, static_cast<double>(steps_));
  for (size_t i = 0; i < values.size(); ++i) {
    const double g = gradient[i];
    const double mean = kMeanDecay * mean_[i] + (1 - kMeanDecay) * g;
    const double square = kSquareDecay * square_[i] + (1 - kSquareDecay) * g * g;
    mean_[i] = static_cast<float>(mean);
    square_[i] = static_cast<float>(square);
    const double step = mean / mean_weight / (std::sqrt(square / square_weight) + kEpsilon);
    values[i] = static_cast<float>(values[i] - rate * step);
  }
}

Status Adam::Save(ArchiveWriter& writer) const {
  CVXQ_RETURN_IF_ERROR(writer.Put(mean_));
  CVXQ_RETURN_IF_ERROR(writer.Put(square_));
  return writer.Put(steps_);
}

Status Adam::Load(ArchiveReader& reader) {
  const int64_t parameters = static_cast<int64_t>(mean_.size());
  CVXQ_RETURN_IF_ERROR(reader.GetExactly(mean_, parameters));
  CVXQ_RETURN_IF_ERROR(reader.GetExactly(square_, parameters));
  return reader.Get(steps_);
}

}  // namespace cvxq
