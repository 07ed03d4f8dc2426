"""An engine that is left behind, because the detector does not answer it, does no harm to what comes after it."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import zmq
from system.survival.conftest import GRID
from system.survival.rig import PATIENCE_S, wait_until

from live4d_ophyd.engine.process import client, spawn
from live4d_ophyd.engine.process.protocol import FINAL, Done, RasterDone
from live4d_ophyd.testing.small_dcu import SmallDcu

pytestmark = [pytest.mark.system, pytest.mark.own_engine]

#: how long the control unit takes to answer `arm`, s
ARM_S = 6.0


class _Taken:
    def __init__(self):
        self.raster = None
        self._over = threading.Event()

    def __call__(self, event):
        if isinstance(event, RasterDone):
            self.raster = event.raster
        if isinstance(event, FINAL):
            self._last = event
            self._over.set()

    def wait(self):
        assert self._over.wait(PATIENCE_S)
        assert isinstance(self._last, Done), self._last
        return self.raster


def test_an_engine_closed_while_it_arms_takes_no_frames_and_ends_no_series_of_the_next(
    rig, truth, monkeypatch
):
    monkeypatch.setattr(spawn, "END_TIMEOUT_S", 0.2)
    request, taken = rig.live4d.request(), _Taken()
    with (
        closing(client.EngineClient.spawn("cpu")) as left,
        closing(client.EngineClient.spawn("cpu")) as after,
    ):
        left.wait_ready()
        after.wait_ready()
        rig.fault(arm_latency=ARM_S)
        left.acquire(1, request, lambda event: None)
        wait_until(lambda: rig.state() != "idle", "the detector is armed")
        left.cancel(1)
        rig.fault()
        left.close()
        assert left._process.end_code() is None, "the control unit answered too early for this test"
        after.acquire(1, request, taken)
        raster = taken.wait()
    assert left._process.end_code(PATIENCE_S) == 0
    assert (raster.losses.received, raster.losses.lost) == (GRID.frames, 0)
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)
    assert rig.state() == "idle"


@pytest.mark.parametrize("how", ["release", "close"])
def test_the_stream_is_left_at_once_whatever_the_control_unit_does(rig, monkeypatch, how):
    monkeypatch.setattr(spawn, "END_TIMEOUT_S", 0.2)
    with closing(SmallDcu()) as dcu, closing(client.EngineClient.spawn("cpu")) as engine:
        engine.wait_ready()
        rig.fault(arm_latency=ARM_S)
        request = rig.live4d.request()
        source = replace(request.source, endpoint=dcu.endpoint)
        engine.acquire(1, replace(request, source=source), lambda event: None)
        wait_until(lambda: rig.state() != "idle", "the detector is armed")
        assert dcu._socket.poll(0, zmq.POLLOUT)
        if how == "release":
            engine.release(timeout=0.1)
        else:
            engine.close()
        wait_until(lambda: not dcu._socket.poll(0, zmq.POLLOUT), "nobody is connected to the stream")
        assert rig.state() != "idle", "the control unit answered too early for this test"
    assert engine._process.end_code(PATIENCE_S) == 0
    assert rig.state() == "idle"
