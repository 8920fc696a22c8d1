"""Passes: what a graph is made of.

Point-wise passes fuse with their neighbours into one kernel; spatial ones look at several pixels. All work on linear
ACEScg but those marked ``display``, which belong behind the output transform.
"""

from __future__ import annotations

from elinvar.video.passes.base import Animated, Custom, Moment, Pass, Point, Spatial
from elinvar.video.passes.blur import Bilateral, BoxBlur, GaussianBlur, Temporal
from elinvar.video.passes.finish import FalseColour, Grain, Watermark
from elinvar.video.passes.grade import CDL, LUT, Contrast, Exposure, Grade, Saturation, ToneMap, WhiteBalance
from elinvar.video.passes.lens import DepthOfField, Dispersion, Lens, Vignette
from elinvar.video.passes.light import Anamorphic, Bloom, Diffusion, Halation, LightLeak
from elinvar.video.passes.scale import Scale
from elinvar.video.passes.titles import Text
from elinvar.video.passes.transitions import EASINGS, Crossfade, Dip, Iris, Push, Slide, Wipe

__all__ = [
    "CDL",
    "EASINGS",
    "LUT",
    "Anamorphic",
    "Animated",
    "Bilateral",
    "Bloom",
    "BoxBlur",
    "Contrast",
    "Crossfade",
    "Custom",
    "DepthOfField",
    "Diffusion",
    "Dip",
    "Dispersion",
    "Exposure",
    "FalseColour",
    "GaussianBlur",
    "Grade",
    "Grain",
    "Halation",
    "Iris",
    "Lens",
    "LightLeak",
    "Moment",
    "Pass",
    "Point",
    "Push",
    "Saturation",
    "Scale",
    "Slide",
    "Spatial",
    "Temporal",
    "Text",
    "ToneMap",
    "Vignette",
    "Watermark",
    "WhiteBalance",
    "Wipe",
]
