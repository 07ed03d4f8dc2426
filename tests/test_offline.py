"""Recorded frames give the images that they gave live, by function and by command."""

import base64
import json
import pathlib
import zlib
from contextlib import closing

import h5py
import hdf5plugin
import numpy as np
import pytest
from click.testing import CliRunner
from recorded_file import recorded_file

from live4d_ophyd import Disk, ScanGrid, reprocess
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.recorded_settings import noted
from live4d_ophyd.frames.batch import HOST_MEMORY
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.drawn_detectors import Mask
from live4d_ophyd.offline import request_for
from live4d_ophyd.runs.reprocessing import is_file
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.testing.small_dcu import frames

GRID = ScanGrid(4, 5)
DISK = Disk("bf", center=(12, 16), radius=6)
METHODS = (DISK, CenterOfMass("com", DISK))
STEPS = ScanGrid(4, 5, step=(0.3, 0.1), unit="nm")


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


def recorded(tmp_path, pixels, **settings):
    """As an engine records it that was asked for these settings."""
    request = AcquisitionRequest(FileSource(("live",)), STEPS, METHODS, **settings)
    notes = {"device": "live4d", "uid": "7c1e", **noted(request)}
    return recorded_file(tmp_path / "a.h5", pixels, STEPS, notes=notes, saturation=20)


def test_a_recorded_file_gives_its_live_image_again(tmp_path, pixels):
    """Methods, mask, gain and what becomes of saturated pixels are in its notes; what is given goes first."""
    rng = np.random.default_rng(2)
    mask, gain = rng.random((24, 32)) < 0.2, rng.uniform(0.5, 2, (24, 32))
    path = recorded(tmp_path, pixels, pixel_mask=mask, gain=gain, saturated="count", nodata=False)
    raster = reprocess(path, backend="cpu", quiet=True)
    assert list(raster.outputs) == ["bf", "com_sum", "com_y", "com_x"]
    weights = DISK.weights((24, 32)) * ~mask
    expected = (pixels * weights * gain).sum(axis=(1, 2)).reshape(4, 5)
    np.testing.assert_allclose(raster.outputs["bf"], expected, rtol=1e-13)
    assert (pixels > 20).any()
    plain = reprocess(
        path, [DISK], backend="cpu", quiet=True, pixel_mask=np.zeros((24, 32), bool), gain=np.ones((24, 32))
    )
    np.testing.assert_array_equal(plain.outputs["bf"], sums(pixels))


def test_a_recorded_file_knows_step_and_unit_of_its_scan(tmp_path, pixels):
    assert request_for(recorded(tmp_path, pixels)).grid == STEPS


def test_a_file_that_does_not_say_its_methods_needs_some(tmp_path, pixels):
    with pytest.raises(
        ValueError, match=r"a\.h5: give the methods, \[Disk\(\.\.\.\)\]: the file does not say"
    ):
        reprocess(write(tmp_path / "a.h5", pixels), scan=GRID)
    notes = {"methods": {"x": {"kind": "os:system"}}}
    path = recorded_file(tmp_path / "b.h5", pixels, GRID, notes=notes)
    with pytest.raises(ValueError, match=r"b\.h5: give the methods.*by module \(os:system\)"):
        reprocess(path)


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
        (("--scan", "4x5"), "give the methods"),
        (("--disk", "12,16,6", "--scan", "4x5", "--event", "1"), "event, stream and device are of a run"),
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


def test_the_command_writes_all_images_of_a_recorded_file(tmp_path, pixels):
    path = recorded(tmp_path, pixels)
    result = call(path, "--out", tmp_path / "new" / "image.tif", "--backend", "cpu")
    assert result.exit_code == 0, result.output
    names = sorted(found.name for found in (tmp_path / "new").iterdir())
    assert names == ["image-bf.tif", "image-com_sum.tif", "image-com_x.tif", "image-com_y.tif"]
    assert "no file" in call(tmp_path / "gone.h5").output


@pytest.mark.parametrize(
    ("which", "file"),
    [
        (pathlib.Path("a"), True), ("scan.h5", True), ("folder/scan", True), ("here", True), ("ca3108a4", False),
        ("17", False), (17, False), ("-1", False), (-1, False), ("ca3108a4-52f1-4a4d-8f39-1234567890ab", False),
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_run_is_a_file(tmp_path, monkeypatch, which, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    assert is_file(which) is file


def test_masks_are_in_the_notes_as_they_are(tmp_path, pixels):
    mask = Mask("m", np.random.default_rng(3).random((24, 32)) < 0.5)
    request = AcquisitionRequest(FileSource(("live",)), STEPS, (mask, DISK))
    path = recorded_file(tmp_path / "a.h5", pixels, STEPS, notes=noted(request))
    assert request_for(path).methods == (mask, DISK)


def test_what_is_given_is_not_read_in_the_notes_and_what_is_read_is_bounded(tmp_path, pixels):
    many = {
        "dtype": "|u1",
        "shape": [1 << 28],
        "zlib": base64.b64encode(zlib.compress(bytes(1 << 24))).decode(),
    }
    for name, notes in {
        "a": {"gain": "x"}, "b": {"methods": {"a": 3}}, "c": {"gain": many},
        "d": {"methods": {"a": {"kind": "disk", "name": "a", "radius": 10**400}}},
    }.items():  # fmt: skip
        path = recorded_file(tmp_path / f"{name}.h5", pixels, STEPS, notes=notes)
        ones = np.ones((24, 32))
        assert request_for(path, [DISK], gain=ones).gain is ones
        with pytest.raises(ValueError, match=r"cannot be read|give the methods"):
            request_for(path)


@pytest.mark.parametrize(
    "scan", [ScanGrid(1, 8, step=(0.5, 0.25), unit="nm"), ScanGrid(8, 1, step=(0.5, 0.25), unit="nm")]
)
def test_a_line_scan_keeps_its_steps(tmp_path, pixels, scan):
    path = recorded_file(tmp_path / "a.h5", pixels[:8], scan)
    assert request_for(path, [DISK]).grid == scan


def test_frames_of_a_further_channel_are_said_to_be_of_it(tmp_path, pixels):
    path = recorded_file(
        tmp_path / "a.h5", pixels, GRID, channel="threshold_1", others={"threshold_2": pixels + 1}
    )
    for dataset, channel in {"": "threshold_1", "/entry/data_threshold_2/data_000001": "threshold_2"}.items():
        with closing(FileSource((str(path),), dataset).open(HOST_MEMORY)) as opened:
            assert FileSource((str(path),), dataset).next_series(opened).channel == channel
