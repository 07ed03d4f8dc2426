"""The engine as a process: it serves one session, and the death of either side is noticed and named."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing

import cbor2
import forked
import numpy as np
import pytest
from served_engine import served_engine

from live4d_ophyd.decode import BackendUnavailable, CpuBackend, GpuLost
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import EngineInUse, EngineLost, NoEngine, NothingCame
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.keys import make_keys
from live4d_ophyd.engine.process.server import EngineServer
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import frames, series, start

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


class Events:
    """Collects an acquisition's events."""

    def __init__(self):
        self.all = []
        self.armed = threading.Event()
        self.over = threading.Event()

    def __call__(self, event):
        self.all.append(event)
        if isinstance(event, protocol.Armed):
            self.armed.set()
        if isinstance(event, protocol.FINAL):
            self.over.set()

    def last(self, timeout=10):
        assert self.over.wait(timeout), self.all
        return self.all[-1]


def request(dcu, **options):
    return AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, (DISK,), **{"timeout": 5.0, **options})


@pytest.fixture
def engine(kept_engines):
    with closing(kept_engines.spawn()) as client:
        client.wait_ready()
        yield client


def gone(pid, within=30.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):  # the latter between opening and reading
            return True
        time.sleep(0.01)
    return False


def test_images_come_back_exactly(engine, dcu):
    pixels = frames(GRID.frames)
    dcu.send(series(pixels))
    events = Events()
    engine.acquire(1, request(dcu), events)
    assert isinstance(events.last(), protocol.Done)
    raster = next(event.raster for event in events.all if isinstance(event, protocol.RasterDone))
    truth = (pixels * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape)
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)


def test_progress_comes_while_it_runs_and_previews_when_asked_for(engine, dcu):
    pixels = frames(GRID.frames)
    dcu.send(series(pixels)[:6])
    shown = threading.Event()
    events = Events()

    def watch(event):
        events(event)
        if isinstance(event, protocol.ProgressMade):
            if event.outputs is not None and np.isfinite(event.outputs["vbf"]).sum() == 5:
                shown.set()
            else:
                engine.request_preview()

    engine.acquire(1, request(dcu), watch)
    assert shown.wait(5)
    dcu.send(series(pixels)[6:])
    assert isinstance(events.last(), protocol.Done)


def test_a_failure_is_told_with_its_reason(engine, dcu):
    events = Events()
    engine.acquire(1, request(dcu, timeout=0.2), events)
    assert isinstance(events.last(), protocol.Failed)
    assert isinstance(events.last().error, NothingCame)
    assert "no series began" in str(events.last().error)


def test_warnings_of_the_engine_reach_the_session(engine, dcu, caplog):
    messages = series(frames(GRID.frames))
    messages[3] = messages[3][:90]
    dcu.send(messages)
    events = Events()
    engine.acquire(1, request(dcu), events)
    assert isinstance(events.last(), protocol.Done)
    assert "engine: series 1: bad frame" in caplog.text


def test_nothing_comes_of_a_cancelled_acquisition(engine, dcu):
    cancelled, events = Events(), Events()
    pixels = frames(GRID.frames)
    engine.acquire(1, request(dcu), cancelled)
    engine.cancel(1)
    before = len(cancelled.all)
    engine.acquire(2, request(dcu), events)
    assert events.armed.wait(10)  # before, the first one may still be listening
    dcu.send(series(pixels))
    assert isinstance(events.last(), protocol.Done)
    assert len(cancelled.all) == before


def test_a_killed_engine_is_noticed_within_a_second_and_named(engine, dcu):
    events = Events()
    dcu.send([start()])
    engine.acquire(1, request(dcu), events)
    os.kill(engine.pid, signal.SIGKILL)
    lost = events.last(1.0)
    assert isinstance(lost, protocol.Lost)
    assert isinstance(lost.error, EngineLost)
    assert "SIGKILL" in str(lost.error)
    assert not engine.alive
    with pytest.raises(EngineLost):
        engine.acquire(2, request(dcu), events)


def test_a_killed_session_takes_its_engine_along(tmp_path):
    code = (
        "from live4d_ophyd.engine.process.client import EngineClient\n"
        "import time\n"
        "c = EngineClient.spawn(); c.wait_ready(); print(c.pid, flush=True); time.sleep(60)\n"
    )
    with forked.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as session:
        pid = int(session.stdout.readline())
        session.kill()
        assert gone(pid)


def test_a_served_engine_lost_over_tcp_is_noticed_within_a_second(dcu):
    with served_engine() as engine, closing(EngineClient(engine.endpoint)) as client:
        client.wait_ready()
        events = Events()
        dcu.send([start()])
        client.acquire(1, request(dcu), events)
        engine.process.kill()
        assert isinstance(events.last(1.0), protocol.Lost)
        assert engine.endpoint in str(events.last().error)


def test_a_served_engine_belongs_to_one_session_at_a_time(dcu):
    with served_engine() as engine, closing(EngineClient(engine.endpoint)) as first:
        first.wait_ready()
        with (
            closing(EngineClient(engine.endpoint)) as second,
            pytest.raises(EngineInUse, match="another session: end that one"),
        ):
            second.wait_ready(5)
        first.close()
        with closing(EngineClient(engine.endpoint)) as third:
            third.wait_ready(5)
            events = Events()
            dcu.send(series(frames(GRID.frames)))
            third.acquire(1, request(dcu), events)
            assert isinstance(events.last(), protocol.Done)


def test_a_served_engine_works_for_one_session_after_the_other(dcu):
    with served_engine() as engine:
        for number in range(2):
            with closing(EngineClient(engine.endpoint)) as client:
                client.wait_ready(5)
                for generation in (1, 2):
                    events = Events()
                    unique = f"{number}{generation}"
                    dcu.send(series(frames(GRID.frames), 1, unique))
                    client.acquire(generation, request(dcu), events)
                    assert isinstance(events.last(), protocol.Done)
                client.release()
                dcu.wait_for_leaving(1)


def test_a_stopped_engine_goes_on_when_it_is_continued(engine, dcu):
    events = Events()
    dcu.send([start()])
    engine.acquire(1, request(dcu), events)
    dcu.wait()  # the engine is connected, and has the start message
    os.kill(engine.pid, signal.SIGSTOP)
    time.sleep(1.5)  # longer than any heartbeat
    os.kill(engine.pid, signal.SIGCONT)
    dcu.send(series(frames(GRID.frames))[1:])
    assert isinstance(events.last(), protocol.Done)


def test_a_message_that_makes_no_sense_does_not_end_the_engine(engine, dcu):
    hostile = cbor2.loads(protocol.encode(protocol.Acquire(1, request(dcu))))
    hostile["request"]["control"] = {"url": 5}
    for generation in (1, [1], "1", None):
        engine._post(cbor2.dumps({**hostile, "generation": generation}))
    engine._post(b"not even cbor")
    for told in ({}, {"kind": "Acquire"}, {"kind": "Cancel"}, {"kind": "Done", "generation": 1}):
        engine._post(cbor2.dumps({"v": protocol.VERSION, **told}))
    # Answers come in order: behind a release, all that was refused has been heard.
    engine.release()
    events = Events()
    dcu.send(series(frames(GRID.frames)))
    engine.acquire(2, request(dcu), events)
    assert isinstance(events.last(), protocol.Done)


def test_a_set_up_that_does_not_fit_is_a_value_error(engine, dcu):
    mask = np.zeros((3, 3), bool)
    events = Events()
    dcu.send(series(frames(GRID.frames)))
    engine.acquire(1, request(dcu, pixel_mask=mask), events)
    error = events.last().error
    assert (type(error), "pixel_mask has shape (3, 3)" in str(error)) == (ValueError, True)


def test_a_served_engine_outlives_a_killed_session(dcu):
    with served_engine() as engine:
        code = (
            "import sys, time\n"
            "from live4d_ophyd.engine.process.client import EngineClient\n"
            f"c = EngineClient({engine.endpoint!r}); c.wait_ready(); print('ready', flush=True); time.sleep(60)\n"
        )
        with forked.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as session:
            session.stdout.readline()
            session.kill()
        with closing(EngineClient(engine.endpoint)) as client:
            client.wait_ready(5)
        assert engine.process.poll() is None


def test_no_engine_at_an_endpoint_is_said(tmp_path):
    with (
        closing(EngineClient(f"ipc://{tmp_path}/nobody")) as client,
        pytest.raises(NoEngine, match="no engine answered"),
    ):
        client.wait_ready(0.3)


@pytest.fixture
def engine_is(tmp_path, monkeypatch):
    """From now on a spawned engine is these lines of a shell."""

    def replace(*lines):
        script = tmp_path / "engine"
        script.write_text("\n".join(["#!/bin/sh", *lines]))
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


def test_an_engine_that_ends_before_it_is_ready_is_said_with_its_last_words(engine_is):
    engine_is("echo no numba here >&2", "exit 3")
    with closing(EngineClient.spawn("cpu")) as client:
        with pytest.raises(EngineLost, match=r"ended with exit code 3; its last words:\n  no numba here"):
            client.wait_ready(10)
        assert not client.alive


def test_an_engine_that_does_not_get_ready_is_said_with_its_last_words(engine_is):
    engine_is("echo compiling >&2", "cat")  # which ends when its standard input does
    with closing(EngineClient.spawn("cpu")) as client:
        deadline = time.monotonic() + 10
        while "compiling" not in client._process.last_words() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(
            NoEngine, match=r"no engine answered at .* within 0.1 s; its last words:\n  compiling"
        ):
            client.wait_ready(0.1)


def test_a_long_folder_for_temporary_files_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 110)))
    os.mkdir(tempfile.tempdir)
    with closing(EngineClient.spawn("cpu")) as client:
        client.wait_ready()
    assert os.listdir(tempfile.tempdir) == []


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path):
    endpoint = f"ipc://{tmp_path}/{'x' * 110}"
    words = f"the path of a socket has at most 107 bytes, this one has {len(endpoint) - 6}"
    with pytest.raises(ValueError, match=words):
        EngineClient(endpoint)
    command = [sys.executable, "-m", "live4d_ophyd", "serve", endpoint, "--backend", "cpu"]
    refused = forked.run(command, capture_output=True, text=True, timeout=60)
    assert f"Error: cannot serve at {endpoint}: {words}" in refused.stderr


def test_an_address_that_is_none_is_refused_with_an_example():
    with pytest.raises(ValueError, match="Invalid argument; it looks like tcp://gpu-host:31100"):
        EngineClient("gpu-host")


def test_curve_keys_admit_who_has_them(tmp_path, dcu):
    folder, session = make_keys(tmp_path / "keys")
    _, stranger = make_keys(tmp_path / "strangers")
    (stranger / "server.key").write_bytes((session / "server.key").read_bytes())
    with served_engine("--curve", folder) as engine:
        with closing(EngineClient(engine.endpoint, curve_keys=session)) as client:
            client.wait_ready(10)
        with closing(EngineClient(engine.endpoint, curve_keys=stranger)) as client, pytest.raises(EngineLost):
            client.wait_ready(10)


def test_the_session_knows_what_decodes(engine):
    assert engine.backend in ("cpu", "gpu")
    assert engine.backend_detail


def test_an_engine_without_a_gpu_refuses_a_session_that_wants_one(dcu):
    reason = r"backend 'gpu' cannot run here: .*--backend auto"
    with (
        served_engine("--backend", "cpu") as engine,
        closing(EngineClient(engine.endpoint, backend="gpu")) as client,
        pytest.raises(BackendUnavailable, match=reason),
    ):
        client.wait_ready()


class _LosesItsGpu(CpuBackend):
    def decoder(self, frame, *, saturation):
        decoder = super().decoder(frame, saturation=saturation)

        def submit(*_):
            raise GpuLost("the GPU failed: unspecified launch failure")

        decoder.submit = submit
        return decoder


def test_a_lost_gpu_fails_the_acquisition_and_ends_the_engine(dcu, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.engine.process.server.choose_backend", lambda _: _LosesItsGpu())
    server = EngineServer("tcp://127.0.0.1:*")
    serving = threading.Thread(target=server.run)
    serving.start()
    with closing(EngineClient(server.endpoint)) as client:
        client.wait_ready()
        events = Events()
        dcu.send(series(frames(GRID.frames)))
        client.acquire(1, request(dcu), events)
        error = events.last().error
        assert isinstance(error, GpuLost)
        assert "the GPU failed: unspecified launch failure" in str(error)
        serving.join(5)
        assert not serving.is_alive()


def test_an_address_that_is_taken_is_named():
    with served_engine() as engine:
        command = [sys.executable, "-m", "live4d_ophyd", "serve", engine.endpoint]
        second = forked.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"Error: cannot serve at {engine.endpoint}: Address already in use" in second.stderr
