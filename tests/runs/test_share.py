"""`live4d share`: who has the key reads, nobody writes, who has no key sees nothing."""

import os
import re
import subprocess
import sys
from contextlib import closing

import forked
import httpx
import pytest
from click.testing import CliRunner
from tiled.client import from_uri
from tiled.client.utils import ClientError

from live4d_ophyd import image
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.runs.share import read_only


@pytest.fixture(scope="module")
def shared(catalog):
    """(what it printed, address, key) of a process that shares the catalog."""
    environment = {
        **os.environ,
        "TILED_PROFILES": str(catalog.profiles),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "live4d_ophyd", "share", "--port", "0"]
    command += ["--catalog", str(catalog.directory)]
    with forked.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(5)]
            address, key = re.search(r'from_uri\("(\S+)", api_key="(\w+)"\)', "".join(lines)).groups()
            yield "".join(lines), address, key
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def client(shared):
    _, address, key = shared
    db = from_uri(address, api_key=key)
    with closing(db.context):
        yield db


def test_the_lines_it_prints_open_the_catalog(shared, catalog):
    printed, address, _ = shared
    assert address.startswith("http://127.0.0.1:")
    names = {}
    exec("\n".join(line.strip() for line in printed.splitlines()[1:]), names)
    with closing(names["db"].context):
        assert names["db"][catalog.scan].metadata["start"]["uid"] == catalog.scan


def test_a_colleague_reads_everything(client, catalog):
    mine, theirs = catalog.db[catalog.scan], client[catalog.scan]
    assert theirs.primary.read().identical(mine.primary.read())
    assert [name for name, _ in theirs.documents()] == [name for name, _ in mine.documents()]
    assert image(theirs, "vbf").identical(image(mine, "vbf"))
    assert "backup_directory" not in client.metadata


@pytest.mark.parametrize(
    "write",
    [
        lambda db, run: run.update_metadata({"sample": "mine"}),
        lambda db, run: run.delete(recursive=True, external_only=False),
        lambda db, run: run.primary["live4d_vbf"].write([[0.0]]),
        lambda db, run: db.create_container("mine"),
        lambda db, run: db.write_array([1, 2, 3], key="mine"),
    ],
    ids=["metadata", "delete", "image", "container", "array"],
)
def test_nothing_can_be_written(client, catalog, write):
    run = client[catalog.scan]
    with pytest.raises(ClientError, match="403"):
        write(client, run)
    assert catalog.db[catalog.scan].metadata["start"]["sample"] == {"name": "MoS2", "layers": 2}
    assert "mine" not in list(catalog.db)


@pytest.mark.parametrize("key", [None, "0" * 32])
def test_without_the_key_nothing_is_seen(shared, key):
    _, address, _ = shared
    headers = {} if key is None else {"Authorization": f"Apikey {key}"}
    for path in ("/api/v1/metadata/", "/api/v1/search/", "/docs", "/"):
        assert httpx.get(address + path, headers=headers, trust_env=False).status_code == 401


def test_tiled_itself_is_given_nothing_to_write(catalog):
    """Whatever gets through: it has no writable storage, and lets nobody in particular in."""
    from live4d_ophyd.storage import served_from

    config = read_only(served_from("test"))
    (tree,) = config["trees"]
    assert "writable_storage" not in tree["args"]
    assert config["authentication"] == {"allow_anonymous_access": True}
    # Images, tables, and recorded frames, which lie where the user had them written.
    assert [uri.partition(":")[0] for uri in tree["args"]["readable_storage"]] == ["file", "sqlite", "file"]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--catalog", "http://tiled:8000"], {}, "is a Tiled server's"),
        (["--catalog", "/nowhere"], {}, "no catalog '/nowhere'"),
        ([], {"LIVE4D_SHARE_KEY": "short"}, "16 or more letters and digits"),
        (["--host", "192.0.2.1"], {}, "cannot listen at 192.0.2.1"),
    ],
)
def test_what_cannot_be_shared_is_said(catalog, arguments, environment, words):
    result = CliRunner().invoke(live4d, ["share", "--port", "0", *arguments], env=environment)
    assert result.exit_code != 0
    assert words in result.output
