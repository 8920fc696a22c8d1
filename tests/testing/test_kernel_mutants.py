"""No small change to a shipped kernel goes unnoticed by its own self-check on the emulator.

A survivor is either a test that is missing (let the kernel's `example` vary with its seed until it is not), or code
that does nothing (delete it). One that provably cannot change a result is listed below with the proof.

Two mutants of each kernel are tried, spread over its text; ``ELINVAR_MUTANTS=all`` tries every one, which
takes minutes and is for the change that touches a kernel.
"""

from __future__ import annotations

import os

import pytest

from elinvar.runtime import kernels
from elinvar.testing.kernelcheck import kernel_survivors

LIMIT = None if os.environ.get("ELINVAR_MUTANTS") == "all" else 2
LIST = "decides which of two lists a trace lands in, and both add the same where they meet: costs time, changes nothing"
_SHALLOW = "const bool shallow = VERTICAL(0) < SHALLOW * VERTICAL(BLOCK - 1); | '< SHALLOW * VERTICAL(BLOCK - 1)'"
_GOOD = "const bool good = fma(2.0f, misfit, shape.z * max(top, moved.w)) <= tolerance;"
_OFF = "const bool off = good && (x - swing > last + 0.01f || x + swing < -0.01f);"
_NEAR = "const bool near = k < n_traces && distance <= reach.x && fma(reach.y, spread, reach.z) <= reach.w;"
_CLOSE = "if (fabs(x) < CLOSE || fabs(x - last) < CLOSE) {"
_ON = "if (!(moved >= -zero && moved <= last - zero)) return false;"
_EXACT = "const bool exact = !(good && x - swing >= 0.01f && x + swing < origin + (1.5f * float(WINDOW) - 1.0f));"
_HERE = "const float here = rounded_of(rounded, share.row) < float(WINDOW) ? y : y - 2.0f * float(WINDOW);"
_CROSSING = "const bool crossing = x + swing >= origin + (0.5f * float(WINDOW) - 1.0f);"
_ENDING = "const bool ending = x + swing > last - 0.01f, inner = distance * ROOM <= narrow;"
_EVEN = "const bool even = steady || distance <= shape.y;  // one weight of the rim"
_AHEAD = (
    "constant int AHEAD = SAMPLES < 8 ? 8 / SAMPLES : 1;  // traces whose samples are read together, without copies"
)
_ON_TRACE = "bool on = within(far, leg.x, leg.y) && y[m] < end + 0.02f && !(waited && sure);"
_SURE = "const bool sure = y[m] <= end - 0.02f;"
_LATE = "late = late || fabs(y[m] - end) < 0.02f;"
_CUT = "if (y[m] <= end - 0.02f) {"
_BOTH = "at equality both ways find the sample; one of them adds it"
_APART = "const int apart = n_samples + BEYOND, stride = (PAIRS && COPIES > 1 ? COPIES - 1 : COPIES) * apart;"
_SHARED = "value = fma(part[u][m], fma(y[u][m], line[u][m].w, line[u][m].z), value);"
_PACKED = "place_slab[slot] = list < 4 ? float2(weight.x, as_type<float>(half2(weight.yz))) : plain.xy;"
_COPIES = "the tiles have no filtered copies; tests of anti-aliasing notice it"
_METRE = "a metre into the rim its weight is 1 but for the square of the step over its width, some 1e-4"
_SHORT = "the tiles' traces are shorter than a window; other tests have short windows, and both lists add the same"
_HAIR = "for traces that end a hair from a sample, which a test of their own has and no tile"
_LEFT_OUT = "`off` and `near` only leave out work: a trace they let through has its samples tested one by one"
_EITHER = (
    "at equality both lists give the same sample: the other one evaluates it exactly, or with the rim's weight of 1"
)
_FITS = 'static_assert(ROWS * WIDTH * 4 <= SPACE * 16, "the sums fit where the operands were");'
_INSIDE = "const bool inside = at < depth && row < (from_x ? rows_left : columns_left);"
_LEAVE = "if (row >= ROWS || top + row >= size.m || left + column >= size.n) continue;"
_STEPS = "the bound is a multiple of the step"
_WIDER = "a wider margin only looks at more blocks"
_STRICT = "the margin is more than what estimates can be off: no winner's block lies at its edge"
EQUIVALENT: dict[tuple[str, str], dict[str, str]] = {
    ("seismic.migrate", "v2"): {
        "for (int first = 0; first < n_traces; first += 32, ADVANCE(32)) { | '< n_traces': < becomes <=": (
            "with first == n_traces every k is beyond the traces: near is false in all lanes, the round is skipped"
        ),
        f"{_NEAR} | '<= reach.w': <= becomes <": (
            "latest lies a tenth of a sample beyond the end of the trace: at equality no sample is on it"
        ),
        f"{_NEAR} | '<= reach.w': bound + 1": _LEFT_OUT,
        f"{_SHALLOW}: < becomes <=": "no block of these tiles meets it at equality",
        f"{_SHALLOW}: bound - 1": "a block that begins a hair before the bound bends as little as one a hair behind it",
        f"{_GOOD} | '<= tolerance': <= becomes <": _EITHER,
        f"{_OFF} | '> last + 0.01f': > becomes >=": "at equality every sample is still beyond the trace's last",
        f"{_OFF} | '> last + 0.01f': bound + 1": _LEFT_OUT,
        f"{_OFF} | '< -0.01f': < becomes <=": "at equality every sample is still before the trace's first",
        f"{_OFF} | '< -0.01f': bound - 1": _LEFT_OUT,
        f"{_EXACT} | '>= 0.01f': >= becomes >": _EITHER,
        f"{_EXACT} | '< origin + (1.5f * float(WINDOW) - 1.0f)': < becomes <=": _SHORT,
        f"{_EXACT} | '< origin + (1.5f * float(WINDOW) - 1.0f)': bound - 1": _SHORT,
        "const bool crossing = false, exact = !(good && x - swing >= 0.01f); | '>= 0.01f': >= becomes >": _EITHER,
        f"{_HERE} | '< float(WINDOW)': < becomes <=": _SHORT,
        f"{_HERE} | '< float(WINDOW)': bound - 1": _SHORT,
        "const bool crossing = false, exact = !(good && x - swing >= 0.01f); | '>= 0.01f': bound - 1": (
            "no tile read by samples has a trace that begins within one of a block; where lines are read it is noticed"
        ),
        "return i < 2 ? above : i < 4 ? below : i == 4 ? 0 : BLOCK / 2 - 1; | '< 2': < becomes <=": (
            "a cubic through the wrong samples is judged as any other, and not taken"
        ),
        "if (int(lane) < NODES) { | '< NODES': bound - 1": (
            "the last node judges cubics in shallow blocks: from the emulator's zeros it takes none, and all are exact"
        ),
        f"{_AHEAD} | '< 8': < becomes <=": "lanes have 2 samples here",
        f"{_AHEAD} | '< 8': bound - 1": "lanes have 2 samples here",
        f"{_CLOSE} | '< CLOSE': < becomes <=": "at equality, as beyond it, float32 knows on which side the time is",
        f"{_CLOSE} | '< CLOSE': bound - 1": _HAIR,
        "if (at < CLOSEST) { | '< CLOSEST': < becomes <=": "no block of these tiles leaves so many for the end",
        "if (at < CLOSEST) { | '< CLOSEST': bound - 1": "no block of these tiles leaves so many for the end",
        f"{_ON} | '>= -zero': >= becomes >": "straight rays do not get here at equality, others do not meet it",
        f"{_ON} | '<= last - zero': <= becomes <": "straight rays do not get here at equality, others do not meet it",
        "if (!(later_than(0.0f, e, pillar, leg.xy, shift) >= 0.0f)) continue; | '>= 0.0f': bound - 1": _HAIR,
        "if (!(late <= 0.0f)) continue; | '<= 0.0f': bound + 1": _HAIR,
        f"{_NEAR} | '<= reach.x': <= becomes <": _LEFT_OUT,
        f"{_NEAR} | '<= reach.x': bound + 1": _LEFT_OUT,
        f"{_CROSSING} | '>= origin + (0.5f * float(WINDOW) - 1.0f)': >= becomes >": _SHORT,
        f"{_CROSSING} | '>= origin + (0.5f * float(WINDOW) - 1.0f)': bound - 1": _SHORT,
        "const bool bent_weight = WEIGHTED && !(fabs(third) <= BENT); | '<= BENT': <= becomes <": _EITHER,
        f"{_ENDING} | '> last - 0.01f': > becomes >=": _EITHER,
        f"{_ENDING} | '<= narrow': <= becomes <": _EITHER,
        f"{_EVEN} | '<= shape.y': <= becomes <": _EITHER,
        f"{_ON_TRACE} | '< end + 0.02f': < becomes <=": (
            "at equality `exactly` decides, and a sample 0.01 beyond the end, ten times the cubic's error, is beyond it"
        ),
        f"{_SURE} | '<= end - 0.02f': <= becomes <": _EITHER,
        f"{_LATE} | '< 0.02f': < becomes <=": _BOTH,
        f"{_CUT} | '<= end - 0.02f': <= becomes <": "no time of these tiles is at equality",
        f"{_EVEN} | '<= shape.y': bound + 1": _METRE,
        f"{_APART} | '> 1': bound + 1": _COPIES,
        f"{_SHARED} | halve the accumulated part[u][m]": _COPIES,
        f"{_PACKED} | '< 4': < becomes <=": _COPIES,
        f"{_PACKED} | '< 4': bound - 1": _COPIES,
        "if (PAIRS == 2) y[u][m] -= rounded_of(rounded, share.row); | halve the accumulated "
        "rounded_of(rounded, share.row)": "the tiles' traces are kept as floats; another test keeps them as halves",
    },
}
_FAR = "const bool near = exists && distance <= shape.x && fma(shape.w, spread, start * start) <= latest * latest;"
_PAST = "const bool near = k < n_traces && distance <= shape.x && shape.w * spread <= left_over;"
EQUIVALENT |= {
    ("seismic.migrate", "v3"): {  # whose loops are those of v2, but over a list
        place: why for place, why in EQUIVALENT["seismic.migrate", "v2"].items() if not place.startswith("for (")
    }
    | {
        "constant float& tolerance [[buffer(18)]],     // of the cubic, in samples | "
        "migrate_v3: swap arguments tolerance and kappa": (
            "kappa is 0 for the straight rays of these tiles: no cubic is trusted, every sample is exact"
        ),
        "for (int from = 0; from < n_batches; from += 32) { | '< n_batches': < becomes <=": (
            "with from == n_batches every b is beyond the batches: none is reached, the round is skipped"
        ),
        "for (int from = 0; from < n_batches; from += 32) { | '< n_batches': bound - 1": (
            "the tiles have two batches or three; other tests of this version have one, and none without the loop"
        ),
    },
    ("seismic.migrate", "v1"): {
        f"{_PAST} | '<= left_over': <= becomes <": "a tenth of a sample beyond the end of the trace: nothing is there",
        f"{_PAST} | '<= left_over': bound + 1": _LEFT_OUT,
        f"{_PAST} | '<= shape.x': bound + 1": _LEFT_OUT,
        "for (int first = 0; first < n_traces; first += 32) { | '< n_traces': < becomes <=": (
            "with first == n_traces every k is beyond the traces: near is false in all lanes"
        ),
        "if (trace.z > shape.y) { | '> shape.y': > becomes >=": "where the rim begins its weight is 1",
        "if (trace.z > shape.y) { | '> shape.y': bound + 1": _METRE,
    },
    ("seismic.demigrate", "v1"): {
        "constant int BEYOND = TAPS > 2 ? TAPS - 1 : 0; | '> 2': bound + 1": "there are 2, 4 or 8 taps, never 3",
        "const bool exists = k < n_traces; | '< n_traces': < becomes <=": (
            "the lane behind the last trace fills a column that is thrown away"
        ),
        f"{_FAR} | '<= latest * latest': <= becomes <": "a tenth of a sample beyond the end: nothing is there",
        f"{_FAR} | '<= latest * latest': bound + 1": _LEFT_OUT,
        f"{_FAR} | '<= shape.x': bound + 1": _LEFT_OUT,
        "if (bundle * 32 >= n_traces) return;  // whole simdgroups | '>= n_traces': >= becomes >": (
            "a bundle without traces fills columns that are thrown away"
        ),
    },
    ("vision.nearest", "v1"): {
        "for (int start = first; start < last; start += TILE) { | '< last': < becomes <=": (
            "with start == last the tile has no keys: two barriers and no work"
        ),
    },
    ("video.bloom", "v1"): {
        "for (int j = 0; j < 5; j++) line[j] = float2(0.0f); | '< 5': bound - 1": (
            "five rows have taken their places before one is used"
        ),
        "for (int e = 0; e < 2; e++) older[e] = before[e] = near[e] = lower[e] = float3(0.0f); | '< 2': bound - 1": (
            "two rows have taken the places of the zeros before a result is written"
        ),
        "if (base >= quads) return; | '>= quads': >= becomes >": "every lane is beyond the last column: none is live",
        "if (base >= w) return; | '>= w': >= becomes >": "every lane is beyond the last column: none is live",
        "if (base >= columns) return; | '>= columns': >= becomes >": (
            "every lane that may have a result is beyond the last column: none is live"
        ),
        "const bool live = lane > 1 && lane < 30 && x < columns, pair = 2 * x + 1 < w; | '< w': bound - 1": (
            "asked where w is odd, and 2 x + 1 is odd: it is below w exactly when it is below w - 1"
        ),
    },
    ("vision.estimate", "v1"): {
        "for (int stage = 0; stage < BLOCK; stage += STAGE) { | '< BLOCK': bound - 1": _STEPS,
        "for (int key = 0; key < STAGE; key += 8) { | '< STAGE': bound - 1": _STEPS,
        "for (int t = 0; t < TILES; t += ABREAST) { | '< TILES': bound - 1": _STEPS,
    },
    ("vision.nearest", "v2"): {
        "if (needed > least) least = needed; | '> least': > becomes >=": "at equality nothing changes",
        "if (needed > least) least = needed; | '> least': bound + 1": _WIDER,
        "device const float* lost [[buffer(4)]],      // [n_queries]: e_q of filtered.py "
        "| recheck: swap arguments lost and reach": "the margin becomes |q| K and more, wider than any",
        "device const float* scale_q [[buffer(15)]],  // [1]: by what estimates' rows were multiplied "
        "| recheck: swap arguments scale_q and scale_k": "only their product is used",
        "for (int s = lane; s < spans; s += 32) top = max(top, float(coarse[ulong(s) * ulong(stride) + ulong(q)])); "
        "| '< spans': bound - 1": f"the best may seem lower: {_WIDER}",
        "for (int start = 0; start < spans; start += 32) { | '< spans': < becomes <=": (
            "spans beyond the last are near in no lane: the round is skipped"
        ),
        "const bool near = s < spans && !(float(coarse[ulong(min(s, spans - 1)) * ulong(stride) + ulong(q)]) < least); "
        "| '< least': < becomes <=": _STRICT,
        "const bool holds = b < blocks && "
        "!(float(fine[ulong(min(b, blocks - 1)) * ulong(stride) + ulong(q)]) < least); "
        "| '< least': < becomes <=": _STRICT,
        "const bool holds = b < blocks && "
        "!(float(fine[ulong(min(b, blocks - 1)) * ulong(stride) + ulong(q)]) < least); "
        "| '< least': bound - 1": _WIDER,
        "const bool near = s < spans && !(float(coarse[ulong(min(s, spans - 1)) * ulong(stride) + ulong(q)]) < least); "
        "| '< least': bound - 1": "a wider margin only looks at more blocks",
        "const bool near = s < spans && !(float(coarse[ulong(min(s, spans - 1)) * ulong(stride) + ulong(q)]) < least); "
        "| '< spans': < becomes <=": "a span beyond the last has no blocks: none of its lanes holds any",
        "const bool holds = b < blocks && "
        "!(float(fine[ulong(min(b, blocks - 1)) * ulong(stride) + ulong(q)]) < least); "
        "| '< blocks': < becomes <=": "a block beyond the last has no keys: its loop does not begin",
    },
    ("vision.addnorm", "v1"): {
        "device const T4* x [[buffer(0)]],      // [rows, WIDTH4] | addnorm: swap arguments x and y": (
            "the sum is the same whichever comes first, but for its last bit"
        ),
        "for (int j = 0; j < STEPS; j++) { | '< STEPS': < becomes <=": (
            "STEPS rounds hold all columns: in one more no lane has any"
        ),
    },
    ("vision.gelu", "v1"): {
        "out[at] = T4(value * select(1.0f - 0.5f * tail, 0.5f * tail, value < 0.0f)); | '< 0.0f': < becomes <=": (
            "at zero both give zero"
        ),
    },
    ("tensor.small_linear", "v1"): {
        "for (uint start = part * SLAB; start < size.k; start += DEPTH) { | '< size.k': < becomes <=": (
            "with start == k the round fetches nothing and adds zeros"
        ),
        "for (uint start = part * SLAB; start < size.k; start += DEPTH) { | '< size.k': bound - 1": (
            "start is a multiple of SLAB and k of 8: start is never k - 1"
        ),
        "if (start + DEPTH < size.k) | '< size.k': < becomes <=": "zeros are fetched at equality, for nobody",
        "if (start + DEPTH < size.k) | '< size.k': bound - 1": "start, DEPTH and k are multiples of eight",
        "for (uint i = 0; i < PAIRS; i++) { | '< PAIRS': < becomes <=": "rows from ROWS on are left out",
        f"{_LEAVE} | '>= ROWS': >= becomes >": "seen by a test of another tile: this one's threads share evenly",
        f"{_FITS} | '<= SPACE * 16': <= becomes <": "no tile's sums fill their space to the last byte",
        f"{_FITS} | '<= SPACE * 16': bound + 1": "no tile's sums are one byte too long",
        "const bool from_x = i * DOWN < ROWS; | '< ROWS': bound - 1": "i * DOWN and ROWS are multiples of eight",
        f"{_INSIDE} | '< depth': bound - 1": "`at` and the depth are multiples of eight",
        "for (uint at = 0; at < SLAB; at += 8) { | '< SLAB': bound - 1": "`at` and SLAB are multiples of eight",
        "for (uint at = 0; at < SLAB; at += 8) { | '< SLAB': < becomes <=": (
            "adds products of the padding between rows, which nothing writes: the emulator's memory begins as zeros"
        ),
        "total.x = total.x > 0.0f || total.x != total.x ? total.x : 0.0f; | '> 0.0f': > becomes >=": "zero stays zero",
        "total.y = total.y > 0.0f || total.y != total.y ? total.y : 0.0f; | '> 0.0f': > becomes >=": "zero stays zero",
        "if (left + column + 1 < size.n) target[1] = T(total.y); | '< size.n': bound - 1": (
            "both sides are odd here: n because the other branch serves even ones, and left and column are even"
        ),
    },
    ("seismic.migrate", "baseline"): {
        "if (tau <= 0.0f || second <= 0.0f) return -1e30f; | '<= 0.0f': <= becomes <": (
            "a leg takes exactly no time for one height and one sample alone; no tile has it"
        ),
    },
}
SHIPPED = [
    pytest.param(item.name, item.version, id=f"{item.name} {item.version}")
    for name in kernels.default_registry.names()
    for item in kernels.versions(name)
    if item.source is not None and item.example is not None
]


@pytest.mark.gxx
@pytest.mark.mutation
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "version"), SHIPPED)
def test_no_mutant_survives(name: str, version: str) -> None:
    alive = kernel_survivors(name, version, equivalent=EQUIVALENT.get((name, version)), limit=LIMIT)
    assert not alive, "not noticed:\n" + "\n".join(map(str, alive))
