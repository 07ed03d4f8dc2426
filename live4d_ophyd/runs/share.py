"""A catalog served to others by Tiled, to be read and not to be changed, for whoever has the key.

In: the configuration of a catalog and a key. Out: an ASGI application. Requests with the key go on to Tiled as those of
nobody in particular, whom Tiled lets read only; the storage is given to it as readable, not as writable.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from copy import deepcopy
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from live4d_ophyd.storage.catalog import import_server

_COOKIE = "tiled_api_key"
_READ = ("GET", "HEAD", "OPTIONS")
#: says what the server is and can, nothing of the catalog; clients ask for it before they show their key
_ABOUT = ("/api/v1", "/api/v1/")
#: Tiled's requests that read by POST, because the names of columns do not fit into an address
_READ_BY_POST = ("/api/v1/table/", "/api/v1/container/full/", "/api/v1/awkward/buffers/")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ReadOnly:
    """Lets requests through to ``app`` that bring ``key`` and only read.

    The key comes as in Tiled: ``Authorization: Apikey KEY``, ``?api_key=KEY`` or the cookie of that. It is taken out
    of the request: Tiled's own key, which nobody knows, could write.
    """

    def __init__(self, app: Any, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not shared"})
        elif not self._knows(scope) and not (scope["method"] == "GET" and scope["path"] in _ABOUT):
            await _refuse(send, 401, "the key is missing or wrong: from_uri(address, api_key=KEY)")
        elif not _only_reads(scope):
            await _refuse(send, 403, "this catalog is shared read only")
        else:
            await self._app(_as_nobody(scope), receive, send)

    def _knows(self, scope: Scope) -> bool:
        return any(secrets.compare_digest(given, self._key) for given in _keys(scope))


def _keys(scope: Scope) -> list[bytes]:
    found = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() in (b"apikey", b"bearer"):
                found.append(given.strip())
        elif name == b"cookie":
            cookies: SimpleCookie = SimpleCookie(value.decode("latin-1"))
            if _COOKIE in cookies:
                found.append(cookies[_COOKIE].value.encode())
    query = parse_qsl(scope["query_string"].decode("latin-1"))
    return found + [value.encode() for name, value in query if name == "api_key"]


def _only_reads(scope: Scope) -> bool:
    return scope["method"] in _READ or (
        scope["method"] == "POST" and any(scope["path"].startswith(path) for path in _READ_BY_POST)
    )


def _as_nobody(scope: Scope) -> Scope:
    """The request without anything that Tiled would take for a login."""
    headers = [(name, value) for name, value in scope["headers"] if name not in (b"authorization", b"cookie")]
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = urlencode([(name, value) for name, value in query if name != "api_key"])
    return {**scope, "headers": headers, "query_string": kept.encode("latin-1")}


async def _refuse(send: Send, status: int, why: str) -> None:
    body = f'{{"detail": "{why}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def shared_app(served: Mapping[str, Any], key: str) -> ReadOnly:
    """The application that shares a catalog; ``served`` as of ``storage.served_from``."""
    import_server()
    from tiled.server.app import build_app_from_config

    app = ReadOnly(build_app_from_config(read_only(served)), key)
    logging.getLogger("tiled.server.app").setLevel(logging.WARNING)  # it says its version at every start
    return app


def read_only(served: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with all storage readable and none writable."""
    config = deepcopy(dict(served))
    config["authentication"] = {"allow_anonymous_access": True}
    for tree in config["trees"]:
        arguments = dict(tree.get("args") or {})
        writable = arguments.pop("writable_storage", None) or []
        writable = [writable] if isinstance(writable, str) else list(writable)
        arguments["readable_storage"] = [*writable, *(arguments.get("readable_storage") or [])]
        arguments.pop("init_if_not_exists", None)
        # Where backups lie is of no use to others, and a path of this machine.
        arguments["metadata"] = {
            name: value
            for name, value in (arguments.get("metadata") or {}).items()
            if name not in ("backup_directory", "directory")
        }
        tree["args"] = arguments
    return config
