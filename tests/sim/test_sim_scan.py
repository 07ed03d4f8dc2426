"""The simulated scan generator: when the probe scans, and so when the detector gets pulses."""

import contextlib

import numpy as np
import pytest
from sim_client import PATIENCE_S, configure, wait_for

from live4d_ophyd.sim.specimen import Scan
from live4d_ophyd.sources.dectris.messages import ImageMessage, read_message

SCAN = Scan(3, 5)


def arm(dcu, client, images):
    configure(dcu, nimages=1, ntrigger=images)
    dcu.arm()
    client.message()  # start


def images(client, count=0):
    """Ids of the frames that come: ``count`` of them, and all until none came for a while."""
    ids = []
    with contextlib.suppress(TimeoutError):
        while isinstance(
            message := read_message(client.message(0.3 if len(ids) >= count else PATIENCE_S)), ImageMessage
        ):
            ids.append(message.image_id)
    return ids


def test_a_prepared_scan_waits_for_its_start(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(SCAN, 1)
    arm(dcu, client, 15)
    assert images(client) == []
    assert dcu.state == "ready"
    assert dcu.progress["text"] == "simulator: waiting for the scan"
    dcu.start_scan()
    assert images(client, 15) == list(range(15))
    wait_for(lambda: dcu.state == "idle")


def test_each_start_is_one_raster_or_as_many_as_were_prepared(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(SCAN, 1)
    arm(dcu, client, 100)
    dcu.start_scan()
    assert images(client, 15) == list(range(15))
    dcu.prepare_scan(SCAN, 3)
    dcu.start_scan()
    assert images(client, 45) == list(range(15, 60))
    assert dcu.state == "ready"
    dcu.disarm()


def test_a_stopped_scan_leaves_the_detector_armed(make_dcu, make_client):
    dcu = make_dcu(rate=100.0)
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(Scan(10, 10), 1)
    arm(dcu, client, 200)
    dcu.start_scan()
    wait_for(lambda: dcu.sender.progress[0] > 3)
    dcu.stop_scan()
    assert dcu.state == "ready"
    first = images(client)
    assert first == list(range(len(first)))
    assert 3 < len(first) < 100
    # The detector counts its pulses on.
    dcu.prepare_scan(SCAN, 1)
    dcu.start_scan()
    assert images(client, 15)[:15] == list(range(len(first), len(first) + 15))
    dcu.disarm()
    assert dcu.state == "idle"


def test_only_the_next_series_waits(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(SCAN, 1)
    arm(dcu, client, 15)
    dcu.disarm()
    images(client)
    arm(dcu, client, 15)
    assert images(client, 15) == list(range(15))


@pytest.mark.parametrize("end", ["disarm", "abort"])
def test_a_series_that_waits_for_a_start_can_be_ended(make_dcu, make_client, end):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(SCAN, 1)
    arm(dcu, client, 15)
    getattr(dcu, end)()
    assert dcu.state == "idle"


def test_a_start_without_a_detector_that_is_armed_is_no_pulse_for_the_next(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(SCAN, 1)
    dcu.start_scan()
    arm(dcu, client, 15)
    assert images(client) == []
    dcu.disarm()


def test_a_free_microscope_scans_by_itself_and_software_triggers_need_no_scan(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.prepare_scan(SCAN, 1)
    configure(dcu, trigger_mode="ints", nimages=4, ntrigger=2)
    dcu.arm()
    client.message()
    dcu.trigger()
    dcu.trigger()
    assert images(client, 8) == list(range(8))


def test_rotation_turns_the_scan_about_its_middle():
    plain, turned = Scan(3, 5, 0.5).positions_nm(), Scan(3, 5, 0.5, rotation_deg=90.0).positions_nm()
    # what ran along the columns runs along the rows; what ran down runs backwards along the columns
    np.testing.assert_allclose(turned, np.stack([plain[:, 1], -plain[:, 0]], -1), atol=1e-12)
