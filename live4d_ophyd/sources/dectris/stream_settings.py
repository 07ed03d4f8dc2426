"""StreamSettings: what a scan needs of the stream interface, and how it becomes again what its user had set.

In: `apply` before a series, `put_back` after it. Out: SIMPLON requests. While a series runs, the stream's own
``header_appendix`` also says what is to be put back: whoever finds it after a process that died can do so.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from live4d_ophyd.checks import from_json
from live4d_ophyd.sources.dectris.rest import Rest, SimplonError, UnknownKey, log_once

log = logging.getLogger(__name__)

APPENDIX = "header_appendix"
#: ``all``: only then the stream's start message holds the pixel mask
_WANTED = {"format": "cbor", "header_detail": "all", "mode": "enabled"}
#: key of the appendix: what is to be put back
_PUT_BACK = "put_back"


class StreamSettings:
    """The stream's configuration of one detector, while a series has it otherwise than its user."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        #: key -> value to be put back, in this order
        self._users: dict[str, Any] = {}

    def apply(self, appendix: str) -> None:
        """Enable the stream as a scan needs it; its start message gets ``appendix`` as ``user_data``.

        A header_appendix that somebody else has set stays. Raises SimplonError when the stream cannot be enabled.
        """
        now = {key: self._find(key) for key in (*_WANTED, APPENDIX)}
        left = _left_behind(now[APPENDIX])
        self._users = {
            key: left.get(key, now[key])
            for key, wanted in _WANTED.items()
            if now[key] is not None and left.get(key, now[key]) != wanted
        }
        if self._users:
            log_once(
                logging.INFO,
                f"{self._rest.url}: during a series, the stream's "
                + ", ".join(
                    f"{key} is {_WANTED[key]!r} instead of {was!r}" for key, was in self._users.items()
                )
                + "; put back after it",
            )
        self._write_appendix(now[APPENDIX], appendix)
        for key, wanted in _WANTED.items():
            if now[key] is None or now[key] == wanted:
                continue
            try:
                self._rest.write("stream", key, wanted)
            except SimplonError as error:
                if key == "mode":
                    raise
                self._without(key, str(error))

    def _find(self, key: str) -> Any:
        """None where the firmware lacks the key."""
        try:
            return self._rest.read("stream", "config", key).value
        except UnknownKey as error:
            if key == "mode":
                raise
            if key != APPENDIX:
                self._without(key, f"it has no stream/config/{key} ({error})")
            return None

    def _without(self, key: str, reason: str) -> None:
        if key == "header_detail":
            log_once(
                logging.WARNING,
                f"{self._rest.url}: the stream cannot be asked for the detector's pixel mask: {reason}. If its bad "
                "pixels are to be left out, pass pixel_mask=",
            )
        else:
            log_once(logging.INFO, f"{self._rest.url}: {key} is left as it is: {reason}")

    def _write_appendix(self, now: Any, appendix: str) -> None:
        if now is None:
            log_once(logging.INFO, f"{self._rest.url} has no stream/config/{APPENDIX}: left out")
            return
        if now and not _is_ours(now):
            log_once(
                logging.WARNING,
                f"{self._rest.url}: the stream's {APPENDIX} is somebody else's ({str(now)[:60]!r}) and stays: the "
                "header will not say what is scanned. Set it to '' to change that",
            )
            return
        text = _with_note(appendix, self._users)
        if text or now:
            self._users[APPENDIX] = ""  # the last to be put back
        try:
            if text != now:
                self._rest.write("stream", APPENDIX, text)
        except SimplonError as error:
            log.warning("the stream's header will not say what is scanned: %s", error)

    def put_back(self) -> None:
        """Make the configuration the user's again. The detector must be idle. What is not possible is logged."""
        users, self._users = self._users, {}
        for key, value in users.items():
            try:
                self._rest.write("stream", key, value)
            except SimplonError as error:
                log.warning(
                    "%s: the stream's %s could not be put back to %s: %s",
                    self._rest.url, " and ".join(users), " and ".join(map(repr, users.values())), error,
                )  # fmt: skip
                return

    def put_back_for_another(self) -> None:
        """`put_back` what a process that died has left, as far as the stream says it."""
        try:
            now = self._rest.read("stream", "config", APPENDIX).value
        except SimplonError as error:
            log.info("it is not known what is to be put back: %s", error)
            return
        if _is_ours(now):
            self._users = {**_left_behind(now), APPENDIX: ""}
            self.put_back()


def _note(appendix: Any) -> dict[str, Any]:
    try:
        content = from_json(appendix)
    except (TypeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_ours(appendix: Any) -> bool:
    return {"scan", "rasters"} <= _note(appendix).keys()


def _left_behind(appendix: Any) -> dict[str, Any]:
    """What is to be put back, as an appendix of ours says it."""
    left = _note(appendix).get(_PUT_BACK) if _is_ours(appendix) else None
    return {key: left[key] for key in _WANTED if key in left} if isinstance(left, dict) else {}


def _with_note(appendix: str, users: dict[str, Any]) -> str:
    if not users or not _is_ours(appendix):
        return appendix
    return json.dumps({**_note(appendix), _PUT_BACK: users}, separators=(",", ":"))
