"""Binned images: what they hold, and what else says that they are binned."""

import numpy as np
import pytest
from sim_client import configure, wait_for

from live4d_ophyd.sim.frames import binned, binned_position


def test_pixels_are_summed_by_squares():
    frames = np.arange(2 * 5 * 6).reshape(2, 5, 6)
    sums = binned(frames, 2)
    assert sums.shape == (2, 2, 3)
    assert sums[1, 1, 2] == frames[1, 2:4, 4:6].sum()
    assert sums.sum() == frames[:, :4].sum()
    assert binned(frames, 1) is frames


def test_positions_are_those_of_the_same_place():
    # between pixels 0 and 1 of the sensor: the centre of pixel 0 of the image
    assert binned_position(0.5, 2) == 0
    assert binned_position(binned_position(7.25, 2), 0.5) == 7.25


def series(dcu, client, mode):
    configure(dcu, binning_mode=mode)
    dcu.arm()
    received = client.series()
    wait_for(lambda: dcu.state == "idle")
    return received


def test_frames_are_the_sums_of_the_same_counts(make_dcu, make_client):
    dcu = make_dcu(frozen_noise=True, dead_pixels=5, shape=(33, 34))
    dcu.stream_config.put("header_detail", "all")
    client = make_client(dcu.sender.endpoint)
    full, small, again = (series(dcu, client, mode) for mode in ("off", "2x2", "off"))
    assert (small.start.image_size_y, small.start.image_size_x) == (16, 17)
    dead = dcu.source.dead_mask(dcu.detector)
    dead_squares = dead[:32].reshape(16, 2, 17, 2).any((1, 3))
    assert 0 < dead_squares.sum() <= 5
    full, small, again = (
        np.stack(list(received.frames().values())).astype(int) for received in (full, small, again)
    )
    sums = full[:, :32].reshape(64, 16, 2, 17, 2).sum((2, 4))
    assert np.array_equal(small[:, ~dead_squares], sums[:, ~dead_squares])
    assert (small[:, dead_squares] == 65535).all()
    assert np.array_equal(again, full)


def test_start_describes_the_binned_images(make_dcu, make_client):
    dcu = make_dcu(dead_pixels=5)
    dcu.stream_config.put("header_detail", "all")
    client = make_client(dcu.sender.endpoint)
    full, small = (series(dcu, client, mode).start for mode in ("off", "2x2"))
    assert small.pixel_size_x == small.pixel_size_y == 2 * full.pixel_size_x
    assert small.beam_center_x == pytest.approx((full.beam_center_x - 0.5) / 2)
    assert small.beam_center_y == pytest.approx((full.beam_center_y - 0.5) / 2)
    assert small.pixel_mask["threshold_1"].shape == (16, 16)


def test_misfits_of_binned_images(make_dcu, make_client):
    dcu = make_dcu()
    client = make_client(dcu.sender.endpoint)
    dcu.faults = dcu.faults.parse(wrong_shape="0", wrong_dtype="1")
    frames = series(dcu, client, "2x2").frames()
    assert [frames[i].shape for i in range(3)] == [(8, 16), (16, 16), (16, 16)]
    assert frames[1].dtype == np.dtype("uint32")
