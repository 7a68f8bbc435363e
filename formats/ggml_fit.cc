#include "formats/ggml_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "formats/float_codes.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

// Numbers that a search points to, for as long as the program lives.
struct Recipe {
  ScaleSearch search;
  std::vector<float> trials;
  std::vector<int> starts;
};

std::vector<float> Steps(float first, float last, int count) {
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) {
    values[i] = first + (last - first) * static_cast<float>(i) / static_cast<float>(count - 1);
  }
  return values;
}
// With both signs: a range that is not symmetric may lie either way.
std::vector<float> Both(std::vector<float> values) {
  const size_t n = values.size();
  for (size_t i = 0; i < n; ++i) values.push_back(-values[i]);
  return values;
}

std::map<int, Recipe> MakeRecipes() {
  std::map<int, Recipe> r;
  const auto symmetric = [](int lowest, int highest) {
    return ScaleSearch{.lowest = lowest, .highest = highest, .sub = 32, .polish = 1};
  };
  const auto affine = [](int highest) {
    return ScaleSearch{.highest = highest, .has_offset = true, .sub = 32, .polish = 1};
  };
  r[2] = {symmetric(-8, 7), Both(Steps(5.5f, 10.5f, 16)), {}};
  r[3] = {affine(15), Steps(11, 18, 40), {}};
  r[6] = {symmetric(-16, 15), Both(Steps(10.5f, 18.5f, 20)), {}};
  r[7] = {affine(31), Steps(23, 34, 40), {}};
  r[8] = {symmetric(-128, 127), Steps(105, 128, 40), {}};

  ScaleSearch s = affine(3);  // q2_k
  s.sub = 16, s.subs = 16, s.least = 0, s.most = 15, s.most_offset = 15, s.rounds = 1;
  r[10] = {s, Steps(2, 5, 12), {15, 14, 13}};
  s = symmetric(-4, 3);  // q3_k
  s.sub = 16, s.subs = 16, s.least = -32, s.most = 31, s.rounds = 1;
  r[11] = {s, Both(Steps(2.2f, 6.5f, 10)), {-32, 31}};
  s = affine(15);  // q4_k
  s.subs = 8, s.least = 0, s.most = 63, s.most_offset = 63, s.rounds = 1;
  r[12] = {s, Steps(11, 19, 30), {63, 60}};
  s.highest = 31;  // q5_k
  r[13] = {s, Steps(23, 35, 30), {63, 60}};
  s = symmetric(-32, 31);  // q6_k
  s.sub = 16, s.subs = 16, s.least = -128, s.most = 127, s.rounds = 1;
  r[14] = {s, Both(Steps(22, 34, 18)), {-128}};
  s = {.levels = LevelKind::kIq4, .sub = 32, .polish = 1};
  r[20] = {s, Both(Steps(85, 155, 8)), {}};
  s.subs = 8, s.least = -32, s.most = 31, s.rounds = 1;
  r[23] = {s, Both(Steps(85, 155, 7)), {-32}};
  for (auto& [id, recipe] : r) {
    recipe.search.trials = recipe.trials.data();
    recipe.search.trial_count = static_cast<int>(recipe.trials.size());
    recipe.search.starts = recipe.starts.data();
    recipe.search.start_count = static_cast<int>(recipe.starts.size());
  }
  return r;
}

void PutHalf(float value, uint8_t* to) {
  const uint16_t bits = FloatToF16(value);
  to[0] = static_cast<uint8_t>(bits & 255);
  to[1] = static_cast<uint8_t>(bits >> 8);
}

void PutScales(int id, const BlockScales& b, uint8_t* f) {
  uint8_t s[kSearchLanes], o[kSearchLanes];
  const int below = id == 11 || id == 23 ? 32 : 0;  // stored without a sign
  for (int j = 0; j < kSearchLanes; ++j) {
    s[j] = static_cast<uint8_t>(b.s[j] + below);
    o[j] = static_cast<uint8_t>(b.o[j]);
  }
  switch (id) {
    case 10:
      for (int j = 0; j < 16; ++j) f[j] = static_cast<uint8_t>(s[j] | o[j] << 4);
      PutHalf(b.d, f + 16);
      PutHalf(b.m, f + 18);
      break;
    case 11:
      PackScalesQ3K(s, f);
      PutHalf(b.d, f + 12);
      break;
    case 12:
    case 13:
      PutHalf(b.d, f);
      PutHalf(b.m, f + 2);
      PackScalesQ4K(s, o, f + 4);
      break;
    case 14:
      std::copy_n(s, 16, f);
      PutHalf(b.d, f + 16);
      break;
    case 23:
      PutHalf(b.d, f);
      PackScalesIq4Xs(s, f + 2);
      break;
    case 3:
    case 7:
      PutHalf(b.d, f);
      PutHalf(b.m, f + 2);
      break;
    default:
      PutHalf(b.d, f);
  }
}

// mxfp4: powers of two around the least that clips nothing; nvfp4: the E4M3 around the one that
// maps the largest |x| to 6. Each is tried. `lanes` sub-blocks of `sub` columns, a byte each.
void FitFp4(const ScaleSearchKernels& kernels, bool mx, int64_t sub, const float* x,
            const float* weight, int lanes, float matrix_scale, uint8_t* fields) {
  constexpr int kMostTrials = 12;
  const int lowest = mx ? -2 : -4, trials = mx ? 4 : kMostTrials;
  int first[kSearchLanes] = {}, best[kSearchLanes];
  float steps[kMostTrials * kSearchLanes] = {};
  // Within these, mxfp4's largest values and the inverse of its step are finite.
  const int least = mx ? 3 : 0, most = mx ? 252 : 0x7e;
  for (int lane = 0; lane < lanes; ++lane) {
    float largest = 0;
    for (int64_t i = 0; i < sub; ++i) largest = std::max(largest, std::abs(x[lane * sub + i]));
    const float fitting = largest / 6 / matrix_scale;
    first[lane] = (mx ? FloatToE8M0(fitting) + 1 : FloatToE4M3(fitting)) + lowest;
    for (int trial = 0; trial < trials; ++trial) {
      const auto bits = static_cast<uint8_t>(std::clamp(first[lane] + trial, least, most));
      steps[trial * kSearchLanes + lane] =
          0.5f * (mx ? E8M0ToFloat(bits) : E4M3ToFloat(bits)) * matrix_scale;
    }
  }
  kernels.pick_step(sub, x, weight, lanes, steps, trials, best);
  for (int lane = 0; lane < lanes; ++lane) {
    fields[lane] = static_cast<uint8_t>(std::clamp(first[lane] + best[lane], least, most));
  }
}

int FieldBytes(const GgmlLayout& layout) {
  int bytes = 0;
  for (const FieldRun& run : layout.fields) bytes += run.bytes;
  return bytes;
}

}  // namespace

const ScaleSearch* SearchOf(int id) {
  static const std::map<int, Recipe>& recipes = *new std::map<int, Recipe>(MakeRecipes());
  const auto found = recipes.find(id);
  return found == recipes.end() ? nullptr : &found->second.search;
}

void FitFields(const GgmlLayout& layout, const ScaleSearchKernels& kernels, const float* x,
               const float* weight, int64_t blocks, float matrix_scale, uint8_t* fields) {
  const ScaleSearch* search = SearchOf(layout.id);
  const int subs = layout.block / layout.sub, batch = kSearchLanes / subs;
  const int field_bytes = FieldBytes(layout);
  BlockScales scales[kSearchLanes];
  for (int64_t first = 0; first < blocks; first += batch) {
    const int count = static_cast<int>(std::min<int64_t>(batch, blocks - first));
    const float* batch_x = x + first * layout.block;
    const float* batch_weight = weight + first * layout.block;
    uint8_t* to = fields + first * field_bytes;
    if (search == nullptr) {
      FitFp4(kernels, /*mx=*/layout.id == 39, layout.sub, batch_x, batch_weight, count * subs,
             matrix_scale, to);
      continue;
    }
    kernels.search(*search, batch_x, batch_weight, count, scales);
    for (int i = 0; i < count; ++i) PutScales(layout.id, scales[i], to + i * field_bytes);
  }
}

}  // namespace cvxq
