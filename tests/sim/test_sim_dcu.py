"""The state machine with a real stream: what commands do, and what a series looks like to its client."""

import json
import threading
import time

import numpy as np
import pytest
from sim_client import PATIENCE_S, configure, disk, wait_for

from live4d_ophyd.sim.dcu import CommandError
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.settings import UNPREPARED
from live4d_ophyd.sim.specimen import truth


def test_external_triggers_give_one_raster(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    assert dcu.arm() == 1
    received = client.series()
    assert received.start.number_of_images == 64
    assert received.start.series_id == received.end.series_id == 1
    assert received.start.series_unique_id == received.end.series_unique_id
    assert received.ids == list(range(64))
    wait_for(lambda: dcu.state == "idle")
    assert (dcu.error, dcu.dropped) == ("", 0)


def test_frames_hold_the_electrons_of_the_dwell_time_on_the_true_disk(make_dcu, make_client):
    dcu = make_dcu(beam_current=60.0, shape=(64, 64))
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    frames = np.stack(list(client.series().frames().values()))
    electrons = dcu.microscope.electrons(1 / 30e3)
    assert frames.sum((1, 2)).mean() == pytest.approx(electrons, rel=0.01)
    facts = truth(dcu.microscope, dcu.detector)
    inside = frames[:, disk((64, 64), facts.bf_center, facts.bf_radius)]
    assert inside.sum() > 0.7 * frames.sum()


def test_a_movie_repeats_the_raster(make_dcu, make_client):
    dcu = make_dcu()
    configure(dcu, nimages=1, ntrigger=150)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    frames = client.series().frames()
    assert list(frames) == list(range(150))
    assert np.array_equal(frames[5], frames[5 + 64])
    assert np.array_equal(frames[5], frames[5 + 128])
    assert not np.array_equal(frames[5], frames[6])


def test_software_triggers_take_a_part_each(make_dcu, make_client):
    dcu = make_dcu()
    configure(dcu, trigger_mode="ints", nimages=8, ntrigger=3)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    for _ in range(3):
        assert dcu.state == "ready"
        dcu.trigger()
    received = client.series()
    assert received.ids == list(range(24))
    wait_for(lambda: dcu.state == "idle")


def test_images_wait_for_a_client(make_dcu, make_client):
    dcu = make_dcu()
    dcu.arm()
    assert dcu.state == "ready"
    received = make_client(dcu.sender.endpoint).series()
    assert received.start is not None
    assert len(received.ids) == 64


def test_noise_is_new_in_every_series_unless_frozen(make_dcu, make_client):
    for frozen in (False, True):
        dcu = make_dcu(frozen_noise=frozen)
        client = make_client(dcu.sender.endpoint)
        series = []
        for _ in range(2):
            wait_for(lambda dcu=dcu: dcu.state == "idle")
            dcu.arm()
            series.append(client.series().frames())
        assert np.array_equal(series[0][3], series[1][3]) == frozen


def test_same_seed_same_counts(make_dcu, make_client):
    frames = []
    for seed in (5, 5, 6):
        dcu = make_dcu(seed=seed)
        client = make_client(dcu.sender.endpoint)
        dcu.arm()
        frames.append(client.series().frames()[9])
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_channels_and_dead_pixels(make_dcu, make_client):
    dcu = make_dcu(dead_pixels=4)
    configure(dcu, threshold__2__mode="enabled", threshold__difference__mode="enabled", pixel_format="uint32")
    dcu.stream_config.put("header_detail", "all")
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    received = client.series()
    assert received.start.channels == ("threshold_1", "threshold_2", "difference")
    assert received.start.saturation_value == 2**32 - 2
    first, second, difference = (received.frames(channel)[0] for channel in received.start.channels)
    assert first.dtype == np.dtype("<u4")
    dead = dcu.source.dead_mask(dcu.detector)
    assert dead.sum() == 4
    for frame in (first, second, difference):
        assert np.array_equal(frame == 2**32 - 1, dead)
    assert np.array_equal((first - second)[~dead], difference[~dead])
    assert 0 < second[~dead].sum() < first[~dead].sum()


def test_mask_to_zero(make_dcu, make_client):
    dcu = make_dcu(dead_pixels=4)
    configure(dcu, mask_to_zero=True)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    frame = client.series().frames()[0]
    assert (frame[dcu.source.dead_mask(dcu.detector)] == 0).all()
    assert frame.max() < 65535


def test_counts_saturate_below_no_data(make_dcu, make_client):
    dcu = make_dcu(dtype="uint8", beam_current=1000.0)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    frame = client.series().frames()[0]
    assert frame.max() == 254


@pytest.mark.parametrize("compression", ["bslz4", "lz4", "none"])
def test_compression_is_a_setting(make_dcu, make_client, compression):
    dcu = make_dcu()
    configure(dcu, compression=compression)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    received = client.series()
    wanted = "" if compression == "none" else compression
    assert received.images[0].channels["threshold_1"].algorithm == wanted
    assert received.frames()[0].sum() > 10_000


def test_appendices_travel(make_dcu, make_client):
    dcu = make_dcu()
    dcu.stream_config.put("header_appendix", json.dumps({"rows": 8}))
    dcu.stream_config.put("image_appendix", "row by row")
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    received = client.series()
    assert received.start.user_data == '{"rows": 8}'
    assert received.images[0].user_data == "row by row"


def test_disarm_ends_the_series(make_dcu, make_client):
    dcu = make_dcu(rate=100.0)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] > 3)
    assert dcu.state == "acquire"
    assert dcu.disarm() == 1
    assert dcu.state == "idle"
    received = client.series()
    assert received.end is not None
    assert received.ids == list(range(len(received.ids)))
    assert 3 < len(received.ids) < 64


def test_abort_sends_no_end_and_the_next_series_works(make_dcu, make_client):
    dcu = make_dcu(rate=100.0)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] > 3)
    dcu.abort()
    assert dcu.state == "idle"
    assert client.series(timeout=0.5, images=4).end is None
    configure(dcu, frame_time=1e-4)
    assert dcu.arm() == 2
    received = client.series()
    assert received.end.series_id == 2
    assert len(received.ids) == 64


def test_disarm_without_a_client_comes_back_at_once(make_dcu):
    dcu = make_dcu()
    dcu.arm()
    began = time.monotonic()
    dcu.disarm()
    assert time.monotonic() - began < PATIENCE_S
    assert dcu.state == "idle"


def test_trigger_that_is_running_returns_when_the_series_is_aborted(make_dcu, make_client):
    dcu = make_dcu(rate=10.0)
    configure(dcu, trigger_mode="ints")
    make_client(dcu.sender.endpoint)
    dcu.arm()
    thread = threading.Thread(target=dcu.trigger)
    thread.start()
    wait_for(lambda: dcu.sender.progress[0] > 0)
    dcu.abort()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_faults_of_start_and_end(make_dcu, make_client):
    dcu = make_dcu(faults=Faults(no_start=True, no_end=True))
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.state == "idle")
    received = client.series(timeout=0.5, images=64)
    assert (received.start, received.end) == (None, None)
    assert len(received.ids) == 64


def test_images_that_nobody_fetches_are_counted(make_dcu, make_client):
    dcu = make_dcu(buffered=10, rate=1e6)
    configure(dcu, nimages=200_000)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.dropped > 0)
    received = client.series()
    assert len(received.ids) + dcu.dropped == 200_000
    assert received.end is not None


@pytest.mark.parametrize(("key", "value"), [("mode", "disabled"), ("format", "legacy")])
def test_disabled_stream_sends_nothing(make_dcu, make_client, key, value):
    dcu = make_dcu()
    dcu.stream_config.put(key, value)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.state == "idle")
    with pytest.raises(TimeoutError):
        client.message(timeout=0.2)


def test_an_unprepared_detector_is_idle_and_as_others_left_it(make_dcu):
    dcu = make_dcu(unprepared=True)
    assert (dcu.state, dcu.high_voltage) == ("idle", "OFF")
    with pytest.raises(CommandError, match="the high voltage is OFF"):
        dcu.arm()
    prepared = make_dcu()
    for settings, usual in ((dcu.config, prepared.config), (dcu.stream_config, prepared.stream_config)):
        changed = {name for name, value in settings.values().items() if value != usual[name]}
        found = {name: settings[name] for name in changed}
        assert found == (UNPREPARED["detector"] if settings is dcu.config else UNPREPARED["stream"])
    dcu.config.put("nimages", 2)
    dcu.initialize()
    assert dcu.config["nimages"] == UNPREPARED["detector"]["nimages"]


def test_commands_that_do_not_fit_the_state(make_dcu):
    dcu = make_dcu(uninitialized=True)
    assert dcu.state == "na"
    with pytest.raises(CommandError, match="state is na, initialize first"):
        dcu.arm()
    dcu.initialize()
    with pytest.raises(CommandError, match="high voltage is OFF, give the command hv_enabled first"):
        dcu.arm()
    dcu.hv_enabled()
    with pytest.raises(CommandError, match="high voltage is RAMPING, wait until it is READY"):
        dcu.arm()
    wait_for(lambda: dcu.high_voltage == "READY")
    with pytest.raises(CommandError, match="state is idle, arm first"):
        dcu.trigger()
    dcu.arm()
    with pytest.raises(CommandError, match="state is ready, disarm or abort first"):
        dcu.arm()
    with pytest.raises(CommandError, match="trigger_mode is exts, software triggers need ints"):
        dcu.trigger()
    assert dcu.abort() == dcu.disarm() == dcu.cancel() == 1


def test_a_failing_series_is_an_error_state(make_dcu, make_client, monkeypatch, caplog):
    dcu = make_dcu()
    make_client(dcu.sender.endpoint)

    def broken(*arguments):
        raise RuntimeError("no specimen in the holder")

    monkeypatch.setattr(dcu.source, "raster", broken)
    dcu.arm()
    wait_for(lambda: dcu.state == "error")
    assert "no specimen in the holder" in dcu.error
    assert "series 1 failed" in caplog.text
    dcu.initialize()
    assert dcu.state == "idle"
