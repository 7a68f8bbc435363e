// One block of Llama-2-7B's shape with random weights and one sequence, and the statistics pass
// over it: forward, forward once more and backward, squared gradients of the seven linears summed
// by clusters of 64 rows.
#ifndef CVXQ_BENCH_LLAMA_BLOCK_H_
#define CVXQ_BENCH_LLAMA_BLOCK_H_

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <vector>

#include "base/random.h"
#include "model/block.h"

namespace cvxq {

inline double Seconds(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class LlamaBlock {
 public:
  // Linears of one shape, how many of them, and how often each runs forward in a pass: twice, but
  // the last linear of the block only once, since the second forward pass has no use for its
  // output.
  struct Kind {
    LinearId id;
    int linears, forward;
  };
  static constexpr std::array<Kind, 3> kKinds = {
      Kind{LinearId::kQuery, 4, 8}, {LinearId::kGate, 2, 4}, {LinearId::kDown, 1, 1}};

  LlamaBlock(Backend& backend, int64_t tokens)
      : backend_(backend),
        T_(tokens),
        spec_(Llama7B()),
        compute_(backend.fast_bf16() ? DType::kBF16 : DType::kF32) {
    for (const LinearId id : spec_.linears()) {
      const int64_t M = spec_.rows(id), N = spec_.columns(id);
      weights_.linear[static_cast<int>(id)].dense = Random(compute_, {M, N}, 0.04f);
      std::vector<int32_t> cluster(M);
      for (int64_t m = 0; m < M; ++m) cluster[m] = (m * 7919 % M) / kClusterRows;
      row_group_[static_cast<int>(id)] = backend_.Allocate(DType::kI32, {M});
      backend_.Upload(cluster.data(), row_group_[static_cast<int>(id)]);
      sums_[static_cast<int>(id)] = backend_.Allocate(DType::kF32, {M / kClusterRows, N});
      backend_.Fill(sums_[static_cast<int>(id)], 0);
    }
    weights_.norm1.w = Random(DType::kF32, {spec_.hidden}, 2);
    weights_.norm2.w = Random(DType::kF32, {spec_.hidden}, 2);
    rope_ = MakeRopeTables(spec_.layer[0].rope, spec_.head_dim, T_, backend_);
    x_ = Random(DType::kF32, {T_, spec_.hidden}, 2);
    y_ = backend_.Allocate(DType::kF32, x_.shape);
    g_ = Random(DType::kF32, x_.shape, 2e-3f);
  }

  // Seconds of the two halves of the pass, waited for.
  double Forward() {
    backend_.Convert(x_, y_);
    backend_.Synchronize().IgnoreError();
    return Seconds([&] {
      BlockForward(Context(), Pass(), y_, nullptr);
      backend_.Synchronize().IgnoreError();
    });
  }
  double Backward() {
    const LinearObserver observer = [&](LinearId id, const Tensor& input, const Tensor& gy) {
      backend_.AddSquaredGradient(gy, input, row_group_[static_cast<int>(id)], Tensor{},
                                  sums_[static_cast<int>(id)]);
    };
    backend_.Synchronize().IgnoreError();
    return Seconds([&] {
      BlockBackward(Context(), Pass(), x_, g_, &observer);
      backend_.Synchronize().IgnoreError();
    });
  }

  // Least seconds of several turns: of the pass's two halves, and of what a library alone takes for
  // the products of its linears.
  struct Times {
    double forward = 1e30, backward = 1e30, products = 0;
    double pass() const { return forward + backward; }
  };
  // `product(id, which)`: seconds of y = x W^T (0), gx = gy W (1) or the gradient gy^T x (2).
  Times TakeTurns(int rounds, const std::function<double(LinearId id, int which)>& product) {
    Times times;
    std::array<std::array<double, 3>, kKinds.size()> seconds;
    for (auto& kind : seconds) kind.fill(1e30);
    for (int round = 0; round < rounds; ++round) {
      times.forward = std::min(times.forward, Forward());
      times.backward = std::min(times.backward, Backward());
      for (size_t i = 0; i < kKinds.size(); ++i) {
        for (int which = 0; which < 3; ++which) {
          seconds[i][which] = std::min(seconds[i][which], product(kKinds[i].id, which));
        }
      }
    }
    for (size_t i = 0; i < kKinds.size(); ++i) {
      times.products +=
          kKinds[i].forward * seconds[i][0] + kKinds[i].linears * (seconds[i][1] + seconds[i][2]);
    }
    return times;
  }

  // Floating-point operations of all products of the linears in a pass.
  double Operations() const {
    double operations = 0;
    for (const Kind& kind : kKinds) {
      operations += (kind.forward + 2 * kind.linears) * 2.0 * static_cast<double>(T_) *
                    static_cast<double>(spec_.rows(kind.id) * spec_.columns(kind.id));
    }
    return operations;
  }

  Tensor Random(DType dtype, const Shape& shape, float width) {
    std::vector<float> values(shape.elements());
    ++key_;
    for (size_t i = 0; i < values.size(); ++i) values[i] = width * (RandomUniform(key_, i) - 0.5f);
    Tensor tensor = backend_.Allocate(DType::kF32, shape);
    backend_.Upload(values.data(), tensor);
    if (dtype == DType::kF32) return tensor;
    Tensor converted = backend_.Allocate(dtype, shape);
    backend_.Convert(tensor, converted);
    return converted;
  }

  int64_t tokens() const { return T_; }
  int64_t rows(LinearId id) const { return spec_.rows(id); }
  int64_t columns(LinearId id) const { return spec_.columns(id); }
  DType compute() const { return compute_; }
  const Tensor& weight(LinearId id) const { return weights_.linear[static_cast<int>(id)].dense; }

 private:
  static constexpr int64_t kClusterRows = 64;

  static ArchSpec Llama7B() {
    const nlohmann::json config = {
        {"model_type", "llama"},        {"num_hidden_layers", 1},
        {"hidden_size", 4096},          {"intermediate_size", 11008},
        {"vocab_size", 32000},          {"num_attention_heads", 32},
        {"num_key_value_heads", 32},    {"max_position_embeddings", 4096},
        {"hidden_act", "silu"},         {"rms_norm_eps", 1e-5},
        {"tie_word_embeddings", false}, {"rope_theta", 10000.0}};
    return ParseArchSpec(config, "the bench").value();
  }
  BlockContext Context() { return {spec_, spec_.layer[0], weights_, rope_, compute_, backend_}; }
  Wave Pass() const { return {.B = 1, .T = T_}; }

  Backend& backend_;
  const int64_t T_;
  const ArchSpec spec_;
  const DType compute_;
  BlockWeights weights_;
  RopeTables rope_;
  Tensor x_, y_, g_;
  std::array<Tensor, kLinearCount> row_group_, sums_;
  uint64_t key_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_BENCH_LLAMA_BLOCK_H_
