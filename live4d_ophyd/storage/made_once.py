"""What Tiled's server makes for each request of a catalog, made once: signatures, and the types of its answers.

Tiled replaces one dependency of its FastAPI application by another (``get_settings``). For an application that does so,
FastAPI looks up, for each request and each of its dependencies, what the function takes (``solve_dependencies`` calls
``get_dependant``): some forty signatures, of which none ever changes. They are a quarter of the time of a request.

An answer about a node is of a generic Pydantic type (``schemas.Resource[...]``), which Pydantic makes when it is first
named and forgets when nobody has it: Tiled names it anew for each answer. That is another seventh.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial, wraps
from typing import Any

_types: list[type] = []  # nobody else has them


def keep_types_of_answers() -> None:
    """From now on; nothing changes with a Tiled that has other types."""
    with suppress(ImportError, AttributeError, TypeError):
        from tiled.server import schemas

        of_nodes = {schemas.SelfLinkOnly, *schemas.resource_links_type_by_structure_family.values()}
        contents = [(schemas.ContainerLinks, schemas.ContainerMeta)]
        contents += [(links, schemas.EmptyDict) for links in of_nodes]
        _types[:] = [schemas.Resource[schemas.NodeAttributes, links, meta] for links, meta in contents]


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
