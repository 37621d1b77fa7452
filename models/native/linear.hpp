// One linear layer over packed rows, and what becomes of its results. Knows no attention.
#pragma once

#include <algorithm>

#include "model.hpp"
#include "rows.hpp"

namespace fairslate {

// Sinks take 32 neighbouring results of a row, whose first column is `column`.
struct Store {
  float* to;
  std::size_t stride;

  void take(int row, int column, __m512 left, __m512 right) const {
    _mm512_storeu_ps(to + row * stride + column, left);
    _mm512_storeu_ps(to + row * stride + column + kPanel, right);
  }
};

struct AddTo {
  float* to;
  std::size_t stride;

  void take(int row, int column, __m512 left, __m512 right) const {
    float* at = to + row * stride + column;
    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), left));
    _mm512_storeu_ps(at + kPanel, _mm512_add_ps(_mm512_loadu_ps(at + kPanel), right));
  }
};

// silu(gate) * up, of which every pair of panels holds 16 each.
struct StoreSwiGlu {
  float* to;
  std::size_t stride;

  void take(int row, int column, __m512 gate, __m512 up) const {
    _mm512_storeu_ps(to + row * stride + column / 2, _mm512_mul_ps(silu(gate), up));
  }
};

// Sums of a block as numbers: 32 columns from `column` on.
struct Scaling {
  const Linear& linear;
  int column;

  void bias(__m512& left, __m512& right) const {
    if (linear.bias == nullptr) return;
    left = _mm512_add_ps(left, _mm512_loadu_ps(linear.bias + column));
    right = _mm512_add_ps(right, _mm512_loadu_ps(linear.bias + column + kPanel));
  }

  __m512 number(Int8, const float* sums, float scale, int at) const {
    const __m512i raw = _mm512_loadu_si512(sums);
    const __m512i start = _mm512_loadu_si512(linear.starts + at);
    const __m512 factor = _mm512_mul_ps(_mm512_loadu_ps(linear.scales + at), _mm512_set1_ps(scale));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(raw, start)), factor);
  }

  template <class Kind>
  __m512 number(Kind, const float* sums, float, int) const {
    return _mm512_loadu_ps(sums);
  }
};

template <class Kind, class Sink>
void finish_block(const Linear& linear, int column, const float* sums, const float* scales,
                  int first, int count, const Sink& sink) {
  const Scaling scaling{linear, column};
  for (int row = 0; row < count; ++row, sums += kBlockColumns) {
    const float scale = scales == nullptr ? 1.0f : scales[first + row];
    __m512 left = scaling.number(Kind{}, sums, scale, column);
    __m512 right = scaling.number(Kind{}, sums + kPanel, scale, column + kPanel);
    scaling.bias(left, right);
    sink.take(first + row, column, left, right);
  }
}

// sink(rows . weights^T) for `count` rows.
template <class Kind, class Sink>
void apply(const Linear& linear, const Rows& rows, int count, const Sink& sink) {
  const int units = linear.inputs / Kind::kValues;
  alignas(64) float sums[kBlockRows * kBlockColumns];
  for (int column = 0; column < linear.outputs; column += kBlockColumns) {
    const Unit* left = linear.panels + std::size_t(column) * units;
    const Unit* right = left + std::size_t(kPanel) * units;
    const Unit* next = right + std::size_t(kPanel) * units;
    for (int first = 0; first < count; first += kBlockRows) {
      // The next columns come to the cache while the first rows are multiplied.
      const Panels panels{&left, &right, 1, units, next, next + std::size_t(kPanel) * units,
                          first == 0 ? kPanel : 0};
      const int block = std::min(kBlockRows, count - first);
      multiply<Kind>(rows.row(first), block, rows.stride, panels, Sums{sums, kBlockColumns});
      finish_block<Kind>(linear, column, sums, rows.scales, first, block, sink);
    }
  }
}

}  // namespace fairslate
