"""Signatures of Tiled's server, read once: a quarter of the time of each request of a catalog.

Tiled replaces one dependency of its FastAPI application by another (``get_settings``). For an application that does so,
FastAPI looks up, for each request and each of its dependencies, what the function takes (``solve_dependencies`` calls
``get_dependant``): some forty signatures, of which none ever changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any

from fastapi.dependencies import utils


def read_signatures_once() -> None:
    """From now on, in this process. Nothing changes with a FastAPI that does it another way."""
    analysed = getattr(utils, "get_dependant", None)
    if analysed is not None and not hasattr(analysed, "__wrapped__"):
        utils.get_dependant = _remembered(analysed)


def _remembered(analysed: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Hashable, Any] = {}

    @wraps(analysed)
    def get_dependant(**arguments: Any) -> Any:
        key = _key(arguments)
        if key is None:
            return analysed(**arguments)
        if key not in known:
            known[key] = analysed(**arguments)
        return known[key]

    return get_dependant


def _key(arguments: dict[str, Any]) -> Hashable | None:
    """What is asked, or None if it should not be kept: a function made by another is one application's own."""
    if "<locals>" in getattr(arguments.get("call"), "__qualname__", ""):
        return None
    key = tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(arguments.items())
    )
    try:
        hash(key)
    except TypeError:
        return None
    return key
