"""A DCU that fails on request: series that break off, stall, or go on after abort; firmware that lacks keys."""

import time

import numpy as np
import pytest
from sim_client import PATIENCE_S, configure, wait_for

from live4d_ophyd.sim.dcu import CommandError
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.status import statuses


def test_a_series_fails_once_and_initialize_gets_out(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(fail_series=True))
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.state == "error")
    assert "a readout board does not answer (fault fail_series)" in dcu.error
    assert statuses(dcu)["detector"]["error"].value == [dcu.error]
    assert not dcu.faults.fail_series
    with pytest.raises(CommandError, match="state is error, initialize first"):
        dcu.arm()
    dcu.initialize()
    assert (dcu.state, dcu.error) == ("idle", "")
    dcu.arm()
    # One client sees both: half of the first, without its end, and the whole second.
    received = client.series()
    assert [image.series_id for image in received.images] == [1] * 32 + [2] * 64
    assert received.end.series_id == 2


def test_a_series_that_is_to_fail_can_be_disarmed(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(fail_series=True), rate=10.0)
    make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.state == "acquire")
    dcu.disarm()
    assert (dcu.state, dcu.error) == ("idle", "")


def test_a_trigger_returns_when_its_series_fails(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(fail_series=True))
    configure(dcu, trigger_mode="ints")
    make_client(dcu.sender.endpoint)
    dcu.arm()
    dcu.trigger()
    assert dcu.state == "error"


@pytest.mark.parametrize("command", ["disarm", "abort"])
def test_commands_end_a_stall_at_once(make_dcu, make_client, command):
    dcu = make_dcu(faults=Faults(stall_at=20, stall_s=1000.0))
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] == 20)
    assert dcu.state == "acquire"
    began = time.monotonic()
    getattr(dcu, command)()
    assert time.monotonic() - began < PATIENCE_S
    received = client.series(timeout=0.5, images=20)
    assert received.ids == list(range(20))
    assert (received.end is not None) == (command == "disarm")


def test_images_come_after_abort(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(after_abort=5), rate=100.0)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] > 3)
    dcu.abort()
    before = client.series(timeout=0.5, images=4)
    dcu.empty_buffers()
    after = client.series(timeout=0.5, images=5)
    assert before.ids == list(range(len(before.ids)))
    assert after.ids == list(range(len(before.ids), len(before.ids) + 5))
    assert {image.series_unique_id for image in after.images} == {before.start.series_unique_id}
    assert all(frame.sum() > 10_000 for frame in after.frames().values())
    assert after.end is None


def test_images_after_abort_come_before_the_next_start(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(after_abort=5), rate=100.0)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] > 3)
    dcu.abort()
    configure(dcu, frame_time=1e-4)
    dcu.arm()
    received = client.series()
    series = [image.series_id for image in received.images]
    first = series.count(1)
    assert series == [1] * first + [2] * 64
    assert received.ids[:first] == list(range(first))
    assert first >= 9
    assert received.start.series_id == 2


def test_nothing_comes_after_disarm_or_a_finished_series(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(after_abort=5))
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    received = client.series()
    assert len(received.ids) == 64
    configure(dcu, frame_time=1e-2)
    wait_for(lambda: dcu.state == "idle")
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] > 3)
    dcu.disarm()
    dcu.abort()
    dcu.empty_buffers()
    assert client.series().end is not None
    assert client.series(timeout=0.3).ids == []


def test_misfits_in_a_series(make_dcu, make_client):
    dcu = make_dcu(faults=Faults.parse(wrong_shape="3", wrong_dtype="5"))
    configure(dcu, threshold__2__mode="enabled")
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    received = client.series()
    assert (received.start.image_size_y, received.start.image_size_x) == (32, 32)
    for channel in ("threshold_1", "threshold_2"):
        frames = received.frames(channel)
        assert frames[3].shape == (16, 32)
        assert (frames[5].shape, frames[5].dtype) == ((32, 32), np.dtype("uint32"))
        assert {(f.shape, str(f.dtype)) for i, f in frames.items() if i not in (3, 5)} == {
            ((32, 32), "uint16")
        }


def test_high_voltage_is_switched_on(make_dcu):
    dcu = make_dcu(uninitialized=True)
    assert dcu.high_voltage == "OFF"
    dcu.initialize()
    assert dcu.high_voltage == "OFF"
    dcu.hv_enabled()
    assert dcu.high_voltage == "RAMPING"
    wait_for(lambda: dcu.high_voltage == "READY")
    dcu.hv_enabled()
    assert dcu.high_voltage == "READY"
    assert make_dcu().high_voltage == "READY"


def test_firmware_without_keys(make_dcu):
    dcu = make_dcu(without=["mask_to_zero", "count_time", "humidity"])
    assert "mask_to_zero" not in dcu.config
    assert not {"mask_to_zero", "count_time"} & set(dcu.config.keys())
    assert "humidity" not in statuses(dcu)["detector"]
    assert "temperature" in statuses(dcu)["detector"]
    # count_time follows it, but that is nothing this firmware would say
    assert dcu.config.put("frame_time", 1e-6) == ["frame_time"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"without": ["mask_to_one"]}, "cannot leave out 'mask_to_one'.*mask_to_zero"),
        ({"api": "1.5.0"}, "api is '1.5.0'; expected one of 1.6.0, 1.7.0, 1.8.0"),
    ],
)
def test_impossible_firmware_is_refused(make_dcu, options, words):
    with pytest.raises(ValueError, match=words):
        make_dcu(**options)


def test_initialize_resets_what_was_set_and_leaves_the_stream(make_dcu):
    dcu = make_dcu(rate=1e3)
    before = dcu.config.values()
    configure(dcu, threshold__1__energy=41e3, frame_time=0.5, binning_mode="2x2", mask_to_zero=True)
    dcu.stream_config.put("header_appendix", "sample 7")
    dcu.initialize()
    assert dcu.config.values() == before
    assert dcu.config["frame_time"] == 1e-3
    assert dcu.stream_config["header_appendix"] == "sample 7"
