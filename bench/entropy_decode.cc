// Decoding of entropy-coded matrices on one thread: from bytes to codes, by each decoder that this
// CPU runs; and the time to encode.
//
//   bench_entropy_decode [--json] [--rows M] [--columns N]
//
// The integers are normal numbers, rounded, whose spread differs from row to row and from column to
// column by about an octave, as that of real weights does. `anew`: rows after which the trellis
// starts anew.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/cpu/cpu_features.h"
#include "quant/entropy_tables.h"
#include "quant/rans.h"
#include "quant/scaled_codes.h"
#include "quant/scaled_format.h"

namespace cvxq {
namespace {

using Clock = std::chrono::steady_clock;

// The best time of a few.
double Seconds(const std::function<void()>& body) {
  double best = 1e30, total = 0;
  for (int i = 0; i < 3 || total < 0.5; ++i) {
    const Clock::time_point begin = Clock::now();
    body();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// Near enough to the standard normal.
float Normal(uint64_t key, uint64_t i) {
  const float u = RandomUniform(key, 2 * i) + 0x1p-25f, v = RandomUniform(key, 2 * i + 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(6.2831853f * v);
}

ScaledCodes RandomCodes(int64_t rows, int64_t columns, int64_t trellis_rows, float spread) {
  ScaledCodes codes{.rows = rows, .columns = columns, .trellis_rows = trellis_rows};
  codes.integers.resize(rows * columns);
  codes.row_scale.resize(rows);
  codes.column_scale.resize(columns);
  for (int64_t r = 0; r < rows; ++r) {
    codes.row_scale[r] = static_cast<int16_t>(std::lround(2 * Normal(1, r)));
    const float row_spread = spread * std::exp2(0.5f * Normal(2, r));
    for (int64_t c = 0; c < columns; ++c) {
      const float k = row_spread * std::exp2(0.5f * Normal(3, c)) * Normal(4, r * columns + c);
      codes.integers[r * columns + c] = static_cast<int16_t>(std::lround(k));
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    codes.column_scale[c] = static_cast<int16_t>(std::lround(2 * Normal(5, c)));
  }
  return codes;
}

int Main(int argc, char** argv) {
  int64_t rows = 4096, columns = 4096;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (std::strcmp(argv[i], "--rows") == 0 && i + 1 < argc) {
      rows = std::atoll(argv[++i]);
    } else if (std::strcmp(argv[i], "--columns") == 0 && i + 1 < argc) {
      columns = std::atoll(argv[++i]);
    } else {
      std::fprintf(stderr, "bench_entropy_decode [--json] [--rows M] [--columns N]\n");
      return 2;
    }
  }
  const std::vector<DecodeRows> decoders = DecodersHere();
  const char* const names[] = {"plain", "avx2", "avx512"};
  const double millions = static_cast<double>(rows * columns) * 1e-6;
  if (!json) {
    std::printf("%lld x %lld, one thread, millions of weights a second\n",
                static_cast<long long>(rows), static_cast<long long>(columns));
    std::printf("   anew  bits  side    serialize    size  refine");
    for (size_t d = 0; d < decoders.size(); ++d) std::printf("  %7s", names[d]);
    std::printf("    parse\n");
  }
  std::string lines;
  for (const int64_t trellis_rows : {int64_t{0}, rows / 16}) {
    for (const float spread : {0.25f, 0.5f, 1.0f, 2.0f, 4.0f, 8.0f}) {
      ScaledCodes codes = RandomCodes(rows, columns, trellis_rows, spread);
      AssignClasses(codes);
      EntropyTables tables = [&] {
        SymbolCounts counts;
        counts.Add(codes);
        return EntropyTables::Train(counts);
      }();
      const double refine = Seconds([&] { RefineClasses(codes, tables); });
      const std::vector<uint8_t> bytes = SerializeScaledMatrix(codes, tables);
      const double bits = 8.0 * static_cast<double>(bytes.size()) / (millions * 1e6);
      const double serialize = Seconds([&] { SerializeScaledMatrix(codes, tables); });
      const double size = Seconds([&] { ScaledMatrixBytes(codes, tables); });
      const double parse =
          Seconds([&] { ParseScaledMatrix(bytes, tables, rows, columns).IgnoreError(); });

      const RansLayout layout(rows, columns);
      const std::vector<uint16_t> zeros(layout.lanes);
      std::vector<RansChunk> chunks;
      for (int64_t i = 0; i < layout.chunks; ++i) {
        chunks.push_back(EncodeChunk(codes, tables, layout, i, zeros));
      }
      const RansContext context{tables, layout, trellis_rows, codes.row_class, codes.column_class};
      std::vector<int8_t> out(rows * columns);
      std::vector<double> decode;
      for (const DecodeRows decoder : decoders) {
        decode.push_back(
            millions / Seconds([&] {
              std::vector<ScaledOutlier> outliers;
              std::vector<uint16_t> seeds(layout.lanes);
              for (int64_t i = 0; i < layout.chunks; ++i) {
                const auto* words = reinterpret_cast<const uint8_t*>(chunks[i].words.data());
                if (!DecodeChunk(context, i, {words, 2 * chunks[i].words.size()}, chunks[i].escapes,
                                 decoder, out.data(), outliers, seeds)
                         .ok()) {
                  std::abort();
                }
              }
            }));
      }
      if (json) {
        char line[512];
        std::snprintf(
            line, sizeof line,
            "%s{\"trellis_rows\": %d, \"bits\": %.4f, \"serialize\": %.1f, \"size\": %.1f, "
            "\"parse\": %.1f",
            lines.empty() ? "" : ",\n ", static_cast<int>(trellis_rows), bits, millions / serialize,
            millions / size, millions / parse);
        lines += line;
        for (size_t d = 0; d < decode.size(); ++d) {
          std::snprintf(line, sizeof line, ", \"%s\": %.1f", names[d], decode[d]);
          lines += line;
        }
        lines += "}";
        continue;
      }
      std::printf("%7d  %4.2f  %6zu  %9.0f  %6.0f  %6.0f", static_cast<int>(trellis_rows), bits,
                  tables.Serialize().size(), millions / serialize, millions / size,
                  millions / refine);
      for (const double speed : decode) std::printf("  %7.0f", speed);
      std::printf("  %7.0f\n", millions / parse);
      std::fflush(stdout);
    }
  }
  if (json) std::printf("[%s]\n", lines.c_str());
  return 0;
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) { return cvxq::Main(argc, argv); }
