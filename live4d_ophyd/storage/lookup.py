"""A node of a catalog in a directory, found by one query: a fifth of the time that a document takes into the catalog.
What lies within a file, or is not there, takes as many as before, or twice as many.

Tiled's server asks the database for each part of a node's path by itself, as an access policy may hide what is above.
A catalog in a directory has no access policy: whoever may read the directory may read it all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from inspect import signature
from typing import Any

#: of Tiled's function that finds a node for a request
_PARAMETERS = [
    "path",
    "security_scopes",
    "principal",
    "authn_access_tags",
    "authn_scopes",
    "root_tree",
    "session_state",
    "metrics",
    "structure_families",
    "access_policy",
]


def look_up_at_once() -> None:
    """From now on, for the applications of this process that have no access policy.

    Nothing changes with a Tiled that does it another way.
    """
    with suppress(ImportError, AttributeError):
        from tiled.server import router

        if list(signature(router.get_entry).parameters) == _PARAMETERS and not hasattr(
            router.get_entry, "__wrapped__"
        ):
            router.get_entry = _at_once(router.get_entry)


def _at_once(walk: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    from tiled.catalog.adapter import CatalogNodeAdapter

    arguments = signature(walk)

    @wraps(walk)
    async def get_entry(*given: Any, **named: Any) -> Any:
        asked = arguments.bind(*given, **named)
        asked.apply_defaults()
        known = asked.arguments
        parts = [part for part in known["path"].split("/") if part]
        root, families = known["root_tree"], known["structure_families"]
        as_it_is = known["access_policy"] is None and not known["session_state"]
        if as_it_is and isinstance(root, CatalogNodeAdapter):
            with suppress(Exception):  # Tiled's own walk raises the error that belongs to it
                entry = await root.lookup_adapter(parts)
                if families is None or entry.structure_family in families:
                    return entry
        return await walk(*given, **named)

    return get_entry
