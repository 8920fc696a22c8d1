"""Batches of made-up rooms, ray-cast in torch on any device: exact depth, points, visibility and correspondences.

A room is a box seen from inside with spheres, boxes and cylinders in it, painted with solid textures (a function of the
place in the surface's own frame, so that two views of a place agree) and lit by one lamp. Every pixel is one ray;
what it meets is solved in closed form, so truth is exact to rounding. Numbers are drawn on the CPU: a seed means the
same scenes on every device.
"""

# torch leaves arithmetic with plain numbers without types.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["COLUMNS", "NEAR", "WALLS", "Cameras", "Scenes", "cast", "hashed", "render", "seen", "shade"]

NEAR = 0.05
"""Nothing nearer than this is met, metres."""
_FAR = 1e9
WALLS = 6
COLUMNS = 22
"""Numbers that describe a surface's paint; see `elinvar.vision.rooms.paints`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes:
    """Rooms, n surfaces each: spheres, boxes, cylinders in this order, then the six walls.

    Attributes
    ----------
    counts
        How many spheres, boxes and cylinders.
    centre, half
        [b, n, 3]; a sphere's half sizes are its radius, a cylinder's are radius, half height, radius.
    turn
        [b, n, 3, 3], a thing's frame to the room's.
    paint
        [b, n, COLUMNS].
    lamp
        [b, 3], where the lamp is.
    light
        [b, 2]: ambient and direct share.
    seed
        int32 [b], of the textures.
    """

    counts: tuple[int, int, int]
    centre: Tensor
    half: Tensor
    turn: Tensor
    paint: Tensor
    lamp: Tensor
    light: Tensor
    seed: Tensor

    def to(self, device: Any, dtype: torch.dtype | None = None) -> Scenes:
        """Return the rooms on a device, and in another precision."""
        moved = {
            f.name: getattr(self, f.name).to(device, None if f.name == "seed" else dtype)
            for f in dataclasses.fields(self)
            if f.name != "counts"
        }
        return dataclasses.replace(self, **moved)

    def twice(self) -> Scenes:
        """Return the rooms and then the rooms again."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "counts"]
        doubled: dict[str, Any] = {name: torch.cat([getattr(self, name)] * 2) for name in names}
        return dataclasses.replace(self, **doubled)


@dataclasses.dataclass(frozen=True, eq=False)
class Cameras:
    """Cameras of a batch: poses [b, 4, 4] (camera to room, y down, z forward) and matrices K [b, 3, 3]."""

    pose: Tensor
    K: Tensor

    def rays(self, width: int, height: int) -> tuple[Tensor, Tensor]:
        """Return origins [b, 1, 3] and directions [b, height * width, 3] whose length along the axis is one."""
        device, dtype = self.pose.device, self.pose.dtype
        y, x = torch.meshgrid(
            torch.arange(height, device=device, dtype=dtype),
            torch.arange(width, device=device, dtype=dtype),
            indexing="ij",
        )
        x = (x.reshape(1, -1) - self.K[:, 0, 2:]) / self.K[:, 0, :1]
        y = (y.reshape(1, -1) - self.K[:, 1, 2:]) / self.K[:, 1, 1:2]
        turn = self.pose[:, :3, :3]
        parts = [x * turn[:, k, :1] + y * turn[:, k, 1:2] + turn[:, k, 2:] for k in range(3)]
        return self.pose[:, None, :3, 3].contiguous(), torch.stack(parts, -1)

    def inside(self, points: Tensor) -> Tensor:
        """Return points [b, p, 3] of the room in the camera's frame."""
        away = points - self.pose[:, None, :3, 3]
        turn = self.pose[:, :3, :3]
        return torch.stack([(away * turn[:, None, :, k]).sum(-1) for k in range(3)], -1)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel positions [b, p, 2] of points of the room, and their depths [b, p]."""
        inside = self.inside(points)
        depth = inside[..., 2]
        focal = torch.stack([self.K[:, 0, 0], self.K[:, 1, 1]], -1)[:, None]
        return inside[..., :2] / depth.clamp_min(1e-6)[..., None] * focal + self.K[:, None, :2, 2], depth


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _local(turn: Tensor, v: Tensor) -> list[Tensor]:
    """Return v [b, 1 or n, p, 3] in the things' frames [b, n, 3, 3], as three [b, n, p]."""
    return [sum(v[..., j] * turn[:, :, None, j, k] for j in range(3)) for k in range(3)]  # type: ignore[misc]


def _span(o: list[Tensor], d: list[Tensor], half: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return where lines enter and leave slabs about the origin (Kay and Kajiya, 1986)."""
    enter, leave = [], []
    for k in axes:
        step = torch.where(d[k].abs() < 1e-12, 1e-12, d[k])
        a, b = (-half[:, :, None, k] - o[k]) / step, (half[:, :, None, k] - o[k]) / step
        enter.append(torch.minimum(a, b))
        leave.append(torch.maximum(a, b))
    first, last = enter[0], leave[0]
    for a, b in zip(enter[1:], leave[1:], strict=True):
        first, last = torch.maximum(first, a), torch.minimum(last, b)
    return first, last


def _round(o: list[Tensor], d: list[Tensor], radius: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return where lines enter and leave a sphere (three axes) or an endless cylinder (two); far away on a miss."""
    a = sum(d[k] * d[k] for k in axes)
    assert isinstance(a, Tensor)
    a = a.clamp_min(1e-12)
    b = sum(o[k] * d[k] for k in axes)
    assert isinstance(b, Tensor)
    # The squared distance of the line from the centre, from the nearest place: no difference of large numbers.
    away = sum((o[k] - b / a * d[k]) ** 2 for k in axes)
    room = radius * radius - away
    root = (room.clamp_min(0) / a).sqrt()
    return torch.where(room > 0, -b / a - root, _FAR), torch.where(room > 0, -b / a + root, -_FAR)


def cast(scenes: Scenes, origin: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return for rays [b, p, 3] the factor to the first surface [b, p], and which surface it is, int64 [b, p].

    Origins are [b, 1, 3] or [b, p, 3], inside the room and outside the things.
    """
    things = sum(scenes.counts)
    s, n, _ = scenes.counts
    turn, half = scenes.turn[:, :things], scenes.half[:, :things]
    o = _local(turn, origin[:, None] - scenes.centre[:, :things, None])
    d = _local(turn, rays[:, None])

    def part(first: int, last: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        return [x[:, first:last] for x in o], [x[:, first:last] for x in d], half[:, first:last]

    found = []
    if s:
        a, b, size = part(0, s)
        found.append(_round(a, b, size[..., :1], (0, 1, 2)))
    if n:
        a, b, size = part(s, s + n)
        found.append(_span(a, b, size, (0, 1, 2)))
    if things > s + n:
        a, b, size = part(s + n, things)
        side, cap = _round(a, b, size[..., :1], (0, 2)), _span(a, b, size, (1,))
        found.append((torch.maximum(side[0], cap[0]), torch.minimum(side[1], cap[1])))
    # The walls: where the ray leaves the room, and through which of its six sides.
    step = torch.where(rays.abs() < 1e-12, 1e-12, rays)
    middle, reach = scenes.centre[:, None, things], scenes.half[:, None, things]
    out = (torch.sign(step) * reach + middle - origin) / step
    best, side_of = out.min(-1)
    which = things + 2 * side_of + torch.gather((step > 0).long(), -1, side_of[..., None])[..., 0]
    if found:
        enter = torch.cat([torch.where((e > NEAR) & (e < x), e, _FAR) for e, x in found], 1)
        nearest, index = enter.min(1)
        which = torch.where(nearest < best, index, which)
        best = torch.minimum(best, nearest)
    return best, which


def hashed(x: Tensor, y: Tensor, z: Tensor, seed: Tensor) -> Tensor:
    """Mix whole numbers into [0, 1), in 32 bits that wrap."""
    h = x * 374761393 + y * 668265263 + z * 1274126177 + seed * 974634777
    h = (h ^ (h >> 13)) * 1274126177
    h = (h ^ (h >> 15)) * 668265263
    return ((h ^ (h >> 16)) & 0xFFFF) / 65536.0


_SIDE = 64


@lru_cache(maxsize=8)
def _volume(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return random values at the whole points of a cube that repeats, its first layers once more at the end."""
    make = torch.Generator().manual_seed(20_24)
    cube = torch.rand((_SIDE,) * 3, generator=make)
    around = torch.arange(_SIDE + 1) % _SIDE
    return cube[around][:, around][:, :, around][None, None].to(device, dtype)


def _noise(q: list[Tensor], shift: Tensor) -> Tensor:
    """Return smooth noise in [0, 1]: random values at whole points, blended (Perlin, 1985, in its value form)."""
    places = []
    for k, x in enumerate(q):
        x = x + shift * (0.37 + 0.21 * k)
        whole = x.floor()
        part = x - whole
        blended = whole - _SIDE * (whole / _SIDE).floor() + part * part * (3 - 2 * part)
        places.append(blended * (2 / _SIDE) - 1)
    volume = _volume(q[0].device, q[0].dtype).expand(len(q[0]), -1, -1, -1, -1)
    grid = torch.stack(places, -1)[:, :, None, None]
    return torch.nn.functional.grid_sample(volume, grid, align_corners=True)[:, 0, :, 0, 0]


def _edge(signed: Tensor, width: Tensor) -> Tensor:
    """Return 0 to 1 across an edge of a width: the pixel's, so that edges do not flicker between views."""
    return (0.5 + signed / width).clamp(0, 1)


def _wave(x: Tensor) -> Tensor:
    """Return the distance to the nearest switch of a square wave of period 2, signed by its value."""
    u = x - 2 * (x / 2).floor()
    return 0.5 - (u - 0.5 - (u > 1.5) * 2).abs()


def _patterns(q: list[Tensor], seed: Tensor, shift: Tensor, width: Tensor, kind: Tensor, bend: Tensor) -> Tensor:
    """Return the pattern that each pixel's surface wears, 0 to 1; q in pattern units, `width` of a pixel in them."""
    x, y, z = q
    soft = _noise([v * 0.9 for v in q], shift + 17)
    cells = [v.floor().to(torch.int32) for v in q]
    mosaic = hashed(cells[0], cells[1], cells[2], seed + 5)
    mosaic = mosaic + (0.5 - mosaic) * (width - 0.5).clamp(0, 1)
    checker = _edge(_wave(x) * _wave(y) * _wave(z) * 8, 8 * width)
    stripes = _edge(_wave(x + bend * soft), width)
    row = (y * 2).floor()
    across = x + z + 0.5 * (row - 2 * (row / 2).floor())
    mortar = torch.minimum(_near(across) * 1.0, _near(y * 2) * 0.5)
    tone = hashed(across.floor().to(torch.int32), row.to(torch.int32), cells[0] * 0, seed + 9)
    bricks = _edge(mortar - 0.06, width) * (0.55 + 0.45 * tone)
    centre = hashed(cells[0], cells[1], cells[2], seed + 3) * 0.3 + 0.15
    away = sum((v - c - 0.5) ** 2 for v, c in zip(q, (v.floor() for v in q), strict=True))
    assert isinstance(away, Tensor)
    spots = _edge(centre - away.sqrt(), width)
    out = soft
    for k, value in enumerate((checker, stripes, bricks, spots, mosaic), 1):
        out = torch.where(kind == k, value, out)
    return out


def _near(x: Tensor) -> Tensor:
    """Return the distance to the nearest whole number."""
    return (x - (x + 0.5).floor()).abs()


def _colours(scenes: Scenes, points: Tensor, which: Tensor, pixel: Tensor, eye: Tensor) -> Tensor:
    """Return the colour [b, p, 3], 0 to 1, of points [b, p, 3] on surfaces [b, p].

    `pixel` [b, p] is the side of a pixel there; `eye` [b, 1, 3] matters to the gloss.
    """

    def of(table: Tensor) -> Tensor:
        return torch.gather(table, 1, which)

    def column(k: int) -> Tensor:
        return of(scenes.paint[..., k])

    away = [points[..., k] - of(scenes.centre[..., k]) for k in range(3)]
    turn = [[of(scenes.turn[..., i, j]) for j in range(3)] for i in range(3)]
    local = [_dot(away, [turn[i][j] for i in range(3)]) for j in range(3)]
    u = [local[k] / of(scenes.half[..., k]) for k in range(3)]
    s, n, c = scenes.counts
    flat = [(u[k].abs() >= torch.maximum(u[k - 1].abs(), u[k - 2].abs())) * torch.sign(u[k]) for k in range(3)]
    cap = u[1].abs() > (u[0] ** 2 + u[2] ** 2).sqrt()
    tube = [torch.where(cap, 0.0, u[0]), torch.where(cap, torch.sign(u[1]), 0.0), torch.where(cap, 0.0, u[2])]
    ball, rod = which < s, (which >= s + n) & (which < s + n + c)
    inner = [torch.where(ball, u[k], torch.where(rod, tube[k], flat[k])) for k in range(3)]
    normal = [_dot(turn[i], inner) for i in range(3)]
    # The paint's own frame: a turn about y by column 0 and a tilt by column 1, then its scale and shift.
    a, b = column(0), column(1)
    x = local[0] * a.cos() + local[2] * a.sin()
    z = -local[0] * a.sin() + local[2] * a.cos()
    y = local[1] * b.cos() - x * b.sin()
    x = local[1] * b.sin() + x * b.cos()
    scale = column(2)
    q = [v * scale + column(3 + k) for k, v in enumerate((x, y, z))]
    seed = scenes.seed[:, None] + which.to(torch.int32) * 101
    shift = of((scenes.seed[:, None] % 991 + 31 * torch.arange(scenes.half.shape[1], device=u[0].device)).to(u[0]))
    pattern = _patterns(q, seed, shift, (pixel * scale).clamp_min(0.02), column(6), column(7))
    grain = torch.zeros_like(x)
    for octave in range(4):
        often = column(8) * 2.3**octave
        clear = (1.2 - pixel * often).clamp(0, 1) * column(9 + octave)
        grain = grain + (_noise([v * often + 7.3 * octave for v in (x, y, z)], shift + octave) - 0.5) * clear
    lamp = [scenes.lamp[:, k, None] - points[..., k] for k in range(3)]
    far = _dot(lamp, lamp).sqrt().clamp_min(0.2)
    facing = _dot(normal, lamp).abs() / far
    to_eye = [eye[..., k] - points[..., k] for k in range(3)]
    length = _dot(to_eye, to_eye).sqrt()
    halfway = [lamp[k] / far + to_eye[k] / length for k in range(3)]
    size = _dot(halfway, halfway).sqrt().clamp_min(1e-3)
    gloss = (_dot(normal, halfway).abs() / size) ** 24 * column(13)
    shade = scenes.light[:, :1] + scenes.light[:, 1:] * facing * (4.0 / (far + 1.0)).clamp_max(1.6)
    value = [
        (column(14 + k) * pattern + column(17 + k) * (1 - pattern)) * (1 + column(20) * grain) * shade + gloss
        for k in range(3)
    ]
    return torch.stack(value, -1).clamp(0, 1)


def shade(scenes: Scenes, origin: Tensor, rays: Tensor, focal: Tensor) -> tuple[Tensor, Tensor]:
    """Return colours and points [b, p, 3] of rays [b, p, 3] from cameras of focal lengths [b, 1]."""
    distance, which = cast(scenes, origin, rays)
    points = origin + distance[..., None] * rays
    pixel = distance * (rays * rays).sum(-1).sqrt() / focal
    return _colours(scenes, points, which, pixel, origin), points


def render(scenes: Scenes, cameras: Cameras, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return colours [b, height, width, 3], 0 to 1, and points [b, height, width, 3] in the room's frame."""
    width, height = size
    colours, points = shade(scenes, *cameras.rays(width, height), cameras.K[:, 0, :1])
    return colours.unflatten(1, (height, width)), points.unflatten(1, (height, width))


def seen(scenes: Scenes, eye: Cameras, points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return whether points [b, p, 3] are visible to cameras, by casting a ray to each, and their pixel positions."""
    xy, depth = eye.project(points)
    limit = torch.tensor(size, device=xy.device, dtype=xy.dtype) - 0.5
    origin = eye.pose[:, None, :3, 3]
    factor, _ = cast(scenes, origin, points - origin)
    return (depth > NEAR) & (xy > -0.5).all(-1) & (xy < limit).all(-1) & (factor > 0.998), xy
