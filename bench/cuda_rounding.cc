// The claim: a GPU rounds a third of a billion weights a second in the trellis with two-sided
// feedback.
//
//   bench_cuda_rounding [rounds] [rows columns]
//
// Random weights in the shapes of Llama-2-7B. Both curvatures are second moments of random
// activations in which neighbours are alike, so that their eigenvalues decay. Rounded as codecs do:
//   trellis, two-sided   entropy
//   trellis, one-sided   entropy --feedback one
//   grids, two-sided     gptq --feedback two
//   grids, one-sided     owq: one column of 128 is kept as halves
// "device" is DeviceRounder, all that it needs in the device's memory; "codec" is the Rounder that
// codecs call, with its copies to the device and back. "x CPU" is the device's speed relative to
// that of the Rounder of one CPU thread, on 1024 x 1024, where a weight takes less feedback than in
// a larger matrix. Factors are made once for a matrix, however often it is rounded. The least time
// of all rounds counts.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "kernels/device_rounder.h"
#include "quant/affine.h"
#include "quant/entropy.h"
#include "quant/rounder.h"

namespace cvxq {
namespace {

constexpr int64_t kTokens = 2048;  // of the activations
constexpr int64_t kSlice = 1024;   // rows and columns, of what the CPU rounds
constexpr int kBits = 4;
constexpr int64_t kGroup = 128;
constexpr double kAsked = 0.33;  // billions of weights a second

struct Kind {
  const char* name;
  bool trellis, two_sided;
};
constexpr Kind kKinds[] = {{"trellis, two-sided", true, true},
                           {"trellis, one-sided", true, false},
                           {"grids, two-sided", false, true},
                           {"grids, one-sided", false, false}};

double Least(int rounds, const std::function<void()>& body) {
  double least = INFINITY;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    least = std::min(
        least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return least;
}

// Near enough to normal, of deviation 1/2.
float Draw(uint64_t key, uint64_t at) {
  float sum = -1.5f;
  for (int i = 0; i < 3; ++i) sum += RandomUniform(key, 3 * at + i);
  return sum;
}

// The curvature of one side, [n, n], factored.
struct Side {
  CurvatureFactor host;
  Tensor lower;             // the same on the device
  std::vector<float> root;  // [n] of D, where its geometric mean is 1, in W's own order
  double seconds = 0;       // of the factor
};

// One linear, on the host and on the device.
struct Problem {
  int64_t rows, columns;
  std::vector<float> w;
  Side inputs, outputs;
  Tensor sent_w;
};

// A problem as it is rounded in one way: `host` refers to it and to `blocks`.
struct Way {
  std::vector<RowBlock> blocks;
  FeedbackInput host;
  DeviceFeedback device;
};

class Bench {
 public:
  Bench(Backend& backend, int rounds)
      : backend_(backend),
        rounds_(rounds),
        pool_(1),
        device_(MakeDeviceRounder(backend)),
        codec_(MakeRounder(backend, pool_)),
        cpu_(MakeCpuRounder(pool_)) {
    for (int i = 0; i < kSymbolClasses * 2 * kPricedMagnitudes; ++i) {
      const auto magnitude = static_cast<float>(i % kPricedMagnitudes);
      prices_.price.push_back(0.02f * (magnitude + RandomUniform(7, i)));
    }
  }

  Status Run(const std::vector<std::pair<int64_t, int64_t>>& shapes) {
    CVXQ_RETURN_IF_ERROR(RunCpu(shapes));
    for (const auto& [rows, columns] : shapes) CVXQ_RETURN_IF_ERROR(RunShape(rows, columns));
    return absl::OkStatus();
  }

 private:
  // Millions of weights a second of each kind, of one thread.
  Status RunCpu(const std::vector<std::pair<int64_t, int64_t>>& shapes) {
    const auto [rows, columns] = shapes.front();
    CVXQ_ASSIGN_OR_RETURN(const Problem p,
                          MakeProblem(std::min(rows, kSlice), std::min(columns, kSlice)));
    std::printf("%s\none CPU thread, %ld x %ld:\n", backend_.numerics_class().c_str(), p.rows,
                p.columns);
    for (const Kind& kind : kKinds) {
      const Way way = MakeWay(p, kind, kEntropyTileRows);
      CVXQ_ASSIGN_OR_RETURN(const double seconds, TimeRounder(p, kind, way, *cpu_, 1));
      cpu_speed_.push_back(static_cast<double>(p.rows * p.columns) / seconds);
      std::printf("  %-20s %8.1f ms %8.1f Mw/s\n", kind.name, seconds * 1e3,
                  cpu_speed_.back() * 1e-6);
    }
    std::fflush(stdout);
    return absl::OkStatus();
  }

  Status RunShape(int64_t rows, int64_t columns) {
    CVXQ_ASSIGN_OR_RETURN(const Problem p, MakeProblem(rows, columns));
    const auto weights = static_cast<double>(rows * columns);
    std::printf("%ld x %ld: factors of inputs %.1f ms, of outputs %.1f ms\n", rows, columns,
                p.inputs.seconds * 1e3, p.outputs.seconds * 1e3);
    std::printf("  %-20s %11s %13s %8s %11s %13s\n", "", "device", "", "x CPU", "codec", "");
    for (const Kind& kind : kKinds) {
      const Way way = MakeWay(p, kind, kDeviceTileRows);
      const double device = TimeDevice(p, kind, way);
      CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
      CVXQ_ASSIGN_OR_RETURN(const double codec, TimeRounder(p, kind, way, *codec_, rounds_));
      std::printf("  %-20s %8.1f ms %8.1f Mw/s %8.0f %8.1f ms %8.1f Mw/s", kind.name, device * 1e3,
                  weights / device * 1e-6, weights / device / cpu_speed_[&kind - kKinds],
                  codec * 1e3, weights / codec * 1e-6);
      if (&kind == kKinds) std::printf("   asked of the device %.0f", kAsked * 1e3);
      std::printf("\n");
      std::fflush(stdout);
    }
    return absl::OkStatus();
  }

  // --- what is rounded ---

  StatusOr<Problem> MakeProblem(int64_t rows, int64_t columns) {
    Problem p{.rows = rows, .columns = columns, .w = std::vector<float>(rows * columns)};
    for (size_t i = 0; i < p.w.size(); ++i) p.w[i] = Draw(1, i);
    p.sent_w = Send<float>(DType::kF32, {rows, columns}, p.w);
    CVXQ_ASSIGN_OR_RETURN(p.inputs, MakeSide(columns, 2, WorkOrder::kLeastFirst, 0.01));
    CVXQ_ASSIGN_OR_RETURN(p.outputs, MakeSide(rows, 3, WorkOrder::kFirstFirst, 0.1));
    return p;
  }

  StatusOr<Side> MakeSide(int64_t n, uint64_t key, WorkOrder order, double damping) {
    std::vector<float> x(kTokens * n);
    for (int64_t t = 0; t < kTokens; ++t) {
      float common = 0;
      for (int64_t i = 0; i < n; ++i) {
        common = 0.9f * common + Draw(key, t * n + i);
        x[t * n + i] = common * (1 + RandomUniform(key + 100, i));
      }
    }
    const Tensor h = backend_.Allocate(DType::kF32, {n, n});
    backend_.Fill(h, 0);
    backend_.AddSecondMoment(Send<float>(DType::kF32, {kTokens, n}, x), h);
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    Side side;
    StatusOr<DeviceFactor> made = DeviceFactor();
    side.seconds = Least(rounds_, [&] {
      made = device_->Factor(h, WorkPlaces(device_->Diagonal(h), order), damping);
    });
    CVXQ_RETURN_IF_ERROR(made.status());
    side.lower = made->lower;
    side.host = {.n = n,
                 .order = made->order,
                 .lower = std::vector<float>(n * n),
                 .diagonal = std::vector<float>(n),
                 .damping = made->damping};
    backend_.Download(made->lower, side.host.lower.data());
    backend_.Download(made->diagonal, side.host.diagonal.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    double log = 0;
    for (const float d : side.host.diagonal) log += std::log(d);
    const double mean = std::exp(log / static_cast<double>(n));
    side.root.resize(n);
    for (int64_t i = 0; i < n; ++i) {
      side.root[side.host.order[i]] = static_cast<float>(std::sqrt(side.host.diagonal[i] / mean));
    }
    return side;
  }

  static Way MakeWay(const Problem& p, const Kind& kind, int64_t trellis_rows) {
    Way way;
    way.device.w = p.sent_w;
    way.device.lower = p.inputs.lower;
    way.device.order = p.inputs.host.order;
    if (kind.two_sided) {
      way.blocks.push_back({p.outputs.host.order, p.outputs.host.lower});
      way.device.blocks.push_back({p.outputs.host.order, p.outputs.lower});
    } else {
      const int64_t most = kind.trellis ? kEntropyFreeRows : p.rows;
      for (int64_t first = 0; first < p.rows; first += most) {
        std::vector<int32_t> rows(std::min(most, p.rows - first));
        std::iota(rows.rbegin(), rows.rend(), static_cast<int32_t>(first));
        way.device.blocks.push_back({rows, Tensor()});
        way.blocks.push_back({std::move(rows), {}});
      }
    }
    if (kind.trellis) {
      way.device.tile_rows = kind.two_sided ? trellis_rows : kEntropyFreeRows;
    }
    way.host = {.w = p.w.data(),
                .rows = p.rows,
                .columns = p.columns,
                .inputs = &p.inputs.host,
                .blocks = way.blocks,
                .tile_rows = way.device.tile_rows};
    return way;
  }

  // --- the rules ---

  // Steps that make all weights equally dear, some five of them in a weight's deviation.
  struct Trellis {
    std::vector<float> row_step, column_step, row_weight, column_weight;
    std::vector<int8_t> row_class, column_class;
  };
  static Trellis MakeTrellis(const Problem& p) {
    Trellis t;
    for (const float root : p.outputs.root) t.row_step.push_back(0.1f / root);
    for (const float root : p.inputs.root) t.column_step.push_back(1 / root);
    t.row_weight.assign(p.rows, 1.0f);
    t.column_weight.assign(p.columns, 1.0f);
    for (int64_t r = 0; r < p.rows; ++r) t.row_class.push_back(static_cast<int8_t>(r % 24));
    for (int64_t c = 0; c < p.columns; ++c) t.column_class.push_back(static_cast<int8_t>(c % 24));
    return t;
  }

  AffineMatrix MakeGrids(const Problem& p, const Kind& kind) {
    AffineMatrix m = StartAffineMatrix(p.rows, p.columns, kBits, kGroup);
    if (!kind.two_sided) {
      for (int64_t c = 0; c < p.columns; c += kGroup) {
        m.kept_columns.push_back(static_cast<int32_t>(c));
      }
      m.kept.resize(p.rows * m.kept_columns.size());
    }
    FitGrids(p.w.data(), TrimmedShare(kBits, kGroup), /*skip=*/{}, pool_, m);
    return m;
  }

  // --- times ---

  double TimeDevice(const Problem& p, const Kind& kind, const Way& way) {
    const Tensor codes = backend_.Allocate(DType::kU16, {p.rows, p.columns});
    const auto time = [&](const auto& rule) {
      backend_.Synchronize().IgnoreError();
      return Least(rounds_, [&] {
        device_->Round(way.device, rule, codes);
        backend_.Synchronize().IgnoreError();  // kept by the backend
      });
    };
    if (kind.trellis) {
      const Trellis t = MakeTrellis(p);
      const std::vector<int32_t> row_class(t.row_class.begin(), t.row_class.end());
      const std::vector<int32_t> column_class(t.column_class.begin(), t.column_class.end());
      return time(DeviceTrellis{
          .row_step = Send<float>(DType::kF32, {p.rows}, t.row_step),
          .row_weight = Send<float>(DType::kF32, {p.rows}, t.row_weight),
          .column_step = Send<float>(DType::kF32, {p.columns}, t.column_step),
          .column_weight = Send<float>(DType::kF32, {p.columns}, t.column_weight),
          .row_class = Send<int32_t>(DType::kI32, {p.rows}, row_class),
          .column_class = Send<int32_t>(DType::kI32, {p.columns}, column_class),
          .price = Send<float>(DType::kF32, {kSymbolClasses, 2, kPricedMagnitudes}, prices_.price),
          .row_curvature = Send<float>(DType::kF32, {p.rows}, t.row_weight),
          .squares = backend_.Allocate(DType::kF32, {p.columns})});
    }
    const AffineMatrix m = MakeGrids(p, kind);
    std::vector<uint8_t> kept(p.columns);
    for (const int32_t column : m.kept_columns) kept[column] = 1;
    return time(DeviceGrid{.scale = Send<float>(DType::kF32, {p.rows, m.group_count()}, m.scale),
                           .zero = Send<uint8_t>(DType::kU8, {p.rows, m.group_count()}, m.zero),
                           .group = m.group,
                           .bits = m.bits,
                           .kept = Send<uint8_t>(DType::kU8, {p.columns}, kept)});
  }

  StatusOr<double> TimeRounder(const Problem& p, const Kind& kind, const Way& way, Rounder& rounder,
                               int rounds) {
    Status status;
    double seconds = 0;
    if (kind.trellis) {
      const Trellis t = MakeTrellis(p);
      std::vector<int16_t> integers(p.rows * p.columns);
      seconds = Least(rounds, [&] {
        status.Update(rounder
                          .RoundToTrellis(way.host,
                                          {.row_step = t.row_step,
                                           .column_step = t.column_step,
                                           .row_weight = t.row_weight,
                                           .column_weight = t.column_weight,
                                           .row_class = t.row_class,
                                           .column_class = t.column_class,
                                           .prices = &prices_,
                                           .row_curvature = t.row_weight,
                                           .column_curvature = t.column_weight},
                                          integers)
                          .status());
      });
    } else {
      AffineMatrix m = MakeGrids(p, kind);
      seconds = Least(rounds, [&] { status.Update(rounder.RoundToGrids(way.host, m)); });
    }
    CVXQ_RETURN_IF_ERROR(status);
    return seconds;
  }

  template <typename T>
  Tensor Send(DType dtype, Shape shape, const std::vector<T>& data) {
    Tensor tensor = backend_.Allocate(dtype, std::move(shape));
    backend_.Upload(data.data(), tensor);
    return tensor;
  }

  Backend& backend_;
  const int rounds_;
  ThreadPool pool_;
  const std::unique_ptr<DeviceRounder> device_;
  const std::unique_ptr<Rounder> codec_, cpu_;
  TrellisPrices prices_;
  std::vector<double> cpu_speed_;  // weights a second, by kind
};

Status Run(int rounds, const std::vector<std::pair<int64_t, int64_t>>& shapes) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, MakeCudaBackend());
  return Bench(*backend, rounds).Run(shapes);
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  std::vector<std::pair<int64_t, int64_t>> shapes = {{4096, 4096}, {11008, 4096}};
  if (argc > 3) shapes = {{std::atol(argv[2]), std::atol(argv[3])}};
  const cvxq::Status status = cvxq::Run(argc > 1 ? std::atoi(argv[1]) : 3, shapes);
  if (status.ok()) return 0;
  std::fprintf(stderr, "bench_cuda_rounding: %s\n", std::string(status.message()).c_str());
  return 1;
}
