"""The page of the catalog's runs: a list of the newest, and the one that is chosen.

In: a catalog. Out: a Bokeh document. The catalog is asked in the thread ``live4d-view-catalog``. The server's thread.
"""

from __future__ import annotations

from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import Button, ColumnDataSource, DataTable, StringFormatter, TableColumn

from live4d_ophyd.runs.find import find_run
from live4d_ophyd.runs.listing import newest_runs
from live4d_ophyd.view import page
from live4d_ophyd.view.background import Background
from live4d_ophyd.view.panels import INK, PAPER
from live4d_ophyd.view.run_view import RunView
from live4d_ophyd.view.saved_run import SavedRun

#: of the list
NEWEST = 200
_DARK_TABLE = f"""
.slick-header-column, .slick-row, .slick-cell {{
  background: {PAPER} !important; color: {INK} !important; border-color: #2b323a !important
}}
.slick-row.selected .slick-cell, .slick-cell.selected {{ background: #1565c0 !important }}
"""
_ROW_PX, _MOST_ROWS = 24, 6  # of the list on the page; it scrolls
_COLUMNS = {"scan": 50, "began": 140, "plan": 150, "sample": 140, "ended": 80}


class RunsPage:
    """What one browser sees of the catalog ``db``; ``?run=`` in its address is a run as `find_run` takes it."""

    def __init__(self, document: Document, db: Any, background: Background) -> None:
        self._document, self._db, self._background = document, db, background
        self._view: RunView | None = None
        self._asked = 0
        self._source = ColumnDataSource({name: [] for name in (*_COLUMNS, "uid")}, name="runs")
        plain = StringFormatter(text_color=INK, background_color=PAPER)
        self._table = DataTable(
            source=self._source, index_position=None, width=580, height=_height(0), row_height=_ROW_PX, selectable=True,
            columns=[TableColumn(field=n, title=n, width=w, formatter=plain) for n, w in _COLUMNS.items()],
            stylesheets=[_DARK_TABLE],
        )  # fmt: skip
        again = Button(label="read again", width=90, stylesheets=[page.dark()])
        again.on_click(self._list)
        self._said = page.text("reading the catalog ...")
        self._place = column(children=[page.text("")], sizing_mode="stretch_width")
        document.add_root(
            column(
                page.text(page.links("runs", True)), row(self._table, column(again, self._said)), self._place,
                sizing_mode="stretch_width",
            )
        )  # fmt: skip
        document.title = "live4d runs"
        document.template = page.TEMPLATE
        self._source.selected.on_change("indices", self._on_select)
        document.on_session_destroyed(lambda context: self._close_view())
        asked = (document.session_context.request.arguments if document.session_context else {}).get("run")
        self._list()
        if asked:
            self._open(asked[0].decode(errors="replace"))

    def _list(self) -> None:
        def show(found: dict[str, list[str]]) -> None:
            self._source.data = found
            self._table.height = _height(len(found["uid"]))
            self._said.text = f"{len(found['uid'])} runs" if found["uid"] else "The catalog has no runs yet."

        self._background.read(self._document, lambda: newest_runs(self._db, NEWEST), show, self._fail)

    def _on_select(self, attr: str, old: list[int], new: list[int]) -> None:
        if new:
            self._open(self._source.data["uid"][new[0]])

    def _open(self, which: str) -> None:
        self._said.text = "opening the run ..."

        self._asked += 1
        asked = self._asked

        def show(run: SavedRun) -> None:
            if asked == self._asked:  # else another was chosen meanwhile
                self._close_view()
                self._said.text = f"run {run.uid[:8]}"
                self._view = RunView(self._document, run, self._background)
                self._place.children = [self._view.layout]

        self._background.read(self._document, lambda: SavedRun(find_run(self._db, which)), show, self._fail)

    def _close_view(self) -> None:
        if self._view is not None:
            self._view.close()

    def _fail(self, error: Exception) -> None:
        self._said.text = page.pill(str(error)[:300] or type(error).__name__)


def _height(rows: int) -> int:
    """Of a list of so many runs below its header, px."""
    return 34 + _ROW_PX * min(max(rows, 1), _MOST_ROWS)
