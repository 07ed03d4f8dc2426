"""The profile that lets other processes open the catalog."""

import asyncio
import base64
import re
import sqlite3
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import forked
import pytest
import yaml
from click.testing import CliRunner

from live4d_ophyd.commands.main import live4d
from live4d_ophyd.storage import ProfileConflict, backup_directory, catalog_directory, open_catalog
from live4d_ophyd.storage.catalog import choose_directory, existing_catalog, write_profile
from live4d_ophyd.storage.database import make_database as MAKE_DATABASE


@pytest.fixture
def levels(tmp_path, monkeypatch):
    """Tiled's search path: (site, user), the user's wins."""
    paths = [tmp_path / "site", tmp_path / "user"]
    monkeypatch.setattr("tiled.profiles.paths", paths)
    return paths


def put(directory, name, content):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.yml").write_text(yaml.safe_dump(content))


def test_a_new_profile_goes_to_the_user_s_directory(levels, tmp_path):
    write_profile("live4d", tmp_path / "a")
    assert [path.name for path in levels[1].iterdir()] == ["live4d.yml"]
    assert catalog_directory("live4d") == tmp_path / "a"


def test_the_same_path_again_changes_nothing(levels, tmp_path):
    write_profile("live4d", tmp_path / "a")
    before = (levels[1] / "live4d.yml").stat()
    write_profile("live4d", tmp_path / "a")
    assert (levels[1] / "live4d.yml").stat().st_mtime_ns == before.st_mtime_ns


def test_an_earlier_profile_of_ours_gets_what_it_lacks(levels, tmp_path):
    """Without its directory the catalog would be written by the session itself, and take 3 s longer to open."""
    write_profile("live4d", tmp_path / "a")
    path = levels[1] / "live4d.yml"
    now = yaml.safe_load(path.read_text())
    before = yaml.safe_load(path.read_text())
    arguments = before["live4d"]["direct"]["trees"][0]["args"]
    arguments["init_if_not_exists"] = True
    del arguments["metadata"]["directory"]
    path.write_text(yaml.safe_dump(before))
    write_profile("live4d", tmp_path / "a")
    assert yaml.safe_load(path.read_text()) == now
    arguments["metadata"]["backup_directory"] = "/elsewhere"  # by hand
    path.write_text(yaml.safe_dump(before))
    write_profile("live4d", tmp_path / "a")
    assert yaml.safe_load(path.read_text()) == before


def test_another_path_is_refused_with_both_named(levels, tmp_path):
    write_profile("live4d", tmp_path / "a")
    with pytest.raises(ProfileConflict) as refused:
        write_profile("live4d", tmp_path / "b")
    assert str(tmp_path / "a") in str(refused.value)
    assert str(tmp_path / "b") in str(refused.value)
    assert "overwrite=True" in str(refused.value)
    assert catalog_directory("live4d") == tmp_path / "a"


def test_overwrite_points_the_profile_elsewhere(levels, tmp_path):
    write_profile("live4d", tmp_path / "a")
    write_profile("live4d", tmp_path / "b", overwrite=True)
    assert catalog_directory("live4d") == tmp_path / "b"


def test_overwrite_replaces_a_file_of_another_name(levels, tmp_path):
    put(levels[1], "mine", {"live4d": {"uri": "http://localhost:8000"}})
    write_profile("live4d", tmp_path / "b", overwrite=True)
    assert catalog_directory("live4d") == tmp_path / "b"
    assert [path.name for path in levels[1].iterdir()] == ["mine.yml"]


def test_overwrite_leaves_other_profiles_of_the_file_alone(levels, tmp_path):
    put(
        levels[1],
        "mine",
        {"live4d": {"uri": "http://localhost:8000"}, "other": {"uri": "http://localhost:8001"}},
    )
    with pytest.raises(ProfileConflict, match="beside other profiles"):
        write_profile("live4d", tmp_path / "b", overwrite=True)


def test_a_site_s_profile_is_overridden_by_the_user_s(levels, tmp_path):
    put(levels[0], "live4d", {"live4d": {"uri": "http://localhost:8000"}})
    with pytest.raises(ProfileConflict, match="http://localhost:8000"):
        write_profile("live4d", tmp_path / "b")
    write_profile("live4d", tmp_path / "b", overwrite=True)
    assert catalog_directory("live4d") == tmp_path / "b"


def test_a_profile_of_a_server_has_no_directory(levels):
    put(levels[1], "far", {"far": {"uri": "http://localhost:8000"}})
    assert catalog_directory("far") is None
    assert catalog_directory("nowhere") is None


@pytest.mark.parametrize("folder", ["with space", "ünïcode", "per%cent", "per%20cent"])
def test_odd_paths_come_back_from_the_profile(levels, tmp_path, folder):
    write_profile("odd", tmp_path / folder)
    assert catalog_directory("odd") == Path(tmp_path / folder)


@pytest.fixture
def made_here(monkeypatch):
    """Databases are made here, not copied."""
    monkeypatch.setattr("live4d_ophyd.storage.catalog.make_database", MAKE_DATABASE)


def test_a_database_is_made_once(levels, tmp_path, monkeypatch, made_here):
    """Opening a catalog that is there does not cost it again."""
    path = tmp_path / "per%cent" / "catalog"
    open_catalog(path, name="once").context.close()
    monkeypatch.setattr("live4d_ophyd.storage.database._make", lambda path: pytest.fail("made again"))
    db = open_catalog(path, name="once")
    assert list(db) == []
    db.context.close()


def test_a_database_is_the_one_that_tiled_makes(tmp_path):
    """Tables, triggers, what is in them and the revision, by Tiled's own command; but for times, and indices' order."""

    def content(path):
        with closing(sqlite3.connect(path)) as database:
            return sorted(re.sub(r"'\d{4}-[^']*'", "TIME", line) for line in database.iterdump())

    MAKE_DATABASE(tmp_path / "ours.db")
    command = [sys.executable, "-m", "tiled", "catalog", "init", f"sqlite:///{tmp_path / 'tiled.db'}"]
    forked.run(command, check=True, capture_output=True)
    assert content(tmp_path / "ours.db") == content(tmp_path / "tiled.db")


def test_a_database_is_made_while_a_loop_runs(tmp_path):
    """IPython's."""

    async def make():
        MAKE_DATABASE(tmp_path / "catalog.db")

    asyncio.run(make())
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as database:
        assert len(database.execute("select * from alembic_version").fetchall()) == 1


@pytest.mark.parametrize("revision", ["an older one", "unknown"])
def test_a_database_of_another_tiled_that_could_not_be_looked_at_is_left_alone(
    tmp_path, monkeypatch, revision
):
    from tiled.catalog.core import ALL_REVISIONS

    path, said = tmp_path / "catalog.db", "000000000000" if revision == "unknown" else ALL_REVISIONS[-1]
    MAKE_DATABASE(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("update alembic_version set version_num = ?", [said])
        database.commit()
    connect = sqlite3.connect

    def busy(*arguments, **options):
        monkeypatch.setattr(sqlite3, "connect", connect)
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(sqlite3, "connect", busy)
    with pytest.raises(OSError, match=r"catalog\.db cannot be made"):
        MAKE_DATABASE(path)
    with closing(connect(path)) as database:
        assert database.execute("select * from alembic_version").fetchall() == [(said,)]


def test_a_database_that_was_never_finished_is_finished(levels, tmp_path, made_here):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "catalog.db").touch()
    db = open_catalog(tmp_path / "catalog", name="torn")
    assert list(db) == []
    db.context.close()


def test_a_database_that_cannot_be_made_is_named_with_the_reason(levels, tmp_path, made_here, monkeypatch):
    (tmp_path / "catalog" / "catalog.db").mkdir(parents=True)
    # Its thread would outlive the loop, or not, as it happens.
    monkeypatch.setattr("aiosqlite.connect", lambda *_, **__: pytest.fail("aiosqlite is asked to open it"))
    with pytest.raises(OSError, match=r"catalog\.db cannot be made:(.|\n)*unable to open"):
        open_catalog(tmp_path / "catalog", name="odd")


@pytest.mark.parametrize("folder", ["what?", "h#sh"])
def test_a_path_that_tiled_would_cut_short_is_refused(levels, tmp_path, folder):
    with pytest.raises(ValueError, match="takes for a URI"):
        write_profile("odd", tmp_path / folder)
    assert not levels[1].exists()


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "", "a b", "a\n", None, 3])
@pytest.mark.parametrize("given", [True, False])
def test_a_name_that_is_no_file_name_is_refused(levels, tmp_path, monkeypatch, name, given):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LIVE4D_CATALOG", raising=False)
    with pytest.raises(ValueError, match=r"cannot be called .* expected letters, digits"):
        open_catalog(tmp_path / "catalog" if given else None, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["live4d", "live4d-room3", "room_3", "v1.2", "3", "mikroskop-süd"])
def test_a_name_of_letters_digits_and_dashes_is_one(levels, tmp_path, name):
    write_profile(name, tmp_path / "catalog")
    assert catalog_directory(name) == tmp_path / "catalog"


class Server:
    """What is asked of a client of a Tiled server."""

    metadata: ClassVar = {}

    def __init__(self, uri):
        self.uri = uri
        self.context = SimpleNamespace(http_client=object())


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("http://server:8000/api/v1/metadata/raw", "server:8000/api/v1/metadata/raw"),
        ("http://user:secret@server/api/v1/metadata/", "server/api/v1/metadata"),
        ("http://server/api/../../../../etc//x", "server/api/etc/x"),
    ],
)
def test_the_backups_of_a_server_lie_in_a_folder_of_their_own(tmp_path, monkeypatch, uri, folder):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert backup_directory(Server(uri)) == tmp_path / "live4d-ophyd" / "backup" / folder


def test_the_default_directory_is_the_environment_s_then_the_profile_s_then_xdg_s(
    levels, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LIVE4D_CATALOG", raising=False)
    assert choose_directory(None, "live4d") == tmp_path / "data" / "live4d-ophyd" / "live4d"
    write_profile("live4d", tmp_path / "opened before")
    assert choose_directory(None, "live4d") == tmp_path / "opened before"
    monkeypatch.setenv("LIVE4D_CATALOG", str(tmp_path / "environment"))
    assert choose_directory(None, "live4d") == tmp_path / "environment"
    assert choose_directory(tmp_path / "given", "live4d") == tmp_path / "given"


# Passwords ---------------------------------------------------------------------------------------------


@contextmanager
def refusing_server():
    """(address, headers of the requests it got): a server that lets nobody in."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers)
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_is_logged_in_to_and_no_error_shows_how(caplog):
    with refusing_server() as (address, seen), caplog.at_level("INFO"):
        done = CliRunner().invoke(
            live4d, ["restore", "--catalog", f"http://user:s3cr3t@{address}/?api_key=k3y"]
        )
    assert done.exit_code == 1
    assert f"401: Unauthorized http://{address}/api/v1/" in done.output
    assert base64.b64decode(seen[-1]["Authorization"].removeprefix("Basic ")) == b"user:s3cr3t"
    for text in (done.output, caplog.text):
        assert "s3cr3t" not in text
        assert "k3y" not in text


def test_the_key_of_a_server_goes_apart_from_its_address(monkeypatch):
    asked = []
    monkeypatch.setattr("tiled.client.from_uri", lambda *address, **options: asked.append((address, options)))
    existing_catalog("https://tiled/api/v1/metadata/me@home?api_key=k3y")
    existing_catalog("http://tiled")
    assert asked == [
        (("https://tiled/api/v1/metadata/me@home",), {"api_key": "k3y", "headers": None}),
        (("http://tiled",), {"api_key": None, "headers": None}),
    ]


def test_backups_of_a_server_s_runs_lie_in_a_folder_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    context = SimpleNamespace(http_client=object())
    db = SimpleNamespace(metadata={}, context=context, uri="http://user:s3cr3t@tiled:8000/api/v1/metadata/")
    assert backup_directory(db) == tmp_path / "live4d-ophyd/backup/tiled:8000/api/v1/metadata"


def test_a_profile_of_a_server_is_named_without_its_password(levels, tmp_path):
    put(levels[0], "live4d", {"live4d": {"uri": "http://user:s3cr3t@localhost:8000?api_key=k3y"}})
    with pytest.raises(ProfileConflict, match="opens http://localhost:8000, not"):
        write_profile("live4d", tmp_path / "b")


def test_an_address_is_no_directory(monkeypatch):
    monkeypatch.setenv("LIVE4D_CATALOG", "http://user:s3cr3t@tiled:8000")
    with pytest.raises(ValueError, match="path is the address http://tiled:8000; expected a directory"):
        choose_directory(None, "live4d")
