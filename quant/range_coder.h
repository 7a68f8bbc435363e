// An adaptive binary range coder for side information: depths and scales cost what they tell, with
// no table to store. It is the carry-propagating coder of LZMA: 32-bit range, 11-bit probabilities
// that move by 1/16 of the way to each coded bit.
//
//   RangeEncoder encoder;
//   SymbolModel model(9);
//   model.Encode(encoder, 4);
//   std::vector<uint8_t> bytes = encoder.Finish();
#ifndef CVXQ_QUANT_RANGE_CODER_H_
#define CVXQ_QUANT_RANGE_CODER_H_

#include <cstdint>
#include <span>
#include <vector>

namespace cvxq {

class RangeEncoder {
 public:
  // Codes one bit and adapts its probability of being 0 (in 1/2048).
  void EncodeBit(uint16_t& probability, int bit);
  // The stream; the encoder is spent.
  std::vector<uint8_t> Finish();

 private:
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
  int DecodeBit(uint16_t& probability);

 private:
  uint8_t Next() { return next_ < bytes_.size() ? bytes_[next_++] : 0; }
  std::span<const uint8_t> bytes_;
  size_t next_ = 0;
  uint32_t range_ = 0xffffffffu, code_ = 0;
};

// An adaptive model of symbols 0..size-1 (size <= 256): a binary tree of bits.
class SymbolModel {
 public:
  explicit SymbolModel(int size);
  void Encode(RangeEncoder& encoder, int symbol);
  int Decode(RangeDecoder& decoder);  // may give a symbol >= size from a broken stream

 private:
  int bits_;
  std::vector<uint16_t> probability_;
};

}  // namespace cvxq

#endif  // CVXQ_QUANT_RANGE_CODER_H_
