// The claim: one block's statistics pass, all of it, reaches 70 % of the BF16 matrix product speed
// that oneDNN alone has on the same list of products.
//
//   bench_block [threads] [tokens] [rounds]
//
// The block and the pass are those of llama_block.h. oneDNN alone does the products of the linears
// only; attention, norms, activations and conversions are ours besides. Ours and oneDNN's take
// turns; the least time of each counts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "bench/llama_block.h"
#include "bench/onednn_product.h"

namespace cvxq {
namespace {

// Seconds of y = x W^T (0), gx = gy W (1) or the gradient gy^T x (2).
double OneDnn(Backend& backend, int threads, LlamaBlock& block, LinearId id, int which) {
  const int64_t M = block.rows(id), N = block.columns(id), T = block.tokens();
  Product p{.m = T, .n = M, .k = N, .transpose_b = true, .lda = N, .ldb = N, .ldc = M};
  if (which == 1) p = {.m = T, .n = N, .k = M, .lda = M, .ldb = N, .ldc = N};
  if (which == 2) {
    p = {.m = M, .n = N, .k = T, .transpose_a = true, .lda = M, .ldb = N, .ldc = N};
  }
  p.dtype = block.compute();
  const Tensor tokens = block.Random(block.compute(), {T, std::max(M, N)}, 0.1f),
               c = backend.Allocate(DType::kF32, {p.m, p.n});
  const Tensor& b = which == 2 ? tokens : block.weight(id);
  return OneDnnSeconds(p, threads, ConstHostData<std::byte>(tokens), ConstHostData<std::byte>(b),
                       HostData<float>(c), [](const auto& body) {
                         body();  // compiles, touches memory
                         return std::min(Seconds(body), Seconds(body));
                       });
}

void Run(int threads, int64_t tokens, int rounds) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend(threads);
  LlamaBlock block(*backend, tokens);
  const LlamaBlock::Times times = block.TakeTurns(
      rounds, [&](LinearId id, int which) { return OneDnn(*backend, threads, block, id, which); });
  const double work = block.Operations() * 1e-9;
  std::printf("%s, %s, %d threads, one block of Llama-2-7B, %ld tokens, %.0f GFLOP\n",
              backend->numerics_class().c_str(), std::string(Name(block.compute())).c_str(),
              threads, static_cast<long>(tokens), work);
  std::printf("%-40s %7.2f s %7.0f GFLOPS\n", "oneDNN, products of the linears", times.products,
              work / times.products);
  std::printf("%-40s %7.2f s %7.0f GFLOPS\n", "cvxq, the whole pass", times.pass(),
              work / times.pass());
  std::printf("%-40s %7.2f s\n", "  forward", times.forward);
  std::printf("%-40s %7.2f s\n", "  forward again, backward, squares", times.backward);
  std::printf("ratio %.2f\n", times.products / times.pass());
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : cvxq::AvailableProcessors();
  const int64_t tokens = argc > 2 ? std::atol(argv[2]) : 2048;
  cvxq::Run(threads, tokens, argc > 3 ? std::atoi(argv[3]) : 4);
}
