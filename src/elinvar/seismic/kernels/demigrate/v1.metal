// seismic.demigrate, version v1: the transpose of seismic.migrate, one lane per trace.
//
// The lanes of a simdgroup go through pillars and image samples together, so that the image, the tables and the pillar are
// read once for 32 traces. A lane adds into a trace of its own, so nothing is atomic; traces lie side by side, sample by
// sample, because neighbouring lanes are at neighbouring samples. What a lane has for the sample it is at, and for the next
// one, stays in two registers until the travel time moves on.
//
// Tables as in migrate/baseline.metal, padded; `blocks` holds each block's largest radius (x) and smallest
// 1 / (V dt)^2 (w), `bends` what PHYSICS asks for beside (migrate/physics.py).
#include <metal_stdlib>
using namespace metal;

#ifndef SIMDGROUPS
#define SIMDGROUPS 4  // per threadgroup; each works alone
#endif

#ifndef PHYSICS
#define PHYSICS 0  // 0 straight, 1 curved, 2 vti
#endif

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

#ifndef TAPS
#define TAPS 2  // neighbours that interpolation reads; with 4 and 8, WEIGHTS are their polynomials (interpolation.py)
#endif

// Zeros around every trace.
constant int BEYOND = TAPS > 2 ? TAPS - 1 : 0;

#if TAPS > 2
constant float FITTED[TAPS / 2][2][TAPS / 2] = WEIGHTS;
#endif

#ifndef COPIES
#define COPIES 1  // of every trace, side by side; more than one are filtered against aliasing (antialias.py)
#endif

// Which copy is read: how far it lies behind the trace, and the part that the next copy has.
struct Share
{
    int behind;
    float part;
};

#if COPIES > 1
// From the ends seen from the pillar, t0 / 2 and 1 / (V dt)^2, and the squared distances of neighbouring midpoints.
static Share share_of(float4 e, float2 middle, float2 spacing, int apart)
{
    const float tau2 = middle.x * middle.x, ds = fma(e.x, e.x, e.y * e.y), dr = fma(e.z, e.z, e.w * e.w);
    const float one = rsqrt(max(fma(ds, middle.y, tau2), 1e-20f)), other = rsqrt(max(fma(dr, middle.y, tau2), 1e-20f));
    const float px = fma(e.x, one, e.z * other), py = fma(e.y, one, e.w * other);
    const float slope = middle.y * middle.y * fma(px * px, spacing.x, py * py * spacing.y);
    const float most = as_type<float>(as_type<int>(float(1 << (COPIES - 1))) - 1);
    const int bits = as_type<int>(clamp(slope, 1.0f, most));
    Share share;
    share.behind = ((bits >> 23) - 127) * apart;
    share.part = as_type<float>((bits & 0x7FFFFF) | 0x3F800000) - 1.0f;
    return share;
}
#endif

#if PHYSICS == 1
static float growth(float square, float4 leg, float2 bend, float kappa)
{
    const float b = square * leg.y, r = sqrt(fma(bend.x, bend.x, b)), m = max(r + bend.x, 1e-20f);
    const float d = sqrt(fma(kappa * kappa, r * r, 1.0f)) + bend.y;
    return kappa * b * fma(kappa, m, d) / (m * d * fma(kappa, bend.x, bend.y));
}
#else
// Travel time of a leg beyond half of t0: A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large.
static float moveout(float square, float4 leg, float2 bend)
{
#if PHYSICS == 2
    const float tau2 = leg.x * leg.x, flat = square * leg.y;
    const float a = flat * (tau2 + flat) / max(fma(bend.x, flat, tau2), 1e-20f);
#else
    const float a = square * leg.y;
#endif
    return a / max(sqrt(fma(leg.x, leg.x, a)) + leg.x, 1e-20f);
}
#endif

// T - t0 in samples.
static float beyond(float ds, float dr, float4 leg, float2 bend, float kappa)
{
#if PHYSICS == 1
    const float s = growth(ds, leg, bend, kappa), r = growth(dr, leg, bend, kappa);
    return log1p(fma(s, r, s + r)) / kappa;
#else
    return moveout(ds, leg, bend) + moveout(dr, leg, bend);
#endif
}

constant int BLOCK = 32;

// A lane's part of its trace: neighbouring samples are 32 floats apart.
struct Row
{
    device float* total;
#if TAPS == 2 && COPIES == 1
    float here, next;  // for sample `at` and the one after
    int at;
#endif
};

// Hand `value` out to the neighbours of the time f behind sample `left`.
static void hand_out(thread Row& row, int left, float f, float value)
{
#if TAPS > 2
    const float g = f - 0.5f, q = g * g;
    device float* near = row.total + left * 32;
    for (int i = 0; i < TAPS / 2; i++) {
        float even = 0.0f, odd = 0.0f;
        for (int power = TAPS / 2 - 1; power >= 0; power--) {
            even = fma(even, q, FITTED[i][0][power]);
            odd = fma(odd, q, FITTED[i][1][power]);
        }
        near[i * 32] += fma(odd, g, even) * value;
        near[(TAPS - 1 - i) * 32] += fma(-odd, g, even) * value;
    }
#elif COPIES > 1
    row.total[left * 32] += value - f * value;
    row.total[left * 32 + 32] += f * value;
#else
    if (left != row.at) {
        row.total[row.at * 32] += row.here;
        row.here = row.next;
        row.next = 0.0f;
        if (left != row.at + 1) {
            row.total[row.at * 32 + 32] += row.here;
            row.here = 0.0f;
        }
        row.at = left;
    }
    const float right = f * value;
    row.here += value - right;
    row.next += right;
#endif
}

kernel void demigrate_v1(
    device float* totals [[buffer(0)]],           // [simdgroups, COPIES * (n_samples + BEYOND), 32]: added to
    device const float* image [[buffer(1)]],
    device const float4* ends [[buffer(2)]],      // source x, y, receiver x, y of each trace, metres
    device const float2* pillars [[buffer(3)]],
    device const float4* legs [[buffer(4)]],
    device const float* gain [[buffer(5)]],
    device const float4* blocks [[buffer(6)]],
    constant int& n_traces [[buffer(7)]],
    constant int& n_samples [[buffer(8)]],
    constant int& n_pillars [[buffer(9)]],
    constant int& n_out [[buffer(10)]],
    constant int& n_blocks [[buffer(11)]],
    constant int& rows [[buffer(12)]],            // 1 when each pillar has its own row of the tables, 0 when they share one
    constant float& shift [[buffer(13)]],         // time of sample 0 of the traces, in samples
    constant float& rim [[buffer(14)]],           // (1 - taper) / taper
    constant int& weighted [[buffer(15)]],
    device const float2* bends [[buffer(16)]],    // in rows as legs; one unused entry for straight rays
    constant float& kappa [[buffer(17)]],
    constant float& latest [[buffer(18)]],        // time at which traces end, in samples, stretched for curved rays
    device const float2* middles [[buffer(19)]],  // legs.xy where antialias.py looks at slopes; one unused entry without
    constant float& wx [[buffer(20)]],            // squared distances of neighbouring midpoints
    constant float& wy [[buffer(21)]],
    constant int& n_padded [[buffer(22)]],        // entries of a row of legs, gain and bends
    uint2 group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    const int bundle = int(group.x) * SIMDGROUPS + int(simd);
    const int k = bundle * 32 + int(lane);
    if (bundle * 32 >= n_traces) return;  // whole simdgroups
    const bool exists = k < n_traces;
    const float4 end = ends[min(k, n_traces - 1)];
    const float last = float(n_samples - 1);
    const int apart = n_samples + BEYOND;
    Row mine;
    mine.total = totals + (bundle * COPIES * apart * 32 + int(lane));
#if TAPS == 2 && COPIES == 1
    mine.here = mine.next = 0.0f;
    mine.at = 0;
#endif
    for (int p = 0; p < n_pillars; p++) {
        const float2 pillar = pillars[p];
        const float4 e = end - float4(pillar.x, pillar.y, pillar.x, pillar.y);
        const float mx = 0.5f * (e.x + e.z), my = 0.5f * (e.y + e.w);
        const float distance = sqrt(fma(mx, mx, my * my));
        const float ds = fma(e.x, e.x, e.y * e.y), dr = fma(e.z, e.z, e.w * e.w);
        // T^2 >= t0^2 + (ds + dr)^2 / V^2: what comes later than the trace ends is no one's business.
        const float spread = ds + dr + 2.0f * sqrt(ds * dr);
        for (int block = 0; block < n_blocks; block++) {
            const float4 shape = blocks[p * rows * n_blocks + block];
            const int first = block * BLOCK, row = p * rows * n_padded;
#if PHYSICS == 1
            const float start = 2.0f * bends[row + first].x;
#else
            const float start = 2.0f * legs[row + first].x;
#endif
            const bool near = exists && distance <= shape.x && fma(shape.w, spread, start * start) <= latest * latest;
            if (!simd_any(near)) continue;
            for (int t = first; t < min(first + BLOCK, n_out); t++) {
                const float4 leg = legs[row + t];
                const float value = image[p * n_out + t] * gain[row + t];
#if PHYSICS
                const float2 bend = bends[row + t];
#else
                const float2 bend = float2(0.0f);
#endif
                const float moved = beyond(ds, dr, leg, bend, kappa), zero = fma(2.0f, leg.x, -shift);
                if (!(near && distance <= leg.z && moved >= -zero && moved <= last - zero)) continue;
                const float x = zero + moved;
                const int left = clamp(int(x), 0, n_samples - 2);
                const float u = clamp(fma(distance, leg.w, -rim), 0.0f, 1.0f);
                float share = value * fma(0.5f, fast::cos(u * M_PI_F), 0.5f);
                if (weighted != 0) {
                    const float ratio = 2.0f * leg.x / max(fma(2.0f, leg.x, moved), 1e-20f);  // t0 / T
                    share *= ratio * ratio;
                }
                const float f = x - float(left);
#if COPIES > 1
                const Share copy = share_of(e, middles[p * rows * ((n_out + 15) / 16) + t / 16], float2(wx, wy), apart);
                hand_out(mine, copy.behind + left, f, share - copy.part * share);
                hand_out(mine, copy.behind + apart + left, f, copy.part * share);
#else
                hand_out(mine, left, f, share);
#endif
            }
        }
    }
#if TAPS == 2 && COPIES == 1
    mine.total[mine.at * 32] += mine.here;
    mine.total[mine.at * 32 + 32] += mine.next;
#endif
}
