// Bloom at half resolution: prefilter and 13-tap halving, tent doubling with the sum of a pyramid.
//
// Levels are made by columns: a thread owns one column (of a pair of samples, where the level above has them)
// and walks down, its neighbours' samples come by shuffles, rows it needs again stay in registers. Some lanes at both
// ends of a simdgroup only bring their samples.
#include <metal_stdlib>
using namespace metal;

#ifndef WIDE
#define WIDE 0  // 1: rows of what is read and written in pairs are whole, aligned pairs
#endif
#ifndef ONCE
#define ONCE 0  // 1: on NVIDIA GPUs, whose second-level cache is asked to keep the first level rather than the frame
#endif

static inline float light_of(float top, float threshold, float knee, float scale)
{
    const float s = clamp(top - threshold + knee, 0.0f, 2.0f * knee);
    return fast::divide(fmax(s * s * scale, top - threshold), fmax(top, 1e-4f));
}

static inline float shine(float x, float ceiling) { return fmin(fmax(x, 0.0f), ceiling); }  // a NaN is no light

// Samples 2 x and 2 x + 1 of one row in all planes; beyond an edge they are the edge's.
struct Two {
    float3 a, b;
};

static inline Two two(device const float* source, int plane, int row, int x, int columns)
{
    Two c;
#if WIDE
    const int last = columns / 2 - 1, o = row * (columns / 2) + clamp(x, 0, last), n = plane / 2;
    device const float2* p = (device const float2*)source;
    const float2 r = p[o], g = p[n + o], l = p[2 * n + o];
    const bool before = x < 0, behind = x > last;
    c.a = float3(behind ? r.y : r.x, behind ? g.y : g.x, behind ? l.y : l.x);
    c.b = float3(before ? r.x : r.y, before ? g.x : g.y, before ? l.x : l.y);
#else
    const int a = row * columns + clamp(2 * x, 0, columns - 1), b = row * columns + clamp(2 * x + 1, 0, columns - 1);
    c.a = float3(source[a], source[plane + a], source[2 * plane + a]);
    c.b = float3(source[b], source[plane + b], source[2 * plane + b]);
#endif
    return c;
}

#if ONCE
static inline float4 passing(device const float4* p) { return elinvar_load_once(p); }
#else
static inline float4 passing(device const float4* p) { return *p; }
#endif

// Four samples of one row in all planes.
struct Four {
    float3 a, b, c, d;
};

static inline Four four(device const float* source, int quads, int plane, int row, int x)
{
    const int last = quads - 1, o = row * quads + clamp(x, 0, last);
    device const float4* p = (device const float4*)source;
    const float4 r = passing(p + o), g = passing(p + plane + o), l = passing(p + 2 * plane + o);
    Four q;
    q.a = float3(r.x, g.x, l.x);
    q.b = float3(r.y, g.y, l.y);
    q.c = float3(r.z, g.z, l.z);
    q.d = float3(r.w, g.w, l.w);
    if (x < 0) q.c = q.d = q.a;
    if (x > last) q.a = q.b = q.d;
    return q;
}

static inline float3 lit(float3 c, float threshold, float knee, float scale, float ceiling)
{
    c = float3(shine(c.x, ceiling), shine(c.y, ceiling), shine(c.z, ceiling));
    return c * light_of(fmax(fmax(c.x, c.y), c.z), threshold, knee, scale);
}

// The first level of a frame whose rows are whole, aligned fours: a thread makes two columns, a simdgroup 60.
[[max_total_threads_per_threadgroup(128)]] kernel void bloom_first(device const float* source [[buffer(0)]],
    device float* out [[buffer(1)]], constant int& sw [[buffer(2)]], constant int& sh [[buffer(3)]],
    constant int& w [[buffer(4)]], constant int& h [[buffer(5)]], constant int& rows [[buffer(6)]],
    constant float& threshold [[buffer(7)]], constant float& knee [[buffer(8)]],
    constant float& ceiling [[buffer(9)]], constant float& gain [[buffer(10)]], uint2 at [[thread_position_in_grid]])
{
    const int lane = int(at.x) & 31, base = (int(at.x) >> 5) * 30, x = base + lane - 1, first = int(at.y) * rows;
    const int quads = sw / 4, plane = quads * sh, last = min(first + rows, h);
    if (base >= quads) return;
    const bool live = lane > 0 && lane < 31 && x < quads;
    const float scale = 1.0f / (4.0f * knee + 1e-4f);
    float3 older[2], before[2], near[2], lower[2];
    for (int e = 0; e < 2; e++) older[e] = before[e] = near[e] = lower[e] = float3(0.0f);
    for (int y = first - 1; y <= last; y++) {
        Four q[2];
        for (int d = 0; d < 2; d++) q[d] = four(source, quads, plane, clamp(2 * y + d, 0, sh - 1), x);
        float3 both[2], box[2][2];
        for (int d = 0; d < 2; d++) {
            const float3 ca = lit(q[d].a, threshold, knee, scale, ceiling);
            const float3 cb = lit(q[d].b, threshold, knee, scale, ceiling);
            const float3 cc = lit(q[d].c, threshold, knee, scale, ceiling);
            const float3 cd = lit(q[d].d, threshold, knee, scale, ceiling);
            const float3 left = ca + cb, right = cc + cd;
            const float3 sum0 = simd_shuffle_up(right, 1) + 2.0f * left + right;
            const float3 sum1 = left + 2.0f * right + simd_shuffle_down(left, 1);
            box[0][d] = simd_shuffle_up(cd, 1) + left + cc;
            box[1][d] = cb + right + simd_shuffle_down(ca, 1);
            both[0] = d == 0 ? sum0 : both[0] + sum0;
            both[1] = d == 0 ? sum1 : both[1] + sum1;
        }
        float3 c[2];
        for (int e = 0; e < 2; e++) {
            c[e] = (0.5f * (older[e] + both[e]) + before[e]) * (gain / 64.0f) + (near[e] + box[e][0]) * (gain / 32.0f);
            older[e] = before[e];
            before[e] = both[e];
            near[e] = lower[e] + box[e][0] + box[e][1];
            lower[e] = box[e][1];
        }
        if (live && y > first) {
            device float2* to = (device float2*)out + ((y - 1) * (w / 2) + x);
            const int n = w / 2 * h;
            to[0] = float2(c[0].x, c[1].x);
            to[n] = float2(c[0].y, c[1].y);
            to[2 * n] = float2(c[0].z, c[1].z);
        }
    }
}

// One lane more at each end of a simdgroup than it has columns: 30 columns; `rows` rows. The next pair of rows is on its
// way while one is worked on.
[[max_total_threads_per_threadgroup(128)]] kernel void bloom_down(device const float* source [[buffer(0)]],
    device float* out [[buffer(1)]], constant int& sw [[buffer(2)]], constant int& sh [[buffer(3)]],
    constant int& w [[buffer(4)]], constant int& h [[buffer(5)]], constant int& rows [[buffer(6)]],
    constant int& bright [[buffer(7)]], constant float& threshold [[buffer(8)]], constant float& knee [[buffer(9)]],
    constant float& ceiling [[buffer(10)]], constant float& gain [[buffer(11)]], uint2 at [[thread_position_in_grid]])
{
    const int lane = int(at.x) & 31, base = (int(at.x) >> 5) * 30, x = base + lane - 1, first = int(at.y) * rows;
    if (base >= w) return;
    const int plane = sw * sh, last = min(first + rows, h);
    const bool live = lane > 0 && lane < 31 && x < w;
    const float scale = 1.0f / (4.0f * knee + 1e-4f);
    // Of the pair of rows before: the wide sum, and what the narrow one has gathered; of the pair before that: the wide.
    float3 older = float3(0.0f), before = float3(0.0f), near = float3(0.0f), lower = float3(0.0f);
    Two next[2];
    for (int d = 0; d < 2; d++) next[d] = two(source, plane, clamp(2 * first - 2 + d, 0, sh - 1), x, sw);
    for (int y = first - 1; y <= last; y++) {
        Two now[2];
        for (int d = 0; d < 2; d++) {
            now[d] = next[d];
            next[d] = two(source, plane, clamp(2 * y + 2 + d, 0, sh - 1), x, sw);
        }
        float3 sum[2], box[2];
        for (int d = 0; d < 2; d++) {
            Two c = now[d];
            if (bright) {
                c.a = lit(c.a, threshold, knee, scale, ceiling);
                c.b = lit(c.b, threshold, knee, scale, ceiling);
            }
            const float3 pair = c.a + c.b;
            sum[d] = simd_shuffle_up(pair, 1) + simd_shuffle_down(pair, 1) + 2.0f * pair;
            box[d] = simd_shuffle_up(c.b, 1) + pair + simd_shuffle_down(c.a, 1);
        }
        const float3 both = sum[0] + sum[1];
        if (live && y > first) {
            const float3 c = (0.5f * (older + both) + before) * (1.0f / 64.0f) + (near + box[0]) * (1.0f / 32.0f);
            device float* to = out + ((y - 1) * w + x);
            to[0] = gain * c.x;
            to[w * h] = gain * c.y;
            to[2 * w * h] = gain * c.z;
        }
        older = before;
        before = both;
        near = lower + box[0] + box[1];
        lower = box[1];
    }
}

// large = weight large + tent(smaller), one plane, the tent of bilinear samples: 3/16 7/16 5/16 1/16 from the
// neighbour on a sample's own side outwards. A thread makes the two columns above one column of the smaller level; two
// lanes more at each end of a simdgroup than it has such columns: 28.
kernel void bloom_up(device const float* smaller [[buffer(0)]], device float* large [[buffer(1)]],
    constant int& columns [[buffer(2)]], constant int& lines [[buffer(3)]], constant int& w [[buffer(4)]],
    constant int& h [[buffer(5)]], constant int& rows [[buffer(6)]], constant float& weight [[buffer(7)]],
    uint3 at [[thread_position_in_grid]])
{
    const int lane = int(at.x) & 31, base = (int(at.x) >> 5) * 28, x = base + lane - 2, first = int(at.y) * rows;
    if (base >= columns) return;
    const int column = int(at.z) * columns * lines + clamp(x, 0, columns - 1), last = min(first + rows, lines);
    const bool live = lane > 1 && lane < 30 && x < columns, pair = 2 * x + 1 < w;
    device float* to = large + (int(at.z) * w * h + 2 * x);
    float2 line[5];
    float next = smaller[column + clamp(first - 2, 0, lines - 1) * columns];
    for (int j = 0; j < 5; j++) line[j] = float2(0.0f);
    for (int y = first - 2; y < last + 2; y++) {
        const float c = next;
        next = smaller[column + clamp(y + 1, 0, lines - 1) * columns];
        const int row = 2 * (y - 2);
        const bool done = live && y >= first + 2, second = row + 1 < h;
        float2 here[2];
        for (int k = 0; k < 2; k++) {
            here[k] = float2(0.0f);
            if (!done || (k == 1 && !second)) continue;
#if WIDE
            here[k] = *(device const float2*)(to + (row + k) * w);
#else
            here[k] = float2(to[(row + k) * w], pair ? to[(row + k) * w + 1] : 0.0f);
#endif
        }
        const float b = simd_shuffle_up(c, 1), a = simd_shuffle_up(c, 2);
        const float d = simd_shuffle_down(c, 1), e = simd_shuffle_down(c, 2);
        for (int j = 0; j < 4; j++) line[j] = line[j + 1];
        line[4] = float2(0.1875f * d + 0.4375f * c + 0.3125f * b + 0.0625f * a,
                         0.1875f * b + 0.4375f * c + 0.3125f * d + 0.0625f * e);
        if (!done) continue;
        for (int k = 0; k < 2; k++) {
            if (k == 1 && !second) continue;
            const float2 near = k == 0 ? line[3] : line[1], far = k == 0 ? line[1] : line[3];
            const float2 total = weight * here[k] + 0.1875f * near + 0.4375f * line[2] + 0.3125f * far
                               + 0.0625f * (k == 0 ? line[0] : line[4]);
#if WIDE
            *(device float2*)(to + (row + k) * w) = total;
#else
            to[(row + k) * w] = total.x;
            if (pair) to[(row + k) * w + 1] = total.y;
#endif
        }
    }
}

#define OWN 16
#define SMALL (OWN / 2 + 4)
#define MIDDLE (2 * SMALL + 4)
#define SOURCE (2 * MIDDLE + 4)

static inline float halved(threadgroup const float* p, int stride)
{
    float wide = 0.0f, near = 0.0f;
    for (int j = 0; j < 6; j++) {
        threadgroup const float* row = p + j * stride;
        const float inner = row[2] + row[3], box = row[1] + row[4] + inner, outer = row[0] + row[5] + box + inner;
        wide += (j == 2 || j == 3) ? outer : 0.5f * outer;
        near += (j > 0 && j < 5) ? box : 0.0f;
    }
    return wide * (1.0f / 64.0f) + near * (1.0f / 32.0f);
}

// The two smallest levels down, and the larger of them back up, one plane: 16 x 16 samples of it, from tiles that cover
// what they need of the smaller and of the larger levels. Here launches would cost more than work done twice.
[[max_total_threads_per_threadgroup(256)]] kernel void bloom_tail(device const float* source [[buffer(0)]],
    device float* middle [[buffer(1)]], device float* out [[buffer(2)]], constant int& sw [[buffer(3)]],
    constant int& sh [[buffer(4)]], constant int& mw [[buffer(5)]], constant int& mh [[buffer(6)]],
    constant int& w [[buffer(7)]], constant int& h [[buffer(8)]], constant float& weight [[buffer(9)]],
    constant float& gain [[buffer(10)]], uint lane [[thread_index_in_threadgroup]],
    uint3 group [[threadgroup_position_in_grid]])
{
    threadgroup float large_tile[SOURCE * SOURCE];
    threadgroup float middle_tile[MIDDLE * MIDDLE];
    threadgroup float small_tile[SMALL * SMALL];
    const float tent[4] = {0.1875f, 0.4375f, 0.3125f, 0.0625f};
    const int plane = int(group.z), ox = OWN / 2 * int(group.x), oy = OWN / 2 * int(group.y);
    const int wx = ox - 2, wy = oy - 2, mx = 2 * wx - 2, my = 2 * wy - 2, sx = 2 * mx - 2, sy = 2 * my - 2;
    for (int i = int(lane); i < SOURCE * SOURCE; i += 256) {
        const int x = clamp(sx + i % SOURCE, 0, sw - 1), y = clamp(sy + i / SOURCE, 0, sh - 1);
        large_tile[i] = source[(plane * sh + y) * sw + x];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = int(lane); i < MIDDLE * MIDDLE; i += 256) {
        const int x = clamp(mx + i % MIDDLE, 0, mw - 1), y = clamp(my + i / MIDDLE, 0, mh - 1);
        middle_tile[i] = halved(large_tile + (2 * y - 2 - sy) * SOURCE + 2 * x - 2 - sx, SOURCE);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = int(lane); i < SMALL * SMALL; i += 256) {
        const int tx = i % SMALL, ty = i / SMALL;
        const int x = clamp(wx + tx, 0, w - 1), y = clamp(wy + ty, 0, h - 1);
        const float value = gain * halved(middle_tile + (2 * y - 2 - my) * MIDDLE + 2 * x - 2 - mx, MIDDLE);
        small_tile[i] = value;
        const bool own = tx >= 2 && tx < SMALL - 2 && ty >= 2 && ty < SMALL - 2;
        if (own && wx + tx < w && wy + ty < h) out[(plane * h + y) * w + x] = value;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int x = 2 * ox + int(lane) % OWN, y = 2 * oy + int(lane) / OWN;
    if (x >= mw || y >= mh) return;
    const int ux = (x & 1) ? 1 : -1, uy = (y & 1) ? 1 : -1;
    threadgroup const float* p = small_tile + ((y >> 1) - uy - wy) * SMALL + (x >> 1) - ux - wx;
    float total = weight * middle_tile[(y - my) * MIDDLE + x - mx];
    for (int j = 0; j < 4; j++) {
        float line = 0.0f;
        for (int i = 0; i < 4; i++) line += tent[i] * p[j * uy * SMALL + i * ux];
        total += tent[j] * line;
    }
    middle[(plane * mh + y) * mw + x] = total;
}
