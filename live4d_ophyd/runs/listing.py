"""The list of a catalog's runs: what tells one from another, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from live4d_ophyd.runs.facts import local_time, text_of

COLUMNS = ("scan", "uid", "began", "plan", "sample", "ended")

PAGE = 100  #: runs that are asked for at once


def newest_runs(db: Any, most: int) -> dict[str, list[str]]:
    """`COLUMNS` of the newest runs of the catalog ``db``, ``most`` of them, as texts; times are local."""
    # In pages, as a server gives no more than 300 at once.
    rows = [_row(run.metadata) for run in db.values().page_size(PAGE).tail(most)][::-1]
    return {name: [entry[name] for entry in rows] for name in COLUMNS}


def _row(metadata: Mapping[str, Any]) -> dict[str, str]:
    start, stop = metadata["start"], metadata.get("stop") or {}
    return {
        "scan": str(start.get("scan_id", "")),
        "uid": str(start["uid"]),
        "began": local_time(start["time"])[:19].replace("T", " "),
        "plan": str(start.get("plan_name", "")),
        "sample": text_of(start.get("sample", ""), ""),
        "ended": str(stop.get("exit_status", "not finished")),
    }
