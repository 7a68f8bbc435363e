#include "formats/ggml_types.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"

namespace cvxq {
namespace {

// Blocks of one type as tests/data/make_ggml_golden.py wrote them.
struct Golden {
  const GgmlType* type;
  int64_t blocks;
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};

std::vector<Golden> ReadGoldens() {
  std::ifstream file(CVXQ_SOURCE_DIR "/tests/data/ggml_blocks.bin", std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<Golden> goldens;
  for (size_t at = 0; at < all.size();) {
    uint32_t head[3];
    std::memcpy(head, all.data() + at, sizeof(head));
    at += sizeof(head);
    Golden& g = goldens.emplace_back();
    g.type = FindGgmlType(static_cast<int>(head[0]));
    if (g.type == nullptr || g.type->block() != head[2]) return {};
    g.blocks = head[1];
    g.bytes.resize(g.blocks * g.type->block_bytes());
    std::memcpy(g.bytes.data(), all.data() + at, g.bytes.size());
    at += g.bytes.size();
    g.values.resize(g.blocks * g.type->block());
    std::memcpy(g.values.data(), all.data() + at, g.values.size() * sizeof(float));
    at += g.values.size() * sizeof(float);
  }
  return goldens;
}

// One row of blocks as a matrix.
GridMatrix Unpacked(const GgmlType& type, const std::vector<uint8_t>& bytes, int64_t blocks) {
  GridMatrix m{.type = &type, .rows = 1, .columns = blocks * type.block()};
  m.fields.resize(blocks * type.field_bytes());
  m.codes.resize(m.columns);
  m.step.resize(m.columns / type.sub());
  if (type.has_offset()) m.offset.resize(m.step.size());
  type.Unpack(bytes.data(), blocks, m.fields.data(), m.codes.data());
  type.Grids(m.fields.data(), blocks, 1, m.step.data(), m.offset.data());
  return m;
}

TEST(GgmlTypesTest, BlocksDecodeAsTheGgufPackageDecodesThem) {
  const std::vector<Golden> goldens = ReadGoldens();
  ASSERT_EQ(goldens.size(), 14u);
  for (const Golden& g : goldens) {
    const std::vector<float> values = Decode(Unpacked(*g.type, g.bytes, g.blocks));
    ASSERT_EQ(values.size(), g.values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], g.values[i]) << g.type->name() << " element " << i;
    }
  }
}

TEST(GgmlTypesTest, PackingIsTheInverseOfUnpacking) {
  for (const Golden& g : ReadGoldens()) {
    const GridMatrix m = Unpacked(*g.type, g.bytes, g.blocks);
    std::vector<uint8_t> bytes(g.bytes.size(), 0xcc);
    g.type->Pack(m.fields.data(), m.codes.data(), g.blocks, bytes.data());
    const GridMatrix again = Unpacked(*g.type, bytes, g.blocks);
    EXPECT_EQ(again.fields, m.fields);
    EXPECT_EQ(again.codes, m.codes);
    if (g.type->levels().size() != 15) {  // which have two codes for 0
      EXPECT_EQ(bytes, g.bytes) << g.type->name();
    }
  }
}

TEST(GgmlTypesTest, EveryTypeIsFoundByNameAndId) {
  const std::set<std::string> expected = {"f32",   "f16",  "bf16", "q8_0",   "q6_k",   "q5_k",
                                          "q4_k",  "q3_k", "q2_k", "iq4_xs", "iq4_nl", "mxfp4",
                                          "nvfp4", "q4_0", "q4_1", "q5_0",   "q5_1"};
  std::set<std::string> names;
  for (const GgmlType* type : GgmlTypes()) {
    names.insert(type->name());
    EXPECT_EQ(FindGgmlType(type->name()), type);
    EXPECT_EQ(FindGgmlType(type->id()), type);
  }
  EXPECT_EQ(names, expected);
  EXPECT_EQ(FindGgmlType("q9"), nullptr);
  EXPECT_EQ(FindGgmlType(999), nullptr);
}

TEST(GgmlTypesTest, SizesAreThoseOfTheFormat) {
  const auto bits = [](const char* name) { return FindGgmlType(name)->Bytes(4, 4096) / 2048.0; };
  EXPECT_EQ(bits("f32"), 32);
  EXPECT_EQ(bits("bf16"), 16);
  EXPECT_EQ(bits("q8_0"), 8.5);
  EXPECT_EQ(bits("q6_k"), 6.5625);
  EXPECT_EQ(bits("q5_k"), 5.5);
  EXPECT_EQ(bits("q4_k"), 4.5);
  EXPECT_EQ(bits("q3_k"), 3.4375);
  EXPECT_EQ(bits("q2_k"), 2.625);
  EXPECT_EQ(bits("iq4_xs"), 4.25);
  EXPECT_EQ(bits("mxfp4"), 4.25);
  EXPECT_EQ(FindGgmlType("nvfp4")->Bytes(4, 4096), 4 * 64 * 36 + 4);  // with its scale
  EXPECT_FALSE(FindGgmlType("q4_k")->Fits(4096 + 128));
  EXPECT_TRUE(FindGgmlType("q4_0")->Fits(4096 + 128));
  EXPECT_TRUE(FindGgmlType("f16")->Fits(1));
}

TEST(GgmlTypesTest, LevelsAscendAndUniformOnesAreIntegers) {
  for (const GgmlType* type : GgmlTypes()) {
    const std::span<const float> levels = type->levels();
    EXPECT_EQ(levels.empty(), type->dense().has_value());
    for (size_t k = 1; k < levels.size(); ++k) {
      EXPECT_LT(levels[k - 1], levels[k]);
      if (type->uniform()) {
        EXPECT_EQ(levels[k], *type->uniform() + static_cast<int>(k));
      }
    }
  }
}

}  // namespace
}  // namespace cvxq
