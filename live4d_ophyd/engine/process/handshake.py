"""Why session and engine do not get to talk: what libzmq's monitor tells of a failed handshake, in words.

In: monitor events of either end. Out: a reason, or "" where it may still come to a connection. The engine logs it, the
session gives up with it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import zmq

log = logging.getLogger(__name__)

FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
#: a peer may end while a handshake lasts; one that closes so many in turn does not want us. Where mechanisms do not
#: match, each end may be the first to see it and close, and only that one can say why
_CLOSED_IN_TURN = 6


class Handshake:
    """Of a session with the engine at ``endpoint``; ``keys``: the session has some."""

    def __init__(self, endpoint: str, keys: bool) -> None:
        self._endpoint, self._keys = endpoint, keys
        self._closed, self._was_let_in = 0, False

    def why_failed(self, change: Mapping[str, Any]) -> str:
        """Why there will be no connection, by this event of the session's socket."""
        event, engine = change["event"], f"the engine at {self._endpoint}"
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return (
                f"{engine} refused this session's CURVE keys: copy the session's client.key into the folder clients of "
                "the engine's keys (no restart is needed)"
            )
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            if change["value"] == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                return (
                    f"{engine} takes no CURVE keys, and this session has some: start the engine with --curve, or leave "
                    "curve_keys out"
                    if self._keys
                    else f"{engine} asks for CURVE keys, and this session has none: pass curve_keys="
                )
            return f"{engine} does not talk as engines do ({change['value']:#x}): is it the right port?"
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._was_let_in = True  # who closes now is a link in trouble, not a peer that wants others
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and not self._was_let_in:
            self._closed += 1
            if self._closed >= _CLOSED_IN_TURN:
                return f"{engine} closes each connection before it has begun: " + (
                    "is server.key of this session that of this engine, was that started with --curve, and is this the "
                    "right port?"
                    if self._keys
                    else "does it ask for CURVE keys (curve_keys=), and is this the right port?"
                )
        return ""


def log_failure(change: Mapping[str, Any], keys: bool) -> None:
    """Say in the engine's log why a peer did not get in; ``keys``: the engine asks for some."""
    if change["event"] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        # Also a session whose connection was cut, which tries whether somebody listens.
        log.info("a peer left before it was let in: does it have other keys than this engine, or none?")
    if change["event"] != zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return  # those of refused keys are logged with the key
    if change["value"] == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        reason = (
            "it has no CURVE keys"
            if keys
            else "it has CURVE keys, and this engine was started without --curve"
        )
    elif change["value"] == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        reason = "its server.key is not that of this engine"
    else:
        reason = f"it does not speak ZMQ as sessions do ({change['value']:#x})"
    log.warning("a peer was not let in: %s", reason)
