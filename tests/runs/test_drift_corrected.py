"""A run's rasters without their drift: what is found, what is left out, and axes in the units of the scan."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from live4d_ophyd import drift_corrected
from live4d_ophyd.imaging.registration import Reason

SHAPE, STEPS, PERIOD = (64, 56), (0.5, 0.25), 2.0
SPEED = np.array([1.6, -1.1])  # positions a raster
FIELD = ndimage.gaussian_filter(
    np.random.default_rng(4).random((160, 160)) > 0.98, 1.5, output=float, mode="wrap"
)


def raster(number, seed=None, speed=SPEED):
    """Counts; the specimen goes on drifting while it is scanned."""
    y, x = np.indices(SHAPE, float)
    time = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) / (SHAPE[0] * SHAPE[1]) + number
    at = [y - time * speed[0] + 50, x - time * speed[1] + 50]
    image = ndimage.map_coordinates(FIELD, at, order=3, mode="grid-wrap")
    counts = np.clip(image * 40 / FIELD.mean(), 0, None)
    return np.random.default_rng(number if seed is None else seed).poisson(counts).astype(float)


class Column:
    """Of a stream, as Tiled's clients have it."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def read(self, part=slice(None)):
        return self.values[part]


class Stream(dict):
    def __init__(self, images, gap):
        count = len(images)
        numbers = {
            "seq_num": np.arange(1, count + 1), "time": np.full(count, 1e9 + 60),  # collected at once
            "ts_live4d_adf": 1e9 + PERIOD * (1 + gap) * np.arange(count),
            "live4d_frames_expected": np.full(count, images[0].size),
            "live4d_frame_rate": np.full(count, images[0].size / PERIOD),
            "live4d_scan_step_y": np.full(count, STEPS[0]), "live4d_scan_step_x": np.full(count, STEPS[1]),
        }  # fmt: skip
        super().__init__({key: Column(values) for key, values in numbers.items()})
        self["live4d_adf"] = Column(images)
        self["live4d_scan_unit"] = Column(["nm"] * count)

        def key(name):
            array = name == "live4d_adf"
            dtype = "array" if array else "string" if name.endswith("unit") else "number"
            dims = {"dims": ["scan_y", "scan_x"], "shape": list(SHAPE)} if array else {"shape": []}
            return {"object_name": "live4d", "dtype": dtype, "units": "counts" if array else "", **dims}

        names = [name for name in self if name not in ("seq_num", "time", "ts_live4d_adf")]
        self.metadata = {"data_keys": {name: key(name) for name in names}, "configuration": {}}

    def read(self, names):
        return {name: self[name] for name in names}


class Run(dict):
    def __init__(self, images, gap=0.0):
        super().__init__(live4d_movie=Stream(images, gap))
        self.metadata = {
            "start": {"uid": "0b1c", "time": 1e9, "scan_id": 3},
            "stop": {"exit_status": "success", "time": 1e9 + 60},
        }
        self.v3 = self


def still():
    y, x = np.indices(SHAPE, float)
    at = [y - SPEED[0] / 2 + 50, x - SPEED[1] / 2 + 50]  # in the middle of the first raster
    return ndimage.map_coordinates(FIELD, at, order=3, mode="grid-wrap")


def like(image, true):
    inner = np.s_[8:-8, 8:-8]
    return np.corrcoef(image.to_numpy()[inner].ravel(), true[inner].ravel())[0, 1]


def test_the_drift_of_each_row_is_found_and_undone():
    found = drift_corrected(Run([raster(number) for number in range(6)]), "adf")
    rows = (np.arange(SHAPE[0]) + 0.5) / SHAPE[0] - 0.5
    true = (np.arange(6)[:, None] + rows)[..., None] * SPEED * STEPS
    np.testing.assert_allclose(found["path"], true, atol=0.15 * 0.5)
    np.testing.assert_allclose(found["drift"], np.arange(6)[:, None] * SPEED * STEPS, atol=0.1 * 0.5)
    assert found["drift"].attrs["units"] == "nm"
    assert found["reason"].to_numpy().tolist() == [Reason.REFERENCE] + 5 * [Reason.FOUND]
    assert found.attrs["rasters"] == 6
    assert found["corrected"].coords["scan_y"][2] == 1.0
    assert found["corrected"].attrs["uid"] == "0b1c"
    assert like(found["corrected"], still()) > 0.97
    assert like(found["plain"], still()) < 0.8


def test_between_rasters_with_pauses_the_drift_goes_on_but_not_in_the_image():
    """Half the time no frame is taken: within a raster the specimen moves half as far as to the next one."""
    rasters = [raster(2 * number, speed=SPEED / 2) for number in range(5)]
    found = drift_corrected(Run(rasters, gap=1.0), "adf")
    within = np.ptp(found["path"].to_numpy()[0], axis=0)
    np.testing.assert_allclose(within, np.abs(SPEED) / 2 * STEPS * 63 / 64, atol=0.08)


def test_strips_follow_a_drift_whose_speed_changes():
    images = [raster(number) for number in range(3)]
    bent = raster(3)
    bent[:32], bent[32:] = raster(3)[:32], raster(3 + 0.4, seed=7)[32:]  # the specimen jumps in mid-raster
    images.append(bent)
    rigid, strips = (drift_corrected(Run(images), "adf", strips=n) for n in (1, 4))
    jump = [
        np.ptp(f["path"].to_numpy()[3][:, 0]) - np.ptp(f["path"].to_numpy()[2][:, 0]) for f in (rigid, strips)
    ]
    assert abs(jump[0]) < 0.02
    assert jump[1] > 0.15


def test_a_raster_that_is_not_found_is_left_out():
    images = [raster(number) for number in range(4)]
    images[2] = np.random.default_rng(0).poisson(2.0, SHAPE).astype(float)
    found = drift_corrected(Run(images), "adf")
    assert np.isnan(found["drift"].to_numpy()[2]).all()
    assert found["reason"].to_numpy()[2] in (Reason.UNCERTAIN, Reason.TOO_FAR)
    assert found.attrs["rasters"] == 3
    assert like(found["corrected"], still()) > 0.95


def test_nothing_but_noise_gives_no_drift():
    rng = np.random.default_rng(1)
    found = drift_corrected(Run([rng.poisson(2.0, SHAPE).astype(float) for _ in range(4)]), "adf")
    assert np.isfinite(found["drift"].to_numpy()).all(axis=1).sum() == 1  # the reference, of itself
    assert found.attrs["rasters"] == 1


def test_one_raster_and_strips_that_are_too_thin_are_refused():
    with pytest.raises(ValueError, match="the run has 1 raster of live4d_adf in 'live4d_movie'"):
        drift_corrected(Run([raster(0)]), "adf")
    with pytest.raises(ValueError, match="drift_corrected has 5 strips of a scan of 64 rows"):
        drift_corrected(Run([raster(0), raster(1)]), "adf", strips=5)
    with pytest.raises(KeyError, match="no images 'haadf' in this run: there are live4d_adf"):
        drift_corrected(Run([raster(0), raster(1)]), "haadf")


def test_of_a_run_in_the_catalog(catalog):
    """Of another size than can be compared: the reason is said, and the plain mean is there."""
    found = drift_corrected(catalog.db[catalog.scan], "adf")
    assert found["reason"].to_numpy().tolist() == 3 * [Reason.EMPTY]
    assert found.attrs["rasters"] == 0
    assert SimpleNamespace(**found.sizes).event == 3
