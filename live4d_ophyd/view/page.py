"""What all pages have in common: colours, links, the words of a status. The server's thread."""

from __future__ import annotations

import html
from typing import Any

from bokeh.models import Div, InlineStyleSheet

from live4d_ophyd.live.panel import ALARM
from live4d_ophyd.view.panels import FAINT, INK, PAGE, PAPER

#: what goes into Bokeh's own template, whose body is white
TEMPLATE = f"""
{{% block postamble %}}
<style>
  html, body {{ background: {PAGE}; color: {INK}; font-family: system-ui, "DejaVu Sans", sans-serif; margin: 0; }}
  body {{ padding: 8px 12px; }}
</style>
{{% endblock %}}
"""
_GOOD, _BUSY = "#2e7d32", "#1565c0"
_STATUS_COLORS = {"running": _BUSY, "success": _GOOD, "waiting": "#4b5563"}
#: of widgets, which live in a shadow DOM each
DARK = InlineStyleSheet(
    css=f"""
    :host {{ color: {INK}; --font-size: 13px; }}
    .bk-input, select, input {{
      background: {PAPER} !important; color: {INK} !important; border-color: #3a424a !important;
    }}
    label, .bk-input-group {{ color: {FAINT}; }}
    .bk-btn {{ background: #2b323a; color: {INK}; border-color: #3a424a; }}
    .bk-btn-primary {{ background: {_BUSY}; color: white; }}
    .choices__inner, .choices__list--dropdown, .choices__input {{
      background: {PAPER} !important; color: {INK} !important; border-color: #3a424a !important;
    }}
    .choices__item--choice {{ color: {INK} !important; background: {PAPER} !important; }}
    .choices__item--choice.is-highlighted {{ background: #2b323a !important; }}
    .choices__list--multiple .choices__item {{ background: #2b323a !important; border-color: #3a424a !important; }}
    """
)


def dark() -> InlineStyleSheet:
    """The style of widgets, one for each document."""
    return InlineStyleSheet(css=DARK.css)


def text(words: str, **options: Any) -> Div:
    """HTML in the page's colours."""
    return Div(text=words, styles={"color": INK, "font-size": "14px"}, **options)


def small(words: str) -> Div:
    """As the titles of widgets are."""
    return text(f'<span style="color:{FAINT};font-size:13px">{words}</span>', margin=(3, 5, 9, 5))


def links(here: str, has_runs: bool) -> str:
    """The way to the other pages."""
    pages = [("live", "."), ("runs", "runs")] if has_runs else [("live", ".")]
    style = "margin-right:14px;text-decoration:none;"
    return "".join(
        f'<a href="{target}" style="{style}color:{INK if name == here else FAINT};'
        f'border-bottom:2px solid {_BUSY if name == here else "transparent"}">{name}</a>'
        for name, target in pages
    )


def pill(words: str, color: str = ALARM) -> str:
    """Words on a colour."""
    return (
        f'<span style="background:{color};color:white;border-radius:9px;padding:1px 9px;margin-right:8px;'
        f'white-space:nowrap">{html.escape(words)}</span>'
    )


def status_pill(status: str) -> str:
    """How a run is."""
    return pill(status, _STATUS_COLORS.get(status, ALARM))


def alarm_pills(alarms: tuple[str, ...]) -> str:
    """What is lost or saturated, in red."""
    return "".join(pill(alarm) for alarm in alarms)


def progress_bar(fraction: float, width: int = 180) -> str:
    """A bar that is filled so far."""
    done = min(max(fraction, 0.0), 1.0)
    return (
        f'<span style="display:inline-block;vertical-align:middle;width:{width}px;height:8px;background:#2b323a;'
        f'border-radius:4px;margin:0 8px"><span style="display:block;width:{100 * done:.1f}%;height:8px;'
        f'background:{_BUSY};border-radius:4px"></span></span>{int(100 * done)} %'
    )


def duration(seconds: float) -> str:
    """``45 s``, ``3:05``, ``1:03:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
