"""Signatures of Tiled's server, read once: a quarter of the time of each request of a catalog.

Tiled replaces one dependency of its FastAPI application by another (``get_settings``). For an application that does so,
FastAPI looks up, for each request and each of its dependencies, what the function takes (``solve_dependencies`` calls
``get_dependant``): some forty signatures, of which none ever changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial, wraps
from typing import Any


def read_signatures_once() -> None:
    """From now on, for all FastAPI applications of this process that replace a dependency.

    Nothing changes with a FastAPI that does it another way.
    """
    with suppress(ImportError, AttributeError):
        from fastapi.dependencies import utils

        if not hasattr(utils.get_dependant, "__wrapped__"):
            utils.get_dependant = _remembered(utils.get_dependant)


def _remembered(analysed: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Hashable, Any] = {}  # each has its function, so that another cannot take its place in memory

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
    """What is asked, or None if the answer should not be kept.

    A route asks for one of its own, to which it adds; what is below another comes with ``parent_oauth_scopes``. A
    function that another has made is one application's, and would keep it in memory.
    """
    call = arguments["call"]
    its_own = isinstance(call, partial) or "<locals>" in getattr(call, "__qualname__", "")
    if its_own or "parent_oauth_scopes" not in arguments:
        return None
    rest = {name: value for name, value in arguments.items() if name != "call"}
    key = id(call), *((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(rest.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key
