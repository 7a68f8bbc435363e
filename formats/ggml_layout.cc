#include "formats/ggml_layout.h"

#include <algorithm>
#include <cmath>

#include "formats/float_codes.h"
#include "tensor/dtype.h"

namespace cvxq {
namespace {

float HalfAt(const uint8_t* bytes) {
  return F16ToFloat(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
}

void HalfStep(const uint8_t* f, float* step, float* /*offset*/) { *step = HalfAt(f); }
void HalfStepAndOffset(const uint8_t* f, float* step, float* offset) {
  *step = HalfAt(f);
  *offset = HalfAt(f + 2);
}
void Q2K(const uint8_t* f, float* step, float* offset) {
  const float d = HalfAt(f + 16), m = HalfAt(f + 18);
  for (int j = 0; j < 16; ++j) {
    step[j] = d * static_cast<float>(f[j] & 15);
    offset[j] = -(m * static_cast<float>(f[j] >> 4));
  }
}
void Q3K(const uint8_t* f, float* step, float* /*offset*/) {
  const float d = HalfAt(f + 12);
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? f[j] & 15 : f[j - 8] >> 4;
    const int high = f[8 + j % 4] >> (2 * (j / 4)) & 3;
    step[j] = d * static_cast<float>((low | high << 4) - 32);
  }
}
void Q4K(const uint8_t* f, float* step, float* offset) {
  const float d = HalfAt(f), m = HalfAt(f + 2);
  const uint8_t* sc = f + 4;
  for (int j = 0; j < 8; ++j) {
    const int s = j < 4 ? sc[j] & 63 : (sc[j + 4] & 15) | sc[j - 4] >> 6 << 4;
    const int o = j < 4 ? sc[j + 4] & 63 : sc[j + 4] >> 4 | sc[j] >> 6 << 4;
    step[j] = d * static_cast<float>(s);
    offset[j] = -(m * static_cast<float>(o));
  }
}
void Q6K(const uint8_t* f, float* step, float* /*offset*/) {
  const float d = HalfAt(f + 16);
  for (int j = 0; j < 16; ++j) step[j] = d * static_cast<float>(static_cast<int8_t>(f[j]));
}
void Iq4Xs(const uint8_t* f, float* step, float* /*offset*/) {
  const float d = HalfAt(f);
  const int high = f[2] | f[3] << 8;
  for (int j = 0; j < 8; ++j) {
    const int s = (f[4 + j / 2] >> (4 * (j % 2)) & 15) | (high >> (2 * j) & 3) << 4;
    step[j] = d * static_cast<float>(s - 32);
  }
}
// Half of what E8M0 says: levels are twice those of E2M1. 255 goes on as 2^127 there.
void Mxfp4(const uint8_t* f, float* step, float* /*offset*/) {
  *step = *f == 255 ? 0x1p127f : 0.5f * E8M0ToFloat(*f);
}
// E4M3 without a sign, halved likewise; ggml takes 0x7f for 0 and looks at no other bit 7.
void Nvfp4(const uint8_t* f, float* step, float* /*offset*/) {
  for (int j = 0; j < 4; ++j) {
    const uint8_t bits = f[j] & 0x7f;
    step[j] = f[j] == 0x7f ? 0.0f : bits == 0x7f ? 240.0f : 0.5f * E4M3ToFloat(bits);
  }
}

constexpr FieldRun kFirst1[] = {{0, 1}}, kFirst2[] = {{0, 2}}, kFirst4[] = {{0, 4}},
                   kFirst8[] = {{0, 8}}, kFirst16[] = {{0, 16}}, kQ2KFields[] = {{0, 16}, {80, 4}},
                   kQ3KFields[] = {{96, 14}}, kQ6KFields[] = {{192, 18}};
// width, from, offset, section, bytes
constexpr CodePlane kQ4_0[] = {{4, 0, 2, 32, 16}}, kQ4_1[] = {{4, 0, 4, 32, 16}},
                    kQ5_0[] = {{4, 0, 6, 32, 16}, {1, 4, 2, 8, 1}},
                    kQ5_1[] = {{4, 0, 8, 32, 16}, {1, 4, 4, 8, 1}}, kQ8_0[] = {{8, 0, 2, 32, 32}},
                    kQ2K[] = {{2, 0, 16, 128, 32}},
                    kQ3K[] = {{2, 0, 32, 128, 32}, {1, 2, 0, 256, 32}},
                    kQ4K[] = {{4, 0, 16, 64, 32}},
                    kQ5K[] = {{4, 0, 48, 64, 32}, {1, 4, 16, 256, 32}},
                    kQ6K[] = {{4, 0, 0, 128, 64}, {2, 4, 128, 128, 32}},
                    kIq4Xs[] = {{4, 0, 8, 32, 16}}, kMxfp4[] = {{4, 0, 1, 32, 16}},
                    kNvfp4[] = {{4, 0, 4, 16, 8}};

constexpr GgmlLayout kLayouts[] = {
    {"q4_0", 2, 32, 32, 18, kFirst2, kQ4_0, HalfStep},
    {"q4_1", 3, 32, 32, 20, kFirst4, kQ4_1, HalfStepAndOffset},
    {"q5_0", 6, 32, 32, 22, kFirst2, kQ5_0, HalfStep},
    {"q5_1", 7, 32, 32, 24, kFirst4, kQ5_1, HalfStepAndOffset},
    {"q8_0", 8, 32, 32, 34, kFirst2, kQ8_0, HalfStep},
    {"q2_k", 10, 256, 16, 84, kQ2KFields, kQ2K, Q2K},
    {"q3_k", 11, 256, 16, 110, kQ3KFields, kQ3K, Q3K},
    {"q4_k", 12, 256, 32, 144, kFirst16, kQ4K, Q4K},
    {"q5_k", 13, 256, 32, 176, kFirst16, kQ5K, Q4K},
    {"q6_k", 14, 256, 16, 210, kQ6KFields, kQ6K, Q6K},
    {"iq4_nl", 20, 32, 32, 18, kFirst2, kQ4_0, HalfStep},
    {"iq4_xs", 23, 256, 32, 136, kFirst8, kIq4Xs, Iq4Xs},
    {"mxfp4", 39, 32, 32, 17, kFirst1, kMxfp4, Mxfp4},
    {"nvfp4", 40, 64, 16, 36, kFirst4, kNvfp4, Nvfp4},
};

}  // namespace

const GgmlLayout& LayoutOf(int id) {
  return *std::find_if(std::begin(kLayouts), std::end(kLayouts),
                       [&](const GgmlLayout& layout) { return layout.id == id; });
}

void PackBlock(const GgmlLayout& layout, const uint8_t* fields, const uint8_t* codes,
               uint8_t* out) {
  for (const FieldRun& run : layout.fields) {
    std::copy_n(fields, run.bytes, out + run.offset);
    fields += run.bytes;
  }
  for (const CodePlane& p : layout.planes) {
    const int mask = (1 << p.width) - 1;
    for (int e = 0; e < layout.block; e += p.section) {
      uint8_t* to = out + p.offset + e / p.section * p.bytes;
      std::fill_n(to, p.bytes, uint8_t{0});
      for (int r = 0, shift = 0; r < p.section; r += p.bytes, shift += p.width) {
        for (int i = 0; i < p.bytes; ++i) {
          to[i] |= static_cast<uint8_t>((codes[e + r + i] >> p.from & mask) << shift);
        }
      }
    }
  }
}

void UnpackBlock(const GgmlLayout& layout, const uint8_t* bytes, uint8_t* fields, uint8_t* codes) {
  for (const FieldRun& run : layout.fields) {
    fields = std::copy_n(bytes + run.offset, run.bytes, fields);
  }
  std::fill_n(codes, layout.block, uint8_t{0});
  for (const CodePlane& p : layout.planes) {
    const int mask = (1 << p.width) - 1;
    for (int e = 0; e < layout.block; e += p.section) {
      const uint8_t* from = bytes + p.offset + e / p.section * p.bytes;
      for (int r = 0, shift = 0; r < p.section; r += p.bytes, shift += p.width) {
        for (int i = 0; i < p.bytes; ++i) {
          codes[e + r + i] |= static_cast<uint8_t>((from[i] >> shift & mask) << p.from);
        }
      }
    }
  }
}

void PackScalesQ4K(const uint8_t* s, const uint8_t* m, uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<uint8_t>(s[j] | s[j + 4] >> 4 << 6);
    out[j + 4] = static_cast<uint8_t>(m[j] | m[j + 4] >> 4 << 6);
    out[j + 8] = static_cast<uint8_t>((s[j + 4] & 15) | (m[j + 4] & 15) << 4);
  }
}

void PackScalesQ3K(const uint8_t* s, uint8_t* out) {
  std::fill_n(out, 12, uint8_t{0});
  for (int j = 0; j < 16; ++j) {
    out[j % 8] |= static_cast<uint8_t>((s[j] & 15) << (4 * (j / 8)));
    out[8 + j % 4] |= static_cast<uint8_t>(s[j] >> 4 << (2 * (j / 4)));
  }
}

void PackScalesIq4Xs(const uint8_t* s, uint8_t* out) {
  std::fill_n(out, 6, uint8_t{0});
  for (int j = 0; j < 8; ++j) {
    out[j / 4] |= static_cast<uint8_t>(s[j] >> 4 << (2 * (j % 4)));
    out[2 + j / 2] |= static_cast<uint8_t>((s[j] & 15) << (4 * (j % 2)));
  }
}

}  // namespace cvxq
