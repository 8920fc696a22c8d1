// What v2.metal and v3.metal are made of: the words that specialise them, travel times of a block, weights, rows of samples
// and entries of threadgroup memory. Included by both; their heads say what is done with it.
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
