// msl_leaf.h - one float in, one float out: the compiler's own functions under Metal's names.
#pragma once
#include "msl_base.h"

namespace elinvar_msl {
namespace elinvar_leaf {
#ifdef ELINVAR_CUDA
#define ELINVAR_C(name) ::name##f
#else
#define ELINVAR_C(name) __builtin_##name##f
#endif
#define ELINVAR_LEAF1(name) \
  ELINVAR_FN float name(float x) { return ELINVAR_C(name)(x); }
#define ELINVAR_LEAF2(name) \
  ELINVAR_FN float name(float x, float y) { return ELINVAR_C(name)(x, y); }
ELINVAR_LEAF1(acos) ELINVAR_LEAF1(acosh) ELINVAR_LEAF1(asin) ELINVAR_LEAF1(asinh) ELINVAR_LEAF1(atan) ELINVAR_LEAF1(atanh)
ELINVAR_LEAF1(ceil) ELINVAR_LEAF1(cos) ELINVAR_LEAF1(cosh) ELINVAR_LEAF1(exp) ELINVAR_LEAF1(exp2) ELINVAR_LEAF1(floor)
ELINVAR_LEAF1(log) ELINVAR_LEAF1(log2) ELINVAR_LEAF1(log10) ELINVAR_LEAF1(rint) ELINVAR_LEAF1(round) ELINVAR_LEAF1(sin)
ELINVAR_LEAF1(sinh) ELINVAR_LEAF1(sqrt) ELINVAR_LEAF1(tan) ELINVAR_LEAF1(tanh) ELINVAR_LEAF1(trunc)
ELINVAR_LEAF2(atan2) ELINVAR_LEAF2(fmod) ELINVAR_LEAF2(nextafter) ELINVAR_LEAF2(pow)
ELINVAR_FN float fma(float x, float y, float z) { return ELINVAR_C(fma)(x, y, z); }
ELINVAR_FN float ldexp(float x, int k) { return ELINVAR_C(ldexp)(x, k); }
ELINVAR_FN float frexp(float x, int& exponent) { return ELINVAR_C(frexp)(x, &exponent); }

#ifdef ELINVAR_CUDA
ELINVAR_FN float fmax(float x, float y) { return ::fmaxf(x, y); }
ELINVAR_FN float fmin(float x, float y) { return ::fminf(x, y); }
ELINVAR_FN float exp10(float x) { return ::exp10f(x); }
ELINVAR_FN float sinpi(float x) { return ::sinpif(x); }
ELINVAR_FN float cospi(float x) { return ::cospif(x); }
ELINVAR_FN half fma(half x, half y, half z) {
  ushort r;
  asm("fma.rn.f16 %0, %1, %2, %3;" : "=h"(r) : "h"(x.bits), "h"(y.bits), "h"(z.bits));
  return half::raw(r);
}
ELINVAR_FN bfloat fma(bfloat x, bfloat y, bfloat z) {
  ushort r;
  asm("fma.rn.bf16 %0, %1, %2, %3;" : "=h"(r) : "h"(x.bits), "h"(y.bits), "h"(z.bits));
  return bfloat::raw(r);
}
#else
// Equal arguments differ in sign of zero at most; like the GPU, fmax prefers +0 and fmin -0. A NaN loses.
ELINVAR_FN float fmax(float x, float y) {
  if (x == y) return elinvar_bits<float>(elinvar_bits<uint>(x) & elinvar_bits<uint>(y));
  return x > y || y != y ? x : y;
}
ELINVAR_FN float fmin(float x, float y) {
  if (x == y) return elinvar_bits<float>(elinvar_bits<uint>(x) | elinvar_bits<uint>(y));
  return x < y || y != y ? x : y;
}
ELINVAR_FN float exp10(float x) { return float(__builtin_pow(10.0, double(x))); }
ELINVAR_FN float sinpi(float x) {
  const double turn = double(x) - 2.0 * __builtin_floor(double(x) * 0.5);  // exact, in [0, 2)
  return turn == 0.0 || turn == 1.0 ? __builtin_copysignf(0.0f, x) : float(__builtin_sin(3.14159265358979323846 * turn));
}
ELINVAR_FN float cospi(float x) {
  const double turn = double(x) - 2.0 * __builtin_floor(double(x) * 0.5);
  return turn == 0.5 || turn == 1.5 ? 0.0f : float(__builtin_cos(3.14159265358979323846 * turn));
}
ELINVAR_FN half fma(half x, half y, half z) { return half(elinvar_fma_to_odd(x, y, z)); }
ELINVAR_FN bfloat fma(bfloat x, bfloat y, bfloat z) { return bfloat(elinvar_fma_to_odd(x, y, z)); }
#endif
}  // namespace elinvar_leaf
}  // namespace elinvar_msl
