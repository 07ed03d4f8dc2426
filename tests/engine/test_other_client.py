"""A second client takes messages of the stream in turn: that is said, and nothing else is taken for it."""

import threading
from contextlib import closing, contextmanager

import numpy as np
import pytest
import zmq
from fake_control import FakeControl

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.other_client import dealt_out
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, frames, series

GRID = ScanGrid(16, 16)
DISK = Disk("vbf", center=(12, 16), radius=6)


class Control(FakeControl):
    """A detector that has ended by itself and counts what it dropped."""

    def wait_idle(self, timeout):
        return "idle"


@contextmanager
def other_client(endpoint):
    """Takes what comes, as a viewer does."""
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.connect(endpoint)
    over = threading.Event()

    def take():
        while not over.is_set():
            if socket.poll(20):
                socket.recv()
        socket.close(linger=0)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        context.term()


def take(caplog, others, connections=1, control=None, timeout=1.0):
    """Losses of a scan beside so many other clients, and what was logged of them."""
    with (
        closing(SmallDcu()) as dcu,
        closing(OpenStream(DectrisSource(dcu.endpoint, connections=connections))) as stream,
    ):
        request = AcquisitionRequest(
            DectrisSource(dcu.endpoint, connections=connections, simplon=control),
            GRID,
            (DISK,),
            timeout=timeout,
        )
        scan = Acquisition(request, stream)
        if control is None:
            scan.series.source.expect((1, 0))  # the other client may take the start
        if others:
            with other_client(dcu.endpoint):
                dcu.wait_for_clients(connections + 1)
                dcu.send(series(frames(GRID.frames)))
                (raster,) = scan.run()
        else:
            dcu.wait_for_clients(connections)
            messages = series(frames(GRID.frames))
            dcu.send(message for n, message in enumerate(messages) if n % 2 or n > 200)
            (raster,) = scan.run()
    return raster.losses, [r.message for r in caplog.records if "another client" in r.message]


@pytest.mark.parametrize(
    ("control", "words"),
    [(None, "as no slow host loses them"), (Control(0), "the detector dropped none")],
    ids=["passive", "dropped 0"],
)
def test_every_second_image_taken_by_another_client(caplog, control, words):
    losses, said = take(caplog, 1, control=control)
    assert losses.lost == 128
    (line,) = said
    assert "128 of 256 frames did not come, regularly 1 of every 2" in line
    assert words in line
    assert "End it" in line


def test_a_third_of_the_images_beside_two_connections_of_ours(caplog):
    losses, said = take(caplog, 1, connections=2)
    assert losses.lost in (85, 86)
    (line,) = said
    assert "regularly 1 of every 3" in line


def test_images_that_the_detector_dropped_are_nobodys(caplog):
    losses, said = take(caplog, 0, control=Control(dropped=100))
    assert losses.lost == 100
    assert not said


@pytest.mark.parametrize("lost", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_images_lost_by_chance_are_not_dealt_out(lost, seed):
    assert dealt_out(np.random.default_rng(seed).random(4096) >= lost, 12) is None


@pytest.mark.parametrize("burst", [slice(0, 500), slice(500, 1500), slice(4000, 4096), slice(0, 4096)])
def test_images_lost_in_a_row_are_not_dealt_out(burst):
    came = np.ones(4096, bool)
    came[burst] = False
    assert dealt_out(came, 12) is None


@pytest.mark.parametrize(("k", "n"), [(1, 2), (1, 3), (2, 3), (3, 4), (1, 8), (2, 12)])
def test_images_dealt_out_are_recognised_with_a_shift_and_a_late_beginning(k, n):
    came = np.arange(4096) % n >= k
    came = np.insert(came, 2000, True)
    came[:600] = True
    assert dealt_out(came, 12) == (k, n)


def test_nothing_missing_and_nothing_there():
    assert dealt_out(np.ones(4096, bool), 12) is None
    assert dealt_out(np.zeros(4096, bool), 12) is None
    assert dealt_out(np.zeros(0, bool), 12) is None
