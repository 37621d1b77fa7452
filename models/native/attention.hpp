// Attention of a block of queries, keys taken in chunks with a running maximum. Knows no layer.
//
// Chunks start at fixed positions and a masked weight is exactly zero, so what a query gets depends
// on itself and its keys alone.
#pragma once

#include <algorithm>

#include "pages.hpp"

namespace fairslate {

constexpr int kQueryRows = 48;                        // rows of a block
constexpr int kChunkPages = 16;                       // sub-pages of a chunk
constexpr int kChunkKeys = kChunkPages * kSubPage;
constexpr int kMaxHeadDim = 512;
constexpr float kNothing = -1e30f;                    // a score below all scores

// o = sum p v and total = sum p of the keys so far, p = 2^(score - top).
struct AttentionState {
  alignas(64) float top[kQueryRows];
  alignas(64) float total[kQueryRows];
  alignas(64) float fade[kQueryRows];
  alignas(64) float scores[kQueryRows * kChunkKeys];
  alignas(64) Unit weights[kQueryRows * kChunkKeys];
  alignas(64) float out[kQueryRows * kMaxHeadDim];

  void start(int rows, int head_dim) {
    std::fill_n(top, rows, kNothing);
    std::fill_n(total, rows, 0.0f);
    std::fill_n(out, rows * head_dim, 0.0f);
  }
};

// A chunk of keys of one head, and how many of them each row sees.
struct Chunk {
  const PageView& pages;
  int head;
  int first;           // sub-page
  int count;           // sub-pages, 1 to kChunkPages
  const int* visible;  // (rows)
};

// Weights of one row; keeps its maximum and total.
template <class Kind>
void weigh(AttentionState& state, int row, int visible, int width) {
  const float* scores = state.scores + row * kChunkKeys;
  __m512 most = _mm512_set1_ps(state.top[row]);
  for (int i = 0; i < visible; i += kLanes)
    most = _mm512_mask_max_ps(most, first_lanes(visible - i), most, _mm512_loadu_ps(scores + i));
  const float top = _mm512_reduce_max_ps(most);
  __m512 total = _mm512_setzero_ps();
  alignas(64) float weights[kChunkKeys];
  for (int i = 0; i < width; i += kLanes) {
    const __m512 power = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores + i), _mm512_set1_ps(top)));
    const __m512 weight = _mm512_maskz_mov_ps(first_lanes(visible - i), power);
    total = _mm512_add_ps(total, weight);
    _mm512_store_ps(weights + i, weight);
  }
  pack(Kind{}, weights, width, state.weights + row * (kChunkKeys / Kind::kValues), nullptr);
  state.fade[row] = _mm512_cvtss_f32(exp2(_mm512_set1_ps(state.top[row] - top)));
  state.total[row] = state.total[row] * state.fade[row] + _mm512_reduce_add_ps(total);
  state.top[row] = top;
}

template <class Kind>
void score(AttentionState& state, const Rows& queries, int first, int count, int head_dim,
           const Chunk& chunk) {
  for (int page = 0; page < chunk.count; page += 2) {
    const Unit* left = chunk.pages.key(chunk.first + page, chunk.head);
    const int other = std::min(page + 1, chunk.count - 1);
    const Unit* right = chunk.pages.key(chunk.first + other, chunk.head);
    const Panels panels{&left, &right, 1, head_dim / Kind::kValues};
    for (int row = first; row < first + count; row += kBlockRows) {
      float* to = state.scores + row * kChunkKeys + page * kSubPage;
      const int rows = std::min(kBlockRows, first + count - row);
      multiply<Kind>(queries.row(row), rows, queries.stride, panels, Sums{to, kChunkKeys});
    }
  }
}

template <class Kind>
void mix(AttentionState& state, int first, int count, int head_dim, const Chunk& chunk) {
  constexpr int kUnits = kSubPage / Kind::kValues;
  constexpr std::size_t kStride = kChunkKeys / Kind::kValues;
  const Unit *left[kChunkPages], *right[kChunkPages];
  alignas(64) float sums[kBlockRows * kBlockColumns];
  for (int column = 0; column < head_dim; column += kBlockColumns) {
    for (int page = 0; page < chunk.count; ++page) {
      left[page] = chunk.pages.value(chunk.first + page, chunk.head) + column * kUnits;
      right[page] = left[page] + kPanel * kUnits;
    }
    const Panels panels{left, right, chunk.count, kUnits};
    for (int row = first; row < first + count; row += kBlockRows) {
      const int rows = std::min(kBlockRows, first + count - row);
      const Unit* weights = state.weights + row * kStride;
      multiply<Kind>(weights, rows, kStride, panels, Sums{sums, kBlockColumns});
      for (int r = 0; r < rows; ++r) {
        const __m512 fade = _mm512_set1_ps(state.fade[row + r]);
        float* out = state.out + (row + r) * head_dim + column;
        for (int half = 0; half < kBlockColumns; half += kPanel) {
          const __m512 fresh = _mm512_load_ps(sums + r * kBlockColumns + half);
          const __m512 old = _mm512_loadu_ps(out + half);
          _mm512_storeu_ps(out + half, _mm512_fmadd_ps(old, fade, fresh));
        }
      }
    }
  }
}

// Adds a chunk's keys to rows [first, first + count) of the block.
template <class Kind>
void attend(AttentionState& state, const Rows& queries, int first, int count, int head_dim,
            const Chunk& chunk) {
  score<Kind>(state, queries, first, count, head_dim, chunk);
  const int width = chunk.count * kSubPage;
  for (int row = 0; row < count; ++row)
    weigh<Kind>(state, first + row, std::clamp(chunk.visible[row], 0, width), width);
  mix<Kind>(state, first, count, head_dim, chunk);
}

// Adds `keys` keys from the start of `pages` on, of which row r sees `visible[r]`.
template <class Kind>
void attend_all(AttentionState& state, const Rows& queries, int first, int count, int head_dim,
                const PageView& pages, int head, int keys, const int* visible) {
  int left[kQueryRows];
  const int sub_pages = (keys + kSubPage - 1) / kSubPage;
  for (int page = 0; page < sub_pages; page += kChunkPages) {
    for (int row = 0; row < count; ++row) left[row] = visible[row] - page * kSubPage;
    const int pages_left = std::min(kChunkPages, sub_pages - page);
    attend<Kind>(state, queries, first, count, head_dim, Chunk{pages, head, page, pages_left, left});
  }
}

}  // namespace fairslate
