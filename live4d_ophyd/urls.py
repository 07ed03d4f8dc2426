"""Addresses and the passwords in them: kept apart, so that nothing that is shown, logged or stored holds one."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOGIN_IN_TEXT = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY_IN_TEXT = re.compile(r"(://[^\s'\"<>?]*)\?[^\s'\"<>]*")


def shown(url: str) -> str:
    """The address as it may be shown: without user name, password and query, however malformed it is."""
    scheme = match[0] if (match := _SCHEME.match(url)) else ""
    # A password may hold what ends an address elsewhere: all up to the last @ goes.
    rest = url[len(scheme) :].rpartition("@")[2]
    return scheme + re.split("[?#]", rest, maxsplit=1)[0]


def shown_text(text: str) -> str:
    """A text of somebody else's, an HTTP client's error, with its addresses as `shown` has them."""
    return _QUERY_IN_TEXT.sub(r"\1", _LOGIN_IN_TEXT.sub("", text))


def split_login(url: str) -> tuple[str, str]:
    """``http://user:secret@host/x`` as ``("http://host/x", "user:secret")``; without a login, the second is "".

    Raises ValueError for an address that cannot be read.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may hold the login
        raise ValueError(f"{shown(url)!r} is no address") from None
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), unquote(login)


def one_line(error: BaseException) -> str:
    """The text of an error as one line, without what gives access to a server; its type where it has no text."""
    return shown_text(" ".join(str(error).split())) or type(error).__name__
