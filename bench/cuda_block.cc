// The claim: on a GPU one block's statistics pass, all of it, reaches 55 % of the BF16 matrix
// product speed that cuBLASLt alone has on the same list of products.
//
//   bench_cuda_block [tokens] [rounds]
//
// The block and the pass are those of llama_block.h. cuBLASLt alone does the products of the
// linears only, whole gradients with them; attention, norms, activations, conversions and sums of
// squares are ours besides. Ours and cuBLASLt's take turns; the least time of each counts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "bench/llama_block.h"
#include "kernels/cuda/products.h"

namespace cvxq {
namespace {

constexpr int kRepeats = 10;  // of one product between two waits

// Seconds of y = x W^T (0), gx = gy W (1) or the gradient gy^T x (2).
double CublasLt(cuda::Device& device, cuda::Products& products, LlamaBlock& block, LinearId id,
                int which) {
  const int64_t M = block.rows(id), N = block.columns(id), T = block.tokens();
  const Tensor tokens = block.Random(DType::kBF16, {T, std::max(M, N)}, 0.1f);
  cuda::Product p{.m = T, .n = M, .k = N, .a_stride = N, .transpose_b = true, .b_stride = N};
  if (which == 1) p = {.m = T, .n = N, .k = M, .a_stride = M, .b_stride = N};
  if (which == 2) p = {.m = M, .n = N, .k = T, .transpose_a = true, .a_stride = M, .b_stride = N};
  const Tensor c = device.Scratch(DType::kF32, {p.m, p.n});
  p.a = cuda::DeviceBytes(tokens);
  p.b = cuda::DeviceBytes(which == 2 ? tokens : block.weight(id));
  p.c = reinterpret_cast<float*>(cuda::DeviceBytes(c));
  p.c_stride = p.n;
  p.dtype = DType::kBF16;
  const auto repeat = [&] {
    for (int i = 0; i < kRepeats; ++i) products.Multiply(p);
    device.Synchronize().IgnoreError();
  };
  repeat();
  return Seconds(repeat) / kRepeats;
}

Status Run(int64_t tokens, int rounds) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, MakeCudaBackend());
  CVXQ_ASSIGN_OR_RETURN(const std::shared_ptr<cuda::Device> device, cuda::Device::Open());
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<cuda::Products> products,
                        cuda::Products::Make(*device));
  LlamaBlock block(*backend, tokens);
  CVXQ_RETURN_IF_ERROR(backend->Synchronize());
  const LlamaBlock::Times times = block.TakeTurns(rounds, [&](LinearId id, int which) {
    return CublasLt(*device, *products, block, id, which);
  });
  CVXQ_RETURN_IF_ERROR(backend->Synchronize());
  CVXQ_RETURN_IF_ERROR(device->Synchronize());
  const double work = block.Operations() * 1e-12;
  std::printf("%s, %s, one block of Llama-2-7B, %ld tokens, %.2f TFLOP\n", device->name().c_str(),
              backend->numerics_class().c_str(), static_cast<long>(tokens), work);
  std::printf("%-40s %8.3f ms %7.1f TFLOPS\n", "cuBLASLt, products of the linears",
              times.products * 1e3, work / times.products);
  std::printf("%-40s %8.3f ms %7.1f TFLOPS\n", "cvxq, the whole pass", times.pass() * 1e3,
              work / times.pass());
  std::printf("%-40s %8.3f ms\n", "  forward", times.forward * 1e3);
  std::printf("%-40s %8.3f ms\n", "  forward again, backward, squares", times.backward * 1e3);
  std::printf("ratio %.2f, asked .55\n", times.products / times.pass());
  return absl::OkStatus();
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const int64_t tokens = argc > 1 ? std::atol(argv[1]) : 2048;
  const cvxq::Status status = cvxq::Run(tokens, argc > 2 ? std::atoi(argv[2]) : 10);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}
