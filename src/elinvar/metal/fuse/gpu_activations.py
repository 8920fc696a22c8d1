"""Activations as Metal text: those of `cpu_math`, whose coefficients they share, and cheap ones for half data.

The exact ones take their argument as ``x + low`` and are within 2 ulp of float32; they cost a GPU about what eight
bytes per element do. What is stored in 16 bits is rounded so coarsely that the cheap ones are exact for it.
"""

from __future__ import annotations

__all__ = ["CHEAP", "CHEAP_TEMPLATES", "EXACT", "EXACT_TEMPLATES"]

_NAMES = ("sigmoid", "silu", "gelu_tanh", "gelu_erf")
_RESTS = ("fma", "add", "mul", "div")
EXACT_TEMPLATES = {
    **{name: f"fused_{name}({{0}}, {{1}})" for name in (*_NAMES, "tanh_of")},
    "fma": "fma({0}, {1}, {2})",
    "fma_rest": "fused_fma_rest({0}, {1}, {2}, {3})",
    "add_rest": "fused_small_rest(fused_sum_rest({0}, {1}, {2}), {2})",
    "mul_rest": "fused_small_rest(fma({0}, {1}, -{2}), {2})",
    "div_rest": "fused_small_rest(fma(-{2}, {1}, {0}) / {1}, {2})",
}
CHEAP_TEMPLATES = {
    **{name: f"fused_{name}({{0}})" for name in _NAMES},
    "tanh_of": "fused_tanh({0})",
    "fma": "fma({0}, {1}, {2})",
    **{f"{name}_rest": "0.0f" for name in _RESTS},
}

_TAIL = """\
static inline float fused_tail(float m) {
    // (a + 3) erfcx(a / sqrt 2) / 2 less its leading coefficient and over v, in v = (a - 3) / (a + 3), m = 1 / (a + 3).
    float v = fma(-6.0f, m, 1.0f);
    float p = fma(5.44636169e-05f, v, 0.00013127302f);
    p = fma(p, v, -0.000244748546f);
    p = fma(p, v, -0.00103253650f);
    p = fma(p, v, 0.00102477660f);
    p = fma(p, v, 0.00696930476f);
    p = fma(p, v, -0.0104625188f);
    p = fma(p, v, -0.0472626872f);
    p = fma(p, v, 0.230017707f);
    return fma(p, v, -0.509332001f);
}
"""
EXACT = (
    _TAIL
    + """\
struct fused_power { float t, a, b; };  // e^x = (1 + t) a b, a and b powers of two
static inline fused_power fused_exp_parts(float x, float low) {
    float y = x != x ? 0.0f : (x > 89.0f ? 89.0f : (x < -120.0f ? -120.0f : x));
    float n = floor(fma(y, 1.44269504f, 0.5f));
    float r = fma(n, -0.693359375f, y) + fma(n, 2.12194440e-4f, low);
    float p = fma(0.000199075692f, r, 0.0013933643f);
    p = fma(p, r, 0.00833328603f);
    p = fma(p, r, 0.041666465f);
    p = fma(p, r, 0.166666668f);
    p = fma(p, r, 0.5f);
    int k = int(n), k1 = k >> 1, k2 = k - k1;
    fused_power e;
    e.t = fma(p * r, r, r);
    e.a = as_type<float>((k1 + 127) << 23);
    e.b = as_type<float>((k2 + 127) << 23);
    return e;
}
static inline float fused_sum_rest(float a, float b, float total) {
    float back = total - a;
    return (a - (total - back)) + (b - back);
}
static inline float fused_small_rest(float rest, float result) {
    return fabs(rest) < fabs(result) && fabs(result) < 3.0e38f ? rest : 0.0f;
}
static inline float fused_fma_rest(float x, float y, float z, float result) {
    float product = fma(x, y, 0.0f);  // which no compiler contracts into the sums below, as it may x * y
    float lost = fma(x, y, -product);
    float inner = z + lost;
    float outer = product + inner;
    float rest = ((outer - result) + fused_sum_rest(product, inner, outer)) + fused_sum_rest(z, lost, inner);
    return fused_small_rest(rest, result);
}
static inline float fused_tanh_of(float x, float low) {
    float y = fused_tanh(x);
    return y + fma(-y, y, 1.0f) * low;
}
static inline float fused_times_sigmoid(float f, float f_low, float x, float low) {
    bool below = x < 0.0f;
    fused_power e = fused_exp_parts(below ? x : -x, below ? low : -low);
    float h = 1.0f + e.t, h_low = e.t - (h - 1.0f);
    float power = h * e.a * e.b;
    float d = 1.0f + power, d_low = fma(h_low * e.a, e.b, power - (d - 1.0f));
    float q = 1.0f / d;
    float q_low = q * fma(-d_low, q, fma(-d, q, 1.0f));
    float n = below ? h : 1.0f, n_low = below ? h_low : 0.0f;
    float p = n * q;
    float p_low = fma(n, q, -p) + fma(n, q_low, n_low * q);
    float y = f < INFINITY ? fma(f, p, fma(f, p_low, f_low * p)) : f * p;
    y = below ? y * e.a * e.b : y;
    return x > -116.0f ? y : f * (x * 0.0f);
}
static inline float fused_sigmoid(float x, float low) {
    float y = fused_times_sigmoid(1.0f, 0.0f, x, low);
    return x < -116.0f ? 0.0f : y;
}
static inline float fused_silu(float x, float low) { return fused_times_sigmoid(x, low, x, low); }
static inline float fused_gelu_tanh(float x, float low) {
    float c = x > 13.0f ? 13.0f : (x < -13.0f ? -13.0f : x);
    float s = c * c, s_low = fma(c, c, -s);
    float v = fma(0.07135481387f, s, 0.0f);
    float v_low = fma(0.07135481387f, s, -v) + fma(0.07135481387f, s_low, 2.39883247e-09f * s);
    float w = 1.59576916695f + v;
    float w_low = fused_sum_rest(1.59576916695f, v, w) + (v_low - 4.53406805e-08f);
    float u = c * w;
    float u_low = fma(c, w, -u) + fma(c, w_low, low * fma(0.21406444f, s, 1.5957691f));
    return fused_times_sigmoid(x, low, u, u_low);
}
static inline float fused_gelu_erf(float x, float low) {
    bool below = x < 0.0f;
    float a = fabs(x) < 14.6f ? fabs(x) : 14.6f, a_low = below ? -low : low;
    float s = a * a, s_low = fma(2.0f * a, a_low, fma(a, a, -s));
    fused_power e = fused_exp_parts(-0.5f * s, -0.5f * s_low);
    float h = 1.0f + e.t, h_low = e.t - (h - 1.0f);
    float d = a + 3.0f;
    float m = 1.0f / d;
    float m_low = m * fma(-fused_sum_rest(a, 3.0f, d), m, fma(-d, m, 1.0f));
    float slope = fused_tail(m), v = fma(-6.0f, m, 1.0f);
    float p = fma(slope, v, 0.729083717f);
    float lost = fma(-6.0f, m_low, fma(-6.0f, m, 1.0f - v));
    float p_low = fma(slope, v, 0.729083717f - p) + (fma(slope, lost, 9.801316e-09f * v) - 2.6497867e-08f);
    float g = p * m;
    float g_low = fma(p, m, -g) + fma(p, m_low, p_low * m) + fma(a, g, -0.39894228f) * a_low;
    float z = g * h;
    float z_low = fma(g, h, -z) + fma(g, h_low, g_low * h);
    float tail = fma(x, z, fma(x, z_low, low * z)) * e.a * e.b;
    z = z * e.a * e.b;
    z_low = z_low * e.a * e.b;
    float w = 1.0f - z, w_low = ((1.0f - w) - z) - z_low;
    float y = below ? tail : fma(x, w, fma(x, w_low, low * w));
    y = x > 14.6f ? x : y;
    return x > -14.6f ? y : x * 0.0f;
}
"""
)
CHEAP = (
    _TAIL
    + """\
static inline float fused_sigmoid(float x) {
    float e = exp(-fabs(x));
    return x != x ? x : (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
static inline float fused_silu(float x) { return x * fused_sigmoid(x); }
static inline float fused_gelu_tanh(float x) {
    return x * fused_sigmoid(x * fma(0.07135481387f, x * x, 1.59576916695f));
}
static inline float fused_gelu_erf(float x) {
    float a = fabs(x) < 14.6f ? fabs(x) : 14.6f, m = 1.0f / (a + 3.0f);
    float tail = m * fma(fused_tail(m), fma(-6.0f, m, 1.0f), 0.729083717f) * exp(-0.5f * a * a);
    return x > -14.6f ? (x < 0.0f ? x * tail : (x > 14.6f ? x : x * (1.0f - tail))) : x * 0.0f;
}
"""
)
