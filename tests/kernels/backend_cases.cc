#include "tests/kernels/backend_cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/packed_matrix.h"
#include "tests/kernels/backend_testing.h"
#include "tests/kernels/scaled_test_matrix.h"

namespace cvxq {
namespace {

constexpr double kBf16Output = 0.0045;  // one rounding to BF16, 2^-8, and a little

// --- linears ---

Case LinearCase(int64_t n, int64_t M, int64_t N, bool with_bias) {
  return {"Linear_" + std::to_string(n) + "_" + std::to_string(M) + "_" + std::to_string(N),
          [=](Backend& b, DType compute) -> Outputs {
            const Tensor x = RandomTensor(b, compute, {n, N}, 1),
                         w = RandomTensor(b, compute, {M, N}, 2);
            const Tensor bias = with_bias ? RandomTensor(b, DType::kF32, {M}, 3) : Tensor();
            const Tensor y = b.Allocate(DType::kF32, {n, M});
            b.Linear(x, w, bias, y);
            const Tensor gy = RandomTensor(b, compute, {n, M}, 4);
            const Tensor gx = b.Allocate(DType::kF32, {n, N}),
                         more = RandomTensor(b, DType::kF32, {n, N}, 5);
            b.LinearBackward(gy, w, gx, false);
            b.LinearBackward(gy, w, more, true);
            return {y, gx, more};
          }};
}

PackedMatrix SomePackedMatrix(int64_t rows, int64_t columns) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.cluster_size = 16;
  for (int64_t i = 0; i < rows; ++i) matrix.members.push_back((i + 5) % rows);
  const int64_t groups = matrix.cluster_count() * columns;
  for (int64_t i = 0; i < groups; ++i) matrix.depth.push_back(RandomBits(7, i) % (kMaxDepth + 1));
  matrix.scale = Numbers(groups, 8);
  matrix.mean = Numbers(groups, 9);
  for (int b = 1; b <= kMaxDepth; ++b) matrix.table[b] = Numbers(1 << b, 10 + b);
  std::vector<uint8_t> codes(rows * columns);
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) {
    const int64_t size = matrix.cluster_end(c) - matrix.cluster_begin(c);
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t at = matrix.cluster_begin(c) * columns + j * size + i;
        codes[at] = RandomBits(20, at) % (1 << matrix.depth[c * columns + j]);
      }
    }
  }
  PackCodes(codes, matrix);
  return matrix;
}

Case PackedLinearCase(int64_t n) {
  return {"PackedLinear_" + std::to_string(n),
          [=](Backend& b, DType compute) -> Outputs {
            const int64_t M = 37, N = 70;
            const std::shared_ptr<PackedWeight> weight =
                b.ImportPacked(SomePackedMatrix(M, N), compute);
            const Tensor x = RandomTensor(b, DType::kF32, {n, N}, 1),
                         bias = RandomTensor(b, DType::kF32, {M}, 2),
                         y = b.Allocate(DType::kF32, {n, M});
            b.PackedLinear(x, *weight, bias, y);
            return {y};
          },
          1e-5, kBf16Output};
}

Case UnpackCase() {
  return {"Unpack", [=](Backend& b, DType compute) -> Outputs {
            const int64_t M = 37, N = 70;
            const std::shared_ptr<PackedWeight> weight =
                b.ImportPacked(SomePackedMatrix(M, N), compute);
            const Tensor w = b.Allocate(compute, {M, N});
            b.Unpack(*weight, w);
            return {w};
          }};
}

Case ScaledLinearCase(int64_t n) {
  return {"ScaledLinear_" + std::to_string(n),
          [=](Backend& b, DType compute) -> Outputs {
            const int64_t M = 37, N = 70;
            const auto matrix =
                std::make_shared<const ScaledMatrix>(RandomScaledMatrix(M, N, 50, 6));
            const std::shared_ptr<PackedWeight> weight = b.ImportPacked(matrix, compute);
            const Tensor x = RandomTensor(b, DType::kF32, {n, N}, 1),
                         bias = RandomTensor(b, DType::kF32, {M}, 2),
                         y = b.Allocate(DType::kF32, {n, M}), w = b.Allocate(compute, {M, N});
            b.PackedLinear(x, *weight, bias, y);
            b.Unpack(*weight, w);
            return {y, w};
          },
          1e-5, kBf16Output};
}

// --- statistics ---

Case SecondMomentCase(int64_t n, int64_t N, int64_t block) {
  return {"SecondMoment_" + std::to_string(n) + "_" + std::to_string(N),
          [=](Backend& b, DType compute) -> Outputs {
            const Tensor x = RandomTensor(b, compute, {n, N}, 1);
            const Tensor h = b.Allocate(DType::kF32, {N, N});
            const Tensor blocks = b.Allocate(DType::kF32, {(N + block - 1) / block, block, block});
            b.Fill(h, 0);
            b.Fill(blocks, 0);
            for (int repeat = 0; repeat < 2; ++repeat) {
              b.AddSecondMoment(x, h);
              b.AddBlockSecondMoment(x, blocks);
            }
            const Tensor sums = RandomTensor(b, DType::kF32, {N}, 3);
            b.AddColumnSums(x, sums);
            const Tensor squares = RandomTensor(b, DType::kF32, {n}, 4);
            b.AddRowSquares(x, squares);
            return {h, blocks, sums, squares};
          }};
}

enum class Grouped { kNone, kRows, kColumns, kAllRows, kAllColumns, kRowsAndAllColumns };

// With `groups`, that many instead of a few, of which the first and the last have no members.
Case SquaredGradientCase(std::string name, Grouped grouped, int64_t T, int64_t M, int64_t N,
                         int64_t groups = 0) {
  return {"SquaredGradient_" + name, [=](Backend& b, DType compute) -> Outputs {
            const Tensor gy = RandomTensor(b, compute, {T, M}, 1),
                         x = RandomTensor(b, compute, {T, N}, 2);
            int64_t A = M, B = N;
            Tensor rows, columns;
            const auto map = [&](int64_t count, int64_t few) {
              std::vector<int32_t> group(count);
              for (int64_t i = 0; i < count; ++i) {
                group[i] = groups == 0 ? RandomBits(5, i) % few : 1 + RandomBits(5, i) % (few - 2);
              }
              return IntTensor(b, group);
            };
            if (grouped == Grouped::kRows || grouped == Grouped::kRowsAndAllColumns)
              A = groups == 0 ? 3 : groups;
            if (grouped == Grouped::kAllRows) A = 1;
            if (grouped == Grouped::kColumns) B = groups == 0 ? 5 : groups;
            if (grouped == Grouped::kAllColumns || grouped == Grouped::kRowsAndAllColumns) B = 1;
            if (A != M) rows = map(M, A);
            if (B != N) columns = map(N, B);
            const Tensor sums = b.Allocate(DType::kF32, {A, B});
            b.Fill(sums, 1);
            b.AddSquaredGradient(gy, x, rows, columns, sums);
            b.AddSquaredGradient(gy, x, rows, columns, sums);
            return {sums};
          }};
}

// --- parts of a block ---

Case EmbedCase(DType table_dtype) {
  return {"Embed_" + std::string(Name(table_dtype)), [=](Backend& b, DType) -> Outputs {
            const Tensor table = RandomTensor(b, table_dtype, {11, 33}, 1);
            const Tensor y = b.Allocate(DType::kF32, {6, 33});
            b.Embed(table, IntTensor(b, {10, 0, 3, 3, 7, 1}), 1.5f, y);
            b.AddPositions(table, 4, 3, y);
            return {y};
          }};
}

Case NormCase(std::string name, NormKind kind, int64_t n, int64_t d, int64_t weight_rows) {
  return {"Norm_" + name,
          [=](Backend& b, DType compute) -> Outputs {
            const Shape weight = weight_rows == 1 ? Shape{d} : Shape{weight_rows, d};
            const Tensor x = RandomTensor(b, DType::kF32, {n, d}, 1, 3),
                         w = weight_rows == 0 ? Tensor() : RandomTensor(b, DType::kF32, weight, 2),
                         bias =
                             weight_rows == 0 ? Tensor() : RandomTensor(b, DType::kF32, weight, 3),
                         gy = RandomTensor(b, DType::kF32, {n, d}, 4);
            const Tensor y = b.Allocate(compute, {n, d}), gx = b.Allocate(DType::kF32, {n, d}),
                         more = RandomTensor(b, DType::kF32, {n, d}, 5);
            b.Norm(kind, 1e-5f, x, w, bias, y);
            b.NormBackward(kind, 1e-5f, x, w, gy, gx, false);
            b.NormBackward(kind, 1e-5f, x, w, gy, more, true);
            const Tensor gw = RandomTensor(b, DType::kF32, weight_rows == 0 ? Shape{d} : weight, 6);
            b.AddNormGradient(kind, 1e-5f, x, gy, gw);
            return {y, gx, more, gw};
          },
          1e-5, kBf16Output};
}

Case RopeCase(std::string name, RopeKind kind, bool inverse, int64_t head_dim) {
  return {"Rope_" + name, [=](Backend& b, DType) -> Outputs {
            const int64_t T = 5;
            const Tensor x = RandomTensor(b, DType::kF32, {2 * T, 3 * head_dim}, 1),
                         cosine = RandomTensor(b, DType::kF32, {9, head_dim / 2}, 2),
                         sine = RandomTensor(b, DType::kF32, {9, head_dim / 2}, 3);
            b.Rope(kind, head_dim, cosine, sine, 3, T, inverse, x);
            return {x};
          }};
}

Case AttentionCase(std::string name, AttentionSpec spec, int64_t B, int64_t Tq, int64_t Tk) {
  return {"Attention_" + name,
          [=](Backend& b, DType compute) -> Outputs {
            const int64_t width = spec.heads * spec.head_dim;
            const int64_t kv_width = spec.kv_heads * spec.head_dim;
            const Tensor q = RandomTensor(b, DType::kF32, {B * Tq, width}, 1, 3),
                         k = RandomTensor(b, DType::kF32, {B * Tk, kv_width}, 2, 3),
                         v = RandomTensor(b, DType::kF32, {B * Tk, kv_width}, 3),
                         y = b.Allocate(compute, {B * Tq, width});
            const bool bf16 = compute == DType::kBF16;
            b.Attention(spec, B, q, k, v, bf16, y);
            if (Tq != Tk) return {y};
            const Tensor gy = RandomTensor(b, DType::kF32, q.shape, 4),
                         gq = b.Allocate(DType::kF32, q.shape),
                         gk = b.Allocate(DType::kF32, k.shape),
                         gv = b.Allocate(DType::kF32, k.shape);
            b.AttentionBackward(spec, B, q, k, v, gy, bf16, gq, gk, gv);
            return {y, gq, gk, gv};
          },
          2e-5, 0.02};
}

Case ActivationCase(std::string name, ActivationKind kind, bool gated) {
  return {"Activation_" + name + (gated ? "_gated" : ""),
          [=](Backend& b, DType compute) -> Outputs {
            const Shape shape{33, 523};  // more than one piece of the CPU backend
            const Tensor gate = gated ? RandomTensor(b, DType::kF32, shape, 1, 8) : Tensor(),
                         up = RandomTensor(b, DType::kF32, shape, 2, gated ? 1 : 8),
                         gy = RandomTensor(b, DType::kF32, shape, 3),
                         y = b.Allocate(compute, shape),
                         ggate = gated ? b.Allocate(DType::kF32, shape) : Tensor();
            b.Activation(kind, gate, up, y);
            b.ActivationBackward(kind, gate, up, gy, ggate, gy);  // gup is gy itself
            return gated ? Outputs{y, ggate, gy} : Outputs{y, gy};
          },
          1e-6, kBf16Output};
}

Case ElementwiseCase() {
  return {"Elementwise",
          [](Backend& b, DType) -> Outputs {
            const Shape shape{130, 257};
            const auto random = [&](uint64_t seed) {
              return RandomTensor(b, DType::kF32, shape, seed, 5);
            };
            const Tensor x = random(1), sum = random(2), scaled = random(3), rows = random(4),
                         capped = random(5), g = random(6), plain = random(7);
            b.AddScaled(-0.75f, x, sum);
            b.ScaleAndCap(0.5f, 0, scaled);
            b.ScaleRows(RandomTensor(b, DType::kF32, {130}, 8), rows);
            b.ScaleAndCap(2.5f, 6, capped);
            b.ScaleAndCapBackward(2.5f, 6, capped, g);
            b.ScaleAndCapBackward(2.5f, 0, capped, plain);
            return {sum, scaled, rows, capped, g, plain};
          },
          1e-6, 1e-6};
}

// Operations on tensors that begin at any element of a buffer, as rows of an odd length do.
Case UnalignedCase() {
  return {"Unaligned",
          [](Backend& b, DType compute) -> Outputs {
            constexpr int64_t kRows = 33, kColumns = 36;
            const auto view = [&](DType dtype, uint64_t seed) {
              return RandomTensor(b, dtype, {kRows * kColumns + 1}, seed, 5)
                  .Rows(1, kRows * kColumns + 1)
                  .Reshaped({kRows, kColumns});
            };
            const auto aligned = [&](DType dtype) { return b.Allocate(dtype, {kRows, kColumns}); };
            const Tensor x = view(DType::kF32, 1), from_view = aligned(DType::kBF16),
                         to_view = view(DType::kF16, 2), copy = view(DType::kF32, 3);
            b.Convert(x, from_view);
            b.Convert(from_view, to_view);
            b.Convert(x, copy);
            const Tensor filled = view(DType::kF32, 4);
            b.Fill(filled, 2.5f);
            const Tensor gate = aligned(DType::kF32), y = view(compute, 5),
                         gy = view(DType::kF32, 6), ggate = aligned(DType::kF32);
            b.Fill(gate, 1.5f);
            b.Activation(ActivationKind::kSilu, gate, x, y);
            b.ActivationBackward(ActivationKind::kSilu, gate, x, gy, ggate, gy);
            const Tensor sum = view(DType::kF32, 7), rows = view(DType::kF32, 8),
                         capped = view(DType::kF32, 9), g = view(DType::kF32, 10);
            b.AddScaled(-0.75f, gate, sum);
            b.ScaleRows(RandomTensor(b, DType::kF32, {kRows}, 11), rows);
            b.ScaleAndCap(2.5f, 6, capped);
            b.ScaleAndCapBackward(2.5f, 6, capped, g);
            const Tensor normal = view(compute, 12), gx = view(DType::kF32, 13),
                         w = RandomTensor(b, DType::kF32, {kColumns}, 14);
            b.Norm(NormKind::kLayer, 1e-5f, x, w, w, normal);
            b.NormBackward(NormKind::kLayer, 1e-5f, x, w, g, gx, true);
            const Tensor turned = view(DType::kF32, 15),
                         cosine = RandomTensor(b, DType::kF32, {kRows, 6}, 16);
            b.Rope(RopeKind::kHalf, 12, cosine, cosine, 0, kRows, false, turned);
            return {from_view, to_view, copy,   filled, y,      ggate, gy,
                    sum,       rows,    capped, g,      normal, gx,    turned};
          },
          1e-5, kBf16Output};
}

Case ConvertCase(DType from, DType to) {
  return {"Convert_" + std::string(Name(from)) + "_" + std::string(Name(to)),
          [=](Backend& b, DType) -> Outputs {
            std::vector<float> values = Numbers(20001, 1, 100);
            // Subnormal halves, ties, overflow of halves and of BF16, signed zero.
            const float special[] = {0.0f,        -0.0f,       6e-8f,  3e-8f,   5.9e-6f,  65504.0f,
                                     65520.0f,    1e30f,       -1e30f, 3.4e38f, INFINITY, -INFINITY,
                                     1.00390625f, 1.01171875f, 1e-40f, 2049.0f, 2051.0f};
            std::copy(std::begin(special), std::end(special), values.begin() + 3);
            const Tensor src = MakeTensor(b, from, {20001}, values), dst = b.Allocate(to, {20001});
            b.Convert(src, dst);
            return {dst};
          },
          0, 0};
}

// --- the output distribution ---

Case SampleCase(int64_t n, int64_t V) {
  return {"SampleLabelGradient_" + std::to_string(V),
          [=](Backend& b, DType compute) -> Outputs {
            const Tensor logits = RandomTensor(b, DType::kF32, {n, V}, 1, 6),
                         g = b.Allocate(compute, {n, V});
            b.SampleLabelGradient(logits, 99, 1234, g);
            return {g};
          },
          1e-5, kBf16Output};
}

Case LikelihoodCase(int64_t n, int64_t V) {
  return {"Likelihood_" + std::to_string(V), [=](Backend& b, DType) -> Outputs {
            const Tensor p = RandomTensor(b, DType::kF32, {n, V}, 1, 6);
            Tensor q = RandomTensor(b, DType::kF32, {n, V}, 2, 1);
            b.AddScaled(1, p, q);
            std::vector<int32_t> target(n);
            for (int64_t i = 0; i < n; ++i) target[i] = RandomBits(3, i) % V;
            const Tensor nll = b.Allocate(DType::kF32, {n}), kl = b.Allocate(DType::kF32, {n}),
                         agree = b.Allocate(DType::kF32, {n});
            b.NegativeLogLikelihood(p, IntTensor(b, target), nll);
            b.KlDivergence(p, q, kl, agree);
            const Tensor g = b.Allocate(DType::kF32, {n, V});
            b.KlGradient(p, q, g);
            return {nll, kl, agree, g};
          }};
}

// One output.
void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected,
                 double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (float x : expected) {
    if (std::isfinite(x)) largest = std::max<double>(largest, std::abs(x));
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // infinities too
    ASSERT_LE(std::abs(double{actual[i]} - expected[i]), tolerance * largest)
        << what << " differs at " << i << ": " << actual[i] << ", not " << expected[i];
  }
}

}  // namespace

std::vector<Case> AllCases() {
  const AttentionSpec plain{.heads = 2, .kv_heads = 2, .head_dim = 16, .scale = 0.25f};
  const AttentionSpec grouped{
      .heads = 6, .kv_heads = 2, .head_dim = 10, .scale = 0.3f, .window = 7, .softcap = 2};
  const AttentionSpec windowed{
      .heads = 1, .kv_heads = 1, .head_dim = 24, .scale = 0.2f, .window = 130};
  const AttentionSpec capped{
      .heads = 4, .kv_heads = 1, .head_dim = 8, .scale = 0.35f, .softcap = 5};
  return {
      LinearCase(1, 33, 7, true),
      LinearCase(7, 130, 33, false),
      LinearCase(3, 1, 257, true),
      LinearCase(130, 257, 65, true),
      LinearCase(257, 33, 130, false),
      PackedLinearCase(1),
      PackedLinearCase(7),
      PackedLinearCase(33),
      ScaledLinearCase(1),
      ScaledLinearCase(7),
      ScaledLinearCase(33),
      UnpackCase(),
      SecondMomentCase(7, 1, 1),
      SecondMomentCase(33, 130, 32),
      SecondMomentCase(130, 257, 140),
      SecondMomentCase(1, 33, 64),
      SquaredGradientCase("none", Grouped::kNone, 33, 130, 67),
      SquaredGradientCase("rows", Grouped::kRows, 7, 600, 33),
      SquaredGradientCase("columns", Grouped::kColumns, 7, 33, 1100),
      SquaredGradientCase("all_rows", Grouped::kAllRows, 5, 300, 33),
      SquaredGradientCase("all_columns", Grouped::kAllColumns, 5, 33, 1030),
      SquaredGradientCase("rows_and_all_columns", Grouped::kRowsAndAllColumns, 5, 300, 530),
      SquaredGradientCase("rows_by_fours", Grouped::kRows, 5, 300, 1028),
      SquaredGradientCase("more_groups_than_rows", Grouped::kRows, 5, 40, 36, 90),
      SquaredGradientCase("more_groups_than_columns", Grouped::kColumns, 5, 36, 41, 90),
      // Several strips of a GPU's.
      SquaredGradientCase("strips_of_rows", Grouped::kRows, 2, 258, 34000, 6),
      SquaredGradientCase("strips_of_columns", Grouped::kColumns, 2, 33999, 258, 6),
      EmbedCase(DType::kF32),
      EmbedCase(DType::kBF16),
      EmbedCase(DType::kF16),
      NormCase("rms", NormKind::kRms, 7, 257, 1),
      NormCase("rms_plus_one", NormKind::kRmsPlusOne, 33, 130, 1),
      NormCase("layer", NormKind::kLayer, 7, 33, 1),
      NormCase("layer_1", NormKind::kLayer, 300, 70, 1),
      NormCase("heads", NormKind::kRms, 12, 33, 3),
      NormCase("no_weight", NormKind::kLayer, 5, 65, 0),
      // By fours: few and many to a thread of a warp and of a block, and more than it keeps.
      NormCase("by_fours", NormKind::kLayer, 9, 132, 3),
      NormCase("by_fours_no_weight", NormKind::kRms, 9, 512, 0),
      NormCase("by_fours_many", NormKind::kRmsPlusOne, 9, 1000, 1),
      NormCase("by_fours_block", NormKind::kLayer, 4, 2052, 2),
      NormCase("by_fours_block_many", NormKind::kLayer, 3, 4100, 1),
      NormCase("by_fours_too_many", NormKind::kLayer, 2, 8196, 1),
      NormCase("odd_block", NormKind::kLayer, 2, 1025, 1),
      RopeCase("half", RopeKind::kHalf, false, 22),
      RopeCase("half_inverse", RopeKind::kHalf, true, 202),
      RopeCase("half_by_fours", RopeKind::kHalf, false, 24),
      RopeCase("half_by_fours_inverse", RopeKind::kHalf, true, 704),
      RopeCase("interleaved", RopeKind::kInterleaved, false, 24),
      RopeCase("interleaved_inverse", RopeKind::kInterleaved, true, 202),
      AttentionCase("plain", plain, 2, 33, 33),
      AttentionCase("one", plain, 1, 1, 1),
      AttentionCase("long", plain, 1, 257, 257),
      AttentionCase("grouped", grouped, 3, 33, 33),
      AttentionCase("windowed", windowed, 1, 400, 400),
      AttentionCase("capped", capped, 2, 130, 130),
      AttentionCase("generate", grouped, 2, 1, 33),
      AttentionCase("generate_capped", capped, 1, 1, 130),
      AttentionCase("continue", windowed, 1, 7, 300),
      ActivationCase("relu", ActivationKind::kRelu, false),
      ActivationCase("gelu", ActivationKind::kGelu, false),
      ActivationCase("gelu_tanh", ActivationKind::kGeluTanh, true),
      ActivationCase("silu", ActivationKind::kSilu, true),
      ActivationCase("silu", ActivationKind::kSilu, false),
      ElementwiseCase(),
      UnalignedCase(),
      ConvertCase(DType::kF32, DType::kF32),
      ConvertCase(DType::kF32, DType::kBF16),
      ConvertCase(DType::kF32, DType::kF16),
      ConvertCase(DType::kBF16, DType::kF32),
      ConvertCase(DType::kF16, DType::kF32),
      ConvertCase(DType::kF16, DType::kBF16),
      ConvertCase(DType::kBF16, DType::kF16),
      ConvertCase(DType::kF16, DType::kF16),
      SampleCase(33, 7),
      SampleCase(130, 257),
      SampleCase(3, 5003),
      LikelihoodCase(33, 7),
      LikelihoodCase(7, 2057),
  };
}

std::vector<std::vector<float>> RunCase(const Case& c, Backend& backend, DType compute) {
  std::vector<std::vector<float>> values;
  for (const Tensor& t : c.run(backend, compute)) values.push_back(Values(backend, t));
  const Status status = backend.Synchronize();
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

void ExpectClose(const std::vector<std::vector<float>>& actual,
                 const std::vector<std::vector<float>>& expected, const Case& c, DType compute,
                 const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ExpectClose(actual[i], expected[i], compute == DType::kF32 ? c.f32_tolerance : c.bf16_tolerance,
                what + " " + std::string(Name(compute)) + " output " + std::to_string(i));
  }
}

std::string CaseName(const Case& c, size_t index) { return c.name + "_" + std::to_string(index); }

}  // namespace cvxq
