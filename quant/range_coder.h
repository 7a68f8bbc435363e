// An adaptive binary range coder for side information: depths and scales cost what they tell, with
// no table to store. 32-bit range with carry propagation, as in LZMA; every modelled bit has a
// state that learns fast at first and settles: the n-th bit moves the probability by 1 / (n + 1.6)
// of the way, at least 1/64.
//
//   RangeEncoder encoder;
//   SignedModel model;
//   model.Encode(encoder, -3);
//   std::vector<uint8_t> bytes = encoder.Finish();
#ifndef CVXQ_QUANT_RANGE_CODER_H_
#define CVXQ_QUANT_RANGE_CODER_H_

#include <cstdint>
#include <span>
#include <vector>

namespace cvxq {

// The probability that a bit is 0, and how much it has seen.
struct AdaptiveBit {
  uint16_t zero = 1 << 15;  // in 1/65536
  uint8_t seen = 0;
  void Learn(int bit);
};

class RangeEncoder {
 public:
  // Codes one bit and lets its state learn.
  void EncodeBit(AdaptiveBit& state, int bit);
  // One bit that is as likely 0 as 1.
  void EncodeEven(int bit);
  // The stream; the encoder is spent.
  std::vector<uint8_t> Finish();

 private:
  void Narrow(uint32_t bound, int bit);
  void ShiftLow();
  std::vector<uint8_t> bytes_;
  uint64_t low_ = 0;
  uint32_t range_ = 0xffffffffu;
  uint8_t cache_ = 0;
  uint64_t pending_ = 0;
  bool first_ = true;
};

// Reads what RangeEncoder wrote. Past the end it reads zeros, so any bytes at all decode to
// something: whoever reads checks the meaning.
class RangeDecoder {
 public:
  explicit RangeDecoder(std::span<const uint8_t> bytes);
  int DecodeBit(AdaptiveBit& state);
  int DecodeEven();

 private:
  int Narrow(uint32_t bound);
  uint8_t Next() { return next_ < bytes_.size() ? bytes_[next_++] : 0; }
  std::span<const uint8_t> bytes_;
  size_t next_ = 0;
  uint32_t range_ = 0xffffffffu, code_ = 0;
};

// An adaptive model of small integers of either sign: whether it is zero, its sign, and its
// magnitude in unary, each bit with a state of its own (magnitudes from 6 up share one).
class SignedModel {
 public:
  static constexpr int kLargest = 4096;
  // |value| <= kLargest.
  void Encode(RangeEncoder& encoder, int value);
  // A broken stream gives some value of magnitude at most kLargest.
  int Decode(RangeDecoder& decoder);

 private:
  static constexpr int kStates = 6;
  AdaptiveBit zero_, sign_, more_[kStates];
};

}  // namespace cvxq

#endif  // CVXQ_QUANT_RANGE_CODER_H_
