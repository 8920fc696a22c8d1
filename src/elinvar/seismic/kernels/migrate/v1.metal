// seismic.migrate, version v1: the baseline with its invariants hoisted out of the loop over traces and samples.
//
// One simdgroup per pillar and block of 32 output times, lanes along time. The lanes first become 32 traces: each works out
// once what all samples of the block need of its trace (squared distances, midpoint distance, where it begins), and drops
// those that the aperture or the end of the trace keep out of the whole block. Then the lanes are samples again, each with
// its own entry of the tables in registers, and go through the list with an exact travel time for every contribution.
//
// Tables as in baseline.metal, padded to whole blocks; `blocks` holds each block's largest radius (x), smallest
// inner radius of the rim (y) and smallest 1 / (V dt)^2 (w).
#include <metal_stdlib>
using namespace metal;

#ifndef SIMDGROUPS
#define SIMDGROUPS 4  // per threadgroup, each with a pillar of its own
#endif
#ifndef WEIGHTED
#define WEIGHTED 1  // 0: amplitude "none"
#endif
#ifndef PHYSICS
#define PHYSICS 0  // 0 straight, 1 curved, 2 vti
#endif

constant float TINY = 1e-20f;  // samples: in place of a vertical time of 0

#if PHYSICS == 1
// log(1 + z) for z >= 0 that loses nothing where z is small: 1 + z = 2^k (1 + f), with f from z itself.
static float log1p(float z)
{
    const int k = (as_type<int>(1.0f + z) - 0x3F3504F3) >> 23;
    const float scale = as_type<float>((127 - k) << 23), f = fma(z, scale, scale - 1.0f), s = f * f;
    float p = fma(0.0733243733f, f, -0.116598872f);
    p = fma(p, f, 0.116346772f);
    p = fma(p, f, -0.123967073f);
    p = fma(p, f, 0.142511549f);
    p = fma(p, f, -0.166691507f);
    p = fma(p, f, 0.200006881f);
    p = fma(p, f, -0.249999812f);
    p = fma(p, f, 0.333333313f);
    return (f + fma(p * f, s, fma(float(k), -2.12194440e-4f, -0.5f * s))) + float(k) * 0.693359375f;
}
#endif

// T - t0 in samples: legs from A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large; tau is at least TINY.
static float moveout(float2 square, float2 leg, float2 bend, float kappa)
{
#if PHYSICS == 1
    const float2 b = square * leg.y, r2 = b + bend.x * bend.x;
    const float2 m = max(float2(fast::sqrt(r2.x), fast::sqrt(r2.y)) + bend.x, 1e-20f), k2 = r2 * (kappa * kappa) + 1.0f;
    const float2 d = float2(fast::sqrt(k2.x), fast::sqrt(k2.y)) + bend.y;
    const float2 up = b * kappa * (m * kappa + d), below = m * d * fma(kappa, bend.x, bend.y);
    const float s = fast::divide(up.x, below.x), r = fast::divide(up.y, below.y);
    return fast::divide(log1p(fma(s, r, s + r)), kappa);
#else
#if PHYSICS == 2
    const float2 flat = square * leg.y;
    const float tau2 = leg.x * leg.x;
    const float2 up = flat * (flat + tau2), below = max(flat * bend.x + tau2, 1e-20f);
    const float2 a = float2(fast::divide(up.x, below.x), fast::divide(up.y, below.y));
#else
    const float2 a = square * leg.y;
#endif
    const float s = fast::sqrt(fma(leg.x, leg.x, a.x)) + leg.x, r = fast::sqrt(fma(leg.x, leg.x, a.y)) + leg.x;
    return fast::divide(a.x, s) + fast::divide(a.y, r);
#endif
}

kernel void migrate_v1(
    device const float* traces [[buffer(0)]],
    device const float4* ends [[buffer(1)]],      // source x, y, receiver x, y of each trace, metres
    device const float2* pillars [[buffer(2)]],
    device const float4* legs [[buffer(3)]],
    device const float* gain [[buffer(4)]],       // what is left of the weight once (t0 / T)^2 is applied
    device const float4* blocks [[buffer(5)]],
    device float* image [[buffer(6)]],
    device int* fold [[buffer(7)]],
    constant int& n_pillars [[buffer(8)]],
    constant int& n_traces [[buffer(9)]],
    constant int& n_samples [[buffer(10)]],
    constant int& n_out [[buffer(11)]],
    constant int& n_blocks [[buffer(12)]],
    constant int& rows [[buffer(13)]],            // 1 when each pillar has its own row of the tables, 0 when they share one
    constant float& shift [[buffer(14)]],         // time of input sample 0, in samples
    constant float& rim [[buffer(15)]],           // (1 - taper) / taper
    constant int& counted [[buffer(16)]],
    device const float2* bends [[buffer(17)]],    // in rows as legs; one unused entry for straight rays
    constant float& kappa [[buffer(18)]],
    constant float& latest [[buffer(19)]],        // time at which traces end, in samples, stretched for curved rays
    uint2 group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 slab[SIMDGROUPS * 32];     // ds^2, dr^2, midpoint to pillar, bits of where the trace begins
    const int p = int(group.x) * SIMDGROUPS + int(simd);
    if (p >= n_pillars) return;  // whole simdgroups: nobody waits for them
    const int block = n_blocks - 1 - int(group.y);  // deep blocks have most to do: first
    const int row = p * rows * n_blocks * 32, t = block * 32 + int(lane), mine = int(simd) * 32;
    const float4 leg = legs[row + t], shape = blocks[p * rows * n_blocks + block];
#if PHYSICS
    const float2 bend = bends[row + t];
#else
    const float2 bend = float2(0.0f);
#endif
#if PHYSICS == 1
    const float start = 2.0f * bends[row + block * 32].x;
#else
    const float start = 2.0f * legs[row + block * 32].x;
#endif
    const float2 pillar = pillars[p];
    const float2 tau = float2(max(leg.x, TINY), leg.y);
    const float t0 = 2.0f * leg.x, zero = t0 - shift, end = float(n_samples - 1) - zero;
    const float left_over = fma(latest, latest, -start * start);
    float sum = 0.0f;
    int count = 0;
    for (int first = 0; first < n_traces; first += 32) {
        const int k = first + int(lane);
        const float4 e = ends[min(k, n_traces - 1)] - float4(pillar.x, pillar.y, pillar.x, pillar.y);
        const float mx = 0.5f * (e.x + e.z), my = 0.5f * (e.y + e.w);
        const float distance = sqrt(fma(mx, mx, my * my));
        const float ds = fma(e.x, e.x, e.y * e.y), dr = fma(e.z, e.z, e.w * e.w);
        // T^2 >= t0^2 + (ds + dr)^2 / V^2: what comes later than the trace ends is no one's business.
        const float spread = ds + dr + 2.0f * sqrt(ds * dr);
        const bool near = k < n_traces && distance <= shape.x && shape.w * spread <= left_over;
        const uint one = near ? 1u : 0u, before = simd_prefix_exclusive_sum(one);
        const int number = int(simd_broadcast(before + one, 31));
        simdgroup_barrier(mem_flags::mem_threadgroup);  // the previous 32 traces have been read
        if (near) slab[mine + int(before)] = float4(ds, dr, distance, as_type<float>(k * n_samples));
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (int i = mine; i < mine + number; i++) {
            const float4 trace = slab[i];
            const float moved = moveout(trace.xy, tau, bend, kappa);
            // Compared before the sum is rounded: which samples the ends of a trace count is the answer, not noise.
            if (!(trace.z <= leg.z && moved >= -zero && moved <= end)) continue;
            const float x = zero + moved;
            const int left = min(int(x), n_samples - 2);
            device const float* sample = traces + (as_type<int>(trace.w) + left);
            float value = fma(x - float(left), sample[1] - sample[0], sample[0]);
            if (trace.z > shape.y) {
                const float u = clamp(fma(trace.z, leg.w, -rim), 0.0f, 1.0f);
                value *= fma(0.5f, fast::cos(u * M_PI_F), 0.5f);
            }
#if WEIGHTED
            const float inverse = fast::divide(1.0f, t0 + moved);
            value *= inverse * inverse;
#endif
            sum += value;
            count += 1;
        }
    }
    if (t >= n_out) return;
    const int at = p * n_out + t;
    // At t0 = 0 the weight is 0 even where T is, and 1 / T infinite.
    const float scale = WEIGHTED ? t0 * t0 * gain[row + t] : gain[row + t];
    if (scale != 0.0f) image[at] = fma(scale, sum, image[at]);
    if (counted != 0) fold[at] += count;
}
