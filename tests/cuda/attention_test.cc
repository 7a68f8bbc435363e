// Attention on the GPU where the cases of all backends do not go: the head sizes of real models,
// borders of its tiles, many heads that share keys, splits of the keys in generation.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend_cases.h"
#include "tests/kernels/backend_testing.h"

namespace cvxq {
namespace {

class CudaAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = MakeCudaBackend();
    if (!backend.ok()) GTEST_SKIP() << backend.status().message();
    gpu_ = *std::move(backend);
  }

  // Holds Attention, and where Tq = Tk AttentionBackward, against the reference in both types.
  void ExpectAgreement(const AttentionSpec& spec, int64_t B, int64_t Tq, int64_t Tk) {
    const Case c{"Attention",
                 [=](Backend& b, DType compute) -> Outputs {
                   const Shape wide{B * Tq, int64_t{spec.heads} * spec.head_dim},
                       narrow{B * Tk, int64_t{spec.kv_heads} * spec.head_dim};
                   const Tensor q = RandomTensor(b, DType::kF32, wide, 1, 3),
                                k = RandomTensor(b, DType::kF32, narrow, 2, 3),
                                v = RandomTensor(b, DType::kF32, narrow, 3),
                                gy = RandomTensor(b, DType::kF32, wide, 4),
                                y = b.Allocate(compute, wide), gq = b.Allocate(DType::kF32, wide),
                                gk = b.Allocate(DType::kF32, narrow),
                                gv = b.Allocate(DType::kF32, narrow);
                   const bool bf16 = compute == DType::kBF16;
                   b.Attention(spec, B, q, k, v, bf16, y);
                   if (Tq != Tk) return {y};
                   b.AttentionBackward(spec, B, q, k, v, gy, bf16, gq, gk, gv);
                   return {y, gq, gk, gv};
                 },
                 2e-5, 0.02};
    SCOPED_TRACE(testing::Message()
                 << spec.heads << " heads, " << spec.kv_heads << " of keys, of " << spec.head_dim
                 << ", window " << spec.window << ", B " << B << ", Tq " << Tq << ", Tk " << Tk);
    for (DType compute : {DType::kF32, DType::kBF16}) {
      ExpectClose(RunCase(c, *gpu_, compute), RunCase(c, *MakeReferenceBackend(), compute), c,
                  compute, "cuda");
    }
  }

  std::unique_ptr<Backend> gpu_;
};

AttentionSpec Spec(int heads, int kv_heads, int head_dim) {
  return {.heads = heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 1 / std::sqrt(static_cast<float>(head_dim))};
}

TEST_F(CudaAttentionTest, HeadsOfAllLengths) {
  ExpectAgreement(Spec(2, 1, 64), 1, 131, 131);
  ExpectAgreement(Spec(1, 1, 80), 1, 65, 65);
  ExpectAgreement(Spec(2, 2, 128), 1, 129, 129);
  ExpectAgreement(Spec(1, 1, 256), 1, 67, 67);
  ExpectAgreement(Spec(2, 1, 14), 1, 40, 40);   // not a multiple of four
  ExpectAgreement(Spec(2, 1, 7), 1, 40, 40);    // odd
  ExpectAgreement(Spec(1, 1, 264), 1, 35, 35);  // longer than the kernels for tensor cores take
}

TEST_F(CudaAttentionTest, ManyHeadsInAGroup) { ExpectAgreement(Spec(14, 2, 16), 1, 70, 70); }

TEST_F(CudaAttentionTest, SequencesEndWithinATile) {
  for (int T : {17, 63, 64, 66}) ExpectAgreement(Spec(2, 1, 8), 3, T, T);
}

TEST_F(CudaAttentionTest, WindowsThatEndAtTiles) {
  AttentionSpec spec = Spec(1, 1, 8);
  for (int window : {1, 31, 33, 63, 64, 65, 129}) {
    spec.window = window;
    ExpectAgreement(spec, 1, 200, 200);
  }
  // The rows of a tile that are beyond the last query see no key at all.
  spec = Spec(1, 1, 256);
  spec.window = 5;
  ExpectAgreement(spec, 1, 30, 30);
}

TEST_F(CudaAttentionTest, SoftCapThatBends) {
  AttentionSpec spec = Spec(2, 1, 32);
  spec.softcap = 1.25f;  // scores reach 10
  ExpectAgreement(spec, 1, 100, 100);
  spec = Spec(1, 1, 256);
  spec.softcap = 2;
  spec.window = 20;
  ExpectAgreement(spec, 1, 40, 40);
}

TEST_F(CudaAttentionTest, PromptAfterAPrompt) {
  ExpectAgreement(Spec(2, 1, 16), 2, 70, 203);
  AttentionSpec spec = Spec(1, 1, 16);
  spec.window = 64;
  ExpectAgreement(spec, 1, 130, 300);
}

TEST_F(CudaAttentionTest, GenerationOverSplitsOfKeys) {
  ExpectAgreement(Spec(2, 2, 128), 1, 1, 128);
  ExpectAgreement(Spec(2, 1, 64), 2, 1, 129);
  ExpectAgreement(Spec(3, 1, 160), 1, 1, 257);
  ExpectAgreement(Spec(8, 2, 16), 1, 1, 2500);
  ExpectAgreement(Spec(6, 1, 10), 2, 3, 131);   // eighteen rows share keys: three sets
  ExpectAgreement(Spec(2, 1, 16), 1, 16, 140);  // the last of few
  AttentionSpec spec = Spec(4, 2, 16);
  spec.window = 128;
  spec.softcap = 2;
  ExpectAgreement(spec, 1, 1, 300);  // one split: exactly the window
  ExpectAgreement(spec, 1, 2, 300);  // the second has one key, which the first query does not see
  spec.window = 1;
  ExpectAgreement(spec, 1, 2, 300);
}

// Where one score is far above all others, or all are the same.
TEST_F(CudaAttentionTest, ExtremeScores) {
  // With the largest scale rounding to BF16 decides which score is the largest.
  for (const auto& [scale, tolerance] :
       {std::pair{100.0f, INFINITY}, std::pair{0.0f, 0.02f}, std::pair{-0.25f, 0.05f}}) {
    AttentionSpec spec = Spec(1, 1, 16);
    spec.scale = scale;
    const int T = 70;
    const Shape shape{T, 16};
    const std::vector<float> values = Numbers(shape.elements(), 5, 2);
    for (DType compute : {DType::kF32, DType::kBF16}) {
      std::vector<float> outputs[2];
      const std::unique_ptr<Backend> reference = MakeReferenceBackend();
      for (Backend* b : {gpu_.get(), reference.get()}) {
        const Tensor x = MakeTensor(*b, DType::kF32, shape, values),
                     y = b->Allocate(DType::kF32, shape);
        b->Attention(spec, 1, x, x, x, compute == DType::kBF16, y);
        outputs[b == gpu_.get() ? 0 : 1] = Values(*b, y);
      }
      for (size_t i = 0; i < outputs[0].size(); ++i) {
        ASSERT_NEAR(outputs[0][i], outputs[1][i], compute == DType::kF32 ? 1e-4f : tolerance)
            << "scale " << scale << ", " << Name(compute) << ", element " << i;
      }
    }
  }
}

// A NaN is seen in the output of every query that sees it, whichever operand has it.
TEST_F(CudaAttentionTest, NanIsNotLost) {
  const AttentionSpec spec = Spec(1, 1, 16);
  for (const auto& [Tq, Tk] : {std::pair{70, 70}, std::pair{2, 300}}) {
    for (bool bf16 : {false, true}) {
      for (int operand = 0; operand < 3; ++operand) {
        const int row = operand == 0 ? Tq - 1 : Tk - 1;  // the last token's
        std::vector<Tensor> operands;
        for (int i = 0; i < 3; ++i) {
          const Shape shape{i == 0 ? Tq : Tk, 16};
          std::vector<float> values = Numbers(shape.elements(), i + 1);
          if (i == operand) values[row * 16 + 3] = NAN;
          operands.push_back(MakeTensor(*gpu_, DType::kF32, shape, values));
        }
        const Tensor y = gpu_->Allocate(DType::kF32, {Tq, 16});
        gpu_->Attention(spec, 1, operands[0], operands[1], operands[2], bf16, y);
        const std::vector<float> out = Values(*gpu_, y);
        EXPECT_TRUE(std::isnan(out[(Tq - 1) * 16 + 3]))
            << "operand " << operand << (bf16 ? ", BF16" : ", F32") << ", Tq " << Tq;
        if (Tq != Tk) continue;
        const Tensor gy = RandomTensor(*gpu_, DType::kF32, {Tq, 16}, 9),
                     gq = gpu_->Allocate(DType::kF32, {Tq, 16}),
                     gk = gpu_->Allocate(DType::kF32, {Tk, 16}),
                     gv = gpu_->Allocate(DType::kF32, {Tk, 16});
        gpu_->AttentionBackward(spec, 1, operands[0], operands[1], operands[2], gy, bf16, gq, gk,
                                gv);
        EXPECT_TRUE(std::isnan(Values(*gpu_, gq)[(Tq - 1) * 16 + 3]));
        EXPECT_TRUE(std::isnan(Values(*gpu_, gk)[(Tk - 1) * 16 + 3]));
        if (operand < 2) {
          EXPECT_TRUE(std::isnan(Values(*gpu_, gv)[(Tk - 1) * 16 + 3]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
