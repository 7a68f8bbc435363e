// What the tasks of a job would cost on GPUs, from counts of operations and bytes. ASSUMPTIONS: the
// product has no CUDA backend yet, so nothing here is measured; every rate is a parameter.
#ifndef CVXQ_BENCH_SCALING_GPU_COSTS_H_
#define CVXQ_BENCH_SCALING_GPU_COSTS_H_

#include <cstdint>

#include "bench/scaling/staged_job.h"
#include "model/arch_spec.h"

namespace cvxq {

struct GpuAssumptions {
  double bf16_flops = 989e12, fp32_flops = 67e12;  // peaks of an H100
  double share = 0.4;                              // of a peak, in products
  double link_bytes = 50e9;                        // a second, to any other GPU (400 Gb/s)
  double latency = 50e-6;                          // of a wave
  double host_bytes = 50e9;                        // a second, from host memory
  double memory = 80e9;                            // bytes
  double search_weights = 0.5e9;                   // that the trellis search rounds in a second
  double step = 0.05;                              // seconds of the coordinator after each step
};

struct GpuJob {
  int64_t sequences = 128, tokens = 2048;  // of calibration, all of them backward too
  int64_t wave_tokens = 4096;
  int64_t output_block = 512;  // rows of the blocks of H_O
  int64_t passes = 2;          // of coding over all blocks
};

// What a stage of so many blocks, with so many stages from it on, has on its GPU at once.
struct GpuMemory {
  double weights = 0, waves = 0, output_sums = 0, moments = 0;  // bytes
  int64_t blocks_at_once = 1;                                   // whose moments fit beside the rest
  bool streamed = false;  // weights do not fit: they come from the host for each wave
  bool fits = true;       // what cannot be streamed
};
GpuMemory MemoryOf(const ArchSpec& spec, const GpuJob& job, const GpuAssumptions& gpu,
                   int64_t blocks, int64_t stages_from_here);

StagedJob GpuStagedJob(const ArchSpec& spec, const GpuJob& job, const GpuAssumptions& gpu,
                       bool streamed);

}  // namespace cvxq

#endif  // CVXQ_BENCH_SCALING_GPU_COSTS_H_
