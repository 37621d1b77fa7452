// Sixteen floats at a time: exponentials, sums and conversions. Knows no model.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fairslate {

constexpr int kLanes = 16;

// 2^x to 2 ulp, by x = n + f, |f| <= 1/2, and the Taylor polynomial of 2^f. NaN stays NaN.
inline __m512 exp2(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 sum = _mm512_set1_ps(1.5403530e-4f);
  for (float term : {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(term));
  return _mm512_scalef_ps(sum, whole);
}

// x / (1 + e^-x)
inline __m512 silu(__m512 x) {
  const __m512 power = exp2(_mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), power));
}

inline __m512 absolute(__m512 x) { return _mm512_abs_ps(x); }

// The larger of two values that are not negative; NaN counts as the largest.
inline __m512 larger(__m512 a, __m512 b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

inline float largest(__m512 x) {
  const std::int32_t bits = _mm512_reduce_max_epi32(_mm512_castps_si512(x));
  return _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(bits)));
}

// The first `count` lanes, of any count.
inline __mmask16 first_lanes(int count) {
  return count >= kLanes ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Floats of sixteen bf16 values.
inline __m512 widen(const std::uint16_t* from) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

}  // namespace fairslate
