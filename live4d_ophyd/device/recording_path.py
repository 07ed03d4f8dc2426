"""Where a device records frames: paths with fields of the run, and the same place seen from elsewhere.

In: a template that the user set, what is known of the run. Out: a path at the engine's host; its counterpart here.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

#: what may stand in braces in a path
FIELDS = ("date", "time", "scan_id", "plan_name", "uid", "device")
#: in place of what is not known, without a run
_UNKNOWN = "none"


def check_template(template: str) -> None:
    """Raise ValueError for what is neither "" nor the path of a file."""
    if not template:
        return
    try:
        names = [name for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"the path {template!r} cannot be read: {error}") from None
    if unknown := [name for name in names if name not in FIELDS]:
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise ValueError(f"the path {template!r} names {{{unknown[0]}}}; known are {known}")
    try:
        template.format(**dict.fromkeys(FIELDS, "x") | {"scan_id": 1})
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"the path {template!r} cannot be filled in: {error}") from None
    if not template.startswith("/") or not template.endswith(".h5"):
        raise ValueError(
            f"the path is {template!r}; expected an absolute path that ends with .h5, as in "
            "'/data/{date}/{scan_id}_{plan_name}.h5', or '' to record nothing"
        )


def expand(template: str, run: Mapping[str, Any], device: str) -> str:
    """The path for a run; ``run`` has keys of its start document, ``time`` among them."""
    began = datetime.fromtimestamp(run["time"]) if "time" in run else datetime.now()
    # Without a run not the time of each trigger: a detector that stays armed would be armed anew for another path.
    known = {"date": f"{began:%Y-%m-%d}", "time": _UNKNOWN, "device": device}
    if "time" in run:
        known["time"] = f"{began:%H%M%S}"
    for name in ("plan_name", "uid"):
        # A plan's name could lead out of the folder.
        known[name] = re.sub(r"[^\w.-]|^\.+", "_", str(run.get(name, _UNKNOWN)))
    scan_id = run.get("scan_id", 0)
    return template.format(**known, scan_id=scan_id if isinstance(scan_id, int) else 0)


def check_map(text: str) -> None:
    """Raise ValueError for what is neither "" nor ``/there=/here``."""
    if text and not re.fullmatch(r"/[^=]*=/[^=]*", text):
        raise ValueError(
            f"{text!r} does not say where files are seen: expected a folder at the engine's host and here, as in "
            "'/data=/mnt/gpu-host', or ''"
        )


def check_seen(device: str, record: str, where: str) -> None:
    """Raise ValueError if files recorded at ``record`` cannot be seen where ``where`` says, as of `check_map`."""
    if not record or not where:
        return
    there, _, here = where.partition("=")
    if not Path(here).is_dir():
        raise ValueError(
            f"{device}_record_map is {where!r}, and there is no folder {here} here: mount it, or '' instead"
        )
    if seen_at(record, where) == record:
        raise ValueError(
            f"{device}_record is {record!r}, which is not below {there}, of which {device}_record_map says where it is "
            "seen here"
        )


def seen_at(path: str, where: str) -> str:
    """A path of the engine's host as it is here; ``where`` as of `check_map`. Others stay as they are."""
    if not where:
        return path
    there, _, here = where.partition("=")
    try:
        return str(PurePosixPath(here) / PurePosixPath(path).relative_to(there))
    except ValueError:
        return path
