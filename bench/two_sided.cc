// Time of coding one large linear with error feedback: one-sided against two-sided.
//
//   bench_two_sided [--rows 4096] [--columns 4096] [--threads 1] [--repeats 2]
//
// Prints, for each codec, seconds and million weights a second of both, and their ratio. Factors
// are given: they are made once, however many passes rate control takes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "formats/ggml_types.h"
#include "formats/grid_coder.h"
#include "quant/codec.h"
#include "quant/entropy.h"

namespace cvxq {
namespace {

struct Options {
  int64_t rows = 4096, columns = 4096, threads = 1, repeats = 2;
};

std::vector<float> RandomWeights(int64_t n) {
  std::vector<float> w(n);
  for (int64_t i = 0; i < n; ++i) {
    w[i] = RandomUniform(1, 2 * i) + RandomUniform(1, 2 * i + 1) - 1;
  }
  return w;
}

// A unit lower factor of the kind that moments give: large near the diagonal.
std::vector<float> RandomLower(int64_t n, uint64_t key) {
  std::vector<float> lower(n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      lower[i * n + j] = (RandomUniform(key, i * n + j) - 0.5f) / (4 + static_cast<float>(i - j));
    }
    lower[i * n + i] = 1;
  }
  return lower;
}

double Seconds(int64_t repeats, const std::function<void()>& body) {
  double best = INFINITY;
  for (int64_t i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void Run(const Options& options) {
  const int64_t m = options.rows, n = options.columns;
  ThreadPool pool(static_cast<int>(options.threads));
  const std::vector<float> w = RandomWeights(m * n);
  CurvatureFactor inputs{.n = n, .order = std::vector<int32_t>(n), .lower = RandomLower(n, 2)};
  std::iota(inputs.order.begin(), inputs.order.end(), 0);
  inputs.diagonal.assign(n, 1.0f);
  std::vector<int32_t> downwards(m);
  std::iota(downwards.rbegin(), downwards.rend(), 0);
  const std::vector<RowBlock> two = {{downwards, RandomLower(m, 3)}};
  std::vector<RowBlock> one;
  for (int64_t first = 0; first < m; first += kEntropyFreeRows) {
    RowBlock& block = one.emplace_back();
    block.rows.resize(std::min(kEntropyFreeRows, m - first));
    std::iota(block.rows.rbegin(), block.rows.rend(), static_cast<int32_t>(first));
  }
  const std::vector<float> row_curvature(m, 1.0f), column_curvature(n, 1.0f);
  const auto entropy = [&](const std::vector<RowBlock>& blocks) {
    const EntropyInput input{.w = w.data(),
                             .rows = m,
                             .columns = n,
                             .inputs = &inputs,
                             .blocks = blocks,
                             .row_curvature = row_curvature,
                             .column_curvature = column_curvature,
                             .delta = 0.15};
    ScaledCodes codes = StartScaledCodes(input);
    CodeEntropy(input, PricesOf(nullptr), *MakeCpuRounder(pool), codes).value();
  };
  const LevelTables tables = LloydMaxTables(2.0);
  const GroupLayout layout = MakeGroupLayout(m, n, Partition::kColumns, 64, std::vector<float>(m));
  const std::vector<uint8_t> depth(layout.group_count(), 3);
  std::vector<RowBlock> members = {{layout.members, two[0].lower}};
  const auto lloyd = [&](std::span<const RowBlock> blocks) {
    CodeLloyd({.w = w.data(),
               .layout = &layout,
               .depth = &depth,
               .inputs = &inputs,
               .blocks = blocks,
               .tables = &tables},
              pool, *MakeCpuRounder(pool))
        .value();
  };
  std::printf("%lld x %lld, %lld threads\n| codec | one-sided | two-sided | ratio |\n|-|-|-|-|\n",
              static_cast<long long>(m), static_cast<long long>(n),
              static_cast<long long>(options.threads));
  const auto report = [&](const char* codec, double first, double second) {
    const double weights = static_cast<double>(m * n) / 1e6;
    std::printf("| %s | %.2f s, %.1f Mw/s | %.2f s, %.1f Mw/s | %.2f |\n", codec, first,
                weights / first, second, weights / second, second / first);
    std::fflush(stdout);
  };
  report("entropy", Seconds(options.repeats, [&] { entropy(one); }),
         Seconds(options.repeats, [&] { entropy(two); }));
  report("lloyd", Seconds(options.repeats, [&] { lloyd({}); }),
         Seconds(options.repeats, [&] { lloyd(members); }));
  for (const char* name : {"q4_k", "iq4_nl"}) {
    const auto grid = [&](const std::vector<RowBlock>& blocks) {
      CodeOnGrids({.w = w.data(), .rows = m, .columns = n, .inputs = &inputs, .blocks = blocks},
                  *FindGgmlType(name), pool, /*refits=*/0);
    };
    report(name, Seconds(options.repeats, [&] { grid({}); }),
           Seconds(options.repeats, [&] { grid(two); }));
  }
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  cvxq::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const int64_t value = std::stoll(argv[i + 1]);
    if (flag == "--rows") options.rows = value;
    if (flag == "--columns") options.columns = value;
    if (flag == "--threads") options.threads = value;
    if (flag == "--repeats") options.repeats = value;
  }
  cvxq::Run(options);
}
