"""The server of the pages, by Bokeh: read only, for those whose browser brings the token.

In: what pages show. Out: HTTP and websockets at one port. One thread, the caller's of `serve`.

A token in the address (``/?token=...``) becomes a cookie, which pages, links and websockets bring from then on. A
websocket needs a session that this server has signed, and comes from a page of this server: else it is refused.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.auth_provider import AuthProvider
from bokeh.server.server import Server
from tornado.web import RequestHandler

from live4d_ophyd.listener import listen

#: a browser sends choices and what it has drawn
_MOST_RECEIVED = 1 << 20
#: how long a page that is gone is kept, ms: its connection may come back
_KEPT_MS = 15_000
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Page = Callable[[Document], None]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host in _LOOPBACK


class _Refused(RequestHandler):
    """What everybody gets who has no token."""

    def get(self) -> None:
        self.set_status(401)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("The token is missing or wrong. `live4d view` prints the address with it.\n")


class _Token(AuthProvider):
    """Lets those in who bring ``token``; None: everybody."""

    def __init__(self, token: str, cookie: str) -> None:
        self._token, self._cookie = token.encode(), cookie
        super().__init__()

    def _user(self, handler: RequestHandler) -> str | None:
        given = handler.get_argument("token", "")
        if given and secrets.compare_digest(given.encode(), self._token):
            if not handler.request.headers.get("Upgrade"):
                handler.set_cookie(self._cookie, given, httponly=True, samesite="Strict", path="/")
            return "viewer"
        kept = handler.get_cookie(self._cookie) or ""
        return "viewer" if secrets.compare_digest(kept.encode(), self._token) else None

    @property
    def get_user(self) -> Any:
        return self._user

    @property
    def login_url(self) -> str:
        return "/refused"

    @property
    def login_handler(self) -> type[RequestHandler]:
        return _Refused


def make_server(
    pages: Mapping[str, Page], host: str, port: int, token: str | None, origins: Sequence[str] = ()
) -> Server:
    """A server of these pages, which listens and does not run yet; ``server.port`` where 0 was asked for.

    Parameters
    ----------
    pages : what makes the document of a path, "/"
    host, port : where it listens
    token : what a browser has to bring; None: nothing
    origins : HOST:PORT by which browsers come, beside the names of this machine: behind a proxy

    Raises OSError where it cannot listen.
    """
    for name in ("bokeh", "tornado.access", "tornado.application"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The cookie has the port in its name, and the origins, too: it must be known before the server is.
    with listen(host, port) as held:
        port = held.getsockname()[1]
    auth: dict[str, Any] = {} if token is None else {"auth_provider": _Token(token, f"live4d-view-{port}")}
    return Server(
        {path: Application(FunctionHandler(page)) for path, page in pages.items()},
        address=None if host in ("0.0.0.0", "") else host,
        port=port,
        allow_websocket_origin=[*_own_names(host, port), *origins],
        sign_sessions=True,
        secret_key=secrets.token_hex(32),
        generate_session_ids=True,
        include_headers=[],
        include_cookies=[],
        websocket_max_message_size=_MOST_RECEIVED,
        unused_session_lifetime_milliseconds=_KEPT_MS,
        check_unused_sessions_milliseconds=_KEPT_MS,
        keep_alive_milliseconds=10_000,
        use_index=False,
        **auth,
    )


def _own_names(host: str, port: int) -> list[str]:
    """HOST:PORT by which a browser may call this machine."""
    names = {"localhost", "127.0.0.1"}
    if not is_loopback(host):
        own = socket.gethostname()
        names |= {own.lower(), socket.getfqdn().lower(), host}
        try:
            found = socket.getaddrinfo(own, port, proto=socket.IPPROTO_TCP)
        except OSError:
            found = []
        names |= {str(place[0]) for *_, place in found}
    # Bokeh takes no numbers of IPv6 in an origin: by name such a machine is reached.
    return [f"{name}:{port}" for name in sorted(names) if ":" not in name]
