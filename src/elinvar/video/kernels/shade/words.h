// Metal's side of the words of point-wise passes; put in front of generated kernels.
#include <metal_stdlib>
using namespace metal;

static inline float w_fma(float a, float b, float c) { return fma(a, b, c); }
static inline float w_minimum(float a, float b) { return a < b ? a : b; }
static inline float w_maximum(float a, float b) { return a > b ? a : b; }
static inline float w_clamp(float x, float low, float high) { return fmin(fmax(x, low), high); }
// Within 2 ulp: where a pixel is divided, an approximate reciprocal is exact enough, and a tenth of the work.
static inline float w_divide(float a, float b) { return fast::divide(a, b); }
static inline float w_where(bool condition, float a, float b) { return condition ? a : b; }
static inline float w_mix(float a, float b, float t) { return a + (b - a) * t; }
static inline float w_floor(float x) { return floor(x); }
static inline float w_sqrt(float x) { return sqrt(w_maximum(x, 0.0f)); }
static inline float w_exp2(float x) { return fast::exp2(w_clamp(x, -126.0f, 127.0f)); }  // nothing subnormal: 2 ulp
static inline float w_log2(float x) { return log2(fmax(x, 1.17549435e-38f)); }

static inline float w_powr(float x, float y) { return x < 1.17549435e-38f ? 0.0f : w_exp2(y * w_log2(x)); }

// A power up to 1 shrinks the error of an approximate logarithm; that of 0 is minus infinity, whose power is 0.
static inline float w_root(float x, float y) { return fast::exp2(y * fast::log2(x)); }

static inline float w_smoothstep(float low, float high, float x)
{
    const float scale = fast::divide(1.0f, high - low);
    const float t = w_clamp(fma(x, scale, -low * scale), 0.0f, 1.0f);
    return t * t * fma(-2.0f, t, 3.0f);
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
    const uint pairs = (h & 0x00ff00ffu) + ((h >> 8u) & 0x00ff00ffu);
    return float(int((pairs * 0x00010001u) >> 16u) - 510) * 0.006765902f;
}

// The corners of a cell of the noise's lattice, times 2^24. Pixels beside each other are often in one cell.
struct Cell {
    int i, j;
    float a, b, c, d;
};

static inline float corner(int i, int j, int seed) { return float(int(hash3(i, j, seed) >> 8u)); }

static inline float w_value_noise(float x, float y, int seed, thread Cell& cell)
{
    const int i = int(floor(x)), j = int(floor(y));
    if (i != cell.i || j != cell.j) {
        if (i == cell.i && j == cell.j + 1) {  // one cell down
            cell.a = cell.c;
            cell.b = cell.d;
        } else {
            cell.a = corner(i, j, seed);
            cell.b = corner(i + 1, j, seed);
        }
        cell.c = corner(i, j + 1, seed);
        cell.d = corner(i + 1, j + 1, seed);
        cell.i = i;
        cell.j = j;
    }
    float fx = x - float(i), fy = y - float(j);
    fx = fx * fx * fma(-2.0f, fx, 3.0f);
    fy = fy * fy * fma(-2.0f, fy, 3.0f);
    return w_mix(w_mix(cell.a, cell.b, fx), w_mix(cell.c, cell.d, fx), fy) * 5.9604644775390625e-08f;
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

// Two pixels beside each other.
struct Pair {
    float3 a, b;
};

// Whether rows of full-resolution frames and of codes are whole, aligned pairs.
constant bool wide = WIDE != 0;

// Two samples beside each other, the second `step` away.
static inline float2 get(device const float* p, int step)
{
    if (wide) return *(device const float2*)p;
    return float2(p[0], p[step]);
}

static inline float2 get(device const half* p, int step)
{
    if (wide) {
        const half2 c = *(device const half2*)p;
        return float2(float(c.x), float(c.y));
    }
    return float2(float(p[0]), float(p[step]));
}

#define PUT(T, T2)                                                                                                     \
    static inline void put(device T* p, T a, T b, bool second)                                                         \
    {                                                                                                                  \
        if (wide) {                                                                                                    \
            *(device T2*)p = T2(a, b);                                                                                 \
        } else {                                                                                                       \
            p[0] = a;                                                                                                  \
            if (second) p[1] = b;                                                                                      \
        }                                                                                                              \
    }
PUT(float, float2)
PUT(uchar, uchar2)
PUT(ushort, ushort2)

// A quarter of a row of a half-resolution plane, doubled bilinearly along x for the pair of pixels above one of its
// samples; centres at (i + 1/2) / 2. Three quarters of a row and one quarter of another are `fma(3, here, other)`.
static inline float2 across(device const float* plane, int row, int column, int columns)
{
    const int x = clamp(column, 0, columns - 1);
    const float here = 0.1875f * plane[row + x];
    return float2(here + 0.0625f * plane[row + max(x - 1, 0)], here + 0.0625f * plane[row + min(x + 1, columns - 1)]);
}

// How a colour becomes codes: as in Coding.vector.
struct Coding {
    float kr, kg, kb, scale, offset, top, dither, cb, cr, middle;
};

static inline float luma_of(float3 c, constant Coding& k) { return fma(k.kb, c.z, fma(k.kg, c.y, k.kr * c.x)); }

static inline ushort code(float value, float bias, constant Coding& k)
{
    if (DITHER) value += bias;
    return ushort(int(fmin(fmax(value, 0.0f), k.top)) << SHIFT);
}

static inline ushort luma_code(float luma, constant Coding& k, int ix, int iy, int seed)
{
    const float noise = DITHER ? w_hash_uniform(ix, iy, seed) : 0.0f;
    return code(fma(luma, k.scale, k.offset + (DITHER ? 0.0f : 0.5f)), noise, k);
}

static inline ushort chroma_code(float value, float gain, constant Coding& k, int ix, int iy, int seed)
{
    const float noise = DITHER ? w_hash_uniform(ix, iy, seed) : 0.0f;
    return code(fma(value, gain, k.middle + (DITHER ? 0.0f : 0.5f)), noise, k);
}

// Times k.cb and k.cr: Cb and Cr.
static inline float2 difference(float3 c, float luma) { return float2(c.z - luma, c.x - luma); }
