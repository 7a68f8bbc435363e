// Products of one or a few vectors with packed matrices on a GPU, against BF16 ones of cuBLASLt.
//
//   bench_cuda_packed [--json] [ROWS COLUMNS]
//
// Bytes are those that must be read: codes, a scale and a depth for each group. `of copy` is their
// rate relative to what a copy within the device's memory reads and writes; `ratio` is the speed
// relative to Backend::Linear in BF16 of the same shape and batch. Several copies of a matrix take
// turns, so that each comes from memory and not from a cache; calls are replayed from a graph, so
// that the host's time for a call does not count.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/cuda_backend.h"

namespace cvxq {
namespace {

constexpr int64_t kRotationBytes = 256 << 20;  // at least, several times a cache
constexpr int kRepeats = 20;

struct Matrix {
  std::string name;
  std::vector<uint8_t> depths;  // drawn with equal chances
  int64_t cluster_size;
};

PackedMatrix RandomMatrix(int64_t rows, int64_t columns, const Matrix& kind) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.cluster_size = kind.cluster_size;
  matrix.members.resize(rows);
  std::iota(matrix.members.begin(), matrix.members.end(), 0);
  for (int64_t i = rows; i > 1; --i) {
    std::swap(matrix.members[i - 1], matrix.members[RandomBits(1, i) % i]);
  }
  const int64_t groups = matrix.cluster_count() * columns;
  for (int64_t g = 0; g < groups; ++g) {
    matrix.depth.push_back(kind.depths[RandomBits(2, g) % kind.depths.size()]);
    matrix.scale.push_back(0.5f + RandomUniform(3, g));
  }
  for (int b = 1; b <= kMaxDepth; ++b) {
    for (int i = 0; i < 1 << b; ++i) matrix.table[b].push_back(2 * RandomUniform(4, i) - 1);
  }
  int64_t bytes = 0;
  for (int64_t c = 0; c < matrix.cluster_count(); ++c) bytes += ClusterCodeBytes(matrix, c);
  matrix.codes.resize(bytes);  // any bits are codes
  for (int64_t i = 0; i < bytes; i += 8) {
    const uint64_t bits = RandomBits(5, i);
    std::memcpy(matrix.codes.data() + i, &bits, std::min<int64_t>(8, bytes - i));
  }
  return matrix;
}

class Bench {
 public:
  Bench(std::shared_ptr<cuda::Device> device, std::unique_ptr<cuda::Products> products, bool json)
      : device_(device), backend_(device, std::move(products)), json_(json) {
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }

  // All shapes, or the one that is given.
  Status Run(int64_t only_rows, int64_t only_columns) {
    constexpr int64_t kCopyBytes = int64_t{1} << 30;
    const Tensor from = backend_.Allocate(DType::kU8, {kCopyBytes}),
                 to = backend_.Allocate(DType::kU8, {kCopyBytes});
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    copy_rate_ = 2 * kCopyBytes / LeastSeconds([&] {
                   cudaMemcpyAsync(cuda::DeviceBytes(to), cuda::DeviceBytes(from), kCopyBytes,
                                   cudaMemcpyDeviceToDevice, device_->stream());
                 });
    if (!json_) {
      std::printf("%s, copies at %.0f GB/s\n%-15s %-26s %5s %9s %8s %8s %6s\n",
                  device_->name().c_str(), copy_rate_ * 1e-9, "shape", "matrix", "batch", "us",
                  "GB/s", "of copy", "ratio");
    }
    constexpr int64_t kShapes[][2] = {
        {4096, 4096}, {11008, 4096}, {4096, 11008}, {14336, 4096}, {28672, 8192}};
    if (only_rows > 0) return RunShape(only_rows, only_columns);
    for (const auto& [rows, columns] : kShapes) CVXQ_RETURN_IF_ERROR(RunShape(rows, columns));
    return absl::OkStatus();
  }

 private:
  // Of several times, after a first one.
  double LeastSeconds(const std::function<void()>& body) {
    body();
    float least = 1e30f;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      cudaEventRecord(begin_, device_->stream());
      body();
      cudaEventRecord(end_, device_->stream());
      cudaEventSynchronize(end_);
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, begin_, end_);
      least = std::min(least, milliseconds);
    }
    return least * 1e-3;
  }

  // Seconds of one call of body(i), 0 <= i < rotation, called in turn.
  double Seconds(int64_t rotation, const std::function<void(int64_t)>& body) {
    const auto turn = [&] {
      for (int64_t i = 0; i < rotation; ++i) body(i);
    };
    turn();  // chooses algorithms, fills pools
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaStreamBeginCapture(device_->stream(), cudaStreamCaptureModeThreadLocal);
    turn();
    if (cudaStreamEndCapture(device_->stream(), &graph) != cudaSuccess ||
        cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess) {
      std::fprintf(stderr, "calls cannot be captured: the host's time counts\n");
      cudaGetLastError();
      executable = nullptr;
    }
    const auto replay = [&] {
      if (executable != nullptr) {
        cudaGraphLaunch(executable, device_->stream());
      } else {
        turn();
      }
    };
    const double seconds = LeastSeconds(replay) / static_cast<double>(rotation);
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    return seconds;
  }

  void Print(int64_t rows, int64_t columns, const std::string& name, int64_t batch, double seconds,
             int64_t bytes, double reference) {
    const double rate = static_cast<double>(bytes) / seconds;
    if (json_) {
      std::printf(
          "{\"rows\": %ld, \"columns\": %ld, \"matrix\": \"%s\", \"batch\": %ld, \"us\": %.2f, "
          "\"gb_per_s\": %.0f, \"of_copy\": %.3f, \"ratio\": %.2f}\n",
          rows, columns, name.c_str(), batch, seconds * 1e6, rate * 1e-9, rate / copy_rate_,
          reference / seconds);
    } else {
      std::printf("%6ld x %-6ld %-26s %5ld %9.2f %8.0f %7.1f%% %6.2f\n", rows, columns,
                  name.c_str(), batch, seconds * 1e6, rate * 1e-9, 100 * rate / copy_rate_,
                  reference / seconds);
    }
    std::fflush(stdout);
  }

  Status RunShape(int64_t rows, int64_t columns) {
    constexpr int64_t kBatches[] = {1, 8};
    double reference[std::size(kBatches)];
    {
      const int64_t bytes = 2 * rows * columns;
      std::vector<Tensor> ws;
      for (int64_t i = 0; i < 2 || i * bytes < kRotationBytes; ++i) {
        ws.push_back(backend_.Allocate(DType::kBF16, {rows, columns}));
        CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
        cudaMemsetAsync(cuda::DeviceBytes(ws.back()), 0x3c, bytes, device_->stream());
      }
      for (size_t k = 0; k < std::size(kBatches); ++k) {
        const Tensor x = Vectors(kBatches[k], columns, DType::kBF16),
                     y = backend_.Allocate(DType::kF32, {kBatches[k], rows});
        reference[k] = Seconds(static_cast<int64_t>(ws.size()),
                               [&](int64_t i) { backend_.Linear(x, ws[i], Tensor(), y); });
        Print(rows, columns, "bf16", kBatches[k], reference[k], bytes, reference[k]);
      }
    }
    for (int64_t cluster_size : {64, 256}) {
      for (const std::vector<uint8_t>& depths : {std::vector<uint8_t>{3}, {2, 3, 4}}) {
        const Matrix kind{(depths.size() == 1 ? "3 bit, clusters of " : "2,3,4 bit, clusters of ") +
                              std::to_string(cluster_size),
                          depths, cluster_size};
        const PackedMatrix matrix = RandomMatrix(rows, columns, kind);
        const auto bytes = static_cast<int64_t>(matrix.codes.size() + matrix.depth.size() +
                                                matrix.scale.size() * sizeof(float));
        std::vector<std::shared_ptr<PackedWeight>> ws;
        for (int64_t i = 0; i < 2 || i * bytes < kRotationBytes; ++i) {
          ws.push_back(backend_.ImportPacked(matrix, DType::kBF16));
          CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
        }
        for (size_t k = 0; k < std::size(kBatches); ++k) {
          const Tensor x = Vectors(kBatches[k], columns, DType::kF32),
                       y = backend_.Allocate(DType::kF32, {kBatches[k], rows});
          const double seconds = Seconds(static_cast<int64_t>(ws.size()), [&](int64_t i) {
            backend_.PackedLinear(x, *ws[i], Tensor(), y);
          });
          Print(rows, columns, kind.name, kBatches[k], seconds, bytes, reference[k]);
        }
      }
    }
    return backend_.Synchronize();
  }

  Tensor Vectors(int64_t n, int64_t columns, DType dtype) {
    std::vector<float> values(n * columns);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * RandomUniform(6, i) - 1;
    const Tensor x = backend_.Allocate(DType::kF32, {n, columns});
    backend_.Upload(values.data(), x);
    const Tensor converted = backend_.Allocate(dtype, {n, columns});
    backend_.Convert(x, converted);
    return converted;
  }

  const std::shared_ptr<cuda::Device> device_;
  cuda::CudaBackend backend_;
  const bool json_;
  double copy_rate_ = 0;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

int Main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool json = !arguments.empty() && arguments[0] == "--json";
  if (json) arguments.erase(arguments.begin());
  int64_t rows = 0, columns = 0;
  if (arguments.size() == 2) {
    rows = std::atol(arguments[0].c_str());
    columns = std::atol(arguments[1].c_str());
  }
  if (!arguments.empty() && (rows <= 0 || columns <= 0)) {
    std::fprintf(stderr, "usage: bench_cuda_packed [--json] [ROWS COLUMNS]\n");
    return 2;
  }
  const Status status = [&]() -> Status {
    CVXQ_ASSIGN_OR_RETURN(std::shared_ptr<cuda::Device> device, cuda::Device::Open());
    CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<cuda::Products> products, cuda::Products::Make(*device));
    return Bench(device, std::move(products), json).Run(rows, columns);
  }();
  if (status.ok()) return 0;
  std::fprintf(stderr, "bench_cuda_packed: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) { return cvxq::Main(argc, argv); }
