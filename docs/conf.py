"""How Sphinx builds these pages: ``make docs``. It needs no network, and a warning is an error."""

from __future__ import annotations

import re
from typing import Any

import live4d_ophyd

project = "live4d-ophyd"
author = "the authors of live4d-ophyd"
version = release = live4d_ophyd.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
]
default_role = "py:obj"  # `ScanGrid` in a docstring is a link where these pages describe it
python_maximum_signature_line_length = 90

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
napoleon_google_docstring = False

html_theme = "furo"
html_title = f"live4d-ophyd {release}"

_ENTRY = re.compile(r"^(\w[\w, ]*) : ")


def say_what_parameters_are(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings here say ``name : what it is``; NumPy's say ``name : type``, and what it is in the next line.

    Of the first kind fields are made. A section of the second kind goes on with a capital letter in the next line, and
    is left to napoleon.
    """
    if "Parameters" not in lines:
        return
    heading = lines.index("Parameters")
    end = next((n for n in range(heading, len(lines)) if not lines[n].strip()), len(lines))
    entries = lines[heading + 2 : end]
    if not any(line.startswith(" ") and line.strip()[:1].isupper() for line in entries):
        lines[heading:end] = [_ENTRY.sub(_field, line) for line in entries]


def _field(entry: re.Match[str]) -> str:
    # Of "rows, cols" Sphinx would take the first for a type, but for the space.
    return f":param {entry[1].replace(' ', '')}: "


def escape_stars(app: Any, context: Any, lines: list[str]) -> None:
    """Help texts of commands are plain text: ``*.cbor`` begins no emphasis."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Any) -> None:
    for event in ("description", "options", "arguments"):
        app.connect(f"sphinx-click-process-{event}", escape_stars)
    app.connect("autodoc-process-docstring", say_what_parameters_are, priority=400)
