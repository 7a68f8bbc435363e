// Tables of rotary angles. Frequencies and angles are computed in double and rounded once.
#include <cmath>
#include <numbers>
#include <vector>

#include "model/block.h"
#include "model/rope_config.h"

namespace cvxq {
namespace {

// Llama 3: frequencies whose wave is long against the context of the pre-training are slowed by
// `factor`, those whose wave is short are left, and between the two there is a straight line.
double Llama3Frequency(const RopeSpec& rope, double frequency) {
  const double waves = rope.original_context * frequency / (2 * std::numbers::pi);
  if (waves < rope.low_frequency_factor) return frequency / rope.factor;
  if (waves > rope.high_frequency_factor) return frequency;
  const double smooth = (waves - rope.low_frequency_factor) /
                        (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

double RopeFrequency(const RopeSpec& rope, int64_t pair, int64_t head_dim) {
  const double frequency = std::pow(rope.theta, -2.0 * pair / head_dim);
  if (rope.scaling == "linear") return frequency / rope.factor;
  if (rope.scaling == "llama3") return Llama3Frequency(rope, frequency);
  return frequency;
}

RopeTables MakeRopeTables(const RopeSpec& rope, int64_t head_dim, int64_t positions,
                          Backend& backend) {
  if (rope.kind == RopeKind::kNone) return {};
  const int64_t pairs = head_dim / 2;
  std::vector<float> cosine(positions * pairs), sine(positions * pairs);
  for (int64_t i = 0; i < pairs; ++i) {
    const double frequency = RopeFrequency(rope, i, head_dim);
    for (int64_t p = 0; p < positions; ++p) {
      cosine[p * pairs + i] = static_cast<float>(std::cos(p * frequency));
      sine[p * pairs + i] = static_cast<float>(std::sin(p * frequency));
    }
  }
  RopeTables tables{backend.Allocate(DType::kF32, {positions, pairs}),
                    backend.Allocate(DType::kF32, {positions, pairs})};
  backend.Upload(cosine.data(), tables.cosine);
  backend.Upload(sine.data(), tables.sine);
  return tables;
}

}  // namespace cvxq
