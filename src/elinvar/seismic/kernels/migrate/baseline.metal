// seismic.migrate, version baseline: one thread per output sample, every travel time exact.
//
// Tables are prepared by metal.py. Times are in input samples: `legs` holds, for each output time of a velocity row,
// x = t0 / 2 / dt, y = 1 / (V dt)^2, z = aperture radius in metres, w = 1 / (rim width) (0 without a rim).
#include <metal_stdlib>
using namespace metal;

// Travel time of a leg beyond half of t0: A / (sqrt(tau^2 + A) + tau), which keeps its digits where tau is large.
static float moveout(float square, float4 leg)
{
    const float a = square * leg.y;
    return a / max(sqrt(fma(leg.x, leg.x, a)) + leg.x, 1e-20f);
}

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
    uint2 position [[thread_position_in_grid]])
{
    const int t = int(position.x), p = int(position.y);
    const float4 leg = legs[p * row_step + t];
    const float2 pillar = pillars[p];
    const float last = float(n_samples - 1);
    float sum = 0.0f;
    int count = 0;
    for (int k = 0; k < n_traces; k++) {
        const float4 e = ends[k];
        const float mx = 0.5f * (e.x + e.z) - pillar.x, my = 0.5f * (e.y + e.w) - pillar.y;
        const float distance = sqrt(fma(mx, mx, my * my));
        const float sx = e.x - pillar.x, sy = e.y - pillar.y, rx = e.z - pillar.x, ry = e.w - pillar.y;
        const float moved = moveout(fma(sx, sx, sy * sy), leg) + moveout(fma(rx, rx, ry * ry), leg);
        // Compared before the sum is rounded: which samples the ends of a trace count is the answer, not noise.
        const float zero = fma(2.0f, leg.x, -shift);
        if (!(distance <= leg.z && moved >= -zero && moved <= last - zero)) continue;
        const float x = zero + moved;
        const int left = clamp(int(x), 0, n_samples - 2);
        device const float* sample = traces + (ulong(k) * ulong(n_samples) + ulong(left));
        const float u = clamp(fma(distance, leg.w, -rim), 0.0f, 1.0f);
        float value = fma(x - float(left), sample[1] - sample[0], sample[0]) * fma(0.5f, fast::cos(u * M_PI_F), 0.5f);
        if (weighted != 0) {
            const float ratio = 2.0f * leg.x / max(fma(2.0f, leg.x, moved), 1e-20f);  // t0 / T
            value *= ratio * ratio;
        }
        sum += value;
        count += 1;
    }
    const int at = p * n_out + t;
    image[at] = fma(gain[p * row_step + t], sum, image[at]);
    if (counted != 0) fold[at] += count;
}
