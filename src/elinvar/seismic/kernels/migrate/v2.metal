// seismic.migrate, version v2: one simdgroup per (pillar, block of output times), lanes along time.
//
// 32 traces at a time are prepared by 32 lanes: the travel time over the block becomes a cubic and the weight (t0 / T)^2 a
// quadratic in the sample number, both through four Chebyshev nodes, checked against the exact values at two more samples.
// The loop over traces then knows nothing of the physics: it reads the coefficients from threadgroup memory and adds one
// interpolated sample per lane. A trace lands in one of three lists:
//   smooth   polynomials good, all of the block on the trace and inside the rim
//   rim      polynomials good, but the aperture has to be looked at sample by sample
//   exact    polynomials not good enough (shallow, velocity kink), or the block runs off an end of the trace
//
// Tables (metal.py) are in input samples and padded to whole blocks: `legs` as in baseline.metal; `blocks` holds for each
// block x = largest radius, y = smallest inner radius of the rim, z = how far 1 / V^2 is from its cubic, relatively, w = its
// smallest 1 / (V dt)^2.
#include <metal_stdlib>
using namespace metal;

#ifndef SIMDGROUPS
#define SIMDGROUPS 8  // per threadgroup
#endif
#ifndef SAMPLES
#define SAMPLES 2  // per lane
#endif
#ifndef PAIRS
#define PAIRS 0  // 1: traces hold (a + b, b - a) for each sample a and its successor b: one wide load for two
#endif
#ifndef UNROLL
#define UNROLL 2  // traces in flight per simdgroup
#endif
#ifndef WEIGHTED
#define WEIGHTED 1  // 0: amplitude "none"
#endif

constant int BLOCK = 32 * SAMPLES;
constant int IN_FLIGHT = UNROLL;
constant float CENTRE = 0.5f * float(BLOCK - 1);
// The samples nearest to the four Chebyshev nodes of the block, symmetric about its centre.
constant int OUTER = int(0.0381f * float(BLOCK - 1) + 0.5f);
constant int INNER = int(0.3087f * float(BLOCK - 1) + 0.5f);
constant float QA = (CENTRE - float(INNER)) / CENTRE;
constant float QB = (CENTRE - float(OUTER)) / CENTRE;
// Adding and subtracting this rounds to an even integer, whose half then stands in the low bits: floor() and int() in two
// additions, where the conversion instructions run at a quarter of the rate. Needs IEEE addition (torch compiles Metal so).
constant float ROUND = 25165824.0f;  // 1.5 * 2^24
constant int ROUND_BITS = 0x4BC00000;

// Cubic through values at -QB, -QA, QA, QB.
static float4 cubic(float4 v)
{
    const float even_b = 0.5f * (v.x + v.w), even_a = 0.5f * (v.y + v.z);
    const float odd_b = (0.5f / QB) * (v.w - v.x), odd_a = (0.5f / QA) * (v.z - v.y);
    const float scale = 1.0f / (QB * QB - QA * QA);
    const float second = (even_b - even_a) * scale, third = (odd_b - odd_a) * scale;
    return float4(fma(-QA * QA, second, even_a), fma(-QA * QA, third, odd_a), second, third);
}

static float at(float4 c, float q) { return fma(fma(fma(c.w, q, c.z), q, c.y), q, c.x); }

// T - t0 in samples: legs from A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large.
static float moveout(float2 square, float4 leg)
{
    const float2 a = square * leg.y;
    const float s = fast::sqrt(fma(leg.x, leg.x, a.x)) + leg.x, r = fast::sqrt(fma(leg.x, leg.x, a.y)) + leg.x;
    return fast::divide(a.x, max(s, 1e-20f)) + fast::divide(a.y, max(r, 1e-20f));
}

// (t0 / T)^2; 0 at t0 = 0.
static float obliquity(float moved, float4 leg)
{
    const float ratio = fast::divide(2.0f * leg.x, max(fma(2.0f, leg.x, moved), 1e-20f));
    return ratio * ratio;
}

static float rim_weight(float distance, float slope, float rim)
{
    return fma(0.5f, fast::cos(clamp(fma(distance, slope, -rim), 0.0f, 1.0f) * M_PI_F), 0.5f);
}

#if PAIRS
typedef float2 Sample;
static float twice(device const float2* sample, float f)
{
    const float2 pair = sample[0];
    return fma(f, pair.y, pair.x);
}
#else
typedef float Sample;
static float twice(device const float* sample, float f)
{
    const float a = sample[0], b = sample[1];
    return fma(f, b - a, a + b);
}
#endif

// Twice the sample at (y + 1) / 2 + row, linearly interpolated.
static float twice_sample(device const Sample* traces, int row, float y)
{
    const float rounded = y + ROUND;
    return twice(traces + (as_type<int>(rounded) + row), y - (rounded - ROUND));
}

kernel void migrate_v2(
    device const Sample* traces [[buffer(0)]],
    device const float4* ends [[buffer(1)]],      // source x, y, receiver x, y of each trace, metres
    device const float2* pillars [[buffer(2)]],
    device const float4* legs [[buffer(3)]],
    device const float* gain [[buffer(4)]],       // what is left of the weight once (t0 / T)^2 is applied
    device const float4* blocks [[buffer(5)]],
    device const float2* centres [[buffer(6)]],   // time of each block's centre on the input axis: whole samples, and the rest
    device float* image [[buffer(7)]],
    device int* fold [[buffer(8)]],
    constant int& n_pillars [[buffer(9)]],
    constant int& n_traces [[buffer(10)]],
    constant int& n_samples [[buffer(11)]],
    constant int& n_out [[buffer(12)]],
    constant int& n_blocks [[buffer(13)]],
    constant int& rows [[buffer(14)]],            // 1 when each pillar has its own row of the tables, 0 when they share one
    constant float& shift [[buffer(15)]],         // time of input sample 0, in samples
    constant float& rim [[buffer(16)]],           // (1 - taper) / taper
    constant float& stretch [[buffer(17)]],       // input samples from a block's centre to its last sample at zero offset
    constant float& tolerance [[buffer(18)]],     // of the polynomials: samples for the time, relative for the weight
    constant int& counted [[buffer(19)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 time_slab[SIMDGROUPS * 32];    // coefficients of 2 x - 1; in the exact list ds^2, dr^2
    threadgroup float4 weight_slab[SIMDGROUPS * 32];  // coefficients of half the weight; w = bits of the row's offset
    threadgroup float reach_slab[SIMDGROUPS * 32];    // midpoint to pillar

    const int p = int(group.x) * SIMDGROUPS + int(simd);
    if (p >= n_pillars) return;  // whole simdgroups: nobody waits for them
    const int block = n_blocks - 1 - int(group.y);  // deep blocks have most to do: first
    const int slab = int(simd) * 32;
    const int row = p * rows * n_blocks * BLOCK;
    device const float4* knots = legs + (row + block * BLOCK);
    const float4 shape = blocks[p * rows * n_blocks + block];
    const float2 pillar = pillars[p], centre = centres[block];
    const float last = float(n_samples - 1), latest = max(last + shift, 0.0f) + 0.1f;
    const float earliest = 4.0f * knots[0].x * knots[0].x;

    float sum[SAMPLES], q[SAMPLES], outer[SAMPLES], slope[SAMPLES];
    int count[SAMPLES];
    int whole = 0;
    for (int m = 0; m < SAMPLES; m++) {
        const float4 leg = knots[int(lane) + 32 * m];
        q[m] = (float(int(lane) + 32 * m) - CENTRE) / CENTRE;
        outer[m] = leg.z;
        slope[m] = leg.w;
        sum[m] = 0.0f;
        count[m] = 0;
    }

    for (int first = 0; first < n_traces; first += 32) {
        const int k = first + int(lane);
        const float4 e = ends[min(k, n_traces - 1)] - float4(pillar.x, pillar.y, pillar.x, pillar.y);
        const float mx = 0.5f * (e.x + e.z), my = 0.5f * (e.y + e.w);
        const float distance = sqrt(fma(mx, mx, my * my));
        const float2 square = float2(fma(e.x, e.x, e.y * e.y), fma(e.z, e.z, e.w * e.w));
        // T^2 >= t0^2 + (ds + dr)^2 / V^2, so these may reach the block before their trace ends.
        const float spread = square.x + square.y + 2.0f * fast::sqrt(square.x * square.y);
        const bool near = k < n_traces && distance <= shape.x && fma(shape.w, spread, earliest) <= latest * latest;
        if (!simd_any(near)) continue;

        const float4 leg0 = knots[OUTER], leg1 = knots[INNER], leg2 = knots[BLOCK - 1 - INNER];
        const float4 leg3 = knots[BLOCK - 1 - OUTER], leg_top = knots[0], leg_mid = knots[BLOCK / 2];
        const float4 moved = float4(moveout(square, leg0), moveout(square, leg1), moveout(square, leg2), moveout(square, leg3));
        const float top = moveout(square, leg_top), mid = moveout(square, leg_mid);
        const float q_mid = 0.5f / CENTRE;
        float4 c = cubic(moved);
        // Where 1 / V^2 leaves its cubic by z, T leaves its own by less than z (T - t0).
        const float worst = fabs(at(c, -1.0f) - top) + fabs(at(c, q_mid) - mid) + shape.z * max(top, moved.w);
        bool good = worst <= tolerance;
        float4 w = float4(1.0f, 0.0f, 0.0f, 0.0f);
#if WEIGHTED
        w = cubic(float4(obliquity(moved.x, leg0), obliquity(moved.y, leg1), obliquity(moved.z, leg2), obliquity(moved.w, leg3)));
        w = float4(w.x, fma(0.75f, w.w, w.y), w.z, 0.0f);  // the quadratic nearest to the cubic
        good = good && fabs(at(w, -1.0f) - obliquity(top, leg_top)) + fabs(at(w, q_mid) - obliquity(mid, leg_mid)) <= tolerance * w.x;
#endif
        c.y += stretch;
        const float swing = fabs(c.y) + fabs(c.z) + fabs(c.w), ahead = centre.y + c.x, x = centre.x + ahead;
        const bool on = x - swing >= 0.01f && x + swing <= last - 0.01f;
        const bool off = good && (x - swing > last + 0.01f || x + swing < -0.01f);
        const bool exact = !(good && on);
        const bool inner = distance <= shape.y;

        // One prefix sum numbers the entries of all three lists: smooth from bit 0, rim from bit 10, exact from bit 20.
        const uint mine = !near || off ? 0u : exact ? 1u << 20 : inner ? 1u : 1u << 10;
        const uint before = simd_prefix_exclusive_sum(mine), total = simd_broadcast(before + mine, 31);
        const int n_smooth = int(total & 1023u), n_rim = int((total >> 10) & 1023u), n_exact = int(total >> 20);
        const float whole_part = floor(ahead);
        const int slot = slab + (exact ? n_smooth + n_rim + int(before >> 20)
                                       : inner ? int(before & 1023u) : n_smooth + int((before >> 10) & 1023u));
        simdgroup_barrier(mem_flags::mem_threadgroup);  // the previous 32 traces have been read
        if (mine != 0u) {
            const int offset = k * n_samples + (exact ? 0 : int(centre.x + whole_part) - ROUND_BITS);
            time_slab[slot] = exact ? float4(square.x, square.y, 0.0f, 0.0f)
                                    : float4(2.0f * (ahead - whole_part) - 1.0f, 2.0f * c.y, 2.0f * c.z, 2.0f * c.w);
            weight_slab[slot] = float4(0.5f * w.x, 0.5f * w.y, 0.5f * w.z, as_type<float>(offset));
            reach_slab[slot] = distance;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

#pragma unroll(IN_FLIGHT)
        for (int i = slab; i < slab + n_smooth; i++) {
            const float4 a = time_slab[i], b = weight_slab[i];
            const int offset = as_type<int>(b.w);
            for (int m = 0; m < SAMPLES; m++) {
                const float value = twice_sample(traces, offset, at(a, q[m]));
                sum[m] = fma(fma(fma(b.z, q[m], b.y), q[m], b.x), value, sum[m]);
            }
        }
        whole += n_smooth;
#pragma unroll(1)
        for (int i = slab + n_smooth; i < slab + n_smooth + n_rim; i++) {
            const float4 a = time_slab[i], b = weight_slab[i];
            const int offset = as_type<int>(b.w);
            const float reach = reach_slab[i];
            for (int m = 0; m < SAMPLES; m++) {
                const bool inside = reach <= outer[m];
                const float taper = inside ? rim_weight(reach, slope[m], rim) : 0.0f;
                const float value = twice_sample(traces, offset, at(a, q[m])) * taper;
                sum[m] = fma(fma(fma(b.z, q[m], b.y), q[m], b.x), value, sum[m]);
                count[m] += inside ? 1 : 0;
            }
        }
#pragma unroll(1)
        for (int i = slab + n_smooth + n_rim; i < slab + n_smooth + n_rim + n_exact; i++) {
            const float2 legs2 = time_slab[i].xy;
            const int offset = as_type<int>(weight_slab[i].w);
            const float reach = reach_slab[i];
            for (int m = 0; m < SAMPLES; m++) {
                const float4 leg = knots[int(lane) + 32 * m];
                const float moved_m = moveout(legs2, leg), zero = fma(2.0f, leg.x, -shift);
                // Compared before the sum is rounded: which samples the ends of a trace count is the answer, not noise.
                if (reach <= leg.z && moved_m >= -zero && moved_m <= last - zero) {
                    const float x_m = zero + moved_m;
                    const int left = clamp(int(x_m), 0, n_samples - 2);
                    float value = 0.5f * twice(traces + (offset + left), 2.0f * (x_m - float(left)) - 1.0f);
#if WEIGHTED
                    value *= obliquity(moved_m, leg);
#endif
                    sum[m] = fma(rim_weight(reach, leg.w, rim), value, sum[m]);
                    count[m] += 1;
                }
            }
        }
    }

    for (int m = 0; m < SAMPLES; m++) {
        const int t = block * BLOCK + int(lane) + 32 * m;
        if (t < n_out) {
            image[p * n_out + t] = fma(gain[row + t], sum[m], image[p * n_out + t]);
            if (counted != 0) fold[p * n_out + t] += whole + count[m];
        }
    }
}
