#include "quant/range_coder.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

namespace cvxq {
namespace {

constexpr uint32_t kTop = 1u << 24;
constexpr int kSlowest = 62;  // bits seen after which the rate stays at 1/64

// 65536 / (n + 1.6), in integers that are the same everywhere.
constexpr std::array<uint32_t, kSlowest + 1> kRate = [] {
  std::array<uint32_t, kSlowest + 1> rate{};
  for (uint32_t n = 0; n <= kSlowest; ++n) rate[n] = std::max(655360 / (10 * n + 16), 1024u);
  return rate;
}();

// The share of the range that stands for 0: between 1/128 and 127/128.
uint32_t Bound(uint32_t range, const AdaptiveBit& state) {
  const uint32_t zero = std::clamp<uint32_t>(state.zero >> 4, 32, 4064);
  return (range >> 12) * zero;
}

}  // namespace

void AdaptiveBit::Learn(int bit) {
  const uint32_t rate = kRate[seen];
  if (bit == 0) {
    zero = static_cast<uint16_t>(zero + (((65535u - zero) * rate) >> 16));
  } else {
    zero = static_cast<uint16_t>(zero - ((zero * rate) >> 16));
  }
  if (seen < kSlowest) ++seen;
}

void RangeEncoder::EncodeBit(AdaptiveBit& state, int bit) {
  Narrow(Bound(range_, state), bit);
  state.Learn(bit);
}

void RangeEncoder::EncodeEven(int bit) { Narrow(range_ >> 1, bit); }

void RangeEncoder::Narrow(uint32_t bound, int bit) {
  if (bit == 0) {
    range_ = bound;
  } else {
    low_ += bound;
    range_ -= bound;
  }
  while (range_ < kTop) {
    range_ <<= 8;
    ShiftLow();
  }
}

// Moves the top byte of `low_` out; bytes of 0xff wait until it is known whether a carry comes.
void RangeEncoder::ShiftLow() {
  if (low_ < 0xff000000u || low_ > 0xffffffffu) {
    const uint8_t carry = static_cast<uint8_t>(low_ >> 32);
    if (!first_) bytes_.push_back(static_cast<uint8_t>(cache_ + carry));
    first_ = false;
    for (; pending_ > 0; --pending_) bytes_.push_back(static_cast<uint8_t>(0xff + carry));
    cache_ = static_cast<uint8_t>(low_ >> 24);
  } else {
    ++pending_;
  }
  low_ = (low_ & 0x00ffffffu) << 8;
}

std::vector<uint8_t> RangeEncoder::Finish() {
  // The decoder reads zeros past the end, so zeros of the flush need not be kept. Those before it
  // are: a symbol then costs what its probability says even in a stream of likely zeros, and a
  // reader may bound the symbols by the bytes.
  const size_t kept = bytes_.size() + pending_;
  for (int i = 0; i < 5; ++i) ShiftLow();
  while (bytes_.size() > kept && bytes_.back() == 0) bytes_.pop_back();
  return std::move(bytes_);
}

RangeDecoder::RangeDecoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
  for (int i = 0; i < 4; ++i) code_ = (code_ << 8) | Next();
}

int RangeDecoder::DecodeBit(AdaptiveBit& state) {
  const int bit = Narrow(Bound(range_, state));
  state.Learn(bit);
  return bit;
}

int RangeDecoder::DecodeEven() { return Narrow(range_ >> 1); }

int RangeDecoder::Narrow(uint32_t bound) {
  const int bit = code_ < bound ? 0 : 1;
  if (bit == 0) {
    range_ = bound;
  } else {
    code_ -= bound;
    range_ -= bound;
  }
  while (range_ < kTop) {
    range_ <<= 8;
    code_ = (code_ << 8) | Next();
  }
  return bit;
}

void SignedModel::Encode(RangeEncoder& encoder, int value) {
  encoder.EncodeBit(zero_, value == 0 ? 0 : 1);
  if (value == 0) return;
  encoder.EncodeBit(sign_, value < 0 ? 1 : 0);
  const int magnitude = std::abs(value);
  for (int i = 1; i < kLargest; ++i) {
    encoder.EncodeBit(more_[std::min(i, kStates) - 1], i < magnitude ? 1 : 0);
    if (i == magnitude) return;
  }
}

int SignedModel::Decode(RangeDecoder& decoder) {
  if (decoder.DecodeBit(zero_) == 0) return 0;
  const bool negative = decoder.DecodeBit(sign_) != 0;
  int magnitude = 1;
  while (magnitude < kLargest && decoder.DecodeBit(more_[std::min(magnitude, kStates) - 1]) != 0) {
    ++magnitude;
  }
  return negative ? -magnitude : magnitude;
}

}  // namespace cvxq
