#include "quant/feedback.h"

#include <algorithm>

#include "kernels/host_gemm.h"
#include "quant/cpu_clones.h"

namespace cvxq {
namespace {

constexpr int64_t kTileColumns = 128;

// t[r] -= l * a[r]: the inner loop inside a tile. One version for each instruction set, all with
// the same bits.
CVXQ_CPU_CLONES void Carry(float l, const float* a, int64_t rows, float* t) {
  for (int64_t r = 0; r < rows; ++r) t[r] -= l * a[r];
}

// A run of one block's places whose columns are worked one after another: a whole block where its
// rows feed each other, else one tile of rows. Arrays are [N places][n rows].
class RowRun {
 public:
  RowRun(const FeedbackInput& input, int64_t block, int64_t first, int64_t rows,
         const RoundColumn& round)
      : in_(input), block_(block), first_(first), n_(rows), round_(round) {
    const RowBlock& source = input.blocks[block];
    rows_ = source.rows.data() + first;
    lower_ = source.lower.empty() ? nullptr : source.lower.data();
    carried_.resize(in_.columns * n_);
    if (lower_ != nullptr) error_.resize(in_.columns * n_);
  }

  int64_t row_tiles() const { return (n_ + in_.tile_rows - 1) / in_.tile_rows; }
  int64_t column_tiles() const { return (in_.columns + kTileColumns - 1) / kTileColumns; }

  // All tiles. Tile (i, j) needs those of later rows and of later columns, so the tiles of one
  // antidiagonal are independent.
  void Work(ThreadPool& pool) {
    const int64_t last_row = row_tiles() - 1, last_column = column_tiles() - 1;
    for (int64_t step = 0; step <= last_row + last_column; ++step) {
      const int64_t begin = std::max<int64_t>(0, step - last_column);
      const int64_t end = std::min(last_row, step) + 1;
      pool.ParallelFor(end - begin, [&](int64_t i) {
        Tile(last_row - (begin + i), last_column - (step - begin - i));
      });
    }
  }

 private:
  int32_t ColumnAt(int64_t place) const {
    return in_.inputs != nullptr ? in_.inputs->order[place] : static_cast<int32_t>(place);
  }

  void Tile(int64_t row_tile, int64_t column_tile) {
    const int64_t r0 = row_tile * in_.tile_rows, rows = std::min(in_.tile_rows, n_ - r0);
    const int64_t c0 = column_tile * kTileColumns;
    const int64_t columns = std::min(kTileColumns, in_.columns - c0), c1 = c0 + columns;
    std::vector<float> original(columns * rows), target, owed, base(rows), rounded(rows);
    for (int64_t r = 0; r < rows; ++r) {
      const float* w = in_.w + static_cast<int64_t>(rows_[r0 + r]) * in_.columns;
      for (int64_t c = 0; c < columns; ++c) original[c * rows + r] = w[ColumnAt(c0 + c)];
    }
    target = original;
    const float* l = in_.inputs != nullptr ? in_.inputs->lower.data() : nullptr;
    const int64_t n = in_.columns;
    if (l != nullptr && c1 < n) {  // from later columns
      HostGemm(true, false, columns, rows, n - c1, -1, l + c1 * n + c0, n, &carried_[c1 * n_ + r0],
               n_, 1, target.data(), rows);
    }
    const int64_t later = n_ - r0 - rows;
    if (lower_ != nullptr && later > 0) {  // from later rows of the same columns
      owed.resize(columns * rows);
      HostGemm(false, false, columns, rows, later, 1, &error_[c0 * n_ + r0 + rows], n_,
               lower_ + (r0 + rows) * n_ + r0, n_, 0, owed.data(), rows);
      for (size_t i = 0; i < owed.size(); ++i) target[i] -= owed[i];
    }
    ColumnTile tile{.rows = rows,
                    .row = rows_ + r0,
                    .block = block_,
                    .first = first_ + r0,
                    .lower = lower_ != nullptr ? lower_ + r0 * n_ + r0 : nullptr,
                    .stride = n_};
    for (int64_t c = columns - 1; c >= 0; --c) {
      float* t = &target[c * rows];
      tile.column = ColumnAt(c0 + c);
      tile.original = &original[c * rows];
      std::copy_n(t, rows, base.data());
      round_(tile, t, rounded.data());
      float* a = &carried_[(c0 + c) * n_ + r0];  // L_O^T E
      for (int64_t r = 0; r < rows; ++r) {
        const float error = rounded[r] - tile.original[r];
        if (lower_ != nullptr) error_[(c0 + c) * n_ + r0 + r] = error;
        a[r] = error + (base[r] - t[r]) + (owed.empty() ? 0.0f : owed[c * rows + r]);
      }
      if (l == nullptr) continue;
      for (int64_t j = 0; j < c; ++j) {
        Carry(l[(c0 + c) * n + c0 + j], a, rows, &target[j * rows]);
      }
    }
  }

  const FeedbackInput& in_;
  const int64_t block_, first_, n_;
  const RoundColumn& round_;
  const int32_t* rows_;
  const float* lower_;
  std::vector<float> error_;    // E; where rows feed each other
  std::vector<float> carried_;  // A = L_O^T E
};

}  // namespace

void RoundWithFeedback(const FeedbackInput& input, ThreadPool& pool, const RoundColumn& round) {
  struct Run {
    int64_t block, first, rows;
  };
  std::vector<Run> runs;
  for (size_t b = 0; b < input.blocks.size(); ++b) {
    const int64_t n = static_cast<int64_t>(input.blocks[b].rows.size());
    const int64_t step = input.blocks[b].lower.empty() ? input.tile_rows : n;
    for (int64_t first = 0; first < n; first += step) {
      runs.push_back({static_cast<int64_t>(b), first, std::min(step, n - first)});
    }
  }
  const auto work = [&](int64_t i) {
    RowRun(input, runs[i].block, runs[i].first, runs[i].rows, round).Work(pool);
  };
  // Threads share the runs where there are enough of them, else the tiles of each run.
  if (static_cast<int>(runs.size()) >= pool.threads()) {
    pool.ParallelFor(static_cast<int64_t>(runs.size()), work);
  } else {
    for (size_t i = 0; i < runs.size(); ++i) work(static_cast<int64_t>(i));
  }
}

void RoundWithFeedbackReference(const FeedbackInput& input, const RoundColumn& round) {
  const int64_t n = input.columns;
  for (size_t b = 0; b < input.blocks.size(); ++b) {
    const RowBlock& block = input.blocks[b];
    const int64_t m = static_cast<int64_t>(block.rows.size());
    const auto lo = [&](int64_t i, int64_t j) {
      return i == j ? 1.0 : block.lower.empty() ? 0.0 : static_cast<double>(block.lower[i * m + j]);
    };
    const auto li = [&](int64_t i, int64_t j) {
      return i == j                    ? 1.0
             : input.inputs == nullptr ? 0.0
                                       : static_cast<double>(input.inputs->lower[i * n + j]);
    };
    std::vector<double> error(m * n);  // [places, places]
    for (int64_t c = n - 1; c >= 0; --c) {
      const int64_t column = input.inputs != nullptr ? input.inputs->order[c] : c;
      for (int64_t first = (m - 1) / input.tile_rows * input.tile_rows; first >= 0;
           first -= input.tile_rows) {
        const int64_t rows = std::min(input.tile_rows, m - first);
        std::vector<float> original(rows), target(rows), rounded(rows);
        for (int64_t r = 0; r < rows; ++r) {
          original[r] = input.w[block.rows[first + r] * n + column];
          double sum = 0;  // all but what this tile's own rows owe each other in this column
          for (int64_t i = first + r; i < m; ++i) {
            for (int64_t j = c; j < n; ++j) {
              if (j == c && i < first + rows) continue;
              sum += lo(i, first + r) * error[i * n + j] * li(j, c);
            }
          }
          target[r] = static_cast<float>(original[r] - sum);
        }
        round({.column = column,
               .rows = rows,
               .row = &block.rows[first],
               .block = static_cast<int64_t>(b),
               .first = first,
               .original = original.data(),
               .lower = block.lower.empty() ? nullptr : &block.lower[first * m + first],
               .stride = m},
              target.data(), rounded.data());
        for (int64_t r = 0; r < rows; ++r) {
          error[(first + r) * n + c] = static_cast<double>(rounded[r]) - original[r];
        }
      }
    }
  }
}

}  // namespace cvxq
