// msl_base.h - what Metal Shading Language takes for granted, for C++17 compilers: scalar names, traits, half, bfloat.
//
// The msl_*.h headers give Metal's types and functions to two compilers, g++ or clang++ (the emulator) and NVRTC (NVIDIA).
// They include nothing. A backend's prelude defines the macros below, includes msl_types.h, adds what depends on threads
// (barriers, simd operations, atomics, ELINVAR_THREADGROUP), and then the translated user code follows, all of it inside
//     namespace elinvar_msl { ... }
// so that Metal's names hide those of C and CUDA (`abs`, `min`, `select`) instead of clashing with them.
//
//   ELINVAR_FN        decorates every function               inline, or __device__ __forceinline__
//   ELINVAR_CUDA      defined when the compiler is NVRTC; selects PTX for half and bfloat, CUDA's own float functions
//   ELINVAR_KERNEL    stands before a kernel                 (backend's choice; see translate.py)
//   ELINVAR_CONSTANT  stands for program-scope `constant`    static const
//   ELINVAR_THREADGROUP(name, dims, type...)                 declares a threadgroup variable
//
// Everything that is not Metal's own name starts with elinvar_. Results are the same on both compilers, bit for bit, for
// integers, conversions, half and bfloat arithmetic, +, -, *, /, sqrt, rsqrt, fma, and whatever is made of these;
// transcendental functions are each compiler's own, within a few units in the last place.
#pragma once

#ifndef ELINVAR_FN
#error "define ELINVAR_FN before including the msl headers"
#endif

namespace elinvar_msl {

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
static_assert(sizeof(long) == 8 && char(-1) < 0, "Metal has 64-bit longs and signed chars");

// ---- traits -------------------------------------------------------------------------------------------------------
namespace metal {
template <class T, T V> struct integral_constant {
  static constexpr T value = V;
  typedef T value_type;
  ELINVAR_FN constexpr operator T() const { return V; }
};
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;
template <class T, class U> struct is_same : false_type {};
template <class T> struct is_same<T, T> : true_type {};
template <class T, class U> constexpr bool is_same_v = is_same<T, U>::value;
template <class T> struct remove_reference { typedef T type; };
template <class T> struct remove_reference<T&> { typedef T type; };
template <class T> struct remove_reference<T&&> { typedef T type; };
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> struct remove_const { typedef T type; };
template <class T> struct remove_const<const T> { typedef T type; };
template <class T> struct remove_volatile { typedef T type; };
template <class T> struct remove_volatile<volatile T> { typedef T type; };
template <class T> struct remove_cv { typedef typename remove_const<typename remove_volatile<T>::type>::type type; };
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> struct remove_pointer { typedef T type; };
template <class T> struct remove_pointer<T*> { typedef T type; };
template <class T> using remove_pointer_t = typename remove_pointer<T>::type;
template <class T> struct elinvar_decay { typedef remove_cv_t<T> type; };
template <class T, unsigned long N> struct elinvar_decay<T[N]> { typedef T* type; };
template <class T> struct decay : elinvar_decay<remove_reference_t<T>> {};
template <class T> using decay_t = typename decay<T>::type;
template <class T> struct is_pointer : false_type {};
template <class T> struct is_pointer<T*> : true_type {};
template <class T> struct is_void : is_same<void, remove_cv_t<T>> {};
template <class... T> struct elinvar_void { typedef void type; };
template <class... T> using void_t = typename elinvar_void<T...>::type;
template <class T> T&& declval() noexcept;
}  // namespace metal

template <class T> struct elinvar_kind { static constexpr int value = 0; };  // 1 bool, 2 signed, 3 unsigned, 4 floating
#define ELINVAR_KIND(T, K)                                                                                             \
  template <> struct elinvar_kind<T> { static constexpr int value = K; };
ELINVAR_KIND(bool, 1)
ELINVAR_KIND(char, 2) ELINVAR_KIND(signed char, 2) ELINVAR_KIND(short, 2) ELINVAR_KIND(int, 2) ELINVAR_KIND(long, 2)
ELINVAR_KIND(uchar, 3) ELINVAR_KIND(ushort, 3) ELINVAR_KIND(uint, 3) ELINVAR_KIND(ulong, 3)
ELINVAR_KIND(long long, 2) ELINVAR_KIND(unsigned long long, 3)
ELINVAR_KIND(float, 4)
ELINVAR_KIND(double, 4)
template <class T> constexpr int elinvar_kind_v = elinvar_kind<T>::value;
template <class T> constexpr bool elinvar_plain = elinvar_kind_v<T> != 0;  // specialised below: half is not plain
template <class T> constexpr bool elinvar_integral = elinvar_kind_v<T> >= 1 && elinvar_kind_v<T> <= 3;

namespace metal {
template <class T> struct is_integral : integral_constant<bool, elinvar_integral<remove_cv_t<T>>> {};
template <class T> struct is_floating_point : integral_constant<bool, elinvar_kind_v<remove_cv_t<T>> == 4> {};
template <class T> struct is_arithmetic : integral_constant<bool, elinvar_kind_v<remove_cv_t<T>> != 0> {};
template <class T>
struct is_signed : integral_constant<bool, elinvar_kind_v<remove_cv_t<T>> == 2 || elinvar_kind_v<remove_cv_t<T>> == 4> {};
template <class T>
struct is_unsigned : integral_constant<bool, elinvar_kind_v<remove_cv_t<T>> == 3 || elinvar_kind_v<remove_cv_t<T>> == 1> {};
template <class T> constexpr bool is_integral_v = is_integral<T>::value;
template <class T> constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T> constexpr bool is_arithmetic_v = is_arithmetic<T>::value;
template <class T> constexpr bool is_signed_v = is_signed<T>::value;
template <class T> constexpr bool is_unsigned_v = is_unsigned<T>::value;
template <class T> constexpr bool is_pointer_v = is_pointer<T>::value;
template <class T> constexpr bool is_void_v = is_void<T>::value;
template <class T> struct is_scalar : is_arithmetic<T> {};
template <class T> struct is_scalar<T*> : true_type {};
template <class T> constexpr bool is_scalar_v = is_scalar<T>::value;
template <class T> struct is_const : false_type {};
template <class T> struct is_const<const T> : true_type {};
template <class T> constexpr bool is_const_v = is_const<T>::value;
template <class F, class T, class = void> struct is_convertible : false_type {};
template <class T> void elinvar_take(T);
template <class F, class T> struct is_convertible<F, T, void_t<decltype(elinvar_take<T>(declval<F>()))>> : true_type {};
template <class F, class T> constexpr bool is_convertible_v = is_convertible<F, T>::value;
template <class T> struct make_unsigned { typedef T type; };
template <> struct make_unsigned<char> { typedef uchar type; };
template <> struct make_unsigned<signed char> { typedef uchar type; };
template <> struct make_unsigned<short> { typedef ushort type; };
template <> struct make_unsigned<int> { typedef uint type; };
template <> struct make_unsigned<long> { typedef ulong type; };
template <class T> using make_unsigned_t = typename make_unsigned<T>::type;
template <class T> struct make_signed { typedef T type; };
template <> struct make_signed<uchar> { typedef char type; };
template <> struct make_signed<ushort> { typedef short type; };
template <> struct make_signed<uint> { typedef int type; };
template <> struct make_signed<ulong> { typedef long type; };
template <class T> using make_signed_t = typename make_signed<T>::type;
}  // namespace metal

template <class D, class S> ELINVAR_FN constexpr D elinvar_bits(const S& source) {
  static_assert(sizeof(D) == sizeof(S), "reinterpreting needs two types of the same size");
  return __builtin_bit_cast(D, source);
}

// ---- half and bfloat ----------------------------------------------------------------------------------------------
// Storage is 16 bits. One operation on halves is done in float and rounded once, which is the correctly rounded half
// result for +, -, *, / and sqrt (float has 24 bits, more than twice 11 plus 2); fused multiply-add goes through a
// round-to-odd float, which is too.
ELINVAR_FN constexpr ushort elinvar_half_soft(float value) {
  const uint bits = elinvar_bits<uint>(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size >= 0x7f800000u) return ushort(sign | (size > 0x7f800000u ? 0x7e00u | (size >> 13 & 0x3ffu) : 0x7c00u));
  if (size >= 0x477ff000u) return ushort(sign | 0x7c00u);  // 65520 and above round to infinity
  if (size < 0x33000000u) return ushort(sign);             // below half of the smallest subnormal
  if (size == 0x33000000u) return ushort(sign);            // exactly half of it: to even, zero
  const int exponent = int(size >> 23) - 127;
  const uint mantissa = (size & 0x7fffffu) | 0x800000u;
  const int drop = exponent < -14 ? -exponent - 1 : 13;  // bits below the half's last one
  const uint kept = mantissa >> drop, rest = mantissa & ((1u << drop) - 1u), middle = 1u << (drop - 1);
  const uint rounded = kept + (rest > middle || (rest == middle && (kept & 1u)));
  const uint base = exponent < -14 ? 0u : uint(exponent + 14) << 10;  // the implicit bit adds one more to the exponent
  return ushort(sign | (base + rounded));
}
ELINVAR_FN constexpr float elinvar_half_value_soft(ushort half_bits) {
  const uint sign = uint(half_bits & 0x8000u) << 16, exponent = half_bits >> 10 & 31u, mantissa = half_bits & 0x3ffu;
  if (exponent == 31u) return elinvar_bits<float>(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u));
  if (exponent) return elinvar_bits<float>(sign | (exponent + 112u) << 23 | mantissa << 13);
  const float tiny = float(int(mantissa)) * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -tiny : tiny;
}
ELINVAR_FN constexpr ushort elinvar_bfloat_soft(float value) {
  const uint bits = elinvar_bits<uint>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return ushort(bits >> 16 | 0x40u);
  return ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#ifdef ELINVAR_CUDA
ELINVAR_FN ushort elinvar_half_hard(float value) {
  ushort result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
  return result;
}
ELINVAR_FN float elinvar_half_value_hard(ushort bits) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
  return result;
}
#else
ELINVAR_FN float elinvar_fma_to_odd(float a, float b, float c) {
  // a * b is exact in double; the sum's rounding error says whether to make the last bit odd.
  const double product = double(a) * double(b), addend = double(c), sum = product + addend;
  const double back = sum - product, error = (product - (sum - back)) + (addend - back);
  float narrow = float(sum);
  const double missing = (sum - double(narrow)) + error;
  uint bits = elinvar_bits<uint>(narrow);
  if (!(missing < 0 || missing > 0) || (bits & 0x7fffffffu) >= 0x7f800000u || (bits & 1u)) return narrow;
  if ((bits & 0x7fffffffu) == 0u) return elinvar_bits<float>(missing < 0 ? 0x80000001u : 1u);
  bits += (missing > 0) == (narrow > 0) ? 1u : ~0u;
  return elinvar_bits<float>(bits);
}
#endif

struct elinvar_half_format {
  ELINVAR_FN static constexpr ushort pack(float value) {
#ifdef ELINVAR_CUDA
    if (!__builtin_is_constant_evaluated()) return elinvar_half_hard(value);
#endif
    return elinvar_half_soft(value);
  }
  ELINVAR_FN static constexpr float unpack(ushort bits) {
#ifdef ELINVAR_CUDA
    if (!__builtin_is_constant_evaluated()) return elinvar_half_value_hard(bits);
#endif
    return elinvar_half_value_soft(bits);
  }
};
struct elinvar_bfloat_format {
  ELINVAR_FN static constexpr ushort pack(float value) { return elinvar_bfloat_soft(value); }
  ELINVAR_FN static constexpr float unpack(ushort bits) { return elinvar_bits<float>(uint(bits) << 16); }
};

template <class F> struct elinvar_small {
  ushort bits;
  elinvar_small() = default;
  template <class T, class = metal::enable_if_t<elinvar_kind_v<T> != 0>>
  ELINVAR_FN constexpr elinvar_small(T value) : bits(F::pack(float(value))) {}
  template <class G, class = metal::enable_if_t<!metal::is_same_v<F, G>>>
  ELINVAR_FN explicit constexpr elinvar_small(elinvar_small<G> value) : bits(F::pack(float(value))) {}
  ELINVAR_FN constexpr operator float() const { return F::unpack(bits); }
  ELINVAR_FN constexpr elinvar_small operator-() const { return raw(ushort(bits ^ 0x8000u)); }
  ELINVAR_FN constexpr elinvar_small operator+() const { return *this; }
  ELINVAR_FN elinvar_small& operator++() { return *this = elinvar_small(float(*this) + 1.0f); }
  ELINVAR_FN elinvar_small& operator--() { return *this = elinvar_small(float(*this) - 1.0f); }
  ELINVAR_FN elinvar_small operator++(int) { const elinvar_small old = *this; ++*this; return old; }
  ELINVAR_FN elinvar_small operator--(int) { const elinvar_small old = *this; --*this; return old; }
  ELINVAR_FN static constexpr elinvar_small raw(ushort bits) { elinvar_small result{}; result.bits = bits; return result; }
};
typedef elinvar_small<elinvar_half_format> half;
typedef elinvar_small<elinvar_bfloat_format> bfloat;
ELINVAR_KIND(half, 4)
ELINVAR_KIND(bfloat, 4)
template <class F> constexpr bool elinvar_plain<elinvar_small<F>> = false;

// half op half and half op integer are half; half op float is float, as for Metal's built-in types.
#define ELINVAR_SMALL_OP(op)                                                                                           \
  template <class F> ELINVAR_FN constexpr elinvar_small<F> operator op(elinvar_small<F> a, elinvar_small<F> b) {       \
    return elinvar_small<F>(float(a) op float(b));                                                                     \
  }                                                                                                                    \
  template <class F, class T, class = metal::enable_if_t<elinvar_integral<T>>>                                         \
  ELINVAR_FN constexpr elinvar_small<F> operator op(elinvar_small<F> a, T b) {                                         \
    return a op elinvar_small<F>(b);                                                                                   \
  }                                                                                                                    \
  template <class F, class T, class = metal::enable_if_t<elinvar_integral<T>>>                                         \
  ELINVAR_FN constexpr elinvar_small<F> operator op(T a, elinvar_small<F> b) {                                         \
    return elinvar_small<F>(a) op b;                                                                                   \
  }                                                                                                                    \
  template <class F> ELINVAR_FN constexpr float operator op(elinvar_small<F> a, float b) { return float(a) op b; }     \
  template <class F> ELINVAR_FN constexpr float operator op(float a, elinvar_small<F> b) { return a op float(b); }     \
  template <class F, class T> ELINVAR_FN constexpr elinvar_small<F>& operator op##=(elinvar_small<F>& a, T b) {        \
    return a = elinvar_small<F>(a op b);                                                                               \
  }
ELINVAR_SMALL_OP(+)
ELINVAR_SMALL_OP(-)
ELINVAR_SMALL_OP(*)
ELINVAR_SMALL_OP(/)
#define ELINVAR_SMALL_COMPARE(op)                                                                                      \
  template <class F> ELINVAR_FN constexpr bool operator op(elinvar_small<F> a, elinvar_small<F> b) {                   \
    return float(a) op float(b);                                                                                       \
  }                                                                                                                    \
  template <class F, class T, class = metal::enable_if_t<elinvar_plain<T>>>                                            \
  ELINVAR_FN constexpr bool operator op(elinvar_small<F> a, T b) {                                                     \
    return float(a) op float(b);                                                                                       \
  }                                                                                                                    \
  template <class F, class T, class = metal::enable_if_t<elinvar_plain<T>>>                                            \
  ELINVAR_FN constexpr bool operator op(T a, elinvar_small<F> b) {                                                     \
    return float(a) op float(b);                                                                                       \
  }
ELINVAR_SMALL_COMPARE(<)
ELINVAR_SMALL_COMPARE(>)
ELINVAR_SMALL_COMPARE(<=)
ELINVAR_SMALL_COMPARE(>=)
ELINVAR_SMALL_COMPARE(==)
ELINVAR_SMALL_COMPARE(!=)

// `condition ? a : b` with a half on one side and a float on the other is a float in Metal; C++ cannot choose between two
// classes' conversions, so where half or bfloat occur the translation writes each arm as elinvar_arm<types of all>(arm).
template <class X, class Y> struct elinvar_common { typedef X type; };
template <class F> struct elinvar_common<elinvar_small<F>, float> { typedef float type; };
template <class T, class F> struct elinvar_common<T, elinvar_small<F>> {
  typedef metal::conditional_t<elinvar_integral<T>, elinvar_small<F>, T> type;
};
template <class T> struct elinvar_common<T, float> {
  typedef metal::conditional_t<elinvar_integral<T>, float, T> type;
};
template <class F, class G> struct elinvar_common<elinvar_small<F>, elinvar_small<G>> { typedef elinvar_small<F> type; };
template <class X, class... Y> struct elinvar_common_all { typedef X type; };
template <class X, class Y, class... Z> struct elinvar_common_all<X, Y, Z...>
    : elinvar_common_all<typename elinvar_common<X, metal::decay_t<Y>>::type, Z...> {};
template <class... Y, class X> ELINVAR_FN constexpr typename elinvar_common_all<metal::decay_t<X>, Y...>::type elinvar_arm(X&& x) {
  return static_cast<typename elinvar_common_all<metal::decay_t<X>, Y...>::type>(x);
}

}  // namespace elinvar_msl
