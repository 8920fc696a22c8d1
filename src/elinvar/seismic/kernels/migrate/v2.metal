// seismic.migrate, version v2: one simdgroup per (pillar, block of output times), lanes along time.
//
// 32 traces at a time are prepared by 32 lanes: the travel time over the block becomes a cubic in the sample number, through
// four Chebyshev nodes and checked against the exact time at the block's top, in early blocks also at its middle, and the
// weight's 1 / T^2 a parabola. The loops over traces then know nothing of the physics: they read coefficients from threadgroup
// memory and add one interpolated sample per lane. A trace lands in one of six lists:
//   smooth   all of the block on the trace and inside the aperture, under one weight of its rim
//   rim      all of the block on the trace and inside the aperture, but the rim has to be looked at sample by sample
//   edge     all of the block on the trace, but the aperture cuts it
//   cut      as smooth, but the trace ends inside the block
//   ending   the trace ends inside the block and is none of these, or neither the parabola nor one window (PAIRS) do for all
//            of it; after those, samples of the cut list that are too near the end of their trace to trust the cubic
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
// 1: traces hold the line through each sample and its successor (lines.metal), one wide load for two: twice the value at y is
// y * second + first, and y counts half samples from the middle of the window of WINDOW samples that the first lies in. With
// COPIES a third and a fourth are what the next copy has more: one load for both. 2: the same as halves, over a unit that each
// trace has of its own, in terms of half samples behind the middle of the two samples.
#ifndef PAIRS
#define PAIRS 0
#endif
#ifndef WINDOW
#define WINDOW 2048  // wider ones lose digits, narrower ones are crossed more often
#endif
#ifndef HARD
#define HARD 0  // 1: apertures end without a rim, and `legs` hold what float32 leaves of the radius in place of its slope
#endif
#ifndef WEIGHTED
#define WEIGHTED 1  // 0: amplitude "none"
#endif

#ifndef PHYSICS
#define PHYSICS 0  // 0 straight, 1 curved, 2 vti
#endif
#if PHYSICS == 1
#define VERTICAL(j) bent[j].x  // a vertical leg to output sample j of the block, as it enters the others
#else
#define VERTICAL(j) knots[j].x
#endif

constant int BLOCK = 32 * SAMPLES;
constant int HALF = (SAMPLES + 1) / 2;
constant int AHEAD = SAMPLES < 8 ? 8 / SAMPLES : 1;  // traces whose samples are read together, without copies
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
constant float ROOM = 1.000001f;  // by which float32 distances may be off
constant float CLOSE = 0.004f;  // samples: so much nearer to an end of the trace, float32 times do not decide,
constant uint CLOSEST = 16u;    // for so many of a block
constant float SHALLOW = 0.85f;  // a block's first over its last vertical time below which a hyperbola bends inside it
constant float TINY = 1e-20f;  // samples: in place of a vertical time of 0
constant float BENT = 4e-4f;  // largest cubic term of 1 / T^2 over the block, relatively, that a parabola stands for

// Samples of a block that its traces' travel times are looked at: the cubic goes through four, two judge it.
constant int NODES = 6;
static int node(int i)
{
    const int above = i == 0 ? OUTER : INNER, below = BLOCK - 1 - (i == 2 ? INNER : OUTER);
    return i < 2 ? above : i < 4 ? below : i == 4 ? 0 : BLOCK / 2 - 1;
}

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

// Of a lane's samples the last mirrors the first about the centre of the block, and so on inwards: the even and the odd
// part of a polynomial serve both.
static int number_of(int m, uint lane) { return 32 * m + (m < HALF ? int(lane) : 31 - int(lane)); }
static uint lane_of(int j) { return uint((j >> 5) < HALF ? j & 31 : 31 - (j & 31)); }

// A cubic at all of a lane's samples.
static void at_all(float4 c, thread const float* q, thread const float* q2, thread float* values)
{
    for (int m = 0; m < HALF; m++) {
        const float even = fma(c.z, q2[m], c.x), odd = fma(c.w, q2[m], c.y);
        values[SAMPLES - 1 - m] = fma(-q[m], odd, even);
        values[m] = fma(q[m], odd, even);
    }
}

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

// Distances of midpoint and pillar: where a hard aperture ends is the answer, and takes more than the digits of a float.
#if HARD
typedef float2 Distance;
static float metres(Distance distance) { return distance.x; }
static bool within(Distance distance, float outer, float left) { return (distance.x - outer) + distance.y <= left; }
static float rim_weight(Distance distance, float slope, float rim) { return 1.0f; }
static float rimmed(float half_weight, Distance distance, float slope, float rim) { return half_weight + half_weight; }
#else
typedef float Distance;
static float metres(Distance distance) { return distance; }
static bool within(Distance distance, float outer, float left) { return distance <= outer; }
static float rimmed(float half_weight, Distance distance, float slope, float rim)
{
    return fma(half_weight, fast::cos(saturate(fma(distance, slope, -rim)) * M_PI_F), half_weight);
}
static float rim_weight(Distance distance, float slope, float rim) { return rimmed(0.5f, distance, slope, rim); }
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
#if COPIES > 1
#define READ 2  // copies that are mixed
#else
#define READ 1
#endif
constant int LOOKED = NODES + 1;  // entries of a simdgroup's node_slab
constant int TOGETHER = (AHEAD + READ - 1) / READ;
constant int LISTS = 6;
// What is kept of a trace in a list: coefficients of y = 2 x - 1, in the exact list ds^2, dr^2; PLACE entries further, the bits
// of the row, then in the first four lists the parabola of 1 / (2 T)^2, which smooth and cut ones have times their rim weight
// and the others halved; in the last two 2 T - y, and 1: all in terms of the trace's unit (PAIRS 2).
constant int PLACE = SIMDGROUPS * 32;
// 1: the row is elsewhere, and the parabola, in terms of the 1 / (2 t0)^2 of the block's centre, a float and two halves behind
// it: with copies, words read from threadgroup memory are most of what the loops over traces take their time for.
#define PACKED (COPIES > 1 && PAIRS == 1 && WEIGHTED)
#if PAIRS == 2
#define UNIT_OF(k) units[k]
#else
#define UNIT_OF(k) 1.0f
#endif

// Where a sample is, counted from the first of 32 traces: it is added to y together with ROUND, so that the sum's bits are
// the place of the sample that is read. Rows too far apart for the digits of a float are added to the bits instead.
#ifndef FAR_ROWS
#define FAR_ROWS 0
#endif
#if FAR_ROWS
typedef int Row;
static Row row_at(int start, float origin) { return start + int(origin); }
static float rounded_in(float y, Row row) { return y + ROUND; }
static float rounded_of(float rounded, Row row) { return rounded - ROUND; }
static int place_of(float rounded, Row row) { return as_type<int>(rounded) + row; }
static int start_of(Row row) { return row; }
static Row row_behind(Row row, int samples) { return row + samples; }
#else
typedef float Row;
static Row row_at(int start, float origin) { return fma(2.0f, float(start) + origin, ROUND); }
static float rounded_in(float y, Row row) { return y + row; }
static float rounded_of(float rounded, Row row) { return rounded - row; }
static int place_of(float rounded, Row row) { return as_type<int>(rounded); }
static int start_of(Row row) { return as_type<int>(row) - ROUND_BITS; }
static Row row_behind(Row row, int samples) { return as_type<float>(as_type<int>(row) + samples); }
#endif

// Which copy is read: its row, and the part that the next copy has.
struct Share
{
    Row row;
    float part;
};

static Share share_in(Row row, float part)
{
    Share share;
    share.row = row;
    share.part = part;
    return share;
}

#if COPIES > 1
// What a lane's sample m reads, from its trace's entries of share_slab.
static Share share_from(threadgroup const float4* entries, int m, uint lane)
{
    const int first = m < HALF ? m : SAMPLES - 1 - m;
    const bool own = SAMPLES % 2 == 1 && m == HALF - 1;  // a sample that mirrors those of other lanes
    const float4 both = entries[PLACE * (own ? 2 * first : 2 * first + int(lane >> 4))];
    const bool ahead = own ? lane < 16u : m < HALF;
    return share_in(as_type<Row>(ahead ? both.x : both.z), ahead ? both.y : both.w);
}

struct Copy
{
    int number;
    float next;  // part that the next one has
};

// From the ends seen from the pillar, the squares of their distances, t0 / 2 and 1 / (V dt)^2.
static Copy copy_of(float4 e, float2 square, float2 leg, float wx, float wy)
{
    const float tau2 = leg.x * leg.x;
    const float one = fast::rsqrt(max(fma(square.x, leg.y, tau2), TINY));
    const float other = fast::rsqrt(max(fma(square.y, leg.y, tau2), TINY));
    const float px = leg.y * fma(e.x, one, e.z * other), py = leg.y * fma(e.y, one, e.w * other);
    const float slope = fma(px * px, wx, py * py * wy);
    const float most = as_type<float>(as_type<int>(float(1 << (COPIES - 1))) - 1);
    const int bits = as_type<int>(clamp(slope, 1.0f, most));
    Copy copy;
    copy.number = (bits >> 23) - 127;
    copy.next = as_type<float>((bits & 0x7FFFFF) | 0x3F800000) - 1.0f;
    return copy;
}
#endif

#if COPIES > 1
typedef float4 Line;
#else
typedef float2 Line;
#endif
#if PAIRS == 2 && COPIES > 1
typedef half4 Sample;
#elif PAIRS == 2
typedef half2 Sample;
#elif PAIRS
typedef Line Sample;
#else
typedef float Sample;
#endif

// Twice the sample at (y + 1) / 2 from a place near it: with PAIRS 1 in terms of y, else f half samples behind the middle.
#if TAPS > 2
static float twice(device const float* near, float f) { return 2.0f * between(near, 0.5f * f); }
#elif PAIRS
static float twice(device const Sample* sample, float y)
{
    const Line line = Line(sample[0]);
    return fma(y, line.y, line.x);
}
#else
static float twice(device const float* sample, float f)
{
    const float a = sample[0], b = sample[1];
    return fma(f, b - a, a + b);
}
#endif

// The same mixed from two copies.
static float twice(device const Sample* sample, float f, float part, int apart)
{
#if COPIES > 1 && PAIRS
    const Line line = Line(sample[0]);
    return fma(part, fma(f, line.w, line.z), fma(f, line.y, line.x));
#elif COPIES > 1
    const float here = twice(sample, f);
    return fma(part, twice(sample + apart, f) - here, here);
#else
    return twice(sample, f);
#endif
}

// Twice the sample at (y + 1) / 2 of a row; the traces have ROUND_BITS taken off.
static float twice_sample(device const Sample* traces, float y, Share share, int apart)
{
    const float rounded = rounded_in(y, share.row);
    device const Sample* sample = traces + place_of(rounded, share.row);
#if PAIRS == 1
    return twice(sample, y, share.part, apart);
#else
    return twice(sample, y - rounded_of(rounded, share.row), share.part, apart);
#endif
}

// The same where y may have left the window for the next.
static float twice_sample_anywhere(device const Sample* traces, float y, Share share, int apart)
{
#if PAIRS == 1
    const float rounded = rounded_in(y, share.row);
    const float here = rounded_of(rounded, share.row) < float(WINDOW) ? y : y - 2.0f * float(WINDOW);
    return twice(traces + place_of(rounded, share.row), here, share.part, apart);
#else
    return twice_sample(traces, y, share, apart);
#endif
}

// Sums and lengths with twice the digits of a float: a value and what rounding has taken from it.
static float2 exact_sum(float a, float b)
{
    const float sum = a + b, c = sum - a;
    return float2(sum, (a - (sum - c)) + (b - c));
}

static float2 exact_square(float2 x, float2 y)
{
    const float2 sum = exact_sum(x.x * x.x, y.x * y.x);
    const float low = fma(x.x, x.x, -(x.x * x.x)) + fma(y.x, y.x, -(y.x * y.x));
    return float2(sum.x, sum.y + fma(2.0f, fma(x.x, x.y, y.x * y.y), low));
}

static float2 exact_root(float2 square)
{
    const float root = sqrt(square.x);
    return float2(root, 0.5f * (fma(-root, root, square.x) + square.y) / max(root, 1e-20f));
}

static Distance midpoint_distance(float4 e, float2 pillar)
{
#if HARD
    const float2 x = exact_sum(e.x, e.z), y = exact_sum(e.y, e.w);
    const float2 dx = exact_sum(x.x, -2.0f * pillar.x), dy = exact_sum(y.x, -2.0f * pillar.y);
    // In order again: where the high parts cancel, the low ones are all there is.
    const float2 root = exact_root(exact_square(exact_sum(dx.x, dx.y + x.y), exact_sum(dy.x, dy.y + y.y)));
    return 0.5f * exact_sum(root.x, root.y);
#else
    return 0.5f * length(e.xy + e.zw - 2.0f * pillar);
#endif
}

// A contribution so near an end of its trace that float32 times cannot say on which side: the trace and the sample.
struct Close
{
    threadgroup atomic_uint* number;
    threadgroup int2* list;
};

// One contribution without the cubic, weighted but for the rim; false when the time is not on the trace or that is not for
// float32 to say. Which samples the ends of a trace count is the answer, not noise.
static bool exactly(device const Sample* traces, int first, int n_samples, float2 square, float4 leg, float2 bend,
                    float kappa, float shift, int start, float part, int j, Close close, thread float& value)
{
    const float moved = moveout(square, float2(max(leg.x, TINY), leg.y), bend, kappa);
    const float zero = fma(2.0f, leg.x, -shift), last = float(n_samples - 1);
    const float x = zero + moved;
#if PHYSICS == 0
    if (fabs(x) < CLOSE || fabs(x - last) < CLOSE) {
        const uint at = atomic_fetch_add_explicit(close.number, 1u, memory_order_relaxed);
        if (at < CLOSEST) {
            close.list[at] = int2(first, j);
            return false;
        }
    }
#endif
    if (!(moved >= -zero && moved <= last - zero)) return false;
    const int left = clamp(int(x), 0, n_samples - 2), origin = PAIRS == 1 ? left / WINDOW * WINDOW + WINDOW / 2 : left;
    value = spreading(2.0f * fma(2.0f, leg.x, moved))
          * twice(traces + (start + left), 2.0f * (x - float(origin)) - 1.0f, part, n_samples + BEYOND);
    return true;
}

#if PHYSICS == 0
// By how much a straight ray's travel time is later than input sample `sample`.
static float later_than(float sample, float4 e, float2 pillar, float2 leg, float shift)
{
    float2 sum = exact_sum(-shift, -sample);
#pragma unroll(1)
    for (int end = 0; end < 2; end++) {
        const float2 place = end == 0 ? e.xy : e.zw;
        const float2 square = exact_square(exact_sum(place.x, -pillar.x), exact_sum(place.y, -pillar.y));
        const float2 t = exact_sum(leg.x * leg.x, square.x * leg.y);
        const float low = fma(leg.x, leg.x, -(leg.x * leg.x)) + fma(square.x, leg.y, -(square.x * leg.y));
        const float2 time = exact_root(float2(t.x, fma(square.y, leg.y, t.y + low))), next = exact_sum(sum.x, time.x);
        sum = float2(next.x, next.y + sum.y + time.y);
    }
    return sum.x + sum.y;
}
#endif

// 1 / (2 T)^2 at all of a lane's samples, in the smooth list times a rim weight, in the next two half of it.
static void parabola(float4 place, thread const float* q, thread const float* q2, thread float* values)
{
#if WEIGHTED
    for (int m = 0; m < HALF; m++) {
        const float even = fma(place.w, q2[m], place.y);
        values[SAMPLES - 1 - m] = fma(-q[m], place.z, even);
        values[m] = fma(q[m], place.z, even);
    }
#else
    for (int m = 0; m < SAMPLES; m++) values[m] = place.y;
#endif
}

[[max_total_threads_per_threadgroup(SIMDGROUPS * 32)]]
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
    constant float& tolerance [[buffer(18)]],     // of the cubic, in samples
    constant int& counted [[buffer(19)]],
    device const float2* bends [[buffer(20)]],    // in rows as legs; one unused entry for straight rays
    constant float& kappa [[buffer(21)]],
    constant float& horizon [[buffer(22)]],       // curved rays: no R1 + R2 of a trace is larger (physics.py)
    constant float& wx [[buffer(23)]],            // squared distances of neighbouring midpoints, for COPIES
    constant float& wy [[buffer(24)]],
    device const float* units [[buffer(25)]],     // of each trace's samples, for PAIRS 2; else one that nobody reads
    uint2 group [[threadgroup_position_in_grid]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint thread_at [[thread_index_in_threadgroup]])
{
#if PACKED
    threadgroup float4 entries[PLACE];
    threadgroup float2 place_slab[PLACE];
    threadgroup float row_slab[PLACE];
#define PLACE_OF(i) float4(0.0f, place_slab[i].x, float2(as_type<half2>(place_slab[i].y)))
#define PLAIN_OF(i) place_slab[i]
#define ROW_OF(i) as_type<Row>(row_slab[i])
#else
    threadgroup float4 entries[2 * PLACE];
#define PLACE_OF(i) entries[(i) + PLACE]
#define PLAIN_OF(i) entries[(i) + PLACE].yz
#define ROW_OF(i) as_type<Row>(entries[(i) + PLACE].x)
#endif
    threadgroup Distance far_slab[SIMDGROUPS * 32];  // of midpoint and pillar
    threadgroup float end_slab[SIMDGROUPS * 32];  // y at the trace's end
    threadgroup int2 close_slab[SIMDGROUPS * CLOSEST];  // what exactly() leaves for the end: first sample of a trace, own number
    threadgroup atomic_uint n_close[SIMDGROUPS];
    threadgroup float4 node_slab[SIMDGROUPS * LOOKED];  // `knots` and `bends` at nodes; limits of what is near
#if COPIES > 1
    threadgroup float2 middle_slab[SIMDGROUPS * SPANS];  // `knots` at the middles of spans
    // Of 16 output samples and each trace: bits of the row, and the part; then the same of the 16 that mirror them.
    threadgroup float4 share_slab[SAMPLES * PLACE];
#define SHARE_OF(i, m, row) share_from(share_slab + (i), m, lane)
#else
#define SHARE_OF(i, m, row) share_in(row, 0.0f)
#endif

    const int p = int(group.x) * SIMDGROUPS + int(simd);
    if (p >= n_pillars) return;  // whole simdgroups: nobody waits for them
    const int block = n_blocks - 1 - int(group.y);  // deep blocks have most to do: first
    const int slab = int(simd) * 32;
    const int row = p * rows * n_blocks * BLOCK;
    device const float4* knots = legs + (row + block * BLOCK);
    device const float2* bent = bends + (PHYSICS ? row + block * BLOCK : 0);
    const float4 shape = blocks[p * rows * n_blocks + block];
    const float2 pillar = pillars[p], centre = centres[block];
    const float last = float(n_samples - 1);
    const int apart = n_samples + BEYOND, stride = (PAIRS && COPIES > 1 ? COPIES - 1 : COPIES) * apart;
#if PHYSICS == 1
    const float latest = horizon, earliest = 4.0f * bent[0].x * bent[0].x;
#else
    const float latest = max(last + shift, 0.0f) + 0.1f, earliest = 4.0f * knots[0].x * knots[0].x;
#endif

    Close close;
    close.number = n_close + simd;
    close.list = close_slab + simd * CLOSEST;
    if (lane == 0) atomic_store_explicit(close.number, 0u, memory_order_relaxed);
    threadgroup float4* nodes = node_slab + int(simd) * LOOKED;
    if (int(lane) < NODES) {
        const int j = node(int(lane));
        nodes[lane] = float4(max(knots[j].x, TINY), knots[j].y, bend_at(bent, j));
    }
#if COPIES > 1
    threadgroup float2* middles = middle_slab + int(simd) * SPANS;
    if (int(lane) < SPANS) middles[lane] = knots[16 * int(lane) + 8].xy;
#endif
    if (int(lane) == NODES) nodes[NODES] = float4(shape.x * ROOM, shape.w, earliest, latest * latest);
    simdgroup_barrier(mem_flags::mem_threadgroup);

    float sum[SAMPLES], q[HALF], q2[HALF];
    int count[SAMPLES];
    int whole = 0;
    float narrow = shape.x;
    for (int m = 0; m < SAMPLES; m++) {
        sum[m] = 0.0f;
        count[m] = 0;
        narrow = min(narrow, knots[int(lane) + 32 * m].z);
    }
    for (int m = 0; m < HALF; m++) {
        q[m] = float(int(lane) + 32 * m) * (1.0f / CENTRE) - 1.0f;
        q2[m] = q[m] * q[m];
    }
    narrow = simd_min(narrow);  // whatever is nearer is inside all along the block
#if PACKED
    const float strength = max(16.0f * knots[BLOCK / 2].x * knots[BLOCK / 2].x, 1.0f);
#else
    const float strength = 1.0f;
#endif
    // Where the radius is the same all along the block, so is a trace's weight under the rim.
    const bool steady = narrow == shape.x;
    const bool shallow = VERTICAL(0) < SHALLOW * VERTICAL(BLOCK - 1);

    const int zero = int(thread_at >> 5) - int(simd);  // which compilers need not know: what it is in is for vector registers
    // So is this address: lane / 32 is 0.
    device const Sample* near_traces = traces + (int(lane >> 5) - ROUND_BITS);
#define ADVANCE(rows) near_traces += (rows) * stride
    for (int first = 0; first < n_traces; first += 32, ADVANCE(32)) {
        const int k = first + int(lane);
        const float4 ends_here = ends[min(k, n_traces - 1)], e = ends_here - float4(pillar.x, pillar.y, pillar.x, pillar.y);
#if HARD
        const Distance far = midpoint_distance(ends_here, pillar);
#else
        const float mx = 0.5f * (e.x + e.z), my = 0.5f * (e.y + e.w);
        const Distance far = fast::sqrt(fma(mx, mx, my * my));
#endif
        const float distance = metres(far);
        const float2 square = float2(fma(e.x, e.x, e.y * e.y), fma(e.z, e.z, e.w * e.w));
        // T^2 >= t0^2 + (ds + dr)^2 / V^2, so these may reach the block before their trace ends.
        const float spread = square.x + square.y + 2.0f * fast::sqrt(square.x * square.y);
        const float4 reach = nodes[NODES];
        const bool near = k < n_traces && distance <= reach.x && fma(reach.y, spread, reach.z) <= reach.w;
        if (!simd_any(near)) continue;

        const float4 moved = float4(moveout(square, nodes[0].xy, nodes[0].zw, kappa),
                                    moveout(square, nodes[1].xy, nodes[1].zw, kappa),
                                    moveout(square, nodes[2].xy, nodes[2].zw, kappa),
                                    moveout(square, nodes[3].xy, nodes[3].zw, kappa));
        const float top = moveout(square, nodes[4].xy, nodes[4].zw, kappa);
        float4 c = cubic(moved);
        // A cubic through Chebyshev nodes is off by about the same everywhere, most where the time bends most: at the top.
        // Where 1 / V^2 leaves its cubic by z, T leaves its own by less than z (T - t0).
        float misfit = fabs(at(c, -1.0f) - top);
        if (shallow) {  // the bend is inside the block, and the misfit at the top may cross zero: look at the middle too
            const float there = moveout(square, nodes[5].xy, nodes[5].zw, kappa);
            misfit = max(misfit, fabs(at(c, (float(node(5)) - CENTRE) / CENTRE) - there));
        }
        const bool good = fma(2.0f, misfit, shape.z * max(top, moved.w)) <= tolerance;
        c.y += stretch;
        const float swing = fabs(c.y) + fabs(c.z) + fabs(c.w), ahead = centre.y + c.x, x = centre.x + ahead;
        const bool off = good && (x - swing > last + 0.01f || x + swing < -0.01f);
        // y counts from the sample `origin`.
#if PAIRS == 1
        const float origin = (floor((x - swing) * (1.0f / float(WINDOW))) + 0.5f) * float(WINDOW);
        const bool crossing = x + swing >= origin + (0.5f * float(WINDOW) - 1.0f);
        const bool exact = !(good && x - swing >= 0.01f && x + swing < origin + (1.5f * float(WINDOW) - 1.0f));
#else
        const float origin = centre.x + floor(ahead);
        const bool crossing = false, exact = !(good && x - swing >= 0.01f);
#endif
        // 1 / (1 + u)^2 = 1 - 2 u + 3 u^2 - 4 u^3 with the cubic u = T / T(centre) - 1; of its cubic term a parabola can have
        // three quarters of a line, and is off by a quarter.
        const float inverse = fast::divide(1.0f, x + shift), r1 = c.y * inverse, r2 = c.z * inverse, square1 = r1 * r1;
        const float third = fma(r1, fma(-4.0f, square1, 6.0f * r2), -2.0f * inverse * c.w);
        const bool bent_weight = WEIGHTED && !(fabs(third) <= BENT);
        const bool ending = x + swing > last - 0.01f, inner = distance * ROOM <= narrow;
        const bool even = steady || distance <= shape.y;  // one weight of the rim
        const int list = exact ? 5 : bent_weight || crossing ? 4 : ending ? (inner && even ? 3 : 4) : inner ? (even ? 0 : 1) : 2;
        const bool mine = near && !off;
        int smooth_end, rim_end, edge_end, cut_end, ending_end, exact_end, slot = slab;
        const uint before = (1u << lane) - 1u;
        if (simd_all(list == 0 || !mine)) {  // as deep blocks are
            const uint those = uint(simd_vote::vote_t(simd_ballot(mine)));
            smooth_end = rim_end = edge_end = cut_end = ending_end = exact_end = slab + int(popcount(those));
            slot += int(popcount(those & before));
        } else {
            int list_end[LISTS], filled = slab;
            for (int l = 0; l < LISTS; l++) {
                const uint those = uint(simd_vote::vote_t(simd_ballot(mine && list == l)));
                if (list == l) slot = filled + int(popcount(those & before));
                filled += int(popcount(those));
                list_end[l] = filled;
            }
            smooth_end = list_end[0], rim_end = list_end[1], edge_end = list_end[2];
            cut_end = list_end[3], ending_end = list_end[4], exact_end = list_end[5];
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);  // the previous 32 traces have been read
        if (mine) {
            entries[slot] = exact ? float4(square.x, square.y, 0.0f, 0.0f)
                                  : float4(2.0f * (ahead - (origin - centre.x)) - 1.0f, 2.0f * c.y, 2.0f * c.z, 2.0f * c.w);
            const float rim_here = steady ? rim_weight(far, knots[0].w, rim) : 1.0f;
            const float unit = strength * UNIT_OF(min(k, n_traces - 1));
            const float part = (list == 0 || list == 3 ? rim_here : 0.5f) * unit;
            const float scale = WEIGHTED ? 0.25f * inverse * inverse * part : part;
            const float3 weight = float3(scale, scale * fma(0.75f, third, -2.0f * r1), scale * fma(3.0f, square1, -2.0f * r2));
            const float3 plain = float3(fma(2.0f, origin + shift, 1.0f), unit, 0.0f);
            const Row row = row_at(int(lane) * stride, exact ? 0.0f : origin);
#if PACKED
            row_slab[slot] = as_type<float>(row);
            place_slab[slot] = list < 4 ? float2(weight.x, as_type<float>(half2(weight.yz))) : plain.xy;
#else
            entries[slot + PLACE] = float4(as_type<float>(row), list < 4 ? weight : plain);
#endif
            far_slab[slot] = far;
            end_slab[slot] = fma(2.0f, last - origin, -1.0f);
#if COPIES > 1
            for (int span = 0; span < SAMPLES; span++) {
                const Copy one = copy_of(e, square, middles[span], wx, wy);
                const Copy other = copy_of(e, square, middles[SPANS - 1 - span], wx, wy);
                share_slab[slot + PLACE * span] =
                    float4(as_type<float>(row_behind(row, one.number * apart)), one.next,
                           as_type<float>(row_behind(row, other.number * apart)), other.next);
            }
#endif
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        const int here = first * stride;
        int next = slab + zero;
#if PAIRS
        const int full_end = smooth_end + (zero - (TOGETHER - 1));
        for (; next < full_end; next += TOGETHER) {  // all samples are on the way before the first is used
            float y[TOGETHER][SAMPLES];
            Line line[TOGETHER][SAMPLES];
#if COPIES > 1
            float part[TOGETHER][SAMPLES];
#endif
            for (int u = 0; u < TOGETHER; u++) {
                const Row row = ROW_OF(next + u);
                at_all(entries[next + u], q, q2, y[u]);
                for (int m = 0; m < SAMPLES; m++) {
                    const Share share = SHARE_OF(next + u, m, row);
                    const float rounded = rounded_in(y[u][m], share.row);
                    line[u][m] = Line(near_traces[place_of(rounded, share.row)]);
                    if (PAIRS == 2) y[u][m] -= rounded_of(rounded, share.row);
#if COPIES > 1
                    part[u][m] = share.part;
#endif
                }
            }
            for (int u = 0; u < TOGETHER; u++) {
                float weight[SAMPLES];
                parabola(PLACE_OF(next + u), q, q2, weight);
                for (int m = 0; m < SAMPLES; m++) {
                    float value = fma(y[u][m], line[u][m].y, line[u][m].x);
#if COPIES > 1
                    value = fma(part[u][m], fma(y[u][m], line[u][m].w, line[u][m].z), value);
#endif
                    sum[m] = fma(weight[m], value, sum[m]);
                }
            }
        }
#endif
        const int left_over = PAIRS ? (smooth_end - slab) % TOGETHER : smooth_end - slab;
#if PAIRS
#pragma unroll(1)
#else
#pragma unroll(2)
#endif
        for (int i = smooth_end - left_over; i < smooth_end; i++) {
            const float4 a = entries[i], place = PLACE_OF(i);
            const Row row = ROW_OF(i);
            float y[SAMPLES], weight[SAMPLES];
            at_all(a, q, q2, y);
            parabola(place, q, q2, weight);
            for (int m = 0; m < SAMPLES; m++)
                sum[m] = fma(weight[m], twice_sample(near_traces, y[m], SHARE_OF(i, m, row), apart), sum[m]);
        }
        whole += rim_end - slab;
        if (edge_end != smooth_end) {
            float outer[SAMPLES], slope[SAMPLES];
            for (int m = 0; m < SAMPLES; m++) {
                const float4 leg = knots[number_of(m, lane)];
                outer[m] = leg.z;
                slope[m] = leg.w;
            }
#pragma unroll(1)
            for (int i = smooth_end; i < rim_end; i++) {
                const float4 a = entries[i], place = PLACE_OF(i);
                const Distance far = far_slab[i];
                const Row row = ROW_OF(i);
                float y[SAMPLES], weight[SAMPLES];
                at_all(a, q, q2, y);
                parabola(place, q, q2, weight);
                for (int m = 0; m < SAMPLES; m++) {
                    weight[m] = rimmed(weight[m], far, slope[m], rim);
                    sum[m] = fma(weight[m], twice_sample(near_traces, y[m], SHARE_OF(i, m, row), apart), sum[m]);
                }
            }
#pragma unroll(1)
            for (int i = rim_end; i < edge_end; i++) {
                const float4 a = entries[i], place = PLACE_OF(i);
                const Distance far = far_slab[i];
                const Row row = ROW_OF(i);
                float y[SAMPLES], weight[SAMPLES];
                at_all(a, q, q2, y);
                parabola(place, q, q2, weight);
                for (int m = 0; m < SAMPLES; m++) {
                    if (within(far, outer[m], slope[m])) {
                        weight[m] = rimmed(weight[m], far, slope[m], rim);
                        sum[m] = fma(weight[m], twice_sample(near_traces, y[m], SHARE_OF(i, m, row), apart), sum[m]);
                        count[m] += 1;
                    }
                }
            }
        }
        uint waiting = 0u, bit = 1u;  // entries of the cut list with a sample too near the end to trust the cubic
#pragma unroll(1)
        for (int i = edge_end; i < cut_end; i++) {
            const float4 a = entries[i], place = PLACE_OF(i);
            const float end = end_slab[i];
            const Row row = ROW_OF(i);
            float y[SAMPLES], weight[SAMPLES];
            at_all(a, q, q2, y);
            parabola(place, q, q2, weight);
            bool late = false;
            for (int m = 0; m < SAMPLES; m++) {
                late = late || fabs(y[m] - end) < 0.02f;
                if (y[m] <= end - 0.02f) {
                    sum[m] = fma(weight[m], twice_sample(near_traces, y[m], SHARE_OF(i, m, row), apart), sum[m]);
                    count[m] += 1;
                }
            }
            waiting |= simd_any(late) ? bit : 0u;
            bit += bit;
        }
#pragma unroll(1)
        for (int next_ending = cut_end; waiting != 0u || next_ending < ending_end;) {
            const bool waited = waiting != 0u;
            const int i = waited ? edge_end + int(ctz(waiting)) : next_ending;
            waiting &= waiting - 1u;
            next_ending += waited ? 0 : 1;
            const float4 a = entries[i];
            const float2 plain = PLAIN_OF(i);
            const float end = end_slab[i];
            const Row row = ROW_OF(i);
            const Distance far = far_slab[i];
            float y[SAMPLES];
            at_all(a, q, q2, y);
            for (int m = 0; m < SAMPLES; m++) {
                const int j = number_of(m, lane);
                const float2 leg = knots[j].zw;
                const bool sure = y[m] <= end - 0.02f;
                bool on = within(far, leg.x, leg.y) && y[m] < end + 0.02f && !(waited && sure);
                if (!on) continue;
                const Share share = SHARE_OF(i, m, row);
                float value, unit = plain.y;
                if (sure) {
                    value = spreading(y[m] + plain.x) * twice_sample_anywhere(near_traces, y[m], share, apart);
                } else {  // too near the end to trust the cubic
                    const int origin = int(last - 0.5f * (end + 1.0f)), from = here + start_of(row) - origin;
                    const float4 e = ends[from / stride] - float4(pillar.x, pillar.y, pillar.x, pillar.y);
                    const float2 square = float2(fma(e.x, e.x, e.y * e.y), fma(e.z, e.z, e.w * e.w));
                    unit = strength * UNIT_OF(from / stride);  // the cut list has none
                    on = exactly(traces, from, n_samples, square, knots[j], bend_at(bent, j), kappa, shift,
                                 here + start_of(share.row) - origin, share.part, j, close, value);
                }
                if (on) {
                    sum[m] = fma(unit * rim_weight(far, leg.y, rim), value, sum[m]);
                    count[m] += 1;
                }
            }
        }
#pragma unroll(1)
        for (int i = ending_end; i < exact_end; i++) {
            const float2 square = entries[i].xy;
            const Row row = ROW_OF(i);
            for (int m = 0; m < SAMPLES; m++) {
                const int j = number_of(m, lane);
                const float4 leg = knots[j];
                float value;
                const Share share = SHARE_OF(i, m, row);
                if (within(far_slab[i], leg.z, leg.w)
                    && exactly(traces, here + start_of(row), n_samples, square, leg, bend_at(bent, j), kappa, shift,
                               here + start_of(share.row), share.part, j, close, value)) {
                    sum[m] = fma(PLAIN_OF(i).y * rim_weight(far_slab[i], leg.w, rim), value, sum[m]);
                    count[m] += 1;
                }
            }
        }
    }

#if PHYSICS == 0
    simdgroup_barrier(mem_flags::mem_threadgroup);
    const int n_late = int(min(atomic_load_explicit(close.number, memory_order_relaxed), CLOSEST));
#pragma unroll(1)
    for (int i = 0; i < n_late; i++) {
        const int from = close.list[i].x, j = close.list[i].y;
        if (lane_of(j) != lane) continue;
        const float4 e = ends[from / stride], leg = knots[j];
        if (!(later_than(0.0f, e, pillar, leg.xy, shift) >= 0.0f)) continue;
        const float late = later_than(last, e, pillar, leg.xy, shift);
        if (!(late <= 0.0f)) continue;
        const float x = last + late, t = x + shift;
        const int left = clamp(int(x), 0, n_samples - 2), origin = PAIRS == 1 ? left / WINDOW * WINDOW + WINDOW / 2 : left;
        const float4 away = e - float4(pillar.x, pillar.y, pillar.x, pillar.y);
#if COPIES > 1
        const float2 square = float2(fma(away.x, away.x, away.y * away.y), fma(away.z, away.z, away.w * away.w));
        const Copy copy = copy_of(away, square, knots[(j & ~15) + 8].xy, wx, wy);
        const int start = from + copy.number * apart;
        const float part = copy.next;
#else
        const int start = from;
        const float part = 0.0f;
#endif
        const float unit = strength * UNIT_OF(from / stride);
        const float value = unit * spreading(2.0f * t) * rim_weight(midpoint_distance(e, pillar), leg.w, rim)
                          * twice(traces + (start + left), 2.0f * (x - float(origin)) - 1.0f, part, apart);
        for (int m = 0; m < SAMPLES; m++) {
            sum[m] += j >> 5 == m ? value : 0.0f;
            count[m] += j >> 5 == m ? 1 : 0;
        }
    }
#endif

    for (int m = 0; m < SAMPLES; m++) {
        const int j = number_of(m, lane), t = block * BLOCK + j;
        if (t < n_out) {
            // sum holds twice the samples over (2 T)^2; at t0 = 0 the weight is 0 even where T is, and 1 / T infinite.
            const float t0 = 2.0f * knots[j].x;
            const float scale = (WEIGHTED ? 2.0f * t0 * t0 : 0.5f) * gain[row + t] / strength;
            if (scale != 0.0f) image[p * n_out + t] = fma(scale, sum[m], image[p * n_out + t]);
            if (counted != 0) fold[p * n_out + t] += whole + count[m];
        }
    }
}
