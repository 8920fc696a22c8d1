// vision.turn, version v1: a product's bias, rotary positions and the layout of heads in one pass.
//
// A row of the product holds PARTS matrices of heads side by side, e.g. queries, keys and values. A head's channels are
// four quarters a, b, c, d: (a, b) turn with y, (c, d) with x. One thread turns four pairs of channels.
#include <metal_stdlib>
using namespace metal;

#ifndef T4
#define T4 float4
#endif
#ifndef QUARTER4
#define QUARTER4 4
#endif

kernel void turn(
    device const T4* x [[buffer(0)]],        // [rows, parts, heads, 4, QUARTER4]
    device const T4* bias [[buffer(1)]],     // [rows / share, parts, heads, 4, QUARTER4]
    device const float4* cosine [[buffer(2)]],  // [tokens, 2, QUARTER4]
    device const float4* sine [[buffer(3)]],    // [tokens, 2, QUARTER4]
    device T4* out [[buffer(4)]],            // [rows, parts, heads, 4, QUARTER4]
    constant int& rows [[buffer(5)]],
    constant int& heads [[buffer(6)]],
    constant int& parts [[buffer(7)]],
    constant int& tokens [[buffer(8)]],      // row r is token r % tokens
    constant int& share [[buffer(9)]],       // rows with one bias
    constant int& turned [[buffer(10)]],     // bit p: part p turns
    constant int& moved [[buffer(11)]],      // parts from here on are written `shift` rows further
    constant int& shift [[buffer(12)]],
    uint2 position [[thread_position_in_grid]])
{
    const int row = int(position.y), at = int(position.x);
    const int pair = at % (2 * QUARTER4), head = at / (2 * QUARTER4), part = head / heads;
    const int axis = pair / QUARTER4, width = parts * heads * 4 * QUARTER4;
    const int first = head * 4 * QUARTER4 + axis * 2 * QUARTER4 + pair % QUARTER4;
    const ulong from = ulong(row) * ulong(width) + ulong(first);
    const int base = (row / share) * width + first;
    float4 a = float4(x[from]) + float4(bias[base]);
    float4 b = float4(x[from + QUARTER4]) + float4(bias[base + QUARTER4]);
    if ((turned >> part) & 1) {
        const int table = (row % tokens) * 2 * QUARTER4 + pair;
        const float4 c = cosine[table], s = sine[table];
        const float4 other = fma(b, c, a * s);
        a = fma(a, c, -(b * s));
        b = other;
    }
    const int target = part < moved ? row : (row + shift) % rows;
    const ulong to = ulong(target) * ulong(width) + ulong(first);
    out[to] = T4(a);
    out[to + QUARTER4] = T4(b);
}
