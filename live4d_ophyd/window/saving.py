"""Saving a picture from the window: a PNG as it is shown, with scale bar, or a calibrated TIFF of the values.

In: a `Moment`, one of its images, and how it is shown. Out: a file; beside a PNG, which cannot hold metadata, one of
JSON, as `export_run` writes it: ``NAME.png.json``. Runs in the GUI's thread.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pyqtgraph.Qt import QtCore, QtGui

import live4d_ophyd
from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.runs.picture import nice_length
from live4d_ophyd.runs.tiff import SUFFIXES, write_tiff
from live4d_ophyd.window import theme
from live4d_ophyd.window.feed import Moment
from live4d_ophyd.window.image_panel import color_map

#: px of the longer side of a picture, at least; a position is a whole number of them along its shorter step
_SIDE = 768
#: px below the image, where scale bar and text are: no position is hidden
_STRIP = 46


@dataclass(frozen=True, eq=False)
class Shown:
    """An image as the window shows it."""

    moment: Moment
    key: str
    colors: np.ndarray  #: (rows, cols, 3) uint8
    black: float | None  #: values of these colours; None where colours are no scale
    white: float | None
    color_map: str


def save(path: str | os.PathLike, shown: Shown) -> list[Path]:
    """Write ``shown`` to ``path``, ``.png``, ``.tif`` or ``.tiff``; the files that were written.

    Raises ValueError for another suffix, OSError where the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() == ".png":
        return _save_png(path, shown)
    if path.suffix.lower() in SUFFIXES:
        moment, axes = shown.moment, shown.moment.axes
        metadata = described(shown)
        image = moment.array(shown.key)
        write_tiff(path, image, steps=axes.step, unit=axes.unit, metadata=metadata, labels=[moment.title])
        return [path]
    raise ValueError(f"{path} ends with {path.suffix!r}; a picture is .png, .tif or .tiff")


def described(shown: Shown) -> dict[str, Any]:
    """What a picture cannot say: axes, units, run, the settings that it was taken with, losses."""
    moment, image = shown.moment, shown.moment.array(shown.key)
    axes = moment.axes
    return {
        "key": shown.key,
        "axes": ["scan_y", "scan_x"],
        "shape": list(image.shape),
        "step": {"scan_y": axes.step[0], "scan_x": axes.step[1], "unit": axes.unit},
        "units": moment.units(shown.key),
        "seen": float(np.isfinite(image).mean()),
        "preview": moment.preview,
        "stream": moment.stream,
        "event": moment.number,
        "time": datetime.fromtimestamp(moment.time).astimezone().isoformat(timespec="milliseconds"),
        "black": shown.black,
        "white": shown.white,
        "color_map": shown.color_map,
        "values": {
            name: {"value": _plain(value), "units": str(moment.keys[name].get("units") or "")}
            for name, value in moment.data.items()
            if name in moment.keys and moment.keys[name]["dtype"] != "array"
        },
        "run": {name: _plain(value) for name, value in moment.start.items()},
        "software": {"live4d-ophyd": live4d_ophyd.__version__},
    }


def _save_png(path: Path, shown: Shown) -> list[Path]:
    picture, bar = compose(shown)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    beside = path.with_name(f"{path.name}.json")
    content = {"file": path.name, **described(shown), "scale_bar": bar, "unit": shown.moment.axes.unit}
    try:
        if not picture.save(str(draft), "PNG"):
            raise OSError(f"{path} could not be written: is the folder there, and the disk not full?")
        beside.write_text(json.dumps(content, indent=1, default=str) + "\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return [path, beside]


def compose(shown: Shown) -> tuple[Any, float]:
    """A QImage with scale bar and text, and how long the bar is, in the unit of the step."""
    axes: ScanAxes = shown.moment.axes
    colors = np.ascontiguousarray(shown.colors)
    rows, cols = colors.shape[:2]
    height, width = rows * axes.step[0], cols * axes.step[1]
    per_unit = math.ceil(_SIDE / max(height, width) * min(axes.step)) / min(axes.step)
    size = QtCore.QSize(max(1, round(width * per_unit)), max(1, round(height * per_unit)))
    image = QtGui.QImage(colors.data, cols, rows, 3 * cols, QtGui.QImage.Format.Format_RGB888)
    page = QtGui.QImage(max(size.width(), 420), size.height() + _STRIP, QtGui.QImage.Format.Format_RGB32)
    page.fill(QtGui.QColor("black"))
    left = (page.width() - size.width()) // 2
    bar = nice_length(width / 4)
    painter = QtGui.QPainter(page)
    try:
        painter.drawImage(QtCore.QRect(QtCore.QPoint(left, 0), size), image)
        painter.setPen(QtGui.QColor("white"))
        font = painter.font()
        font.setPixelSize(16)
        painter.setFont(font)
        painter.fillRect(QtCore.QRectF(10, page.height() - 14, bar * per_unit, 5), QtGui.QColor("white"))
        painter.drawText(10, page.height() - 22, f"{bar:g} {axes.unit}")
        words = shown.key
        if shown.black is not None and shown.white is not None:
            words += f", {shown.black:.5g} to {shown.white:.5g} {shown.moment.units(shown.key)}"
        font.setPixelSize(13)
        painter.setFont(font)
        below = QtCore.QRect(0, size.height(), page.width() - 10, _STRIP - 6)
        align = QtCore.Qt.AlignmentFlag.AlignRight | QtCore.Qt.AlignmentFlag.AlignBottom
        painter.drawText(below, align, words.rstrip())
    finally:
        painter.end()
    return page, bar


def as_shown(moment: Moment, key: str, panel: Any) -> Shown:
    """An image with the colours that an `ImagePanel` gives it."""
    view = panel.view
    unknown = ~np.isfinite(view.values)
    black, white, name = None, None, "colour wheel"
    if view.colors is not None:
        colors = np.ascontiguousarray(view.colors[..., :3])
    else:
        (black, white), name = panel.levels, panel.color_map
        table = color_map(name).getLookupTable(nPts=256)[:, :3].astype(np.uint8)
        scaled = (np.where(unknown, black, view.drawn()) - black) / max(white - black, 1e-300) * 256
        colors = table[np.clip(scaled, 0, 255).astype(int)]
    lost = np.zeros_like(unknown) if view.lost is None else view.lost
    for where, shade in ((unknown, theme.NOT_SEEN), (unknown & lost, theme.LOST)):
        color = QtGui.QColor(shade)
        colors[where] = (color.red(), color.green(), color.blue())
    return Shown(moment, key, colors, black, white, name)


def _plain(value: Any) -> Any:
    """As JSON has it; NaN is null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, str | int) else str(value)
