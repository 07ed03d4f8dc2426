"""DPC and IDPC: differential phase contrast from the centre of mass, and the phase that it integrates to.

Both are made of images, `DPC` of a `CenterOfMass`, `IDPC` of a `DPC`. Conventions: vectors are (y, x) = (row, col); a
vector v on the detector is M v in the scan, M = [[cos t, -sin t], [sin t, cos t]] with t the rotation, after rows and
columns are exchanged where the detector is transposed. So t is positive from the rows towards the columns:
counter-clockwise in a picture whose rows run down. The centre of mass points towards atoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import scipy.fft

from live4d_ophyd import checks
from live4d_ophyd.calibration import wavelength_m
from live4d_ophyd.imaging.method import SCAN, UNIT, Images, Output, checked_name, number
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.units import METRES

DESCAN = ("plane", "constant", "none")
PHASE_UNITS = ("px", "rad")


@dataclass(frozen=True)
class DPC:
    """The centre of mass in the scan's frame, its magnitude and angle, shown as a colour wheel, and its divergence.

    Outputs, of the vector v = M (c - descan) with c the centre of mass: ``<name>_y`` and ``<name>_x``, px;
    ``<name>_magnitude``, px; ``<name>_angle``, degrees from +x towards +y; ``<name>_divergence``, px a unit of the
    scan, whose negative is proportional to the projected charge density. Positions without a centre of mass are NaN,
    and so is the divergence beside them.

    Rotation and transposition are found from the curl, which a field of a potential has not: closed form of the angle
    with the least <curl^2>, for the vector as it is and with its components exchanged, whichever has less. That leaves
    the angle open by 180 degrees. It is chosen such that the divergence has its heavy tail below 0, as atoms are sinks
    of the vector. Four numbers tell what was found: ``<name>_rotation_used``, degrees; ``<name>_transpose_used``, 1 or
    0; ``<name>_curl``, the rms of the curl over that of the divergence, which is far below 1 where the angle is
    certain; and ``<name>_skewness`` of the divergence: where it is near 0, the angle may be wrong by 180 degrees, and
    the phase has the wrong sign. (Savitzky et al., Microsc. Microanal. 27, 712 (2021); Lazic et al., Ultramicroscopy
    160, 265 (2016).)"""

    name: str
    #: name of the `CenterOfMass`
    com: str = field(default="com", metadata=UNIT)
    #: what is subtracted: a "plane" fitted over the scan, a "constant" or "none"
    descan: str = field(default="plane", kw_only=True)
    #: from the detector to the scan, degrees; None: that of the calibration, with its transposition, and without one
    #: found from the curl
    rotation: float | None = field(default=None, kw_only=True, metadata={"units": "deg"})
    #: whether rows and columns of the detector are exchanged before; used where a rotation is given
    transpose: bool = field(default=False, kw_only=True)
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    refit_rows: ClassVar[int] = 16

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_name(self.com)
        set_ = object.__setattr__
        if self.descan not in DESCAN:
            raise ValueError(
                f"{self.name}.descan is {checks.shown(self.descan)}; expected one of {', '.join(DESCAN)}"
            )
        if self.rotation is not None:
            set_(self, "rotation", number(f"{self.name}.rotation", self.rotation))
        for name in ("transpose", "enabled"):
            set_(self, name, checks.switch(f"{self.name}.{name}", getattr(self, name)))

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Images:
        return Images((f"{self.com}_y", f"{self.com}_x"))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        name, shape = self.name, scan.shape
        return {
            f"{name}_y": Output(SCAN, shape, "px", preview=False),
            f"{name}_x": Output(SCAN, shape, "px", preview=False),
            f"{name}_magnitude": Output(SCAN, shape, "px"),
            f"{name}_angle": Output(SCAN, shape, "deg", brightness=f"{name}_magnitude"),
            f"{name}_divergence": Output(SCAN, shape, f"px/{scan.unit}"),
            f"{name}_rotation_used": Output((), (), "deg"),
            f"{name}_transpose_used": Output((), ()),
            f"{name}_curl": Output((), ()),
            f"{name}_skewness": Output((), ()),
        }

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Any:
        raise TypeError("it is made of images")

    def refit(
        self,
        series: SeriesInfo,
        scan: ScanGrid,
        parts: Mapping[str, np.ndarray],
        fit: Any,
        stop: Callable[[], bool],
    ) -> Fit:
        vector = self._vector(parts)
        descan = fitted_descan(vector, self.descan)
        vector = vector - descan_at(descan, scan.shape)
        rotation, transpose = series.calibration.turn(self.rotation, self.transpose)
        if rotation is None:
            return Fit(descan, *fitted_rotation(vector, scan.steps))
        turned = rotated(vector, rotation, transpose)
        return Fit(descan, rotation, transpose, *curl_and_skewness(turned, scan.steps))

    def results(
        self, series: SeriesInfo, scan: ScanGrid, parts: Mapping[str, np.ndarray], fit: Any
    ) -> Mapping[str, np.ndarray]:
        vector, known = self._vector(parts), fit
        if known is None:  # the first rows: nothing can be fitted to them yet
            constant = "none" if self.descan == "none" else "constant"
            known = Fit(fitted_descan(vector, constant), math.nan, False, math.nan, math.nan)
        given, transpose = series.calibration.turn(self.rotation, self.transpose)
        turn = (given or 0.0) if math.isnan(known.rotation) else known.rotation
        transpose = transpose if math.isnan(known.rotation) else known.transposed
        vector = rotated(vector - descan_at(known.descan, scan.shape), turn, transpose)
        name, (y, x) = self.name, vector
        return {
            f"{name}_y": y,
            f"{name}_x": x,
            f"{name}_magnitude": np.hypot(y, x),
            f"{name}_angle": np.degrees(np.arctan2(y, x)),
            f"{name}_divergence": divergence_and_curl(vector, scan.steps)[0],
            f"{name}_rotation_used": np.array(known.rotation),
            f"{name}_transpose_used": np.array(
                math.nan if math.isnan(known.rotation) else float(known.transposed)
            ),
            f"{name}_curl": np.array(known.curl),
            f"{name}_skewness": np.array(known.skewness),
        }

    def _vector(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([parts[f"{self.com}_y"], parts[f"{self.com}_x"]])


@dataclass(frozen=True, eq=False)
class Fit:
    """What was found of a scan; NaN where too little of it is there."""

    descan: np.ndarray  #: (3, 2): constant, a row, a column, of (y, x)
    rotation: float  #: degrees
    transposed: bool
    curl: float  #: rms over that of the divergence
    skewness: float  #: of the divergence


def fitted_descan(vector: np.ndarray, kind: str) -> np.ndarray:
    """Least squares over the positions that are there: of ``vector`` (2, rows, cols) the plane (3, 2), or a part."""
    coefficients = np.zeros((3, 2))
    seen = np.isfinite(vector).all(axis=0)
    if kind == "none" or not seen.any():
        return coefficients
    rows, cols = np.nonzero(seen)
    there = vector[:, seen].T
    if kind == "constant":
        coefficients[0] = there.mean(axis=0)
        return coefficients
    design = np.stack([np.ones(len(rows)), rows, cols], axis=1)
    coefficients[:] = np.linalg.lstsq(design, there, rcond=None)[0]
    return coefficients


def descan_at(coefficients: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The plane of these coefficients, (2, rows, cols)."""
    rows, cols = np.indices(shape)
    constant, by_row, by_col = coefficients[:, :, np.newaxis, np.newaxis]
    return constant + by_row * rows + by_col * cols


def rotated(vector: np.ndarray, degrees: float, transposed: bool) -> np.ndarray:
    """``vector`` (2, rows, cols) of the detector in the scan's frame."""
    y, x = vector[::-1] if transposed else vector
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.stack([c * y - s * x, s * y + c * x])


def divergence_and_curl(vector: np.ndarray, steps: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """d y/dy + d x/dx and d x/dy - d y/dx of (2, rows, cols), by central differences; NaN beside what is missing."""
    if min(vector.shape[1:]) < 2:
        nothing = np.full(vector.shape[1:], np.nan)
        return nothing, nothing
    (y_y, y_x), (x_y, x_x) = (np.gradient(part, *steps) for part in vector)
    return y_y + x_x, x_y - y_x


def fitted_rotation(vector: np.ndarray, steps: tuple[float, float]) -> tuple[float, bool, float, float]:
    """Rotation in degrees, whether transposed, and `curl_and_skewness` with them, of (2, rows, cols) without descan.

    curl' = curl cos t + div sin t, so that <curl'^2> = A cos^2 + B sin^2 + 2 C sin cos with A = <curl^2>, B = <div^2>,
    C = <curl div> is least where tan 2t = -2C / (B - A).
    """
    found = []
    for transposed in (False, True):
        inner = _inner(*divergence_and_curl(rotated(vector, 0.0, transposed), steps))
        if inner is None:
            return math.nan, False, math.nan, math.nan
        div, curl = inner
        a, b, c = (curl**2).mean(), (div**2).mean(), (curl * div).mean()
        angle = 0.5 * math.atan2(-2 * c, b - a)
        least = a * math.cos(angle) ** 2 + b * math.sin(angle) ** 2 + c * math.sin(2 * angle)
        found.append((least, math.degrees(angle), transposed))
    _, degrees, transposed = min(found)
    curl_part, skewness = curl_and_skewness(rotated(vector, degrees, transposed), steps)
    if skewness > 0:
        degrees, skewness = degrees - math.copysign(180.0, degrees), -skewness
    return degrees, transposed, curl_part, skewness


def curl_and_skewness(vector: np.ndarray, steps: tuple[float, float]) -> tuple[float, float]:
    """The curl's rms over the divergence's, and the divergence's skewness; NaN where there are too few positions."""
    inner = _inner(*divergence_and_curl(vector, steps))
    if inner is None:
        return math.nan, math.nan
    div, curl = inner
    return float(np.sqrt((curl**2).mean() / (div**2).mean())), skewness_of(div)


def skewness_of(values: np.ndarray) -> float:
    """Third standardized moment: above 0 where the tail above the mean is the heavier one."""
    spread = values - values.mean()
    return float((spread**3).mean() / (spread**2).mean() ** 1.5)


def _inner(div: np.ndarray, curl: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both where all neighbours are there; None for less than 9 positions, or a field that is the same everywhere."""
    div, curl = div[1:-1, 1:-1], curl[1:-1, 1:-1]
    there = np.isfinite(div) & np.isfinite(curl)
    if np.count_nonzero(there) < 9 or not (div[there].std() > 0 or curl[there].std() > 0):
        return None
    return div[there], curl[there]


@dataclass(frozen=True)
class IDPC:
    """Integrated differential phase contrast: the phase whose gradient is the centre of mass, with mean 0.

    Least squares in Fourier space, F{phi} = (q_y F{g_y} + q_x F{g_x}) / (2 pi i q^2), with the gradient g continued by
    mirrors such that the phase goes on without a step at the edges. ``high_pass`` multiplies it by q^2 / (q^2 +
    high_pass^2). Positions without a centre of mass count as a gradient of 0, and are NaN in the image.

    In ``rad`` (of a thin phase object: the phase convolved with the probe's intensity) g = 2 pi k, with k the centre of
    mass as a spatial frequency. That needs the electrons' energy, the calibrated angle of a pixel and the scan's step
    as a length. In ``px`` it is the integral of the centre of mass over the scan. (Lazic et al., Ultramicroscopy 160,
    265 (2016).)
    """

    name: str
    #: name of the `DPC`
    dpc: str = field(default="dpc", metadata=UNIT)
    #: "px": centre of mass in px times the scan's unit; "rad"
    unit: str = field(default="px", kw_only=True, metadata=UNIT)
    #: below this spatial frequency noise and descan outweigh the phase, cycles a scan position; 0: nothing is damped
    high_pass: float = field(default=0.03, kw_only=True, metadata={"least": 0.0})
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_name(self.dpc)
        if self.unit not in PHASE_UNITS:
            raise ValueError(
                f"{self.name}.unit is {checks.shown(self.unit)}; expected one of {', '.join(PHASE_UNITS)}"
            )
        set_ = object.__setattr__
        set_(self, "high_pass", number(f"{self.name}.high_pass", self.high_pass))
        if self.high_pass < 0:
            raise ValueError(f"{self.name}.high_pass is {self.high_pass:g}; expected at least 0")
        set_(self, "enabled", checks.switch(f"{self.name}.enabled", self.enabled))

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Images:
        self._gradient_of_a_px(series, scan)
        return Images((f"{self.dpc}_y", f"{self.dpc}_x"))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        units = "rad" if self.unit == "rad" else f"px {scan.unit}"
        return {self.name: Output(SCAN, scan.shape, units)} if self.enabled else {}

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Any:
        raise TypeError("it is made of images")

    def results(
        self, series: SeriesInfo, scan: ScanGrid, parts: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        vector = np.stack([parts[f"{self.dpc}_y"], parts[f"{self.dpc}_x"]])
        phase = integrated(self._gradient_of_a_px(series, scan) * vector, scan.steps, self.high_pass)
        return {self.name: phase}

    def _gradient_of_a_px(self, series: SeriesInfo, scan: ScanGrid) -> float:
        """The gradient, a unit of the scan, that moves the centre of mass by 1 px. Raises ValueError if not known."""
        if self.unit == "px":
            return 1.0
        metres, mrad, energy = optics_of(
            f"{self.name} is in rad, and", series, scan, "; or make it with unit='px'"
        )
        return 2 * math.pi * (mrad * 1e-3 / wavelength_m(energy)) * metres


def optics_of(why: str, series: SeriesInfo, scan: ScanGrid, remedy: str = "") -> tuple[float, float, float]:
    """The unit of the scan in m, how wide a pixel is in mrad, and the electrons' energy in eV.

    Raises ValueError, which begins with ``why``, for the first that is not known.
    """
    metres, mrad, energy = METRES.get(scan.unit), series.calibration.mrad_per_px, series.energy
    missing = {
        "the scan's step is in no unit of length: set scan_step_y, scan_step_x and scan_unit": metres,
        "how many mrad a pixel is wide is not known: set calibration_mrad_per_px": mrad,
        "the series does not say the electrons' energy: set it on the detector": energy,
    }
    for what, value in missing.items():
        if not value:
            raise ValueError(f"{why} {what}{remedy}")
    assert metres is not None
    assert mrad is not None
    assert energy is not None
    return metres, mrad, energy


def integrated(gradient: np.ndarray, steps: tuple[float, float], high_pass: float = 0.0) -> np.ndarray:
    """The scalar (rows, cols), mean 0, whose gradient is nearest to ``gradient`` (2, rows, cols); NaN where that is."""
    seen = np.isfinite(gradient).all(axis=0)
    y, x = np.where(seen, gradient, 0.0)
    rows, cols = seen.shape
    # Mirrored at the edges a scalar is even: its derivative along an axis is odd along that one, even along the other.
    y = np.concatenate([y, -y[::-1]], axis=0)
    y = np.concatenate([y, y[:, ::-1]], axis=1)
    x = np.concatenate([x, x[::-1]], axis=0)
    x = np.concatenate([x, -x[:, ::-1]], axis=1)
    q_y, q_x = scipy.fft.fftfreq(2 * rows)[:, np.newaxis], scipy.fft.rfftfreq(2 * cols)
    damped = q_y**2 + q_x**2
    damped = damped / np.maximum(damped + high_pass**2, 1e-300)  # 0 at the mean
    q_y, q_x = q_y / steps[0], q_x / steps[1]
    square = q_y**2 + q_x**2
    square[0, 0] = 1.0
    spectrum = (q_y * scipy.fft.rfft2(y) + q_x * scipy.fft.rfft2(x)) * (damped / (2j * math.pi * square))
    spectrum[rows] = 0.0  # at Nyquist's frequency an even image is 0 on these positions
    spectrum[:, cols] = 0.0
    whole = scipy.fft.irfft2(spectrum, (2 * rows, 2 * cols))[:rows, :cols]
    return np.where(seen, whole, np.nan)
