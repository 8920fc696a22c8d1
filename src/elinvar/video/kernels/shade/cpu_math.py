"""numba's side of the words of point-wise passes, and of the rows around them; put in front of generated kernels.

Stands behind the text of ``elinvar.metal.fuse``'s ``cpu_math``, which brings `f4`, the bit casts and half loads.
``exp2`` is a weighted least-squares (Lawson) fit on [-1/2, 1/2] made for this file, relative error 2e-9 before
rounding; ``log2`` uses the polynomial of ``log_f4``.
"""

# ruff: noqa: ARG001, D103, PLW3301, F821, FURB136  (numba reads the names; f4 and the casts come from the text in
# front)
# mypy: ignore-errors
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_CONTRACT = {"contract", "arcp", "nsz"}
u4 = np.uint32
i4 = np.int32


@intrinsic
def w_fma(_context, a, b, c):
    def generate(_target, builder, _signature, args):
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


@njit(forceinline=True)
def w_minimum(a, b):
    return a if a < b else b


@njit(forceinline=True)
def w_maximum(a, b):
    return a if a > b else b


@njit(forceinline=True)
def w_clamp(x, low, high):
    y = x if x > low else low
    return y if y < high else high


@njit(forceinline=True)
def w_where(condition, a, b):
    return a if condition else b


@njit(fastmath=_CONTRACT, forceinline=True)
def w_mix(a, b, t):
    return a + (b - a) * t


@njit(forceinline=True)
def w_floor(x):
    return np.floor(x)


@njit(forceinline=True)
def w_sqrt(x):
    return np.sqrt(x if x > f4(0.0) else f4(0.0))


@njit(fastmath=_CONTRACT, forceinline=True)
def w_smoothstep(low, high, x):
    t = w_clamp((x - low) / (high - low), f4(0.0), f4(1.0))
    return t * t * (f4(3.0) - f4(2.0) * t)


@njit(fastmath=_CONTRACT, forceinline=True)
def w_log2(x):
    y = x if x > f4(1.17549435e-38) else f4(1.17549435e-38)
    i = float_bits(y)
    e = i4((i - i4(0x3F3504F3)) >> i4(23))
    f = bits_float(i4(i - i4(e << i4(23)))) - f4(1.0)
    p = f4(0.0733243733)
    p = p * f + f4(-0.116598872)
    p = p * f + f4(0.116346772)
    p = p * f + f4(-0.123967073)
    p = p * f + f4(0.142511549)
    p = p * f + f4(-0.166691507)
    p = p * f + f4(0.200006881)
    p = p * f + f4(-0.249999812)
    p = p * f + f4(0.333333313)
    s = f * f
    natural = f + (p * f * s - f4(0.5) * s)
    return f4(e) + natural * f4(1.44269504)


@njit(fastmath=_CONTRACT, forceinline=True)
def w_exp2(x):
    y = x if x > f4(-126.0) else f4(-126.0)
    y = y if y < f4(127.0) else f4(127.0)
    n = np.floor(y + f4(0.5))
    r = y - n
    p = f4(1.53533618e-04)
    p = p * r + f4(1.33988744e-03)
    p = p * r + f4(9.61843736e-03)
    p = p * r + f4(5.55033247e-02)
    p = p * r + f4(2.40226479e-01)
    p = p * r + f4(6.93147203e-01)
    p = p * r + f4(1.0)
    return p * bits_float(i4((i4(n) + i4(127)) << i4(23)))


@njit(fastmath=_CONTRACT, forceinline=True)
def w_powr(x, y):
    result = w_exp2(y * w_log2(x))
    return f4(0.0) if x < f4(1.17549435e-38) else result


@intrinsic
def pcg(_context, v):
    """In LLVM's own words, because numba computes with 64 bits what is written with 32."""

    def generate(_target, builder, _signature, args):
        def number(value):
            return ir.Constant(ir.IntType(32), value)

        state = builder.add(builder.mul(args[0], number(747796405)), number(2891336453))
        turn = builder.add(builder.lshr(state, number(28)), number(4))
        word = builder.mul(builder.xor(builder.lshr(state, turn), state), number(277803737))
        return builder.xor(builder.lshr(word, number(22)), word)

    return types.uint32(types.uint32), generate


@njit(forceinline=True)
def hash3(ix, iy, seed):
    return pcg(u4(u4(i4(ix)) + pcg(u4(u4(i4(iy)) + pcg(u4(i4(seed)))))))


@njit(forceinline=True)
def w_hash_uniform(ix, iy, seed):
    return f4(i4(hash3(ix, iy, seed) >> u4(8))) * f4(5.9604644775390625e-08)


@njit(forceinline=True)
def w_hash_normal(ix, iy, seed):
    h = hash3(ix, iy, seed)
    total = u4(u4(h & u4(255)) + u4((h >> u4(8)) & u4(255)) + u4((h >> u4(16)) & u4(255)) + u4(h >> u4(24)))
    return f4(i4(i4(total) - i4(510))) * f4(0.006765902)


@njit(fastmath=_CONTRACT, forceinline=True)
def w_value_noise(x, y, seed):
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (f4(3.0) - f4(2.0) * fx), fy * fy * (f4(3.0) - f4(2.0) * fy)
    i, j = i4(x0), i4(y0)
    k, l = i4(i + i4(1)), i4(j + i4(1))
    top = w_mix(w_hash_uniform(i, j, seed), w_hash_uniform(k, j, seed), fx)
    bottom = w_mix(w_hash_uniform(i, l, seed), w_hash_uniform(k, l, seed), fx)
    return w_mix(top, bottom, fy)


@njit(fastmath=_CONTRACT, forceinline=True)
def w_tetrahedral(table, size, r, g, b):
    # Sakamoto and Itooka (1981): walk from the cell's low corner to its high one along the sorted fractions.
    last = f4(size - 1)
    cell = i4(size - 2)
    r = w_clamp(r, f4(0.0), f4(1.0)) * last
    g = w_clamp(g, f4(0.0), f4(1.0)) * last
    b = w_clamp(b, f4(0.0), f4(1.0)) * last
    ir, ig, ib = min(i4(r), cell), min(i4(g), cell), min(i4(b), cell)
    fr, fg, fb = r - f4(ir), g - f4(ig), b - f4(ib)
    n = i4(size)
    dr, dg, db = i4(i4(n * n) * i4(4)), i4(n * i4(4)), i4(4)
    at = i4(i4(i4(i4(ir * n) + ig) * n + ib) * i4(4))
    rg, rb, gb = fr >= fg, fr >= fb, fg >= fb
    low, high = min(min(fr, fg), fb), max(max(fr, fg), fb)
    mid = max(min(fr, fg), min(max(fr, fg), fb))
    first = dr if rg and rb else (dg if gb else db)
    last_axis = db if rb and gb else (dg if rg else dr)
    second = i4(i4(dr + dg + db) - last_axis)
    end = i4(dr + dg + db)
    w0, w1, w2, w3 = f4(1.0) - high, high - mid, mid - low, low
    p, q, s, t = at, i4(at + first), i4(at + second), i4(at + end)
    x = w0 * table[p] + w1 * table[q] + w2 * table[s] + w3 * table[t]
    y = w0 * table[p + 1] + w1 * table[q + 1] + w2 * table[s + 1] + w3 * table[t + 1]
    z = w0 * table[p + 2] + w1 * table[q + 2] + w2 * table[s + 2] + w3 * table[t + 2]
    return x, y, z


@njit(nogil=True, error_model="numpy", fastmath=_CONTRACT, cache=True)
def up_row(half, y, width, line, out):
    """One row of a half-resolution plane, doubled bilinearly; centres at (i + 1/2) / 2."""
    rows, columns = half.shape
    near = y >> 1
    far = min(near + 1, rows - 1) if y & 1 else max(near - 1, 0)
    near = min(near, rows - 1)
    a, c = half[near], half[far]
    for i in range(columns):
        line[i + 1] = f4(0.75) * a[i] + f4(0.25) * c[i]
    line[0], line[columns + 1] = line[1], line[columns]
    for i in range(width >> 1):
        out[2 * i] = f4(0.25) * line[i] + f4(0.75) * line[i + 1]
        out[2 * i + 1] = f4(0.75) * line[i + 1] + f4(0.25) * line[i + 2]
    if width & 1:
        i = width >> 1
        out[2 * i] = f4(0.25) * line[i] + f4(0.75) * line[i + 1]


@njit(nogil=True, error_model="numpy", cache=True)
def luma_row(r, g, b, k, luma, y, seed, shift, out):
    """Codes of one row; `k` holds kr kg kb, scale, offset, top and whether to dither."""
    kr, kg, kb, scale, offset, top = k[0], k[1], k[2], k[3], k[4], k[5]
    unit = i4(1 << shift)  # a product can be kept to 32 bits, a variable shift cannot
    n = len(out)
    for i in range(n):
        luma[i] = w_fma(kb, b[i], w_fma(kg, g[i], kr * r[i]))
    if k[6] > f4(0.0):
        for i in range(n):
            noise = w_hash_uniform(i4(i), i4(y), seed)
            out[i] = i4(i4(w_clamp(w_fma(luma[i], scale, offset) + noise, f4(0.0), top)) * unit)
    else:
        for i in range(n):
            out[i] = i4(i4(w_clamp(w_fma(luma[i], scale, offset) + f4(0.5), f4(0.0), top)) * unit)


@njit(nogil=True, error_model="numpy", cache=True)
def difference_row(r, b, luma, k, cb, cr):
    """(B - Y) and (R - Y) of one row, in codes around 0."""
    for i in range(len(cb)):
        cb[i] = (b[i] - luma[i]) * k[7]
        cr[i] = (r[i] - luma[i]) * k[8]


@njit(nogil=True, error_model="numpy", cache=True)
def join_rows(a, b, c, siting, out):
    """Vertical chroma filter: two rows halved, or three rows (1 2 1) / 4 when chroma sits on the upper one."""
    if siting == 2:
        for i in range(len(b)):
            out[i] = f4(0.25) * (a[i] + c[i]) + f4(0.5) * b[i]
    else:
        for i in range(len(b)):
            out[i] = f4(0.5) * (b[i] + c[i])


@njit(nogil=True, error_model="numpy", cache=True)
def narrow_row(full, siting, line):
    """Halve one row of differences: (1 2 1) / 4 on even pixels, or pairs when chroma sits in the middle."""
    n = len(full)
    pairs = n >> 1
    if siting == 1:
        for i in range(pairs):
            line[i] = f4(0.5) * (full[2 * i] + full[2 * i + 1])
    else:
        line[0] = f4(0.75) * full[0] + f4(0.25) * full[min(1, n - 1)]
        for i in range(1, pairs):
            line[i] = f4(0.25) * (full[2 * i - 1] + full[2 * i + 1]) + f4(0.5) * full[2 * i]
    if n & 1 and n > 1:
        line[pairs] = full[n - 1] if siting == 1 else f4(0.25) * full[n - 2] + f4(0.75) * full[n - 1]
    elif n == 1:
        line[0] = full[0]


@njit(nogil=True, error_model="numpy", cache=True)
def chroma_row(line, k, y, seed, shift, step, out):
    """Codes of one chroma row; `step` is 2 where Cb and Cr alternate."""
    offset, top, unit = k[9] + f4(0.5), k[5], i4(1 << shift)
    if k[6] > f4(0.0):
        for i in range(len(line)):
            noise = w_hash_uniform(i4(i), i4(y), seed)
            out[i * step] = i4(i4(w_clamp(line[i] + k[9] + noise, f4(0.0), top)) * unit)
    else:
        for i in range(len(line)):
            out[i * step] = i4(i4(w_clamp(line[i] + offset, f4(0.0), top)) * unit)


@njit(nogil=True, error_model="numpy", cache=True)
def chroma_pair(cb, cr, k, y, seed, shift, out):
    """Codes of one row in which Cb and Cr alternate."""
    offset, top, unit = k[9] + f4(0.5), k[5], i4(1 << shift)
    if k[6] > f4(0.0):
        for i in range(len(cb)):
            a, b = w_hash_uniform(i4(i), i4(y), i4(seed)), w_hash_uniform(i4(i), i4(y), i4(seed + 1))
            out[2 * i] = i4(i4(w_clamp(cb[i] + k[9] + a, f4(0.0), top)) * unit)
            out[2 * i + 1] = i4(i4(w_clamp(cr[i] + k[9] + b, f4(0.0), top)) * unit)
    else:
        for i in range(len(cb)):
            out[2 * i] = i4(i4(w_clamp(cb[i] + offset, f4(0.0), top)) * unit)
            out[2 * i + 1] = i4(i4(w_clamp(cr[i] + offset, f4(0.0), top)) * unit)
