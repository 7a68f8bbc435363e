#include "bench/scaling/gpu_costs.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace cvxq {
namespace {

// Widths of the inputs whose H_I there are.
std::vector<double> InputsOf(const ArchSpec& spec) {
  std::array<double, kInputCount> width = {};
  for (const LinearId id : spec.linears()) {
    width[static_cast<int>(InputOf(id))] = static_cast<double>(spec.columns(id));
  }
  return {width.begin(), width.end()};
}

double BlockWeights(const ArchSpec& spec) {
  return static_cast<double>(spec.quantized_parameters()) / static_cast<double>(spec.layers);
}

double Square(double x) { return x * x; }

double WaveBytes(const ArchSpec& spec, const GpuJob& job) {
  return 4.0 * static_cast<double>(job.wave_tokens * spec.hidden);
}

double OutputBytes(const ArchSpec& spec, const GpuJob& job) {
  double bytes = 0;
  for (const LinearId id : spec.linears()) {
    bytes += 4.0 * static_cast<double>(spec.rows(id) * std::min(job.output_block, spec.rows(id)));
  }
  return bytes;
}

double InputBytes(const ArchSpec& spec) {
  double bytes = 0;
  for (const double n : InputsOf(spec)) bytes += 4 * Square(n);
  return bytes;
}

}  // namespace

GpuMemory MemoryOf(const ArchSpec& spec, const GpuJob& job, const GpuAssumptions& gpu,
                   int64_t blocks, int64_t stages_from_here) {
  GpuMemory memory;
  const double n = static_cast<double>(blocks);
  const double block_bytes = 2 * BlockWeights(spec), moments = InputBytes(spec);
  memory.weights = n * block_bytes;
  // Inputs of every block, of the waves ahead; and one block's inner activations.
  memory.waves =
      WaveBytes(spec, job) * n * static_cast<double>(stages_from_here) +
      4.0 * static_cast<double>(job.wave_tokens * (6 * spec.hidden + 4 * spec.intermediate));
  memory.output_sums = n * OutputBytes(spec, job);
  // H_I and its factor, of the widest input twice; two blocks' weights where they are streamed.
  const double factor = 4 * Square(static_cast<double>(std::max(spec.hidden, spec.intermediate)));
  double rest = gpu.memory - std::max(memory.waves + memory.output_sums, factor);
  memory.streamed = memory.weights + moments > rest;
  rest -= memory.streamed ? 2 * block_bytes : memory.weights;
  memory.blocks_at_once = std::max<int64_t>(1, static_cast<int64_t>(rest / moments));
  memory.blocks_at_once = std::min(memory.blocks_at_once, blocks);
  memory.moments = static_cast<double>(memory.blocks_at_once) * moments;
  memory.fits = rest >= moments;
  return memory;
}

StagedJob GpuStagedJob(const ArchSpec& spec, const GpuJob& job, const GpuAssumptions& gpu,
                       bool streamed) {
  const double tokens = static_cast<double>(job.wave_tokens), P = BlockWeights(spec);
  const double products = gpu.bf16_flops * gpu.share, exact = gpu.fp32_flops * gpu.share;
  const double attention = 2.0 * static_cast<double>(job.tokens * spec.hidden);  // causal, a token
  double outputs = 0, inputs = 0, factor_outputs = 0, factor_inputs = 0, feedback = 0;
  for (const LinearId id : spec.linears()) {
    const double rows = static_cast<double>(spec.rows(id));
    const double columns = static_cast<double>(spec.columns(id));
    const double b = std::min(static_cast<double>(job.output_block), rows);
    outputs += 2 * b * rows;
    factor_outputs += rows * Square(b) / 3;
    // Errors carried to later columns, half of all on average, and to later rows of the block.
    feedback += rows * columns * (columns + b);
  }
  for (const double n : InputsOf(spec)) {
    inputs += 2 * Square(n);
    factor_inputs += n * Square(n) / 3;
  }
  const double weights_in = streamed ? 2 * P / gpu.host_bytes : 0;

  StagedJob staged{.blocks = spec.layers};
  staged.waves = (job.sequences * job.tokens + job.wave_tokens - 1) / job.wave_tokens;
  TaskCosts& costs = staged.costs;
  costs.forward = std::max(tokens * (2 * P + attention) / products, weights_in);
  // Forward again, two products for the gradients of inputs and of weights, and H_O.
  costs.backward = std::max(tokens * (6 * P + 3.5 * attention + outputs) / products, weights_in);
  costs.moments = std::max(tokens * (2 * P + attention + inputs) / products, weights_in);
  costs.head = tokens * 4.0 * static_cast<double>(spec.vocabulary * spec.hidden) / products;
  costs.factor_outputs = factor_outputs / exact;
  costs.factor_inputs = factor_inputs / exact;
  costs.transfer = gpu.latency + WaveBytes(spec, job) / gpu.link_bytes;
  // To the host, where they wait, and back for the next part that they go with.
  costs.fold_outputs = 2 * OutputBytes(spec, job) / gpu.host_bytes;
  costs.fold_inputs = 2 * InputBytes(spec) / gpu.host_bytes;
  costs.reduce_outputs = OutputBytes(spec, job) / gpu.link_bytes;
  costs.reduce_inputs = InputBytes(spec) / gpu.link_bytes;
  costs.step = gpu.step;
  const double code = feedback / exact + P / gpu.search_weights;
  staged.orders = UsualOrders(spec.layers, job.passes, 2 * P / gpu.host_bytes, code);
  return staged;
}

}  // namespace cvxq
