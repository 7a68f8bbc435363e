// The claim: one block's statistics pass, all of it, reaches 70 % of the BF16 matrix product speed
// that oneDNN alone has on the same list of products.
//
//   bench_block [threads] [tokens] [rounds]
//
// A block of Llama-2-7B's shape with random weights and one sequence: forward, forward once more
// and backward, squared gradients of the seven linears summed by clusters of 64 rows. oneDNN alone
// does the products of the linears only; attention, norms, activations and conversions are ours
// besides. Ours and oneDNN's take turns; the least time of each counts.
#include "model/block.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "bench/onednn_product.h"

namespace cvxq {
namespace {

constexpr int64_t kClusterRows = 64;

double Seconds(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

ArchSpec Llama7B() {
  const nlohmann::json config = {{"model_type", "llama"},        {"num_hidden_layers", 1},
                                 {"hidden_size", 4096},          {"intermediate_size", 11008},
                                 {"vocab_size", 32000},          {"num_attention_heads", 32},
                                 {"num_key_value_heads", 32},    {"max_position_embeddings", 4096},
                                 {"hidden_act", "silu"},         {"rms_norm_eps", 1e-5},
                                 {"tie_word_embeddings", false}, {"rope_theta", 10000.0}};
  return ParseArchSpec(config, "the bench").value();
}

class Bench {
 public:
  Bench(int threads, int64_t tokens)
      : threads_(threads), T_(tokens), spec_(Llama7B()), backend_(MakeCpuBackend(threads)) {
    compute_ = backend_->fast_bf16() ? DType::kBF16 : DType::kF32;
    for (const LinearId id : spec_.linears()) {
      const int64_t M = spec_.rows(id), N = spec_.columns(id);
      weights_.linear[static_cast<int>(id)].dense = Random(compute_, {M, N}, 0.04f);
      std::vector<int32_t> cluster(M);
      for (int64_t m = 0; m < M; ++m) cluster[m] = (m * 7919 % M) / kClusterRows;
      row_group_[static_cast<int>(id)] = backend_->Allocate(DType::kI32, {M});
      backend_->Upload(cluster.data(), row_group_[static_cast<int>(id)]);
      sums_[static_cast<int>(id)] = backend_->Allocate(DType::kF32, {M / kClusterRows, N});
      backend_->Fill(sums_[static_cast<int>(id)], 0);
    }
    weights_.norm1.w = Random(DType::kF32, {spec_.hidden}, 2);
    weights_.norm2.w = Random(DType::kF32, {spec_.hidden}, 2);
    rope_ = MakeRopeTables(spec_.layer[0].rope, spec_.head_dim, T_, *backend_);
  }

  void Run(int rounds) {
    // Linears of one shape, how many of them, and how often each runs forward: twice, but the last
    // linear of the block only once, since the second forward pass has no use for its output.
    struct Kind {
      LinearId id;
      int linears, forward;
      std::array<double, 3> seconds{1e30, 1e30, 1e30};  // forward, backward, gradient
    };
    std::array<Kind, 3> kinds = {
        Kind{LinearId::kQuery, 4, 8}, {LinearId::kGate, 2, 4}, {LinearId::kDown, 1, 1}};
    double forward = 1e30, backward = 1e30;
    for (int round = 0; round < rounds; ++round) {
      const Tensor x = Random(DType::kF32, {T_, spec_.hidden}, 2),
                   y = backend_->Allocate(DType::kF32, x.shape),
                   g = Random(DType::kF32, x.shape, 2e-3f);
      backend_->Convert(x, y);
      const BlockContext context{spec_, spec_.layer[0], weights_, rope_, compute_, *backend_};
      const Wave wave{.B = 1, .T = T_};
      const LinearObserver observer = [&](LinearId id, const Tensor& input, const Tensor& gy) {
        backend_->AddSquaredGradient(gy, input, row_group_[static_cast<int>(id)], Tensor{},
                                     sums_[static_cast<int>(id)]);
      };
      forward = std::min(forward, Seconds([&] { BlockForward(context, wave, y, nullptr); }));
      backward =
          std::min(backward, Seconds([&] { BlockBackward(context, wave, x, g, &observer); }));
      for (Kind& kind : kinds) {
        for (int which = 0; which < 3; ++which) {
          kind.seconds[which] = std::min(kind.seconds[which], OneDnn(kind.id, which));
        }
      }
    }
    double onednn = 0, work = 0;
    for (const Kind& kind : kinds) {
      const auto& [to_output, to_input, gradient] = kind.seconds;
      onednn += kind.forward * to_output + kind.linears * (to_input + gradient);
      work += (kind.forward + 2 * kind.linears) * 2e-9 * static_cast<double>(T_) *
              spec_.rows(kind.id) * spec_.columns(kind.id);
    }
    const double ours = forward + backward;
    std::printf("%s, %s, %d threads, one block of Llama-2-7B, %ld tokens, %.0f GFLOP\n",
                backend_->numerics_class().c_str(), std::string(Name(compute_)).c_str(), threads_,
                static_cast<long>(T_), work);
    std::printf("%-40s %7.2f s %7.0f GFLOPS\n", "oneDNN, products of the linears", onednn,
                work / onednn);
    std::printf("%-40s %7.2f s %7.0f GFLOPS\n", "cvxq, the whole pass", ours, work / ours);
    std::printf("%-40s %7.2f s\n", "  forward", forward);
    std::printf("%-40s %7.2f s\n", "  forward again, backward, squares", backward);
    std::printf("ratio %.2f\n", onednn / ours);
  }

 private:
  Tensor Random(DType dtype, const Shape& shape, float width) {
    std::vector<float> values(shape.elements());
    ++key_;
    for (size_t i = 0; i < values.size(); ++i) values[i] = width * (RandomUniform(key_, i) - 0.5f);
    Tensor tensor = backend_->Allocate(DType::kF32, shape);
    backend_->Upload(values.data(), tensor);
    if (dtype == DType::kF32) return tensor;
    Tensor converted = backend_->Allocate(dtype, shape);
    backend_->Convert(tensor, converted);
    return converted;
  }

  // Seconds of y = x W^T (0), gx = gy W (1) or the gradient gy^T x (2).
  double OneDnn(LinearId id, int which) {
    const int64_t M = spec_.rows(id), N = spec_.columns(id);
    Product p{.m = T_, .n = M, .k = N, .transpose_b = true, .lda = N, .ldb = N, .ldc = M};
    if (which == 1) p = {.m = T_, .n = N, .k = M, .lda = M, .ldb = N, .ldc = N};
    if (which == 2) {
      p = {.m = M, .n = N, .k = T_, .transpose_a = true, .lda = M, .ldb = N, .ldc = N};
    }
    p.dtype = compute_;
    const Tensor tokens = Random(compute_, {T_, std::max(M, N)}, 0.1f),
                 c = backend_->Allocate(DType::kF32, {p.m, p.n});
    const Tensor& b = which == 2 ? tokens : weights_.linear[static_cast<int>(id)].dense;
    return OneDnnSeconds(p, threads_, ConstHostData<std::byte>(tokens), ConstHostData<std::byte>(b),
                         HostData<float>(c), [](const auto& body) {
                           body();  // compiles, touches memory
                           return std::min(Seconds(body), Seconds(body));
                         });
  }

  const int threads_;
  const int64_t T_;
  const ArchSpec spec_;
  const std::unique_ptr<Backend> backend_;
  DType compute_;
  BlockWeights weights_;
  RopeTables rope_;
  std::array<Tensor, kLinearCount> row_group_, sums_;
  uint64_t key_ = 0;
};

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : cvxq::AvailableProcessors();
  const int64_t tokens = argc > 2 ? std::atol(argv[2]) : 2048;
  cvxq::Bench(threads, tokens).Run(argc > 3 ? std::atoi(argv[3]) : 4);
}
