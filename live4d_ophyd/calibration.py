"""Calibration: where the bright-field disk is on the detector, what angle a pixel is, and how the detector is turned
against the scan. A plain frozen value.

Virtual detectors whose lengths are in units of the bright-field radius, or in mrad, are turned into px with it: one
calibration moves them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from scipy import constants

#: what lengths on the pattern may be in: pixels, scattering angle, radii of the bright-field disk
UNITS = ("px", "mrad", "bf")

_REST_ENERGY_EV = constants.m_e * constants.c**2 / constants.e  # of the electron
_HC_EV_M = constants.h * constants.c / constants.e


def wavelength_m(energy_ev: float) -> float:
    """De Broglie wavelength of an electron of this kinetic energy, relativistic."""
    return _HC_EV_M / math.sqrt(energy_ev * (energy_ev + 2 * _REST_ENERGY_EV))


#: fields above 0, and their units
_LENGTHS = {
    "bf_radius": "px",
    "mrad_per_px": "mrad",
    "ellipticity": "",
    "semiangle": "mrad",
    "camera_length": "m",
    "energy": "eV",
}


@dataclass(frozen=True)
class Calibration:
    """What is known of the pattern's geometry; None is not known.

    Raises ValueError for a radius or an angle that is not positive, and a centre that is no position. A centre may lie
    off the detector, as that of a beam that is shifted for dark field does.
    """

    #: of the bright-field disk, (row, col), px
    center: tuple[float, float] | None = None
    #: of the bright-field disk, px
    bf_radius: float | None = None
    #: scattering angle that a pixel is wide, mrad
    mrad_per_px: float | None = None
    #: of the bright-field disk: major over minor semi-axis; recorded, virtual detectors stay circles
    ellipticity: float | None = None
    #: of the major axis, from the detector's rows towards its columns, degrees from 0 to 180
    ellipse_angle: float | None = None
    #: from the detector to the scan, degrees, as that of `DPC`; for methods that are given none
    rotation: float | None = None
    #: whether rows and columns of the detector are exchanged before; with ``rotation``
    transpose: bool = False
    #: convergence semi-angle of the probe, mrad
    semiangle: float | None = None
    #: from the specimen to the detector, as its pixels are wide, m
    camera_length: float | None = None
    #: of the electrons, eV
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.center is not None:
            center = tuple(self.center) if isinstance(self.center, Sequence) else ()
            if len(center) != 2 or not all(map(_is_finite, center)):
                raise ValueError(f"center of the calibration is {self.center!r}; expected (row, col) in px")
            object.__setattr__(self, "center", (float(center[0]), float(center[1])))
        for name, unit in _LENGTHS.items():
            value = getattr(self, name)
            if value is None:
                continue
            least = "a number of at least 1" if name == "ellipticity" else f"a number above 0 {unit}"
            if not _is_finite(value) or value <= 0 or (name == "ellipticity" and value < 1):
                raise ValueError(f"{name} of the calibration is {value!r}; expected {least}, or None")
            object.__setattr__(self, name, float(value))
        for name in ("ellipse_angle", "rotation"):
            value = getattr(self, name)
            if value is not None and not _is_finite(value):
                raise ValueError(f"{name} of the calibration is {value!r}; expected degrees, or None")
            object.__setattr__(self, name, None if value is None else float(value))
        if not isinstance(self.transpose, bool):
            raise ValueError(f"transpose of the calibration is {self.transpose!r}; expected True or False")

    def turn(self, rotation: float | None, transpose: bool) -> tuple[float | None, bool]:
        """Rotation and transpose of a method: its own, and where it has no ``rotation`` those of the calibration."""
        own = rotation is not None or self.rotation is None
        return (rotation, transpose) if own else (self.rotation, self.transpose)

    def binned(self, by: float) -> Calibration:
        """The same on frames in which squares of ``by`` x ``by`` of these pixels are one; 1 / b undoes it.

        Whole numbers are centres of pixels: a position p is (p + 0.5) / by - 0.5.
        """
        scaled = {
            "center": None if self.center is None else tuple((p + 0.5) / by - 0.5 for p in self.center),
            "bf_radius": None if self.bf_radius is None else self.bf_radius / by,
            "mrad_per_px": None if self.mrad_per_px is None else self.mrad_per_px * by,
        }
        return replace(self, **scaled)  # type: ignore[arg-type]

    def in_px(self, unit: str, what: str) -> float:
        """How many px one ``unit`` is. Raises ValueError that names ``what`` if the calibration does not say."""
        if unit == "px":
            return 1.0
        if unit == "bf":
            if self.bf_radius is None:
                raise ValueError(
                    f"{what} is in units of the bright-field radius, which is not known: run "
                    "calibrate_bright_field, or set calibration_bf_radius"
                )
            return self.bf_radius
        if self.mrad_per_px is None:
            raise ValueError(
                f"{what} is in mrad, and how many a pixel is wide is not known: set calibration_mrad_per_px"
            )
        return 1 / self.mrad_per_px


def checked_unit(what: str, unit: Any) -> None:
    """Raise ValueError unless it is one of `UNITS`."""
    if not isinstance(unit, str) or unit not in UNITS:
        raise ValueError(
            f"unit of {what} is {unit!r}; expected one of {', '.join(UNITS)} (radii of the bright-field disk)"
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


#: nothing is known
NOT_CALIBRATED = Calibration()
