"""Outlines that the mouse moves and resizes: pyqtgraph's circles, targets and polygons, one group a virtual detector.

In: an `Outline`. Out: ``released``, values by the names of signals, after a drag ended. A detector is dragged by its
handles only, so that moving the view never moves a detector. Runs in the GUI's thread; coordinates are (x, y) = (col,
row).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyqtgraph as pg
from pyqtgraph.Qt import QtCore

from live4d_ophyd.window.outlines import CALIBRATION, Area, Drawn, Outline, Position, Rings, Values

#: where the handles of the first, second, ... detector's circles are: handles of equal circles are apart
_ANGLES = tuple(math.radians(angle) for angle in (-35, 20, 75, 130, 185, 240))


class _Circle(pg.CircleROI):
    """Without a handle of pyqtgraph's, and of radius 0, too: segments may have an inner radius of 0."""

    def _addHandles(self) -> None:
        """None."""

    def paint(self, painter: Any, option: Any, widget: Any) -> None:
        # pyqtgraph divides by the size, and Qt ends the session when a paint raises.
        if self.size()[0] > 0:
            super().paint(painter, option, widget)


class OutlineItem(QtCore.QObject):
    """What is drawn of one detector in a view box.

    ``released`` has its new values. ``dragged`` has what to show while a handle is held, and the new centre or None.
    """

    released = QtCore.Signal(object)
    dragged = QtCore.Signal(object, object)

    def __init__(self, box: Any, outline: Outline, color: str, place: int) -> None:
        super().__init__()
        self.outline, self.color = outline, color
        self._box, self._angle = box, _ANGLES[place % len(_ANGLES)]
        self._items: list[Any] = []
        self._circles: list[Any] = []
        self._polygon: Any = None
        self._targets: list[Any] = []
        self._lines: Any = None
        self.center: Any = None  #: the handle of the centre
        self._busy = False  # moved from here
        of_calibration = outline.name == CALIBRATION
        self._pen = pg.mkPen(color, width=1 if of_calibration else 2, style=_dashed(of_calibration))
        self._label: Any = None
        match outline:
            case Rings():
                self._add_rings(outline)
            case Drawn():
                self._add_drawn(outline)
            case Area():
                self._add_area(outline)

    @property
    def held(self) -> bool:
        """Whether a handle is being dragged."""
        handles = [info["item"] for item in self._with_handles() for info in item.handles]
        return any(target.moving for target in self._targets) or any(handle.isMoving for handle in handles)

    def handle(self, index: int) -> Any:
        """The handle of a circle's radius."""
        return self._circles[index].handles[0]["item"]

    def move_to(self, center: Position) -> None:
        """Draw the rings about another centre: they follow one that is dragged."""
        self._busy = True
        try:
            for circle in self._circles:
                radius = circle.size()[0] / 2
                circle.setPos((center[1] - radius, center[0] - radius), update=True, finish=False)
            if self.center is not None and not self.center.moving:
                self.center.setPos(center[1], center[0])
            self._draw_sectors(center)
            self._place_label()
        finally:
            self._busy = False

    def set_waiting(self, waiting: bool) -> None:
        """Dashed while a change waits for the next raster."""
        pen = pg.mkPen(self._pen)
        pen.setStyle(_dashed(waiting or self.outline.name == CALIBRATION))
        for item in self._with_handles():
            item.setPen(pen)

    def _with_handles(self) -> list[Any]:
        return self._circles if self._polygon is None else [*self._circles, self._polygon]

    def _release(self, values: Values) -> None:
        """Say it when Qt is done with the mouse's event: what is drawn anew removes the handle that it is for."""
        QtCore.QTimer.singleShot(0, lambda: self.released.emit(values))

    def remove(self) -> None:
        """Take it off the pattern. Qt deletes it, in this thread: Python would find its circles in any thread."""
        for item in self._items:
            self._box.removeItem(item)
            item.deleteLater()
        self._items.clear()

    def _add(self, item: Any, z: float = 20.0) -> Any:
        item.setZValue(z)
        self._box.addItem(item, ignoreBounds=True)
        self._items.append(item)
        return item

    # Disks, annuli and segments -----------------------------------------------------------------

    def _add_rings(self, rings: Rings) -> None:
        row, col = rings.center
        for index, radius in enumerate(rings.radii):
            circle = self._circle((row, col), radius)
            circle.sigRegionChanged.connect(lambda _, index=index: self._resizing(index))
            circle.sigRegionChangeFinished.connect(lambda _, index=index: self._resized(index))
        if self._circles:
            self._add_label()
        if rings.sectors > 1 or rings.rings > 1:
            pen = pg.mkPen(self.color, width=1)
            self._lines = self._add(pg.PlotCurveItem(pen=pen, connect="pairs", antialias=True), 15)
            self._draw_sectors(rings.center)
        if not rings.follows:
            self.center = self._target(row, col)
            self.center.sigPositionChanged.connect(self._moving)
            self.center.sigPositionChangeFinished.connect(self._moved)

    def _circle(self, center: Position, radius: float) -> Any:
        circle = _Circle(
            (center[1] - radius, center[0] - radius), radius=radius, movable=False, rotatable=False, resizable=False,
            pen=self._pen, antialias=True, handlePen=pg.mkPen(self.color, width=2),
            handleHoverPen=pg.mkPen("#ffffff", width=3),
        )  # fmt: skip
        circle.handleSize = 6
        at = [0.5 + 0.5 * math.cos(self._angle), 0.5 + 0.5 * math.sin(self._angle)]
        handle = circle.addScaleHandle(
            at, [0.5, 0.5], lockAspect=True
        )  # what counts is the way along the radius
        handle.setVisible(radius > 0)  # else it is in the centre's place
        self._circles.append(circle)
        return self._add(circle, (12 if self.outline.name == CALIBRATION else 20) + 1 / (1 + radius))

    def _target(self, row: float, col: float) -> Any:
        target = pg.TargetItem(
            (col, row), size=13, symbol="crosshair", pen=pg.mkPen(self.color, width=2),
            hoverPen=pg.mkPen("#ffffff", width=2), brush=pg.mkBrush(0, 0, 0, 60), hoverBrush=pg.mkBrush(0, 0, 0, 120),
        )  # fmt: skip
        self._targets.append(target)
        return self._add(target, 30)

    def _draw_sectors(self, center: Position) -> None:
        rings = self.outline
        if self._lines is None or not isinstance(rings, Rings):
            return
        inner, outer = (min(rings.radii), max(rings.radii)) if len(rings.radii) > 1 else (0.0, rings.radii[0])
        angles = np.radians(rings.rotation + np.arange(rings.sectors) * 360 / max(rings.sectors, 1))
        ends = np.array([[inner, outer]] * len(angles)) if rings.sectors > 1 else np.zeros((0, 2))
        x, y = (
            [(ends * np.cos(angles)[:, np.newaxis]).ravel()],
            [(ends * np.sin(angles)[:, np.newaxis]).ravel()],
        )
        turn = np.repeat(np.radians(np.arange(0, 361, 3)), 2)[1:-1]
        for ring in range(1, rings.rings):
            radius = inner + (outer - inner) * ring / rings.rings
            x.append(radius * np.cos(turn))
            y.append(radius * np.sin(turn))
        self._lines.setData(np.concatenate(x) + center[1], np.concatenate(y) + center[0])

    def _add_label(self) -> None:
        """The name, at the handle of the largest circle."""
        self._label = pg.TextItem(
            self.outline.name, color=self.color, anchor=self._anchor(), fill=pg.mkBrush(0, 0, 0, 170)
        )
        self._add(self._label, 25)
        self._place_label()

    def _anchor(self) -> tuple[float, float]:
        return 0.5 - 0.75 * math.cos(self._angle), 0.5 - 0.95 * math.sin(self._angle)

    def _place_label(self) -> None:
        if self._label is None:
            return
        circle = max(self._circles, key=lambda circle: circle.size()[0])
        radius, corner = circle.size()[0] / 2, circle.pos()
        x, y = math.cos(self._angle), math.sin(self._angle)
        self._label.setPos(corner.x() + radius * (1 + x), corner.y() + radius * (1 + y))

    def _resizing(self, index: int) -> None:
        if self._busy or not isinstance(self.outline, Rings):
            return
        circle = self._circles[index]
        self._place_label()
        self.dragged.emit(self.outline.resized(index, circle.size()[0] / 2), None)

    def _resized(self, index: int) -> None:
        if self._busy or not isinstance(self.outline, Rings):
            return
        radius = self._circles[index].size()[0] / 2
        if abs(radius - self.outline.radii[index]) > 1e-6:
            self._release(self.outline.resized(index, radius))

    def _moving(self, target: Any) -> None:
        if self._busy or not isinstance(self.outline, Rings):
            return
        center = float(target.pos().y()), float(target.pos().x())
        self.move_to(center)
        self.dragged.emit(self.outline.moved(center), center)

    def _moved(self, target: Any) -> None:
        if isinstance(self.outline, Rings):
            self._release(self.outline.moved((target.pos().y(), target.pos().x())))

    # Polygons, points and masks -----------------------------------------------------------------

    def _add_drawn(self, drawn: Drawn) -> None:
        corners = [(col, row) for row, col in drawn.points]
        if drawn.radius is None:
            polygon = pg.PolyLineROI(
                corners, closed=True, movable=False, pen=self._pen, antialias=True,
                handlePen=pg.mkPen(self.color, width=2),
            )  # fmt: skip
            for segment in polygon.segments:  # a click on a line would add a corner
                segment.setAcceptedMouseButtons(QtCore.Qt.MouseButton.NoButton)
            polygon.sigRegionChangeFinished.connect(self._corners_placed)
            self._polygon = self._add(polygon)
            label = self._add(pg.TextItem(drawn.name, color=self.color, fill=pg.mkBrush(0, 0, 0, 120)), 25)
            label.setPos(*max(corners))
            return
        for index, (row, col) in enumerate(drawn.points):
            circle = self._circle((row, col), drawn.radius)
            circle.sigRegionChangeFinished.connect(lambda _, circle=circle: self._points_resized(circle))
            target = self._target(row, col)
            target.sigPositionChangeFinished.connect(lambda at, index=index: self._point_placed(index, at))

    def _add_area(self, area: Area) -> None:
        shade = pg.mkColor(self.color)
        colors = np.zeros((*area.pixels.shape, 4), np.uint8)
        colors[area.pixels] = (shade.red(), shade.green(), shade.blue(), 90)
        image = pg.ImageItem(colors, axisOrder="row-major")
        image.setRect(QtCore.QRectF(-0.5, -0.5, area.pixels.shape[1], area.pixels.shape[0]))
        self._add(image, 5)

    def _corners_placed(self, polygon: Any) -> None:
        offset = polygon.pos()
        corners = [handle["pos"] + offset for handle in polygon.handles]
        points = [(float(corner.y()), float(corner.x())) for corner in corners]
        if isinstance(self.outline, Drawn) and not np.allclose(points, self.outline.points, atol=1e-6):
            self._release(self.outline.placed(points))

    def _point_placed(self, index: int, target: Any) -> None:
        if isinstance(self.outline, Drawn):
            points = list(self.outline.points)
            points[index] = (float(target.pos().y()), float(target.pos().x()))
            self._release(self.outline.placed(points))

    def _points_resized(self, circle: Any) -> None:
        radius = circle.size()[0] / 2
        if isinstance(self.outline, Drawn) and abs(radius - (self.outline.radius or 0)) > 1e-6:
            self._release(self.outline.resized(radius))


def _dashed(dashed: bool) -> Any:
    return QtCore.Qt.PenStyle.DashLine if dashed else QtCore.Qt.PenStyle.SolidLine
