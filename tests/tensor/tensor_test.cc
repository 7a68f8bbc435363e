// Shapes and the reading of host tensors as floats.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cstring>

namespace cvxq {
namespace {

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ(Shape({4, 3, 2}).elements(), 24);
  EXPECT_EQ(Shape({4, 3, 2}).rank(), 3);
  EXPECT_EQ(Shape({4, 3, 2})[1], 3);
  EXPECT_EQ(Shape({4, 3, 2}).ToString(), "[4, 3, 2]");
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape().rank(), 0);
  EXPECT_EQ(Shape().ToString(), "[]");
  EXPECT_EQ(Shape({5, 0}).elements(), 0);
  EXPECT_EQ(Shape({1, 2}), Shape(std::vector<int64_t>{1, 2}));
  EXPECT_NE(Shape({1, 2}), Shape({2, 1}));
  EXPECT_NE(Shape({2}), Shape({2, 1}));
}

// The floats read from these elements, placed at an odd address.
template <typename Element>
std::vector<float> Read(DType dtype, const std::vector<Element>& elements) {
  std::vector<std::byte> storage(1 + elements.size() * sizeof(Element));
  std::memcpy(storage.data() + 1, elements.data(), elements.size() * sizeof(Element));
  const HostTensor tensor = {dtype, {static_cast<int64_t>(elements.size())}, storage.data() + 1};
  EXPECT_EQ(tensor.bytes(), static_cast<int64_t>(elements.size() * sizeof(Element)));
  const auto floats = ToFloats(tensor);
  EXPECT_TRUE(floats.ok()) << floats.status();
  return floats.value_or(std::vector<float>());
}

TEST(ToFloats, ReadsFloatsAtAnyAddress) {
  EXPECT_EQ(Read<float>(DType::kF32, {1.5f, -0x1p-149f, 3e38f}),
            (std::vector<float>{1.5f, -0x1p-149f, 3e38f}));
  EXPECT_EQ(Read<uint16_t>(DType::kBF16, {0x3f80, 0xc040, 0x0001}),
            (std::vector<float>{1.0f, -3.0f, 0x1p-133f}));
  EXPECT_EQ(Read<uint16_t>(DType::kF16, {0x3c00, 0xc200, 0x0001}),
            (std::vector<float>{1.0f, -3.0f, 0x1p-24f}));
}

TEST(ToFloats, ReadsScalarsAndEmptyTensors) {
  const float value = 2.5f;
  const auto scalar = ToFloats({DType::kF32, {}, reinterpret_cast<const std::byte*>(&value)});
  ASSERT_TRUE(scalar.ok());
  EXPECT_EQ(*scalar, std::vector<float>{2.5f});
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const auto empty = ToFloats({dtype, {0, 4}, nullptr});
    ASSERT_TRUE(empty.ok());
    EXPECT_TRUE(empty->empty());
  }
}

TEST(ToFloats, RefusesOtherTypes) {
  const int64_t zero = 0;
  for (const DType dtype : {DType::kI8, DType::kU8, DType::kI32, DType::kI64, DType::kU16,
                            DType::kU32, DType::kF64, DType::kBool, DType::kF8E4M3}) {
    const auto floats = ToFloats({dtype, {1}, reinterpret_cast<const std::byte*>(&zero)});
    EXPECT_EQ(floats.status().code(), absl::StatusCode::kUnimplemented);
    EXPECT_NE(floats.status().message().find(std::string(Name(dtype))), std::string::npos);
  }
}

}  // namespace
}  // namespace cvxq
