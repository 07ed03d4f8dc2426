"""A detector that is drawn on a pattern with the mouse: a disk or an annulus.

In: a `PatternPanel`. Out: a `Method`, when its button is pressed. The server's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import BoxAnnotation, Button, ColumnDataSource, Select, Spinner

from live4d_ophyd.imaging.method import Method
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.view import page
from live4d_ophyd.view.outlines import circle
from live4d_ophyd.view.panels import FAINT, PatternPanel

#: name of the detector, and of its image
DRAWN = "drawn"


class DetectorDrawing:
    """A disk or an annulus in a box that is dragged; ``layout`` is what belongs beside the pattern."""

    def __init__(self, document: Document, pattern: PatternPanel, make: Callable[[Method], None]) -> None:
        self._document, self._pattern, self._make = document, pattern, make
        self._is_setting = self._is_placed = False
        style = page.dark()

        def spinner(title: str, value: float) -> Spinner:
            found = Spinner(
                title=title, value=value, step=0.5, low=0, width=80, stylesheets=[style], name=title
            )
            found.on_change("value", self._on_numbers)
            return found

        self._kind = Select(
            title="draw a detector", options=["disk", "annulus"], value="disk", width=110, name="kind",
            stylesheets=[style],
        )  # fmt: skip
        self._row, self._col = spinner("row", 0), spinner("col", 0)
        self._outer, self._inner = spinner("radius", 10), spinner("inner", 0)
        self._inner.visible = False  # of an annulus
        self._button = Button(label="make its image", button_type="primary", name="make", stylesheets=[style])
        self._progress = page.text("", name="progress")
        self._box = BoxAnnotation(
            left=0, right=1, top=0, bottom=1, editable=True, visible=False, fill_alpha=0.0, line_color="white",
            line_dash="dotted", line_alpha=0.8, name="box",
        )  # fmt: skip
        figure = pattern.figure
        figure.add_layout(self._box)
        self._circles = ColumnDataSource({"xs": [], "ys": []})
        self._lines = figure.multi_line(
            "xs", "ys", source=self._circles, line_color="white", line_width=2, line_dash="dashed"
        )
        for side in ("left", "right", "top", "bottom"):
            self._box.on_change(side, self._on_box)
        self._kind.on_change("value", self._on_kind)
        self._button.on_click(self._on_make)
        hint = page.text(
            f'<span style="color:{FAINT}">Drag the dotted box on the pattern, or its edges.</span>'
        )
        self.layout = column(
            row(self._kind, self._row, self._col, self._outer, self._inner, self._button, self._progress), hint,
            visible=False,
        )  # fmt: skip

    def follow(self, can: bool) -> None:
        """Whether there are recorded frames, and a pattern to draw on."""
        self.layout.visible = self._box.visible = self._lines.visible = can
        if can and not self._is_placed:
            self._is_placed = True
            fig = self._pattern.figure
            self._set(
                (fig.y_range.start + fig.y_range.end) / 2, (fig.x_range.start + fig.x_range.end) / 2,
                abs(fig.x_range.end - fig.x_range.start) / 5, 0.0,
            )  # fmt: skip

    def tell(self, fraction: float | None) -> None:
        """How far the image is; None: it is there."""
        self._button.disabled = fraction is not None
        self._progress.text = "" if fraction is None else page.progress_bar(fraction)

    def method(self) -> Method:
        """What is drawn. Raises ValueError."""
        center = float(self._row.value or 0), float(self._col.value or 0)
        outer, inner = float(self._outer.value or 0), float(self._inner.value or 0)
        if self._kind.value == "annulus":
            return Annulus(DRAWN, center=center, inner=inner, outer=outer)
        return Disk(DRAWN, center=center, radius=outer)

    def _set(self, row_: float, col: float, outer: float, inner: float, *, box: bool = True) -> None:
        """Numbers, box and circles agree."""
        self._is_setting = True
        for spinner, value in (
            (self._row, row_),
            (self._col, col),
            (self._outer, outer),
            (self._inner, inner),
        ):
            spinner.value = round(value, 2)
        if box:
            self._box.update(left=col - outer, right=col + outer, top=row_ - outer, bottom=row_ + outer)
        self._is_setting = False
        radii = [outer, inner] if self._kind.value == "annulus" and inner > 0 else [outer]
        lines = [circle((row_, col), radius) for radius in radii]
        self._circles.data = {"xs": [cols for _, cols in lines], "ys": [rows for rows, _ in lines]}

    def _on_numbers(self, attr: str, old: Any, new: Any) -> None:
        if not self._is_setting:
            values = [
                float(spinner.value or 0) for spinner in (self._row, self._col, self._outer, self._inner)
            ]
            self._set(*values)

    def _on_box(self, attr: str, old: Any, new: Any) -> None:
        if self._is_setting:
            return
        self._is_setting = True  # the other sides come with the same message
        self._document.add_next_tick_callback(self._read_box)

    def _read_box(self) -> None:
        box = self._box
        outer = max(abs(box.right - box.left), abs(box.bottom - box.top)) / 2
        row_, col = (box.top + box.bottom) / 2, (box.left + box.right) / 2
        # The box stays as it is: the mouse may still have it, and it would jump back.
        self._set(row_, col, outer, float(self._inner.value or 0), box=False)

    def _on_kind(self, attr: str, old: str, new: str) -> None:
        self._inner.visible = new == "annulus"
        inner = float(self._inner.value or 0)
        if new == "annulus" and inner == 0:
            inner = float(self._outer.value or 0) / 2
        self._set(
            float(self._row.value or 0), float(self._col.value or 0), float(self._outer.value or 0), inner
        )

    def _on_make(self) -> None:
        try:
            method = self.method()
        except ValueError as error:
            self._progress.text = page.pill(str(error))
            return
        self._make(method)
