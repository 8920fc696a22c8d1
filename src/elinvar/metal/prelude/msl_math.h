// msl_math.h - Metal's scalar and vector mathematics (Metal Shading Language Specification 6.3 to 6.6, 6.8).
//
// Scalars are plain overloads, as in Metal: `max(1.0f, 2)` is ambiguous here because it is ambiguous there. Vectors go
// component by component through the scalar function. min and max drop a NaN like fmin and fmax (specification 6.6).
#pragma once
#include "msl_leaf.h"
#include "msl_vector.h"

#define MAXFLOAT 3.402823466e+38f
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_RADIX 2
#define FLT_MAX_EXP 128
#define FLT_MIN_EXP (-125)
#define HALF_MAX half(65504.0f)
#define HALF_MIN half(6.103515625e-05f)
#define HALF_EPSILON half(9.765625e-04f)
#define MAXHALF HALF_MAX
#define INFINITY (elinvar_msl::elinvar_bits<float>(0x7f800000u))
#define HUGE_VALF INFINITY
#define HUGE_VALH half(INFINITY)
#define NAN (elinvar_msl::elinvar_bits<float>(0x7fc00000u))
#define CHAR_BIT 8
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807L
#define LONG_MIN (-9223372036854775807L - 1L)
#define ULONG_MAX 18446744073709551615UL
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_E_H half(M_E_F)
#define M_LN2_H half(M_LN2_F)
#define M_PI_H half(M_PI_F)
#define M_PI_2_H half(M_PI_2_F)
#define M_PI_4_H half(M_PI_4_F)
#define M_1_PI_H half(M_1_PI_F)
#define M_SQRT2_H half(M_SQRT2_F)
#define M_SQRT1_2_H half(M_SQRT1_2_F)

namespace elinvar_msl {

#ifdef ELINVAR_CUDA
#define ELINVAR_COPY memcpy
#else
#define ELINVAR_COPY __builtin_memcpy
#endif
template <class D, class S> ELINVAR_FN constexpr D as_type(const S& source) {
  if constexpr (elinvar_shape<S>::count == 0 && elinvar_shape<D>::count == 0) {
    return elinvar_bits<D>(source);
  } else {  // vectors assign member by member and are therefore not trivially copyable
    D result{};
    if constexpr (elinvar_shape<S>::count == 0) {
      static_assert(sizeof(D) == sizeof(S), "reinterpreting needs two types of the same size");
      ELINVAR_COPY(&result, &source, sizeof(D));
    } else {
      const elinvar_vec_t<S> whole(source);
      static_assert(sizeof(D) == sizeof(whole), "reinterpreting needs two types of the same size");
      ELINVAR_COPY(&result, &whole, sizeof(D));
    }
    return result;
  }
}

namespace metal {
using elinvar_msl::as_type;

// ---- how a scalar function becomes one of vectors -----------------------------------------------------------------
#define ELINVAR_MAP1(name)                                                                                             \
  template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN V name(const A& a) {                                       \
    const V x(a);                                                                                                      \
    V result(x);                                                                                                       \
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = name(x.v[i]);                                      \
    return result;                                                                                                     \
  }
#define ELINVAR_MAP2(name)                                                                                             \
  template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN V name(const A& a, const B& b) {                \
    const V x(a), y(b);                                                                                                \
    V result(x);                                                                                                       \
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = name(x.v[i], y.v[i]);                              \
    return result;                                                                                                     \
  }
template <class A, class B, class C, class = void> struct elinvar_triple_impl {};
template <class A, class B, class C> struct elinvar_triple_impl<A, B, C, void_t<elinvar_pair<A, B>>>
    : enable_if<is_same_v<elinvar_pair<A, B>, elinvar_pair<elinvar_pair<A, B>, C>>, elinvar_pair<A, B>> {};
template <class A, class B, class C>  // step-like calls: two scalars, then the vector
struct elinvar_triple_impl<
    A, B, C, enable_if_t<elinvar_shape<A>::count == 0 && elinvar_shape<B>::count == 0 && elinvar_shape<C>::count != 0>>
    : enable_if<true, elinvar_pair<elinvar_pair<A, C>, B>> {};
template <class A, class B, class C> using elinvar_triple = typename elinvar_triple_impl<A, B, C>::type;
#define ELINVAR_MAP3(name)                                                                                             \
  template <class A, class B, class C, class V = elinvar_triple<A, B, C>>                                              \
  ELINVAR_FN V name(const A& a, const B& b, const C& c) {                                                              \
    const V x(a), y(b), z(c);                                                                                          \
    V result(x);                                                                                                       \
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = name(x.v[i], y.v[i], z.v[i]);                      \
    return result;                                                                                                     \
  }
// A function of floats, for float, half and bfloat (computed in float, rounded once) and their vectors.
#define ELINVAR_FLOAT1(name, value)                                                                                    \
  ELINVAR_FN float name(float x) { return value; }                                                                     \
  ELINVAR_FN half name(half x) { return half(name(float(x))); }                                                        \
  ELINVAR_FN bfloat name(bfloat x) { return bfloat(name(float(x))); }                                                  \
  ELINVAR_MAP1(name)
#define ELINVAR_FLOAT2(name, value)                                                                                    \
  ELINVAR_FN float name(float x, float y) { return value; }                                                            \
  ELINVAR_FN half name(half x, half y) { return half(name(float(x), float(y))); }                                      \
  ELINVAR_FN bfloat name(bfloat x, bfloat y) { return bfloat(name(float(x), float(y))); }                              \
  ELINVAR_MAP2(name)
#define ELINVAR_FLOAT3(name, value)                                                                                    \
  ELINVAR_FN float name(float x, float y, float z) { return value; }                                                   \
  ELINVAR_FN half name(half x, half y, half z) { return half(name(float(x), float(y), float(z))); }                    \
  ELINVAR_FN bfloat name(bfloat x, bfloat y, bfloat z) { return bfloat(name(float(x), float(y), float(z))); }          \
  ELINVAR_MAP3(name)
#define ELINVAR_EACH_INTEGER(DO) DO(char) DO(uchar) DO(short) DO(ushort) DO(int) DO(uint) DO(long) DO(ulong)

// ---- floating point -----------------------------------------------------------------------------------------------
ELINVAR_FLOAT1(acos, elinvar_leaf::acos(x))
ELINVAR_FLOAT1(acosh, elinvar_leaf::acosh(x))
ELINVAR_FLOAT1(asin, elinvar_leaf::asin(x))
ELINVAR_FLOAT1(asinh, elinvar_leaf::asinh(x))
ELINVAR_FLOAT1(atan, elinvar_leaf::atan(x))
ELINVAR_FLOAT1(atanh, elinvar_leaf::atanh(x))
ELINVAR_FLOAT1(ceil, elinvar_leaf::ceil(x))
ELINVAR_FLOAT1(cos, elinvar_leaf::cos(x))
ELINVAR_FLOAT1(cosh, elinvar_leaf::cosh(x))
ELINVAR_FLOAT1(cospi, elinvar_leaf::cospi(x))
ELINVAR_FLOAT1(exp, elinvar_leaf::exp(x))
ELINVAR_FLOAT1(exp2, elinvar_leaf::exp2(x))
ELINVAR_FLOAT1(exp10, elinvar_leaf::exp10(x))
ELINVAR_FLOAT1(fabs, elinvar_bits<float>(elinvar_bits<uint>(x) & 0x7fffffffu))
ELINVAR_FLOAT1(floor, elinvar_leaf::floor(x))
ELINVAR_FLOAT1(log, elinvar_leaf::log(x))
ELINVAR_FLOAT1(log2, elinvar_leaf::log2(x))
ELINVAR_FLOAT1(log10, elinvar_leaf::log10(x))
ELINVAR_FLOAT1(rint, elinvar_leaf::rint(x))
ELINVAR_FLOAT1(round, elinvar_leaf::round(x))
ELINVAR_FLOAT1(sin, elinvar_leaf::sin(x))
ELINVAR_FLOAT1(sinh, elinvar_leaf::sinh(x))
ELINVAR_FLOAT1(sinpi, elinvar_leaf::sinpi(x))
ELINVAR_FLOAT1(sqrt, elinvar_leaf::sqrt(x))
ELINVAR_FLOAT1(rsqrt, 1.0f / elinvar_leaf::sqrt(x))
ELINVAR_FLOAT1(tan, elinvar_leaf::tan(x))
ELINVAR_FLOAT1(tanh, elinvar_leaf::tanh(x))
ELINVAR_FLOAT1(tanpi, elinvar_leaf::sinpi(x) / elinvar_leaf::cospi(x))
ELINVAR_FLOAT1(trunc, elinvar_leaf::trunc(x))
ELINVAR_FN float elinvar_fraction(float x) {  // below 1 even where x - floor(x) rounds up to it; 0 for infinities
  const float part = x - elinvar_leaf::floor(x);
  return fabs(x) == INFINITY ? 0.0f : part >= 1.0f ? 0.999999940395355224609375f : part;
}
ELINVAR_FLOAT1(fract, elinvar_fraction(x))
ELINVAR_FLOAT1(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)
ELINVAR_FLOAT1(saturate, elinvar_leaf::fmin(elinvar_leaf::fmax(x, 0.0f), 1.0f))
ELINVAR_FLOAT2(atan2, elinvar_leaf::atan2(x, y))
ELINVAR_FLOAT2(copysign, elinvar_bits<float>((elinvar_bits<uint>(x) & 0x7fffffffu) | (elinvar_bits<uint>(y) & 0x80000000u)))
ELINVAR_FLOAT2(divide, x / y)
ELINVAR_FLOAT2(fdim, x <= y ? 0.0f : x - y)
ELINVAR_FLOAT2(fmax, elinvar_leaf::fmax(x, y))
ELINVAR_FLOAT2(fmin, elinvar_leaf::fmin(x, y))
ELINVAR_FLOAT2(fmod, elinvar_leaf::fmod(x, y))
ELINVAR_FLOAT2(nextafter, elinvar_leaf::nextafter(x, y))
ELINVAR_FLOAT2(pow, elinvar_leaf::pow(x, y))
ELINVAR_FLOAT2(powr, x < 0.0f ? NAN : elinvar_leaf::pow(x, y))
ELINVAR_FLOAT2(step, y < x ? 0.0f : 1.0f)
ELINVAR_FN float fma(float x, float y, float z) { return elinvar_leaf::fma(x, y, z); }
ELINVAR_FN half fma(half x, half y, half z) { return elinvar_leaf::fma(x, y, z); }
ELINVAR_FN bfloat fma(bfloat x, bfloat y, bfloat z) { return elinvar_leaf::fma(x, y, z); }
ELINVAR_MAP3(fma)
ELINVAR_FLOAT3(mix, elinvar_leaf::fma(y - x, z, x))
ELINVAR_FN float elinvar_smooth(float t) { return t * t * (3.0f - 2.0f * t); }
ELINVAR_FLOAT3(smoothstep, elinvar_smooth(saturate((z - x) / (y - x))))

ELINVAR_FN float modf(float x, float& whole) { whole = elinvar_leaf::trunc(x); return copysign(fabs(x) == INFINITY ? 0.0f : x - whole, x); }
ELINVAR_FN half modf(half x, half& whole) { float w; const float part = modf(float(x), w); whole = half(w); return half(part); }
ELINVAR_FN float frexp(float x, int& exponent) { return elinvar_leaf::frexp(x, exponent); }
ELINVAR_FN half frexp(half x, int& exponent) { return half(elinvar_leaf::frexp(float(x), exponent)); }
ELINVAR_FN float ldexp(float x, int k) { return elinvar_leaf::ldexp(x, k); }
ELINVAR_FN half ldexp(half x, int k) { return half(elinvar_leaf::ldexp(float(x), k)); }
ELINVAR_FN int ilogb(float x) { int e; return x == 0.0f || !(fabs(x) < INFINITY) ? (x == 0.0f ? INT_MIN : INT_MAX) : (frexp(x, e), e - 1); }
ELINVAR_FN int ilogb(half x) { return ilogb(float(x)); }
ELINVAR_FN float sincos(float x, float& cosine) { cosine = elinvar_leaf::cos(x); return elinvar_leaf::sin(x); }
ELINVAR_FN half sincos(half x, half& cosine) { cosine = half(elinvar_leaf::cos(float(x))); return half(elinvar_leaf::sin(float(x))); }
template <class T, int N> ELINVAR_FN vec<T, N> sincos(const vec<T, N>& x, vec<T, N>& cosine) { cosine = cos(x); return sin(x); }
template <class T, int N> ELINVAR_FN vec<T, N> modf(const vec<T, N>& x, vec<T, N>& whole) {
  vec<T, N> result(x);
  for (int i = 0; i < N; i++) result.v[i] = modf(x.v[i], whole.v[i]);
  return result;
}

#define ELINVAR_PREDICATE(name, value)                                                                                 \
  ELINVAR_FN bool name(float x) { return value; }                                                                      \
  ELINVAR_FN bool name(half x) { return name(float(x)); }                                                              \
  ELINVAR_FN bool name(bfloat x) { return name(float(x)); }                                                            \
  template <class A, class V = elinvar_vec_t<A>> ELINVAR_FN vec<bool, elinvar_shape<V>::count> name(const A& a) {      \
    const V x(a);                                                                                                      \
    vec<bool, elinvar_shape<V>::count> result(false);                                                                  \
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = name(x.v[i]);                                      \
    return result;                                                                                                     \
  }
ELINVAR_PREDICATE(isnan, (elinvar_bits<uint>(x) & 0x7fffffffu) > 0x7f800000u)
ELINVAR_PREDICATE(isinf, (elinvar_bits<uint>(x) & 0x7fffffffu) == 0x7f800000u)
ELINVAR_PREDICATE(isfinite, (elinvar_bits<uint>(x) & 0x7fffffffu) < 0x7f800000u)
ELINVAR_PREDICATE(signbit, elinvar_bits<uint>(x) >> 31 != 0u)
ELINVAR_FN bool isnormal(float x) { return fabs(x) >= FLT_MIN && isfinite(x); }
ELINVAR_FN bool isnormal(half x) { return fabs(float(x)) >= 6.103515625e-05f && isfinite(x); }
ELINVAR_FN bool isordered(float x, float y) { return x == x && y == y; }
ELINVAR_FN bool isunordered(float x, float y) { return !(x == x && y == y); }

// ---- integers and what integers share with floats -----------------------------------------------------------------
#define ELINVAR_INTEGER(T)                                                                                             \
  ELINVAR_FN constexpr T abs(T x) { return T(x < 0 ? make_unsigned_t<T>(0) - make_unsigned_t<T>(x) : make_unsigned_t<T>(x)); } \
  ELINVAR_FN constexpr T max(T x, T y) { return x < y ? y : x; }                                                       \
  ELINVAR_FN constexpr T min(T x, T y) { return y < x ? y : x; }                                                       \
  ELINVAR_FN constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }                                  \
  ELINVAR_FN constexpr T max3(T x, T y, T z) { return max(x, max(y, z)); }                                             \
  ELINVAR_FN constexpr T min3(T x, T y, T z) { return min(x, min(y, z)); }                                             \
  ELINVAR_FN constexpr T median3(T x, T y, T z) { return max(min(x, y), min(max(x, y), z)); }                          \
  ELINVAR_FN constexpr make_unsigned_t<T> absdiff(T x, T y) {                                                          \
    typedef make_unsigned_t<T> U;                                                                                      \
    return x < y ? U(U(y) - U(x)) : U(U(x) - U(y));                                                                    \
  }                                                                                                                    \
  ELINVAR_FN constexpr T hadd(T x, T y) { return T((x & y) + ((x ^ y) >> 1)); }                                        \
  ELINVAR_FN constexpr T rhadd(T x, T y) { return T((x | y) - ((x ^ y) >> 1)); }                                       \
  ELINVAR_FN constexpr T addsat(T x, T y) { return elinvar_addsat(x, y); }                                             \
  ELINVAR_FN constexpr T subsat(T x, T y) { return elinvar_subsat(x, y); }                                             \
  ELINVAR_FN constexpr T mulhi(T x, T y) { return elinvar_mulhi(x, y); }                                               \
  ELINVAR_FN constexpr T madhi(T x, T y, T z) { return T(make_unsigned_t<T>(elinvar_mulhi(x, y)) + make_unsigned_t<T>(z)); } \
  ELINVAR_FN constexpr T popcount(T x) { return T(elinvar_popcount(make_unsigned_t<T>(x))); }                          \
  ELINVAR_FN constexpr T clz(T x) { return T(elinvar_clz(make_unsigned_t<T>(x))); }                                    \
  ELINVAR_FN constexpr T ctz(T x) { return T(elinvar_ctz(make_unsigned_t<T>(x))); }                                    \
  ELINVAR_FN constexpr T reverse_bits(T x) { return T(elinvar_reverse(make_unsigned_t<T>(x))); }                       \
  ELINVAR_FN constexpr T rotate(T x, T count) {                                                                        \
    typedef make_unsigned_t<T> U;                                                                                      \
    const uint width = sizeof(T) * 8, k = uint(U(count)) % width;                                                      \
    return k ? T(U(U(x) << k) | U(U(x) >> (width - k))) : x;                                                           \
  }                                                                                                                    \
  ELINVAR_FN constexpr T extract_bits(T x, uint offset, uint bits) {                                                   \
    const uint width = sizeof(T) * 8;                                                                                  \
    if (bits == 0 || offset >= width) return T(0);                                                                     \
    const uint left = offset + bits >= width ? 0u : width - offset - bits;                                             \
    return T(T(make_unsigned_t<T>(x) << left) >> (left + offset));                                                     \
  }                                                                                                                    \
  ELINVAR_FN constexpr T insert_bits(T base, T inserted, uint offset, uint bits) {                                     \
    typedef make_unsigned_t<T> U;                                                                                      \
    const uint width = sizeof(T) * 8;                                                                                  \
    if (bits == 0 || offset >= width) return base;                                                                     \
    const U mask = U((bits >= width ? U(~U(0)) : U((U(1) << bits) - 1u)) << offset);                                   \
    return T((U(base) & U(~mask)) | (U(U(inserted) << offset) & mask));                                                \
  }

template <class U> ELINVAR_FN constexpr int elinvar_popcount(U x) { int n = 0; for (; x; x &= U(x - 1)) n++; return n; }
template <class U> ELINVAR_FN constexpr int elinvar_clz(U x) {
  int n = 0;
  for (U bit = U(U(1) << (sizeof(U) * 8 - 1)); bit && !(x & bit); bit = U(bit >> 1)) n++;
  return n;
}
template <class U> ELINVAR_FN constexpr int elinvar_ctz(U x) {
  int n = 0;
  for (U bit = 1; bit && !(x & bit); bit = U(bit << 1)) n++;
  return n;
}
#ifdef ELINVAR_CUDA
ELINVAR_FN int elinvar_popcount(uint x) { return __popc(x); }
ELINVAR_FN int elinvar_popcount(ulong x) { return __popcll(x); }
ELINVAR_FN int elinvar_clz(uint x) { return __clz(int(x)); }
ELINVAR_FN int elinvar_clz(ulong x) { return __clzll((long long)x); }
ELINVAR_FN int elinvar_ctz(uint x) { return x ? __ffs(int(x)) - 1 : 32; }
ELINVAR_FN int elinvar_ctz(ulong x) { return x ? __ffsll((long long)x) - 1 : 64; }
#else
ELINVAR_FN constexpr int elinvar_popcount(uint x) { return __builtin_popcount(x); }
ELINVAR_FN constexpr int elinvar_popcount(ulong x) { return __builtin_popcountl(x); }
#endif
template <class U> ELINVAR_FN constexpr U elinvar_reverse(U x) {
  U result = 0;
  for (uint i = 0; i < sizeof(U) * 8; i++) result = U(result << 1 | (x >> i & 1u));
  return result;
}
template <class T> ELINVAR_FN constexpr T elinvar_addsat(T x, T y) {
  typedef make_unsigned_t<T> U;
  const U sum = U(U(x) + U(y)), top = U(U(1) << (sizeof(T) * 8 - 1));
  if constexpr (is_unsigned_v<T>) return sum < x ? U(~U(0)) : sum;
  else return (~(U(x) ^ U(y)) & (U(x) ^ sum)) & top ? (x < 0 ? T(top) : T(U(~top))) : T(sum);
}
template <class T> ELINVAR_FN constexpr T elinvar_subsat(T x, T y) {
  typedef make_unsigned_t<T> U;
  const U rest = U(U(x) - U(y)), top = U(U(1) << (sizeof(T) * 8 - 1));
  if constexpr (is_unsigned_v<T>) return x < y ? U(0) : rest;
  else return ((U(x) ^ U(y)) & (U(x) ^ rest)) & top ? (x < 0 ? T(top) : T(U(~top))) : T(rest);
}
template <class T> ELINVAR_FN constexpr T elinvar_mulhi(T x, T y) {
  if constexpr (sizeof(T) < 8) {
    return T((long(x) * long(y)) >> (sizeof(T) * 8));
  } else {
    const ulong a = ulong(x), b = ulong(y), al = a & 0xffffffffu, ah = a >> 32, bl = b & 0xffffffffu, bh = b >> 32;
    const ulong middle = ah * bl + (al * bl >> 32), cross = al * bh + (middle & 0xffffffffu);
    ulong high = ah * bh + (middle >> 32) + (cross >> 32);
    if (is_signed_v<T> && x < 0) high -= b;
    if (is_signed_v<T> && y < 0) high -= a;
    return T(high);
  }
}
ELINVAR_EACH_INTEGER(ELINVAR_INTEGER)
ELINVAR_FN constexpr int mul24(int x, int y) { return (int(uint(x) << 8) >> 8) * (int(uint(y) << 8) >> 8); }
ELINVAR_FN constexpr uint mul24(uint x, uint y) { return (x & 0xffffffu) * (y & 0xffffffu); }
ELINVAR_FN constexpr int mad24(int x, int y, int z) { return mul24(x, y) + z; }
ELINVAR_FN constexpr uint mad24(uint x, uint y, uint z) { return mul24(x, y) + z; }

#define ELINVAR_SHARED(T)                                                                                              \
  ELINVAR_FN T abs(T x) { return fabs(x); }                                                                            \
  ELINVAR_FN T max(T x, T y) { return fmax(x, y); }                                                                    \
  ELINVAR_FN T min(T x, T y) { return fmin(x, y); }                                                                    \
  ELINVAR_FN T clamp(T x, T low, T high) { return fmin(fmax(x, low), high); }                                          \
  ELINVAR_FN T max3(T x, T y, T z) { return fmax(x, fmax(y, z)); }                                                     \
  ELINVAR_FN T min3(T x, T y, T z) { return fmin(x, fmin(y, z)); }                                                     \
  ELINVAR_FN T median3(T x, T y, T z) { return fmax(fmin(x, y), fmin(fmax(x, y), z)); }                                \
  ELINVAR_FN T fmax3(T x, T y, T z) { return max3(x, y, z); }                                                          \
  ELINVAR_FN T fmin3(T x, T y, T z) { return min3(x, y, z); }                                                          \
  ELINVAR_FN T fmedian3(T x, T y, T z) { return median3(x, y, z); }
ELINVAR_SHARED(float) ELINVAR_SHARED(half) ELINVAR_SHARED(bfloat)
ELINVAR_MAP1(abs) ELINVAR_MAP2(max) ELINVAR_MAP2(min) ELINVAR_MAP3(clamp) ELINVAR_MAP3(max3) ELINVAR_MAP3(min3)
ELINVAR_MAP3(median3) ELINVAR_MAP3(fmax3) ELINVAR_MAP3(fmin3) ELINVAR_MAP3(fmedian3) ELINVAR_MAP2(hadd) ELINVAR_MAP2(rhadd)
#ifdef ELINVAR_CUDA  // two halves at once: the same results
#define ELINVAR_HALVES(name, op)                                                                                       \
  ELINVAR_FN vec<half, 2> name(const vec<half, 2>& x, const vec<half, 2>& y) {                                         \
    vec<half, 2> r;                                                                                                    \
    asm("{.reg .b32 a, b, c; mov.b32 a, {%2, %3}; mov.b32 b, {%4, %5}; " op ".f16x2 c, a, b; mov.b32 {%0, %1}, c;}"    \
        : "=h"(r.v[0].bits), "=h"(r.v[1].bits)                                                                         \
        : "h"(x.v[0].bits), "h"(x.v[1].bits), "h"(y.v[0].bits), "h"(y.v[1].bits));                                     \
    return r;                                                                                                          \
  }                                                                                                                    \
  ELINVAR_FN vec<half, 4> name(const vec<half, 4>& x, const vec<half, 4>& y) {                                         \
    return vec<half, 4>(name(vec<half, 2>(x.v[0], x.v[1]), vec<half, 2>(y.v[0], y.v[1])),                              \
                        name(vec<half, 2>(x.v[2], x.v[3]), vec<half, 2>(y.v[2], y.v[3])));                             \
  }
ELINVAR_HALVES(fmax, "max") ELINVAR_HALVES(max, "max") ELINVAR_HALVES(fmin, "min") ELINVAR_HALVES(min, "min")
#endif
ELINVAR_MAP2(addsat) ELINVAR_MAP2(subsat) ELINVAR_MAP2(mulhi) ELINVAR_MAP3(madhi) ELINVAR_MAP1(popcount) ELINVAR_MAP1(clz)
ELINVAR_MAP1(ctz) ELINVAR_MAP1(reverse_bits) ELINVAR_MAP2(rotate) ELINVAR_MAP2(mul24) ELINVAR_MAP3(mad24)

// ---- choosing -----------------------------------------------------------------------------------------------------
template <class T, class = enable_if_t<elinvar_kind_v<T> != 0>> ELINVAR_FN constexpr T select(T no, T yes, bool condition) {
  return condition ? yes : no;
}
template <class A, class B, int N, class V = elinvar_pair<A, B>>
ELINVAR_FN V select(const A& no, const B& yes, const vec<bool, N>& condition) {
  static_assert(elinvar_shape<V>::count == N, "select takes as many conditions as components");
  const V y(yes);
  V result(no);
  for (int i = 0; i < N; i++) if (condition.v[i]) result.v[i] = y.v[i];
  return result;
}
template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN V select(const A& no, const B& yes, bool condition) {
  return condition ? V(yes) : V(no);
}
template <int N> ELINVAR_FN bool all(const vec<bool, N>& x) { bool r = true; for (int i = 0; i < N; i++) r = r && x.v[i]; return r; }
template <int N> ELINVAR_FN bool any(const vec<bool, N>& x) { bool r = false; for (int i = 0; i < N; i++) r = r || x.v[i]; return r; }
ELINVAR_FN bool all(bool x) { return x; }
ELINVAR_FN bool any(bool x) { return x; }
}  // namespace metal
}  // namespace elinvar_msl
