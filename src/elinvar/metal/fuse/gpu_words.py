"""What Metal calls the operations of a recorded program, and what its library lacks."""

from __future__ import annotations

__all__ = ["LIBRARY", "TEMPLATES", "TYPE"]

TYPE = {"f32": "float", "f16": "half", "bf16": "bfloat", "bool": "uchar"}
TEMPLATES = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "pow": "fused_pow({0}, {1})",
    "neg": "-{0}",
    "abs": "fabs({0})",
    "exp": "exp({0})",
    "log": "log({0})",
    "log1p": "fused_log1p({0})",
    "sqrt": "sqrt({0})",
    "rsqrt": "1.0f / sqrt({0})",
    "reciprocal": "1.0f / {0}",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "tanh": "fused_tanh({0})",
    "erf": "fused_erf({0})",
    "floor": "floor({0})",
    "ceil": "ceil({0})",
    "relu": "({0} > 0.0f || {0} != {0}) ? {0} : 0.0f",
    "maximum": "fused_larger({0}, {1})",
    "minimum": "fused_smaller({0}, {1})",
    "isnan": "{0} != {0}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} && {1}",
    "or": "{0} || {1}",
    "not": "!{0}",
    "where": "{0} ? {1} : {2}",
    "to_truth": "({0} != 0.0f)",
    "to_number": "({0} ? 1.0f : 0.0f)",
}
# What Metal's library lacks, or treats differently at NaN. The erf coefficients are those of cpu_math.py.
LIBRARY = """\
#include <metal_stdlib>
using namespace metal;

static inline float fused_larger(float a, float b) { return (a > b || a != a) ? a : b; }
static inline float fused_smaller(float a, float b) { return (a < b || a != a) ? a : b; }
static inline float fused_pow(float a, float b) {
    // Metal's pow is undefined for a negative base; a whole exponent decides the sign as in C.
    if (a >= 0.0f || a != a) return pow(a, b);
    if (b != floor(b)) return NAN;
    float size = pow(-a, b);
    return fabs(fmod(b, 2.0f)) == 1.0f ? -size : size;
}
static inline float fused_log1p(float x) {
    float u = 1.0f + x;
    if (!(u > 0.0f) || u > 3.0e38f) return log(u);
    return fabs(x) < 1.0e-7f ? x : log(u) + (x - (u - 1.0f)) / u;
}
static inline float fused_tanh(float x) {
    float a = fabs(x), s = x * x;
    float p = fma(s, fma(s, fma(s, fma(s, -0.00611318939f, 0.0210100799f), -0.0538540695f), 0.133327945f),
                  -0.333333292f);
    float size = 1.0f - 2.0f / (exp(a + a) + 1.0f);
    return a < 0.625f ? fma(x * s, p, x) : (x < 0.0f ? -size : size);
}
static inline float fused_erf(float x) {
    float a = fabs(x), s = x * x;
    float p = fma(s, -9.6801369e-06f, 0.000112705447f);
    p = fma(s, p, -0.00084847115f);
    p = fma(s, p, 0.00522107488f);
    p = fma(s, p, -0.0268654458f);
    p = fma(s, p, 0.112837827f);
    p = fma(s, p, -0.376126385f);
    p = fma(s, p, 0.12837917f);
    float b = a > 4.1f ? 4.1f : a;
    float q = fma(b, 1.55722587e-06f, -4.44646641e-05f);
    q = fma(b, q, 0.000583251469f);
    q = fma(b, q, -0.00469546465f);
    q = fma(b, q, 0.0262369061f);
    q = fma(b, q, -0.109751703f);
    q = fma(b, q, -0.632180074f);
    q = fma(b, q, -1.13002269f);
    q = fma(b, q, 0.000267154358f);
    float size = 1.0f - exp(q);
    return x != x ? x : (a < 1.0f ? fma(x, p, x) : (x < 0.0f ? -size : size));
}
"""
