"""From rows of R'G'B' to rows of codes; stands behind ``cpu_math`` in front of generated kernels.

At half width and half height, two rows and 32 pixels are one step of vectors: nothing between R'G'B' and codes is
stored. A processor does not see six rows of three planes coming, so a step asks for as many cache lines as it reads:
in each plane those that follow one another a row and a half ahead, three streams instead of six. Codes of a frame that
is only converted pass the caches by, where rows are whole vectors: nothing of what they replace is read, and who takes
them from memory spends less than that.

The arithmetic is that of ``words.h``, operation by operation, and products with 1/2 and 1/4 are exact: the codes of a
frame are the same bits on every device.
"""

# ruff: noqa: D102, F821  (numba reads the names; f4, w_fma and the like come from the text in front)
# mypy: ignore-errors
_LANES = 16
_BIT = ir.IntType(1)
_WHOLE = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), _LANES)
_WHOLES = ir.VectorType(_WHOLE, _LANES)


class Lanes:
    """The words of vectors."""

    def __init__(self, builder):
        self.b = builder

    def plus(self, at, more):
        return self.b.add(at, at.type(more) if isinstance(more, int) else more)

    def load(self, data, at):
        found = self.b.load(self.b.bitcast(self.b.gep(data, [at]), _FLOATS.as_pointer()))
        found.align = 4
        return found

    def save(self, value, data, at):
        self.b.store(value, self.b.bitcast(self.b.gep(data, [at]), value.type.as_pointer())).align = 1

    def put(self, past, value, data, at):
        """Store words; `past` the caches where that condition holds, at a multiple of the vector's size then."""
        with self.b.if_else(past) as (yes, no):
            with yes:
                made = self.b.store(value, self.b.bitcast(self.b.gep(data, [at]), value.type.as_pointer()))
                made.align = value.type.count * value.type.element.width // 8
                made.set_metadata("nontemporal", self.b.module.add_metadata([_WHOLE(1)]))
            with no:
                self.save(value, data, at)

    def ask(self, data, at):
        place = self.b.bitcast(self.b.gep(data, [at]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _WHOLE, _WHOLE, _WHOLE])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0i8")
        self.b.call(function, [place, _WHOLE(0), _WHOLE(3), _WHOLE(1)])

    def shuffle(self, a, b, order):
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(_WHOLE, len(order)), list(order)))

    def spread(self, value):
        none = ir.Constant(ir.VectorType(value.type, _LANES), ir.Undefined)
        return self.shuffle(self.b.insert_element(none, value, _WHOLE(0)), none, [0] * _LANES)

    def times(self, number, value):
        return self.b.fmul(ir.Constant(_FLOATS, [number] * _LANES), value)

    def fma(self, a, b, c):
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, f"llvm.fma.v{_LANES}f32"), [a, b, c])

    def loaded(self, condition, data, at):
        """What stands in memory where a condition holds that is the same all along a row; elsewhere 0."""
        start = self.b.block
        with self.b.if_then(condition):
            yes, there = self.load(data, at), self.b.block
        either = self.b.phi(_FLOATS)
        either.add_incoming(yes, there)
        either.add_incoming(ir.Constant(_FLOATS, [0.0] * _LANES), start)
        return either


class Step(Lanes):
    """What `pair_step` writes; attributes are its arguments, arrays as pointers, numbers of the coding in all lanes."""

    ARRAYS = ("x", "luma", "cb", "cr", "noise", "kept")
    PLACES = ("upper", "lower", "upper_out", "lower_out", "chroma_out", "column", "plane", "ahead", "pitch")
    CODING = ("kr", "kg", "kb", "scale", "offset", "top", "kcb", "kcr", "middle")
    FLAGS = ("centred", "paired", "past", "begins", "dithered", "above")

    def __init__(self, context, builder, signature, args, plain):
        super().__init__(builder)
        self.plain = plain
        for name, kind, value in zip(self.ARRAYS, signature.args, args, strict=False):
            setattr(self, name, context.make_array(kind)(context, builder, value).data)
        places, coding, shift, flags = args[6:]
        for k, name in enumerate(self.PLACES):
            setattr(self, name, builder.extract_value(places, k))
        for k, name in enumerate(self.CODING):
            setattr(self, name, self.spread(builder.extract_value(coding, k)))
        for k, name in enumerate(self.FLAGS):
            setattr(self, name, builder.icmp_signed("!=", builder.extract_value(flags, k), shift.type(0)))
        self.shift = self.spread(shift)
        self.word = self.luma.type.pointee
        self.wide = "+avx512bw" in context.codegen().magic_tuple()[2]  # words of two vectors are one shuffle there

    def words(self, a, b, order):
        """Codes of two vectors in the order of a shuffle, as words of memory."""
        if not self.wide:
            joined = self.shuffle(a, b, order)
            return self.b.trunc(joined, ir.VectorType(self.word, joined.type.count))
        each = _WHOLE.width // self.word.width
        parts = [self.b.bitcast(value, ir.VectorType(self.word, _LANES * each)) for value in (a, b)]
        return self.shuffle(*parts, [each * k for k in order])

    def rounded(self, value, at):
        """Codes with the noise that stands at an element, cut off at 0 and `top`; that of NaN is 0."""
        b, zero = self.b, ir.Constant(_FLOATS, [0.0] * _LANES)
        if not self.plain:
            value = b.fadd(value, self.loaded(self.dithered, self.noise, at))
        value = b.select(b.fcmp_ordered(">", value, zero), value, zero)
        value = b.select(b.fcmp_ordered("<", value, self.top, flags=("nnan",)), value, self.top)
        return b.shl(b.fptosi(value, _WHOLES), self.shift)

    def row(self, row, out, number):
        """Write luma codes of one row; return B - Y and R - Y of both halves of it."""
        words, differences = [], {}
        for part in range(2):
            places = [self.plus(row, _LANES * part)]
            places.append(self.plus(places[0], self.plane))
            places.append(self.plus(places[1], self.plane))
            place = self.plus(self.ahead, _LANES * (2 * number + part))
            for _ in range(3):
                self.ask(self.x, place)
                place = self.plus(place, self.plane)
            red, green, blue = (self.load(self.x, place) for place in places)
            luma = self.fma(self.kb, blue, self.fma(self.kg, green, self.b.fmul(self.kr, red)))
            at = self.plus(self.column, _LANES * part)
            at = self.plus(at, self.pitch) if number else at
            words.append(self.rounded(self.fma(luma, self.scale, self.offset), at))
            differences["cb", part] = self.b.fsub(blue, luma)
            differences["cr", part] = self.b.fsub(red, luma)
        self.put(self.past, self.words(*words, range(2 * _LANES)), self.luma, out)
        return differences

    def across(self, name, low, high, line):
        """Return the sum of two rows at every other pixel; the last one is kept for the next step."""
        even = self.shuffle(low, high, range(0, 2 * _LANES, 2))
        odd = self.shuffle(low, high, range(1, 2 * _LANES, 2))
        at = self.plus(self.b.mul(self.pitch, self.pitch.type(2)), _LANES * line)
        edge = self.shuffle(even, even, [0] * _LANES)
        before = self.b.select(self.begins, edge, self.load(self.kept, at))
        self.save(odd, self.kept, at)
        left = self.shuffle(before, odd, range(_LANES - 1, 2 * _LANES - 1))
        aside = self.b.fadd(self.times(0.25, self.b.fadd(left, odd)), self.times(0.5, even))
        between = self.times(0.5, self.b.fadd(even, odd))
        return self.b.select(self.centred, between, aside)

    def chroma(self, upper, lower):
        """Write chroma codes of two rows; with `above`, a quarter of the row above is kept and belongs to it."""
        words = []
        half, quarter = (ir.Constant(_FLOATS, [number] * _LANES) for number in (0.5, 0.25))
        below = half if self.plain else self.b.select(self.above, quarter, half)
        for line, (name, gain) in enumerate((("cb", self.kcb), ("cr", self.kcr))):
            sums = []
            for part in range(2):
                at = self.plus(self.column, _LANES * part)
                at = self.plus(at, self.pitch) if line else at
                first, later = self.times(0.5, upper[name, part]), self.b.fmul(below, lower[name, part])
                if not self.plain:
                    first = self.b.fadd(self.loaded(self.above, self.kept, at), first)
                    with self.b.if_then(self.above):
                        self.save(later, self.kept, at)
                sums.append(self.b.fadd(first, later))
            value = self.fma(self.across(name, *sums, line), gain, self.middle)
            at = self.plus(self.b.lshr(self.column, self.column.type(1)), self.b.mul(self.pitch, self.pitch.type(2)))
            words.append(self.rounded(value, self.plus(at, self.pitch) if line else at))
        with self.b.if_else(self.paired) as (together, apart):
            with together:
                alternating = [k // 2 + _LANES * (k & 1) for k in range(2 * _LANES)]
                at = self.plus(self.chroma_out, self.chroma_out)
                self.put(self.past, self.words(*words, alternating), self.cb, at)
            with apart:
                self.save(self.words(words[0], words[0], range(_LANES)), self.cb, self.chroma_out)
                self.save(self.words(words[1], words[1], range(_LANES)), self.cr, self.chroma_out)


def _pair_step(plain):
    """Codes of 2 x 32 pixels, see `Step`; `plain`: neither dithered nor with the row above."""

    @intrinsic
    def pair_step(_context, x, luma, cb, cr, noise, kept, places, coding, shift, flags):
        def generate(context, builder, signature, args):
            step = Step(context, builder, signature, args, plain)
            upper = step.row(step.upper, step.upper_out, 0)
            step.chroma(upper, step.row(step.lower, step.lower_out, 1))
            return context.get_dummy_value()

        return types.void(x, luma, cb, cr, noise, kept, places, coding, shift, flags), generate

    return pair_step


plain_step, pair_step = _pair_step(True), _pair_step(False)


@intrinsic
def pointer(_context, address, like):
    """An address as a pointer to elements of an array's type."""
    kind = types.CPointer(like.dtype)

    def generate(context, builder, _signature, args):
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(address, like), generate


@njit(nogil=True, error_model="numpy", forceinline=True)
def placed(address, like, shape):
    """The array of a shape at an address."""
    return carray(pointer(address, like), shape)


@intrinsic
def settle(_context):
    """Let what was stored past the caches come before whatever is stored next."""

    def generate(context, builder, _signature, _args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, error_model="numpy", forceinline=True)
def whole_vectors(luma, chroma):
    """Whether all steps of a frame store whole, aligned vectors of codes."""
    return luma.shape[1] % 32 == 0 and ((luma.ctypes.data | chroma.ctypes.data) & 63) == 0


@njit(nogil=True, error_model="numpy", forceinline=True)
def pair_steps(
    steps, x, upper, lower, ahead, luma, upper_out, lower_out, cb, cr, chroma_out, column, noise, kept, coding, shift,
    flags,
):  # fmt: skip
    """Some steps along two rows; `column` is the first one's in the frame, `ahead` how far what is asked for lies."""
    plane, pitch = x.shape[1] * x.shape[2], kept.shape[1]
    centred, paired, past, dithered, above = flags
    plain = dithered == 0 and above == 0
    for step in range(steps):
        i = 32 * step
        places = (
            upper + i, lower + i, upper_out + i, lower_out + i, chroma_out + 16 * step, column + i, plane,
            upper + 2 * i + ahead, pitch,
        )  # fmt: skip
        begins = i4(1) if column + i == 0 else i4(0)
        chosen = (centred, paired, past, begins, dithered, above)
        if plain:
            plain_step(x, luma, cb, cr, noise, kept, places, coding, shift, chosen)
        else:
            pair_step(x, luma, cb, cr, noise, kept, places, coding, shift, chosen)


@njit(nogil=True, error_model="numpy", forceinline=True)
def code_pair(x, upper, lower, ahead, noise, kept, coding, shift, flags, y, z, unit, luma, cb, cr, spare, codes):
    """Codes of rows `y` and `z` of a frame, which are rows `upper` and `lower` of `x`, and of one chroma row.

    The last columns go through `spare`, where those behind an edge are the edge's.
    """
    width, pitch, paired = luma.shape[1], x.shape[2], flags[1] != 0
    steps, columns = width // 32, (width + 1) // 2
    pair_steps(
        steps, x, upper * pitch, lower * pitch, ahead, luma, y * width, z * width, cb, cr, unit * columns,
        i8(0), noise, kept, coding, shift, flags,
    )  # fmt: skip
    begin = 32 * steps
    if begin == width:
        return
    for c in range(3):
        for i in range(32):
            at = min(begin + i, width - 1)
            spare[c, 0, i], spare[c, 1, i] = x[c, upper, at], x[c, lower, at]
    # i8: for other constants than those above, numba would compile the steps once more.
    pair_steps(
        i8(1), spare, i8(0), i8(32), i8(0), codes, i8(0), i8(32), codes[2:], codes[3:], i8(0), begin, noise, kept,
        coding, shift, flags,
    )  # fmt: skip
    for i in range(width - begin):
        luma[y, begin + i], luma[z, begin + i] = codes[0, i], codes[1, i]
    for j in range(columns - begin // 2):
        if paired:
            cb[unit, begin + 2 * j], cb[unit, begin + 2 * j + 1] = codes[2, 2 * j], codes[2, 2 * j + 1]
        else:
            cb[unit, begin // 2 + j], cr[unit, begin // 2 + j] = codes[2, j], codes[3, j]


@njit(nogil=True, error_model="numpy", cache=True)
def keep_row(x, at, width, coding, kept):
    """A quarter of a row's differences, for the chroma samples on the row below it."""
    kr, kg, kb = coding[0], coding[1], coding[2]
    for i in range(width):
        luma = w_fma(kb, x[2, at, i], w_fma(kg, x[1, at, i], kr * x[0, at, i]))
        kept[0, i] = f4(0.25) * (x[2, at, i] - luma)
        kept[1, i] = f4(0.25) * (x[0, at, i] - luma)
    for i in range(width, kept.shape[1]):
        kept[0, i], kept[1, i] = kept[0, width - 1], kept[1, width - 1]


@njit(nogil=True, error_model="numpy", cache=True)
def noise_row(noise, row, columns, y, seed):
    """Uniform noise for one row of codes."""
    for i in range(columns):
        noise[row, i] = w_hash_uniform(i4(i), i4(y), i4(seed))


@njit(nogil=True, error_model="numpy", cache=True)
def luma_row(x, at, coding, noise, shift, out, y, cb, cr):
    """Luma codes of one row at full width, and its B - Y and R - Y."""
    kr, kg, kb, scale, offset, top = coding[0], coding[1], coding[2], coding[3], coding[4], coding[5]
    for i in range(out.shape[1]):
        luma = w_fma(kb, x[2, at, i], w_fma(kg, x[1, at, i], kr * x[0, at, i]))
        value = w_clamp(w_fma(luma, scale, offset) + noise[0, i], f4(0.0), top)
        out[y, i] = shift_left(i4(value), shift)
        cb[0, i] = x[2, at, i] - luma
        cr[0, i] = x[0, at, i] - luma


@njit(nogil=True, error_model="numpy", cache=True)
def whole_row(part, gain, middle, top, noise, row, shift, out, y):
    """Codes of one row of differences at full width."""
    for i in range(out.shape[1]):
        value = w_clamp(w_fma(part[0, i], gain, middle) + noise[row, i], f4(0.0), top)
        out[y, i] = shift_left(i4(value), shift)
