"""Keys of an engine and its sessions: CURVE certificates of `zmq.auth` in two folders, made, loaded and checked.

The engine's folder has ``server.key_secret`` and ``clients/*.key``, a session's ``client.key_secret`` and
``server.key``. Errors name the file and what to do. Any thread.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import zmq
from zmq.auth import create_certificates, load_certificate

log = logging.getLogger(__name__)

ENGINE, SESSION = "engine", "session"
_ENGINES_SECRET, _ENGINES_PUBLIC = "server.key_secret", "server.key"
_SESSIONS_SECRET, _SESSIONS_PUBLIC = "client.key_secret", "client.key"
CLIENTS = "clients"


class BadKeys(ValueError):
    """A folder of keys, or a file in it, cannot be used; the text names it and says what to do."""


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Make ``folder/engine`` and ``folder/session`` with new keys, for nobody else to read; returns both.

    Raises BadKeys where there are some already.
    """
    engine, session = folder / ENGINE, folder / SESSION
    for place in (engine, session):
        if place.exists():
            raise BadKeys(f"{place} is there already, and keys are never overwritten: choose another folder")
    with _private():
        for place in (engine / CLIENTS, session):
            place.mkdir(parents=True)
        create_certificates(engine, "server")
        create_certificates(session, "client")
    _copy(engine / _ENGINES_PUBLIC, session / _ENGINES_PUBLIC)
    _copy(session / _SESSIONS_PUBLIC, engine / CLIENTS / f"{SESSION}.key")
    return engine, session


def add_session(folder: Path, name: str) -> Path:
    """Make keys of one more session of ``folder/engine``, in ``folder/NAME``; a running engine admits it at once."""
    engine, session = folder / ENGINE, folder / name
    public = _public_key(engine / _ENGINES_PUBLIC)
    for place in (session, engine / CLIENTS / f"{name}.key"):
        if place.exists():
            raise BadKeys(f"{place} is there already, and keys are never overwritten: choose another name")
    with _private():
        session.mkdir()
        create_certificates(session, "client")
    assert public
    _copy(engine / _ENGINES_PUBLIC, session / _ENGINES_PUBLIC)
    _copy(session / _SESSIONS_PUBLIC, engine / CLIENTS / f"{name}.key")
    return session


class _private:
    """Files and folders made in here are the user's alone."""

    def __enter__(self) -> None:
        self._umask = os.umask(0o077)

    def __exit__(self, *_: object) -> None:
        os.umask(self._umask)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)


def use_as_engine(socket: zmq.Socket, folder: Path) -> AdmittedKeys:
    """Have the engine's socket ask for keys; `AdmittedKeys` says which. Raises BadKeys."""
    public, secret = _secret_key(folder / _ENGINES_SECRET, folder, "the engine's", _SESSIONS_SECRET)
    admitted = AdmittedKeys(folder / CLIENTS, public)
    admitted.check()
    socket.curve_publickey, socket.curve_secretkey = public, secret
    socket.curve_server = True
    return admitted


def use_as_session(socket: zmq.Socket, folder: Path) -> None:
    """Give the session's socket its keys. Raises BadKeys."""
    public, secret = _secret_key(folder / _SESSIONS_SECRET, folder, "a session's", _ENGINES_SECRET)
    server = _public_key(folder / _ENGINES_PUBLIC)
    if server == public:
        raise BadKeys(
            f"{folder / _ENGINES_PUBLIC} holds this session's own key: copy server.key of the engine's folder there"
        )
    socket.curve_publickey, socket.curve_secretkey = public, secret
    socket.curve_serverkey = server


class AdmittedKeys:
    """Public keys of the sessions that an engine admits, as they lie in its folder now: a credentials provider of
    `zmq.auth`, asked at each connection.
    """

    def __init__(self, clients: Path, engines_own: bytes) -> None:
        self._clients, self._own = clients, engines_own

    def check(self) -> None:
        """Raise BadKeys for a folder that others can change, and for a key in it that cannot be used."""
        if not self._clients.is_dir():
            raise BadKeys(f"{self._clients} is no folder: make it, with the client.key of each session in it")
        _refuse_others(self._clients, 0o022, "written", "go-w")
        keys = {path: _public_key(path) for path in self._clients.glob("*.key")}
        for path, key in keys.items():
            if key == self._own:
                raise BadKeys(
                    f"{path} is the engine's own key: copy client.key of the session's folder there"
                )
        if not keys:
            log.warning("%s holds no *.key: no session is admitted until one is there", self._clients)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a session with this public key may connect."""
        try:
            _refuse_others(self._clients, 0o022, "written", "go-w")
            paths = sorted(self._clients.glob("*.key"))
        except (OSError, BadKeys) as error:
            log.warning("no session is admitted: %s", error)
            return False
        for path in paths:
            try:
                if _public_key(path) == key:
                    return True
            except BadKeys as error:
                log.warning("%s", error)
        log.warning(
            "refused a session with the public key %s: it is none of those in %s",
            key.decode(errors="replace"), self._clients,
        )  # fmt: skip
        return False


def _secret_key(path: Path, folder: Path, whose: str, other: str) -> tuple[bytes, bytes]:
    """Public and secret key of a file that nobody else may read."""
    if not path.exists():
        swapped = (
            " It holds the keys of the other side: swap the folders." if (folder / other).exists() else ""
        )
        raise BadKeys(
            f"{path} is missing: {folder} is not {whose} folder of keys.{swapped} `live4d keys DIR` makes both"
        )
    _refuse_others(path, 0o077, "read", "go=")
    _refuse_others(folder, 0o022, "written", "go-w")
    public, secret = _load(path)
    if secret is None:
        raise BadKeys(f"{path} holds no secret key, only a public one: was it swapped with {path.stem}.key?")
    if zmq.curve_public(secret) != public:
        raise BadKeys(
            f"{path} holds a public key that is not of its secret one: make new keys with `live4d keys`"
        )
    return public, secret


def _public_key(path: Path) -> bytes:
    if not path.exists():
        raise BadKeys(f"{path} is missing: copy it there from the folder of the other side")
    for place in (path.parent, path):
        _refuse_others(place, 0o022, "written", "go-w")
    public, secret = _load(path)
    if secret is not None:
        raise BadKeys(
            f"{path} holds a secret key, which stays on the machine it belongs to: copy the .key instead"
        )
    return public


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        raise BadKeys(f"{path} is no key file: {error}") from error
    for key in (public, secret):
        if key is not None and len(key) != 40:
            raise BadKeys(f"{path} is no key file: a key of {len(key)} characters, expected 40")
    return public, secret


def _refuse_others(path: Path, bits: int, done: str, change: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits:
        raise BadKeys(f"{path} can be {done} by others (its mode is {mode:04o}): chmod {change} {path}")
