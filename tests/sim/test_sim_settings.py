"""Parameters of the simulated DCU: limits, and what changes with what."""

import pytest

from live4d_ophyd.sim.settings import channels, detector_settings, stream_settings
from live4d_ophyd.sim.specimen import Detector, Microscope


@pytest.fixture
def config():
    return detector_settings(Detector(96, 128), Microscope())


def test_frame_time_and_count_time_keep_each_other(config):
    assert config.put("count_time", 1e-3) == ["count_time", "frame_time"]
    assert config["frame_time"] == 1e-3
    assert config.put("frame_time", 5e-4) == ["frame_time", "count_time"]
    assert config["count_time"] == 5e-4
    assert config.put("count_time", 4e-4) == ["count_time"]


def test_the_readout_takes_its_part_of_a_frame(config):
    config.restore({"detector_readout_time": 1e-4, "frame_time": 1e-3, "count_time": 5e-4})
    assert config.put("count_time", 2e-3) == ["count_time", "frame_time"]
    assert config["frame_time"] == pytest.approx(2.1e-3)
    assert config.put("frame_time", 1e-3) == ["frame_time", "count_time"]
    assert config["count_time"] == pytest.approx(9e-4)
    config.put("frame_time", 5e-5)
    assert config["count_time"] == 1e-7


def test_pixel_format_sets_bit_depth_and_saturation(config):
    assert config.put("pixel_format", "uint32") == ["pixel_format", "bit_depth_image", "saturation_value"]
    assert (config["bit_depth_image"], config["saturation_value"]) == (32, 2**32 - 2)


def test_lengths_in_pixels_follow_the_binning(config):
    before = config.values()
    changed = ["binning_mode", "beam_center_x", "beam_center_y", "x_pixel_size", "y_pixel_size"]
    assert config.put("binning_mode", "2x2") == changed
    assert config.put("binning_mode", "2x2") == ["binning_mode"]
    assert config["beam_center_y"] == (before["beam_center_y"] - 0.5) / 2
    assert config["x_pixel_size"] == 2 * before["x_pixel_size"]
    assert config.put("binning_mode", "off") == changed
    assert config.values() == before


def test_hidden_keys_are_there_for_nobody(config):
    config.hide(["count_time"])
    assert "count_time" not in config
    assert "count_time" not in config.keys()  # noqa: SIM118
    assert config.put("frame_time", 1e-6) == ["frame_time"]
    assert config["count_time"] == 1e-6


def test_channels_follow_the_thresholds(config):
    assert channels(config) == ("threshold_1",)
    config.put("threshold/difference/mode", "enabled")
    config.put("threshold/2/mode", "enabled")
    assert channels(config) == ("threshold_1", "threshold_2", "difference")


def test_detector_size_is_read_only(config):
    assert (config["y_pixels_in_detector"], config["x_pixels_in_detector"]) == (96, 128)
    with pytest.raises(ValueError, match="x_pixels_in_detector is read-only"):
        config.put("x_pixels_in_detector", 5)


def test_what_a_get_answers(config):
    assert config.parameter("trigger_mode").as_json() == {
        "value": "exts",
        "value_type": "string",
        "access_mode": "rw",
        "allowed_values": ("ints", "exts", "exte"),
    }
    assert config.parameter("count_time").as_json()["unit"] == "s"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("nimages", 0, "allowed from 1 to"),
        ("nimages", 2.5, "type uint"),
        ("nimages", True, "type uint"),
        ("nimages", "4", "type uint"),
        ("count_time", float("nan"), "allowed from"),
        ("trigger_mode", "inte", r"allowed values are \['ints', 'exts', 'exte'\]"),
        ("mask_to_zero", 1, "type bool"),
    ],
)
def test_bad_values_are_named(config, name, value, words):
    before = config.values()
    with pytest.raises(ValueError, match=rf"{name} = .*{words}"):
        config.put(name, value)
    assert config.values() == before


def test_stream_formats_that_no_detector_has_are_refused():
    with pytest.raises(ValueError, match=r"format = 'hdf5': allowed values are \['cbor', 'legacy'\]"):
        stream_settings().put("format", "hdf5")
