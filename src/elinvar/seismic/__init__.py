"""Prestack Kirchhoff time migration: SEG-Y in, image, fold and gathers out.

::

    from elinvar import seismic

    survey = seismic.open_segy("line.sgy")
    image = seismic.migrate(survey, seismic.Velocity.constant(2500), seismic.Grid.from_survey(survey))
    image.to_zarr("image.zarr")

Metres, seconds, m/s; azimuths in degrees clockwise from north. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

_HOME = {
    "Aperture": "aperture",
    "AzimuthSectors": "binning",
    "Checkpoint": "checkpoint",
    "Coverage": "covering",
    "Grid": "grid",
    "Image": "image",
    "LinearOperator": "linear",
    "Mute": "mute",
    "OffsetBins": "binning",
    "OffsetVectorTiles": "binning",
    "Scan": "scanned",
    "Survey": "survey",
    "SurveyWarning": "survey",
    "Velocity": "velocity",
    "analyse": "analysis",
    "coverage": "covering",
    "demigrate": "demigration",
    "export_segy": "export",
    "floating_datum": "elevations",
    "illumination": "analysis",
    "migrate": "migration",
    "open_image": "volume",
    "open_mdio": "mdio",
    "open_segy": "survey",
    "open_su": "su",
    "open_zarr": "archive",
    "plan": "migration",
    "preview": "adaptive",
    "preview_cost": "adaptive",
    "plan_scan": "velocity_scan",
    "qc_report": "qc",
    "scan": "velocity_scan",
    "to_datum": "statics",
    "travel_time": "traveltime",
}
_MODULES = ("gathers", "pyramid", "synthetic", "targets", "viewer")

__all__ = [
    "Aperture",
    "AzimuthSectors",
    "Checkpoint",
    "Coverage",
    "Grid",
    "Image",
    "LinearOperator",
    "Mute",
    "OffsetBins",
    "OffsetVectorTiles",
    "Scan",
    "Survey",
    "SurveyWarning",
    "Velocity",
    "analyse",
    "coverage",
    "demigrate",
    "export_segy",
    "floating_datum",
    "gathers",
    "illumination",
    "migrate",
    "open_image",
    "open_mdio",
    "open_segy",
    "open_su",
    "open_zarr",
    "plan",
    "plan_scan",
    "preview",
    "preview_cost",
    "pyramid",
    "qc_report",
    "scan",
    "synthetic",
    "targets",
    "to_datum",
    "travel_time",
    "viewer",
]

if TYPE_CHECKING:
    from . import gathers, pyramid, synthetic, targets, viewer
    from .adaptive import preview, preview_cost
    from .analysis import analyse, illumination
    from .aperture import Aperture
    from .archive import open_zarr
    from .binning import AzimuthSectors, OffsetBins, OffsetVectorTiles
    from .checkpoint import Checkpoint
    from .covering import Coverage, coverage
    from .demigration import demigrate
    from .elevations import floating_datum
    from .export import export_segy
    from .grid import Grid
    from .image import Image
    from .linear import LinearOperator
    from .mdio import open_mdio
    from .migration import migrate, plan
    from .mute import Mute
    from .qc import qc_report
    from .scanned import Scan
    from .statics import to_datum
    from .su import open_su
    from .survey import Survey, SurveyWarning, open_segy
    from .traveltime import travel_time
    from .velocity import Velocity
    from .velocity_scan import plan_scan, scan
    from .volume import open_image

__getattr__, __dir__ = lazy(__name__, _HOME, _MODULES)
