"""numba's side of the words of point-wise passes, and of the rows around them; put in front of generated kernels.

Stands behind the text of ``elinvar.metal.fuse``'s ``cpu_math``, which brings `f4`, the bit casts and half loads.
``exp2`` and ``log2`` are weighted least-squares (Lawson) fits made for this file, on [-1/2, 1/2] with relative error
2e-9 and on [sqrt(1/2) - 1, sqrt 2 - 1] with 3e-8 before rounding.

numba computes with 64 bits what is written with integers of 32, and vectors of half as many lanes follow: shifts are
spelled in LLVM's own words. Rows of working memory start at cache lines, see `row_memory`, and are passed as (array,
row): a slice costs two atomic reference counts.
"""

# ruff: noqa: ARG001, D103, PLW3301, F821, FURB136  (numba reads the names; f4 and the casts come from the text in
# front)
# mypy: ignore-errors
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_CONTRACT = {"contract", "arcp", "nsz"}
u4 = np.uint32
i4 = np.int32
i8 = np.int64


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


@intrinsic
def shift_left(_context, a, n):
    def generate(_target, builder, _signature, args):
        return builder.shl(args[0], args[1])

    return types.int32(types.int32, types.int32), generate


@intrinsic
def shift_right(_context, a, n):
    def generate(_target, builder, _signature, args):
        return builder.ashr(args[0], args[1])

    return types.int32(types.int32, types.int32), generate


@njit(forceinline=True)
def apart(x):
    """Exponent e and f of x = 2^e (1 + f), 1 + f between sqrt(1/2) and sqrt(2)."""
    y = x if x > f4(1.17549435e-38) else f4(1.17549435e-38)
    i = float_bits(y)
    e = shift_right(i4(i - i4(0x3F3504F3)), i4(23))
    return f4(e), bits_float(i4(i - shift_left(e, i4(23)))) - f4(1.0)


@njit(fastmath=_CONTRACT, forceinline=True)
def w_log2(x):
    e, f = apart(x)
    p = f4(0.12583706)
    p = p * f + f4(-0.20726982)
    p = p * f + f4(0.21571562)
    p = p * f + f4(-0.23894481)
    p = p * f + f4(0.28791624)
    p = p * f + f4(-0.36070368)
    p = p * f + f4(0.48091063)
    p = p * f + f4(-0.72134733)
    p = p * f + f4(1.442695)
    return p * f + e


@njit(fastmath=_CONTRACT, forceinline=True)
def log2_of_power(x):
    """As `w_log2`, fitted to an absolute error of 5e-8, which is what a power makes of it."""
    e, f = apart(x)
    p = f4(-0.14574452)
    p = p * f + f4(0.23689047)
    p = p * f + f4(-0.25006905)
    p = p * f + f4(0.28670743)
    p = p * f + f4(-0.36008721)
    p = p * f + f4(0.48093945)
    p = p * f + f4(-0.72135717)
    p = p * f + f4(1.4426948)
    return p * f + e


@njit(fastmath=_CONTRACT, forceinline=True)
def w_exp2(x):
    y = x if x > f4(-126.0) else f4(-126.0)
    y = y if y < f4(127.0) else f4(127.0)
    # Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    t = y + f4(12582912.0)
    r = y - (t - f4(12582912.0))
    p = f4(1.53533618e-04)
    p = p * r + f4(1.33988744e-03)
    p = p * r + f4(9.61843736e-03)
    p = p * r + f4(5.55033247e-02)
    p = p * r + f4(2.40226479e-01)
    p = p * r + f4(6.93147203e-01)
    p = p * r + f4(1.0)
    return bits_float(i4(float_bits(p) + shift_left(float_bits(t), i4(23))))


@njit(fastmath=_CONTRACT, forceinline=True)
def w_powr(x, y):
    result = w_exp2(y * log2_of_power(x))
    return f4(0.0) if x < f4(1.17549435e-38) else result


@njit(fastmath=_CONTRACT, forceinline=True)
def w_root(x, y):
    # As a power, with a polynomial of one degree less: 1e-7 relative beside the logarithm's rounding.
    z = y * log2_of_power(x)
    z = z if z < f4(127.0) else f4(127.0)
    t = z + f4(12582912.0)
    r = z - (t - f4(12582912.0))
    p = f4(1.32647273e-03)
    p = p * r + f4(9.67151299e-03)
    p = p * r + f4(5.55073359e-02)
    p = p * r + f4(2.40222424e-01)
    p = p * r + f4(6.93147004e-01)
    p = p * r + f4(1.0)
    result = bits_float(i4(float_bits(p) + shift_left(float_bits(t), i4(23))))
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


@njit(nogil=True, error_model="numpy", cache=True)
def row_memory(rows, width, first):
    """Uninitialised rows whose element `first` starts a cache line, with at least 15 elements to spare."""
    pitch = (width + 31) // 16 * 16
    memory = np.empty(rows * pitch + 16, f4)
    at = (-(memory.ctypes.data >> 2) - first) & 15
    return memory[at : at + rows * pitch].reshape(rows, pitch)


@intrinsic
def fetch(_context, a, at):
    """Ask for the cache line of one element, counted through a contiguous array."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        whole = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, whole, whole, whole])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, whole(0), whole(3), whole(1)])
        return context.get_dummy_value()

    return types.void(a, types.intp), generate


@njit(nogil=True, error_model="numpy", cache=True)
def fetch_row(x, y, part, parts):
    """Ask for one of `parts` of a row: short rows end before the processor has noticed that they are read."""
    if y < x.shape[1]:
        size = (x.shape[2] + parts - 1) // parts
        for c in range(3):
            row = (c * x.shape[1] + y) * x.shape[2]
            for i in range(part * size, min((part + 1) * size, x.shape[2]), 16):
                fetch(x, row + i)


@njit(nogil=True, error_model="numpy", fastmath=_CONTRACT, cache=True)
def up_row(half, c, y, s, to):
    """One row of a half-resolution plane into row `to`, doubled bilinearly; centres at (i + 1/2) / 2."""
    rows, columns = half.shape[1], half.shape[2]
    near = y >> 1
    far = min(near + 1, rows - 1) if y & 1 else max(near - 1, 0)
    near = min(near, rows - 1)
    u, v = f4(0.75), f4(0.25)
    p, q, out = half[c, near], half[c, far], s[to]
    for i in range(1, columns - 1):
        left, right = u * p[i - 1] + v * q[i - 1], u * p[i + 1] + v * q[i + 1]
        middle = u * p[i] + v * q[i]
        out[2 * i] = v * left + u * middle
        out[2 * i + 1] = u * middle + v * right
    for i in (0, columns - 1):
        j, k = max(i - 1, 0), min(i + 1, columns - 1)
        left, right = u * p[j] + v * q[j], u * p[k] + v * q[k]
        middle = u * p[i] + v * q[i]
        out[2 * i] = v * left + u * middle
        out[2 * i + 1] = u * middle + v * right
