"""The network between detector and engine fails in the middle of a series."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from system.survival.conftest import GRID, SMALL
from system.survival.network import Network
from system.survival.rig import Rig

from live4d_ophyd.sim import SimulatorProcess

pytestmark = pytest.mark.system

RATE_HZ, CUT_S, BEFORE = 50.0, 5.0, 50


@pytest.fixture
def network_and_rig():
    """400 frames in 8 s, and the image without a fault."""
    with (
        SimulatorProcess(**SMALL, rate=2000.0) as simulator,
        closing(Network(simulator.stream_endpoint)) as network,
        closing(Rig(simulator, GRID, network.endpoint)) as rig,
    ):
        (clean,) = rig.count()
        assert clean.received == GRID.frames
        rig.slow_down(RATE_HZ)
        yield network, rig, clean.image


def test_network_cut_for_5_s_frames_lost_are_nan_and_counted_the_rest_arrives(network_and_rig):
    network, rig, truth = network_and_rig

    def cut():
        network.cut()
        time.sleep(CUT_S)
        network.mend()

    with rig.in_mid_series(BEFORE, cut):
        (broken,) = rig.count()
    broken.check(truth)
    assert broken.bad == 0
    assert broken.received >= BEFORE
    # What was sent meanwhile is lost, and at most a second more until the engine is connected again.
    assert RATE_HZ * (CUT_S - 0.5) < broken.lost < RATE_HZ * (CUT_S + 1.5)
    assert broken.missing == list(range(broken.missing[0], broken.missing[-1] + 1))


def test_cable_pulled_for_2_s_everything_arrives(network_and_rig):
    """No connection breaks: TCP and the detector's buffer keep what was sent meanwhile."""
    network, rig, truth = network_and_rig
    rig.slow_down(2 * RATE_HZ)

    def pull():
        network.freeze()
        time.sleep(2.0)
        network.thaw()

    with rig.in_mid_series(BEFORE, pull):
        (late,) = rig.count()
    assert late.received == GRID.frames
    late.check(truth)
