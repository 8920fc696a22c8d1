// msl_matrix.h - geometry (specification 6.8), matrices (column-major, specification 2.3), arrays, packing, fast:: and precise::.
#pragma once
#include "msl_math.h"

namespace elinvar_msl {
namespace metal {
// Dot products are chains of fma, so that both compilers give the same bits.
template <class T, int N> ELINVAR_FN T elinvar_dot(const vec<T, N>& a, const vec<T, N>& b) {
  if constexpr (is_floating_point_v<T>) {
    float sum = float(a.v[0]) * float(b.v[0]);
    for (int i = 1; i < N; i++) sum = elinvar_leaf::fma(float(a.v[i]), float(b.v[i]), sum);
    return T(sum);
  } else {
    T sum = T(a.v[0] * b.v[0]);
    for (int i = 1; i < N; i++) sum = T(sum + a.v[i] * b.v[i]);
    return sum;
  }
}
template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN typename V::value_type dot(const A& a, const B& b) {
  return elinvar_dot(V(a), V(b));
}
template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN typename V::value_type length_squared(const A& a) { return dot(a, a); }
template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN typename V::value_type length(const A& a) { return sqrt(dot(a, a)); }
template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN V normalize(const A& a) { return V(a) / length(a); }
template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN typename V::value_type distance(const A& a, const B& b) {
  return length(V(a) - V(b));
}
template <class A, class B, class V = elinvar_pair<A, B>>
ELINVAR_FN typename V::value_type distance_squared(const A& a, const B& b) {
  return length_squared(V(a) - V(b));
}
template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN V cross(const A& a, const B& b) {
  static_assert(elinvar_shape<V>::count == 3, "cross takes two vectors of three components");
  const V x(a), y(b);
  return V(fma(x.y, y.z, -(x.z * y.y)), fma(x.z, y.x, -(x.x * y.z)), fma(x.x, y.y, -(x.y * y.x)));
}
template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN V reflect(const A& incident, const B& normal) {
  typedef typename V::value_type T;
  return V(incident) - T(2) * dot(normal, incident) * V(normal);
}
template <class A, class B, class V = elinvar_pair<A, B>>
ELINVAR_FN V refract(const A& incident, const B& normal, typename V::value_type eta) {
  typedef typename V::value_type T;
  const T cosine = dot(normal, incident), k = T(1) - eta * eta * (T(1) - cosine * cosine);
  return k < T(0) ? V(T(0)) : eta * V(incident) - (eta * cosine + sqrt(k)) * V(normal);
}
template <class A, class B, class C, class V = elinvar_triple<A, B, C>>
ELINVAR_FN V faceforward(const A& normal, const B& incident, const C& reference) {
  return dot(reference, incident) < typename V::value_type(0) ? V(normal) : -V(normal);
}

// ---- matrices -----------------------------------------------------------------------------------------------------
template <class T, int C, int R> struct matrix {
  vec<T, R> columns[C];
  matrix() = default;
  template <class S, class = enable_if_t<elinvar_kind_v<S> != 0>> ELINVAR_FN explicit constexpr matrix(S diagonal) : columns{} {
    for (int c = 0; c < C; c++) for (int r = 0; r < R; r++) columns[c].v[r] = c == r ? T(diagonal) : T(0);
  }
  template <class... A, class = enable_if_t<(sizeof...(A) > 1) && (sizeof...(A) == C || sizeof...(A) == C * R) &&
                                            (elinvar_gives<T, A>::value + ...) == C * R>>
  ELINVAR_FN constexpr matrix(const A&... parts) : columns{} {
    T all[C * R] = {};
    int at = 0;
    (elinvar_fill(all, at, parts), ...);
    for (int c = 0; c < C; c++) for (int r = 0; r < R; r++) columns[c].v[r] = all[c * R + r];
  }
  ELINVAR_FN constexpr vec<T, R>& operator[](int c) { return columns[c]; }
  ELINVAR_FN constexpr const vec<T, R>& operator[](int c) const { return columns[c]; }
};
#define ELINVAR_MATRIX_OP(op)                                                                                          \
  template <class T, int C, int R> ELINVAR_FN matrix<T, C, R> operator op(matrix<T, C, R> a, const matrix<T, C, R>& b) { \
    for (int c = 0; c < C; c++) a.columns[c] = a.columns[c] op b.columns[c];                                           \
    return a;                                                                                                          \
  }                                                                                                                    \
  template <class T, int C, int R> ELINVAR_FN matrix<T, C, R>& operator op##=(matrix<T, C, R>& a, const matrix<T, C, R>& b) { \
    return a = a op b;                                                                                                 \
  }
ELINVAR_MATRIX_OP(+) ELINVAR_MATRIX_OP(-)
template <class T, int C, int R, class S, class = enable_if_t<elinvar_kind_v<S> != 0>>
ELINVAR_FN matrix<T, C, R> operator*(matrix<T, C, R> a, S scale) {
  for (int c = 0; c < C; c++) a.columns[c] = a.columns[c] * T(scale);
  return a;
}
template <class T, int C, int R, class S, class = enable_if_t<elinvar_kind_v<S> != 0>>
ELINVAR_FN matrix<T, C, R> operator*(S scale, const matrix<T, C, R>& a) {
  return a * scale;
}
template <class T, int C, int R, class A, class = enable_if_t<is_same_v<elinvar_vec_t<A>, vec<T, C>>>>
ELINVAR_FN vec<T, R> operator*(const matrix<T, C, R>& m, const A& a) {
  const vec<T, C> x(a);
  vec<T, R> sum = m.columns[0] * x.v[0];
  for (int c = 1; c < C; c++) sum = fma(m.columns[c], vec<T, R>(x.v[c]), sum);
  return sum;
}
template <class T, int C, int R, class A, class = enable_if_t<is_same_v<elinvar_vec_t<A>, vec<T, R>>>, class = void>
ELINVAR_FN vec<T, C> operator*(const A& a, const matrix<T, C, R>& m) {
  vec<T, C> result(T(0));
  for (int c = 0; c < C; c++) result.v[c] = dot(vec<T, R>(a), m.columns[c]);
  return result;
}
template <class T, int K, int R, int C> ELINVAR_FN matrix<T, C, R> operator*(const matrix<T, K, R>& a, const matrix<T, C, K>& b) {
  matrix<T, C, R> result;
  for (int c = 0; c < C; c++) result.columns[c] = a * b.columns[c];
  return result;
}
template <class T, int N> ELINVAR_FN matrix<T, N, N>& operator*=(matrix<T, N, N>& a, const matrix<T, N, N>& b) { return a = a * b; }
template <class T, int C, int R> ELINVAR_FN matrix<T, R, C> transpose(const matrix<T, C, R>& m) {
  matrix<T, R, C> result;
  for (int c = 0; c < C; c++) for (int r = 0; r < R; r++) result.columns[r].v[c] = m.columns[c].v[r];
  return result;
}
template <class T> ELINVAR_FN T determinant(const matrix<T, 2, 2>& m) { return m[0].x * m[1].y - m[1].x * m[0].y; }
template <class T> ELINVAR_FN T determinant(const matrix<T, 3, 3>& m) { return dot(m[0], cross(m[1], m[2])); }
template <class T> ELINVAR_FN T determinant(const matrix<T, 4, 4>& m) {
  T sum = T(0);
  for (int c = 0; c < 4; c++) {
    matrix<T, 3, 3> minor;
    for (int k = 0; k < 3; k++) {
      const vec<T, 4>& column = m[k < c ? k : k + 1];
      minor[k] = vec<T, 3>(column.y, column.z, column.w);
    }
    sum += (c & 1 ? -m[c].x : m[c].x) * determinant(minor);
  }
  return sum;
}

// ---- array, limits ------------------------------------------------------------------------------------------------
template <class T, size_t N> struct array {
  T elements[N];
  ELINVAR_FN constexpr T& operator[](size_t i) { return elements[i]; }
  ELINVAR_FN constexpr const T& operator[](size_t i) const { return elements[i]; }
  ELINVAR_FN static constexpr size_t size() { return N; }
  ELINVAR_FN constexpr T* data() { return elements; }
  ELINVAR_FN constexpr const T* data() const { return elements; }
};
template <class T> struct numeric_limits;
#define ELINVAR_LIMITS(T, LOWEST, MAX, MIN, EPSILON, INF, QUIET, FLOATING)                                             \
  template <> struct numeric_limits<T> {                                                                               \
    static constexpr bool is_specialized = true, is_integer = !FLOATING, has_infinity = FLOATING;                      \
    static constexpr bool is_signed = elinvar_kind_v<T> == 2 || FLOATING;                                              \
    ELINVAR_FN static constexpr T lowest() { return T(LOWEST); }                                                       \
    ELINVAR_FN static constexpr T max() { return T(MAX); }                                                             \
    ELINVAR_FN static constexpr T min() { return T(MIN); }                                                             \
    ELINVAR_FN static constexpr T epsilon() { return T(EPSILON); }                                                     \
    ELINVAR_FN static constexpr T infinity() { return T(INF); }                                                        \
    ELINVAR_FN static constexpr T quiet_NaN() { return T(QUIET); }                                                     \
  };
ELINVAR_LIMITS(float, -FLT_MAX, FLT_MAX, FLT_MIN, FLT_EPSILON, INFINITY, NAN, true)
ELINVAR_LIMITS(half, -65504.0f, 65504.0f, 6.103515625e-05f, 9.765625e-04f, INFINITY, NAN, true)
ELINVAR_LIMITS(bfloat, -3.38953139e38f, 3.38953139e38f, FLT_MIN, 7.8125e-03f, INFINITY, NAN, true)
ELINVAR_LIMITS(bool, false, true, false, 0, 0, 0, false)
ELINVAR_LIMITS(char, CHAR_MIN, CHAR_MAX, CHAR_MIN, 0, 0, 0, false)
ELINVAR_LIMITS(uchar, 0, UCHAR_MAX, 0, 0, 0, 0, false)
ELINVAR_LIMITS(short, SHRT_MIN, SHRT_MAX, SHRT_MIN, 0, 0, 0, false)
ELINVAR_LIMITS(ushort, 0, USHRT_MAX, 0, 0, 0, 0, false)
ELINVAR_LIMITS(int, INT_MIN, INT_MAX, INT_MIN, 0, 0, 0, false)
ELINVAR_LIMITS(uint, 0, UINT_MAX, 0, 0, 0, 0, false)
ELINVAR_LIMITS(long, LONG_MIN, LONG_MAX, LONG_MIN, 0, 0, 0, false)
ELINVAR_LIMITS(ulong, 0, ULONG_MAX, 0, 0, 0, 0, false)

// ---- packing (specification 6.14) ---------------------------------------------------------------------------------
// These name vector types outside of templates, which instantiates them and all their swizzles: two thirds of the time
// that NVRTC takes for a small kernel. A text that packs nothing is compiled without them.
#ifndef ELINVAR_NO_PACKING
ELINVAR_FN float4 unpack_unorm4x8_to_float(uint x) { return float4(uint4(x, x >> 8, x >> 16, x >> 24) & 0xffu) / 255.0f; }
ELINVAR_FN float4 unpack_snorm4x8_to_float(uint x) {
  return max(float4(int4(int(x << 24) >> 24, int(x << 16) >> 24, int(x << 8) >> 24, int(x) >> 24)) / 127.0f, -1.0f);
}
ELINVAR_FN float2 unpack_unorm2x16_to_float(uint x) { return float2(uint2(x, x >> 16) & 0xffffu) / 65535.0f; }
ELINVAR_FN float2 unpack_snorm2x16_to_float(uint x) { return max(float2(int2(int(x << 16) >> 16, int(x) >> 16)) / 32767.0f, -1.0f); }
ELINVAR_FN uint pack_float_to_unorm4x8(float4 x) {
  const uint4 q = uint4(rint(saturate(x) * 255.0f));
  return q.x | q.y << 8 | q.z << 16 | q.w << 24;
}
ELINVAR_FN uint pack_float_to_snorm4x8(float4 x) {
  const uint4 q = uint4(int4(rint(clamp(x, -1.0f, 1.0f) * 127.0f))) & 0xffu;
  return q.x | q.y << 8 | q.z << 16 | q.w << 24;
}
ELINVAR_FN uint pack_float_to_unorm2x16(float2 x) { const uint2 q = uint2(rint(saturate(x) * 65535.0f)); return q.x | q.y << 16; }
ELINVAR_FN uint pack_float_to_snorm2x16(float2 x) {
  const uint2 q = uint2(int2(rint(clamp(x, -1.0f, 1.0f) * 32767.0f))) & 0xffffu;
  return q.x | q.y << 16;
}
#endif
}  // namespace metal

using metal::array;
#define ELINVAR_MATRIX_NAMES(T)                                                                                        \
  typedef metal::matrix<T, 2, 2> T##2x2; typedef metal::matrix<T, 2, 3> T##2x3; typedef metal::matrix<T, 2, 4> T##2x4; \
  typedef metal::matrix<T, 3, 2> T##3x2; typedef metal::matrix<T, 3, 3> T##3x3; typedef metal::matrix<T, 3, 4> T##3x4; \
  typedef metal::matrix<T, 4, 2> T##4x2; typedef metal::matrix<T, 4, 3> T##4x3; typedef metal::matrix<T, 4, 4> T##4x4; \
  namespace metal {                                                                                                    \
  using elinvar_msl::T##2x2; using elinvar_msl::T##2x3; using elinvar_msl::T##2x4; using elinvar_msl::T##3x2;          \
  using elinvar_msl::T##3x3; using elinvar_msl::T##3x4; using elinvar_msl::T##4x2; using elinvar_msl::T##4x3;          \
  using elinvar_msl::T##4x4;                                                                                           \
  }
ELINVAR_MATRIX_NAMES(float)
ELINVAR_MATRIX_NAMES(half)

// ---- precise:: is what metal:: already is; fast:: takes the GPU's approximate instructions where it has them --------
#define ELINVAR_USE(name) using metal::name;
#define ELINVAR_EXACT_NAMES(DO)                                                                                        \
  DO(acos) DO(acosh) DO(asin) DO(asinh) DO(atan) DO(atanh) DO(ceil) DO(cosh) DO(cospi) DO(fabs) DO(floor) DO(rint)     \
  DO(round) DO(sinh) DO(sinpi) DO(tanh) DO(tanpi) DO(trunc) DO(fract) DO(sign) DO(saturate) DO(atan2) DO(copysign)     \
  DO(fdim) DO(fmax) DO(fmin) DO(fmod) DO(nextafter) DO(step) DO(fma) DO(mix) DO(smoothstep) DO(modf) DO(frexp)         \
  DO(ldexp) DO(ilogb) DO(sincos) DO(abs) DO(max) DO(min) DO(clamp) DO(max3) DO(min3) DO(median3) DO(fmax3) DO(fmin3)   \
  DO(fmedian3) DO(dot) DO(cross) DO(reflect) DO(refract) DO(faceforward) DO(isnan) DO(isinf) DO(isfinite)              \
  DO(length_squared) DO(distance_squared) DO(exp10)
#define ELINVAR_APPROXIMATE_NAMES(DO)                                                                                  \
  DO(cos) DO(exp) DO(exp2) DO(log) DO(log2) DO(log10) DO(sin) DO(sqrt) DO(rsqrt) DO(tan) DO(divide) DO(pow) DO(powr)   \
  DO(length) DO(normalize) DO(distance)
namespace metal {
namespace precise {
ELINVAR_EXACT_NAMES(ELINVAR_USE) ELINVAR_APPROXIMATE_NAMES(ELINVAR_USE)
}
namespace fast {
ELINVAR_EXACT_NAMES(ELINVAR_USE)
#ifndef ELINVAR_CUDA
ELINVAR_APPROXIMATE_NAMES(ELINVAR_USE)
#else
// One instruction of the special-function unit each, subnormals flushed; relative errors are at most 2^-21 or so, for sin
// and cos absolute ones of 2^-20 within a turn.
#define ELINVAR_MUFU(name, instruction)                                                                               \
  ELINVAR_FN float elinvar_##name(float x) { float r; asm(instruction " %0, %1;" : "=f"(r) : "f"(x)); return r; }
ELINVAR_MUFU(sqrt, "sqrt.approx.ftz.f32")
ELINVAR_MUFU(rsqrt, "rsqrt.approx.ftz.f32")
ELINVAR_MUFU(exp2, "ex2.approx.ftz.f32")
ELINVAR_MUFU(log2, "lg2.approx.ftz.f32")
ELINVAR_MUFU(sin, "sin.approx.ftz.f32")
ELINVAR_MUFU(cos, "cos.approx.ftz.f32")
ELINVAR_MUFU(reciprocal, "rcp.approx.ftz.f32")
ELINVAR_FN float elinvar_divide(float x, float y) { return x * elinvar_reciprocal(y); }  // 1 / y is one instruction
ELINVAR_FLOAT1(cos, elinvar_cos(x))
ELINVAR_FLOAT1(exp, elinvar_exp2(x * M_LOG2E_F))
ELINVAR_FLOAT1(exp2, elinvar_exp2(x))
ELINVAR_FLOAT1(log, elinvar_log2(x) * M_LN2_F)
ELINVAR_FLOAT1(log2, elinvar_log2(x))
ELINVAR_FLOAT1(log10, elinvar_log2(x) * 0.30102999566398119521f)
ELINVAR_FLOAT1(sin, elinvar_sin(x))
ELINVAR_FLOAT1(sqrt, elinvar_sqrt(x))
ELINVAR_FLOAT1(rsqrt, elinvar_rsqrt(x))
ELINVAR_FLOAT1(tan, elinvar_divide(elinvar_sin(x), elinvar_cos(x)))
ELINVAR_FLOAT2(divide, elinvar_divide(x, y))
ELINVAR_FLOAT2(pow, elinvar_exp2(y * elinvar_log2(x)))
ELINVAR_FLOAT2(powr, elinvar_exp2(y * elinvar_log2(x)))
template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN typename V::value_type length(const A& a) { return sqrt(dot(a, a)); }
template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN V normalize(const A& a) { return V(a) * rsqrt(dot(a, a)); }
template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN typename V::value_type distance(const A& a, const B& b) {
  return length(V(a) - V(b));
}
#endif
}  // namespace fast
}  // namespace metal
}  // namespace elinvar_msl
