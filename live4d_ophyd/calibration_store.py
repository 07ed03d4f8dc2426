"""Calibrations by name, kept across sessions: one JSON file each, in the user's data folder.

In: a `StoredCalibration`: what was calibrated, with pixel mask and gain as arrays. Out: the same, in any later session
of this user. A file is replaced in one step, so that nobody reads half of one. Any thread.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.calibration import Calibration
from live4d_ophyd.folders import FOLDERS, make_private
from live4d_ophyd.packed import packed, unpacked

log = logging.getLogger(__name__)

#: of a file, as its first key says
_FORMAT = 1
#: pixels of a mask or a gain, at most
_MOST_PIXELS = 1 << 26
#: Unix time: the year 5138, which every calendar still has
_END_OF_TIME = 1e11
#: bytes of a name, as a file's name has at most 255
_LONGEST_NAME = 200
_NAME = re.compile(r"\w[\w .,+()-]{0,98}[\w)]|\w")


class NoSuchCalibration(LookupError):
    """There is no stored calibration of that name; the text has those that there are."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, eq=False)
class StoredCalibration:
    """A calibration under its name, with all that a device is set to when it is loaded."""

    name: str
    calibration: Calibration
    #: rows and columns of the frames that it holds for, px; None: not known
    shape: tuple[int, int] | None = None
    #: what becomes of bad pixels: "exclude" or "spread"
    bad_pixels: str = "exclude"
    #: (q_y, q_x), not 0 where a pixel is bad; None: no mask
    pixel_mask: np.ndarray | None = None
    #: factor of each pixel, (q_y, q_x); None: no gain
    gain: np.ndarray | None = None
    #: the runs that measured it, ``bright_field=UID rotation=UID``
    runs: str = ""
    #: as the series said: description and serial number
    detector: str = ""
    uid: str = field(default_factory=lambda: uuid4().hex)
    #: Unix time
    saved: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        checked_name(self.name)
        checks.bad_pixels(self.bad_pixels)
        if self.shape is not None and not all(0 < side <= _MOST_PIXELS for side in self.shape):
            raise ValueError(f"the calibration {self.name!r} is of frames of {self.shape} px")
        if not 0 <= self.saved < _END_OF_TIME:
            raise ValueError(
                f"the calibration {self.name!r} was saved at {self.saved}; expected Unix time in s"
            )
        for what, array in (("pixel_mask", self.pixel_mask), ("gain", self.gain)):
            if array is not None:
                getattr(checks, what)(array)
                if self.shape is not None and array.shape != tuple(self.shape):
                    raise ValueError(
                        f"{what} of the calibration {self.name!r} has the shape {array.shape}, its frames {self.shape}"
                    )

    def __str__(self) -> str:
        """One line for a list."""
        known, parts = self.calibration, []
        if known.bf_radius is not None:
            parts.append(f"radius {known.bf_radius:.2f} px")
        if known.mrad_per_px is not None:
            parts.append(f"{known.mrad_per_px:.4g} mrad/px")
        if known.rotation is not None:
            parts.append(f"rotation {known.rotation:.1f} deg")
        if self.pixel_mask is not None:
            parts.append(f"{np.count_nonzero(self.pixel_mask)} bad px")
        if self.gain is not None:
            parts.append("flat field")
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.saved))
        frames = "" if self.shape is None else f", {self.shape[0]} x {self.shape[1]} px"
        return f"{self.name!r}: {', '.join(parts) or 'nothing'} (saved {when}{frames})"

    def without_gain(self) -> StoredCalibration:
        """The same without its flat field."""
        return replace(self, gain=None)

    def on(self, shape: tuple[int, int] | None) -> StoredCalibration:
        """The same on frames of ``shape``, where they are these in other squares of pixels; None: not known, as it is.

        Positions and lengths follow exactly; binned, a pixel is bad if one in it is. Raises ValueError for frames that
        are no binning of each other, and for a gain, or bad pixels on frames that are binned less, which nobody knows.
        """
        if shape is None or self.shape is None or tuple(shape) == tuple(self.shape):
            return self
        why = (
            f"the calibration {self.name!r} is of frames of {self.shape[0]} x {self.shape[1]} px, and those of the "
            f"detector have {shape[0]} x {shape[1]}"
        )
        coarser = shape[0] < self.shape[0]
        large, small = (self.shape, shape) if coarser else (shape, self.shape)
        by = large[0] // small[0]
        if by < 2 or any(whole // by != part for whole, part in zip(large, small)):
            raise ValueError(f"{why}: no binning makes one of the other. Calibrate on these")
        if self.gain is not None:
            raise ValueError(
                f"{why}: its flat field is not that of the {by} x {by} squares. Measure one with this binning, or load "
                "it with gain=False"
            )
        mask = self.pixel_mask
        if mask is not None and mask.any():
            if not coarser:
                raise ValueError(
                    f"{why}: which of the pixels in a bad square are bad is not known. Load one of unbinned frames"
                )
            rows, cols = shape
            whole = mask[: rows * by, : cols * by].astype(bool)
            mask = np.logical_or.reduce(whole.reshape(rows, by, cols, by), axis=(1, 3))
        elif mask is not None:
            mask = np.zeros(shape, bool)
        calibration = self.calibration.binned(by if coarser else 1 / by)
        return replace(self, calibration=calibration, pixel_mask=mask, shape=(shape[0], shape[1]))


class Calibrations(list[StoredCalibration]):
    """Stored calibrations, the newest first; one a line at a prompt."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or f"no calibration is stored in {folder()}"


def checked_name(name: Any) -> None:
    """Raise ValueError unless it can be the name of a stored calibration, which names a file, too."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"a calibration cannot be called {checks.shown(name)}; expected up to 100 letters, digits, spaces and "
            "_ . , + ( ) -, a letter or digit first: '2026-11-28 200 kV 20 mrad'"
        )


def folder() -> Path:
    """Where they are: ``$XDG_DATA_HOME/live4d-ophyd/calibrations``."""
    return FOLDERS.user_data_path / "calibrations"


def calibrations() -> Calibrations:
    """All stored calibrations, the newest first. A file that cannot be read is logged, and left out."""
    found = Calibrations()
    for path in folder().glob("*.json"):
        try:
            found.append(_read(path))
        except (OSError, ValueError) as error:
            log.warning("%s", error)
    found.sort(key=lambda stored: -stored.saved)
    return found


def read_calibration(name: str) -> StoredCalibration:
    """The stored calibration of this name. Raises NoSuchCalibration, with the names that there are; ValueError."""
    checked_name(name)
    path = folder() / f"{name}.json"
    if not path.is_file():
        names = [stored.name for stored in calibrations()]
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names[:5]
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        there = f"there are {', '.join(map(repr, near))}{more}" if names else "there is none yet"
        raise NoSuchCalibration(f"no calibration {name!r} in {folder()}: {there}")
    return _read(path)


def write_calibration(stored: StoredCalibration, *, overwrite: bool = False) -> Path:
    """Store it; where it is then. Raises FileExistsError where another has its name, unless ``overwrite``."""
    place = folder()
    make_private(place)
    path = place / f"{stored.name}.json"
    content = json.dumps(_plain(stored), indent=1)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=place)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not overwrite and path.exists() and _uid(path) == stored.uid:
            return path  # written twice is written
        if not overwrite:
            refuse_taken(stored.name)
        os.replace(temporary, path)
        return path
    finally:
        Path(temporary).unlink(missing_ok=True)


def refuse_taken(name: str) -> None:
    """Raise FileExistsError if there is a calibration of that name; ValueError if there can be none."""
    checked_name(name)
    path = folder() / f"{name}.json"
    if path.exists():
        raise FileExistsError(
            f"there is a calibration {name!r} already, in {path}: choose another name, or overwrite it with "
            "save_calibration(..., overwrite=True)"
        )


def free_name(calibration: Calibration, when: float | None = None) -> str:
    """A name that is not taken, of date, energy and semi-angle as far as known: "2026-11-28 200 kV 20 mrad"."""
    parts = [time.strftime("%Y-%m-%d", time.localtime(when))]
    if calibration.energy is not None:
        parts.append(f"{calibration.energy / 1e3:.4g} kV")
    if calibration.semiangle is not None:
        parts.append(f"{calibration.semiangle:.3g} mrad")
    name = " ".join(parts)
    taken = {path.stem for path in folder().glob("*.json")}
    return next(
        candidate
        for number in range(1, len(taken) + 3)
        if (candidate := name if number == 1 else f"{name} ({number})") not in taken
    )


def _plain(stored: StoredCalibration) -> dict[str, Any]:
    arrays = {
        name: None if array is None else packed(array)
        for name, array in (("pixel_mask", stored.pixel_mask), ("gain", stored.gain))
    }
    return {
        "live4d_calibration": _FORMAT,
        "name": stored.name,
        "uid": stored.uid,
        "saved": stored.saved,
        "saved_at": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(stored.saved)),
        "calibration": asdict(stored.calibration),
        "shape": None if stored.shape is None else list(stored.shape),
        "bad_pixels": stored.bad_pixels,
        "runs": stored.runs,
        "detector": stored.detector,
        **arrays,
    }


def _read(path: Path) -> StoredCalibration:
    try:
        said = checks.from_json(path.read_bytes())
        if not isinstance(said, Mapping) or said.get("live4d_calibration") != _FORMAT:
            raise ValueError("it is no calibration, or of another version of live4d-ophyd")
        known = dict(said["calibration"])
        if known.get("center") is not None:
            known["center"] = tuple(known["center"])
        mask, gain = (
            None if said[name] is None else unpacked(said[name], _MOST_PIXELS)
            for name in ("pixel_mask", "gain")
        )
        return StoredCalibration(
            path.stem,  # a file may be copied, and get another name
            Calibration(**known),
            None if said["shape"] is None else (int(said["shape"][0]), int(said["shape"][1])),
            str(said["bad_pixels"]),
            mask,
            gain,
            str(said["runs"]),
            str(said["detector"]),
            str(said["uid"]),
            float(said["saved"]),
        )
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the calibration in {path} cannot be read ({error}): measure it anew") from error


def _uid(path: Path) -> str:
    try:
        return _read(path).uid
    except (OSError, ValueError):
        return ""
