"""Against a detector that somebody else wrote: the EIGER2 16M of tickit-devices, with its SIMPLON and its stream v2.

It sends one real frame over and over: 18 pixels with counts, and 1,253,075 that hold no data. What must come out of it
is read here with a plain ZeroMQ socket, cbor2 and the HDF5 filter. Two things it does differently from a detector: it
has no ``/detector/api/version``, and ``arm`` always answers 2, so only its second series is the one that was promised.
"""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import bluesky.plans as bp
import cbor2
import httpx
import numpy as np
import pytest
import zmq
from bluesky import FailedStatus, RunEngine
from hdf5_filter import read_bslz4

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon

ENVIRONMENT = Path(__file__).parents[2] / ".venv-tickit"
INSTALLED = ENVIRONMENT / ".installed"
API = "1.8.0"
TIMEOUT = 60  # s
NO_DATA = 65535
CENTER, RADIUS = (2163, 2049), 2000  # of the beam, and of most of the frame, px
# tickit, which ends with this process whatever becomes of it. Left alone, its PUSH sockets bind an address and connect
# to it as well: libzmq then queues some of the messages for the socket itself, where they stay.
LAUNCHER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
import aiozmq
create_stream = aiozmq.create_zmq_stream
aiozmq.create_zmq_stream = lambda kind, *, bind, connect: create_stream(kind, bind=bind)
from tickit.cli import main
main()
"""

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not INSTALLED.exists(), reason=f"tickit-devices is not in {ENVIRONMENT.name}: make test installs it"
    ),
]


@dataclass(frozen=True)
class Tickit:
    """Where the simulated detector serves, and its REST interface without our client."""

    rest_url: str
    stream_endpoint: str

    def value(self, subsystem: str, kind: str, key: str):
        answer = httpx.get(f"{self.rest_url}/{subsystem}/api/{API}/{kind}/{key}")
        return answer.raise_for_status().json()["value"]

    def set(self, subsystem: str, key: str, value) -> None:
        url = f"{self.rest_url}/{subsystem}/api/{API}/config/{key}"
        httpx.put(url, json={"value": value}).raise_for_status()

    def command(self, name: str) -> None:
        url = f"{self.rest_url}/detector/api/{API}/command/{name}"
        httpx.put(url, timeout=TIMEOUT).raise_for_status()

    def one_series(self) -> list[dict]:
        """The messages of a series of one image, started in software."""
        with zmq.Context() as context, context.socket(zmq.PULL) as client:
            client.rcvtimeo = 1000 * TIMEOUT
            client.connect(self.stream_endpoint)
            self.command("initialize")
            self.set("stream", "format", "cbor")
            self.set("detector", "trigger_mode", "ints")
            self.command("arm")
            self.command("trigger")
            return [cbor2.loads(client.recv()) for _ in range(3)]


def free_ports(n: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture
def tickit(tmp_path):
    rest_port, legacy_port, stream_port = free_ports(3)
    config, log = tmp_path / "eiger.yaml", tmp_path / "tickit.log"
    config.write_text(
        f"""
- type: tickit_devices.eiger.Eiger
  name: detector
  inputs: {{}}
  host: 127.0.0.1
  port: {rest_port}
  stream_host: 127.0.0.1
  stream_legacy_port: {legacy_port}
  stream_cbor_port: {stream_port}
"""
    )
    detector = Tickit(f"http://127.0.0.1:{rest_port}", f"tcp://127.0.0.1:{stream_port}")
    command = [ENVIRONMENT / "bin" / "python", "-c", LAUNCHER, "--log-level", "INFO", "all", config]
    with (
        open(log, "w") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + TIMEOUT
            while True:
                try:
                    assert detector.value("detector", "status", "state") == "na"
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        pytest.fail(f"tickit did not start: {log.read_text()}")
                    time.sleep(0.1)
            yield detector
        finally:
            process.kill()  # nothing of it is worth an orderly end


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


def decoded(image) -> np.ndarray:
    """Pixels of an image message, read by the bitshuffle filter of HDF5."""
    (shape, typed) = image["data"]["threshold_1"].value
    assert typed.tag == 69  # u16, little-endian
    algorithm, _, blob = typed.value.value
    assert algorithm == "bslz4"
    return read_bslz4(blob, tuple(shape), "<u2")


@pytest.mark.parametrize("nodata", [True, False])
def test_its_18_megapixel_frame_goes_through_a_count(tickit, RE, nodata):
    start, image, end = tickit.one_series()
    assert [m["type"] for m in (start, image, end)] == ["start", "image", "end"]
    frame = decoded(image)
    assert frame.shape == (start["image_size_y"], start["image_size_x"]) == (4362, 4148)
    counts = np.where((frame == NO_DATA) & nodata, 0, frame.astype(np.int64))
    rows, cols = np.ogrid[: frame.shape[0], : frame.shape[1]]
    squared = (rows - CENTER[0]) ** 2 + (cols - CENTER[1]) ** 2
    expected = counts[squared <= RADIUS**2].sum()
    assert 0 < expected < counts.sum()

    device = Live4D(
        tickit.stream_endpoint,
        name="live4d",
        scan=ScanGrid(2, 2),
        methods=[Disk("vbf", center=CENTER, radius=RADIUS)],
        control=Simplon(tickit.rest_url, trigger_mode="ints"),
        nodata=nodata,
        # Its saturation value lies below the dtype's maximum: that alone would leave such pixels out.
        saturated="leave_out" if nodata else "count",
        timeout=TIMEOUT,
    )
    events = []
    with closing(device):
        device.dwell_time.put(0.05)
        device.detector.incident_energy.put(13000.0)  # it names keys as changed that it does not have
        RE(bp.count([device]), {"event": lambda _, event: events.append(event)})
    (event,) = events
    np.testing.assert_array_equal(event["data"]["live4d_vbf"], np.full((2, 2), expected))
    of_frames = {
        key: event["data"][f"live4d_frames_{key}"] for key in ("expected", "received", "lost", "bad")
    }
    assert of_frames == {"expected": 4, "received": 4, "lost": 0, "bad": 0}
    assert event["data"]["live4d_series_id"] == 2
    assert tickit.value("detector", "status", "state") == "idle"
    assert tickit.value("detector", "config", "nimages") == 4
    assert tickit.value("detector", "config", "incident_energy") == 13000.0
    assert tickit.value("detector", "config", "frame_time") == pytest.approx(0.05)


def test_it_is_initialized_armed_and_released_when_no_pulse_comes(tickit, RE):
    device = Live4D(
        tickit.stream_endpoint,
        name="live4d",
        scan=ScanGrid(3, 5),
        methods=[Disk("vbf", center=CENTER, radius=RADIUS)],
        control=Simplon(tickit.rest_url, trigger_mode="exts"),
        timeout=1.0,
    )
    with (
        closing(device),
        pytest.raises(FailedStatus, match="is the scan running, and triggering the detector"),
    ):
        RE(bp.count([device]))
    configured = {
        key: tickit.value("detector", "config", key) for key in ("trigger_mode", "nimages", "ntrigger")
    }
    assert configured == {"trigger_mode": "exts", "nimages": 1, "ntrigger": 15}
    assert tickit.value("stream", "config", "format") == "legacy"  # as it was found
    assert tickit.value("detector", "status", "state") == "idle"
