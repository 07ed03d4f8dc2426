"""Files are a source as the engine expects one, and give the numbers that the stream gives."""

import os
from contextlib import closing, contextmanager

import h5py
import hdf5plugin
import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources import chunk_table
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames
from live4d_ophyd.testing import SourceTests
from live4d_ophyd.testing.small_dcu import frames

GRID = ScanGrid(4, 5)
DISK = Disk("vbf", center=(12, 16), radius=6)
METHODS = (DISK, MeanPattern())

#: how frames are stored: by what name, and what h5py is told
STORED = {
    "bslz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "small blocks": hdf5plugin.Bitshuffle(nelems=64, cname="lz4"),
    "bszstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "lz4": hdf5plugin.LZ4(),
    "gzip": {"compression": "gzip"},
    "plain chunks": {},
}
#: those that are read where they lie
MAPPED = ("bslz4", "small blocks", "lz4", "plain chunks")


def write(path, pixels, stored="bslz4", name="entry/data/data_000001", scan=None, chunks=None):
    shape = pixels.shape if scan is None else (*scan, *pixels.shape[1:])
    whole = (*[1] * (len(shape) - 2), *pixels.shape[1:])
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset(name, shape, pixels.dtype, chunks=chunks or whole, **STORED[stored])
        dataset[...] = pixels.reshape(shape)
    return str(path)


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def take(path, grid=GRID, connections=1, dataset="", backend=None, methods=METHODS):
    source = FileSource((str(path),), dataset, connections)
    with closing(OpenStream(source)) as opened:
        (raster,) = Acquisition(
            AcquisitionRequest(source, grid, methods, timeout=20.0), opened, backend
        ).run()
    return raster


def check(raster, pixels, grid=GRID):
    sums = (pixels * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(grid.shape)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums)
    np.testing.assert_array_equal(raster.outputs["pattern"], pixels.mean(axis=0))
    assert (raster.losses.received, raster.losses.lost, raster.losses.bad) == (len(pixels), 0, 0)


class TestFileSource(SourceTests):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.path = tmp_path

    @contextmanager
    def source(self, frames, sent, bad=(), connections=1, series=1):
        paths = []
        for number in range(max(series, 1)):
            path = self.path / f"series{number}.h5"
            with h5py.File(path, "w") as file:
                options = {"chunks": (1, *frames.shape[1:]), **STORED["bslz4"]}
                dataset = file.create_dataset("entry/data/data", frames.shape, frames.dtype, **options)
                for n in sorted(set(sent)):
                    dataset[n] = frames[n]
                for n in bad:
                    _, chunk = dataset.id.read_direct_chunk((n, 0, 0))
                    dataset.id.write_direct_chunk((n, 0, 0), b"\xff" * 8 + chunk[8:])
            paths.append(str(path))
        yield FileSource(tuple(paths), "", connections)

    def test_duplicates_are_passed_on(self):
        pytest.skip("a file has each frame once")

    def test_receiving_ends_after_its_time_when_nothing_comes(self):
        pytest.skip("a file without frames is a series, and ends at once")


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("scan", [None, GRID.shape], ids=["3-D", "4-D"])
def test_frames_of_any_file_give_the_numbers_of_numpy(tmp_path, pixels, stored, scan):
    path = write(tmp_path / "a.h5", pixels, stored, scan=scan)
    if stored == "bszstd":
        pytest.importorskip("dectris.compression")
    check(take(path), pixels)


@pytest.mark.parametrize("stored", STORED)
def test_what_can_be_read_where_it_lies_is(tmp_path, pixels, stored):
    with closing(Hdf5Frames(write(tmp_path / "a.h5", pixels, stored))) as found:
        mapped = [part.content is not None for part in found.parts]
    assert mapped == [stored in (*MAPPED, "bszstd")]


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", ">u2", "<f4"])
def test_any_kind_of_number_is_read(tmp_path, dtype):
    pixels = frames(GRID.frames).astype(dtype)
    raster = take(write(tmp_path / "a.h5", pixels))
    sums = (pixels.astype(float) * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums)


@pytest.mark.parametrize("connections", [2, 3, 7])
def test_several_threads_share_the_frames(tmp_path, pixels, connections):
    check(take(write(tmp_path / "a.h5", pixels), connections=connections), pixels)


def test_of_a_recorded_file_each_channel_has_its_own_mask(tmp_path):
    from recorded_file import recorded_file

    masks = [np.zeros((24, 32), np.uint32) for _ in range(2)]
    masks[0][1, 2] = masks[1][3, 4] = 1
    path = recorded_file(
        tmp_path / "a.h5", frames(12), ScanGrid(3, 4), others={"threshold_2": frames(12, seed=1)}, count_time=1e-4,
        pixel_mask=masks[0], masks={"threshold_2": masks[1]},
    )  # fmt: skip
    for dataset, mask in zip(("", "/entry/data_threshold_2/data_000001"), masks):
        with closing(Hdf5Frames(str(path), dataset)) as found:
            said = found.said()
        np.testing.assert_array_equal(said["pixel_mask"], mask)
        assert said["count_time"] == 1e-4


def test_a_master_file_s_data_files_are_one_series(tmp_path, pixels):
    with h5py.File(tmp_path / "scan_master.h5", "w") as master:
        for n, part in enumerate(np.array_split(pixels, 3), 1):
            write(tmp_path / f"scan_data_{n:06}.h5", part, name="entry/data/data")
            link = h5py.ExternalLink(f"scan_data_{n:06}.h5", "/entry/data/data")
            master[f"entry/data/data_{n:06}"] = link
        detector = master.create_group("entry/instrument/detector")
        detector["description"] = "DECTRIS ARINA"
        detector["pixel_mask"] = np.zeros((24, 32), "u4")
        detector["pixel_mask"][12, 16] = 1
        detector["count_time"] = 1e-5
        master["entry/instrument/beam/incident_energy"] = 2e5
    raster = take(tmp_path / "scan_master.h5", connections=2, methods=(DISK,))
    pixels = pixels.copy()
    pixels[:, 12, 16] = 0  # masked
    sums = (pixels * DISK.weights((24, 32))).sum(axis=(1, 2)).reshape(GRID.shape)
    np.testing.assert_array_equal(raster.outputs["vbf"], sums)
    info = raster.info
    assert (info.detector, info.energy, info.count_time, info.pixels_masked) == (
        "DECTRIS ARINA",
        2e5,
        1e-5,
        1,
    )


def test_a_data_file_that_is_gone_is_named(tmp_path, pixels):
    with h5py.File(tmp_path / "scan_master.h5", "w") as master:
        master["entry/data/data_000001"] = h5py.ExternalLink("scan_data_000001.h5", "/entry/data/data")
    with pytest.raises(ValueError, match=r"names the data file scan_data_000001\.h5, which cannot be read"):
        take(tmp_path / "scan_master.h5")


def test_parts_that_are_stored_in_different_ways_do_not_mix(tmp_path, pixels):
    """One is read where it lies, the next into memory, which must not be the file's."""
    path = tmp_path / "a.h5"
    for n, (part, stored) in enumerate(zip(np.array_split(pixels, 4), ("bslz4", "gzip", "lz4", "gzip")), 1):
        write(path, part, stored, name=f"entry/data/data_{n:06}")
    before = path.read_bytes()
    check(take(path), pixels)
    assert path.read_bytes() == before


def test_chunks_of_several_frames_are_read_too(tmp_path, pixels):
    check(take(write(tmp_path / "a.h5", pixels, chunks=(4, 24, 32))), pixels)


def test_a_chunk_that_was_stored_without_its_filter_is_read(tmp_path, pixels):
    path = write(tmp_path / "a.h5", pixels)
    with h5py.File(path, "a") as file:
        file["entry/data/data_000001"].id.write_direct_chunk((7, 0, 0), pixels[7].tobytes(), filter_mask=1)
    check(take(path), pixels)


def test_the_last_frame_of_a_file_ends_where_the_file_ends(tmp_path, pixels):
    """Kernels read a little further than a frame: there must be something to read."""
    path = write(tmp_path / "a.h5", pixels)
    with closing(Hdf5Frames(path)) as found:
        (part,) = found.parts
        end = int((part.at + part.nbytes).max())
    with open(path, "r+b") as file:
        assert len(file.read()) >= end
    check(take(path), pixels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("no"), "is no HDF5 file that can be read"),
        (lambda path: h5py.File(path, "w").close(), "has no dataset of frames"),
        (lambda path: None, "there is no file"),
    ],
)
def test_what_is_no_file_of_frames_is_named(tmp_path, make, words):
    make(tmp_path / "a.h5")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        take(tmp_path / "a.h5")


def test_a_dataset_that_is_not_there_is_said_with_those_that_are(tmp_path, pixels):
    path = write(tmp_path / "a.h5", pixels)
    with pytest.raises(
        ValueError, match=r"no dataset 'x' of frames; it has /entry/data/data_000001 \(20, 24, 32\)"
    ):
        take(path, dataset="x")


def test_more_positions_than_frames_are_lost(tmp_path, pixels):
    raster = take(write(tmp_path / "a.h5", pixels), grid=ScanGrid(5, 5))
    assert (raster.losses.received, raster.losses.lost) == (20, 5)
    assert np.isnan(raster.outputs["vbf"][4]).all()


@pytest.mark.parametrize("paths", ["a.h5", (), (1,)])
def test_paths_are_texts(paths):
    with pytest.raises(ValueError, match="paths is"):
        FileSource(paths)


def test_no_error_of_h5py_is_asked_for(tmp_path, pixels, monkeypatch):
    """Its text may be gone when h5py decodes it: the collector closed an object, and HDF5 freed the text."""
    path = write(tmp_path / "a.h5", pixels)
    found = h5py.Group.__getitem__

    def text_is_gone(self, name):
        try:
            return found(self, name)
        except KeyError:
            return b"\x80".decode()

    def get(self, name, default=None, **options):
        return text_is_gone(self, name)

    monkeypatch.setattr(h5py.Group, "__getitem__", text_is_gone)
    monkeypatch.setattr(h5py.Group, "get", get)
    check(take(path), pixels)
    with pytest.raises(ValueError, match="no dataset 'none'"):
        take(path, dataset="none")


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(("begin", "end"), [(0, 5), (5, 15), (15, 20), (15, None), (7, 7), (20, 30)])
def test_a_part_of_a_file_brings_its_frames_and_no_others(tmp_path, pixels, begin, end, connections):
    source = FileSource((write(tmp_path / "a.h5", pixels),), "", connections, begin, end)
    request = AcquisitionRequest(source, GRID, (DISK,), timeout=20.0)
    whole = take(tmp_path / "a.h5", methods=(DISK,)).outputs["vbf"].reshape(-1)
    expected = np.full(20, np.nan)
    expected[begin:end] = whole[begin:end]
    with closing(OpenStream(source)) as opened:
        acquisition = Acquisition(request, opened)
        if not np.isfinite(expected).any():
            with pytest.raises(NothingCame):
                next(acquisition.run())
            return
        raster = next(acquisition.run())
    np.testing.assert_array_equal(raster.outputs["vbf"].reshape(-1), expected)
    assert raster.losses.received == np.isfinite(expected).sum()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(7, 4, 6), (3, 5, 4, 6)])
@pytest.mark.parametrize("maxshape", ["fixed", "unlimited"])
@pytest.mark.parametrize("libver", ["earliest", "v110"])
def test_places_of_chunks_are_those_that_h5py_says(tmp_path, monkeypatch, shape, maxshape, libver, compiled):
    """Of every kind of index that HDF5 has for them, and of chunks of several frames; some were never written."""
    if not compiled:
        monkeypatch.setattr(chunk_table, "_iterate", lambda: None)
    chunks = (*[1] * (len(shape) - 3), 2, 4, 3)
    with h5py.File(tmp_path / "a.h5", "w", libver=(libver, "v110")) as file:
        options = {"maxshape": (None, *shape[1:])} if maxshape == "unlimited" else {}
        dataset = file.create_dataset("a", shape, "u2", chunks=chunks, compression="gzip", **options)
        dataset[: shape[0] - 2] = np.random.default_rng(1).integers(0, 999, (shape[0] - 2, *shape[1:]))
        dataset.id.write_direct_chunk((0,) * len(shape), b"x" * 48, filter_mask=1)
        sides = [-(-size // side) for size, side in zip(shape, chunks)]
        at, nbytes, masks = chunk_table.chunk_table(dataset)
        expected = [
            dataset.id.get_chunk_info_by_coord(tuple(np.multiply(where, chunks)))
            for where in np.ndindex(*sides)
        ]
    assert len(at) == np.prod(sides)
    for n, chunk in enumerate(expected):
        written = chunk.byte_offset is not None
        assert (at[n], nbytes[n], masks[n]) == (
            (chunk.byte_offset, chunk.size, chunk.filter_mask) if written else (-1, 0, 0)
        )
    assert masks[0] == 1
    assert (at == -1).any()


def test_this_h5py_lets_compiled_code_read_the_places():
    assert chunk_table._iterate() is not None


def test_places_of_a_file_that_is_as_it_was_are_not_read_again(tmp_path, pixels, monkeypatch):
    path, reads = write(tmp_path / "a.h5", pixels), []
    read = chunk_table._read
    monkeypatch.setattr(chunk_table, "_read", lambda dataset: reads.append(1) or read(dataset))
    check(take(path), pixels)
    check(take(path), pixels)
    assert len(reads) == 2, "it might be changed again within the tick of the clock"
    os.utime(path, (1e9, 1e9))
    for _ in range(3):
        check(take(path), pixels)
    assert len(reads) == 3
    with h5py.File(path, "a") as file:
        file["entry/data/data_000001"].id.write_direct_chunk((0, 0, 0), b"no frame")
    os.utime(path, (1e9, 2e9))
    assert take(path).losses.bad == 1
    assert len(reads) == 4
