"""The embedded databroker catalog: a directory, opened by a Tiled profile, without any server.

``open_catalog`` makes the directory (SQLite tables, Zarr images) and writes the profile which lets
``from databroker import catalog; catalog["live4d"]`` open it in every later process of this user. SQLite
and not DuckDB, because other processes read while a run is written. Call it from the session's main thread;
the client it returns is not thread-safe.
"""

from __future__ import annotations

import logging
import os
import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import yaml

from live4d_ophyd.folders import FOLDERS, make_private
from live4d_ophyd.garbage import no_search
from live4d_ophyd.image_streams import RAW_MIMETYPE
from live4d_ophyd.storage.database import make_database
from live4d_ophyd.storage.names import PLAIN, is_plain_name
from live4d_ophyd.urls import shown, split_login

PROFILE = "live4d"


class ProfileConflict(ValueError):
    """A Tiled profile of this name opens another catalog than the one asked for."""


@no_search()
def open_catalog(
    path: str | os.PathLike | None = None, name: str = PROFILE, *, overwrite: bool = False
) -> Any:
    """The catalog client of the directory ``path``, made with its profile ``name`` if it is not there yet.

    Parameters
    ----------
    path
        Directory of the catalog. Default: ``$LIVE4D_CATALOG``, else the directory that an existing profile
        ``name`` opens, else ``$XDG_DATA_HOME/live4d-ophyd/NAME`` (``~/.local/share/live4d-ophyd/NAME``).
    name
        Name of the Tiled profile: ``databroker.catalog[name]``. Letters, digits, ``_``, ``-`` and ``.``, and no
        ``.`` at the start: it names a file.
    overwrite
        Let ``name`` open ``path`` from now on, although it opened another catalog so far. Only the profile
        is replaced: the other catalog's data stays where it is.

    Returns
    -------
    bluesky_tiled_plugins.clients.catalog_of_bluesky_runs.CatalogOfBlueskyRuns
        ``db[-1]``, ``db[scan_id]``, ``db["uid or its first 5 characters"]``, ``db.search(...)``. Opening
        takes some seconds. Its directory is ``catalog_directory(name)``.

    Raises
    ------
    ProfileConflict
        The profile ``name`` exists, opens something else, and ``overwrite`` is False.
    ValueError
        ``path`` holds ``?`` or ``#``, or ``name`` is none.
    """
    from tiled.client import from_profile
    from tiled.profiles import load_profiles

    _check_name(name)
    directory = choose_directory(path, name)
    write_profile(name, directory, overwrite)
    make_private(directory / "images")
    make_database(directory / "catalog.db")
    load_profiles.cache_clear()  # Tiled reads the files once a process; ours may be newer
    with _quiet_server():
        return from_profile(name)


@no_search()
def existing_catalog(which: str | None = None) -> Any:
    """The client of a catalog that is there already; nothing is made.

    Parameters
    ----------
    which
        Name of a Tiled profile, directory of a catalog, or URL of a Tiled server, which may hold a login
        (``http://user:password@host``) or ``?api_key=``. Default: what a session opens, by
        ``$LIVE4D_CATALOG``, else ``$LIVE4D_PROFILE``, else the profile ``live4d``.

    Raises
    ------
    ValueError
        There is none.
    """
    from tiled.client import from_context, from_profile, from_uri
    from tiled.client.context import Context

    which = which or _session_catalog()
    if which.lower().startswith(("http://", "https://")):
        # What is secret goes apart: Tiled's errors and the log of its client show the address.
        address, login = split_login(which)
        parts = urlsplit(address)
        api_key = parse_qs(parts.query).get("api_key", [None])[0]
        headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else None
        return from_uri(parts._replace(query="", fragment="").geturl(), api_key=api_key, headers=headers)
    name, directory = _find_catalog(which)
    with _quiet_server():
        if name is not None:
            return from_profile(name)
        from tiled.server.app import build_app_from_config

        assert directory is not None  # no profile of a server either
        return from_context(Context.from_app(build_app_from_config(_profile_content(directory)["direct"])))


def served_from(which: str | None = None) -> dict[str, Any]:
    """What Tiled serves the catalog ``which`` from: the ``direct`` part of its profile.

    ``which`` as in ``existing_catalog``. Raises ValueError if there is no such catalog, or it is a server's.
    """
    from tiled.profiles import load_profiles

    which = which or _session_catalog()
    if not which.lower().startswith(("http://", "https://")):
        name, directory = _find_catalog(which)
        content = load_profiles()[name][1] if name is not None else _profile_content(cast(Path, directory))
        if "direct" in content:
            return content["direct"]
    raise ValueError(f"the catalog {shown(which)} is a Tiled server's, not a directory of this machine")


def _session_catalog() -> str:
    """What a session opens."""
    return os.environ.get("LIVE4D_CATALOG") or os.environ.get("LIVE4D_PROFILE") or PROFILE


def _find_catalog(which: str) -> tuple[str | None, Path | None]:
    """The profile that opens ``which``, if there is one, and the directory, if it is one."""
    from tiled.profiles import load_profiles

    load_profiles.cache_clear()
    profiles = {name: _directory_of(content) for name, (_, content) in load_profiles().items()}
    directory = profiles.get(which, Path(which).expanduser().resolve())
    if directory is not None and not (directory / "catalog.db").exists():
        # A disk that is not mounted would get an empty one.
        raise ValueError(
            f"no catalog {which!r}: {directory / 'catalog.db'} does not exist, and no Tiled profile of that name "
            f"opens another. There are {', '.join(map(repr, profiles)) or 'no profiles'}"
        )
    if which in profiles:
        return which, directory
    # The directory's profile, if it has one, may have its backups elsewhere.
    return next((name for name, other in profiles.items() if other == directory), None), directory


def backup_directory(db: Any) -> Path | None:
    """Where the documents of runs lie which the catalog does not have completely.

    That is what the catalog's metadata say (``open_catalog`` has put it there), for a Tiled server that says
    nothing a directory of this user's. None for a catalog of somebody else's making without a server.
    """
    if directory := db.metadata.get("backup_directory"):
        return Path(directory)
    if hasattr(db.context.http_client, "app"):
        return None
    url = urlsplit(split_login(db.uri)[0])  # no password becomes the name of a folder
    return _backups(Path(url.netloc, *(part for part in url.path.split("/") if part not in ("", ".", ".."))))


def directory_of(db: Any) -> Path | None:
    """The directory of a catalog that this process has opened without a server; None for all others."""
    directory = db.metadata.get("directory")
    if directory is None or not hasattr(db.context.http_client, "app"):
        return None  # a server's metadata may name one, of its own machine
    return Path(directory)


def _backups(catalog: Path) -> Path:
    # Not beside the catalog: what fills its disk must not take the backup along.
    return FOLDERS.user_state_path / "backup" / str(catalog).lstrip("/")


def catalog_directory(name: str = PROFILE) -> Path | None:
    """The directory that the Tiled profile ``name`` opens; None if there is none or it opens a server."""
    found = _find_profile(name)
    return _directory_of(found[1]) if found else None


def choose_directory(path: str | os.PathLike | None, name: str) -> Path:
    """The directory that ``open_catalog(path, name)`` opens."""
    if wanted := path or os.environ.get("LIVE4D_CATALOG") or catalog_directory(name):
        if "://" in str(wanted):
            raise ValueError(f"the catalog's path is the address {shown(str(wanted))}; expected a directory")
        return Path(wanted).expanduser().resolve()
    return FOLDERS.user_data_path / name


def _check_name(name: str) -> None:
    if not is_plain_name(name):
        raise ValueError(f"a catalog cannot be called {name!r}: expected {PLAIN}, as in 'live4d-room3'")


def _profile_content(directory: Path) -> dict:
    return {
        "direct": {
            # Nobody but this process can reach an in-process application: there is no port.
            "authentication": {"allow_anonymous_access": True},
            # Without this line run.documents() is refused with status 406.
            "media_types": {
                "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}
            },
            "trees": [
                {
                    "path": "/",
                    "tree": "catalog",
                    "args": {
                        "uri": f"sqlite:///{directory / 'catalog.db'}",
                        "writable_storage": [
                            f"file://localhost{directory / 'images'}",
                            f"sqlite:///{directory / 'tables.db'}",
                        ],
                        # Recorded frames lie where the user had them written; nothing but what runs name is read.
                        "readable_storage": ["file://localhost/"],
                        "adapters_by_mimetype": {RAW_MIMETYPE: "live4d_ophyd.storage.raw_frames:Adapter"},
                        # Not "init_if_not_exists": that is a process of some seconds whenever a catalog is opened.
                        # Any client of the catalog finds its backups there.
                        "metadata": {
                            "backup_directory": str(_backups(directory)),
                            "directory": str(directory),
                        },
                        # db[-1], db[scan_id] and db["uid8"] come with this spec.
                        "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                    },
                }
            ],
        }
    }


def _find_profile(name: str) -> tuple[Path, Mapping] | None:
    """The file and the content of the profile that Tiled would use for ``name``."""
    from tiled.profiles import load_profiles

    load_profiles.cache_clear()
    return load_profiles().get(name)


def _directory_of(content: Mapping) -> Path | None:
    try:
        uri = content["direct"]["trees"][0]["args"]["uri"]
    except (KeyError, IndexError, TypeError):
        return None
    scheme, _, database = uri.partition(":///")
    return Path(database).parent if scheme == "sqlite" else None


def write_profile(name: str, directory: Path, overwrite: bool = False) -> None:
    """Make ``databroker.catalog[name]`` open ``directory``, by a file in the user's directory of profiles.

    Raises ``ProfileConflict`` as ``open_catalog`` does, and where the profile shares its file with others.
    """
    from tiled.profiles import paths

    _check_name(name)
    if odd := set("?#") & set(str(directory)):
        raise ValueError(
            f"the catalog's path {directory} holds {' and '.join(sorted(odd))}, which Tiled takes for a URI's"
        )
    content = _profile_content(directory)
    target = paths[-1] / f"{name}.yml"
    if found := _find_profile(name):
        source, existing = found
        ours = _as_before(existing) == _as_before(content)  # an earlier one of ours
        if existing == content or (_directory_of(existing) == directory and not ours):
            return
        if not overwrite and not ours:
            server = shown(str(existing.get("uri", "something that is no local catalog")))
            other = _directory_of(existing) or server
            raise ProfileConflict(
                f"the Tiled profile {name!r} ({source}) opens {other}, not {directory}: "
                f"pass another name or that path, or overwrite=True to make {name!r} open {directory}"
            )
        if source.parent == target.parent:
            if len(yaml.safe_load(source.read_text())) > 1:
                raise ProfileConflict(
                    f"{source} holds {name!r} beside other profiles: take {name!r} out of it by hand, "
                    f"then call open_catalog({str(directory)!r}, name={name!r}) again"
                )
            target = source  # two files with one name in a directory would cancel each other
    make_private(target.parent)
    draft = target.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(yaml.safe_dump({name: content}, sort_keys=False))
    draft.replace(target)


#: arguments of a profile's tree that not all earlier ones have
_NEW = ("init_if_not_exists", "readable_storage", "adapters_by_mimetype")


def _as_before(content: Mapping) -> Any:
    """A profile without what earlier ones did not have, or had otherwise."""
    try:
        arguments = content["direct"]["trees"][0]["args"]
        metadata = {key: value for key, value in arguments["metadata"].items() if key != "directory"}
        arguments = {key: value for key, value in arguments.items() if key not in _NEW}
        tree = {**content["direct"]["trees"][0], "args": {**arguments, "metadata": metadata}}
        return {**content, "direct": {**content["direct"], "trees": [tree, *content["direct"]["trees"][1:]]}}
    except (KeyError, IndexError, TypeError, AttributeError):
        return content


def import_server() -> None:
    """Import Tiled's server, which takes seconds, without what Starlette has to say (which HTTP client it would like
    better). It finds nodes at once (lookup.py), and makes once what no request changes (made_once.py)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        import tiled.server.app  # noqa: F401
        from starlette import testclient  # noqa: F401  the warning comes with the first import

        from live4d_ophyd.storage.lookup import look_up_at_once
        from live4d_ophyd.storage.made_once import keep_types_of_answers, read_signatures_once
    read_signatures_once()
    keep_types_of_answers()
    look_up_at_once()


@contextmanager
def _quiet_server() -> Iterator[None]:
    """Leave out what Tiled's in-process application prints at every start: its version. Warnings still come through."""
    import_server()
    log = logging.getLogger("tiled.server.app")
    level = log.level  # set by the import above
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
