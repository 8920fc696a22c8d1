"""Kernels of the streaming convolver: non-uniform partitions in the frequency domain, all work spread over callbacks.

After Gardner (1995), "Efficient convolution without input-output delay": the first taps run as a direct filter, so
nothing is delayed; each later stage k has blocks of B_k samples and covers the impulse response from 2 B_k on, so the
B_k samples until its result is due are time to spread the work in. Two differences:

* A stage transforms with the right-angle (skew-cyclic) transform: 2 B real samples as B complex ones, twisted by
  exp(i pi n / 2B), need no unpacking and no special first bin. Overlap-save never sees that the wrapped half has the
  wrong sign (Nussbaumer 1981, ch. 4).
* A stage's cycle is a list of units of at most `CHUNK` complex numbers (one part of one pass of a transform, or one
  part of one product of spectra), and a schedule says how many are done after each tick of B_0 samples. So no callback
  ever does a whole long transform.

State is three flat arrays, so that C can be given one pointer: `m` (int64: layout and counters), `f` (float32: signals,
spectra, twiddles) and `h` (float32: `BANKS` impulse responses, each its head taps, then its spectra). Nothing here
allocates, and every sum has the same order however the signal is cut into calls: the same bits.
"""

from __future__ import annotations

from typing import Any

from ._jit import BLOCK_ENTRY, carray, entry, jit
from ._lanes import LANES, compare_and_swap, float_pointer, int_pointer, multiply_add, taps, twist, untwist
from ._passes import run_pass

__all__ = ["BANKS", "CHUNK", "process", "process_entry"]

BANKS = 3
"""Impulse responses a convolver can hold: the one heard, the one faded to, and the next."""
CHUNK = 4096
TINY = 1e-24  # -480 dB: smaller input is zero, so that no spectrum decays into denormal numbers

# m[0:32]: the convolver
(
    INPUTS,
    OUTPUTS,
    PATHS,
    TICK,
    STAGES,
    HEAD,
    RING,
    POSITION,
    TICKS,
    FADE,
    ACTIVE,
    TARGET,
    MAILBOX,
    HEAD_AT,
    RING_AT,
    PATH_AT,
    BANK_SIZE,
    SCRATCH,
    BAD,
    SHAPES,
    FADES,
) = range(21)  # fmt: skip; FADES: one per bank
PART_AT = 32
# m[PART_AT + PART * k:]: part 0 is the head, the others are stages
(SIZE, PARTITIONS, PASSES, DONE, NEWEST, TWIST, TWIDDLE, SPECTRA, SUM, WORK, OUT, FLIP, IR_AT, SCHEDULE, EMPTY, STATE,
 FADED, SLOT, BANK0, BANK1, DUAL) = range(21)  # fmt: skip
PART = 24
IDLE, PENDING, WARMING, FADING = 0, 1, 2, 3
NOTHING, WRITING, FULL = 0, 1, 2  # m[MAILBOX] = 4 * bank + one of these


@jit
def _fir(m: Any, f: Any, h: Any, bank: int, scratch: int, n: int) -> None:
    """Direct filter of the head: n samples at the tick's position, every path into its output's row."""
    tick, head, position = m[TICK], m[HEAD], m[POSITION]
    row = head + tick + LANES
    for o in range(m[OUTPUTS]):
        f[scratch + o * tick : scratch + o * tick + n] = 0.0
    whole = n - n % LANES
    for i in range(m[PATHS]):
        path = m[PATH_AT] + 3 * i
        x = m[HEAD_AT] + m[path] * row + head + position
        y = scratch + m[path + 1] * tick
        k = bank * m[BANK_SIZE] + m[path + 2] * head
        for j in range(0, head, LANES):
            for q in range(0, whole, LANES):
                taps((f, h, y + q, x + q - j, k + j))
        for q in range(whole, n):
            for j in range(0, head, LANES):
                total = h[k + j] * f[x + q - j]
                for i in range(j + 1, j + LANES):
                    total += h[k + i] * f[x + q - i]
                f[y + q] += total


@jit
def _blend(m: Any, part: int, f: Any, new: int, n: int, old: int) -> None:
    """Fade n samples from the row at `old` to the row at `new`, into `old`; the ramp's slope is continuous."""
    length, faded = m[FADE], m[part + FADED]
    for q in range(n):
        g = min(1.0, (faded + q + 1) / length) if length > 0 else 1.0
        g = g * g * (3.0 - 2.0 * g)
        f[old + q] = f[old + q] * (1.0 - g) + f[new + q] * g


@jit
def _emit(m: Any, f: Any, h: Any, y: Any, y0: int, n: int) -> None:
    """Write n samples of output, within one tick: the head now, and what the stages have ready."""
    tick, outputs, scratch, head = m[TICK], m[OUTPUTS], m[SCRATCH], PART_AT
    other = scratch + outputs * tick
    slot = m[head + SLOT]
    _fir(m, f, h, m[head + BANK0 + slot], scratch, n)
    if m[head + STATE] == FADING:
        _fir(m, f, h, m[head + BANK0 + 1 - slot], other, n)
        for o in range(outputs):
            _blend(m, head, f, other + o * tick, n, scratch + o * tick)
        m[head + FADED] += n
    for k in range(1, m[STAGES] + 1):
        part = PART_AT + k * PART
        size = m[part + SIZE]
        at = m[part + OUT] + (m[TICKS] % (size // tick)) * tick + m[POSITION]
        slot = m[part + SLOT]
        for o in range(outputs):
            source = at + ((2 * m[part + FLIP] + slot) * outputs + o) * size
            if m[part + STATE] == FADING:
                # `other` is free again: the fade's result goes through it
                new = at + ((2 * m[part + FLIP] + 1 - slot) * outputs + o) * size
                f[other : other + n] = f[source : source + n]
                _blend(m, part, f, new, n, other)
                source = other
            to = scratch + o * tick
            for q in range(n):
                f[to + q] += f[source + q]
        if m[part + STATE] == FADING:
            m[part + FADED] += n
    for o in range(outputs):
        from_, row = f[scratch + o * tick : scratch + o * tick + n], y[o, y0 : y0 + n]
        for q in range(n):
            row[q] = from_[q]


@jit
def _accept(m: Any, f: Any, x: Any, x0: int, n: int) -> None:
    """Take n samples of every input, within one tick; NaN and infinity become silence and are counted."""
    tick, head, ring = m[TICK], m[HEAD], m[RING]
    row, at = head + tick + LANES, (m[TICKS] * tick + m[POSITION]) % ring
    for c in range(m[INPUTS]):
        source = x[c, x0 : x0 + n]
        begin = m[HEAD_AT] + c * row + head + m[POSITION]
        line, keep = f[begin : begin + n], f[m[RING_AT] + c * ring + at : m[RING_AT] + c * ring + at + n]
        bad = 0
        for q in range(n):
            v = source[q]
            level = abs(v)
            bad += not level <= 3.4028234e38
            v = v if TINY <= level <= 3.4028234e38 else source[q] * 0.0
            line[q] = v if v == v else 0.0
        for q in range(n):
            keep[q] = line[q]
        m[BAD] += bad


@jit
def _transform_unit(m: Any, f: Any, part: int, c: int, step: int, chunk: int) -> None:
    """One unit of the forward transform of input c: the twist, or part of one pass."""
    size, work, ring = m[part + SIZE], m[part + WORK], m[RING]
    span = min(size, CHUNK)
    if step == 0:
        period = size // m[TICK]
        now = (m[TICKS] - m[TICKS] % period) * m[TICK]
        base = m[RING_AT] + c * ring
        old, new, w = base + (now - 2 * size) % ring, base + (now - size) % ring, m[part + TWIST]
        for j in range(chunk * span, (chunk + 1) * span, LANES):
            twist((f, old + j, new + j, w + j, w + size + j, work + j, work + size + j))
        return
    source = work + 2 * size * ((step - 1) % 2)
    target = work + 2 * size * (step % 2)
    if step == m[part + PASSES]:
        target = m[part + SPECTRA] + 2 * size * (m[part + NEWEST] * m[INPUTS] + c)
    leg = span // 4
    run_pass(
        f, source, source + size, target, target + size, m[part + TWIDDLE], size, 4 ** (step - 1), chunk * leg,
        (chunk + 1) * leg,
    )  # fmt: skip


@jit
def _product_unit(m: Any, f: Any, h: Any, part: int, slot: int, p: int, chunk: int) -> None:
    """Partition p of every path, one range of bins, added into the outputs' sums."""
    size, partitions, outputs = m[part + SIZE], m[part + PARTITIONS], m[OUTPUTS]
    span, bank = min(size, CHUNK), m[part + BANK0 + slot]
    begin, end = chunk * span, (chunk + 1) * span
    sums = m[part + SUM] + 2 * size * outputs * slot
    if p == 0:
        for o in range(outputs):
            at = sums + 2 * size * o
            f[at + begin : at + end] = 0.0
            f[at + size + begin : at + size + end] = 0.0
    row = m[part + NEWEST] - p
    row += partitions if row < 0 else 0
    for i in range(m[PATHS]):
        path = m[PATH_AT] + 3 * i
        which = m[path + 2] * partitions + p
        if m[m[part + EMPTY] + bank * m[SHAPES] * partitions + which]:
            continue
        x = m[part + SPECTRA] + 2 * size * (row * m[INPUTS] + m[path])
        k = bank * m[BANK_SIZE] + m[part + IR_AT] + 2 * size * which
        y = sums + 2 * size * m[path + 1]
        for j in range(begin, end, LANES):
            multiply_add((f, h, y + j, y + size + j, x + j, x + size + j, k + j, k + size + j))


@jit
def _inverse_unit(m: Any, f: Any, part: int, slot: int, o: int, step: int, chunk: int) -> None:
    """One unit of an output's inverse transform: part of one pass, or the last twist back."""
    size, outputs = m[part + SIZE], m[OUTPUTS]
    span, work = min(size, CHUNK), m[part + WORK] + 4 * size * slot
    source = m[part + SUM] + 2 * size * (outputs * slot + o)
    if step > 0:
        source = work + 2 * size * ((step - 1) % 2)
    if step < m[part + PASSES]:
        target, leg = work + 2 * size * (step % 2), span // 4
        run_pass(  # real and imaginary parts exchanged: the inverse
            f, source + size, source, target + size, target, m[part + TWIDDLE], size, 4**step, chunk * leg,
            (chunk + 1) * leg,
        )  # fmt: skip
        return
    w, y = m[part + TWIST], m[part + OUT] + ((2 * (1 - m[part + FLIP]) + slot) * outputs + o) * size
    for j in range(chunk * span, (chunk + 1) * span, LANES):
        untwist((f, source + j, source + size + j, w + j, w + size + j, y + j))


@jit
def _work(m: Any, f: Any, h: Any, part: int, until: int) -> None:
    """Do a stage's units of this cycle up to number `until`."""
    chunks = max(1, m[part + SIZE] // CHUNK)
    slot, dual, steps = m[part + SLOT], m[part + DUAL], (m[part + PASSES] + 1) * chunks
    forward = m[INPUTS] * steps
    products = forward + m[part + PARTITIONS] * chunks
    for unit in range(m[part + DONE], until):
        if unit < forward:
            rest = unit % steps
            _transform_unit(m, f, part, unit // steps, rest // chunks, rest % chunks)
        elif unit < products:
            rest = unit - forward
            _product_unit(m, f, h, part, slot, rest // chunks, rest % chunks)
            if dual:
                _product_unit(m, f, h, part, 1 - slot, rest // chunks, rest % chunks)
        else:
            o, rest = (unit - products) // steps, (unit - products) % steps
            _inverse_unit(m, f, part, slot, o, rest // chunks, rest % chunks)
            if dual:
                _inverse_unit(m, f, part, 1 - slot, o, rest // chunks, rest % chunks)
    m[part + DONE] = max(m[part + DONE], until)


@jit
def _begin(m: Any, part: int) -> None:
    """Start a stage's cycle with the block of input that is complete now."""
    if m[part + STATE] == PENDING:
        m[part + STATE] = WARMING
    m[part + DUAL] = m[part + STATE] != IDLE
    m[part + DONE] = 0
    m[part + NEWEST] = (m[part + NEWEST] + 1) % m[part + PARTITIONS]


@jit
def _finish(m: Any, part: int) -> None:
    """Make a stage's result audible; a fade begins when there are two results and ends when it has run its length."""
    m[part + FLIP] = 1 - m[part + FLIP]
    if m[part + STATE] == WARMING:
        m[part + STATE], m[part + FADED] = FADING, 0
    elif m[part + STATE] == FADING and m[part + FADED] >= m[FADE]:
        m[part + STATE], m[part + SLOT] = IDLE, 1 - m[part + SLOT]


@jit
def _mail(m: Any) -> None:
    """Between ticks: end a change of impulse response, and take the next from the mailbox."""
    head, last = PART_AT, PART_AT + PART * m[STAGES]
    if m[head + STATE] == FADING and m[head + FADED] >= m[FADE]:
        m[head + STATE], m[head + SLOT] = IDLE, 1 - m[head + SLOT]
    for part in range(head, last + 1, PART):
        if m[part + STATE] != IDLE:
            return
    if m[TARGET] >= 0:
        m[ACTIVE], m[TARGET] = m[TARGET], -1
    word = m[MAILBOX]
    if word % 4 != FULL:
        return
    bank = word // 4
    if not compare_and_swap(m, MAILBOX, word, 4 * (3 - bank - m[ACTIVE]) + NOTHING):
        return
    m[TARGET], m[FADE] = bank, m[FADES + bank]
    for part in range(head, last + 1, PART):
        m[part + BANK0 + 1 - m[part + SLOT]] = bank
        m[part + STATE] = PENDING
    m[head + STATE], m[head + FADED] = FADING, 0


@jit
def _tick(m: Any, f: Any, h: Any) -> None:
    """Between ticks: move the head's window on and do every stage's share of work."""
    tick, head = m[TICK], m[HEAD]
    m[POSITION] = 0
    m[TICKS] += 1
    row = head + tick + LANES
    for c in range(m[INPUTS]):
        at = m[HEAD_AT] + c * row
        for q in range(head):
            f[at + q] = f[at + tick + q]
    _mail(m)
    for k in range(1, m[STAGES] + 1):
        part = PART_AT + k * PART
        period = m[part + SIZE] // tick
        share = m[TICKS] % period
        if k == 1:  # due at once
            _begin(m, part)
            _work(m, f, h, part, m[m[part + SCHEDULE]])
            _finish(m, part)
            continue
        if share == 0:
            _finish(m, part)
            _begin(m, part)
        _work(m, f, h, part, m[m[part + SCHEDULE] + share])


@jit
def process(m: Any, f: Any, h: Any, x: Any, y: Any) -> None:
    """Convolve x [inputs, n] into y [outputs, n], any n, continuing where the last call ended."""
    n, done = x.shape[1], 0
    while done < n:
        count = min(n - done, m[TICK] - m[POSITION])
        _accept(m, f, x, done, count)
        _emit(m, f, h, y, done, count)
        m[POSITION] += count
        done += count
        if m[POSITION] == m[TICK]:
            _tick(m, f, h)


@entry(BLOCK_ENTRY)
def process_entry(state: Any, source: Any, sink: Any, frames: int) -> int:
    """`process` for C; `state` points to addresses and lengths of m, f and h, then the channels."""
    s = carray(state, 8)
    m = carray(int_pointer(s[0]), s[1])
    f, h = carray(float_pointer(s[2]), s[3]), carray(float_pointer(s[4]), s[5])
    process(m, f, h, carray(source, (s[6], frames)), carray(sink, (s[7], frames)))
    return 0
