"""Rooms, cameras and pairs drawn at random for training, and rendered by `elinvar.vision.rendering`.

Numbers are drawn on the CPU, so a seed means the same pairs on every device, to rounding.
"""

# torch leaves arithmetic with plain numbers without types.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from .rendering import NEAR, WALLS, Cameras, Scenes, cast, hashed, render, seen

__all__ = ["OVERLAP", "Pairs", "draw_cameras", "draw_pairs", "draw_scenes", "paints"]

_TRIES = 6
OVERLAP = 0.3
"""Least share of the first image that the second one sees."""


def rotations(axis: Tensor, angle: Tensor) -> Tensor:
    """Return matrices [..., 3, 3] that turn about axes [..., 3] of any length (Rodrigues)."""
    x, y, z = (axis / axis.norm(dim=-1, keepdim=True).clamp_min(1e-9)).unbind(-1)
    c, s = angle.cos(), angle.sin()
    d = 1 - c
    rows = [c + x * x * d, x * y * d - z * s, x * z * d + y * s, y * x * d + z * s, c + y * y * d, y * z * d - x * s]
    rows += [z * x * d - y * s, z * y * d + x * s, c + z * z * d]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _between(make: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=make)


def paints(make: torch.Generator, b: int, n: int) -> Tensor:
    """Draw paints: frame (2), scale, shift (3), pattern, bend, grain's rate, its octaves (4), gloss, colours, depth."""
    columns = [_between(make, 0, 2 * math.pi, b, n, 1), _between(make, -0.6, 0.6, b, n, 1)]
    columns += [torch.exp(_between(make, math.log(1.2), math.log(9), b, n, 1)), _between(make, -9, 9, b, n, 3)]
    columns += [torch.randint(0, 6, (b, n, 1), generator=make).float(), _between(make, 0, 3, b, n, 1)]
    columns += [torch.exp(_between(make, math.log(1.5), math.log(5), b, n, 1)), _between(make, 0.2, 1.2, b, n, 4)]
    columns += [_between(make, 0, 0.35, b, n, 1) * (torch.rand((b, n, 1), generator=make) < 0.3)]
    grey = _between(make, 0.0, 0.9, b, n, 1)
    first = _between(make, 0.1, 1.0, b, n, 3)
    first = first * (1 - grey) + first.mean(-1, keepdim=True) * grey
    mixed = _between(make, 0.0, 0.8, b, n, 1)
    second = _between(make, 0.1, 1.0, b, n, 3) * (1 - mixed) + first * mixed
    columns += [first, second, _between(make, 0.3, 1.0, b, n, 1), torch.zeros(b, n, 1)]
    return torch.cat(columns, -1)


def draw_scenes(count: int, seed: int, *, things: tuple[int, int, int] = (4, 5, 3)) -> Scenes:
    """Draw rooms of 5 to 11 m with spheres, boxes and cylinders in them, on the CPU in float32."""
    make = torch.Generator().manual_seed(seed)
    b, n = count, sum(things)
    walls = torch.cat(
        [_between(make, 2.5, 5.5, b, 1), _between(make, 1.2, 2.3, b, 1), _between(make, 2.5, 5.5, b, 1)], 1
    )
    centre = _between(make, -0.85, 0.85, b, n, 3) * walls[:, None]
    half = torch.exp(_between(make, math.log(0.15), math.log(0.8), b, n, 3))
    s, boxes, _ = things
    half[:, :s] = half[:, :s, :1]
    half[:, s + boxes :, 2] = half[:, s + boxes :, 0]
    # Most things stand on the floor.
    on_floor = torch.rand((b, n), generator=make) < 0.6
    centre[..., 1] = torch.where(on_floor, walls[:, 1:2] - half[..., 1], centre[..., 1])
    yaw = rotations(torch.tensor([0.0, 1.0, 0.0]).expand(b, n, 3), _between(make, 0, math.pi, b, n))
    axis = torch.randn((b, n, 3), generator=make)
    tilt = rotations(axis, _between(make, 0, 1.5, b, n) * (~on_floor))
    eye = torch.eye(3).expand(b, WALLS, 3, 3)
    inside = torch.zeros(b, WALLS, 3)
    lamp = _between(make, -0.8, 0.8, b, 3) * walls
    lamp[:, 1] = -0.8 * walls[:, 1]
    ambient = _between(make, 0.35, 0.8, b, 1)
    return Scenes(
        things,
        torch.cat([centre, inside], 1),
        torch.cat([half, walls[:, None].expand(b, WALLS, 3)], 1),
        torch.cat([tilt @ yaw, eye], 1),
        paints(make, b, n + WALLS),
        lamp,
        torch.cat([ambient, 1.1 - ambient * 0.8], 1),
        torch.randint(0, 1 << 20, (b,), generator=make, dtype=torch.int32),
    )


def _looking(eye: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    """Return poses [..., 4, 4] of cameras at places that look at others; y is down."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    down = torch.stack([roll.sin(), roll.cos(), torch.zeros_like(roll)], -1)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward, dim=-1), dim=-1)
    turn = torch.stack([right, torch.linalg.cross(forward, right, dim=-1), forward], -1)
    top = torch.cat([turn, eye[..., None]], -1)
    return torch.cat([top, torch.tensor([0.0, 0, 0, 1]).to(top).expand(*top.shape[:-2], 1, 4)], -2)


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Rendered pairs.

    Attributes
    ----------
    images
        uint8 [b, height, width, 3] of both.
    points
        float32 [b, height, width, 3] of both, in the first camera's frame.
    pixels
        int64 [b, m] flat pixels of both that see one point.
    valid
        bool [b, m]: the matches there really are.
    overlap
        [b], estimated share of the first image that the second sees.
    cameras
        Of both.
    """

    images: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    pixels: tuple[Tensor, Tensor]
    valid: Tensor
    overlap: Tensor
    cameras: tuple[Cameras, Cameras]


def draw_cameras(scenes: Scenes, size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a first camera and several seconds for every room: poses [b, 4, 4], [b, tries, 4, 4] and K [b, 3, 3].

    The last second camera hardly moves: it sees what the first one sees.
    """
    make = torch.Generator().manual_seed(seed)
    b, walls = len(scenes.centre), scenes.half[:, -1].cpu()
    # The first camera keeps its distance from every thing: the best of several places.
    places = _between(make, -0.8, 0.8, b, 24, 3) * walls[:, None] * torch.tensor([1.0, 0.6, 1.0])
    things = sum(scenes.counts)
    centre, size_of = scenes.centre[:, :things].cpu(), scenes.half[:, :things].cpu().norm(dim=-1)
    room = ((places[:, :, None] - centre[:, None]).norm(dim=-1) - size_of[:, None]).amin(-1)
    good = (room > 0.5).float() * torch.rand((b, 24), generator=make) + room.clamp_max(0.5)
    first = torch.take_along_dim(places, good.argmax(1)[:, None, None], 1)[:, 0]
    # It looks across the room.
    target = _between(make, -0.6, 0.6, b, 3) * walls * torch.tensor([1.0, 0.7, 1.0]) - 0.5 * first
    away = target - first
    away = away * (1.5 / away.norm(dim=-1, keepdim=True).clamp_min(1e-3)).clamp_min(1.0)
    target = first + away
    distance = away.norm(dim=-1, keepdim=True)
    tries = _TRIES
    length = torch.exp(_between(make, math.log(0.08), math.log(0.5), b, tries, 1)) * distance[:, None]
    length[:, -1] = 0.02 * distance
    step = torch.nn.functional.normalize(
        torch.randn((b, tries, 3), generator=make) * torch.tensor([1.0, 0.4, 0.7]), dim=-1
    )
    second = first[:, None] + step * length
    second = torch.maximum(torch.minimum(second, 0.9 * walls[:, None]), -0.9 * walls[:, None])
    wander = _between(make, -0.2, 0.2, b, tries, 3) * distance[:, None]
    wander[:, -1] = 0
    roll = _between(make, -0.12, 0.12, b, 1 + tries)
    poses = _looking(
        torch.cat([first[:, None], second], 1), torch.cat([target[:, None], target[:, None] + wander], 1), roll
    )
    width, height = size
    focal = torch.exp(_between(make, math.log(0.75), math.log(1.4), b)) * max(size)
    K = torch.zeros(b, 3, 3)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1
    return poses[:, 0], poses[:, 1:], K


def _second(scenes: Scenes, first: Cameras, poses: Tensor, size: tuple[int, int]) -> tuple[Cameras, Tensor]:
    """Choose for every room the first of several second cameras that sees enough of what the first one sees."""
    small = (16, max(2, round(16 * size[1] / size[0])))
    scale = small[0] / size[0]
    K = first.K.clone()
    K[:, 0, 0], K[:, 1, 1] = K[:, 0, 0] * scale, K[:, 1, 1] * scale
    K[:, 0, 2], K[:, 1, 2] = (small[0] - 1) / 2, (small[1] - 1) / 2
    origin, rays = Cameras(first.pose, K).rays(*small)
    factor, _ = cast(scenes, origin, rays)
    points = origin + factor[..., None] * rays
    b, tries = poses.shape[:2]
    flat = Cameras(poses.flatten(0, 1), K.repeat_interleave(tries, 0))
    xy, depth = flat.project(points.repeat_interleave(tries, 0))
    inside = (depth > NEAR) & (xy > -0.5).all(-1) & (xy[..., 0] < small[0] - 0.5) & (xy[..., 1] < small[1] - 0.5)
    begin, ahead = flat.rays(*small)
    # One cast for all: to the first camera's points, and through the second one's own pixels.
    begin = begin.expand_as(ahead).unflatten(0, (b, tries)).flatten(1, 2)
    ahead = ahead.unflatten(0, (b, tries)).flatten(1, 2)
    to = points[:, None].expand(-1, tries, -1, -1).flatten(1, 2) - begin
    factor = cast(scenes, torch.cat([begin, begin], 1), torch.cat([to, ahead], 1))[0].unflatten(1, (2, tries, -1))
    share = (inside.unflatten(0, (b, tries)) & (factor[:, 0] > 0.998)).float().mean(-1)
    good = (share >= OVERLAP + 0.03) & (factor[:, 1].amin(-1) > 0.3)
    good[:, -1] = True
    chosen = good.int().argmax(1)
    pose = torch.take_along_dim(poses, chosen[:, None, None, None], 1)[:, 0]
    return Cameras(pose, first.K), torch.take_along_dim(share, chosen[:, None], 1)[:, 0]


def _exposed(colours: Tensor, gain: Tensor, seed: Tensor) -> Tensor:
    """Return uint8 images: gain and white balance [b, 3], gamma, noise that depends on place and seed alone."""
    b, height, width, _ = colours.shape
    place = torch.arange(height * width * 3, device=colours.device, dtype=torch.int32).view(1, height, width, 3)
    salt = seed.view(b, 1, 1, 1)
    rough = hashed(place, place * 0, place * 0 + 1, salt) + hashed(place, place * 0, place * 0 + 2, salt) - 1
    value = (colours * gain[:, None, None, :3]).clamp(1e-4, 1) ** gain[:, None, None, 3:4]
    return (255 * (value + gain[:, None, None, 4:] * rough)).round().clamp(0, 255).to(torch.uint8)


def _matches(
    scenes: Scenes, points: Tensor, second: Cameras, size: tuple[int, int], start: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return flat pixels [b, count] of both images that see one point, and which of them are real."""
    width, height = size
    index = torch.arange(4 * count, device=points.device)
    # Weyl steps through the image from a drawn start: spread evenly, never twice.
    first = (start[:, None] + index * int(0.6180339887 * width * height / 1.0 + 1)) % (width * height)
    chosen = torch.take_along_dim(points, first[..., None], 1)
    visible, xy = seen(scenes, second, chosen, size)
    order = torch.argsort((~visible).to(torch.uint8), dim=1, stable=True)[:, :count]
    valid = torch.gather(visible, 1, order)
    xy = torch.take_along_dim(xy, order[..., None], 1).round()
    other = xy[..., 1].clamp(0, height - 1) * width + xy[..., 0].clamp(0, width - 1)
    other = torch.where(valid, other, torch.zeros_like(other)).long()
    return torch.gather(first, 1, order), other, valid


def _shoot(
    scenes: Scenes,
    poses: tuple[Tensor, Tensor],
    K: Tensor,
    drawn: tuple[Tensor, Tensor],
    size: tuple[int, int],
    matches: int,
) -> tuple[Tensor, ...]:
    """Render the pairs of a batch from what was drawn for it."""
    first = Cameras(poses[0].contiguous(), K)
    second, overlap = _second(scenes, first, poses[1], size)
    both = Cameras(torch.cat([first.pose, second.pose]), torch.cat([K, K]))
    colours, there = render(scenes.twice(), both, size)
    salt = torch.cat([scenes.seed, scenes.seed + 1])
    pictures = _exposed(colours, drawn[0].transpose(0, 1).flatten(0, 1), salt).chunk(2)
    points = there.flatten(1, 2).chunk(2)
    pixels = _matches(scenes, points[0], second, size, drawn[1], matches)
    truth = [first.inside(p).unflatten(1, size[::-1]) for p in points]
    return (*pictures, *truth, *pixels, overlap, second.pose)


def draw_pairs(count: int, seed: int, size: tuple[int, int], *, matches: int = 512, device: Any = "cpu") -> Pairs:
    """Draw rooms and camera pairs that share at least `OVERLAP` of the first image, and render them.

    Parameters
    ----------
    count
        Pairs.
    seed
        Of everything.
    size
        (width, height), pixels.
    matches
        Matched pixels per pair.
    device
        Where to render, as torch takes it.
    """
    scenes = draw_scenes(count, seed)
    one, others, K = draw_cameras(scenes, size, seed + (1 << 40))
    make = torch.Generator().manual_seed(seed + (2 << 40))
    gain = torch.cat(
        [
            _between(make, 0.75, 1.3, count, 2, 1) * _between(make, 0.93, 1.07, count, 2, 3),
            _between(make, 0.5, 0.95, count, 2, 1),
            _between(make, 0.0, 0.03, count, 2, 1),
        ],
        -1,
    )
    start = torch.randint(0, size[0] * size[1], (count,), generator=make)
    moved = [t.to(device, non_blocking=True) for t in (one, others, K, gain, start)]
    out = _shoot(scenes.to(device), (moved[0], moved[1]), moved[2], (moved[3], moved[4]), size, matches)
    cameras = (Cameras(moved[0], moved[2]), Cameras(out[8], moved[2]))
    return Pairs((out[0], out[1]), (out[2], out[3]), (out[4], out[5]), out[6], out[7], cameras)
