"""The page of the run that goes on.

In: `LiveRuns`. Out: a Bokeh document that follows it, at most `PER_SECOND` times, and no faster than its browser says
that it has drawn: one that is slow, or hidden behind another tab, gets fewer, and no queue grows. The server's thread.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, CustomJS, MultiChoice, Select, Switch

from live4d_ophyd.view import page
from live4d_ophyd.view.displayed import CONTRASTS, displayed
from live4d_ophyd.view.live_run import LiveRun, LiveRuns
from live4d_ophyd.view.outlines import detector_shape, outlines
from live4d_ophyd.view.panels import COLOR_MAPS, ImagePanel, PatternPanel, figures_of

PER_SECOND = 5.0
#: of a browser that has not said that it has drawn: its word may be lost with a connection, s
PATIENCE_S = 30.0
#: images that a page shows until others are chosen
SHOWN = 4
#: how often it is looked whether the browser has drawn and something is newer, ms: one that needs a little longer than
#: `PER_SECOND` allows gets a little fewer, not half
_LOOK_MS = 40
#: how often time goes on, ms
_CLOCK_MS = 1000
_SIDE = 300


class LivePage:
    """What one browser sees."""

    def __init__(self, document: Document, runs: LiveRuns, *, has_catalog: bool) -> None:
        self._runs, self._has_catalog = runs, has_catalog
        self._sent, self._sent_at, self._drawn_by_browser = -1, 0.0, True
        self._panels: dict[str, ImagePanel] = {}
        self._pattern = PatternPanel(_SIDE)
        self._offered: tuple[str, ...] = ()
        self._chosen: list[str] = []
        self._arranged: list[Any] = []
        style = page.dark()
        self._head = page.text("", sizing_mode="stretch_width", name="head")
        self._choice = MultiChoice(
            title="images", options=[], value=[], width=520, stylesheets=[style], name="images"
        )
        self._colors = Select(
            title="colours",
            options=list(COLOR_MAPS),
            value="gray",
            width=110,
            stylesheets=[style],
            name="colors",
        )
        self._contrast = Select(
            title="black to white", options=list(CONTRASTS), value=next(iter(CONTRASTS)), width=140,
            stylesheets=[style],
        )  # fmt: skip
        self._log = Switch(active=True, stylesheets=[style])
        #: the browser writes to its tags what it has drawn
        self._beat = ColumnDataSource({"version": [-1]}, name="beat")
        drawn = "requestAnimationFrame(() => setTimeout(() => { beat.tags = [beat.data.version[0]] }, 0))"
        self._beat.js_on_change("data", CustomJS(args={"beat": self._beat}, code=drawn))
        # What came before the page was there is a part of it, and no change.
        document.on_event(DocumentReady, self._on_ready)
        self._beat.on_change("tags", self._on_drawn)
        self._body = row(
            children=[page.text("")],
            sizing_mode="stretch_width",
            styles={"flex-wrap": "wrap", "align-items": "flex-start"},
        )
        self._choice.on_change("value", self._on_choice)
        self._colors.on_change("value", lambda attr, old, new: self._show_all(self._runs.run))
        self._contrast.on_change("value", lambda attr, old, new: self._show_all(self._runs.run))
        self._log.on_change("active", lambda attr, old, new: self._pattern.set_logarithmic(new))
        controls = row(
            self._choice, self._colors, self._contrast,
            column(page.small("pattern log"), self._log),
        )  # fmt: skip
        # The source is no part of any figure: in a root of its own it goes along.
        document.add_root(column(self._head, controls, self._body, sizing_mode="stretch_width"))
        document.add_root(self._beat)
        document.title = "live4d"
        document.template = page.TEMPLATE
        self._document = document
        self._follow()
        document.add_periodic_callback(self._follow, _LOOK_MS)
        document.add_periodic_callback(self._tell_time, _CLOCK_MS)

    def _on_ready(self, event: DocumentReady) -> None:
        self._drawn_by_browser = True

    def _on_drawn(self, attr: str, old: list, new: list) -> None:
        self._drawn_by_browser = True

    def _on_choice(self, attr: str, old: Sequence[str], new: Sequence[str]) -> None:
        if list(new) != self._chosen:  # else `_offer` chose it
            self._chosen = list(new)
            self._show_all(self._runs.run)

    def _follow(self) -> None:
        """Send the newest, if there is something newer, and the browser has drawn the last."""
        run, now = self._runs.run, time.monotonic()
        since = now - self._sent_at
        waits = not self._drawn_by_browser and since < PATIENCE_S
        too_soon = since < 1 / PER_SECOND - _LOOK_MS / 2000  # nearest to the moment, and on average not later
        if run.version == self._sent or waits or too_soon:
            return
        self._drawn_by_browser = False
        self._sent, self._sent_at = run.version, now
        self._document.hold("collect")  # combined, changes would lose the new models that they name
        try:
            self._offer(run)
            self._show_all(run)
            self._show_head(run)
            self._beat.data = {"version": [run.version]}
        finally:
            self._document.unhold()

    def _offer(self, run: LiveRun) -> None:
        """Let the viewer choose among the run's images."""
        keys = tuple(run.pictures)
        if keys == self._offered or not keys:
            return
        self._offered = keys
        names = _names(run)
        self._choice.options = [(key, names[key]) for key in keys]
        self._chosen = [key for key in self._chosen if key in keys] or list(keys[:SHOWN])
        self._choice.value = self._chosen

    def _show_all(self, run: LiveRun) -> None:
        """Show what is chosen. New panels are filled first: changes before the page has them would name nothing."""
        names = _names(run)
        chosen = [key for key in self._chosen if key in self._offered]
        self._panels = {key: self._panels.get(key) or ImagePanel(key, _SIDE) for key in chosen}
        for key, panel in self._panels.items():
            panel.set_color_map(self._colors.value)
            if (picture := run.pictures.get(key)) is None:
                panel.show_as_old()
            else:
                panel.show(displayed(picture, self._contrast.value), names[key], picture.units)
        shape = next(filter(None, (detector_shape(run.settings, device) for device in run.devices)), None)
        if run.patterns:
            pattern = next(
                iter(run.patterns.values())
            )  # of several channels the first, as in the live window
            shape = pattern.values.shape
            self._pattern.show(
                displayed(pattern, self._contrast.value), pattern.label, pattern.units, self._log.active
            )
        else:
            self._pattern.show_empty(shape, "no pattern yet: MeanPattern() makes one")
        self._pattern.show_detectors(
            [outline for device in run.devices for outline in outlines(run.settings, device, shape)]
        )
        panels = figures_of(self._panels.values(), self._pattern) if chosen else []
        if panels != self._arranged:
            self._arranged = panels
            self._body.children = panels or [page.text("")]

    def _show_head(self, run: LiveRun) -> None:
        parts = [page.links("live", self._has_catalog)]
        if run.status == "waiting":
            parts.append(page.status_pill("waiting") + "for the next run of a session")
        else:
            done, points = run.events
            events = f"{done} of {points} images" if points else f"{done} images"
            parts += [
                f'<b style="margin-right:12px">{html.escape(run.title)}</b>', page.status_pill(run.status),
                page.alarm_pills(run.alarms), f'<span style="margin-right:12px">{events}</span>',
                "" if run.fraction is None else page.progress_bar(run.fraction), _times(run),
            ]  # fmt: skip
        self._head.text = "".join(parts)

    def _tell_time(self) -> None:
        if self._runs.run.status == "running" and self._drawn_by_browser:
            self._show_head(self._runs.run)


def _times(run: LiveRun) -> str:
    left = run.left_now()
    words = page.duration(run.elapsed_now())
    if left is not None and run.status == "running":
        words += f", about {page.duration(left)} left"
    return f'<span style="margin-left:12px">{words}</span>'


def _names(run: LiveRun) -> dict[str, str]:
    """Labels of the images; with the data key where two devices have the same."""
    labels = [picture.label for picture in run.pictures.values()]
    return {
        key: picture.label if labels.count(picture.label) == 1 else key
        for key, picture in run.pictures.items()
    }
