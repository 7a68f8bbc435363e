#include "quant/range_coder.h"

#include <bit>

namespace cvxq {
namespace {

constexpr int kProbabilityBits = 11;
constexpr int kAdaptShift = 4;
constexpr uint32_t kTop = 1u << 24;

}  // namespace

void RangeEncoder::EncodeBit(uint16_t& probability, int bit) {
  const uint32_t bound = (range_ >> kProbabilityBits) * probability;
  if (bit == 0) {
    range_ = bound;
    probability += ((1 << kProbabilityBits) - probability) >> kAdaptShift;
  } else {
    low_ += bound;
    range_ -= bound;
    probability -= probability >> kAdaptShift;
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
  for (int i = 0; i < 5; ++i) ShiftLow();
  // The decoder reads zeros past the end, so trailing zeros need not be kept.
  while (!bytes_.empty() && bytes_.back() == 0) bytes_.pop_back();
  return std::move(bytes_);
}

RangeDecoder::RangeDecoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
  for (int i = 0; i < 4; ++i) code_ = (code_ << 8) | Next();
}

int RangeDecoder::DecodeBit(uint16_t& probability) {
  const uint32_t bound = (range_ >> kProbabilityBits) * probability;
  int bit;
  if (code_ < bound) {
    range_ = bound;
    probability += ((1 << kProbabilityBits) - probability) >> kAdaptShift;
    bit = 0;
  } else {
    code_ -= bound;
    range_ -= bound;
    probability -= probability >> kAdaptShift;
    bit = 1;
  }
  while (range_ < kTop) {
    range_ <<= 8;
    code_ = (code_ << 8) | Next();
  }
  return bit;
}

SymbolModel::SymbolModel(int size)
    : bits_(std::bit_width(static_cast<unsigned>(size > 1 ? size - 1 : 1))),
      probability_(size_t{1} << bits_, 1 << (kProbabilityBits - 1)) {}

void SymbolModel::Encode(RangeEncoder& encoder, int symbol) {
  int node = 1;
  for (int i = bits_ - 1; i >= 0; --i) {
    const int bit = (symbol >> i) & 1;
    encoder.EncodeBit(probability_[node], bit);
    node = node * 2 + bit;
  }
}

int SymbolModel::Decode(RangeDecoder& decoder) {
  int node = 1;
  for (int i = 0; i < bits_; ++i) node = node * 2 + decoder.DecodeBit(probability_[node]);
  return node - (1 << bits_);
}

}  // namespace cvxq
