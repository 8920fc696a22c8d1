"""A migration as one YAML file: every option, with its unit, checked before anything is read.

The models below are the only description of the file: they check it, say what is wrong in a sentence, and write it with
comments. Metres, milliseconds, m/s and degrees clockwise from north; paths are relative to the file they are in.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .aperture import Aperture
from .velocity import BOUNDS

__all__ = [
    "Algorithm",
    "ApertureOptions",
    "Checkpointing",
    "Execution",
    "GatherOptions",
    "GridOptions",
    "Input",
    "JobConfig",
    "Limits",
    "MuteOptions",
    "Output",
    "PreviewOptions",
    "Products",
    "ScanOptions",
    "Section",
    "Selection",
    "VelocityOptions",
    "memory_bytes",
]

Positive = Annotated[float, Field(gt=0)]
Pair = tuple[float, float]
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_DEFAULT = Aperture()


def memory_bytes(text: str | int | None) -> int | None:
    """Return bytes from ``8 GiB``, ``500M`` (powers of 1024) or a number.

    Raises
    ------
    ValueError
        Something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)i?b?\s*", str(text).lower())
    if found is None or float(found.group(1)) <= 0:
        raise ValueError(f"{text!r} is no amount of memory: write 8 GiB")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


class Section(BaseModel):
    """One section of a job file: a name that is not listed is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)


class Selection(Section):
    """Which traces take part; all conditions together."""

    where: str | None = Field(default=None, description="condition on offset, azimuth, mx, ...: offset < 2500")
    offset: Pair | None = Field(default=None, description="[low, high) m")
    along: float | None = Field(default=None, description="azimuth that makes offsets signed, degrees")
    azimuth: Pair | None = Field(default=None, description="[start, stop) degrees, clockwise")
    reciprocal: bool = Field(default=True, description="opposite azimuths are the same")


class Input(Section):
    """The survey."""

    path: str = Field(min_length=1, description="prestack traces")
    format: Literal["auto", "segy", "su", "zarr"] = Field(default="auto", description="auto goes by the name")
    endian: Literal["auto", "big", "little"] = Field(default="auto", description="byte order")
    dt_ms: Positive | None = Field(default=None, description="sample interval, ms, when the file's is missing or wrong")
    bin_size: tuple[Positive, Positive] | None = Field(default=None, description="midpoint cell of one offset, m")
    header_bytes: dict[str, int] = Field(
        default_factory=dict, description="header words that are elsewhere: {sx: 73, sy: 77, gx: 81, gy: 85}"
    )
    select: Selection = Selection()


class _Velocity(Section):
    bounds: tuple[Positive, Positive] = Field(default=BOUNDS, description="accepted, m/s")
    percent: Positive = Field(default=100.0, description="times this part of it, %")
    smooth_m: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Gaussian along the map, m")
    smooth_ms: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Gaussian along time, ms")


class ConstantVelocity(_Velocity):
    """One velocity everywhere."""

    type: Literal["constant"] = "constant"
    v: Positive = Field(description="m/s")


class LinearVelocity(_Velocity):
    """V0 + k z."""

    type: Literal["linear"] = "linear"
    v0: Positive = Field(description="m/s at the surface")
    k: float = Field(description="1/s")


class TableVelocity(_Velocity):
    """A function of time."""

    type: Literal["table"] = "table"
    times_ms: list[float] = Field(min_length=1, description="two-way, ms")
    v: list[Positive] = Field(min_length=1, description="m/s")
    kind: Literal["rms", "interval", "average"] = Field(default="rms", description="what v is")

    @model_validator(mode="after")
    def _one_for_each(self) -> TableVelocity:
        if len(self.times_ms) != len(self.v):
            raise ValueError(f"{len(self.times_ms)} times_ms for {len(self.v)} v: give as many")
        return self


class _FileVelocity(_Velocity):
    path: str = Field(min_length=1, description="the file")
    kind: Literal["rms", "interval", "average"] | None = Field(
        default=None, description="what the values are; null: what the file says, else rms"
    )


class CubeVelocity(_FileVelocity):
    """V(x, y, t) on a grid, SEG-Y or Zarr."""

    type: Literal["cube"] = "cube"
    header_bytes: dict[str, int] = Field(
        default_factory=dict, description="{inline: 189, xline: 193, cdp_x: 181, cdp_y: 185}, when they are elsewhere"
    )
    dt_ms: Positive | None = Field(default=None, description="sample interval, ms, when the file's is wrong")


class AsciiVelocity(_FileVelocity):
    """Picks as text: rows of x y t v, of t v, or VELF cards."""

    type: Literal["ascii"] = "ascii"
    columns: str | None = Field(default=None, description="order of the columns, such as: x y t v")
    unit: Literal["auto", "ms", "s"] = Field(default="auto", description="of the times")


VelocityOptions = Annotated[
    ConstantVelocity | LinearVelocity | TableVelocity | CubeVelocity | AsciiVelocity, Field(discriminator="type")
]


class _Grid(Section):
    inlines: list[int] | None = Field(default=None, description="only these inline numbers")
    crosslines: list[int] | None = Field(default=None, description="only these crossline numbers")


class SurveyGrid(_Grid):
    """What covers the survey's midpoints."""

    type: Literal["survey"] = "survey"
    bin_size: tuple[Positive, Positive] | None = Field(default=None, description="m along inline and crossline axis")
    azimuth: float | None = Field(default=None, description="of the +inline axis, degrees")
    t_max_ms: Positive | None = Field(default=None, description="last output time, ms")
    dt_ms: Positive | None = Field(default=None, description="output sample interval, ms")


class _Times(_Grid):
    nt: int = Field(ge=1, description="samples")
    dt_ms: Positive = Field(description="ms")
    t0_ms: Annotated[float, Field(ge=0)] = Field(default=0.0, description="first output time, ms")


class ExplicitGrid(_Times):
    """Origin, direction, sizes."""

    type: Literal["explicit"] = "explicit"
    origin: Pair = Field(description="x, y of the first bin, m")
    azimuth: float = Field(description="of the +inline axis, degrees")
    nx: int = Field(ge=1, description="bins along the inline axis")
    ny: int = Field(ge=1, description="bins along the crossline axis")
    dx: Positive = Field(description="m")
    dy: Positive = Field(description="m")
    inline: tuple[int, int] = Field(default=(1, 1), description="first number and step")
    crossline: tuple[int, int] = Field(default=(1, 1), description="first number and step")
    crossline_side: Literal["right", "left"] = Field(default="right", description="of the +inline axis, on a map")


class CornersGrid(_Times):
    """Four corners of a rectangle."""

    type: Literal["corners"] = "corners"
    corners: tuple[Pair, Pair, Pair, Pair] = Field(description="x, y in m, around it; the inline axis first")
    dx: Positive = Field(description="m along the first side")
    dy: Positive = Field(description="m along the second")
    inline: tuple[int, int] = Field(default=(1, 1), description="first number and step")
    crossline: tuple[int, int] = Field(default=(1, 1), description="first number and step")
    tolerance: Positive | None = Field(default=None, description="how far a corner may be off, m")


class BoxGrid(_Times):
    """A box of the map, inlines to the north."""

    type: Literal["box"] = "box"
    x: Pair = Field(description="west and east, m")
    y: Pair = Field(description="south and north, m")
    dx: Positive = Field(description="m to the north")
    dy: Positive = Field(description="m to the east")


class LinesGrid(_Times):
    """Inline and crossline numbers, placed by three or more known bins."""

    type: Literal["lines"] = "lines"
    known: list[tuple[int, int, float, float]] = Field(min_length=3, description="[inline, crossline, x, y] each")
    inline: tuple[int, int, int] = Field(description="first, last, step")
    crossline: tuple[int, int, int] = Field(description="first, last, step")
    tolerance: Positive | None = Field(default=None, description="how far a bin may be off, m")


GridOptions = Annotated[SurveyGrid | ExplicitGrid | CornersGrid | BoxGrid | LinesGrid, Field(discriminator="type")]


class ApertureOptions(Section):
    """Which midpoints contribute."""

    dip: float | None = Field(default=_DEFAULT.dip, description="largest dip, degrees; null for no limit")
    radius: Positive | None = Field(default=_DEFAULT.radius, description="largest midpoint distance, m")
    taper: float = Field(default=_DEFAULT.taper, description="part of the radius that is tapered, 0 to 1")
    minimum: float = Field(default=_DEFAULT.minimum, description="radius that the dip limit leaves at early times, m")
    inline: Positive | None = Field(default=_DEFAULT.inline, description="largest distance along the inline axis, m")
    crossline: Positive | None = Field(default=_DEFAULT.crossline, description="and along the crossline axis, m")
    leg_dip: float | None = Field(default=_DEFAULT.leg_dip, description="largest angle of either leg, degrees")
    stretch: float | None = Field(default=_DEFAULT.stretch, description="largest stretch, T / t0 of flat events: 1.5")


class MuteOptions(Section):
    """What of the traces is left out."""

    header: bool = Field(default=False, description="from muts to mute, the header words")
    table: list[tuple[float, float]] | None = Field(default=None, description="[offset in m, time in ms] each, rising")
    taper_ms: Annotated[float, Field(ge=0)] = Field(default=20.0, description="over which the weight rises, ms")

    @model_validator(mode="after")
    def _something(self) -> MuteOptions:
        if not self.header and self.table is None:
            raise ValueError("neither header nor table is given: give one, or leave the mute null")
        return self


class OffsetGathers(Section):
    """Common-offset bins."""

    type: Literal["offset"] = "offset"
    edges: list[float] = Field(min_length=2, description="m, rising")
    along: float | None = Field(default=None, description="azimuth that makes offsets signed, degrees")


class AzimuthGathers(Section):
    """Azimuth sectors."""

    type: Literal["azimuth"] = "azimuth"
    edges: list[float] = Field(min_length=2, description="degrees, rising")
    reciprocal: bool = Field(default=True, description="opposite directions are the same")


class TileGathers(Section):
    """Offset-vector tiles."""

    type: Literal["tiles"] = "tiles"
    dx: Positive = Field(description="m along azimuth")
    dy: Positive = Field(description="m across it")
    azimuth: float = Field(default=0.0, description="of the first axis, degrees")
    reciprocal: bool = Field(default=False, description="opposite vectors are the same")


GatherOptions = Annotated[OffsetGathers | AzimuthGathers | TileGathers, Field(discriminator="type")]


class Algorithm(Section):
    """What is computed."""

    physics: Literal["straight", "curved", "vti"] = Field(default="straight", description="travel times")
    eta: float | None = Field(default=None, description="anellipticity, for vti")
    amplitude: Literal["true", "none"] = Field(default="true", description="weights")
    phase_filter: bool = Field(default=True, description="-d/dt first; false only for traces that are filtered already")
    antialias: Literal["bank", "triangle"] | None = Field(default=None, description="operator anti-alias filter")
    interpolation: Literal["linear", "cubic", "sinc8"] = Field(default="linear", description="between input samples")
    oversample: Literal[1, 2] = Field(default=1, description="2 puts a sample between any two first")
    spacing: tuple[float, float] | None = Field(default=None, description="of midpoints, m: [25, 25]; for antialias")
    area: Positive | None = Field(default=None, description="midpoint cell in m2; null takes bin_size, or dx times dy")
    aperture: ApertureOptions = ApertureOptions()
    normalize: Literal["fold", "illumination"] | None = Field(
        default=None, description="divide image and gathers by it"
    )
    mute: MuteOptions | None = Field(default=None, description="{header: true}, {table: [[0, 0], [2000, 1400]]}")
    dimension: Literal["3d", "2.5d", "2d"] = Field(default="3d", description="lines: 2d, or 2.5d for point sources")
    datum: float | Literal["floating"] | None = Field(
        default=None, description="elevation of the image, m, or floating; legs start at theirs; null: all is level"
    )
    replacement: Positive | None = Field(default=None, description="velocity between datum and surface, m/s")
    gathers: GatherOptions | None = Field(default=None, description="{type: offset, edges: [0, 400]}; azimuth; tiles")

    @field_validator("amplitude", mode="before")
    @classmethod
    def _yaml_true(cls, value: object) -> object:
        return "true" if value is True else value  # in YAML a bare true is not text


class ScanOptions(Section):
    """Images for several percentages of the velocity from one pass over the traces."""

    first: Positive = Field(default=90.0, description="%")
    last: Positive = Field(default=110.0, description="%")
    step: Positive = Field(default=2.5, description="%")
    window_ms: Positive = Field(default=40.0, description="of the semblance or power that picks go by, ms")

    @model_validator(mode="after")
    def _rising(self) -> ScanOptions:
        if self.last < self.first:
            raise ValueError(f"{self.first:g} % does not lead to {self.last:g} %: give first, then last")
        return self


class PreviewOptions(Section):
    """A picture, not data: one line in some first, then only where something is."""

    coarse: int = Field(default=4, ge=2, description="one line in this many first")
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(default=0.001, description="of the peak; what is migrated")
    dilate: int = Field(default=2, ge=0, description="coarse pillars by which that area grows")


class Products(Section):
    """What is made besides the image."""

    pyramid: bool = Field(default=False, description="coarser levels in the Zarr folder")
    qc: str | None = Field(default=None, description="report to write, .html")


class Output(Section):
    """Where the image goes."""

    zarr: str | None = Field(default="image.zarr", description="image, fold and gathers; a folder")
    segy: str | None = Field(default=None, description="the stack as SEG-Y")
    overwrite: bool = Field(default=False, description="replace what is there")
    products: Products = Products()

    @model_validator(mode="after")
    def _somewhere(self) -> Output:
        if self.zarr is None and self.segy is None:
            raise ValueError("zarr and segy are both null: name one")
        if self.zarr is None and (self.products.pyramid or self.products.qc):
            raise ValueError("pyramid and qc are made from the Zarr folder: name zarr too")
        return self


class Checkpointing(Section):
    """What is kept while the job runs."""

    enabled: bool = Field(default=True, description="false: an interrupted job starts afresh")
    folder: str | None = Field(default=None, description="null: beside the image, with .checkpoint after its name")
    seconds: Annotated[float, Field(ge=0)] = Field(default=60.0, description="least time between two writings, s")


class Limits(Section):
    """When the job pauses by itself."""

    minutes: Positive | None = Field(default=None, description="of running; a batch queue's wall time, less a margin")


class Execution(Section):
    """Where and how it runs."""

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1 or mps")
    devices: list[str] | Literal["all"] | None = Field(default=None, description="GPUs: [cuda:0, cuda:1] or all")
    kernel: str | None = Field(default=None, description="version; null takes the best, see `elinvar kernels`")
    threads: Annotated[int, Field(ge=1)] | None = Field(default=None, description="CPU threads")
    in_flight: Annotated[int, Field(ge=1)] | None = Field(default=None, description="trace blocks that exist at a time")
    memory: str | int | None = Field(default=None, description="of each device, at most: 8 GiB")
    cluster: str | None = Field(default=None, description="local, or the address of a Dask scheduler: tcp://host:8786")
    shards: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="parts the traces are cut into for a cluster; null: by workers and work"
    )
    checkpoint: Checkpointing = Checkpointing()
    limits: Limits = Limits()

    @field_validator("memory")
    @classmethod
    def _readable(cls, value: str | int | None) -> str | int | None:
        memory_bytes(value)
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Execution:
        if self.limits.minutes is not None and not self.checkpoint.enabled:
            raise ValueError("limits.minutes pauses a job, which needs checkpoint.enabled: true")
        if self.cluster is not None and self.devices is not None:
            raise ValueError("devices are of this machine and cluster's are not: leave one null")
        return self


class JobConfig(Section):
    """A whole job."""

    elinvar: Literal[1] = Field(default=1, description="format of this file")
    input: Input
    velocity: VelocityOptions
    grid: GridOptions = SurveyGrid()
    algorithm: Algorithm = Algorithm()
    scan: ScanOptions | None = Field(
        default=None, description="{first: 90, last: 110, step: 2.5}: an image for each percentage of the velocity"
    )
    preview: PreviewOptions | None = Field(
        default=None, description="{coarse: 4}: a picture first; its fold is 0 where it is interpolated"
    )
    output: Output = Output()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _one_result(self) -> JobConfig:
        wanted = [name for name in ("scan", "preview") if getattr(self, name) is not None]
        if not wanted:
            return self
        if len(wanted) > 1:
            raise ValueError("scan and preview are two different results: leave one null")
        if self.output.segy is not None:
            raise ValueError(f"output.segy holds one image, not a {wanted[0]}: leave it null")
        if self.preview is not None and self.algorithm.gathers is not None:
            raise ValueError("algorithm.gathers belong to a real image: leave them null for a preview")
        if self.preview is not None and self.execution.limits.minutes is not None:
            raise ValueError("execution.limits.minutes: a preview is not kept and cannot pause: leave it null")
        return self


def plain(value: Any) -> Any:
    """Return a model, or part of one, as lists, dictionaries and scalars."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return dict(value) if isinstance(value, dict) else value
