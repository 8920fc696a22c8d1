// seismic.migrate, version baseline: one thread per output sample, every travel time exact.
//
// Tables are prepared by metal.py. Times are in input samples: `legs` holds, for each output time of a velocity row,
// x = t0 / 2 / dt, y = 1 / (V dt)^2, z = aperture radius in metres, w = 1 / (rim width) (0 without a rim). `bends` holds
// what PHYSICS asks for beside: physics.py has the formulas.
#include <metal_stdlib>
using namespace metal;

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

// One sample of a row, f of the way to the next.
static float read(device const float* sample, float f)
{
#if TAPS > 2
    return between(sample, f - 0.5f);
#else
    return fma(f, sample[1] - sample[0], sample[0]);
#endif
}

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

#ifndef BOUNDED
#define BOUNDED 0  // 1: limits, mutes and ends above the datum (limits.py, relief.py)
#endif

#if BOUNDED
// What bounds holds, one number each.
enum Bound {
    ONE_X, ONE_Y,             // over the largest distances along the axes
    SLOPE, RIM,               // of the limits' taper
    TAN_LEG, MINIMUM,         // of both legs; a tangent of 0 for none
    STRETCH,                  // one over what it may exceed 1 by; 0 for none
    RAISED,                   // 1 where ends have heights
    REPLACED,                 // replacement velocity, metres per sample
    STRENGTH,                 // 2 area dt / pi
    EARLIEST
};

static float fall(float q, device const float* bounds)
{
    return fma(0.5f, fast::cos(M_PI_F * clamp(fma(q, bounds[SLOPE], -bounds[RIM]), 0.0f, 1.0f)), 0.5f);
}

// Weight of the limits, negative outside one of them; e are the ends seen from the pillar, z the depth of the point.
static float bounded(float4 e, float z, device const float* bounds)
{
    const float qx = fabs(0.5f * (e.x + e.z)) * bounds[ONE_X], qy = fabs(0.5f * (e.y + e.w)) * bounds[ONE_Y];
    if (qx > 1.0f || qy > 1.0f) return -1.0f;
    float weight = fall(qx, bounds) * fall(qy, bounds);
    const float ds = fma(e.x, e.x, e.y * e.y), dr = fma(e.z, e.z, e.w * e.w);
    if (bounds[TAN_LEG] > 0.0f) {
        const float widest = max(z * bounds[TAN_LEG], bounds[MINIMUM]), hs = sqrt(ds), hr = sqrt(dr);
        if (hs > widest || hr > widest) return -1.0f;
        const float one = 1.0f / max(widest, 1e-20f);
        weight *= fall(hs * one, bounds) * fall(hr * one, bounds);
    }
    if (bounds[STRETCH] > 0.0f) {
        const float z2 = z * z, product = sqrt(ds + z2) * sqrt(dr + z2);
        const float along = fma(e.x, e.z, fma(e.y, e.w, z2));
        const float twice = product > 0.0f ? clamp(along / product, -1.0f, 1.0f) : 1.0f;
        const float q = (1.0f / sqrt(fma(0.5f, twice, 0.5f)) - 1.0f) * bounds[STRETCH];
        if (!(q <= 1.0f)) return -1.0f;
        weight *= fall(q, bounds);
    }
    return weight;
}

#if PHYSICS != 1
// T - t0 / 2 of a leg whose end is `above` the datum, -1e30 where there is none (relief.py).
static float raised(float square, float above, float4 leg, float2 bend, device const float* bounds)
{
    if (above == 0.0f) return moveout(square, leg, bend);
    const float v = bounds[REPLACED], time = above / v, tau = leg.x + time;
    const float own = leg.x / leg.y, second = fma(above, v, own);
    if (tau <= 0.0f || second <= 0.0f) return -1e30f;
    const float4 here = float4(tau, tau / second, leg.z, leg.w);
    float2 bent = bend;
#if PHYSICS == 2
    const float fourth = fma(fma(4.0f, bend.x, -3.0f), own / leg.y, above * v * v * v);
    bent.x = clamp(fma(0.25f, fourth * here.y / second - 1.0f, 1.0f), 0.0f, 2.0f);
#endif
    return time + moveout(square, here, bent);
}
#endif

// What the weight of a contribution has beside gain, which is 1 where ends have heights.
static float weight_of(float moved, float2 above, float4 leg, device const float* bounds)
{
    const float t0 = 2.0f * leg.x, total = max(t0 + moved, 1e-20f);
    if (bounds[RAISED] == 0.0f) return (t0 / total) * (t0 / total);
    const float sum = above.x + above.y, vertical = t0 + sum / bounds[REPLACED];
    const float second = fma(sum, bounds[REPLACED], t0 / leg.y), ratio = vertical / total;
    return vertical >= bounds[EARLIEST] && second > 0.0f ? bounds[STRENGTH] * ratio * ratio / second : 0.0f;
}
#endif

kernel void migrate_baseline(
    device const float* traces [[buffer(0)]],
    device const float4* ends [[buffer(1)]],      // source x, y, receiver x, y of each trace, metres
    device const float2* pillars [[buffer(2)]],
    device const float4* legs [[buffer(3)]],
    device const float* gain [[buffer(4)]],       // what is left of the weight once (t0 / T)^2 is applied
    device float* image [[buffer(5)]],
    device int* fold [[buffer(6)]],
    constant int& n_traces [[buffer(7)]],
    constant int& n_samples [[buffer(8)]],
    constant int& n_out [[buffer(9)]],
    constant int& row_step [[buffer(10)]],        // distance of two pillars' rows in legs and gain; 0 when they share one
    constant float& shift [[buffer(11)]],         // time of input sample 0, in samples
    constant float& rim [[buffer(12)]],           // (1 - taper) / taper
    constant int& weighted [[buffer(13)]],
    constant int& counted [[buffer(14)]],
    device const float2* bends [[buffer(15)]],    // in rows as legs; one unused entry for straight rays
    constant float& kappa [[buffer(16)]],
    device const float2* middles [[buffer(17)]],  // legs.xy where antialias.py looks at slopes; one unused entry without
    constant float& wx [[buffer(18)]],            // squared distances of neighbouring midpoints
    constant float& wy [[buffer(19)]],
#if BOUNDED
    device const float4* own [[buffer(20)]],      // of each trace: first and last muted sample, height of both ends
    device const float* levels [[buffer(21)]],    // of the datum
    constant int& level_step [[buffer(22)]],      // distance of two pillars' levels; 0 when they share one
    device const float* depths [[buffer(23)]],    // V t0 / 2 in metres, in rows as legs
    device const float* bounds [[buffer(24)]],
#endif
    uint2 position [[thread_position_in_grid]])
{
    const int t = int(position.x), p = int(position.y);
    const float4 leg = legs[p * row_step + t];
#if PHYSICS
    const float2 bend = bends[p * row_step + t];
#else
    const float2 bend = float2(0.0f);
#endif
#if COPIES > 1
    const float2 middle = middles[(row_step != 0 ? p : 0) * ((n_out + 15) / 16) + t / 16];
#endif
    const float2 pillar = pillars[p];
    const float last = float(n_samples - 1);
    float sum = 0.0f;
    int count = 0;
    for (int k = 0; k < n_traces; k++) {
        const float4 e = ends[k];
        const float mx = 0.5f * (e.x + e.z) - pillar.x, my = 0.5f * (e.y + e.w) - pillar.y;
        const float distance = sqrt(fma(mx, mx, my * my));
        const float sx = e.x - pillar.x, sy = e.y - pillar.y, rx = e.z - pillar.x, ry = e.w - pillar.y;
#if BOUNDED
        const float inner = bounded(float4(sx, sy, rx, ry), depths[p * row_step + t], bounds);
        if (inner < 0.0f) continue;
        const float2 above = own[k].zw - levels[p * level_step];
#endif
#if BOUNDED && PHYSICS != 1
        const float moved = raised(fma(sx, sx, sy * sy), above.x, leg, bend, bounds)
            + raised(fma(rx, rx, ry * ry), above.y, leg, bend, bounds);
#else
        const float moved = beyond(fma(sx, sx, sy * sy), fma(rx, rx, ry * ry), leg, bend, kappa);
#endif
        // Compared before the sum is rounded: which samples the ends of a trace count is the answer, not noise.
        const float zero = fma(2.0f, leg.x, -shift);
        if (!(distance <= leg.z && moved >= -zero && moved <= last - zero)) continue;
#if BOUNDED
        if (moved >= own[k].x - zero && moved < own[k].y - zero) continue;
#endif
        const float x = zero + moved;
        const int left = clamp(int(x), 0, n_samples - 2);
        const int apart = n_samples + BEYOND;
        device const float* sample = traces + (ulong(k) * ulong(COPIES * apart) + ulong(left));
        const float u = clamp(fma(distance, leg.w, -rim), 0.0f, 1.0f);
#if COPIES > 1
        const Share share = share_of(float4(sx, sy, rx, ry), middle, float2(wx, wy), apart);
        sample += share.behind;
        const float here = read(sample, x - float(left));
        float value = fma(share.part, read(sample + apart, x - float(left)) - here, here);
#else
        float value = read(sample, x - float(left));
#endif
        value *= fma(0.5f, fast::cos(u * M_PI_F), 0.5f);
#if BOUNDED
        value *= inner;
        if (weighted != 0) value *= weight_of(moved, above, leg, bounds);
#else
        if (weighted != 0) {
            const float ratio = 2.0f * leg.x / max(fma(2.0f, leg.x, moved), 1e-20f);  // t0 / T
            value *= ratio * ratio;
        }
#endif
        sum += value;
        count += 1;
    }
    const int at = p * n_out + t;
    image[at] = fma(gain[p * row_step + t], sum, image[at]);
    if (counted != 0) fold[at] += count;
}
