// The backend of an NVIDIA GPU: cuBLASLt for products, own kernels for the rest, one file for each
// family of operations. Every sum has an order that the shapes fix, so results do not change from
// run to run, nor with the card where the products do not.
#ifndef CVXQ_KERNELS_CUDA_CUDA_BACKEND_H_
#define CVXQ_KERNELS_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/products.h"

namespace cvxq::cuda {

class CudaBackend : public Backend {
 public:
  CudaBackend(std::shared_ptr<Device> device, std::unique_ptr<Products> products);

  std::string name() const override;
  std::string numerics_class() const override;
  bool fast_bf16() const override { return true; }

  // For work beside the backend's operations, on the same stream.
  const std::shared_ptr<Device>& device() const { return device_; }
  Products& products() const { return *products_; }

  Tensor Allocate(DType dtype, Shape shape) override;
  Tensor Import(const HostTensor& host) override;
  void Upload(const void* host, Tensor dst) override;
  void Download(const Tensor& src, void* host) override;
  void Fill(Tensor dst, float value) override;
  Status Synchronize() override;

  void Convert(const Tensor& src, Tensor dst) override;

  void Linear(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) override;
  void LinearBackward(const Tensor& gy, const Tensor& w, Tensor gx, bool accumulate) override;
  std::shared_ptr<PackedWeight> ImportPacked(const PackedMatrix& matrix, DType compute) override;
  std::shared_ptr<PackedWeight> ImportPacked(std::shared_ptr<const ScaledMatrix> matrix,
                                             DType compute) override;
  void PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias, Tensor y) override;
  void Unpack(const PackedWeight& packed, Tensor w) override;

  void AddSecondMoment(const Tensor& x, Tensor h) override;
  void AddBlockSecondMoment(const Tensor& x, Tensor h) override;
  void AddColumnSums(const Tensor& x, Tensor sums) override;
  void AddRowSquares(const Tensor& x, Tensor sums) override;
  void AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                          const Tensor& column_group, Tensor sums) override;

  void Embed(const Tensor& table, const Tensor& ids, float scale, Tensor y) override;
  void AddPositions(const Tensor& table, int64_t position, int64_t T, Tensor y) override;
  void Norm(NormKind kind, float epsilon, const Tensor& x, const Tensor& w, const Tensor& b,
            Tensor y) override;
  void NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                    const Tensor& gy, Tensor gx, bool accumulate) override;
  void AddNormGradient(NormKind kind, float epsilon, const Tensor& x, const Tensor& gy,
                       Tensor gw) override;
  void Rope(RopeKind kind, int64_t head_dim, const Tensor& cosine, const Tensor& sine,
            int64_t position, int64_t T, bool inverse, Tensor x) override;
  void Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                 const Tensor& v, bool compute_bf16, Tensor y) override;
  void AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& gy, bool compute_bf16, Tensor gq, Tensor gk,
                         Tensor gv) override;
  void Activation(ActivationKind kind, const Tensor& gate, const Tensor& up, Tensor y) override;
  void ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                          const Tensor& gy, Tensor ggate, Tensor gup) override;
  void AddScaled(float alpha, const Tensor& x, Tensor y) override;
  void ScaleRows(const Tensor& scale, Tensor x) override;
  void ScaleAndCap(float scale, float cap, Tensor x) override;
  void ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) override;

  void SampleLabelGradient(const Tensor& logits, uint64_t key, uint64_t first_counter,
                           Tensor g) override;
  void NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, Tensor nll) override;
  void KlDivergence(const Tensor& reference, const Tensor& logits, Tensor kl,
                    Tensor agree) override;
  void KlGradient(const Tensor& reference, const Tensor& logits, Tensor g) override;

 private:
  // After the first error every operation does nothing, since its operands may lack memory; so each
  // starts with `if (failed()) return;`.
  bool failed() const { return device_->failed(); }
  // x itself where it has the dtype, else a converted copy.
  Tensor As(DType dtype, const Tensor& x);

  const std::shared_ptr<Device> device_;
  const std::unique_ptr<Products> products_;
};

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_CUDA_BACKEND_H_
