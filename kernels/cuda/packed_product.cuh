// What the products with packed matrices (packed_product_one.cu, packed_product_few.cu) share.
//
// One block on each multiprocessor, whose warps go through their pieces (packed_shares.h) and need
// each other for nothing. A warp has the next step on its way to a ring in shared memory while it
// multiplies one: it stages what the lanes need of x, then turns codes into levels, four at a time,
// and gives them to tensor cores. A product starts, and brings its first steps, on multiprocessors
// that the kernel ahead of it has left, while that is still at work on others.
#ifndef CVXQ_KERNELS_CUDA_PACKED_PRODUCT_CUH_
#define CVXQ_KERNELS_CUDA_PACKED_PRODUCT_CUH_

#include <cstdint>
#include <kernels/cuda/intrinsics.cuh>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_columns.h"

namespace cvxq::cuda {

// The levels of four codes, as bytes: the low and the high byte of each.
struct LevelBytes {
  uint32_t low, high;
};

// The codes of an octet, each in its half-byte; the other bits are 0.
template <int kDepth>
__device__ uint32_t Octet(const uint32_t (&words)[kDepth], int octet) {
  if constexpr (kDepth == 1) {
    return words[0] >> octet & 0x11111111u;
  } else if constexpr (kDepth == 2) {
    return words[octet / 2] >> (2 * (octet % 2)) & 0x33333333u;
  } else if constexpr (kDepth == 3) {
    if (octet < 3) return words[octet] & 0x77777777u;
    return (words[0] >> 3 & 0x11111111u) | (words[1] >> 2 & 0x22222222u) |
           (words[2] >> 1 & 0x44444444u);
  } else {
    return words[octet];
  }
}

// An octet of which the lower half chooses, as ChooseLevels wants it.
template <int kDepth>
struct OctetCodes {
  uint32_t codes, fourth_bits = 0;  // of each code apart, where there are any

  __device__ explicit OctetCodes(uint32_t octet) : codes(octet) {
    if constexpr (kDepth == 4) {
      codes = octet & 0x77777777u;
      fourth_bits = octet >> 3 & 0x11111111u;
    }
  }
  __device__ void ToUpperHalf() {
    codes >>= 16;
    fourth_bits >>= 16;
  }
};

// Of the four codes in the lower half.
template <int kDepth>
__device__ LevelBytes ChooseLevels(const OctetCodes<kDepth>& octet, const Levels::Octets& table) {
  if constexpr (kDepth < 4) {
    return {ChooseBytes(table.low[0], table.low[1], octet.codes),
            ChooseBytes(table.high[0], table.high[1], octet.codes)};
  } else {
    // The codes' fourth bits choose between the halves of the table.
    const uint32_t second = ChooseBytes(0x0000ff00u, 0, octet.fourth_bits);
    const auto choose = [&](const uint32_t(&bytes)[4]) {
      return (ChooseBytes(bytes[0], bytes[1], octet.codes) & ~second) |
             (ChooseBytes(bytes[2], bytes[3], octet.codes) & second);
    };
    return {choose(table.low), choose(table.high)};
  }
}

// The level of a code of more than four bits, from the lane's copy of its table in shared memory:
// entry e for lane l at places.of[depth] + 128 e + 4 l.
__device__ inline uint32_t LookUp(const uint32_t* words, int at, int depth, uint32_t lane_table) {
  constexpr int kUp = 7;  // an entry's distance from the table's begin is the code times 128
  const int word = at / 32, shift = at % 32 - kUp;
  const uint32_t mask = ((1u << depth) - 1) << kUp;
  uint32_t entry;
  if (at % 32 + depth > 32) {
    entry = ShiftPair(words[word], words[word + 1], shift);
  } else {
    entry = shift >= 0 ? words[word] >> shift : words[word] << -shift;
  }
  return LoadShared((entry & mask) | lane_table);
}

// The levels of the codes 4 i to 4 i + 3 of a quarter, for i of a product's four registers.
template <int kDepth>
__device__ void DecodeProduct(const uint32_t (&words)[kDepth], int product,
                              const LevelsView& levels, uint32_t lane_table, uint32_t (&low)[4],
                              uint32_t (&high)[4]) {
  if constexpr (kDepth <= kMaxOctetDepth) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      OctetCodes<kDepth> octet(Octet<kDepth>(words, 2 * product + i));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const LevelBytes bytes = ChooseLevels<kDepth>(octet, levels.octets[kDepth]);
        low[2 * i + half] = bytes.low;
        high[2 * i + half] = bytes.high;
        octet.ToUpperHalf();
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t pairs[2];  // low bytes of two, then their high bytes
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const int at = (16 * product + 4 * i + 2 * pair) * kDepth;
        pairs[pair] = ChooseBytes(LookUp(words, at, kDepth, lane_table),
                                  LookUp(words, at + kDepth, kDepth, lane_table), 0x5140u);
      }
      low[i] = ChooseBytes(pairs[0], pairs[1], 0x5410u);
      high[i] = ChooseBytes(pairs[0], pairs[1], 0x7632u);
    }
  }
}

// The tables of LookUp.
__device__ inline void FillTables(const ColumnsView& view, const LevelsView& levels,
                                  unsigned char* tables) {
  for (int b = kMaxOctetDepth + 1; b <= kMaxDepth; ++b) {
    if (view.places.of[b] < 0) continue;
    auto* entries = reinterpret_cast<uint4*>(tables + view.places.of[b]);
    for (int i = threadIdx.x; i < TableBytes(b) / 16; i += blockDim.x) {
      const uint32_t level = levels.values[FirstOfTable(b) + i / 8];
      entries[i] = make_uint4(level, level, level, level);
    }
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
      Copy(slot, fields_, view_.field_units);
      fields_ += view_.field_units;
      const int codes =
          RunQuarters(lines_ < kStepLines ? lines_ : kStepLines, kStrips) * quarter_units_;
      Copy(slot + 16 * view_.field_units, codes_, codes);
      codes_ += codes;
      lines_ -= kStepLines;
      if (lines_ <= 0 && next_ != Piece::kNone) Begin(view_.pieces[next_]);
    }
    CommitCopies();
  }

 private:
  // Units of 16 bytes.
  __device__ void Copy(unsigned char* to, const uint4* from, int units) const {
    constexpr int kBytes = 16 * kWarp;
    to += 16 * lane_;
    from += lane_;
#pragma unroll 1
    for (; units >= 2 * kWarp; units -= 2 * kWarp, to += 2 * kBytes, from += 2 * kWarp) {
      CopyAsync16(to, from);
      CopyAsync16(to + kBytes, from + kWarp);
    }
    if (lane_ < units) CopyAsync16(to, from);
    if (lane_ + kWarp < units) CopyAsync16(to + kBytes, from + kWarp);
  }

  // With the first that has lines.
  __device__ void Begin(Piece piece) {
    while (piece.lines == 0 && piece.next != Piece::kNone) piece = view_.pieces[piece.next];
    codes_ = reinterpret_cast<const uint4*>(view_.words + piece.word);
    fields_ =
        reinterpret_cast<const uint4*>(view_.field_words) + int64_t{piece.step} * view_.field_units;
    lines_ = piece.lines;
    quarter_units_ = piece.depth * (kWarp / 4);
    next_ = piece.next;
  }

  const ColumnsView& view_;
  const int lane_;
  const uint4 *codes_, *fields_;
  int lines_, quarter_units_, next_;
};

// A step in shared memory.
struct Step {
  const uint32_t* fields;
  const uint32_t* codes;  // of all lanes
  int quarters;
};

// body.operator()<depth>(): a depth of 0 is not given.
template <typename Body>
__device__ void WithDepth(int depth, const Body& body) {
  switch (depth) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    case 5:
      return body.template operator()<5>();
    case 6:
      return body.template operator()<6>();
    case 7:
      return body.template operator()<7>();
    case 8:
      return body.template operator()<8>();
    default:
      return;
  }
}

// What is read once a tile is done is far away.
__device__ inline void PrefetchTile(const ColumnsView& view, int32_t tile, int rows, int lane) {
  if (tile == Piece::kNone) return;
  if (lane == 0) PrefetchToL2(view.parts + tile);
  if (lane == 1) PrefetchToL2(view.arrived + tile);
  if (lane >= 2 && (lane - 2) * kWarp < rows) {
    PrefetchToL2(view.rows + int64_t{tile} * rows + (lane - 2) * kWarp);
  }
}

// Multiplies the pieces of this warp. A Tile has kRows rows and kSums sums (row * kVectors +
// vector):
//   Multiply(depth, step, staged, lane_tables)  adds a step; the warp is in step before and behind
//   Give(write)  calls write(row, vector, sum) for each, one lane for each sum, and begins anew
// write(row of W, vector, sum) is what becomes of the sums of a whole tile.
template <int kStrips, typename Tile, typename Write>
__device__ void MultiplyPieces(const ColumnsView& view, const LevelsView& levels, float* partial,
                               Tile& tile, const Write& write) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const SharedPlaces places(view, DynamicShared(), warp);
  Piece piece = view.pieces[int64_t{blockIdx.x} * (blockDim.x / kWarp) + warp];
  Feed<kStrips> feed(view, piece, lane);
#pragma unroll
  for (int i = 0; i + 1 < kRingSlots; ++i) feed.Issue(places.ring + i * view.slot_bytes);
  PrefetchTile(view, piece.tile, Tile::kRows, lane);
  if (view.places.bytes > 0) {
    FillTables(view, levels, places.tables);
    __syncthreads();
  }
  LetLaterKernelsStart();
  WaitForEarlierKernels();  // what comes before this belongs to the matrix
  if (piece.tile == Piece::kNone) return;

  const uint32_t lane_tables = SharedAddress(places.tables) + 4 * lane;
  unsigned char* const end = places.ring + kRingSlots * view.slot_bytes;
  auto* const staged = reinterpret_cast<uint32_t*>(end);
  unsigned char *slot = places.ring, *free = end - view.slot_bytes;
  const auto write_row = [&](int row, int v, float sum) {
    const int32_t to = view.rows[int64_t{piece.tile} * Tile::kRows + row];
    if (to >= 0) write(to, v, sum);
  };
  const auto part = [&](int32_t index) { return partial + int64_t{index} * Tile::kSums; };

  while (true) {
    for (int lines = piece.lines; lines > 0; lines -= kStepLines) {
      WaitForCopies<kRingSlots - 2>();
      __syncwarp();  // all have this step, and are done with the one before
      feed.Issue(free);
      free = slot;
      const auto* fields = reinterpret_cast<const uint32_t*>(slot);
      slot += view.slot_bytes;
      if (slot == end) slot = places.ring;
      const Step step{fields, fields + 4 * view.field_units,
                      RunQuarters(lines < kStepLines ? lines : kStepLines, kStrips)};
      tile.Multiply(piece.depth, step, staged, lane_tables);
    }

    if (piece.part == Piece::kWholeTile) {
      tile.Give(write_row);
    } else if (piece.part != Piece::kTileGoesOn) {
      float* sums = part(piece.part);
      tile.Give([&](int row, int v, float sum) { sums[row * Tile::kVectors + v] = sum; });
      __syncwarp();
      const TileParts parts = view.parts[piece.tile];
      uint32_t ticket = 0;
      if (lane == 0) ticket = TakeTicket(&view.arrived[piece.tile]);
      if (__shfl_sync(0xffffffffu, ticket, 0) + 1 == static_cast<uint32_t>(parts.count)) {
        SeeEarlierTickets();
        if (lane == 0) view.arrived[piece.tile] = 0;
        for (int i = lane; i < Tile::kSums; i += kWarp) {
          float sum = 0;
          for (int p = 0; p < parts.count; ++p) sum += LoadFromOthers(part(parts.first + p) + i);
          write_row(i / Tile::kVectors, i % Tile::kVectors, sum);
        }
      }
    }
    if (piece.next == Piece::kNone) return;
    const int32_t tile_before = piece.tile;
    piece = view.pieces[piece.next];
    if (piece.tile != tile_before) PrefetchTile(view, piece.tile, Tile::kRows, lane);
  }
}

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_PACKED_PRODUCT_CUH_
