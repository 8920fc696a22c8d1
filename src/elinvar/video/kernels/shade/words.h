// Metal's side of the words of point-wise passes; put in front of generated kernels.
#include <metal_stdlib>
using namespace metal;

static inline float w_fma(float a, float b, float c) { return fma(a, b, c); }
static inline float w_minimum(float a, float b) { return a < b ? a : b; }
static inline float w_maximum(float a, float b) { return a > b ? a : b; }
static inline float w_clamp(float x, float low, float high) { return w_minimum(w_maximum(x, low), high); }
static inline float w_where(bool condition, float a, float b) { return condition ? a : b; }
static inline float w_mix(float a, float b, float t) { return a + (b - a) * t; }
static inline float w_floor(float x) { return floor(x); }
static inline float w_sqrt(float x) { return sqrt(w_maximum(x, 0.0f)); }
static inline float w_exp2(float x) { return exp2(w_clamp(x, -126.0f, 127.0f)); }
static inline float w_log2(float x) { return log2(w_maximum(x, 1.17549435e-38f)); }
static inline float w_powr(float x, float y) { return x < 1.17549435e-38f ? 0.0f : w_exp2(y * w_log2(x)); }

static inline float w_smoothstep(float low, float high, float x)
{
    const float t = w_clamp((x - low) / (high - low), 0.0f, 1.0f);
    return t * t * (3.0f - 2.0f * t);
}

static inline uint pcg(uint v)
{
    const uint state = v * 747796405u + 2891336453u;
    const uint word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

static inline uint hash3(int ix, int iy, int seed) { return pcg(uint(ix) + pcg(uint(iy) + pcg(uint(seed)))); }

static inline float w_hash_uniform(int ix, int iy, int seed)
{
    return float(int(hash3(ix, iy, seed) >> 8u)) * 5.9604644775390625e-08f;
}

static inline float w_hash_normal(int ix, int iy, int seed)
{
    const uint h = hash3(ix, iy, seed);
    const uint total = (h & 255u) + ((h >> 8u) & 255u) + ((h >> 16u) & 255u) + (h >> 24u);
    return float(int(total) - 510) * 0.006765902f;
}

static inline float w_value_noise(float x, float y, int seed)
{
    const float x0 = floor(x), y0 = floor(y);
    float fx = x - x0, fy = y - y0;
    fx = fx * fx * (3.0f - 2.0f * fx);
    fy = fy * fy * (3.0f - 2.0f * fy);
    const int i = int(x0), j = int(y0);
    const float top = w_mix(w_hash_uniform(i, j, seed), w_hash_uniform(i + 1, j, seed), fx);
    const float bottom = w_mix(w_hash_uniform(i, j + 1, seed), w_hash_uniform(i + 1, j + 1, seed), fx);
    return w_mix(top, bottom, fy);
}

static inline float3 entry(device const float* table, int at)
{
    return float3(table[at], table[at + 1], table[at + 2]);
}

static inline float3 w_tetrahedral(device const float* table, int size, float r, float g, float b)
{
    const float last = float(size - 1);
    r = w_clamp(r, 0.0f, 1.0f) * last;
    g = w_clamp(g, 0.0f, 1.0f) * last;
    b = w_clamp(b, 0.0f, 1.0f) * last;
    const int ir = min(int(r), size - 2), ig = min(int(g), size - 2), ib = min(int(b), size - 2);
    const float fr = r - float(ir), fg = g - float(ig), fb = b - float(ib);
    const int dr = 4 * size * size, dg = 4 * size, db = 4;
    const int at = ((ir * size + ig) * size + ib) * 4;
    const bool rg = fr >= fg, rb = fr >= fb, gb = fg >= fb;
    const float low = min(min(fr, fg), fb), high = max(max(fr, fg), fb);
    const float mid = max(min(fr, fg), min(max(fr, fg), fb));
    const int first = rg && rb ? dr : (gb ? dg : db);
    const int least = rb && gb ? db : (rg ? dg : dr);
    const int end = dr + dg + db;
    return (1.0f - high) * entry(table, at) + (high - mid) * entry(table, at + first)
         + (mid - low) * entry(table, at + end - least) + low * entry(table, at + end);
}

// One sample of a half-resolution plane, doubled bilinearly; centres at (i + 1/2) / 2.
static inline float doubled(device const float* half_plane, int c, int ix, int iy, int w, int h)
{
    const int columns = (w + 1) / 2, rows = (h + 1) / 2;
    device const float* p = half_plane + c * columns * rows;
    const int x0 = ix >> 1, y0 = iy >> 1;
    const int x1 = (ix & 1) ? min(x0 + 1, columns - 1) : max(x0 - 1, 0);
    const int y1 = (iy & 1) ? min(y0 + 1, rows - 1) : max(y0 - 1, 0);
    const float a = 0.75f * p[y0 * columns + x0] + 0.25f * p[y1 * columns + x0];
    const float b = 0.75f * p[y0 * columns + x1] + 0.25f * p[y1 * columns + x1];
    return 0.75f * a + 0.25f * b;
}

// How a colour becomes codes: kr kg kb, luma scale and offset, top code, dither, Cb and Cr scale, chroma offset.
static inline float luma_of(float3 c, constant float* k) { return fma(k[2], c.z, fma(k[1], c.y, k[0] * c.x)); }

static inline ushort code(float value, float bias, float top, int shift)
{
    return ushort(int(w_clamp(value + bias, 0.0f, top)) << shift);
}

static inline ushort luma_code(float luma, constant float* k, int ix, int iy, int seed, int shift)
{
    return code(fma(luma, k[3], k[4]), k[6] > 0.0f ? w_hash_uniform(ix, iy, seed) : 0.5f, k[5], shift);
}

static inline ushort chroma_code(float value, constant float* k, int ix, int iy, int seed, int shift)
{
    const float bias = k[6] > 0.0f ? 0.0f : 0.5f;
    const float noise = k[6] > 0.0f ? w_hash_uniform(ix, iy, seed) : 0.0f;
    return code(value + (k[9] + bias), noise, k[5], shift);
}

static inline float2 difference(float3 c, float luma, constant float* k)
{
    return float2((c.z - luma) * k[7], (c.x - luma) * k[8]);
}
