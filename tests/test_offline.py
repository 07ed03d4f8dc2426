"""Recorded frames give the images that they gave live, by function and by command."""

import json

import h5py
import hdf5plugin
import numpy as np
import pytest
from click.testing import CliRunner

from live4d_ophyd import Disk, ScanGrid, reprocess
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.testing.small_dcu import frames

GRID = ScanGrid(4, 5)
DISK = Disk("bf", center=(12, 16), radius=6)


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def write(path, pixels, shape=None):
    shape = shape or pixels.shape
    with h5py.File(path, "w") as file:
        chunks = (*[1] * (len(shape) - 2), *shape[-2:])
        file.create_dataset(
            "data", data=pixels.reshape(shape), chunks=chunks, **hdf5plugin.Bitshuffle(cname="lz4")
        )
    return path


def sums(pixels, mask=None):
    weights = DISK.weights(pixels.shape[1:]) * (1 if mask is None else ~mask)
    return (pixels * weights).sum(axis=(1, 2)).reshape(GRID.shape)


def test_methods_are_those_of_a_live_scan(tmp_path, pixels):
    raster = reprocess(
        write(tmp_path / "a.h5", pixels), [DISK, CenterOfMass("com", DISK)], GRID, backend="cpu", quiet=True
    )
    np.testing.assert_array_equal(raster.outputs["bf"], sums(pixels))
    np.testing.assert_array_equal(raster.outputs["com_sum"], sums(pixels))
    assert raster.losses.received == 20


def test_a_dataset_over_the_scan_needs_no_grid(tmp_path, pixels):
    path = write(tmp_path / "a.h5", pixels, (4, 5, 24, 32))
    np.testing.assert_array_equal(
        reprocess(path, [DISK], backend="cpu", quiet=True).outputs["bf"], sums(pixels)
    )


def test_frames_one_behind_the_other_need_one(tmp_path, pixels):
    with pytest.raises(ValueError, match=r"a\.h5 has 20 frames one behind the other: give the scan"):
        reprocess(write(tmp_path / "a.h5", pixels), [DISK])


def test_a_mask_of_the_user_s_is_applied(tmp_path, pixels):
    mask = np.zeros((24, 32), bool)
    mask[12, 14:18] = True
    raster = reprocess(
        write(tmp_path / "a.h5", pixels), [DISK], GRID, backend="cpu", quiet=True, pixel_mask=mask
    )
    np.testing.assert_array_equal(raster.outputs["bf"], sums(pixels, mask))


def call(*arguments):
    return CliRunner().invoke(live4d, ["reprocess", *map(str, arguments)])


def test_the_command_writes_images_and_says_where_the_frames_are(tmp_path, pixels):
    path, out = write(tmp_path / "a.h5", pixels), tmp_path / "image.npy"
    result = call(path, "--scan", "4x5", "--disk", "12,16,6", "--out", out, "--backend", "cpu", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["frames_received"] == 20
    np.testing.assert_array_equal(np.load(out), sums(pixels))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scan", "4x5"), "no detector: give --disk"),
        (("--disk", "12,16,6"), "give the scan"),
        (("--disk", "12,16,6", "--serpentine"), "give --scan ROWSxCOLS"),
        (("--scan", "4x5", "--disk", "12,16,6", "--dataset", "x"), "has no dataset 'x' of frames"),
        (("--scan", "4x5", "--disk", "500,16,6"), "no pixel on a frame"),
    ],
)
def test_what_is_missing_is_said(tmp_path, pixels, arguments, words):
    result = call(write(tmp_path / "a.h5", pixels), *arguments)
    assert result.exit_code != 0
    assert words in result.output
