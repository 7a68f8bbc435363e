// The claim: a statistics pass (forward, backward, second moments, squared gradients) runs at 70 %
// or more of oneDNN's own BF16 matrix product speed.
//
//   bench_block_products [threads] [tokens]
//
// For the products of one Llama-2-7B block (D 4096, F 11008) it prints the speed of oneDNN alone
// (one call for the whole product with all threads, the better of plain and oneDNN's own weight
// layout, which is not charged for), of the backend's tiles alone, and of the backend's operation.
// A second moment counts as the full product that oneDNN computes, though the backend does half.
// Times are the least of several runs. Then the share of the rest of a block.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "bench/onednn_product.h"
#include "kernels/backend.h"
#include "kernels/cpu/product.h"

namespace cvxq {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double LeastSeconds(const std::function<void()>& body) {
  double least = 1e30, spent = 0;
  body();  // compiles primitives, touches memory
  for (int run = 0; run < 2 || (run < 20 && spent < 0.7); ++run) {
    const double begin = Now();
    body();
    const double seconds = Now() - begin;
    least = std::min(least, seconds);
    spent += seconds;
  }
  return least;
}

class Bench {
 public:
  Bench(int threads, int64_t T)
      : threads_(threads), T_(T), backend_(MakeCpuBackend(threads)), pool_(threads) {
    compute_ = backend_->fast_bf16() ? DType::kBF16 : DType::kF32;
    options_ = {backend_->fast_bf16(), &VectorOpsOf(BestVectorLevel())};
  }

  void Run() {
    std::printf("%s, %s, %d threads, %ld tokens\n", backend_->numerics_class().c_str(),
                std::string(Name(compute_)).c_str(), threads_, static_cast<long>(T_));
    std::printf("%-34s %5s %9s %9s %9s %7s\n", "GFLOPS", "times", "oneDNN", "tiles", "backend",
                "ratio");
    constexpr int64_t D = 4096, F = 11008;
    struct Linear {
      const char* name;
      int64_t M, N;
      int times;
    };
    for (const Linear& l : {Linear{"q k v o", D, D, 4}, {"gate up", F, D, 2}, {"down", D, F, 1}}) {
      LinearRows(l.name, l.M, l.N, l.times);
    }
    SecondMomentRow("inputs of q, o, gate", D, 3);
    SecondMomentRow("inputs of down", F, 1);
    std::printf("statistics pass: %.2f s, oneDNN alone %.2f s, ratio %.2f\n\n", backend_seconds_,
                onednn_seconds_, onednn_seconds_ / backend_seconds_);
    Rest(D, F);
  }

 private:
  Tensor Random(DType dtype, Shape shape) {
    std::vector<float> values(shape.elements());
    for (size_t i = 0; i < values.size(); ++i) values[i] = RandomUniform(1, i) - 0.5f;
    Tensor tensor = backend_->Allocate(DType::kF32, shape);
    backend_->Upload(values.data(), tensor);
    if (dtype == DType::kF32) return tensor;
    Tensor converted = backend_->Allocate(dtype, shape);
    backend_->Convert(tensor, converted);
    return converted;
  }

  double TileSeconds(const Product& p, const void* a, const void* b, float* c) {
    const TileGrid grid(p.m, p.n);
    return LeastSeconds([&] {
      pool_.ParallelFor(grid.count(),
                        [&](int64_t i) { MultiplyTile(options_, p, grid[i], a, b, c); });
    });
  }

  void Row(const std::string& name, int times, const Product& p, const void* a, const void* b,
           float* c, const std::function<void()>& operation) {
    const double work = 2e-9 * p.m * p.n * p.k;
    const double onednn = OneDnnSeconds(p, threads_, a, b, c, LeastSeconds);
    const double tiles = TileSeconds(p, a, b, c);
    const double backend = LeastSeconds(operation);
    std::printf("%-34s %5d %9.0f %9.0f %9.0f %7.2f\n", name.c_str(), times, work / onednn,
                work / tiles, work / backend, onednn / backend);
    std::fflush(stdout);
    onednn_seconds_ += times * onednn;
    backend_seconds_ += times * backend;
  }

  void LinearRows(const std::string& name, int64_t M, int64_t N, int times) {
    const Tensor x = Random(compute_, {T_, N}), w = Random(compute_, {M, N}),
                 gy = Random(compute_, {T_, M});
    const void *x_data = ConstHostData<std::byte>(x), *w_data = ConstHostData<std::byte>(w),
               *gy_data = ConstHostData<std::byte>(gy);
    {
      const Tensor y = backend_->Allocate(DType::kF32, {T_, M});
      const Product p{.m = T_,
                      .n = M,
                      .k = N,
                      .transpose_b = true,
                      .lda = N,
                      .ldb = N,
                      .ldc = M,
                      .dtype = compute_};
      Row("Linear " + name, times, p, x_data, w_data, HostData<float>(y),
          [&] { backend_->Linear(x, w, {}, y); });
    }
    {
      const Tensor gx = backend_->Allocate(DType::kF32, {T_, N});
      const Product p{.m = T_, .n = N, .k = M, .lda = M, .ldb = N, .ldc = N, .dtype = compute_};
      Row("LinearBackward " + name, times, p, gy_data, w_data, HostData<float>(gx),
          [&] { backend_->LinearBackward(gy, w, gx, false); });
    }
    {
      constexpr int64_t kCluster = 256;
      std::vector<int32_t> cluster(M);
      for (int64_t m = 0; m < M; ++m) cluster[m] = (m * 7919 % M) / kCluster;
      const Tensor rows = backend_->Allocate(DType::kI32, {M});
      backend_->Upload(cluster.data(), rows);
      const Tensor g = backend_->Allocate(DType::kF32, {M, N});
      const Tensor sums = backend_->Allocate(DType::kF32, {(M + kCluster - 1) / kCluster, N});
      backend_->Fill(sums, 0);
      const Product p{.m = M,
                      .n = N,
                      .k = T_,
                      .transpose_a = true,
                      .lda = M,
                      .ldb = N,
                      .ldc = N,
                      .dtype = compute_};
      Row("AddSquaredGradient " + name, times, p, gy_data, x_data, HostData<float>(g),
          [&] { backend_->AddSquaredGradient(gy, x, rows, {}, sums); });
      backend_->Fill(g, 0);
      const double seconds = LeastSeconds([&] { backend_->AddSquaredGradient(gy, x, {}, {}, g); });
      std::printf("%-34s %25s %9.0f\n", ("  element by element, " + name).c_str(), "",
                  2e-9 * M * N * T_ / seconds);
    }
  }

  void SecondMomentRow(const std::string& name, int64_t N, int times) {
    const Tensor x = Random(compute_, {T_, N}), h = backend_->Allocate(DType::kF32, {N, N});
    backend_->Fill(h, 0);
    const Product p{.m = N,
                    .n = N,
                    .k = T_,
                    .transpose_a = true,
                    .lda = N,
                    .ldb = N,
                    .ldc = N,
                    .dtype = compute_};
    const void* data = ConstHostData<std::byte>(x);
    Row("AddSecondMoment " + name, times, p, data, data, HostData<float>(h),
        [&] { backend_->AddSecondMoment(x, h); });
    const Tensor blocks = backend_->Allocate(DType::kF32, {N / 128, 128, 128});
    backend_->Fill(blocks, 0);
    const double seconds = LeastSeconds([&] { backend_->AddBlockSecondMoment(x, blocks); });
    std::printf("%-34s %25s %9.0f  (%.1f ms)\n", "  in blocks of 128", "",
                2e-9 * N * 128 * T_ / seconds, seconds * 1e3);
  }

  void RestRow(const char* name, int times, const std::function<void()>& operation) {
    const double seconds = LeastSeconds(operation);
    std::printf("%-34s %5d %9.1f ms each, %.1f %% of the statistics pass\n", name, times,
                seconds * 1e3, 100 * times * seconds / backend_seconds_);
    std::fflush(stdout);
  }

  void Rest(int64_t D, int64_t F) {
    const auto empty = [&](DType dtype, int64_t width) {
      return backend_->Allocate(dtype, {T_, width});
    };
    const Tensor x = Random(DType::kF32, {T_, D}), wide = Random(DType::kF32, {T_, F}),
                 up = Random(DType::kF32, {T_, F}), weight = Random(DType::kF32, {D});
    const Tensor narrow = empty(compute_, D), broad = empty(compute_, F),
                 gx = empty(DType::kF32, D), gup = empty(DType::kF32, F),
                 ggate = empty(DType::kF32, F);
    RestRow("Norm", 2, [&] { backend_->Norm(NormKind::kRms, 1e-5f, x, weight, {}, narrow); });
    RestRow("NormBackward", 2,
            [&] { backend_->NormBackward(NormKind::kRms, 1e-5f, x, weight, x, gx, true); });
    RestRow("Activation", 1, [&] { backend_->Activation(ActivationKind::kSilu, wide, up, broad); });
    RestRow("ActivationBackward", 1, [&] {
      backend_->ActivationBackward(ActivationKind::kSilu, wide, up, wide, ggate, gup);
    });
    RestRow("Convert [T, D]", 5, [&] { backend_->Convert(x, narrow); });
    RestRow("Convert [T, F]", 2, [&] { backend_->Convert(wide, broad); });
    RestRow("AddScaled [T, D]", 2, [&] { backend_->AddScaled(1, x, gx); });
    RestRow("AddColumnSums [T, D]", 6, [&] { backend_->AddColumnSums(narrow, weight); });
    const Tensor angle = Random(DType::kF32, {T_, 64});
    RestRow("Rope", 4,
            [&] { backend_->Rope(RopeKind::kHalf, 128, angle, angle, 0, T_, false, gx); });
    const AttentionSpec spec{.heads = 32, .kv_heads = 32, .head_dim = 128, .scale = 0.088f};
    const Tensor y = empty(compute_, D), gq = empty(DType::kF32, D), gk = empty(DType::kF32, D),
                 gv = empty(DType::kF32, D);
    RestRow("Attention", 1, [&] { backend_->Attention(spec, 1, x, x, x, true, y); });
    RestRow("AttentionBackward", 1,
            [&] { backend_->AttentionBackward(spec, 1, x, x, x, x, true, gq, gk, gv); });
    const Tensor logits = Random(DType::kF32, {T_, 32000}),
                 g = backend_->Allocate(compute_, {T_, 32000});
    RestRow("SampleLabelGradient, V 32000", 0,
            [&] { backend_->SampleLabelGradient(logits, 1, 2, g); });
  }

  const int threads_;
  const int64_t T_;
  std::unique_ptr<Backend> backend_;
  ThreadPool pool_;
  ProductOptions options_;
  DType compute_;
  double onednn_seconds_ = 0, backend_seconds_ = 0;
};

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : cvxq::AvailableProcessors();
  const int64_t tokens = argc > 2 ? std::atol(argv[2]) : 2048;
  cvxq::Bench(threads, tokens).Run();
}
