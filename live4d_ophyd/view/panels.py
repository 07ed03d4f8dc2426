"""Panels of a page: an image with scale bar, colour bar and cursor values; a pattern with the detectors on it.

In: `Displayed`, `Outline`. Out: Bokeh figures, which a page, or a notebook, puts where it wants. The server's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTickFormatter,
    ColorBar,
    ColumnDataSource,
    GlyphRenderer,
    HoverTool,
    Legend,
    LegendItem,
    LinearColorMapper,
    LogColorMapper,
    MetricLength,
    ScaleBar,
)
from bokeh.palettes import Cividis256, Greys256, Inferno256, Magma256, Viridis256
from bokeh.plotting import figure
from matplotlib import colormaps
from matplotlib.colors import to_hex

from live4d_ophyd.live.panel import NOT_SEEN
from live4d_ophyd.view.displayed import Displayed
from live4d_ophyd.view.outlines import Outline

#: by the words for them
COLOR_MAPS = {
    "gray": Greys256,
    "viridis": Viridis256,
    "magma": Magma256,
    "inferno": Inferno256,
    "cividis": Cividis256,
}
#: of values of either sign, as in the live figures: blue below 0, white, red
_TWO_COLORS = tuple(to_hex(color) for color in colormaps["RdBu_r"](np.linspace(0, 1, 256)))
#: of detectors, distinct to the colour-blind too (Okabe and Ito 2008)
OUTLINE_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#FFFFFF")
PAGE, PAPER, INK, FAINT = "#14171a", "#1c2126", "#e6e6e6", "#8b949e"
#: units that have a scale bar, as Bokeh's page knows them; positions in px have the axes
_LENGTHS = {unit: unit for unit in ("m", "cm", "mm", "µm", "nm", "pm")} | {"um": "µm"}
#: what the cursor says
_VALUE = ("value", "@image{0.[0000]}")
#: in the title of an image
_OLD = "   (the run before)"
_SHORTEST_PX = 48  # of a scan of one line, so that it can be seen


class _Panel:
    """What images and patterns share: a figure with square pixels and row 0 on top, of one fixed width."""

    def __init__(self, side: int, axes: tuple[str, str], tools: str = "") -> None:
        self._side = side
        self._axes = axes
        self._size: tuple[Any, ...] | None = None
        self._chosen, self._symmetric = COLOR_MAPS["gray"], False
        self.mapper: LinearColorMapper | LogColorMapper = LinearColorMapper(
            COLOR_MAPS["gray"], low=0, high=1, nan_color=NOT_SEEN
        )
        self.source = ColumnDataSource(
            {"image": [np.full((1, 1), np.nan, np.float32)], "x": [0], "y": [0], "dw": [1], "dh": [1]}
        )
        self.figure = figure(
            width=None, height=None, frame_width=side, frame_height=side, title=" ",
            x_range=(0, 1), y_range=(1, 0), toolbar_location="above", active_scroll="wheel_zoom",
            tools=f"pan,wheel_zoom,box_zoom,reset,save{',' if tools else ''}{tools}",
            background_fill_color=PAPER, border_fill_color=PAPER, outline_line_color=None,
        )  # fmt: skip
        self.image = self.figure.image(
            "image", "x", "y", "dw", "dh", source=self.source, color_mapper=self.mapper
        )
        self.bar = ColorBar(
            color_mapper=self.mapper, width=10, padding=4, background_fill_color=PAPER, major_label_text_color=INK,
            title_text_color=INK, title_text_font_style="normal", major_tick_line_color=INK,
            label_standoff=4,
        )  # fmt: skip
        self.figure.add_layout(self.bar, "right")
        fig = self.figure
        fig.grid.visible = False
        fig.title.text_color = INK
        fig.title.text_font_size = "13px"
        fig.axis.axis_label_text_color = INK
        fig.axis.axis_label_text_font_style = "normal"
        fig.axis.major_label_text_color = FAINT
        fig.axis.axis_line_color = fig.axis.major_tick_line_color = fig.axis.minor_tick_line_color = FAINT
        fig.toolbar.logo = None
        fig.toolbar.autohide = True
        fig.styles = {"flex": "none", "margin": "4px", "border-radius": "6px", "overflow": "hidden"}

    def _show(self, shown: Displayed, title: str, units: str, columns: dict[str, Any]) -> None:
        self._fit(shown)
        place = {
            "x": [shown.origin[1]], "y": [shown.origin[0]], "dw": [shown.size[1]], "dh": [shown.size[0]],
        }  # fmt: skip
        self.source.data = {**columns, **place}
        self.figure.title.text = title
        self.bar.title = units or None

    def _fit(self, shown: Displayed) -> None:
        """Axes and frame for a picture of this size; what was zoomed stays until another comes."""
        size = (*shown.size, *shown.origin, shown.unit)
        if size == self._size:
            return
        self._size = size
        (height, width), (top, left) = shown.size, shown.origin
        longer = max(height, width)
        fig = self.figure
        fig.frame_width = max(round(self._side * width / longer), _SHORTEST_PX)
        fig.frame_height = max(round(self._side * height / longer), _SHORTEST_PX)
        for axis, (begin, end) in ((fig.x_range, (left, left + width)), (fig.y_range, (top + height, top))):
            axis.update(start=begin, end=end, reset_start=begin, reset_end=end)
        fig.xaxis.axis_label = f"{self._axes[1]} [{shown.unit}]"
        fig.yaxis.axis_label = f"{self._axes[0]} [{shown.unit}]"

    def set_color_map(self, name: str) -> None:
        """Show values in these colours, but those of either sign."""
        self._chosen = COLOR_MAPS[name]
        self._color()

    def _color(self) -> None:
        palette = _TWO_COLORS if self._symmetric else self._chosen
        if self.mapper.palette != palette:
            self.mapper.palette = palette


def figures_of(images: Iterable[ImagePanel], pattern: PatternPanel) -> list[figure]:
    """What goes into a page. No invisible figure does: its browser would wait for it and never be ready."""
    return [*(panel.figure for panel in images), *([pattern.figure] if pattern.figure.visible else [])]


class ImagePanel(_Panel):
    """An image over the scan, (scan_y, scan_x)."""

    def __init__(self, key: str, side: int, tools: str = "") -> None:
        super().__init__(side, ("scan_y", "scan_x"), tools)
        self.figure.name = key
        self.bar.formatter = BasicTickFormatter(power_limit_high=6)  # 800000 is shorter than 8.000e+5
        self._wheel: GlyphRenderer = self.figure.image_rgba(
            "colors", "x", "y", "dw", "dh", visible=False,
            source=ColumnDataSource({"colors": [], "x": [], "y": [], "dw": [], "dh": [], "image": [], "bright": []}),
        )  # fmt: skip
        self._scale: ScaleBar | None = None
        self.figure.add_tools(
            HoverTool(renderers=[self.image], tooltips=[("y, x", "$y{0.00}, $x{0.00}"), _VALUE]),
            HoverTool(
                renderers=[self._wheel],
                tooltips=[("y, x", "$y{0.00}, $x{0.00}"), ("deg", "@image{0.0}"), ("magnitude", "@bright{0.[0000]}")],
            ),
        )  # fmt: skip

    def show(self, shown: Displayed, label: str, units: str) -> None:
        """Show an image in place of the one before."""
        # Rounded down: 100 % means every position.
        title = label if shown.seen == 1 else f"{label}   {int(1000 * shown.seen) / 10:g} % seen"
        is_wheel = shown.colors is not None
        self._scale_bar(shown.unit)
        self._show(shown, title, units, {"image": [shown.values]})
        self.mapper.update(low=shown.levels[0], high=shown.levels[1])
        self._symmetric = shown.symmetric
        self._color()
        if is_wheel:
            self._wheel.data_source.data = {
                "colors": [shown.colors], "image": [shown.values], "bright": [shown.brightness],
                "x": [shown.origin[1]], "y": [shown.origin[0]], "dw": [shown.size[1]], "dh": [shown.size[0]],
            }  # fmt: skip
        self._wheel.visible, self.image.visible, self.bar.visible = is_wheel, not is_wheel, not is_wheel

    def show_as_old(self) -> None:
        """Say of the image that it is of the run before: the new one has none yet."""
        if not self.figure.title.text.endswith(_OLD):
            self.figure.title.text += _OLD

    def _scale_bar(self, unit: str) -> None:
        length = _LENGTHS.get(unit)
        if (self._scale.unit if self._scale else None) == length:
            return
        if self._scale is not None:
            self.figure.center.remove(self._scale)
            self._scale = None
        if length is not None:
            self._scale = ScaleBar(
                range=self.figure.x_range, unit=length, dimensional=MetricLength(), orientation="horizontal",
                location="bottom_left", background_fill_color="#000000", background_fill_alpha=0.55,
                border_line_color=None, label_text_color="white", bar_line_color="white", bar_line_width=3, padding=6,
                margin=6, length_sizing="adaptive",
            )  # fmt: skip
            self.figure.add_layout(self._scale)


class PatternPanel(_Panel):
    """A diffraction pattern, (q_y, q_x), with the virtual detectors on it."""

    def __init__(self, side: int, tools: str = "") -> None:
        super().__init__(side, ("q_y", "q_x"), tools)
        self.figure.name = "pattern"
        self.mapper.palette = COLOR_MAPS["inferno"]
        self._shown: Displayed | None = None
        self._outlines: tuple[str, ...] | None = None
        self.figure.add_tools(
            HoverTool(renderers=[self.image], tooltips=[("row, col", "$y{0.0}, $x{0.0}"), _VALUE])
        )  # fmt: skip
        self._lines: list[GlyphRenderer] = []
        self._legend = Legend(
            items=[], location="top_left", background_fill_color="#000000", background_fill_alpha=0.8,
            border_line_color=None, label_text_color=INK, label_text_font_size="11px", padding=4, spacing=0,
            label_height=14, glyph_height=12, margin=4, click_policy="hide",
        )  # fmt: skip
        self.figure.add_layout(self._legend)

    def show(self, shown: Displayed, title: str, units: str, logarithmic: bool) -> None:
        """Show a pattern in place of the one before."""
        self._shown = shown
        self.figure.visible = True
        self._show(shown, title, units, {"image": [shown.values]})
        self.set_logarithmic(logarithmic)

    def show_empty(self, shape: tuple[int, int] | None, title: str) -> None:
        """Only where detectors lie: no pattern is known, the pattern's shape may be."""
        self.figure.visible = shape is not None
        if shape is None:
            return
        nothing = np.full((1, 1), np.nan, np.float32)
        self._shown = None
        self._show(Displayed(nothing, shape, (-0.5, -0.5), "px", (0.0, 1.0), 0.0), title, "",
                   {"image": [nothing]})  # fmt: skip

    def set_logarithmic(self, logarithmic: bool) -> None:
        """Colours by the logarithm of the values, or by the values."""
        if self._shown is None:
            return
        kind = LogColorMapper if logarithmic else LinearColorMapper
        if not isinstance(self.mapper, kind) or type(self.mapper) is not kind:
            self.mapper = kind(self.mapper.palette, low=1, high=2, nan_color=NOT_SEEN)
            self.image.glyph.color_mapper = self.mapper
            self.bar.color_mapper = self.mapper
        low, high = self._shown.levels
        if logarithmic:
            values = self._shown.values
            seen = values[np.isfinite(values) & (values > 0)]
            low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.1, 1.0)
            low = max(low, high * 1e-5)
            self.mapper.low_color = self.mapper.palette[0]  # 0 counts
        self.mapper.update(low=low, high=high if high > low else low * 2 + 1)

    def show_detectors(self, found: Sequence[Outline]) -> None:
        """Draw detectors in place of those before."""
        if self._outlines != (names := tuple(outline.name for outline in found)):
            self._outlines = names
            self._renew(found)
        for renderer, outline in zip(self._lines, found):
            data = {"xs": [line[1] for line in outline.lines], "ys": [line[0] for line in outline.lines]}
            if not _same(renderer.data_source.data, data):
                renderer.data_source.data = data

    def _renew(self, found: Sequence[Outline]) -> None:
        self.figure.renderers = [r for r in self.figure.renderers if r not in self._lines]
        self._lines = [
            self.figure.multi_line(
                "xs", "ys", source=ColumnDataSource({"xs": [], "ys": []}), line_width=2,
                # Every second one has gaps: of two at the same place both are seen.
                line_color=OUTLINE_COLORS[n % len(OUTLINE_COLORS)], line_dash="dashed" if n % 2 else "solid",
            )
            for n in range(len(found))
        ]  # fmt: skip
        self._legend.items = [
            LegendItem(label=outline.name, renderers=[line]) for outline, line in zip(found, self._lines)
        ]
        self._legend.visible = bool(found)


def _same(before: Any, after: dict[str, list[np.ndarray]]) -> bool:
    return all(
        len(before[key]) == len(after[key])
        and all(np.array_equal(one, other) for one, other in zip(before[key], after[key]))
        for key in after
    )
