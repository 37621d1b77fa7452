// Turns rows of floats into the left side of a product. Knows no model.
#pragma once

#include "products.hpp"
#include "vectors.hpp"

namespace fairslate {

// Packed rows, `stride` units apart; int8 has one scale a row.
struct Rows {
  Unit* units;
  float* scales;
  std::size_t stride;

  Unit* row(int index) const { return units + index * stride; }
};

// scale = max|x| / 127, bytes round(x / scale) + 128. A row that is not finite gets such a scale.
inline void pack(Int8, const float* x, int width, Unit* to, float* scale) {
  __m512 top = _mm512_setzero_ps();
  for (int i = 0; i < width; i += kLanes) top = larger(top, absolute(_mm512_loadu_ps(x + i)));
  const float most = largest(top);
  *scale = most / 127.0f;
  const __m512 inverse = _mm512_set1_ps(most > 0.0f ? 127.0f / most : 0.0f);
  const __m512i middle = _mm512_set1_epi32(128);
  for (int i = 0; i < width; i += kLanes) {
    const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(value, middle));
    _mm_storeu_si128((__m128i*)((std::uint8_t*)to + i), bytes);
  }
}

inline void pack(Float32, const float* x, int width, Unit* to, float*) {
  for (int i = 0; i < width; i += kLanes) _mm512_storeu_ps((float*)to + i, _mm512_loadu_ps(x + i));
}

#ifdef __AVX512BF16__
inline void pack(BFloat16, const float* x, int width, Unit* to, float*) {
  for (int i = 0; i < width; i += kLanes) {
    const __m256bh narrow = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
    _mm256_storeu_si256((__m256i*)((std::uint16_t*)to + i), (__m256i)narrow);
  }
}
#endif

// y = weight x / sqrt(mean(x^2) + eps); both padded by zeros to `width`, the mean over `count`.
inline void rms_norm(const float* x, const float* weight, int width, int count, float eps, float* y) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < width; i += kLanes) {
    const __m512 value = _mm512_loadu_ps(x + i);
    squares = _mm512_fmadd_ps(value, value, squares);
  }
  const float mean = _mm512_reduce_add_ps(squares) / count;
  const __m512 factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean + eps));
  for (int i = 0; i < width; i += kLanes) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + i), factor);
    _mm512_storeu_ps(y + i, _mm512_mul_ps(scaled, _mm512_loadu_ps(weight + i)));
  }
}

}  // namespace fairslate
