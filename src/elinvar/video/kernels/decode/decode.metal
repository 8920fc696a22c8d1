// R'G'B' from Y'CbCr codes: chroma interpolated linearly from where it sits, four pixels of a row per thread.
#include <metal_stdlib>
using namespace metal;

#ifndef WORD
#define WORD uchar
#define PAIR uchar2
#define QUAD uchar4
#define ACROSS 2   // pixels per chroma sample
#define DOWN 2
#define SITING 0   // 0 beside the left column, 1 in the middle, 2 on the upper left pixel
#define PAIRS 1    // Cb and Cr alternate in one plane
#define SHIFT 0    // how far codes are shifted up in their words
#define WIDE 1     // rows are whole, aligned groups of four pixels
#endif

// Where a row's chroma comes from: two rows of samples and the part of the second.
struct Rows {
    int near, far;
    float part;
};

static inline Rows rows_of(int y, int rows)
{
    Rows r;
    r.near = y / DOWN;
    r.far = r.near;
    r.part = 0.0f;
#if DOWN == 2 && SITING == 2
    if (y & 1) {
        r.far = min(r.near + 1, rows - 1);
        r.part = 0.5f;
    }
#elif DOWN == 2
    r.far = clamp(r.near + ((y & 1) ? 1 : -1), 0, rows - 1);
    r.part = 0.25f;
#endif
    return r;
}

static inline float2 codes(device const WORD* blue, device const WORD* red, int i)
{
#if PAIRS
    const PAIR p = ((device const PAIR*)blue)[i];
    return float2(float(int(p.x) >> SHIFT), float(int(p.y) >> SHIFT));
#else
    return float2(float(int(blue[i]) >> SHIFT), float(int(red[i]) >> SHIFT));
#endif
}

// Cb and Cr of one column of samples at the height of a row of pixels.
static inline float2 column(device const WORD* blue, device const WORD* red, int i, int columns, Rows r, float middle)
{
    const int x = clamp(i, 0, columns - 1);
    const float2 a = codes(blue, red, r.near * columns + x);
#if DOWN == 2
    const float2 b = codes(blue, red, r.far * columns + x);
    return (1.0f - r.part) * a + r.part * b - float2(middle);
#else
    return a - float2(middle);
#endif
}

kernel void decode(device const WORD* luma [[buffer(0)]], device const WORD* blue [[buffer(1)]],
    device const WORD* red [[buffer(2)]], device float* out [[buffer(3)]], constant int& width [[buffer(4)]],
    constant int& height [[buffer(5)]], constant int& columns [[buffer(6)]], constant int& rows [[buffer(7)]],
    constant float& offset [[buffer(8)]], constant float& scale [[buffer(9)]], constant float& middle [[buffer(10)]],
    constant float& to_blue [[buffer(11)]], constant float& to_red [[buffer(12)]],
    constant float& green_blue [[buffer(13)]], constant float& green_red [[buffer(14)]],
    uint2 at [[thread_position_in_grid]])
{
    const int x = 4 * int(at.x), y = int(at.y), first = y * width + x, plane = width * height;
    const Rows r = rows_of(y, rows);
    float2 chroma[4];
#if ACROSS == 1
    for (int k = 0; k < 4; k++) chroma[k] = column(blue, red, x + k, columns, r, middle);
#else
    const int i = x / 2;
    const float2 b = column(blue, red, i, columns, r, middle), c = column(blue, red, i + 1, columns, r, middle);
    const float2 d = column(blue, red, i + 2, columns, r, middle);
#if SITING == 1
    const float2 a = column(blue, red, i - 1, columns, r, middle);
    chroma[0] = 0.75f * b + 0.25f * a;
    chroma[1] = 0.75f * b + 0.25f * c;
    chroma[2] = 0.75f * c + 0.25f * b;
    chroma[3] = 0.75f * c + 0.25f * d;
#else
    chroma[0] = b;
    chroma[1] = 0.5f * (b + c);
    chroma[2] = c;
    chroma[3] = 0.5f * (c + d);
#endif
#endif
    float grey[4];
#if WIDE
    const QUAD q = ((device const QUAD*)luma)[first / 4];
    grey[0] = float(int(q.x) >> SHIFT);
    grey[1] = float(int(q.y) >> SHIFT);
    grey[2] = float(int(q.z) >> SHIFT);
    grey[3] = float(int(q.w) >> SHIFT);
#else
    for (int k = 0; k < 4; k++) grey[k] = float(int(luma[first + min(k, width - 1 - x)]) >> SHIFT);
#endif
    float3 pixel[4];
    for (int k = 0; k < 4; k++) {
        const float light = (grey[k] - offset) * scale;
        pixel[k] = float3(light + chroma[k].y * to_red, light - chroma[k].x * green_blue - chroma[k].y * green_red,
            light + chroma[k].x * to_blue);
    }
#if WIDE
    device float4* to = (device float4*)out;
    to[first / 4] = float4(pixel[0].x, pixel[1].x, pixel[2].x, pixel[3].x);
    to[(plane + first) / 4] = float4(pixel[0].y, pixel[1].y, pixel[2].y, pixel[3].y);
    to[(2 * plane + first) / 4] = float4(pixel[0].z, pixel[1].z, pixel[2].z, pixel[3].z);
#else
    for (int k = 0; k < 4 && x + k < width; k++) {
        out[first + k] = pixel[k].x;
        out[plane + first + k] = pixel[k].y;
        out[2 * plane + first + k] = pixel[k].z;
    }
#endif
}
