// Bloom at half resolution: prefilter and 13-tap halving through a tile, tent doubling with the sum of a pyramid.
#include <metal_stdlib>
using namespace metal;

#define TILE_W 32
#define TILE_H 8
#define SRC_W (2 * TILE_W + 4)
#define SRC_H (2 * TILE_H + 4)

static inline float3 light(float3 c, float threshold, float knee, float ceiling)
{
    // A comparison with NaN is false: it counts as no light.
    c = float3(c.x > 0.0f ? c.x : 0.0f, c.y > 0.0f ? c.y : 0.0f, c.z > 0.0f ? c.z : 0.0f);
    c = min(c, float3(ceiling));
    const float top = max(max(c.x, c.y), c.z);
    float s = clamp(top - threshold + knee, 0.0f, 2.0f * knee);
    s = s * s / (4.0f * knee + 1e-4f);
    return c * (max(s, top - threshold) / max(top, 1e-4f));
}

// One group makes 32 x 8 samples of all three planes from 68 x 20 source samples.
kernel void bloom_down(device const float* source [[buffer(0)]], device float* out [[buffer(1)]],
    constant int& sw [[buffer(2)]], constant int& sh [[buffer(3)]], constant int& w [[buffer(4)]],
    constant int& h [[buffer(5)]], constant int& bright [[buffer(6)]], constant float& threshold [[buffer(7)]],
    constant float& knee [[buffer(8)]], constant float& ceiling [[buffer(9)]], constant int& groups_x [[buffer(10)]],
    uint lane [[thread_position_in_threadgroup]], uint group [[threadgroup_position_in_grid]])
{
    threadgroup float tile[3 * SRC_W * SRC_H];
    const int gx = int(group) % groups_x, gy = int(group) / groups_x;
    const int x0 = gx * TILE_W * 2 - 2, y0 = gy * TILE_H * 2 - 2;
    for (int i = int(lane); i < SRC_W * SRC_H; i += TILE_W * TILE_H) {
        const int x = clamp(x0 + i % SRC_W, 0, sw - 1), y = clamp(y0 + i / SRC_W, 0, sh - 1);
        const int at = y * sw + x, plane = sw * sh;
        float3 c = float3(source[at], source[plane + at], source[2 * plane + at]);
        if (bright) c = light(c, threshold, knee, ceiling);
        tile[i] = c.x;
        tile[SRC_W * SRC_H + i] = c.y;
        tile[2 * SRC_W * SRC_H + i] = c.z;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int tx = int(lane) % TILE_W, ty = int(lane) / TILE_W;
    const int x = gx * TILE_W + tx, y = gy * TILE_H + ty;
    if (x >= w || y >= h) return;
    for (int k = 0; k < 3; k++) {
        threadgroup const float* p = tile + k * SRC_W * SRC_H + 2 * ty * SRC_W + 2 * tx;
        float wide = 0.0f, near = 0.0f;
        for (int j = 0; j < 6; j++) {
            threadgroup const float* row = p + j * SRC_W;
            const float box = row[1] + row[2] + row[3] + row[4];
            const float outer = row[0] + row[5] + box + row[2] + row[3];
            wide += (j == 2 || j == 3) ? outer : 0.5f * outer;
            near += (j > 0 && j < 5) ? box : 0.0f;
        }
        out[(k * h + y) * w + x] = wide * (1.0f / 64.0f) + near * (1.0f / 32.0f);
    }
}

static inline float tap(device const float* p, int columns, int rows, int x, int y)
{
    return p[clamp(y, 0, rows - 1) * columns + clamp(x, 0, columns - 1)];
}

// large = weight large + tent(small); one thread per sample of a plane. With rows == 0 only the weight is applied.
kernel void bloom_up(device const float* small_level [[buffer(0)]], device float* large [[buffer(1)]],
    constant int& columns [[buffer(2)]], constant int& rows [[buffer(3)]], constant int& w [[buffer(4)]],
    constant int& h [[buffer(5)]], constant float& weight [[buffer(6)]], uint3 at [[thread_position_in_grid]])
{
    const int x = int(at.x), y = int(at.y), o = (int(at.z) * h + y) * w + x;
    float total = 0.0f;
    if (rows > 0) {
        const float weights[4] = {0.1875f, 0.4375f, 0.3125f, 0.0625f};
        const int sx = (x & 1) ? 1 : -1, sy = (y & 1) ? 1 : -1;
        device const float* p = small_level + int(at.z) * columns * rows;
        for (int j = 0; j < 4; j++) {
            float line = 0.0f;
            for (int i = 0; i < 4; i++) line += weights[i] * tap(p, columns, rows, (x >> 1) + (i - 1) * sx, (y >> 1) + (j - 1) * sy);
            total += weights[j] * line;
        }
    }
    large[o] = weight * large[o] + total;
}
