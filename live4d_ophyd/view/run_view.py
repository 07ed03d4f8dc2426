"""A run of the catalog in a page or a notebook: images, a slider over its Events, recorded patterns, drawn detectors.

In: a `SavedRun`. Out: a Bokeh layout. What takes long is done by the threads of a `Background`, and shown when it is
there. The server's thread.
"""

from __future__ import annotations

import html
import time
from functools import partial
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.events import Tap
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, MultiChoice, Select, Slider, Switch

from live4d_ophyd.imaging.method import Method
from live4d_ophyd.view import page
from live4d_ophyd.view.background import Background, Gone, tell
from live4d_ophyd.view.detector_drawing import DRAWN, DetectorDrawing
from live4d_ophyd.view.displayed import CONTRASTS, displayed
from live4d_ophyd.view.live_run import PatternPicture, ScanPicture
from live4d_ophyd.view.outlines import outlines
from live4d_ophyd.view.panels import COLOR_MAPS, FAINT, PAGE, ImagePanel, PatternPanel, figures_of
from live4d_ophyd.view.saved_run import SavedEvent, SavedRun, make_image, recorded_pattern

#: images that are shown until others are chosen
SHOWN = 2
_SIDE = 300
#: how often progress is told, s
_TELL_S = 0.2
#: among the patterns that can be chosen: that of the position that was clicked
_CLICKED = "of a position"


class RunView:
    """Shows one run; ``layout`` goes into a document. `close` it where its page is gone, or shows another."""

    def __init__(self, document: Document, run: SavedRun, background: Background) -> None:
        self._document, self._run, self._background = document, run, background
        self._is_closed = False
        self._events_asked = self._patterns_asked = 0
        self._event: SavedEvent | None = None
        self._position: tuple[int, int] | None = None  # that was clicked
        self._clicked: PatternPicture | None = None
        self._drawn: ScanPicture | None = None
        self._panels: dict[str, ImagePanel] = {}
        style = page.dark()
        self._head = page.text("", name="run head")
        self._said = page.text("", visible=False, name="said")
        self._slider = Slider(
            title="Event", start=1, end=max(run.events, 2), value=max(run.events, 1), step=1, width=300,
            visible=run.events > 1, name="event", stylesheets=[style],
        )  # fmt: skip
        self._choice = MultiChoice(
            title="images",
            options=run.images,
            value=run.images[:SHOWN],
            width=360,
            stylesheets=[style],
            name="images",
        )
        self._which = Select(
            title="pattern", options=[*run.patterns, _CLICKED], value=[*run.patterns, _CLICKED][0], width=140,
            visible=bool(run.patterns), stylesheets=[style], name="which pattern",
        )  # fmt: skip
        self._colors = Select(
            title="colours", options=list(COLOR_MAPS), value="gray", width=100, stylesheets=[style]
        )
        self._contrast = Select(
            title="black to white", options=list(CONTRASTS), value=next(iter(CONTRASTS)), width=130,
            stylesheets=[style],
        )  # fmt: skip
        self._log = Switch(active=True, stylesheets=[style])
        self._marker = ColumnDataSource({"x": [], "y": []})
        self._pattern = PatternPanel(_SIDE)
        self._pattern.figure.visible = False
        self._drawing = DetectorDrawing(document, self._pattern, self._make)
        self._body = row(
            children=[page.text("")],
            sizing_mode="stretch_width",
            styles={"flex-wrap": "wrap", "align-items": "flex-start"},
        )
        self._slider.on_change("value_throttled", lambda attr, old, new: self._read())
        self._choice.on_change("value", lambda attr, old, new: self._read())
        self._which.on_change("value", self._on_which)
        for widget in (self._colors, self._contrast):
            widget.on_change("value", lambda attr, old, new: self._show())
        self._log.on_change("active", lambda attr, old, new: self._pattern.set_logarithmic(new))
        controls = row(
            self._slider, self._choice, self._which, self._colors, self._contrast,
            column(page.small("pattern log"), self._log),
        )  # fmt: skip
        about = page.text(
            f'<details><summary style="cursor:pointer">all that is known of this run</summary>'
            f'<div style="font-size:12px">{run.table()}</div></details>'
        )
        self.layout = column(
            self._head, self._said, controls, self._drawing.layout, self._body, about, sizing_mode="stretch_width",
            styles={"background": PAGE, "padding": "6px"},
        )  # fmt: skip
        self._read()

    def close(self) -> None:
        """Nobody looks any more: what is being made for it ends."""
        self._is_closed = True

    # An Event ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the chosen images of the chosen Event, and show them when they are there."""
        if not self._run.events:
            self._say("This run has no Event with images.")
            return
        self._events_asked += 1
        asked, index = self._events_asked, min(max(int(self._slider.value), 1), self._run.events) - 1
        pattern = self._which.value if self._which.value in self._run.patterns else None
        names = [name for name in self._choice.value if name in self._run.images]

        def read() -> SavedEvent:
            if asked != self._events_asked or self._is_closed:  # another was asked for meanwhile
                raise Gone
            return self._run.event(index, names, pattern)

        def show(event: SavedEvent) -> None:
            if asked == self._events_asked:
                self._take(event)

        self._background.read(self._document, read, show, self._fail)

    def _on_which(self, attr: str, old: str, new: str) -> None:
        if new == _CLICKED:
            self._show()
        else:
            self._read()

    def _take(self, event: SavedEvent) -> None:
        is_another = self._event is None or self._event.index != event.index
        self._event = event
        self._say("")
        if is_another and self._position is not None:
            self._read_position()
        self._show()

    def _show(self) -> None:
        """Show what was read, in the chosen colours."""
        event = self._event
        if event is None:
            return
        shown = dict(event.pictures) | ({} if self._drawn is None else {DRAWN: self._drawn})
        for name, picture in shown.items():
            self._show_picture(name, picture)
        self._panels = {name: self._panels[name] for name in shown}
        self._show_pattern(event)
        # A drawn detector's image comes last: what was there stays where it was.
        images = [panel for name, panel in self._panels.items() if name != DRAWN]
        drawn = [self._panels[DRAWN].figure] if DRAWN in self._panels else []
        panels = figures_of(images, self._pattern) + drawn
        if self._body.children != panels:
            self._body.children = panels
        self._show_head(event)

    def _show_head(self, event: SavedEvent) -> None:
        which = f"Event {event.seq_num} of {self._run.events}"
        told = f"{which}, {event.moved}" if event.moved else which
        hint = "Click a position to see its pattern." if event.frames is not None else ""
        self._head.text = (
            f'<b style="margin-right:12px">{html.escape(self._run.title)}</b>{page.status_pill(self._run.status)}'
            f'{page.alarm_pills(event.alarms)}<span style="margin-right:12px">{html.escape(told)}</span>'
            f'<span style="color:{FAINT}">{hint}</span>'
        )

    def _show_picture(self, name: str, picture: ScanPicture) -> None:
        if name not in self._panels:
            panel = self._panels[name] = ImagePanel(name, _SIDE, "tap")
            panel.figure.scatter(
                "x", "y", source=self._marker, marker="cross", size=18, line_width=2, color="#E69F00"
            )
            panel.figure.on_event(Tap, self._on_tap)
        panel = self._panels[name]
        panel.set_color_map(self._colors.value)
        panel.show(displayed(picture, self._contrast.value), picture.label, picture.units)

    def _show_pattern(self, event: SavedEvent) -> None:
        is_clicked = self._which.value == _CLICKED
        pattern = self._clicked if is_clicked else event.pattern
        shape = event.detector_shape
        if pattern is None:
            self._pattern.show_empty(shape, "click a position")
        else:
            shape = pattern.values.shape
            self._pattern.show(
                displayed(pattern, self._contrast.value), pattern.label, pattern.units, self._log.active
            )
        self._pattern.show_detectors(outlines(event.settings, self._run.device.name, shape))
        self._drawing.follow(event.frames is not None and shape is not None)

    # A position ----------------------------------------------------------------------------------------

    def _on_tap(self, tap: Any) -> None:
        """A position was clicked (`Tap`): show its pattern."""
        if self._event is None or self._event.frames is None or not self._event.pictures:
            return
        picture = next(iter(self._event.pictures.values()))
        (step_y, step_x), (rows, cols) = picture.axes.step, picture.values.shape
        at_row, at_col = round(tap.y / step_y), round(tap.x / step_x)
        if 0 <= at_row < rows and 0 <= at_col < cols:
            self._position = at_row, at_col
            self._marker.data = {"x": [at_col * step_x], "y": [at_row * step_y]}
            self._read_position()

    def _read_position(self) -> None:
        """Read the pattern of the position that was clicked, and show it when it is there."""
        event, position = self._event, self._position
        if event is None or event.frames is None or position is None:
            self._clicked = None
            return
        self._patterns_asked += 1
        asked, path = self._patterns_asked, event.frames

        def read() -> PatternPicture:
            if asked != self._patterns_asked or self._is_closed:
                raise Gone
            return recorded_pattern(path, *position)

        def show(pattern: PatternPicture | None) -> None:
            if asked == self._patterns_asked and self._event is not None:
                self._clicked = pattern
                self._which.value = _CLICKED
                self._say("")
                self._show()

        def fail(error: Exception) -> None:
            show(None)
            self._fail(error)

        self._background.read(self._document, read, show, fail)

    # A drawn detector ----------------------------------------------------------------------------------

    def _make(self, method: Method) -> None:
        """Have the image of a drawn detector made, and show it."""
        event = self._event
        if event is None or event.frames is None or not event.pictures:
            return
        path: Path = event.frames
        axes = next(iter(event.pictures.values())).axes
        told = time.monotonic()

        def progress(fraction: float) -> None:
            nonlocal told
            if self._is_closed or self._background.is_closed:
                raise Gone
            if time.monotonic() - told > _TELL_S:
                told = time.monotonic()
                tell(self._document, partial(self._drawing.tell, fraction))

        def make() -> Any:
            progress(0.0)
            return make_image(path, method, progress)

        def show(made: Any) -> None:
            values, units = made
            self._drawing.tell(None)
            self._say("")
            self._drawn = ScanPicture(f"{DRAWN}, Event {event.seq_num}", values, axes, units)
            self._show()

        def fail(error: Exception) -> None:
            self._drawing.tell(None)
            self._fail(error)

        self._drawing.tell(0.0)
        self._background.sum(self._document, make, show, fail)

    def _fail(self, error: Exception) -> None:
        self._say(str(error) or type(error).__name__)

    def _say(self, words: str) -> None:
        self._said.visible = bool(words)
        self._said.text = page.pill(words[:400]) if words else ""
