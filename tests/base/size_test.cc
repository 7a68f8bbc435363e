#include "base/size.h"

#include "gtest/gtest.h"

namespace cvxq {
namespace {

TEST(ParseByteSize, TakesUnitsOfBothKinds) {
  const struct {
    const char* text;
    int64_t bytes;
  } kCases[] = {
      {"0", 0},
      {"4096", 4096},
      {"17 B", 17},
      {"1.5GiB", int64_t{3} << 29},
      {"700 MB", 700'000'000},
      {"2kb", 2000},
      {"2 kib", 2048},
      {" 1MiB ", 1048576},
      {"3GB", 3'000'000'000},
      {"0.1TiB", 109951162777},  // 0.1 * 2^40 = 109951162777.6, rounded down
      {"0.3KiB", 307},
      {"0.9999 B", -1},
      {"8388607TiB", int64_t{8388607} << 40},
  };
  for (const auto& c : kCases) {
    const StatusOr<int64_t> bytes = ParseByteSize(c.text);
    if (c.bytes < 0) {
      EXPECT_FALSE(bytes.ok()) << c.text;
    } else {
      ASSERT_TRUE(bytes.ok()) << c.text << ": " << bytes.status();
      EXPECT_EQ(*bytes, c.bytes) << c.text;
    }
  }
}

TEST(ParseByteSize, RefusesAnythingElse) {
  for (const char* text :
       {"", " ", "GiB", "-1", "+1", "1.5", "1.", ".5MiB", "1.2.3MB", "1 G", "1K", "1e3", "0x10",
        "1MiB2", "nan", "inf", "8388608TiB", "9223372036854775808", "12345678901234567890"}) {
    const StatusOr<int64_t> bytes = ParseByteSize(text);
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(
      ParseByteSize("4 gigs").status().message(),
      "\"4 gigs\" is not a size: write a number and KiB, MiB, GiB, TiB, KB, MB, GB or TB, for "
      "instance 1.5GiB");
}

TEST(FormatBytes, ShowsThreeDigits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.00 KiB");
  EXPECT_EQ(FormatBytes(24 * 1024 + 512), "24.5 KiB");
  EXPECT_EQ(FormatBytes(1023 * 1024), "1.00 MiB");
  EXPECT_EQ(FormatBytes(int64_t{345} << 20), "345 MiB");
  EXPECT_EQ(FormatBytes(INT64_MAX), "8.00 EiB");
}

TEST(FormatDuration, ChoosesTheUnit) {
  EXPECT_EQ(FormatDuration(-1), "0.00 s");
  EXPECT_EQ(FormatDuration(0.424), "0.42 s");
  EXPECT_EQ(FormatDuration(12.34), "12.3 s");
  EXPECT_EQ(FormatDuration(59.97), "1 min 00 s");
  EXPECT_EQ(FormatDuration(185), "3 min 05 s");
  EXPECT_EQ(FormatDuration(3599.9), "1 h 00 min");
  EXPECT_EQ(FormatDuration(2 * 3600 + 3 * 60), "2 h 03 min");
  EXPECT_EQ(FormatDuration(76 * 3600), "3 d 04 h");
}

}  // namespace
}  // namespace cvxq
