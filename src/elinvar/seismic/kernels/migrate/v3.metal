// seismic.migrate, version v3: v2 over a list of work, with batches of traces that cannot contribute never read.
//
// Traces come sorted along a Morton curve of their midpoints, 32 to a batch with a bounding circle; pillars likewise, a
// threadgroup's to a tile. `gaps` holds how near each batch comes to each tile. A contribution asks for a midpoint within the
// aperture's radius, and, because |s - p| + |r - p| >= 2 |m - p|, for one from which the record is long enough; `limits` has
// the smaller of the two for each block. One launch goes through `items`, pairs of tile and block, those
// blocks first that reach furthest.
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
#include "blocks.h"

[[max_total_threads_per_threadgroup(SIMDGROUPS * 32)]]
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
    device const float* units [[buffer(30)]],      // of each trace's samples, for PAIRS 2; else one that nobody reads
    uint group [[threadgroup_position_in_grid]],
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
    int earlier = 0;  // first trace of the batch that near_traces points to
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
            ADVANCE(first - earlier);
            earlier = first;
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
