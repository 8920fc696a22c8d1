"""Point-wise passes as functions of one pixel, in the words of :mod:`elinvar.video.shading`.

These are texts as well as functions: called with tensors they are the float64 oracle, and read by
:mod:`elinvar.video.shadecode` they become one loop with whatever stands before and behind them. Colours are linear
ACEScg unless a name says otherwise.
"""

from __future__ import annotations

from typing import Any

from elinvar.video.shading import (
    clamp,
    exp2,
    hash_normal,
    hash_uniform,
    log2,
    maximum,
    minimum,
    mix,
    powr,
    root,
    smoothstep,
    sqrt,
    tetrahedral,
    value_noise,
    where,
)

Pixel = tuple[Any, Any, Any]

CUT = 0.155251141552511
"""ACEScct code of the linear value 2^-7."""
AP1_R, AP1_G, AP1_B = 0.2722287168, 0.6740817658, 0.0536895174
"""Luminance weights of ACEScg (SMPTE ST 2065-4, derived from its primaries)."""


def gain(r: Any, g: Any, b: Any, factor: float) -> Pixel:
    """Exposure: the same factor on all channels."""
    return r * factor, g * factor, b * factor


def matrix3(
    r: Any, g: Any, b: Any, m00: float, m01: float, m02: float, m10: float, m11: float, m12: float, m20: float,
    m21: float, m22: float, o0: float, o1: float, o2: float,
) -> Pixel:  # fmt: skip
    """An affine map: matrix, then offset."""
    return (
        m00 * r + m01 * g + m02 * b + o0,
        m10 * r + m11 * g + m12 * b + o1,
        m20 * r + m21 * g + m22 * b + o2,
    )


def finite(r: Any, g: Any, b: Any) -> Pixel:
    """NaN becomes 0, infinities ±65504: what cannot be shown must not spread."""
    return (
        where(r == r, clamp(r, -65504.0, 65504.0), 0.0),
        where(g == g, clamp(g, -65504.0, 65504.0), 0.0),
        where(b == b, clamp(b, -65504.0, 65504.0), 0.0),
    )


def cdl(
    r: Any, g: Any, b: Any, sr: float, sg: float, sb: float, or_: float, og: float, ob: float, pr: float, pg: float,
    pb: float, saturation: float,
) -> Pixel:  # fmt: skip
    """ASC CDL v1.2: (slope x + offset) clamped at 0, to the power, then saturation about Rec.709 luma."""
    cr = powr(maximum(r * sr + or_, 0.0), pr)
    cg = powr(maximum(g * sg + og, 0.0), pg)
    cb = powr(maximum(b * sb + ob, 0.0), pb)
    luma = 0.2126 * cr + 0.7152 * cg + 0.0722 * cb
    return mix(luma, cr, saturation), mix(luma, cg, saturation), mix(luma, cb, saturation)


def saturate(r: Any, g: Any, b: Any, amount: float) -> Pixel:
    """Saturation about AP1 luminance."""
    luma = AP1_R * r + AP1_G * g + AP1_B * b
    return mix(luma, r, amount), mix(luma, g, amount), mix(luma, b, amount)


def contrast(r: Any, g: Any, b: Any, amount: float, pivot: float) -> Pixel:
    """Contrast as a power about a pivot, which stays where it is; negative values stay linear."""
    cr = where(r > 0.0, pivot * powr(r / pivot, amount), r)
    cg = where(g > 0.0, pivot * powr(g / pivot, amount), g)
    cb = where(b > 0.0, pivot * powr(b / pivot, amount), b)
    return cr, cg, cb


def white_balance(r: Any, g: Any, b: Any, temperature: float, tint: float) -> Pixel:
    """Warmer with temperature, more magenta with tint: gains of 1 ± 0.1 per unit that keep grey's luminance."""
    wr = 1.0 + 0.1 * temperature + 0.05 * tint
    wg = 1.0 - 0.1 * tint
    wb = 1.0 - 0.1 * temperature + 0.05 * tint
    keep = 1.0 / (AP1_R * wr + AP1_G * wg + AP1_B * wb)
    return r * (wr * keep), g * (wg * keep), b * (wb * keep)


def add(r: Any, g: Any, b: Any, r1: Any, g1: Any, b1: Any, fr: float, fg: float, fb: float) -> Pixel:
    """Add another frame, each channel with a factor: bloom, halation, streaks."""
    return r + r1 * fr, g + g1 * fg, b + b1 * fb


def halate(r: Any, g: Any, b: Any, x: Any, y: Any, width: Any, height: Any, r1: Any, g1: Any, b1: Any,
           fr: float, fg: float, fb: float) -> Pixel:  # fmt: skip
    """Add a halo that fades towards the corners: 1 - smoothstep(0.3, 1, 2 |uv - 1/2|)."""
    u = (x + 0.5) / width - 0.5
    v = (y + 0.5) / height - 0.5
    fade = 1.0 - smoothstep(0.3, 1.0, 2.0 * sqrt(u * u + v * v))
    return r + r1 * (fr * fade), g + g1 * (fg * fade), b + b1 * (fb * fade)


def blend(r: Any, g: Any, b: Any, r1: Any, g1: Any, b1: Any, t: float) -> Pixel:
    """Cross-fade: this frame at t = 0, the other at t = 1."""
    return mix(r, r1, t), mix(g, g1, t), mix(b, b1, t)


def toward(r: Any, g: Any, b: Any, cr: float, cg: float, cb: float, t: float) -> Pixel:
    """Dip towards a colour, reached at t = 1."""
    return mix(r, cr, t), mix(g, cg, t), mix(b, cb, t)


def wipe(r: Any, g: Any, b: Any, x: Any, y: Any, width: Any, height: Any, r1: Any, g1: Any, b1: Any,
         dx: float, dy: float, c: float, t: float, soft: float) -> Pixel:  # fmt: skip
    """A soft edge moving along (dx, dy); c = 0, or 1 where a component is negative, so that it crosses the frame."""
    place = dx * ((x + 0.5) / width) + dy * ((y + 0.5) / height) + c
    edge = t * (1.0 + soft)
    w = 1.0 - smoothstep(edge - soft, edge, place)
    return mix(r, r1, w), mix(g, g1, w), mix(b, b1, w)


def iris(r: Any, g: Any, b: Any, x: Any, y: Any, width: Any, height: Any, r1: Any, g1: Any, b1: Any,
         t: float, soft: float) -> Pixel:  # fmt: skip
    """A circle that opens from the centre and reaches the corners at t = 1."""
    u = (x + 0.5 - 0.5 * width) * 2.0
    v = (y + 0.5 - 0.5 * height) * 2.0
    place = sqrt(u * u + v * v) / sqrt(width * width + height * height)
    edge = t * (1.0 + soft)
    w = 1.0 - smoothstep(edge - soft, edge, place)
    return mix(r, r1, w), mix(g, g1, w), mix(b, b1, w)


def over(r: Any, g: Any, b: Any, r1: Any, g1: Any, b1: Any, r2: Any, opacity: float) -> Pixel:
    """Premultiplied picture r1 g1 b1 with coverage r2 over this one."""
    a = 1.0 - r2 * opacity
    return r * a + r1 * opacity, g * a + g1 * opacity, b * a + b1 * opacity


def vignette(r: Any, g: Any, b: Any, x: Any, y: Any, width: Any, height: Any, focal: float, half_width: float,
             power: float, roundness: float, intensity: float) -> Pixel:  # fmt: skip
    """Illumination falls as cos^p of the field angle: cos = f / sqrt(f² + d²), d in millimetres on the sensor.

    d goes from the largest coordinate (a rectangle) to the radius (a circle) with `roundness`; p = 4 is the natural
    law.
    """
    scale = 2.0 * half_width / width
    u = (x + 0.5 - 0.5 * width) * scale
    v = (y + 0.5 - 0.5 * height) * scale
    square = maximum(maximum(u, 0.0 - u), maximum(v, 0.0 - v))
    d = mix(square, sqrt(u * u + v * v), roundness)
    fall = exp2(0.5 * power * log2(focal * focal / (focal * focal + d * d)))
    w = mix(1.0, fall, intensity)
    return r * w, g * w, b * w


def natural_vignette(
    r: Any, g: Any, b: Any, x: Any, y: Any, width: Any, height: Any, focal: float, half_width: float, intensity: float,
) -> Pixel:  # fmt: skip
    """`vignette` with p = 4 on a circle, which needs neither roots nor powers."""
    scale = 2.0 * half_width / (width * focal)
    u = (x + 0.5 - 0.5 * width) * scale
    v = (y + 0.5 - 0.5 * height) * scale
    cosine = 1.0 / (1.0 + u * u + v * v)
    w = 1.0 + (cosine * cosine - 1.0) * intensity
    return r * w, g * w, b * w


def grain(r: Any, g: Any, b: Any, ix: Any, iy: Any, amount: float, shadows: float, seed: int) -> Pixel:
    """Film grain on display-referred colours: the same noise on all channels, weaker in the lights.

    mask = (1 - 0.7 smoothstep(0.7, 1, Y)) (1 + (shadows - 1) (1 - smoothstep(0, 0.5, Y))), noise clamped to ±0.5.
    """
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    mask = (1.0 - 0.7 * smoothstep(0.7, 1.0, luma)) * (1.0 + (shadows - 1.0) * (1.0 - smoothstep(0.0, 0.5, luma)))
    n = clamp(hash_normal(ix, iy, seed) * amount * mask, -0.5, 0.5)
    return r + n, g + n, b + n


def coarse_grain(
    r: Any, g: Any, b: Any, x: Any, y: Any, amount: float, shadows: float, size: float, seed: int
) -> Pixel:
    """Grain larger than a pixel: smooth lattice noise with the same mask, at about the same strength."""
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    mask = (1.0 - 0.7 * smoothstep(0.7, 1.0, luma)) * (1.0 + (shadows - 1.0) * (1.0 - smoothstep(0.0, 0.5, luma)))
    n = clamp((value_noise(x / size, y / size, seed) - 0.5) * (4.66 * amount * mask), -0.5, 0.5)
    return r + n, g + n, b + n


def light_leak(r: Any, g: Any, b: Any, x: Any, y: Any, width: Any, height: Any, cx: float, cy: float, rx: float,
               ry: float, fr: float, fg: float, fb: float, scale: float, drift: float, seed: int) -> Pixel:  # fmt: skip
    """Add coloured light: an ellipse around (cx, cy) of the frame, uneven by three octaves of noise."""
    u = (x + 0.5) / width
    v = (y + 0.5) / height
    du = (u - cx) / rx
    dv = (v - cy) / ry
    shape = 1.0 - smoothstep(0.0, 1.0, sqrt(du * du + dv * dv))
    p = u * scale + drift
    q = v * scale
    cloud = 0.5714286 * value_noise(p, q, seed) + 0.2857143 * value_noise(2.0 * p, 2.0 * q, seed)
    cloud = cloud + 0.1428571 * value_noise(4.0 * p, 4.0 * q, seed)
    w = shape * (0.4 + 1.2 * cloud)
    return r + fr * w, g + fg * w, b + fb * w


def aces_fit(r: Any, g: Any, b: Any) -> Pixel:
    """Hill's fit of the ACES 1.0 RRT and sRGB ODT, both matrices; ACEScg in, linear Rec.709 for a display out.

    The first matrix is the product of AP1 to Rec.709 and Hill's input matrix; clamped to [0, 1] at the end (S. Hill,
    2016, BakingLab).
    """
    ar = 0.97089541 * r + 0.02695833 * g + 0.00214626 * b
    ag = 0.01089088 * r + 0.98696269 * g + 0.00214643 * b
    ab = 0.01088191 * r + 0.02696864 * g + 0.96214946 * b
    ar = (ar * (ar + 0.0245786) - 0.000090537) / (ar * (0.983729 * ar + 0.4329510) + 0.238081)
    ag = (ag * (ag + 0.0245786) - 0.000090537) / (ag * (0.983729 * ag + 0.4329510) + 0.238081)
    ab = (ab * (ab + 0.0245786) - 0.000090537) / (ab * (0.983729 * ab + 0.4329510) + 0.238081)
    return (
        clamp(1.60475 * ar - 0.53108 * ag - 0.07367 * ab, 0.0, 1.0),
        clamp(1.10813 * ag - 0.10208 * ar - 0.00605 * ab, 0.0, 1.0),
        clamp(1.07602 * ab - 0.00327 * ar - 0.07276 * ag, 0.0, 1.0),
    )


def narkowicz(r: Any, g: Any, b: Any) -> Pixel:
    """Narkowicz's one-line fit (2015) with its 0.6 exposure; linear Rec.709 in and out."""
    cr = 0.6 * maximum(r, 0.0)
    cg = 0.6 * maximum(g, 0.0)
    cb = 0.6 * maximum(b, 0.0)
    return (
        clamp(cr * (2.51 * cr + 0.03) / (cr * (2.43 * cr + 0.59) + 0.14), 0.0, 1.0),
        clamp(cg * (2.51 * cg + 0.03) / (cg * (2.43 * cg + 0.59) + 0.14), 0.0, 1.0),
        clamp(cb * (2.51 * cb + 0.03) / (cb * (2.43 * cb + 0.59) + 0.14), 0.0, 1.0),
    )


def reinhard(r: Any, g: Any, b: Any, white: float) -> Pixel:
    """Reinhard et al. (2002), extended: x (1 + x / white²) / (1 + x), on every channel."""
    cr = maximum(r, 0.0)
    cg = maximum(g, 0.0)
    cb = maximum(b, 0.0)
    k = 1.0 / (white * white)
    return (
        minimum(cr * (1.0 + cr * k) / (1.0 + cr), 1.0),
        minimum(cg * (1.0 + cg * k) / (1.0 + cg), 1.0),
        minimum(cb * (1.0 + cb * k) / (1.0 + cb), 1.0),
    )


def hable(r: Any, g: Any, b: Any) -> Pixel:
    """Hable (2010), "Uncharted 2": A .15 B .5 C .1 D .2 E .02 F .3, white at 11.2, exposure bias 2."""
    cr = 2.0 * maximum(r, 0.0)
    cg = 2.0 * maximum(g, 0.0)
    cb = 2.0 * maximum(b, 0.0)
    w = 1.0 / 0.7256052
    fr = (cr * (0.15 * cr + 0.05) + 0.004) / (cr * (0.15 * cr + 0.5) + 0.06) - 0.0666666667
    fg = (cg * (0.15 * cg + 0.05) + 0.004) / (cg * (0.15 * cg + 0.5) + 0.06) - 0.0666666667
    fb = (cb * (0.15 * cb + 0.05) + 0.004) / (cb * (0.15 * cb + 0.5) + 0.06) - 0.0666666667
    return clamp(fr * w, 0.0, 1.0), clamp(fg * w, 0.0, 1.0), clamp(fb * w, 0.0, 1.0)


def pq_encode(r: Any, g: Any, b: Any, nits: float) -> Pixel:
    """SMPTE ST 2084: a linear 1.0 is `nits` cd/m²."""
    k = nits * 0.0001
    pr = powr(clamp(r * k, 0.0, 1.0), 0.1593017578125)
    pg = powr(clamp(g * k, 0.0, 1.0), 0.1593017578125)
    pb = powr(clamp(b * k, 0.0, 1.0), 0.1593017578125)
    return (
        powr((0.8359375 + 18.8515625 * pr) / (1.0 + 18.6875 * pr), 78.84375),
        powr((0.8359375 + 18.8515625 * pg) / (1.0 + 18.6875 * pg), 78.84375),
        powr((0.8359375 + 18.8515625 * pb) / (1.0 + 18.6875 * pb), 78.84375),
    )


def pq_decode(r: Any, g: Any, b: Any, nits: float) -> Pixel:
    """Inverse of `pq_encode`."""
    pr = powr(clamp(r, 0.0, 1.0), 0.012683313515655966)
    pg = powr(clamp(g, 0.0, 1.0), 0.012683313515655966)
    pb = powr(clamp(b, 0.0, 1.0), 0.012683313515655966)
    k = 10000.0 / nits
    return (
        k * powr(maximum(pr - 0.8359375, 0.0) / (18.8515625 - 18.6875 * pr), 6.277394636015326),
        k * powr(maximum(pg - 0.8359375, 0.0) / (18.8515625 - 18.6875 * pg), 6.277394636015326),
        k * powr(maximum(pb - 0.8359375, 0.0) / (18.8515625 - 18.6875 * pb), 6.277394636015326),
    )


def hlg_encode(r: Any, g: Any, b: Any) -> Pixel:
    """ARIB STD-B67 OETF: sqrt(3 E) up to 1/12, a ln(12 E - b) + c above; scene light in [0, 1]."""
    er = clamp(r, 0.0, 1.0)
    eg = clamp(g, 0.0, 1.0)
    eb = clamp(b, 0.0, 1.0)
    return (
        where(er > 0.0833333333, 0.17883277 * 0.6931471806 * log2(12.0 * er - 0.28466892) + 0.55991073, sqrt(3.0 * er)),
        where(eg > 0.0833333333, 0.17883277 * 0.6931471806 * log2(12.0 * eg - 0.28466892) + 0.55991073, sqrt(3.0 * eg)),
        where(eb > 0.0833333333, 0.17883277 * 0.6931471806 * log2(12.0 * eb - 0.28466892) + 0.55991073, sqrt(3.0 * eb)),
    )


def hlg_decode(r: Any, g: Any, b: Any) -> Pixel:
    """Inverse of `hlg_encode`."""
    er = clamp(r, 0.0, 1.0)
    eg = clamp(g, 0.0, 1.0)
    eb = clamp(b, 0.0, 1.0)
    k = 1.4426950409 / 0.17883277
    return (
        where(er > 0.5, (exp2((er - 0.55991073) * k) + 0.28466892) / 12.0, er * er / 3.0),
        where(eg > 0.5, (exp2((eg - 0.55991073) * k) + 0.28466892) / 12.0, eg * eg / 3.0),
        where(eb > 0.5, (exp2((eb - 0.55991073) * k) + 0.28466892) / 12.0, eb * eb / 3.0),
    )


def srgb_encode(r: Any, g: Any, b: Any) -> Pixel:
    """IEC 61966-2-1, clamped to [0, 1]."""
    cr = clamp(r, 0.0, 1.0)
    cg = clamp(g, 0.0, 1.0)
    cb = clamp(b, 0.0, 1.0)
    return (
        where(cr > 0.0031308, 1.055 * root(cr, 0.41666666667) - 0.055, 12.92 * cr),
        where(cg > 0.0031308, 1.055 * root(cg, 0.41666666667) - 0.055, 12.92 * cg),
        where(cb > 0.0031308, 1.055 * root(cb, 0.41666666667) - 0.055, 12.92 * cb),
    )


def srgb_decode(r: Any, g: Any, b: Any) -> Pixel:
    """Inverse of `srgb_encode`; values above 1 go on along the curve."""
    return (
        where(r > 0.04045, powr((maximum(r, 0.0) + 0.055) / 1.055, 2.4), r / 12.92),
        where(g > 0.04045, powr((maximum(g, 0.0) + 0.055) / 1.055, 2.4), g / 12.92),
        where(b > 0.04045, powr((maximum(b, 0.0) + 0.055) / 1.055, 2.4), b / 12.92),
    )


def gamma_encode(r: Any, g: Any, b: Any, gamma: float) -> Pixel:
    """x^(1 / gamma), clamped to [0, 1]; 2.4 is BT.1886 for a black of 0."""
    e = 1.0 / gamma
    return root(clamp(r, 0.0, 1.0), e), root(clamp(g, 0.0, 1.0), e), root(clamp(b, 0.0, 1.0), e)


def gamma_decode(r: Any, g: Any, b: Any, gamma: float) -> Pixel:
    """x^gamma for x >= 0; 0 below."""
    return powr(r, gamma), powr(g, gamma), powr(b, gamma)


def acescct_encode(r: Any, g: Any, b: Any) -> Pixel:
    """ACEScct (S-2016-001): logarithmic above 2^-7, a straight line below."""
    return (
        where(r > 0.0078125, (log2(r) + 9.72) / 17.52, 10.5402377416545 * r + 0.0729055341958355),
        where(g > 0.0078125, (log2(g) + 9.72) / 17.52, 10.5402377416545 * g + 0.0729055341958355),
        where(b > 0.0078125, (log2(b) + 9.72) / 17.52, 10.5402377416545 * b + 0.0729055341958355),
    )


def acescct_decode(r: Any, g: Any, b: Any) -> Pixel:
    """Inverse of `acescct_encode`, clamped to 65504."""
    return (
        where(
            r > 0.155251141552511, minimum(exp2(r * 17.52 - 9.72), 65504.0), (r - 0.0729055341958355) / 10.5402377416545
        ),
        where(
            g > 0.155251141552511, minimum(exp2(g * 17.52 - 9.72), 65504.0), (g - 0.0729055341958355) / 10.5402377416545
        ),
        where(
            b > 0.155251141552511, minimum(exp2(b * 17.52 - 9.72), 65504.0), (b - 0.0729055341958355) / 10.5402377416545
        ),
    )


def log_decode(
    r: Any,
    g: Any,
    b: Any,
    cut: float,
    rate: float,
    shift: float,
    gain: float,
    offset: float,
    slope: float,
    middle: float,
) -> Pixel:
    """A camera's log curve back to linear light: an exponential above `cut`, a line up to it."""
    return (
        where(r > cut, exp2(r * rate + shift) * gain + offset, r * slope + middle),
        where(g > cut, exp2(g * rate + shift) * gain + offset, g * slope + middle),
        where(b > cut, exp2(b * rate + shift) * gain + offset, b * slope + middle),
    )


def table_lookup(r: Any, g: Any, b: Any, table: Any, low: float, high: float, amount: float, size: int) -> Pixel:
    """A 3-D table over [low, high], mixed in by `amount`."""
    k = 1.0 / (high - low)
    tr, tg, tb = tetrahedral(table, size, (r - low) * k, (g - low) * k, (b - low) * k)
    return mix(r, tr, amount), mix(g, tg, amount), mix(b, tb, amount)


def false_colour(r: Any, g: Any, b: Any) -> Pixel:
    """Exposure of display-referred luma as colours: Google's turbo map as polynomials (Mikhailov, 2019)."""
    t = clamp(0.2126 * r + 0.7152 * g + 0.0722 * b, 0.0, 1.0)
    cr = 0.13572138 + t * (4.61539260 + t * (-42.66032258 + t * (132.13108234 + t * (-152.94239396 + t * 59.28637943))))
    cg = 0.09140261 + t * (2.19418839 + t * (4.84296658 + t * (-14.18503333 + t * (4.27729857 + t * 2.82956604))))
    cb = 0.10667330 + t * (12.64194608 + t * (-60.58204836 + t * (110.36276771 + t * (-89.90310912 + t * 27.34824973))))
    return clamp(cr, 0.0, 1.0), clamp(cg, 0.0, 1.0), clamp(cb, 0.0, 1.0)


def uniform_dither(r: Any, g: Any, b: Any, ix: Any, iy: Any, step: float, seed: int) -> Pixel:
    """Add zero-mean uniform noise of one quantisation step to display-referred colours."""
    n = (hash_uniform(ix, iy, seed) - 0.5) * step
    return r + n, g + n, b + n
