// Products of one or a few vectors with a large matrix, as in generation token by token: packed
// weights against BF16 ones. There the time goes into bringing the weights from memory, so fewer
// bits should mean proportionally less time.
//
//   bench_matvec [--json] [--seconds S]
//
// Scaled weights take a byte each in memory, so 2 is the most they can reach.
// Packed products may round factors to BF16 (packed_weight.h), but for those "in float".
//
// Several matrices take turns, so that each comes from memory and not from a cache. The ratio is
// the speed relative to the faster of the two BF16 products of the same batch and number of threads
// (ours for one vector, and oneDNN's).

// GCC 12 takes the "undefined" registers inside its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "dnnl.hpp"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/scaled_weight.h"
#include "kernels/packed_matrix.h"
#include "kernels/scaled_matrix.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

constexpr int64_t kRows = 4096, kColumns = 11008;  // a down projection of a 7B model
constexpr int64_t kWeights = kRows * kColumns;
constexpr int64_t kRotationBytes = 128 << 20;  // at least, for each kind of weights
constexpr int kMaxBatch = 8;

using Clock = std::chrono::steady_clock;

struct Line {
  std::string name;
  int threads = 1, batch = 1;
  double seconds = 0;  // for one product
  int64_t bytes = 0;   // of one matrix
};

// Seconds of one call of body(i), 0 <= i < rotation, called in turn: the mean over i of the best
// time of each. Other programs on the machine disturb a best time least.
double BestSeconds(int64_t rotation, double budget, const std::function<void(int64_t)>& body) {
  std::vector<double> best(rotation, 1e30);
  double total = 0;
  for (int round = 0; round < 4 || total < budget; ++round) {
    for (int64_t i = 0; i < rotation; ++i) {
      const Clock::time_point begin = Clock::now();
      body(i);
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      best[i] = std::min(best[i], seconds);
      total += seconds;
    }
  }
  return std::accumulate(best.begin(), best.end(), 0.0) / static_cast<double>(rotation);
}

std::vector<float> RandomFloats(int64_t count, uint64_t key) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = 2 * RandomUniform(key, i) - 1;
  return values;
}

struct PackedSpec {
  std::string name;
  std::vector<uint8_t> depths;  // drawn with equal chances
  int64_t cluster_size;
  bool means = false;
};

PackedMatrix MakePacked(const PackedSpec& spec, uint64_t key) {
  PackedMatrix matrix;
  matrix.rows = kRows;
  matrix.columns = kColumns;
  matrix.cluster_size = spec.cluster_size;
  matrix.members.resize(kRows);
  std::iota(matrix.members.begin(), matrix.members.end(), 0);
  for (int64_t i = kRows; i > 1; --i) {
    std::swap(matrix.members[i - 1], matrix.members[RandomBits(key, i) % i]);
  }
  const int64_t groups = matrix.cluster_count() * kColumns;
  matrix.scale = RandomFloats(groups, key + 1);
  if (spec.means) matrix.mean = RandomFloats(groups, key + 2);
  for (int64_t g = 0; g < groups; ++g) {
    matrix.depth.push_back(spec.depths[RandomBits(key + 3, g) % spec.depths.size()]);
  }
  for (int b = 1; b <= kMaxDepth; ++b) matrix.table[b] = RandomFloats(1 << b, key + 4);
  int64_t bytes = 0;
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) bytes += ClusterCodeBytes(matrix, c);
  matrix.codes.resize(bytes);  // any bits are codes
  for (int64_t i = 0; i < bytes; ++i) matrix.codes[i] = static_cast<uint8_t>(RandomBits(key, i));
  return matrix;
}

// y = W x for rows [begin, end) of W [., columns] in BF16: a shift makes a float.
__attribute__((target("avx512f"))) void Bf16RowsAvx512(const uint16_t* w, const float* x,
                                                       int64_t begin, int64_t end, float* y) {
  for (int64_t row = begin; row < end; ++row) {
    const uint16_t* from = w + row * kColumns;
    __m512 sum[8];
    for (__m512& s : sum) s = _mm512_setzero_ps();
    for (int64_t j = 0; j < kColumns; j += 128) {
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        __builtin_prefetch(from + j + 16 * k + 4096);
        const __m256i bits =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + j + 16 * k));
        const __m512 value =
            _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
        sum[k] = _mm512_fmadd_ps(value, _mm512_loadu_ps(x + j + 16 * k), sum[k]);
      }
    }
    for (int k = 1; k < 8; ++k) sum[0] += sum[k];
    float lanes[16], total = 0;
    std::memcpy(lanes, &sum[0], sizeof(lanes));
    for (float lane : lanes) total += lane;
    y[row] = total;
  }
}
static_assert(kColumns % 128 == 0);

class Bench {
 public:
  Bench(double seconds, std::vector<int> threads)
      : seconds_(seconds), threads_(std::move(threads)), x_(RandomFloats(kMaxBatch * kColumns, 1)) {
    y_.resize(kMaxBatch * kRows);
  }

  void RunBf16() {
    const int64_t rotation = std::max<int64_t>(2, kRotationBytes / (2 * kWeights));
    std::vector<std::vector<uint16_t>> weights(rotation, std::vector<uint16_t>(kWeights));
    for (int64_t r = 0; r < rotation; ++r) {
      for (int64_t i = 0; i < kWeights; ++i) {
        weights[r][i] = FloatToBF16(2 * RandomUniform(r, i) - 1);
      }
    }
    for (int threads : threads_) {
      if (__builtin_cpu_supports("avx512f")) {
        ThreadPool pool(threads);
        Add({"bf16, our AVX-512 loop", threads, 1, 0, 2 * kWeights}, rotation, [&](int64_t i) {
          constexpr int64_t kTile = 64;
          pool.ParallelFor(kRows / kTile, [&](int64_t tile) {
            Bf16RowsAvx512(weights[i].data(), x_.data(), tile * kTile, (tile + 1) * kTile,
                           y_.data());
          });
        });
      }
      for (int batch : {1, 2, 4, 8}) {
        for (bool packed : {false, true}) RunOneDnn(weights, threads, batch, packed);
      }
    }
  }

  void RunPacked(const PackedSpec& spec, const std::vector<int>& batches,
                 DType compute = DType::kBF16) {
    std::vector<std::shared_ptr<CpuPackedWeight>> weights;
    int64_t bytes = 0;
    while (bytes * static_cast<int64_t>(weights.size()) < kRotationBytes) {
      const PackedMatrix matrix = MakePacked(spec, 10 * weights.size());
      bytes = matrix.codes.size() + matrix.depth.size() +
              (matrix.scale.size() + matrix.mean.size()) * sizeof(float);
      weights.push_back(MakeCpuPackedWeight(matrix, compute));
    }
    const auto rotation = static_cast<int64_t>(weights.size());
    for (int threads : threads_) {
      ThreadPool pool(threads);
      for (int batch : batches) {
        Add({spec.name, threads, batch, 0, bytes}, rotation, [&](int64_t i) {
          PackedProduct(*weights[i], x_.data(), batch, nullptr, y_.data(), pool);
        });
      }
      if (batches.size() > 1) {
        std::vector<uint16_t> w(kWeights);
        Add({spec.name + ", unpack to bf16", threads, 0, 0, bytes + 2 * kWeights}, rotation,
            [&](int64_t i) { UnpackToBF16(*weights[i], w.data(), pool); });
      }
    }
  }

  // Codes of one byte each, as `entropy` decodes them; the bytes do not depend on the bits.
  void RunScaled(const std::vector<int>& batches) {
    std::vector<std::unique_ptr<CpuScaledWeight>> weights;
    while (static_cast<int64_t>(weights.size()) * kWeights < kRotationBytes) {
      const uint64_t key = 10 * weights.size();
      auto matrix = std::make_shared<ScaledMatrix>();
      matrix->rows = kRows;
      matrix->columns = kColumns;
      matrix->codes.resize(kWeights);
      for (int64_t i = 0; i < kWeights; ++i) {
        matrix->codes[i] = static_cast<int8_t>(RandomBits(key, i) % 15) - 7;
      }
      matrix->row_scale.assign(kRows, 0.01f);
      matrix->column_scale.assign(kColumns, 1);
      weights.push_back(
          std::make_unique<CpuScaledWeight>(std::move(matrix), DType::kF32, BestVectorLevel()));
    }
    const auto rotation = static_cast<int64_t>(weights.size());
    const std::string name = "scaled, 8 bit codes";
    for (int threads : threads_) {
      ThreadPool pool(threads);
      for (int batch : batches) {
        Add({name, threads, batch, 0, kWeights}, rotation, [&](int64_t i) {
          ScaledProduct(*weights[i], x_.data(), batch, nullptr, y_.data(), pool);
        });
      }
      std::vector<uint16_t> w(kWeights);
      Add({name + ", unpack to bf16", threads, 0, 0, 3 * kWeights}, rotation,
          [&](int64_t i) { UnpackToBF16(*weights[i], 0, kRows, w.data(), pool); });
    }
  }

  void Print(bool json) const {
    // The fastest BF16 product by (threads, batch).
    std::map<std::pair<int, int>, double> best;
    for (const Line& line : lines_) {
      if (!line.name.starts_with("bf16")) continue;
      double& seconds = best.try_emplace({line.threads, line.batch}, 1e30).first->second;
      seconds = std::min(seconds, line.seconds);
    }
    if (!json) {
      std::printf("%-34s %7s %5s %9s %9s %7s %6s\n", "4096 x 11008", "threads", "batch", "ms",
                  "Gweight/s", "GB/s", "ratio");
    }
    for (size_t i = 0; i < lines_.size(); ++i) {
      const Line& line = lines_[i];
      const auto reference = best.find({line.threads, line.batch});
      const double ratio = reference == best.end() ? 0 : reference->second / line.seconds;
      const double gweights = kWeights / line.seconds * 1e-9;
      const double gbytes = line.bytes / line.seconds * 1e-9;
      if (json) {
        std::printf(
            "%s{\"name\": \"%s\", \"threads\": %d, \"batch\": %d, \"ms\": %.4f, "
            "\"gweights_per_s\": %.3f, \"gb_per_s\": %.3f, \"ratio\": %.3f}%s\n",
            i == 0 ? "[" : " ", line.name.c_str(), line.threads, line.batch, line.seconds * 1e3,
            gweights, gbytes, ratio, i + 1 == lines_.size() ? "]" : ",");
      } else if (line.batch == 0) {
        std::printf("%-34s %7d %5s %9.3f %9.2f %7.1f %6s\n", line.name.c_str(), line.threads, "-",
                    line.seconds * 1e3, gweights, gbytes, "-");
      } else {
        std::printf("%-34s %7d %5d %9.3f %9.2f %7.1f %6.2f\n", line.name.c_str(), line.threads,
                    line.batch, line.seconds * 1e3, gweights, gbytes, ratio);
      }
    }
  }

 private:
  void Add(Line line, int64_t rotation, const std::function<void(int64_t)>& body) {
    line.seconds = BestSeconds(rotation, seconds_, body);
    lines_.push_back(std::move(line));
  }

  // oneDNN's BF16 product with the weights as they are, or in the layout that it asks for.
  void RunOneDnn(const std::vector<std::vector<uint16_t>>& weights, int threads, int batch,
                 bool packed) {
    using dnnl::memory;
    omp_set_num_threads(threads);
    try {
      const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
      dnnl::stream stream(engine);
      const memory::desc x_desc({batch, kColumns}, memory::data_type::bf16, memory::format_tag::ab);
      const memory::desc w_plain({kColumns, kRows}, memory::data_type::bf16,
                                 memory::format_tag::ba);
      const memory::desc w_any({kColumns, kRows}, memory::data_type::bf16, memory::format_tag::any);
      const memory::desc y_desc({batch, kRows}, memory::data_type::f32, memory::format_tag::ab);
      const dnnl::matmul::primitive_desc primitive(
          dnnl::matmul::desc(x_desc, packed ? w_any : w_plain, y_desc), engine);
      const dnnl::matmul matmul(primitive);
      std::vector<uint16_t> x(batch * kColumns);
      for (size_t i = 0; i < x.size(); ++i) x[i] = FloatToBF16(x_[i]);
      const memory x_memory(x_desc, engine, x.data()), y_memory(y_desc, engine, y_.data());
      std::vector<memory> w_memories;
      for (const std::vector<uint16_t>& w : weights) {
        memory plain(w_plain, engine, const_cast<uint16_t*>(w.data()));
        if (!packed) {
          w_memories.push_back(plain);
          continue;
        }
        w_memories.emplace_back(primitive.weights_desc(), engine);
        dnnl::reorder(plain, w_memories.back()).execute(stream, plain, w_memories.back());
        stream.wait();
      }
      Add({packed ? "bf16, oneDNN, its own layout" : "bf16, oneDNN", threads, batch, 0,
           2 * kWeights},
          static_cast<int64_t>(weights.size()), [&](int64_t i) {
            matmul.execute(stream, {{DNNL_ARG_SRC, x_memory},
                                    {DNNL_ARG_WEIGHTS, w_memories[i]},
                                    {DNNL_ARG_DST, y_memory}});
            stream.wait();
          });
    } catch (const dnnl::error& error) {
      std::fprintf(stderr, "oneDNN has no such product here: %s\n", error.what());
    }
  }

  const double seconds_;
  const std::vector<int> threads_;
  std::vector<float> x_, y_;
  std::vector<Line> lines_;
};

int Main(int argc, char** argv) {
  bool json = false;
  double seconds = 0.5;  // for each line
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") {
      json = true;
    } else if (argument == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: bench_matvec [--json] [--seconds S]\n");
      return 2;
    }
  }
  std::vector<int> threads = {1};
  if (AvailableProcessors() > 1) threads.push_back(AvailableProcessors());
  Bench bench(seconds, threads);
  bench.RunBf16();
  bench.RunScaled({1, 2, 4, 8});
  bench.RunPacked({"3 bit, clusters of 256", {3}, 256}, {1});
  bench.RunPacked({"3 bit, clusters of 64", {3}, 64}, {1});
  bench.RunPacked({"3 bit, 256, in float", {3}, 256}, {1}, DType::kF32);
  bench.RunPacked({"3 bit, 64, in float", {3}, 64}, {1}, DType::kF32);
  bench.RunPacked({"2, 3, 4 bit, clusters of 256", {2, 3, 4}, 256}, {1, 2, 4, 8});
  bench.RunPacked({"2, 3, 4 bit, clusters of 64", {2, 3, 4}, 64}, {1, 2, 4, 8});
  bench.RunPacked({"2, 3, 4 bit, 64, with means", {2, 3, 4}, 64, true}, {1});
  bench.RunPacked({"2 bit, clusters of 256", {2}, 256}, {1});
  bench.RunPacked({"4 bit, clusters of 256", {4}, 256}, {1});
  bench.Print(json);
  return 0;
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) { return cvxq::Main(argc, argv); }
