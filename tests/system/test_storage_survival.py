"""Whatever happens to the catalog in mid-run, nothing taken is lost, and `live4d restore` brings it back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import forked
import httpx
import pytest
import yaml

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

TESTS = Path(__file__).parent.parent
RUNS = str(TESTS / "storage" / "runs.py")
#: of a process of seconds nearly all stays until its end: what the search for garbage would cost is a third of it
TILED = [sys.executable, "-c", "import gc; gc.disable(); from tiled.commandline.main import main; main()"]
API_KEY = "secret"

WHOLE = {
    "as taken": [True] * 5,
    "finite means": [False, True, False, True, False],
    "dims": ["time", "scan_y", "scan_x"],
    "exit_status": "success",
}


class Host:
    """Commands as of a user whose home is empty, on a machine whose disks are ``within``'s."""

    def __init__(self, home, within=()):
        self.home = home
        self.within = list(within)
        self.state = home / "state"
        self.processes = []
        self._afterwards = None

    def start(self, *command, **options):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TILED_PROFILES": str(self.home / "profiles"),
            "TILED_CACHE_DIR": str(self.home / "cache"),
            "TILED_API_KEY": API_KEY,
            "XDG_STATE_HOME": str(self.state),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "MPLBACKEND": "agg",
            # Of Tiled's client: else it tries for 20 to 50 s.
            "TILED_RETRY_ATTEMPTS": "2",
        }
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = forked.Popen(
            [*self.within, *map(str, command)], env=environment, cwd=self.home, text=True, **options
        )
        self.processes.append(process)
        return process

    def run(self, *command):
        process = self.start(*command)
        out, error = process.communicate(timeout=120)
        return process.returncode, out, error

    def afterwards(self, *command):
        """What a process says that knows nothing of the sessions: one for all commands, which need Tiled's import."""
        if self._afterwards is None:
            self._afterwards = self.start(sys.executable, RUNS, "afterwards", stderr=None)
        print(json.dumps(command), file=self._afterwards.stdin, flush=True)
        answer = self._afterwards.stdout.readline()
        assert answer, f"{command}: its process has ended with {self._afterwards.wait()}"
        return json.loads(answer)

    def look(self, catalog, *uids):
        """What the catalog has of these runs."""
        return self.afterwards("look", catalog, *uids)

    def live4d(self, *command):
        """Exit code, output and errors of a command."""
        return self.afterwards("live4d", *command)

    def backups(self):
        """Name and number of whole lines of each."""
        code, out, error = self.run(
            sys.executable, "-c",
            "import json, pathlib, sys; print(json.dumps({p.stem: p.read_bytes().count(b'\\n') "
            "for p in pathlib.Path(sys.argv[1]).rglob('*.jsonl')}))", self.state,
        )  # fmt: skip
        assert code == 0, error
        return json.loads(out)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def host(tmp_path, copy_empty_catalog):
    copy_empty_catalog(tmp_path / "catalog")
    host = Host(tmp_path)
    host.copy_empty_catalog = copy_empty_catalog
    yield host
    host.close()


class Taking:
    """A session that waits after the second of five Events."""

    def __init__(self, host, catalog):
        self.process = host.start(sys.executable, RUNS, "take", catalog)
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.uid = json.loads(line)

    def go_on(self):
        """How the run ended, and what the session said."""
        out, error = self.process.communicate("go on\n", timeout=200)
        assert self.process.returncode == 0, error
        return json.loads(out.splitlines()[-1]), error


# The Tiled server is gone ------------------------------------------------------------------------


class TiledServer:
    def __init__(self, host, directory):
        host.copy_empty_catalog(directory)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = directory / "config.yml"
        self.log = directory / "log"
        self.host = host
        content = {
            "authentication": {"single_user_api_key": API_KEY},
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
                        "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                    },
                }
            ],
        }
        self.config.write_text(yaml.safe_dump(content))

    def start(self):
        with self.log.open("a") as log:
            self.process = self.host.start(
                *TILED, "serve", "config", self.config, "--port", self.port,
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/api/v1/", timeout=10).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


def test_a_run_outlives_its_tiled_server(host):
    server = TiledServer(host, host.home / "server")
    server.start()
    taking = Taking(host, server.url)
    server.kill()
    end, said = taking.go_on()
    assert end == {"error": None, "scan_id": 1, "events": 5}
    assert "The catalog could not be written" in said
    assert "live4d restore" in said
    assert host.backups() == {taking.uid: 8}  # start, descriptor, 5 Events, stop

    code, _, error = host.live4d("restore", "--catalog", server.url)
    assert code == 1
    assert "the catalog cannot be opened" in error
    assert "Traceback" not in error
    assert host.backups() == {taking.uid: 8}

    server.start()
    code, out, error = host.live4d("restore", "--catalog", server.url)
    assert (code, error) == (0, ""), error
    assert taking.uid in out
    assert host.look(server.url, taking.uid) == [WHOLE]
    assert host.backups() == {}


# The disk is full --------------------------------------------------------------------------------


@contextmanager
def small_disk(directory):
    """A file system of 16 MB at ``directory``, for commands behind the prefix that this yields."""
    directory.mkdir()
    holder = forked.Popen(
        ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=16m none "$0" && echo mounted && cat', directory],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"no file system can be mounted here: {holder.communicate()[1].strip()}")
        yield [*forked.ENTER, str(holder.pid)]
        holder.communicate("")


@pytest.fixture
def small(tmp_path):
    """A host with a small disk at ``host.disk``."""
    with small_disk(tmp_path / "disk") as within:
        host = Host(tmp_path, within)
        host.disk = tmp_path / "disk"
        yield host
        host.close()


def fill(host):
    code, _, error = host.run("dd", "if=/dev/zero", f"of={host.disk}/ballast", "bs=4096")
    assert code == 1
    assert "No space left" in error


def make_room(host):
    assert host.run("rm", host.disk / "ballast")[0] == 0


def test_a_run_outlives_a_full_disk_of_its_catalog(small):
    catalog = str(small.disk / "catalog")
    taking = Taking(small, catalog)
    fill(small)
    end, said = taking.go_on()
    assert end == {"error": None, "scan_id": 1, "events": 5}
    assert "The catalog could not be written" in said
    assert "live4d restore" in said

    code, _, error = small.live4d("restore")
    assert code == 1
    assert "its file stays" in error or "cannot be opened" in error
    assert small.backups() == {taking.uid: 8}

    make_room(small)
    code, out, error = small.live4d("restore")
    assert (code, error) == (0, "")
    assert taking.uid in out
    assert small.look(catalog, taking.uid) == [WHOLE]
    assert small.backups() == {}


def test_with_the_backup_on_the_full_disk_the_plan_fails_and_what_was_taken_stays(small):
    small.state = small.disk / "state"
    catalog = str(small.disk / "catalog")
    taking = Taking(small, catalog)
    fill(small)
    end, said = taking.go_on()
    assert "neither the catalog nor the backup" in end["error"]
    assert "No space left on device" in said

    make_room(small)
    code, _, error = small.live4d("restore")
    assert (code, error) == (0, "")
    again = Taking(small, catalog)
    end, _ = again.go_on()
    assert end == {"error": None, "scan_id": 2, "events": 5}
    kept, whole = small.look(catalog, taking.uid, again.uid)
    assert kept["as taken"] == [True] * 2
    assert kept["exit_status"] != "success"
    assert whole == WHOLE


def test_a_run_outlives_a_full_disk_of_its_backup(small):
    small.state = small.disk / "state"
    catalog = str(small.home / "catalog")
    taking = Taking(small, catalog)
    fill(small)
    end, said = taking.go_on()
    assert end == {"error": None, "scan_id": 1, "events": 5}
    assert "The backup" in said
    assert "No space left on device" in said
    assert small.look(catalog, taking.uid) == [WHOLE]
    assert small.backups() == {}


# The session is killed ---------------------------------------------------------------------------


def test_a_killed_session_is_readable_and_restored_up_to_its_end(host):
    """What was on its way into the catalog when the session was killed is in the backup."""
    catalog = str(host.home / "catalog")
    taking = Taking(host, catalog)
    taking.process.send_signal(signal.SIGKILL)
    taking.process.communicate()
    taken = {**WHOLE, "as taken": [True] * 2, "finite means": [False, True], "exit_status": None}
    assert host.backups() == {taking.uid: 4}  # start, descriptor, 2 Events

    code, out, error = host.live4d("restore")
    assert (code, error) == (0, "")
    assert "2 Events  torn" in out
    assert host.backups() == {}
    assert host.look(catalog, taking.uid) == [taken]
    following = Taking(host, catalog)
    end, said = following.go_on()
    assert end == {"error": None, "scan_id": 2, "events": 5}
    assert "could not" not in said
    assert host.look(catalog, taking.uid, following.uid) == [taken, WHOLE]
