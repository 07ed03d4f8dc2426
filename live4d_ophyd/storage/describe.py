"""The lines that tell a user what a run holds and how to get it back in another process."""

from __future__ import annotations

from typing import Any

from live4d_ophyd.storage.catalog import PROFILE


def describe_run(db: Any, uid: str, *, profile: str = PROFILE) -> str:
    """Text for the end of a run: what is stored, and the Python that reads it in any process.

    Parameters
    ----------
    db
        The catalog client the run is in; also its ``v2``, as databroker 2 has it.
    uid
        The run's uid or its first characters (at least 5).
    profile
        Name under which ``databroker.catalog`` opens the catalog.

    Raises
    ------
    KeyError
        No run of this uid.
    """
    run = db[uid]
    start, stop = run.metadata["start"], run.metadata.get("stop") or {}
    status = stop.get("exit_status", "not finished")
    lines = [
        f"run {start['uid']} (scan {start.get('scan_id', '?')}, {start.get('plan_name', '?')}): {status}"
    ]
    example = None
    for name in run:
        keys = run[name].descriptors[-1]["data_keys"]
        images = [key for key, value in keys.items() if value["dtype"] == "array"]
        events = stop.get("num_events", {}).get(name)
        held = ", ".join(f"{key} {tuple(keys[key]['shape'])}" for key in images) or f"{len(keys)} columns"
        lines.append(
            f"  {name}: {held}" + (f", {events} Event{'s' * (events != 1)}" if events is not None else "")
        )
        if images and (example is None or name == "primary"):
            example = name, images[0]
    lines += ["get it back, in any process:", "  from databroker import catalog"]
    lines.append(f'  run = catalog["{profile}"]["{start["uid"][:8]}"]')
    if example:
        stream, key = example
        access = f"run.{stream}" if stream.isidentifier() else f'run["{stream}"]'
        lines.append(
            f'  image = {access}.read(["{key}"])["{key}"]    # xarray, dims {_dims(run[stream], key)}'
        )
    return "\n".join(lines)


def _dims(stream: Any, key: str) -> str:
    data = (
        stream if key in stream else stream["data"]
    )  # clients of databroker 2 have the data one level below
    return ", ".join(data[key].dims or ())
