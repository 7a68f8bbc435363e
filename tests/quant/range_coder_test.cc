#include "quant/range_coder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "tests/quant/quant_testing.h"

namespace cvxq {
namespace {

// One bit of a script: in the state of this index, or even (-1).
struct Bit {
  int state, bit;
};
constexpr int kStates = 5;

std::vector<uint8_t> Encode(const std::vector<Bit>& script) {
  RangeEncoder encoder;
  std::vector<AdaptiveBit> states(kStates);
  for (const Bit& b : script) {
    b.state < 0 ? encoder.EncodeEven(b.bit) : encoder.EncodeBit(states[b.state], b.bit);
  }
  return encoder.Finish();
}

// The index of the first bit that decodes wrongly, or -1.
int64_t FirstWrong(const std::vector<Bit>& script, const std::vector<uint8_t>& bytes) {
  RangeDecoder decoder(bytes);
  std::vector<AdaptiveBit> states(kStates);
  for (size_t i = 0; i < script.size(); ++i) {
    const int bit =
        script[i].state < 0 ? decoder.DecodeEven() : decoder.DecodeBit(states[script[i].state]);
    if (bit != script[i].bit) return static_cast<int64_t>(i);
  }
  return -1;
}

void ExpectRoundTrip(const std::vector<Bit>& script) {
  EXPECT_EQ(FirstWrong(script, Encode(script)), -1) << script.size() << " bits";
}

TEST(RangeCoder, NothingTakesNoBytes) { EXPECT_TRUE(Encode({}).empty()); }

TEST(RangeCoder, EveryShortSequenceComesBack) {
  for (int length = 1; length <= 10; ++length) {
    for (int bits = 0; bits < 1 << length; ++bits) {
      std::vector<Bit> even, one_state;
      for (int i = 0; i < length; ++i) {
        even.push_back({-1, bits >> i & 1});
        one_state.push_back({0, bits >> i & 1});
      }
      ASSERT_EQ(FirstWrong(even, Encode(even)), -1) << bits;
      ASSERT_EQ(FirstWrong(one_state, Encode(one_state)), -1) << bits;
    }
  }
}

TEST(RangeCoder, RandomSequencesComeBack) {
  Draws draws(1);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<Bit> script(draws.Below(3000));
    const int odds = 2 + static_cast<int>(draws.Below(60));
    for (Bit& b : script) {
      b.state = static_cast<int>(draws.Below(kStates + 1)) - 1;
      b.bit = b.state % 2 == 0 ? draws.Below(odds) == 0 : draws.Below(odds) != 0;
    }
    ASSERT_EQ(FirstWrong(script, Encode(script)), -1) << "trial " << trial;
  }
}

TEST(RangeCoder, LongRunsThatEndSuddenlyComeBack) {
  for (const int bit : {0, 1}) {
    for (const int run : {1, 31, 32, 33, 1000, 100000}) {
      std::vector<Bit> script(run, Bit{0, bit});
      script.push_back({0, 1 - bit});
      for (int i = 0; i < 40; ++i) script.push_back({-1, i & 1});
      ExpectRoundTrip(script);
    }
  }
}

// Keeps the interval across a point that is a byte followed by zeros: below it everything is 0xff,
// so the encoder must hold all those bytes back until the last bit tells whether a carry comes.
TEST(RangeCoder, CarriesRunThroughLongChains) {
  for (const bool carry : {false, true}) {
    for (const int chain : {8, 64, 800, 20000}) {
      std::vector<Bit> script;
      // With even bits the interval is halved: 0 and then ones alone lie just under one half.
      script.push_back({-1, 0});
      for (int i = 0; i < chain; ++i) script.push_back({-1, 1});
      // A skewed state makes the interval uneven; on top of a chain of ones it passes over.
      for (int i = 0; i < 64; ++i) script.push_back({0, 0});
      for (int i = 0; i < 8; ++i) script.push_back({0, carry ? 1 : 0});
      for (int i = 0; i < 100; ++i) script.push_back({-1, carry ? 1 : 0});
      ExpectRoundTrip(script);
    }
  }
}

// A search for the encoder's worst case: of the two values of each adaptive bit take the one that
// keeps the point 1/2 inside the interval, in exact arithmetic of the interval's ends.
TEST(RangeCoder, IntervalsThatStraddleAPointComeBack) {
  for (uint64_t key = 0; key < 20; ++key) {
    Draws draws(DeriveKey(7, key));
    std::vector<Bit> script;
    // The encoder's own arithmetic, kept as distance of the point from the low end.
    uint64_t range = 0xffffffffu, point = 0x80000000u - key;
    std::vector<AdaptiveBit> states(kStates);
    for (int i = 0; i < 4000; ++i) {
      const int s = static_cast<int>(draws.Below(kStates));
      const uint64_t zero = std::min<uint64_t>(4064, std::max<uint64_t>(32, states[s].zero >> 4));
      const uint64_t bound = (range >> 12) * zero;
      const int bit = point < bound ? 0 : 1;
      script.push_back({s, bit});
      states[s].Learn(bit);
      if (bit == 0) {
        range = bound;
      } else {
        point -= bound;
        range -= bound;
      }
      while (range < 1u << 24) {
        range <<= 8;
        point <<= 8;  // the point's further digits are zeros
      }
    }
    ExpectRoundTrip(script);
    for (int i = 0; i < 60; ++i) {  // and leave it upwards, which sends the carry
      script.push_back({-1, 1});
    }
    ExpectRoundTrip(script);
  }
}

double Entropy(double p) { return -p * std::log2(p) - (1 - p) * std::log2(1 - p); }

TEST(RangeCoder, StationarySourcesCostTheirEntropy) {
  constexpr int kBits = 200000;
  for (const double p : {0.5, 0.4, 0.3, 0.2, 0.1, 0.9, 0.7}) {
    Draws draws(11);
    std::vector<Bit> script(kBits);
    int ones = 0;
    for (Bit& b : script) {
      b = {0, draws.Uniform(0, 1) < p};
      ones += b.bit;
    }
    const double measured = Encode(script).size() * 8.0;
    const double entropy = kBits * Entropy(static_cast<double>(ones) / kBits);
    EXPECT_LT(measured, entropy * 1.02) << p;
    EXPECT_GT(measured, entropy * 0.99) << p;
  }
  // Rare bits: what the rate of learning and the least probability cost is small in bits.
  for (const double p : {0.05, 0.02, 0.005}) {
    Draws draws(12);
    std::vector<Bit> script(kBits);
    int ones = 0;
    for (Bit& b : script) {
      b = {0, draws.Uniform(0, 1) < p};
      ones += b.bit;
    }
    const double excess =
        Encode(script).size() * 8.0 / kBits - Entropy(static_cast<double>(ones) / kBits);
    EXPECT_LT(excess, 0.01) << p;
  }
}

TEST(RangeCoder, EvenBitsCostOneBit) {
  std::vector<Bit> script(80000);
  Draws draws(13);
  for (Bit& b : script) b = {-1, static_cast<int>(draws.Below(2))};
  EXPECT_NEAR(static_cast<double>(Encode(script).size()), 10000, 10);
}

// Readers bound the number of symbols by the number of bytes, so likely zeros are not free.
TEST(RangeCoder, ARunOfLikelyBitsCostsItsShare) {
  for (const int bit : {0, 1}) {
    const std::vector<Bit> script(1000000, Bit{0, bit});
    const size_t bytes = Encode(script).size();
    EXPECT_GT(bytes, 1000000 / 720) << bit;
    EXPECT_LT(bytes, 1000000 / 690) << bit;
  }
}

TEST(RangeCoder, ProbabilitiesLearnFastAndStayInRange) {
  AdaptiveBit zeros, ones;
  for (int i = 0; i < 10; ++i) {
    zeros.Learn(0);
    ones.Learn(1);
  }
  EXPECT_GT(zeros.zero, 65536 * 0.9);
  EXPECT_LT(ones.zero, 65536 * 0.1);
  for (int i = 0; i < 100000; ++i) {
    zeros.Learn(0);
    ones.Learn(1);
  }
  EXPECT_GT(zeros.zero, 65000);  // no wrap around
  EXPECT_LT(ones.zero, 500);
}

TEST(RangeCoder, DecoderTakesAnyBytes) {
  Draws draws(17);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<uint8_t> bytes(draws.Below(50));
    for (uint8_t& byte : bytes) {
      const uint64_t kind = draws.Below(4);
      byte = static_cast<uint8_t>(kind == 0 ? 0xff : kind == 1 ? 0 : draws.Below(256));
    }
    RangeDecoder decoder(bytes);
    SignedModel model;
    AdaptiveBit state;
    for (int i = 0; i < 2000; ++i) {
      const int value = model.Decode(decoder);
      ASSERT_LE(std::abs(value), SignedModel::kLargest);
      const int bits = decoder.DecodeBit(state) | decoder.DecodeEven();
      ASSERT_TRUE(bits == 0 || bits == 1);
    }
  }
}

TEST(SignedModel, ValuesComeBack) {
  std::vector<int> values;
  for (int v = -300; v <= 300; ++v) values.push_back(v);
  for (const int v : {SignedModel::kLargest, -SignedModel::kLargest, SignedModel::kLargest - 1, 0,
                      1 - SignedModel::kLargest, 6, -6, 7, 5}) {
    values.push_back(v);
  }
  Draws draws(19);
  for (int i = 0; i < 5000; ++i) {
    values.push_back(static_cast<int>(draws.Below(9)) * (draws.Below(2) == 0 ? 1 : -1));
  }
  RangeEncoder encoder;
  SignedModel forward, backward;
  for (const int v : values) forward.Encode(encoder, v);
  const std::vector<uint8_t> bytes = encoder.Finish();
  RangeDecoder decoder(bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(backward.Decode(decoder), values[i]) << "value " << i;
  }
}

// Magnitudes up to 6 have states of their own, so such a source costs its entropy.
TEST(SignedModel, GeometricSourcesCostTheirEntropy) {
  constexpr int kValues = 100000;
  Draws draws(23);
  RangeEncoder encoder;
  SignedModel model;
  std::vector<int> count(64);
  for (int i = 0; i < kValues; ++i) {
    int value = 0;
    while (value < 20 && draws.Below(3) != 0) ++value;
    if (draws.Below(4) == 0) value = -value;
    ++count[value + 32];
    model.Encode(encoder, value);
  }
  double entropy = 0;
  for (const int c : count) {
    if (c > 0) entropy -= c * std::log2(static_cast<double>(c) / kValues);
  }
  EXPECT_LT(encoder.Finish().size() * 8.0, entropy * 1.02);
}

}  // namespace
}  // namespace cvxq
