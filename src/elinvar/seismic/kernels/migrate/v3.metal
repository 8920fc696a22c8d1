// seismic.migrate, version v3: v2 over a list of work, with batches of traces that cannot contribute never read.
//
// Traces come sorted along a Morton curve of their midpoints, 32 to a batch with a bounding circle; pillars likewise, a
// threadgroup's to a tile. `gaps` holds how near each batch comes to each tile. A contribution asks for a midpoint within the
// aperture's radius, and, because |s - p| + |r - p| >= 2 |m - p|, for one from which the record is long enough; `limits` has
// the smaller of the two for each block. One launch goes through `items`, pairs of tile and block, most batches first.
//
// 32 traces at a time are prepared by 32 lanes: the travel time over the block becomes a cubic in the sample number, through
// four Chebyshev nodes, checked against the exact time at two more samples. The loop over traces then knows nothing of the
// physics: it reads the coefficients from threadgroup memory, adds one interpolated sample per lane, and takes the weight's
// 1 / T^2 from the same cubic. A trace lands in one of three lists:
//   smooth   cubic good, all of the block on the trace, one aperture weight for all of it
//   rim      cubic good, all of the block on the trace, but the aperture has to be looked at sample by sample
//   ending   cubic good, but the trace ends inside the block
//   exact    cubic not good enough (shallow, velocity kink), or the block starts before the trace does
//
// Tables (metal.py) are in input samples and padded to whole blocks: `legs` as in baseline.metal; `blocks` holds for each
// block x = largest radius, y = smallest inner radius of the rim, z = how far 1 / V^2 is from its cubic, relatively, w = its
// smallest 1 / (V dt)^2. `bends` holds what PHYSICS asks for beside: physics.py has the formulas.
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
#ifndef WEIGHTED
#define WEIGHTED 1  // 0: amplitude "none"
#endif

#ifndef PHYSICS
#define PHYSICS 0  // 0 straight, 1 curved, 2 vti
#endif

constant int BLOCK = 32 * SAMPLES;
constant int SPANS = BLOCK / 16;
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

static float2 bend_at(device const float2* bends, int i)
{
#if PHYSICS
    return bends[i];
#else
    return float2(0.0f);
#endif
}

// T - t0 in samples: legs from A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large.
static float moveout(float2 square, float4 leg, float2 bend, float kappa)
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
    return fast::divide(a.x, max(s, 1e-20f)) + fast::divide(a.y, max(r, 1e-20f));
#endif
}

// 1 / (2 T)^2 of twice the travel time, in samples.
static float spreading(float twice_t)
{
#if WEIGHTED
    const float r = fast::divide(1.0f, twice_t);
    return r * r;
#else
    return 1.0f;
#endif
}

// The same times an aperture weight, which comes as 1 / sqrt(weight) and scales 2 T = y + from / scale.
static float scaled_spreading(float y, float from, float scale)
{
#if WEIGHTED
    return spreading(fma(y, scale, from));
#else
    return scale;
#endif
}

static float rim_weight(float distance, float slope, float rim)
{
    return fma(0.5f, fast::cos(saturate(fma(distance, slope, -rim)) * M_PI_F), 0.5f);
}

#ifndef TAPS
#define TAPS 2  // neighbours that interpolation reads; with 4 and 8, WEIGHTS are their polynomials (interpolation.py)
#endif

#if TAPS > 2
#define BEYOND (TAPS - 1)  // zeros around every trace
constant float FITTED[TAPS / 2][2][TAPS / 2] = WEIGHTS;

// Value g + 1 / 2 of the way between the middle two of TAPS samples.
static float between(device const float* near, float g)
{
    const float q = g * g;
    float sum = 0.0f;
    for (int i = 0; i < TAPS / 2; i++) {
        float even = 0.0f, odd = 0.0f;
        for (int power = TAPS / 2 - 1; power >= 0; power--) {
            even = fma(even, q, FITTED[i][0][power]);
            odd = fma(odd, q, FITTED[i][1][power]);
        }
        const float one = near[i], other = near[TAPS - 1 - i];
        sum = fma(one - other, odd * g, fma(one + other, even, sum));
    }
    return sum;
}
#else
#define BEYOND 0
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
static Share unpacked(float2 pair)
{
    Share share;
    share.behind = as_type<int>(pair.x);
    share.part = pair.y;
    return share;
}

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

#if TAPS > 2
typedef float Sample;
static float twice(device const float* near, float f) { return 2.0f * between(near, 0.5f * f); }
#elif PAIRS
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

// The same mixed from two copies.
static float twice(device const Sample* sample, float f, Share share, int apart)
{
#if COPIES > 1
    sample += share.behind;
    const float here = twice(sample, f);
    return fma(share.part, twice(sample + apart, f) - here, here);
#else
    return twice(sample, f);
#endif
}

// Twice the sample at (y + 1) / 2 + row; `row` has ROUND_BITS taken off.
static float twice_sample(device const Sample* traces, int row, float y, Share share, int apart)
{
    const float rounded = y + ROUND;
    return twice(traces + (as_type<int>(rounded) + row), y - (rounded - ROUND), share, apart);
}

// One contribution without the cubic, weighted but for the rim; false when the time is not on the trace. Decided before the
// time is rounded: which samples the ends of a trace count is the answer, not noise.
static bool exactly(device const Sample* traces, int first, int n_samples, float2 square, float4 leg, float2 bend,
                    float kappa, float shift, Share share, thread float& value)
{
    const float moved = moveout(square, leg, bend, kappa), zero = fma(2.0f, leg.x, -shift);
    if (!(moved >= -zero && moved <= float(n_samples - 1) - zero)) return false;
    const float x = zero + moved;
    const int left = clamp(int(x), 0, n_samples - 2);
    value = spreading(2.0f * fma(2.0f, leg.x, moved))
          * twice(traces + (first + left), 2.0f * (x - float(left)) - 1.0f, share, n_samples + BEYOND);
    return true;
}

kernel void migrate_v3(
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
    constant float& tolerance [[buffer(18)]],     // of the cubic, in samples
    constant int& counted [[buffer(19)]],
    device const float2* bends [[buffer(20)]],    // in rows as legs; one unused entry for straight rays
    constant float& kappa [[buffer(21)]],
    constant float& horizon [[buffer(22)]],       // curved rays: no R1 + R2 of a trace is larger (physics.py)
    constant float& wx [[buffer(23)]],            // squared distances of neighbouring midpoints, for COPIES
    constant float& wy [[buffer(24)]],
    device const int* order [[buffer(25)]],        // pillars, tile by tile
    device const int* items [[buffer(26)]],        // tile * n_blocks + block of each threadgroup
    device const float* gaps [[buffer(27)]],       // [tiles, n_batches], metres
    device const float* limits [[buffer(28)]],     // [1 or pillars, n_blocks]: no larger gap contributes
    constant int& n_batches [[buffer(29)]],
    uint group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 time_slab[SIMDGROUPS * 32];    // coefficients of 2 x - 1; in the exact list ds^2, dr^2
    // Bits of the row's offset, 2 T - y, midpoint to pillar, y at the end; in the smooth list see scaled_spreading().
    threadgroup float4 place_slab[SIMDGROUPS * 32];
#if COPIES > 1
    threadgroup float2 share_slab[SIMDGROUPS * 32 * SPANS];  // of each trace and 16 output samples: Share, as floats
#define SHARE_OF(i, m) unpacked(share_slab[(i) * SPANS + 2 * (m) + (int(lane) >> 4)])
#else
#define SHARE_OF(i, m) Share()
#endif

    threadgroup int batch_slab[SIMDGROUPS * 32];  // first traces of batches near enough

    const int tile = items[group] / n_blocks, block = items[group] - tile * n_blocks;
    if (tile * SIMDGROUPS + int(simd) >= n_pillars) return;  // whole simdgroups: nobody waits for them
    const int p = order[tile * SIMDGROUPS + int(simd)];
    const int slab = int(simd) * 32;
    const int row = p * rows * n_blocks * BLOCK;
    device const float4* knots = legs + (row + block * BLOCK);
    device const float2* bent = bends + (PHYSICS ? row + block * BLOCK : 0);
    const float4 shape = blocks[p * rows * n_blocks + block];
    const float2 pillar = pillars[p], centre = centres[block];
    const float last = float(n_samples - 1);
    const int apart = n_samples + BEYOND, stride = COPIES * apart;
#if PHYSICS == 1
    const float latest = horizon, earliest = 4.0f * bent[0].x * bent[0].x;
#else
    const float latest = max(last + shift, 0.0f) + 0.1f, earliest = 4.0f * knots[0].x * knots[0].x;
#endif

    // Where the radius is the same all along the block, so is a trace's weight under the rim.
    const bool steady = knots[0].z == knots[BLOCK - 1].z && knots[0].z == knots[BLOCK / 2].z;

    float sum[SAMPLES], q[SAMPLES];
    int count[SAMPLES];
    int whole = 0;
    for (int m = 0; m < SAMPLES; m++) {
        q[m] = (float(int(lane) + 32 * m) - CENTRE) / CENTRE;
        sum[m] = 0.0f;
        count[m] = 0;
    }

    const float limit = limits[p * rows * n_blocks + block];
    for (int from = 0; from < n_batches; from += 32) {
        const int b = from + int(lane);
        const uint reached = b < n_batches && gaps[tile * n_batches + min(b, n_batches - 1)] <= limit ? 1u : 0u;
        const uint ahead_of = simd_prefix_exclusive_sum(reached);
        const int n_near = int(simd_broadcast(ahead_of + reached, 31));
        if (n_near == 0) continue;
        simdgroup_barrier(mem_flags::mem_threadgroup);  // the previous 32 batches have been gone through
        if (reached != 0u) batch_slab[slab + int(ahead_of)] = b * 32;
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (int j = slab; j < slab + n_near; j++) {
            const int first = batch_slab[j];
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
            const float4 leg3 = knots[BLOCK - 1 - OUTER], leg_top = knots[0];
            const float4 moved = float4(moveout(square, leg0, bend_at(bent, OUTER), kappa),
                                        moveout(square, leg1, bend_at(bent, INNER), kappa),
                                        moveout(square, leg2, bend_at(bent, BLOCK - 1 - INNER), kappa),
                                        moveout(square, leg3, bend_at(bent, BLOCK - 1 - OUTER), kappa));
            const float top = moveout(square, leg_top, bend_at(bent, 0), kappa);
            float4 c = cubic(moved);
            // A cubic through Chebyshev nodes is off by about the same everywhere, most where the time bends most: at the top.
            // Where 1 / V^2 leaves its cubic by z, T leaves its own by less than z (T - t0).
            const float worst = 2.0f * fabs(at(c, -1.0f) - top) + shape.z * max(top, moved.w);
            const bool good = worst <= tolerance;
            c.y += stretch;
            const float swing = fabs(c.y) + fabs(c.z) + fabs(c.w), ahead = centre.y + c.x, x = centre.x + ahead;
            const bool off = good && (x - swing > last + 0.01f || x + swing < -0.01f);
            const bool exact = !(good && x - swing >= 0.01f);
            // One prefix sum numbers the entries of all four lists, eight bits each.
            const int list = exact ? 24 : x + swing > last - 0.01f ? 16 : steady || distance <= shape.y ? 0 : 8;
            const uint mine = near && !off ? 1u << list : 0u;
            const uint before = simd_prefix_exclusive_sum(mine), total = simd_broadcast(before + mine, 31);
            const int n_smooth = int(total & 255u), n_rim = int((total >> 8) & 255u), n_ending = int((total >> 16) & 255u);
            const int smooth_end = slab + n_smooth, rim_end = smooth_end + n_rim, ending_end = rim_end + n_ending;
            const int exact_end = ending_end + int(total >> 24);
            const float whole_part = floor(ahead);
            const int slot = (exact ? ending_end : list == 16 ? rim_end : list == 8 ? smooth_end : slab)
                           + int((before >> list) & 255u);
            simdgroup_barrier(mem_flags::mem_threadgroup);  // the previous 32 traces have been read
            if (mine != 0u) {
                const int offset = k * stride + (exact ? 0 : int(centre.x + whole_part) - ROUND_BITS);
                time_slab[slot] = exact ? float4(square.x, square.y, 0.0f, 0.0f)
                                        : float4(2.0f * (ahead - whole_part) - 1.0f, 2.0f * c.y, 2.0f * c.z, 2.0f * c.w);
                const float from = fma(2.0f, centre.x + whole_part + shift, 1.0f);
                const float end = fma(2.0f, last - centre.x - whole_part, -1.0f);
                const float weight = steady ? max(rim_weight(distance, leg_top.w, rim), 1e-12f) : 1.0f;
                const float scale = WEIGHTED ? fast::rsqrt(weight) : weight;
                const bool scaled = list == 0;
#if COPIES > 1
                for (int span = 0; span < SPANS; span++) {
                    const Share share = share_of(e, knots[16 * span + 8].xy, float2(wx, wy), apart);
                    share_slab[slot * SPANS + span] = float2(as_type<float>(share.behind), share.part);
                }
#endif
                place_slab[slot] = float4(as_type<float>(offset), scaled ? from * scale : from, scaled ? scale : distance, end);
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);

#pragma unroll(4)
            for (int i = slab; i < smooth_end; i++) {
                const float4 a = time_slab[i];
                const float3 place = place_slab[i].xyz;
                const int row = as_type<int>(place.x);
                for (int m = 0; m < SAMPLES; m++) {
                    const float y = at(a, q[m]);
                    sum[m] = fma(scaled_spreading(y, place.y, place.z), twice_sample(traces, row, y, SHARE_OF(i, m), apart), sum[m]);
                }
            }
            whole += n_smooth;
            if (rim_end != smooth_end) {
                float outer[SAMPLES], slope[SAMPLES];
                for (int m = 0; m < SAMPLES; m++) {
                    const float4 leg = knots[int(lane) + 32 * m];
                    outer[m] = leg.z;
                    slope[m] = leg.w;
                }
                for (int i = smooth_end; i < rim_end; i++) {
                    const float4 a = time_slab[i];
                    const float3 place = place_slab[i].xyz;
                    const int row = as_type<int>(place.x);
                    for (int m = 0; m < SAMPLES; m++) {
                        const float y = at(a, q[m]);
                        const float value = spreading(y + place.y) * twice_sample(traces, row, y, SHARE_OF(i, m), apart);
                        if (place.z <= outer[m]) {
                            sum[m] = fma(rim_weight(place.z, slope[m], rim), value, sum[m]);
                            count[m] += 1;
                        }
                    }
                }
            }
#pragma unroll(1)
            for (int i = rim_end; i < ending_end; i++) {
                const float4 a = time_slab[i], place = place_slab[i];
                const int row = as_type<int>(place.x);
                for (int m = 0; m < SAMPLES; m++) {
                    const float4 leg = knots[int(lane) + 32 * m];
                    const float y = at(a, q[m]);
                    bool on = place.z <= leg.z && y < place.w + 0.02f;
                    float value = 0.0f;
                    if (on && y <= place.w - 0.02f) {
                        value = spreading(y + place.y) * twice_sample(traces, row, y, SHARE_OF(i, m), apart);
                    } else if (on) {  // too near the end to trust the cubic
                        const int from = row + ROUND_BITS - int(last - 0.5f * (place.w + 1.0f));
                        const float4 e = ends[from / stride] - float4(pillar.x, pillar.y, pillar.x, pillar.y);
                        const float2 square = float2(fma(e.x, e.x, e.y * e.y), fma(e.z, e.z, e.w * e.w));
                        on = exactly(traces, from, n_samples, square, leg, bend_at(bent, int(lane) + 32 * m), kappa, shift,
                                     SHARE_OF(i, m), value);
                    }
                    if (on) {
                        sum[m] = fma(rim_weight(place.z, leg.w, rim), value, sum[m]);
                        count[m] += 1;
                    }
                }
            }
#pragma unroll(1)
            for (int i = ending_end; i < exact_end; i++) {
                const float2 square = time_slab[i].xy;
                const float4 place = place_slab[i];
                for (int m = 0; m < SAMPLES; m++) {
                    const float4 leg = knots[int(lane) + 32 * m];
                    const float2 bend = bend_at(bent, int(lane) + 32 * m);
                    float value;
                    if (place.z <= leg.z
                        && exactly(traces, as_type<int>(place.x), n_samples, square, leg, bend, kappa, shift,
                                   SHARE_OF(i, m), value)) {
                        sum[m] = fma(rim_weight(place.z, leg.w, rim), value, sum[m]);
                        count[m] += 1;
                    }
                }
            }
        }
    }

    for (int m = 0; m < SAMPLES; m++) {
        const int t = block * BLOCK + int(lane) + 32 * m;
        if (t < n_out) {
            // sum holds twice the samples over (2 T)^2; at t0 = 0 the weight is 0 even where T is, and 1 / T infinite.
            const float t0 = 2.0f * knots[int(lane) + 32 * m].x;
            const float scale = WEIGHTED ? 2.0f * t0 * t0 * gain[row + t] : 0.5f * gain[row + t];
            if (scale != 0.0f) image[p * n_out + t] = fma(scale, sum[m], image[p * n_out + t]);
            if (counted != 0) fold[p * n_out + t] += whole + count[m];
        }
    }
}
