"""Which names become files, columns and nodes of the catalog: others are refused before they do harm."""

from __future__ import annotations

import re
from collections.abc import Mapping

PLAIN = "letters, digits, '_', '-' and '.', and no '.' at the start"


def is_plain_name(name: object) -> bool:
    """Whether ``name`` can be a part of a path: one of ``PLAIN`` characters, so never of another folder."""
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name) is not None


def stream_fault(name: str) -> str | None:
    """Why the catalog cannot have a stream of this name: its nodes are found by URL. None where it can."""
    if name in ("", ".", "..") or re.search(r"[/?#%\x00-\x1f]", name):
        return "a stream's name holds no '/', '?', '#', '%' or line break, and is not empty, '.' or '..'"
    return None


def keys_fault(is_array: Mapping[str, bool]) -> str | None:
    """Why the catalog cannot have these data keys in one stream; None where it can.

    Scalars and the timestamps ``ts_KEY`` of all keys are columns of an SQL table; arrays are nodes found by URL.
    """
    # Tiled refuses such names only when the first Event is written.
    from tiled.adapters.sql import COLUMN_NAME_PATTERN, is_safe_identifier
    from tiled.utils import UnsafeIdentifier

    columns = {"seq_num": "seq_num", "time": "time"}
    renamed = {name: f"{name}_" for name in columns}  # what its normalizer makes of these two
    for key, array in is_array.items():
        names = [] if array else [renamed.get(key, key)]
        for column in (*names, f"ts_{renamed.get(key, key)}"):
            try:
                is_safe_identifier(column, COLUMN_NAME_PATTERN)
            except UnsafeIdentifier as error:
                return f"{key!r} cannot be a column ({error})"
            if column.startswith("_"):
                return f"{key!r} cannot be a column: its name begins with '_'"
            if (other := columns.setdefault(column.lower(), key)) != key:
                return f"{other!r} and {key!r} would be one column (case does not count, 'ts_' is for times)"
        if array and re.search(r"[?#\x00-\x1f]", key):
            return f"{key!r} holds '?', '#' or a line break"
    return None
