// The types of GGUF files: how fast their scales are searched, and how good they are.
//
//   bench_grid_types [--rows 512] [--columns 4096] [--repeats 3] [--library python.so:llama.so]
//
// For each type: million weights a second and core (scales and codes), and the weighted error
// against that of the plain rule, which maps the range of each sub-block to all levels. With the
// path of a library that has llama.cpp's row quantisers (and before it, joined by a colon, of those
// that it needs: the Python wheel `xllamacpp` needs libpython), theirs of the same type with the
// same weights as its "imatrix": their error and speed.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "base/random.h"
#include "formats/ggml_types.h"
#include "formats/grid_coder.h"

namespace cvxq {
namespace {

struct Options {
  int64_t rows = 512, columns = 4096, repeats = 3;
  std::string library;
};

using Quantise = size_t (*)(const float* source, void* to, int64_t rows, int64_t columns,
                            const float* imatrix);

struct Data {
  int64_t rows, columns;
  std::vector<float> w, weight;
};

// Weights about normal with a few large ones, as matrices have them; columns' weights over two
// decades.
Data RandomData(const Options& options) {
  Data data{options.rows, options.columns, {}, {}};
  uint64_t counter = 0;
  const auto normal = [&] {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += RandomUniform(1, counter++);
    return sum;
  };
  for (int64_t i = 0; i < data.rows * data.columns; ++i) {
    const float value = 0.02f * normal();
    data.w.push_back(i % 97 == 0 ? 4 * value : value);
  }
  for (int64_t c = 0; c < data.columns; ++c) data.weight.push_back(std::exp(1.2f * normal()));
  return data;
}

double WeightedError(const Data& data, const std::vector<float>& decoded) {
  double sum = 0;
  for (int64_t i = 0; i < data.rows * data.columns; ++i) {
    const double difference = static_cast<double>(decoded[i]) - data.w[i];
    sum += data.weight[i % data.columns] * difference * difference;
  }
  return sum;
}

// Seconds of this thread's processor, which others that share it do not count in.
double Now() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double BestSeconds(int64_t repeats, const std::function<void()>& body) {
  double best = INFINITY;
  for (int64_t i = 0; i < repeats; ++i) {
    const double start = Now();
    body();
    best = std::min(best, Now() - start);
  }
  return best;
}

// The error of the plain rule, scales in real numbers.
double RangeError(const Data& data, const GgmlType& type) {
  const std::span<const float> levels = type.levels();
  std::vector<float> decoded(data.w.size());
  for (int64_t i = 0; i < static_cast<int64_t>(data.w.size()); i += type.sub()) {
    const auto [low, high] = std::minmax_element(&data.w[i], &data.w[i] + type.sub());
    float step = std::max(-*low, *high) / levels.back(), offset = 0;
    if (type.has_offset()) {
      step = (*high - *low) / levels.back();
      offset = *low;
    }
    for (int64_t k = i; k < i + type.sub(); ++k) {
      float nearest = INFINITY;
      for (const float level : levels) {
        const float value = step * level + offset;
        if (std::abs(value - data.w[k]) < std::abs(nearest - data.w[k])) nearest = value;
      }
      decoded[k] = nearest;
    }
  }
  return WeightedError(data, decoded);
}

std::vector<float> DecodeBytes(const Data& data, const GgmlType& type,
                               const std::vector<uint8_t>& bytes) {
  GridMatrix m{.type = &type, .rows = data.rows, .columns = data.columns};
  const int64_t blocks = data.rows * data.columns / type.block();
  m.fields.resize(blocks * type.field_bytes());
  m.codes.resize(data.rows * data.columns);
  m.step.resize(data.rows * data.columns / type.sub());
  if (type.has_offset()) m.offset.resize(m.step.size());
  type.Unpack(bytes.data(), blocks, m.fields.data(), m.codes.data());
  type.Grids(m.fields.data(), blocks, 1, m.step.data(), m.offset.data());
  return Decode(m);
}

void Run(const Options& options) {
  const Data data = RandomData(options);
  ThreadPool pool(1);
  void* library = nullptr;
  for (const auto path : absl::StrSplit(options.library, ':', absl::SkipEmpty())) {
    library = dlopen(std::string(path).c_str(), RTLD_LAZY | RTLD_GLOBAL);
    if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  }
  const double weights = static_cast<double>(data.w.size()) / 1e6;
  std::printf("| type | Mw/s | error / range rule | theirs: Mw/s | error / range rule | ratio |\n");
  std::printf("|-|-|-|-|-|-|\n");
  for (const GgmlType* type : GgmlTypes()) {
    if (type->dense()) continue;
    GridMatrix m;
    const GridInput input{.w = data.w.data(),
                          .rows = data.rows,
                          .columns = data.columns,
                          .column_weight = data.weight};
    const double ours =
        BestSeconds(options.repeats, [&] { m = CodeOnGrids(input, *type, pool, /*refits=*/0); });
    const double range_error = RangeError(data, *type);
    const double error = WeightedError(data, Decode(m));
    std::printf("| %s | %.1f | %.4f |", type->name().c_str(), weights / ours, error / range_error);
    std::string symbol = "quantize_" + type->name();
    if (symbol.ends_with("_k")) symbol.back() = 'K';
    const auto quantise =
        library == nullptr ? nullptr : reinterpret_cast<Quantise>(dlsym(library, symbol.c_str()));
    if (quantise != nullptr) {
      std::vector<uint8_t> bytes(type->Bytes(data.rows, data.columns));
      const double theirs = BestSeconds(1, [&] {
        quantise(data.w.data(), bytes.data(), data.rows, data.columns, data.weight.data());
      });
      const double their_error = WeightedError(data, DecodeBytes(data, *type, bytes));
      std::printf(" %.1f | %.4f | %.4f |", weights / theirs, their_error / range_error,
                  error / their_error);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  cvxq::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--rows") options.rows = std::stoll(value);
    if (flag == "--columns") options.columns = std::stoll(value);
    if (flag == "--repeats") options.repeats = std::stoll(value);
    if (flag == "--library") options.library = value;
  }
  cvxq::Run(options);
}
