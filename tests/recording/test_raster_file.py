"""The file of a raster: whole or not there, what it says of itself, and that it is looked at when it is closed."""

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from recorded_file import recorded_file

from live4d_ophyd.frames.codecs import BY_NAME, CODECS
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.recording import raster_file
from live4d_ophyd.recording.raster_file import RasterFile, Wrong
from live4d_ophyd.recording.template import Recorded, cannot_record
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.testing.small_dcu import frames

SCAN = ScanGrid(3, 4, step=(0.5, 0.25), unit="nm")


def test_what_is_known_of_a_series_stands_where_other_programs_look_for_it(tmp_path):
    mask, flat = np.zeros((24, 32), np.uint32), np.full((24, 32), 1.5, np.float32)
    mask[3, 4] = 2
    path = recorded_file(
        tmp_path / "a.h5", frames(12), SCAN, detector="ARINA E-01", channel="threshold_1", series=7, energy=2e5,
        threshold=4e4, count_time=3e-5, frame_time=3.3e-5, saturation=8000, pixel_mask=mask, flatfield=flat,
        notes={"plan_name": "count", "baseline": {"focus": np.float64(3)}},
    )  # fmt: skip
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        assert detector["description"][()] == b"ARINA E-01"
        assert detector["count_time"][()] == 3e-5
        assert detector["frame_time"].attrs["units"] == "s"
        assert detector["threshold_energy"][()] == 4e4
        assert detector["saturation_value"][()] == 8000
        assert detector["detectorSpecific/nimages"][()] == 1
        assert detector["detectorSpecific/ntrigger"][()] == 12
        np.testing.assert_array_equal(detector["pixel_mask"], mask)
        np.testing.assert_array_equal(detector["flatfield"], flat)
        assert file["entry/instrument/beam/incident_energy"][()] == 2e5
        assert b'"focus": 3.0' in file["entry/recording/notes"][()]
        np.testing.assert_allclose(file["entry/scan/scan_y"], np.arange(3) * 0.5)
        np.testing.assert_allclose(file["entry/scan/scan_x"], np.arange(4) * 0.25)
        assert file["entry/scan/scan_x"].attrs["units"] == "nm"
        for axis, length in (("q_y", 24), ("q_x", 32)):  # from the middle of the frame, in px
            np.testing.assert_array_equal(file[f"entry/scan/{axis}"], np.arange(length) - (length - 1) / 2)
        assert file["entry"].attrs["default"] == b"scan"
        assert list(file["entry/data"]) == ["data_000001"]
        assert file["datacube_root/datacube/data"] == file["entry/scan/data"]
        assert file["entry/recording/end_time"][0] > file["entry/start_time"][()][:4]


def test_a_name_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"of somebody")
    with pytest.raises(FileExistsError):
        recorded_file(tmp_path / "a.h5", frames(12), SCAN)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_file_system_without_second_names_gets_its_file_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(
        raster_file.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "not here"))
    )
    pixels = frames(12)
    with h5py.File(recorded_file(tmp_path / "a.h5", pixels, SCAN)) as file:
        np.testing.assert_array_equal(file["entry/data/data_000001"], pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    made = raster_file.write_template

    def overtaken(path, what):
        made(path, what)
        (tmp_path / "b.h5").write_bytes(b"of somebody")

    monkeypatch.setattr(raster_file, "write_template", overtaken)
    with pytest.raises(FileExistsError):
        recorded_file(tmp_path / "b.h5", pixels, SCAN)
    assert (tmp_path / "b.h5").read_bytes() == b"of somebody"


def test_bytes_that_are_not_what_was_written_are_found_when_the_file_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(raster_file.zlib, "crc32", lambda data, seen=[]: seen.append(0) or len(seen))
    with pytest.raises(Wrong, match="has other bytes than were written"):
        recorded_file(tmp_path / "a.h5", frames(12), SCAN)


def test_an_index_that_leads_nowhere_is_found_when_the_file_is_closed(tmp_path, monkeypatch):
    append = raster_file.ChunkFile.append

    def misplace(file, *arguments):
        at = append(file, *arguments)
        file.chunks.address[5] = 1 << 40
        return at

    monkeypatch.setattr(raster_file.ChunkFile, "append", misplace)
    with pytest.raises(Wrong, match=r"cannot be read back: .*overflow"):
        recorded_file(tmp_path / "a.h5", frames(12), SCAN)


def test_what_cannot_lie_in_a_file_as_it_came():
    assert "no filter for frames that are compressed by trpx" in cannot_record(BY_NAME["trpx"], SCAN)
    assert "one position" in cannot_record(BY_NAME["bslz4"], ScanGrid(1, 1))
    assert [cannot_record(codec, SCAN) for codec in CODECS if codec.name != "trpx"] == [""] * 4


def test_the_file_of_a_large_scan_is_made_at_once(tmp_path):
    """A million positions: no chunk of it is touched."""
    what = Recorded(ScanGrid(1024, 1024), FrameFormat(96, 96, np.dtype("<u2")), BY_NAME["bslz4"])
    file = RasterFile(tmp_path / "a.h5", what)
    file.close(complete=True)
    assert (tmp_path / "a.h5").stat().st_size < 64 << 20
    with h5py.File(tmp_path / "a.h5") as read:
        assert read["entry/scan/data"].shape == (1024, 1024, 96, 96)
        assert not read["entry/scan/data"][1023, 1023].any()


def test_each_axis_of_emd_has_its_own_step(tmp_path):
    """In angstrom, as py4DSTEM and HyperSpy want it; the first is scan_y."""
    with h5py.File(recorded_file(tmp_path / "a.h5", frames(12), SCAN)) as file:
        cube = file["datacube_root/datacube"]
        # The first two places: the readers take the others from them.
        assert [cube[f"dim{n}"][:].tolist() for n in range(4)] == [[0, 5], [0, 2.5], [0, 1], [0, 1]]
        assert [cube[f"dim{n}"].attrs["units"] for n in range(4)] == ["A", "A", "pixels", "pixels"]
