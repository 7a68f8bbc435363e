// The types of the safetensors formats: how fast matrices are coded with searched scales, and how
// much error the search saves.
//
//   bench_int_types [ROWS COLUMNS [TYPE]]        512 x 4096, all types
//
// For each type: million weights a second of one core (scales and nearest codes, in this thread's
// own time), and the squared error against that with the scale that the largest weight asks for.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "base/random.h"
#include "formats/compressed_layouts.h"
#include "formats/grid_coder.h"

namespace cvxq {
namespace {

// About normal, with a few large ones.
std::vector<float> RandomWeights(int64_t n) {
  std::vector<float> w(n);
  uint64_t counter = 0;
  for (int64_t i = 0; i < n; ++i) {
    float sum = -6;
    for (int k = 0; k < 12; ++k) sum += RandomUniform(1, counter++);
    w[i] = (i % 97 == 0 ? 0.06f : 0.02f) * sum;
  }
  return w;
}

double Now() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double ErrorOf(const std::vector<float>& w, const std::vector<float>& decoded) {
  double error = 0;
  for (size_t i = 0; i < w.size(); ++i) error += (w[i] - decoded[i]) * (w[i] - decoded[i]);
  return error;
}

// The error with the range of each block, in real numbers.
double RangeError(const std::vector<float>& w, const IntSpec& spec) {
  const float top = static_cast<float>((1 << spec.bits) - 1);
  std::vector<float> decoded(w.size());
  for (size_t i = 0; i < w.size(); i += spec.group) {
    const auto [low, high] = std::minmax_element(&w[i], &w[i] + spec.group);
    const float least = std::min(0.0f, *low), most = std::max(0.0f, *high);
    const float scale =
        spec.symmetric ? std::max(-least, most) / (0.5f * top) : (most - least) / top;
    const float zero = spec.symmetric ? 0.5f * (top + 1) : std::nearbyint(-least / scale);
    for (int64_t k = 0; k < spec.group; ++k) {
      const float code = std::clamp(std::nearbyint(w[i + k] / scale) + zero, 0.0f, top);
      decoded[i + k] = (code - zero) * scale;
    }
  }
  return ErrorOf(w, decoded);
}

void Measure(const WeightType& type, const std::vector<float>& w, int64_t rows, int64_t columns,
             double range_error) {
  ThreadPool pool(1);
  const GridInput input{.w = w.data(), .rows = rows, .columns = columns};
  double best = INFINITY;
  GridMatrix coded;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const double start = Now();
    coded = CodeNearest(input, type, pool);
    best = std::min(best, Now() - start);
  }
  const double error = ErrorOf(w, Decode(coded));
  std::printf(
      "%-14s %8.1f M/s  %7.4f bits  error %10.6f", type.name().c_str(),
      1e-6 * static_cast<double>(rows * columns) / best,
      8.0 * static_cast<double>(type.Bytes(rows, columns)) / static_cast<double>(rows * columns),
      error);
  if (range_error > 0) std::printf("  of the range's %.4f", error / range_error);
  std::printf("\n");
}

void Run(int64_t rows, int64_t columns, const std::string& only) {
  const std::vector<float> w = RandomWeights(rows * columns);
  for (const char* name : {"int2", "int3", "int4", "int5", "int6", "int7", "int8", "int2a", "int3a",
                           "int4a", "int8a"}) {
    for (const int64_t group : {32, 64, 128, 0}) {
      IntName parsed = *ParseIntName(name);
      parsed.group = group;
      const NamedIntSpec spec = SpecFor(parsed, group, columns, DType::kBF16);
      const auto layout = PackedIntLayout(spec);
      if (!only.empty() && layout->type().name() != only) continue;
      Measure(layout->type(), w, rows, columns, RangeError(w, spec.spec));
    }
  }
  for (const auto& layout : {Fp8Layout(columns, DType::kBF16), Fp4Layout(Fp4Type::Kind::kNvfp4),
                             Fp4Layout(Fp4Type::Kind::kMxfp4)}) {
    if (!only.empty() && layout->type().name() != only) continue;
    Measure(layout->type(), w, rows, columns, 0);
  }
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const int64_t rows = argc > 2 ? std::atoll(argv[1]) : 512;
  const int64_t columns = argc > 2 ? std::atoll(argv[2]) : 4096;
  cvxq::Run(rows, columns, argc > 3 ? argv[3] : "");
  return 0;
}
