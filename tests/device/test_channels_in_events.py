"""Several thresholds in one Event: images of each, in keys that say whose they are, and the frames of each."""

from contextlib import closing
from itertools import chain

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import FailedStatus, RunEngine
from test_device import Documents

from live4d_ophyd import DPC, CenterOfMass, Disk, Live4D, OfChannel, ScanGrid
from live4d_ophyd.storage.raw_frames import Consolidator, RawFiles
from live4d_ophyd.testing.small_dcu import end, frames, image, start

GRID = ScanGrid(3, 4, step=0.5, unit="nm")
DISK = Disk("vbf", center=(12, 16), radius=6)
METHODS = [DISK, CenterOfMass("com", within=Disk("within", center=(12, 16), radius=6)), DPC("dpc")]


def make(methods=METHODS, **options):
    return Live4D(
        "tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods, timeout=20.0, backend="cpu", **options
    )


@pytest.fixture(scope="module")
def device():
    with closing(make(channels=("threshold_1", "difference"))) as device:
        yield device


@pytest.fixture
def live4d(device, dcu):
    device.endpoint.put(dcu.endpoint)
    device.record.put("")
    yield device
    device.unstage()


@pytest.fixture
def RE():
    return RunEngine({}, call_returns_result=False)


def messages(low, high, number=1, names=("threshold_1", "difference")):
    ids = number, f"S{number}"
    threshold = {name: 40e3 * (n + 1) for n, name in enumerate(names)}
    yield start(*ids, len(low), channels=list(names), threshold_energy=threshold)
    for n, both in enumerate(zip(low, high)):
        yield image(None, n, *ids, channels=dict(zip(names, both)))
    yield end(*ids)


def sums(pixels, radius=6):
    weights = Disk("all", center=(12, 16), radius=radius).weights((24, 32))
    return (pixels * weights).sum(axis=(1, 2)).reshape(GRID.shape)


def test_an_event_has_the_images_of_each_channel_and_the_keys_say_whose_they_are(live4d, dcu, RE):
    low, high = frames(2 * GRID.frames), frames(2 * GRID.frames, seed=7) // 2
    both = [messages(low[n : n + 12], high[n : n + 12], n // 12) for n in (0, 12)]
    dcu.send(list(chain.from_iterable(both)))  # one behind the other
    docs = Documents()
    RE(bp.list_scan([live4d], live4d.vbf_radius, [6.0, 9.0]), docs)
    for event, first, last, radius in zip(
        docs.events(), low.reshape(2, 12, 24, 32), high.reshape(2, 12, 24, 32), [6.0, 9.0]
    ):
        data = event["data"]
        np.testing.assert_array_equal(data["live4d_vbf"], sums(first, radius))
        np.testing.assert_array_equal(data["live4d_vbf_difference"], sums(last, radius))
        assert data["live4d_vbf_difference_mean"] == pytest.approx(sums(last, radius).mean())
        assert (data["live4d_series_channel"], data["live4d_series_threshold"]) == ("threshold_1", 40e3)
        assert data["live4d_series_threshold_difference"] == 80e3
        assert data["live4d_frames_received_difference"] == 12
    (descriptor,) = docs.of("descriptor")
    keys = descriptor["data_keys"]
    said = {name: key["channel"] for name, key in keys.items() if "channel" in key}
    of = {"difference": {n for n, c in said.items() if c == "difference"}}
    of["threshold_1"] = said.keys() - of["difference"]
    assert all("_difference" in name for name in of["difference"])
    images_of_first = {"vbf", "com_y", "com_x", "com_sum", "dpc_angle", "dpc_magnitude"}
    assert {f"live4d_{name}" for name in images_of_first} <= of["threshold_1"]
    assert {f"live4d_{name}_difference" for name in images_of_first} <= of["difference"]
    assert keys["live4d_dpc_angle_difference"]["brightness"] == "live4d_dpc_magnitude_difference"
    assert descriptor["hints"]["live4d"]["fields"] == ["live4d_vbf_mean", "live4d_vbf_contrast"]
    # one setting moves the detector on every channel
    assert "live4d_vbf_radius" in keys
    assert not any(name.startswith("live4d_vbf_difference_radius") for name in keys)


def test_recorded_frames_of_each_channel_are_in_the_run(live4d, dcu, RE, tmp_path):
    low, high = frames(GRID.frames), frames(GRID.frames, seed=7)
    live4d.record.put(str(tmp_path / "a.h5"))
    dcu.send(list(messages(low, high)))
    docs = Documents()
    RE(bp.count([live4d]), docs)
    (descriptor,) = docs.of("descriptor")
    assert descriptor["data_keys"]["live4d_raw"]["channel"] == "threshold_1"
    assert descriptor["data_keys"]["live4d_raw_difference"]["channel"] == "difference"
    resources = {doc["data_key"]: doc for doc in docs.of("stream_resource")}
    assert resources.keys() == {"live4d_raw", "live4d_raw_difference"}
    for key, pixels in (("live4d_raw", low), ("live4d_raw_difference", high)):
        consolidator = Consolidator(resources[key], descriptor)
        dataset = consolidator.adapter_parameters().get("frames", "/entry/data/data_000001")
        path = tmp_path / resources[key]["uri"].rpartition("/")[2]
        raw = RawFiles([path], (3, 4, 24, 32), np.dtype("<u2"), dataset)
        np.testing.assert_array_equal(
            raw[0, slice(None), slice(None), slice(None), slice(None)].reshape(12, 24, 32), pixels
        )


def test_a_movie_has_the_images_of_each_channel(live4d, dcu, RE):
    live4d.movie_rasters.put(2)
    live4d.vbf_radius.put(6.0)
    low, high = frames(2 * GRID.frames), frames(2 * GRID.frames, seed=7)
    dcu.send(list(messages(low, high)))
    docs = Documents()
    RE(bpp.stage_wrapper(bp.fly([live4d]), [live4d]), docs)
    for event, part in zip(docs.events("live4d_movie"), high.reshape(2, 12, 24, 32), strict=True):
        np.testing.assert_array_equal(event["data"]["live4d_vbf_difference"], sums(part))


def test_a_series_without_the_channel_fails_the_trigger_with_those_that_it_has(live4d, dcu, RE):
    pixels = frames(GRID.frames)
    dcu.send(list(messages(pixels, pixels, names=("threshold_1", "threshold_2"))))
    with pytest.raises(FailedStatus) as failed:
        RE(bp.count([live4d]))
    assert "no channel 'difference'" in str(failed.value.__cause__)
    assert "its frames have threshold_1, threshold_2" in str(failed.value.__cause__)


def test_a_first_channel_that_is_imaged_besides_it_is_refused_and_put_back(live4d, RE):
    with pytest.raises(
        FailedStatus, match="is 'difference', which is imaged besides it: expected one other than"
    ):
        RE(bps.mv(live4d.channel, "difference"))
    assert live4d.channel.get() == "threshold_1"


def test_a_method_may_have_parameters_of_its_own_on_a_channel(dcu, RE):
    ring = OfChannel(Disk("ring", center=(12, 16), radius=3), "difference")
    low, high = frames(GRID.frames), frames(GRID.frames, seed=7)
    with closing(make([DISK, ring], channel="threshold_1")) as live4d:
        live4d.endpoint.put(dcu.endpoint)
        dcu.send(list(messages(low, high)))
        docs = Documents()

        def plan():
            yield from bps.mv(live4d.ring_difference_radius, 4.0)
            yield from bp.count([live4d])

        RE(plan(), docs)
    (event,) = docs.events()
    np.testing.assert_array_equal(event["data"]["live4d_ring_difference"], sums(high, 4))
    (descriptor,) = docs.of("descriptor")
    configuration = descriptor["configuration"]["live4d"]["data"]
    assert configuration["live4d_ring_difference_channel"] == "difference"
    assert configuration["live4d_ring_difference_kind"] == "disk"


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": "difference"},
        {"channels": ("threshold_1", "")},
        {"channels": ("a b", "a_b")},
        {"channels": ("threshold_1", 2)},
        {"channels": ("threshold_1", "difference"), "channel": "threshold_2"},
    ],
)
def test_channels_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="expected either one name, or several that differ"):
        make(**wrong)


def test_a_channel_whose_keys_are_there_already_is_refused():
    with pytest.raises(ValueError, match="would share the data key 'vbf_mean'"):
        make(channels=("threshold_1", "mean"))
