// Products with packed matrices, straight from the codes, by tensor cores.
//
// One block on each multiprocessor, whose warps go through their pieces (packed_shares.h) and need
// each other only for the tables. A warp has the next steps on their way to a ring in shared
// memory. Two instructions bring the codes of two neighbouring lines to an address, one looks both
// values up in shared memory, and four such pairs are what a lane gives to a product of 16 rows, 16
// lines and 8 vectors.
#include "kernels/contract.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_columns.h"
#include "kernels/cuda/reduce.cuh"

namespace cvxq::cuda {
namespace {

constexpr float kMaxBF16 = 3.3895314e38f;

// The tables in shared memory, as BF16: entry e for lane l at places.of[depth] + 128 e + 4 l.
__device__ void FillTables(const ColumnsView& view, unsigned char* shared) {
  for (int b = 1; b <= kMaxDepth; ++b) {
    if (view.places.of[b] < 0) continue;
    const float* table = view.tables + FirstOfTable(b);
    auto* entries = reinterpret_cast<uint4*>(shared + view.places.of[b]);
    for (int i = threadIdx.x; i < TableBytes(b) / 16; i += blockDim.x) {
      const int codes = i / 8;
      // Finite, so that lines that fill up add zeros.
      const float low = fminf(fmaxf(table[codes & ((1 << b) - 1)], -kMaxBF16), kMaxBF16);
      const float high =
          fminf(fmaxf(table[codes >> (b <= kMaxPairDepth ? b : 0)], -kMaxBF16), kMaxBF16);
      const uint32_t word = PackBF16(low, high);
      entries[i] = make_uint4(word, word, word, word);
    }
  }
}

// The `bits` bits at `at` of a lane's words, times 128: an entry's distance from the table's begin.
__device__ inline uint32_t EntryAt(const uint32_t* words, int at, int bits) {
  constexpr int kUp = 7;
  const int word = at / 32, shift = at % 32 - kUp;
  const uint32_t mask = ((1u << bits) - 1) << kUp;
  if (at % 32 + bits > 32) return ShiftPair(words[word], words[word + 1], shift) & mask;
  return (shift >= 0 ? words[word] >> shift : words[word] << -shift) & mask;
}

// Two neighbouring lines' values of the codes at `at`; `lane_table` is the address of the lane's
// copy of the table.
template <int kDepth>
__device__ uint32_t LookUp(const uint32_t* words, int at, uint32_t lane_table) {
  const auto entry = [&](int from, int bits) {
    return LoadShared(EntryAt(words, from, bits) | lane_table);
  };
  if constexpr (kDepth <= kMaxPairDepth) {
    return entry(at, 2 * kDepth);
  } else {
    return ChooseBytes(entry(at, kDepth), entry(at + kDepth, kDepth), 0x5410);
  }
}

// Where the tables and the warps' rings stand in a block's shared memory. Tables begin at an
// address that is a multiple of the largest, so that the bits of a code are or-ed to that of their
// table; rings fill what is before them.
struct SharedPlaces {
  unsigned char *tables, *ring;

  __device__ SharedPlaces(const ColumnsView& view, unsigned char* shared, int warp) {
    const auto gap = static_cast<int>((0u - SharedAddress(shared)) %
                                      static_cast<uint32_t>(view.places.alignment));
    const int before = gap / view.ring_bytes;
    tables = shared + gap;
    ring = warp < before ? shared + warp * view.ring_bytes
                         : tables + view.places.bytes + (warp - before) * view.ring_bytes;
  }
};

// Brings the steps of a warp's pieces to its ring, ahead of their use.
template <int kStrips>
class Feed {
 public:
  __device__ Feed(const ColumnsView& view, const Piece& first, int lane)
      : view_(view), lane_(lane) {
    Begin(first);
  }

  // Starts the copies of the next step, if there is one.
  __device__ void Issue(unsigned char* slot) {
    if (lines_ > 0) {
      auto* to = reinterpret_cast<uint4*>(slot);
      const int fields = view_.fields.words() / 4;
      for (int i = lane_; i < fields; i += kWarp) CopyAsync16(to + i, fields_ + i);
      fields_ += fields;
      to += fields;
      const int quarters = RunQuarters(lines_ < kStepLines ? lines_ : kStepLines, kStrips);
      const int codes = quarters * depth_ * (kWarp / 4);
      for (int i = lane_; i < codes; i += kWarp) CopyAsync16(to + i, codes_ + i);
      codes_ += codes;
      lines_ -= kStepLines;
      if (lines_ <= 0 && next_ != Piece::kNone) Begin(view_.pieces[next_]);
    }
    CommitCopies();
  }

 private:
  // With the first that has lines.
  __device__ void Begin(Piece piece) {
    while (piece.lines == 0 && piece.next != Piece::kNone) piece = view_.pieces[piece.next];
    codes_ = reinterpret_cast<const uint4*>(view_.words + piece.word);
    fields_ = reinterpret_cast<const uint4*>(view_.field_words +
                                             int64_t{piece.step} * view_.fields.words());
    lines_ = piece.lines;
    depth_ = piece.depth;
    next_ = piece.next;
  }

  const ColumnsView& view_;
  const int lane_;
  const uint4 *codes_, *fields_;
  int lines_, depth_, next_;
};

// A warp's sums of a tile.
template <int kStrips, int kVectors>
class Tile {
 public:
  __device__ explicit Tile(int lane) : lane_(lane) {}

  // The lines of a step, x * scale of which is staged for MultiplyQuarters: in words of two
  // neighbouring lines. Adds the means' part of the sums.
  __device__ void ShareX(const ColumnsView& view, const uint32_t* fields, int lines, const float* x,
                         uint32_t* staged) {
    int line[2];
    if (view.fields.wide) {
      line[0] = static_cast<int>(fields[2 * lane_]);
      line[1] = static_cast<int>(fields[2 * lane_ + 1]);
    } else {
      const uint32_t both = fields[lane_];
      line[0] = static_cast<int>(both & 0xffff);
      line[1] = static_cast<int>(both >> 16);
    }
    const auto pair = [&](int word) {
      return reinterpret_cast<const float2*>(fields + word)[lane_];
    };
    const float2 scale = pair(view.fields.scale_word());
    float values[2][kVectors];
#pragma unroll
    for (int e = 0; e < 2; ++e) LoadX(x, line[e], 2 * lane_ + e < lines, values[e]);
    if (view.fields.means) {
      const float2 mean = pair(view.fields.mean_word());
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        means_[v] = Fma(mean.y, values[1][v], Fma(mean.x, values[0][v], means_[v]));
      }
    }
    const auto pack = [&](int v) {
      return PackBF16(values[0][v] * scale.x, values[1][v] * scale.y);
    };
    // A pair of lines is that of lane 8 * group + 4 * half + t. With one vector, lane t finds its
    // eight pairs side by side, and all columns of a product are that one.
    if constexpr (kVectors == 1) {
      staged[lane_ % 4 * 8 + lane_ / 8 * 2 + lane_ / 4 % 2] = pack(0);
    } else {
      auto* to = reinterpret_cast<uint4*>(staged) + lane_ * 2;
      to[0] = make_uint4(pack(0), pack(1), pack(2), pack(3));
      to[1] = make_uint4(pack(4), pack(5), pack(6), pack(7));
    }
  }

  template <int kDepth>
  __device__ void MultiplyQuarters(int quarters, const uint32_t* codes, const uint32_t* staged,
                                   uint32_t lane_table) {
    constexpr int kGroups = 4 / kStrips;  // of 16 lines in a quarter
#pragma unroll 1
    for (int q = 0; q < quarters; ++q) {
      uint32_t words[kDepth];
#pragma unroll
      for (int i = 0; i < kDepth; ++i) words[i] = codes[(q * kDepth + i) * kWarp + lane_];
      uint32_t b[kGroups][2];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        LoadStaged(staged, q * kGroups + group, b[group]);
      }
      uint32_t a[4][4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          a[m][r] = LookUp<kDepth>(words, (8 * m + 2 * r) * kDepth, lane_table);
        }
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) MmaBF16(sums_[m % kStrips], a[m], b[m / kStrips]);
    }
  }

  // Gives each of the lane's sums to write(row, vector, value), and begins anew.
  template <typename Write>
  __device__ void Give(const Write& write) {
    float means[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      means[v] = WarpReduce(means_[v], Sum());
      means_[v] = 0;
    }
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = kStripRows * strip + lane_ / 4 + i / 2 * 8;
        if constexpr (kVectors == 1) {
          if (lane_ % 4 == 0 && i % 2 == 0) write(row, 0, sums_[strip][i] + means[0]);
        } else {
          float mean = 0;  // of vector 2 t + i % 2
#pragma unroll
          for (int t = 0; t < 4; ++t) mean = lane_ % 4 == t ? means[2 * t + i % 2] : mean;
          write(row, lane_ % 4 * 2 + i % 2, sums_[strip][i] + mean);
        }
        sums_[strip][i] = 0;
      }
    }
  }

 private:
  // x [N], or [N, 8].
  __device__ static void LoadX(const float* x, int line, bool filled, float (&values)[kVectors]) {
    if constexpr (kVectors == 1) {
      values[0] = filled ? x[line] : 0;
    } else {
      const float4* from = reinterpret_cast<const float4*>(x) + int64_t{line} * 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 four = filled ? from[half] : make_float4(0, 0, 0, 0);
        values[4 * half] = four.x;
        values[4 * half + 1] = four.y;
        values[4 * half + 2] = four.z;
        values[4 * half + 3] = four.w;
      }
    }
  }

  // The lane's part of x in a product with a group of 16 lines.
  __device__ void LoadStaged(const uint32_t* staged, int group, uint32_t (&b)[2]) const {
    const int t = lane_ % 4;
    if constexpr (kVectors == 1) {
      const uint2 both = *reinterpret_cast<const uint2*>(staged + t * 8 + group * 2);
      b[0] = both.x;
      b[1] = both.y;
    } else {
      b[0] = staged[(8 * group + t) * kVectors + lane_ / 4];
      b[1] = staged[(8 * group + 4 + t) * kVectors + lane_ / 4];
    }
  }

  const int lane_;
  float sums_[kStrips][4] = {};
  float means_[kVectors] = {};
};

// y[n, M] from x.
template <int kStrips, int kVectors>
__global__ __launch_bounds__(kMaxProductWarps* kWarp,
                             1) void PackedColumnsKernel(ColumnsView view, const float* x, int n,
                                                         const float* bias, float* partial,
                                                         float* y) {
  constexpr int kTileRows = kStripRows * kStrips, kTileSums = kTileRows * kVectors;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const SharedPlaces places(view, DynamicShared(), warp);
  Piece piece = view.pieces[int64_t{blockIdx.x} * (blockDim.x / kWarp) + warp];
  Feed<kStrips> feed(view, piece, lane);
  for (int i = 0; i + 1 < kRingSlots; ++i) feed.Issue(places.ring + i * view.slot_bytes);
  FillTables(view, places.tables);
  __syncthreads();
  if (piece.tile == Piece::kNone) return;

  const uint32_t tables = SharedAddress(places.tables) + 4 * lane;
  auto* staged = reinterpret_cast<uint32_t*>(places.ring + kRingSlots * view.slot_bytes);
  unsigned char *slot = places.ring, *free = slot + (kRingSlots - 1) * view.slot_bytes;
  const auto write = [&](int row, int v, float value) {
    const int32_t to = view.rows[int64_t{piece.tile} * kTileRows + row];
    if (to < 0 || v >= n) return;
    y[v * view.M + to] = bias == nullptr ? value : value + bias[to];
  };
  const auto part = [&](int32_t index) { return partial + int64_t{index} * kTileSums; };

  Tile<kStrips, kVectors> tile(lane);
  while (true) {
    for (int lines = piece.lines; lines > 0; lines -= kStepLines) {
      WaitForCopies<kRingSlots - 2>();
      __syncwarp();  // all have this step, and are done with the one before
      feed.Issue(free);
      free = slot;
      const auto* fields = reinterpret_cast<const uint32_t*>(slot);
      const uint32_t* codes = fields + view.fields.words();
      slot += view.slot_bytes;
      if (slot == places.ring + kRingSlots * view.slot_bytes) slot = places.ring;

      tile.ShareX(view, fields, lines, x, staged);
      __syncwarp();
      const int quarters = RunQuarters(lines < kStepLines ? lines : kStepLines, kStrips);
      const auto multiply = [&]<int kDepth>() {
        tile.template MultiplyQuarters<kDepth>(quarters, codes, staged,
                                               tables + view.places.of[kDepth]);
      };
      switch (piece.depth) {
        case 1:
          multiply.template operator()<1>();
          break;
        case 2:
          multiply.template operator()<2>();
          break;
        case 3:
          multiply.template operator()<3>();
          break;
        case 4:
          multiply.template operator()<4>();
          break;
        case 5:
          multiply.template operator()<5>();
          break;
        case 6:
          multiply.template operator()<6>();
          break;
        case 7:
          multiply.template operator()<7>();
          break;
        case 8:
          multiply.template operator()<8>();
          break;
        default:  // 0: nothing but means
          break;
      }
    }

    if (piece.part == Piece::kWholeTile) {
      tile.Give(write);
    } else if (piece.part != Piece::kTileGoesOn) {
      float* sums = part(piece.part);
      tile.Give([&](int row, int v, float value) { sums[row * kVectors + v] = value; });
      __syncwarp();
      const TileParts parts = view.parts[piece.tile];
      uint32_t ticket = 0;
      if (lane == 0) {
        ticket = TakeTicket(&view.arrived[piece.tile]);
        if (ticket + 1 == static_cast<uint32_t>(parts.count)) view.arrived[piece.tile] = 0;
      }
      if (__shfl_sync(0xffffffffu, ticket, 0) + 1 == static_cast<uint32_t>(parts.count)) {
        for (int i = lane; i < kTileSums; i += kWarp) {
          float sum = 0;
          for (int p = 0; p < parts.count; ++p) sum += LoadFromOthers(part(parts.first + p) + i);
          write(i / kVectors, i % kVectors, sum);
        }
      }
    }
    if (piece.next == Piece::kNone) return;
    piece = view.pieces[piece.next];
  }
}

// columns[N, 8] = x[n, N] transposed, zeros beyond n.
__global__ void VectorsKernel(const float* x, int n, int64_t N, float* columns) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < N * kFewRows;
       i += int64_t{gridDim.x} * blockDim.x) {
    const auto v = static_cast<int>(i % kFewRows);
    columns[i] = v < n ? x[v * N + i / kFewRows] : 0;
  }
}

template <int kStrips, int kVectors>
void LaunchColumns(Device& device, const PackedColumns& weight, const float* x, int n,
                   const float* bias, float* y) {
  Tensor partial;
  if (weight.view.part_count > 0) {
    partial =
        device.Scratch(DType::kF32, {weight.view.part_count * kStripRows * kStrips * kVectors});
    if (device.failed()) return;
  }
  Launch(device,
         {.x = weight.plan.blocks,
          .threads = weight.plan.warps * kWarp,
          .shared_bytes = weight.plan.shared_bytes},
         PackedColumnsKernel<kStrips, kVectors>, weight.view, x, n, bias, Data<float>(partial), y);
}

}  // namespace

void MultiplyColumnsBF16(Device& device, const PackedColumns& weight, const Tensor& x,
                         const Tensor& bias, const Tensor& y) {
  const auto n = static_cast<int>(x.shape[0]);
  const float* from = Data<float>(x);
  Tensor vectors;
  if (n > 1) {
    vectors = device.Scratch(DType::kF32, {weight.columns, kFewRows});
    if (device.failed()) return;
    Launch(device, ElementGrid(weight.columns * kFewRows), VectorsKernel, from, n, weight.columns,
           Data<float>(vectors));
    from = Data<float>(vectors);
  }
  const auto launch = [&](auto one, auto few) {
    (n == 1 ? one : few)(device, weight, from, n, Data<float>(bias), Data<float>(y));
  };
  switch (weight.strips) {
    case 4:
      return launch(LaunchColumns<4, 1>, LaunchColumns<4, kFewRows>);
    case 2:
      return launch(LaunchColumns<2, 1>, LaunchColumns<2, kFewRows>);
    default:
      Require(weight.strips == 1, "PackedLinear: strips");
      return launch(LaunchColumns<1, 1>, LaunchColumns<1, kFewRows>);
  }
}

}  // namespace cvxq::cuda
