// Products of packed rows and packed columns: one kernel for int8, bf16 and fp32. Knows no model.
//
// Everything is measured in units of four bytes along the inner dimension: 4 int8, 2 bf16 or 1 fp32.
// Rows lie one after another, `stride` units apart. Columns lie in panels of 16: unit u of column c
// of a panel stands at panel[u * 16 + c], so one vector register takes one unit of all 16.
// A sum runs over the units in order whatever rows or columns stand beside it: the result of a row
// depends on nothing but the row.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace fairslate {

using Unit = std::int32_t;
constexpr int kPanel = 16;                // columns of a panel
constexpr int kBlockRows = 12;            // 12 rows by 2 panels of sums fill 24 of 32 registers
constexpr int kBlockColumns = 2 * kPanel;

// Rows hold value + 128 as unsigned bytes, columns signed bytes; sums are int32.
struct Int8 {
  using Vector = __m512i;
  static constexpr int kValues = 4;
  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector add(Vector sums, __m512i rows, __m512i columns) {
    // GCC 12 copies and spills the sums around its own intrinsic, at half the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(rows), "v"(columns));
    return sums;
  }
  static void store(float* to, Vector sums) { _mm512_storeu_si512(to, sums); }
};

struct Float32 {
  using Vector = __m512;
  static constexpr int kValues = 1;
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector add(Vector sums, __m512i rows, __m512i columns) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(rows), _mm512_castsi512_ps(columns), sums);
  }
  static void store(float* to, Vector sums) { _mm512_storeu_ps(to, sums); }
};

#ifdef __AVX512BF16__
struct BFloat16 {
  using Vector = __m512;
  static constexpr int kValues = 2;
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector add(Vector sums, __m512i rows, __m512i columns) {
    return _mm512_dpbf16_ps(sums, (__m512bh)rows, (__m512bh)columns);
  }
  static void store(float* to, Vector sums) { _mm512_storeu_ps(to, sums); }
};
#endif

// The columns of one product: pieces of panels one below the other, `units` units each.
struct Panels {
  const Unit* const* left;   // (pieces)
  const Unit* const* right;  // (pieces)
  int pieces;
  int units;
  // Two streams of columns that are wanted next, `ahead_step` units a step.
  const Unit* ahead_left;
  const Unit* ahead_right;
  int ahead_step;

  // Nothing is wanted next: what is at hand is fetched again, at no cost.
  Panels(const Unit* const* left, const Unit* const* right, int pieces, int units)
      : Panels(left, right, pieces, units, *left, *right, 0) {}
  Panels(const Unit* const* left, const Unit* const* right, int pieces, int units,
         const Unit* ahead_left, const Unit* ahead_right, int ahead_step)
      : left(left), right(right), pieces(pieces), units(units), ahead_left(ahead_left),
        ahead_right(ahead_right), ahead_step(ahead_step) {}
};

// Results of 32 columns, rows `stride` floats apart: int32 bits for Int8, floats otherwise.
struct Sums {
  float* to;
  std::size_t stride;
};

// sums[r][0..31] = rows[r] . (left, right)
template <class Kind, int kRows>
void multiply_block(const Unit* rows, std::size_t stride, const Panels& panels, const Sums& out) {
  typename Kind::Vector sums[kRows][2];
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) sums[row][0] = sums[row][1] = Kind::zero();
  for (int piece = 0; piece < panels.pieces; ++piece, rows += panels.units) {
    const Unit* left = panels.left[piece];
    const Unit* right = panels.right[piece];
    for (int unit = 0; unit < panels.units; ++unit) {
      _mm_prefetch((const char*)(panels.ahead_left + unit * panels.ahead_step), _MM_HINT_T1);
      _mm_prefetch((const char*)(panels.ahead_right + unit * panels.ahead_step), _MM_HINT_T1);
      const __m512i columns[2] = {_mm512_loadu_si512(left + unit * kPanel),
                                  _mm512_loadu_si512(right + unit * kPanel)};
#pragma GCC unroll 12
      for (int row = 0; row < kRows; ++row) {
        const __m512i value = _mm512_set1_epi32(rows[row * stride + unit]);
        sums[row][0] = Kind::add(sums[row][0], value, columns[0]);
        sums[row][1] = Kind::add(sums[row][1], value, columns[1]);
      }
    }
  }
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    Kind::store(out.to + row * out.stride, sums[row][0]);
    Kind::store(out.to + row * out.stride + kPanel, sums[row][1]);
  }
}

// As multiply_block, for 1 to 12 rows.
template <class Kind>
void multiply(const Unit* rows, int count, std::size_t stride, const Panels& panels,
              const Sums& out) {
  using Function = void (*)(const Unit*, std::size_t, const Panels&, const Sums&);
  static constexpr Function kBySize[kBlockRows] = {
      multiply_block<Kind, 1>, multiply_block<Kind, 2>,  multiply_block<Kind, 3>,
      multiply_block<Kind, 4>, multiply_block<Kind, 5>,  multiply_block<Kind, 6>,
      multiply_block<Kind, 7>, multiply_block<Kind, 8>,  multiply_block<Kind, 9>,
      multiply_block<Kind, 10>, multiply_block<Kind, 11>, multiply_block<Kind, 12>};
  kBySize[count - 1](rows, stride, panels, out);
}

}  // namespace fairslate
