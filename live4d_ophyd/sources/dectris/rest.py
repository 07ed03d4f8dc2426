"""Rest: the detector's REST interface (SIMPLON), typed. It asks the device what it has instead of assuming it.

Any thread; every request is a connection of its own, with a deadline for the whole of it. Only idempotent requests are
retried. A value that is set is read back: a detector that keeps another one has not obeyed. What answers may be no
detector, or a broken one: anything but 2xx fails, and what is no answer is a SimplonError.
"""

from __future__ import annotations

import logging
import re
import time
from functools import cache, cached_property, lru_cache
from typing import Any

import httpx

from live4d_ophyd.checks import from_json, printable
from live4d_ophyd.sources.dectris.parameter import ROUNDED, Parameter, is_same
from live4d_ophyd.sources.dectris.request_deadline import RequestDeadline
from live4d_ophyd.sources.source import SourceError
from live4d_ophyd.urls import shown, split_login

log = logging.getLogger(__name__)

#: SIMPLON answers at once except for commands that last as long as the detector takes. A request has this time from its
#: connection to the last byte of the answer, with all its repetitions
REQUEST_TIMEOUT_S = 10.0
#: setting a value may take as long, and reading back what changed with it
WRITE_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
#: no answer that is asked for here is longer; those that hold a value a pixel are not asked for
MAX_ANSWER_BYTES = 1 << 20
#: keys that one setting changes are read back; devices name 30 at most
_MOST_CHANGED = 200
#: pauses before requests that may be repeated are, s
_PAUSES_S = (0.2, 0.6)
#: stream v2 came with this version
OLDEST_API = (1, 6)
#: commands that do no harm when they are given twice
_REPEATABLE_COMMANDS = ("disarm", "cancel", "abort")
#: keys that hold a value a pixel: megabytes
_IMAGES = ("flatfield", "pixel_mask")
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})[\w.-]{0,40}", re.ASCII)
_KEY = re.compile(r"[\w/.-]{1,200}", re.ASCII)
#: versions to try where none is told
_VERSIONS = ("1.8.0", "1.7.0", "1.6.0")


class SimplonError(SourceError):
    """The detector control unit did not answer, or refused; names the request and what it said."""


class UnknownKey(SimplonError):
    """This detector, or its firmware, does not have the key."""


@lru_cache(maxsize=1000)
def log_once(level: int, text: str) -> None:
    """Log what a scan would else say again with every trigger."""
    log.log(level, text)


@cache
def _http() -> httpx.Client:
    """One for the process: making one costs more than ten requests. Connections are not kept: a control unit that was
    restarted would fail the first request on each.
    """
    # trust_env=False: a proxy of the user's shell must not stand between us and the detector.
    # Nothing compressed: 3 kB of gzip can become gigabytes.
    return httpx.Client(
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"Accept-Encoding": "identity"},
    )


class Rest:
    """The interface at ``url``; ``api`` is its version, "" asks for it; ``login`` is ``user:password``.

    A login in the url is taken out of it.
    """

    def __init__(self, url: str, api: str = "", login: str = "") -> None:
        self.url, in_url = split_login(url.rstrip("/"))
        self._asked_api = api
        user, _, password = (in_url or login).partition(":")
        self._auth = httpx.BasicAuth(user, password) if user or password else None

    @cached_property
    def api(self) -> str:
        """Version in the request paths, ``1.8.0``. Raises SimplonError for one without stream v2."""
        if self._asked_api:
            return self._asked_api
        try:
            answer = self._request("GET", "/detector/api/version", repeatable=True)
        except UnknownKey:
            return self._version_that_answers()
        version = str(answer.get("value", "")) if isinstance(answer, dict) else ""
        numbers = _VERSION.fullmatch(version)
        if not numbers:
            raise SimplonError(
                f"{self.url} answered {_short(answer)} for its version: is it a SIMPLON interface?"
            )
        if (int(numbers[1]), int(numbers[2])) < OLDEST_API:
            raise SimplonError(f"{self.url} speaks SIMPLON {version}; stream v2 needs 1.6 or newer")
        return version

    def _version_that_answers(self) -> str:
        for version in _VERSIONS:
            try:
                self._request("GET", f"/detector/api/{version}/status/state", repeatable=True)
            except UnknownKey:
                continue
            log.info("%s does not tell its version, but speaks %s", self.url, version)
            return version
        raise SimplonError(
            f"{self.url} answers, but speaks no SIMPLON of {', '.join(_VERSIONS)}: is it the control unit's address?"
        )

    def read(self, subsystem: str, kind: str, key: str) -> Parameter:
        """The key ``/subsystem/api/.../kind/key`` as it is now. Raises UnknownKey, SimplonError."""
        answer = self._request("GET", self._path(subsystem, kind, key), repeatable=True)
        if not isinstance(answer, dict) or "value" not in answer:
            raise SimplonError(
                f"GET {key} at {self.url} answered {_short(answer)}; expected {{'value': ...}}"
            )
        return Parameter.from_answer(f"{subsystem}/{kind}/{key}", answer)

    def write(self, subsystem: str, key: str, value: Any) -> dict[str, Parameter]:
        """Set a configuration key; returns it and what changed with it, as they are afterwards.

        Raises UnknownKey, SimplonError with the device's words, and SimplonError when it keeps another value; one that
        it has rounded is logged.
        """
        path, deadline = self._path(subsystem, "config", key), time.monotonic() + WRITE_TIMEOUT_S
        answer = self._request("PUT", path, {"value": value}, repeatable=True)
        changed = (
            [name for name in answer if isinstance(name, str) and _KEY.fullmatch(name)]
            if isinstance(answer, list)
            else []
        )
        found = {}
        # Not every firmware names the key itself.
        for number, name in enumerate(dict.fromkeys([key, *changed])):
            if name.endswith(_IMAGES):
                continue
            if number and (number > _MOST_CHANGED or time.monotonic() > deadline):
                log.warning(
                    "%s: %s/config/%s was set; the %d keys that the device says changed with it are not all read: more "
                    "than %d, or slower than %g s",
                    self.url, subsystem, key, len(changed), _MOST_CHANGED, WRITE_TIMEOUT_S,
                )  # fmt: skip
                break
            try:
                found[name] = self.read(subsystem, "config", name)
            except SimplonError as error:
                if name == key:
                    raise SimplonError(
                        f"{self.url}: {subsystem}/config/{key} was set to {value!r}, but not read back: {error}"
                    ) from error
                # Devices also name keys that they do not have (difference_mode); the value was set all the same.
                log.log(logging.INFO if isinstance(error, UnknownKey) else logging.WARNING, "%s", error)
        if key in found:
            self._compare(found[key], value)
        return found

    def _compare(self, found: Parameter, wanted: Any) -> None:
        if is_same(found.value, wanted):
            return
        text = f"{self.url}: {found.key} is {found.value!r} {found.unit}".rstrip()
        if not is_same(found.value, wanted, ROUNDED):
            raise SimplonError(
                f"{text} after it was set to {wanted!r}: the detector answered that it took the value, and did not. "
                "Does its state, or another setting, not allow it?"
            )
        log_once(logging.WARNING, f"{text}, not the {wanted!r} that was set: the detector has rounded it")

    def command(self, name: str, timeout: float = REQUEST_TIMEOUT_S) -> Any:
        """Run a detector command; returns its answer."""
        path = self._path("detector", "command", name)
        return self._request("PUT", path, None, timeout, repeatable=name in _REPEATABLE_COMMANDS)

    def _path(self, subsystem: str, kind: str, key: str) -> str:
        return f"/{subsystem}/api/{self.api}/{kind}/{key}"

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout: float = REQUEST_TIMEOUT_S,
        *,
        repeatable: bool,
    ) -> Any:
        deadline = time.monotonic() + timeout
        for pause in (*_PAUSES_S, None) if repeatable else (None,):
            try:
                return self._try(method, path, body, timeout, deadline)
            except _Passing as error:
                if pause is None or time.monotonic() + pause >= deadline:
                    raise SimplonError(str(error)) from error.__cause__
                log.info("%s; once more in %g s", error, pause)
                time.sleep(pause)
        raise AssertionError  # the last round returns or raises

    def _try(self, method: str, path: str, body: Any, timeout: float, until: float) -> Any:
        request = f"{method} {self.url}{path}" + (f" with {body!r}" if body else "")
        too_late = f"{request}: no answer within {timeout:g} s"
        left = max(until - time.monotonic(), 0.001)
        with RequestDeadline(left) as deadline:
            try:
                call = _http().stream(
                    method,
                    self.url + path,
                    json=body,
                    timeout=httpx.Timeout(left, connect=min(left, CONNECT_TIMEOUT_S)),
                    auth=self._auth,
                    extensions=deadline.extensions,
                )
                with call as response:
                    content = _content(request, response)
            except httpx.ConnectTimeout as error:
                raise SimplonError(f"{request}: nobody there within {CONNECT_TIMEOUT_S:g} s") from error
            except httpx.TimeoutException as error:
                # Not repeated: a server that was silent until the deadline would be so again, while a scan waits.
                raise SimplonError(too_late) from error
            except ValueError as error:
                # Of a number that JSON does not have, which may be the detector's own.
                raise SimplonError(f"{request}: it cannot be sent: {error}") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if deadline.passed:
                    raise SimplonError(f"{too_late} to its end") from error
                reason = printable(str(error), 300) or type(error).__name__
                raise _Passing(f"{request}: {reason}; is the detector (or the simulator) on?") from error
            if deadline.passed:  # an answer that ends with its connection looks whole
                raise SimplonError(f"{too_late} to its end")
        return _value(request, response, content)


def _content(request: str, response: httpx.Response) -> bytes:
    """The answer as it came. Raises SimplonError for a compressed one, and for one that is too long."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SimplonError(
            f"{request}: the answer is encoded ({printable(encoding, 100)}), which was not asked for: is it a SIMPLON "
            "interface, with no proxy before it?"
        )
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise SimplonError(f"{request}: the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(content)


def _value(request: str, response: httpx.Response, content: bytes) -> Any:
    """What the answer says; None where it is empty. Raises SimplonError for anything but success."""
    words = printable(content[:300].decode(errors="replace").strip())
    if response.status_code == 404:
        raise UnknownKey(f"{request}: the device does not have it ({words or 404})")
    if response.is_server_error:
        raise _Passing(f"{request}: {response.status_code} {words}")
    if response.next_request is not None:
        # Not followed: what is there may be no detector, and a PUT may become a GET.
        target = printable(shown(str(response.next_request.url.copy_with(query=None, fragment=None))))
        raise SimplonError(
            f"{request}: {response.status_code}, redirected to {target}: give the address that this names (url of "
            "Simplon), or its API version (api, or --api)"
        )
    if response.status_code == 401:
        words += "; is the login right? Simplon takes it in its url, http://USER:PASSWORD@HOST"
    if not response.is_success:
        raise SimplonError(f"{request}: {response.status_code} {words}".rstrip())
    if not content:
        return None
    try:
        return from_json(content)
    except ValueError as error:
        raise _Passing(f"{request} answered no JSON that can be used: {words[:200]!r}") from error


def _short(value: Any) -> str:
    return printable(repr(value), 300)


class _Passing(SimplonError):
    """May be over when the request is repeated."""
