"""Frames of an acquisition into files, as they came: every one, once, or counted."""

import json
import os
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import h5py
import hdf5_filter  # noqa: F401  registers what h5py reads the files with
import numpy as np
import pytest

from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest, recorder
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.engine.errors import Cancelled, MethodFailed, NothingCame, RecordingFailed
from live4d_ophyd.engine.recorder import RecordedFile, Recording
from live4d_ophyd.frames.batch import BLOB_LENGTH, BLOB_OFFSET, FrameBatch
from live4d_ophyd.frames.codecs import CODECS
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.frames.status import OUTSIDE_BUFFER
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.recording.chunk_index import write_at
from live4d_ophyd.recording.frame_sets import CORRUPT_FRAMES, FRAMES, SCAN, STATES
from live4d_ophyd.recording.template import COMPLETE, CORRUPT, GOOD, LOST, UNRECORDED, Recorded
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.compress import compress
from live4d_ophyd.sources.dectris.index import index_batch
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.late_backend import LateBackend
from live4d_ophyd.testing.small_dcu import damaged_image, encoded, end, frames, image, series, start

DISK = Disk("vbf", center=(12, 16), radius=6)
GRID = ScanGrid(3, 4, step=0.5, unit="nm")


@pytest.fixture(params=[CpuBackend, LateBackend], ids=["at-once", "late"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.engine.acquisition.CpuBackend", request.param)


@pytest.fixture
def record(tmp_path):
    return Recording(str(tmp_path / "scan.h5"), {"sample": "MoS2"})


def take(dcu, record, grid=GRID, connections=1, methods=(DISK,), timeout=2.0, **options):
    source = DectrisSource(dcu.endpoint, connections)
    request = AcquisitionRequest(source, grid, methods, timeout=timeout, record=record, **options)
    with closing(OpenStream(request.source)) as stream:
        return list(Acquisition(request, stream).run())


def recorder_of(record):
    """A recorder by itself, a batch of twelve frames, and their format."""
    batch = FrameBatch.from_messages([image(frame, n) for n, frame in enumerate(frames(12))])
    index_batch(batch)
    frame = FrameFormat(24, 32, np.dtype("<u2"))
    return (
        recorder.FrameRecorder(record, GRID, lambda codec: Recorded(GRID, frame, CODECS[codec])),
        batch,
        frame,
    )


def damage(message, pixels):
    """The message, with bytes for the array of ``pixels`` that cannot be decoded."""
    blob = compress(pixels, "bslz4")
    assert blob in message
    return message.replace(blob, b"\xff" * len(blob))


def test_each_frame_is_in_the_file_in_scan_order_as_it_was_sent(dcu, record):
    pixels = frames(GRID.frames)
    dcu.send(
        [start(number_of_images=12), *(image(pixels[n], n) for n in (3, 0, 11, *range(4, 11), 1, 2)), end()]
    )
    (raster,) = take(dcu, record)
    recorded = raster.recorded
    assert (recorded.frames, recorded.unrecorded, recorded.corrupt) == (12, 0, 0)
    assert (recorded.shape, recorded.dtype) == ((3, 4, 24, 32), "<u2")
    with h5py.File(recorded.path) as file:
        np.testing.assert_array_equal(file[FRAMES], pixels)
        np.testing.assert_array_equal(file[SCAN], pixels.reshape(3, 4, 24, 32))
        assert (file[STATES][()] == GOOD).all()
        assert file[COMPLETE][0] == 1
        assert json.loads(file["/entry/recording/notes"][()])["sample"] == "MoS2"


def test_flyback_is_left_out_and_lines_that_run_backwards_are_turned(dcu, record):
    grid = ScanGrid(2, 3, serpentine=True, flyback=1, lead_in=2)
    pixels = frames(grid.frames)
    dcu.send(series(pixels))
    (raster,) = take(dcu, record, grid)
    with h5py.File(raster.recorded.path) as file:
        np.testing.assert_array_equal(file[FRAMES], pixels[[2, 3, 4, 8, 7, 6]])


def test_flyback_and_lead_in_are_kept_on_request_apart_from_the_scan(dcu, record):
    grid = ScanGrid(2, 3, serpentine=True, flyback=1, lead_in=2)
    first, second = np.split(frames(2 * grid.frames), 2)
    images = [image(None, n, channels={"threshold_1": first[n], "threshold_2": second[n]}) for n in range(10)]
    images[5] = damage(images[5], first[5])
    dcu.send([start(number_of_images=10), *images[:9], end()])
    (raster,) = take(dcu, replace(record, flyback=True), grid)
    assert (raster.recorded.frames, raster.recorded.unrecorded, raster.losses.lost) == (6, 0, 1)
    with h5py.File(raster.recorded.path) as file:
        np.testing.assert_array_equal(file[FRAMES], first[[2, 3, 4, 8, 7, 6]])
        np.testing.assert_array_equal(file["/entry/data_threshold_2/data_000001"], second[[2, 3, 4, 8, 7, 6]])
        first[[5, 9]] = second[9] = 0
        for name, pixels in (("", first), ("_threshold_2", second)):
            np.testing.assert_array_equal(file[f"/entry/flyback{name}/data"], pixels[[0, 1, 5, 9]])
            assert file[f"/entry/flyback{name}/frame_number"][:].tolist() == [0, 1, 5, 9]
        assert file["/entry/recording/flyback_state"][:].tolist() == [GOOD, GOOD, CORRUPT, LOST]
        assert file["/entry/recording/flyback_state_threshold_2"][:].tolist() == [GOOD, GOOD, GOOD, LOST]
        assert file["/entry/recording/corrupt_flyback"][0, 0] == 2


def test_what_was_lost_is_marked_and_what_came_twice_is_there_once(dcu, record):
    pixels = frames(GRID.frames)
    came = [0, 1, 2, 2, 5, 1, 7, 11]
    dcu.send([start(number_of_images=12), *(image(pixels[n], n) for n in came), end()])
    (raster,) = take(dcu, record)
    assert raster.recorded.frames == raster.losses.received == 6
    with h5py.File(raster.recorded.path) as file:
        there = np.isin(np.arange(12), came)
        np.testing.assert_array_equal(file[STATES], np.where(there, GOOD, LOST))
        np.testing.assert_array_equal(file[FRAMES][:][there], pixels[there])
        assert not file[FRAMES][:][~there].any()
        assert file[FRAMES].id.get_num_chunks() == 6


def test_a_damaged_frame_is_kept_apart(dcu, record, tmp_path):
    pixels = frames(GRID.frames)
    damaged = damaged_image(pixels[5], 5)
    messages = [damaged if n == 5 else image(pixels[n], n) for n in range(12)]
    dcu.send([start(number_of_images=12), *messages, end()])
    (raster,) = take(dcu, record)
    assert (raster.recorded.frames, raster.recorded.corrupt, raster.losses.bad) == (11, 1, 1)
    with h5py.File(raster.recorded.path) as file:
        assert file[STATES][5] == CORRUPT
        assert not file[FRAMES][5].any()
        (number, at, size), none = file[CORRUPT_FRAMES][:2]
        assert number == 5
        assert none[0] == -1
    with open(raster.recorded.path, "rb") as file:
        file.seek(at)
        assert file.read(size) in damaged


def test_damaged_frames_that_come_before_the_first_good_one_are_kept_too(record):
    """Only a good one tells the codec of the file."""
    made, batch, frame = recorder_of(record)
    ids = np.arange(12)
    for part, status in ((ids[:2], 7), (ids[2:3], OUTSIDE_BUFFER), (ids[4:], 0)):
        if status == OUTSIDE_BUFFER:
            batch.index[2, BLOB_OFFSET] = 1 << 40
        made.add(batch, part, 0 * part, part, np.full(len(part), status), frame)
    done = made.finish(0, frame)
    made.close()
    assert (done.frames, done.unrecorded, done.corrupt) == (8, 0, 2)
    with h5py.File(done.path) as file:
        assert file[STATES][:5].tolist() == [CORRUPT, CORRUPT, UNRECORDED, LOST, GOOD]
        places = file[CORRUPT_FRAMES][:3]
    assert places[:, 0].tolist() == [0, 1, -1]
    content = Path(done.path).read_bytes()
    for number, at, size in places[:2].tolist():
        first, length = batch.index[number, BLOB_OFFSET], batch.index[number, BLOB_LENGTH]
        assert content[at : at + size] == batch.buffer[first : first + length].tobytes()


def test_a_raster_of_nothing_but_damaged_frames_has_them_in_its_file(record):
    made, batch, frame = recorder_of(record)
    ids = np.arange(12)
    made.add(batch, ids, 0 * ids, ids, np.full(12, 7), frame)
    done = made.finish(0, frame)
    made.close()
    assert (done.frames, done.unrecorded, done.corrupt) == (0, 0, 12)
    with h5py.File(done.path) as file:
        assert (file[STATES][:] == CORRUPT).all()
        assert file[FRAMES].id.get_num_chunks() == 0


def test_damaged_frames_before_the_first_good_one_fill_no_memory(record, monkeypatch, caplog):
    monkeypatch.setattr("live4d_ophyd.engine.held_frames.HELD_BYTES", 3000)
    made, batch, frame = recorder_of(record)
    ids = np.arange(12)
    made.add(batch, ids[:11], 0 * ids[:11], ids[:11], np.full(11, 7), frame)
    assert 0 < made._held.nbytes <= 3000
    assert "more corrupt frames came before the first good one than are kept" in caplog.text
    made.add(batch, ids[11:], 0 * ids[11:], ids[11:], np.zeros(1), frame)
    done = made.finish(0, frame)
    made.close()
    with h5py.File(done.path) as file:
        states = file[STATES][:]
    kept = int((states == CORRUPT).sum())
    assert 0 < kept == done.corrupt < 11
    assert states.tolist() == [CORRUPT] * kept + [UNRECORDED] * (11 - kept) + [GOOD]


def test_each_raster_of_a_movie_has_a_file(dcu, record):
    pixels = frames(3 * GRID.frames)
    dcu.send(series(pixels))
    rasters = take(dcu, record, rasters=3)
    assert [os.path.basename(r.recorded.path) for r in rasters] == [f"scan_0000{n}.h5" for n in (1, 2, 3)]
    for raster, part in zip(rasters, np.split(pixels, 3)):
        with h5py.File(raster.recorded.path) as file:
            np.testing.assert_array_equal(file[FRAMES], part)


def test_files_of_a_movie_are_numbered_as_its_rasters_are(record):
    """Another connection may bring the next raster's frames first; a raster whose frames are all lost has a file."""
    pixels = frames(12)
    batch = FrameBatch.from_messages([image(frame, n) for n, frame in enumerate(pixels)])
    index_batch(batch)
    frame, ids = FrameFormat(24, 32, np.dtype("<u2")), np.arange(12)
    made = recorder.FrameRecorder(record, GRID, lambda codec: Recorded(GRID, frame, CODECS[codec]))
    for raster in (2, 0):
        made.add(batch, ids, np.full(12, raster), ids, np.zeros(12), frame)
        made._flush_lanes()
    done = [made.finish(raster, frame) for raster in range(3)]
    made.close()
    assert [os.path.basename(file.path) for file in done] == [f"scan_0000{n}.h5" for n in (1, 2, 3)]
    assert [file.frames for file in done] == [12, 0, 12]


def test_rasters_that_cannot_be_recorded_leave_nothing_behind(record, monkeypatch):
    """Of a codec that no file can have, as trpx."""
    monkeypatch.setattr(recorder, "cannot_record", lambda *_: "HDF5 has no filter for it")
    batch = FrameBatch.from_messages([image(frame, n) for n, frame in enumerate(frames(12))])
    index_batch(batch)
    frame, ids = FrameFormat(24, 32, np.dtype("<u2")), np.arange(12)
    made = recorder.FrameRecorder(record, GRID, lambda codec: Recorded(GRID, frame, CODECS[codec]))
    for raster in range(3):
        made.add(batch, ids, np.full(12, raster), ids, np.zeros(12), frame)
        assert made.finish(raster, frame).unrecorded == 12
        assert not made._arrived
    made.close()


def test_every_channel_of_a_message_is_recorded(dcu, record):
    """The images' channel as ever; the others beside it, with what the series says of them."""
    first, second, third = np.split(frames(36), 3)
    mask = np.zeros((24, 32), np.uint32)
    mask[3, 4] = 2
    begin = start(
        number_of_images=12, channels=["threshold_1", "threshold_2", "difference/a"],
        threshold_energy={"threshold_1": 5e4, "threshold_2": 9e4}, pixel_mask={"threshold_2": encoded(mask)},
    )  # fmt: skip
    images = [
        image(None, n, channels={"threshold_1": first[n], "threshold_2": second[n], "difference/a": third[n]})
        for n in range(12)
    ]
    images[5] = damage(images[5], second[5])
    images[7] = image(None, 7, channels={"threshold_1": first[7], "difference/a": third[7]})
    dcu.send([begin, *images, end()])
    (raster,) = take(dcu, record)
    recorded = raster.recorded
    assert (recorded.frames, recorded.unrecorded, recorded.corrupt, raster.losses.bad) == (12, 0, 0, 0)
    np.testing.assert_array_equal(raster.outputs["vbf"].ravel(), (first * DISK.weights((24, 32))).sum((1, 2)))
    with h5py.File(recorded.path) as file:
        second[[5, 7]] = 0
        for names, pixels in (
            ((FRAMES, SCAN), first),
            (("/entry/data_threshold_2/data_000001", "/entry/stack_threshold_2/data"), second),
            (("/entry/data_difference_a/data_000001", "/entry/stack_difference_a/data"), third),
        ):
            for name in names:
                np.testing.assert_array_equal(file[name], pixels.reshape(file[name].shape))
        assert list(file["/entry/data"]) == ["data_000001"]
        states = file["/entry/recording/frame_state_threshold_2"]
        assert states.attrs["channel"] == "threshold_2"
        assert states[5] == CORRUPT
        assert states[7] == LOST
        assert (np.delete(states, [5, 7]) == GOOD).all()
        assert (file[STATES][:] == GOOD).all()
        number, at, size = file["/entry/recording/corrupt_frames_threshold_2"][0]
        assert (number, size) == (5, len(compress(frames(36)[17], "bslz4")))
        assert file["/entry/instrument/detector/threshold_energy"][()] == 5e4
        other = file["/entry/instrument/detector_threshold_2"]
        assert other["threshold_energy"][()] == 9e4
        np.testing.assert_array_equal(other["pixel_mask"], mask)
    with open(recorded.path, "rb") as file:
        file.seek(at)
        assert file.read(size) == b"\xff" * size


def test_several_connections_share_a_file(dcu, record):
    grid = ScanGrid(40, 50)
    pixels = frames(12)[np.arange(grid.frames) % 12]
    dcu.send(series(pixels), clients=4)
    (raster,) = take(dcu, record, grid, connections=4)
    assert raster.recorded.frames == 2000
    with h5py.File(raster.recorded.path) as file:
        np.testing.assert_array_equal(file[FRAMES], pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_other_pixels(dcu, record, dtype):
    pixels = frames(12, dtype=dtype)
    dcu.send(series(pixels))
    (raster,) = take(dcu, record)
    with h5py.File(raster.recorded.path) as file:
        assert file[FRAMES].dtype == dtype
        np.testing.assert_array_equal(file[FRAMES], pixels)


def test_a_file_that_is_there_is_left_alone(dcu, record, tmp_path):
    (tmp_path / "scan_00001.h5").write_bytes(b"of somebody")
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, record)
    assert raster.recorded.path.endswith("scan_00002.h5")
    assert (tmp_path / "scan_00001.h5").read_bytes() == b"of somebody"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan_00001.h5", "scan_00002.h5"]


def test_where_nothing_can_be_written_nothing_is_armed(dcu, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RecordingFailed, match=r"no file can be made in .*armed: record elsewhere"):
        take(dcu, Recording(str(tmp_path / "file" / "scan.h5")))


def test_the_folder_is_made_with_those_it_lies_in(tmp_path):
    folder = tmp_path / "today" / "MoS2"
    recorder_of(Recording(str(folder / "scan.h5")))[0].check()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("path", ["scan.h5", "/data/scan", "/data/scan.tif", ""])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(ValueError, match="expected"):
        Recording(path)


def test_a_disk_that_is_full_costs_the_file_and_not_the_image(dcu, record, monkeypatch, caplog):
    def full(fd, data, at):
        if isinstance(data, memoryview):  # frames; what is written in place has its space already
            raise OSError(28, "No space left on device")
        write_at(fd, data, at)

    monkeypatch.setattr("live4d_ophyd.recording.chunk_file.write_at", full)
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, record)
    assert np.isfinite(raster.outputs["vbf"]).all()
    assert (raster.recorded.frames, raster.recorded.unrecorded) == (0, 12)
    assert "No space left on device" in caplog.text
    with h5py.File(raster.recorded.path) as file:
        assert (file[STATES][()] == UNRECORDED).all()
        assert file[COMPLETE][0] == 0


def test_a_frame_whose_bytes_are_nowhere_costs_no_other(record):
    """As an index that points outside of the batch, which the decoder refuses."""
    pixels = frames(12)
    batch = FrameBatch.from_messages([image(frame, n) for n, frame in enumerate(pixels)])
    index_batch(batch)
    batch.index[0, BLOB_OFFSET] = 1 << 40
    frame, ids = FrameFormat(24, 32, np.dtype("<u2")), np.arange(12)
    made = recorder.FrameRecorder(record, GRID, lambda codec: Recorded(GRID, frame, CODECS[codec]))
    for part in (ids[1:2], ids[:1], ids[2:]):
        made.add(batch, part, 0 * part, part, np.where(part == 0, OUTSIDE_BUFFER, 0), frame)
        made._flush_lanes()
    done = made.finish(0, frame)
    made.close()
    assert (done.frames, done.unrecorded) == (11, 0)
    with h5py.File(done.path) as file:
        np.testing.assert_array_equal(file[FRAMES][1:], pixels[1:])


def test_a_disk_that_fails_when_it_is_told_to_keep_what_it_has_costs_all_since_the_last_time(
    dcu, record, monkeypatch, caplog
):
    """A system says so once; to ask again would succeed, and what was to be written is gone."""
    append, sync, told = recorder.RasterFile.append, os.fdatasync, []

    def fail_once(fd):
        if told == ["appended"]:
            told.append("failed")
            raise OSError(5, "Input/output error")
        sync(fd)

    monkeypatch.setattr(recorder.RasterFile, "append", lambda *a: (append(*a), told.append("appended"))[0])
    monkeypatch.setattr(os, "fdatasync", fail_once)
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, record)
    assert told == ["appended", "failed"]
    assert np.isfinite(raster.outputs["vbf"]).all()
    assert (raster.recorded.frames, raster.recorded.unrecorded) == (0, 12)
    assert "Input/output error" in caplog.text
    with h5py.File(raster.recorded.path) as file:
        assert file[FRAMES].id.get_num_chunks() == 0
        assert file[COMPLETE][0] == 0


def test_a_file_that_is_taken_away_has_recorded_nothing(dcu, record, monkeypatch, caplog):
    append = recorder.RasterFile.append
    monkeypatch.setattr(
        recorder.RasterFile, "append", lambda file, *a: (append(file, *a), file.path.unlink())[0]
    )
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, record)
    assert (raster.recorded.frames, raster.recorded.unrecorded) == (0, 12)
    assert "cannot be read back" in caplog.text


def test_no_memory_for_frames_costs_the_file_and_not_the_image(dcu, record, monkeypatch, caplog):
    def none(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(recorder.mmap, "mmap", none)
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, record)
    assert np.isfinite(raster.outputs["vbf"]).all()
    assert (raster.recorded.frames, raster.recorded.unrecorded) == (0, 12)
    assert "Cannot allocate memory" in caplog.text


def test_a_disk_that_hangs_does_not_hold_up_who_cancels(dcu, record, monkeypatch):
    go_on, hangs, written = threading.Event(), threading.Event(), []
    monkeypatch.setattr(
        recorder.RasterFile, "append", lambda *a: (hangs.set(), written.append(go_on.wait(30)))
    )
    monkeypatch.setattr(recorder, "_LEAVE_S", 0.1)
    source = DectrisSource(dcu.endpoint)
    request = AcquisitionRequest(source, GRID, (DISK,), timeout=5.0, record=record)
    dcu.send(series(frames(12)))
    try:
        with closing(OpenStream(request.source)) as stream:
            acquisition = Acquisition(request, stream)
            threading.Thread(target=lambda: (hangs.wait(30), acquisition.cancel())).start()
            with pytest.raises(Cancelled):
                list(acquisition.run())
            assert not written  # it hangs still
    finally:
        go_on.set()


def test_buffers_that_are_too_small_make_room_for_larger_ones(record, monkeypatch):
    monkeypatch.setattr(recorder, "BUFFER_BYTES", 4096)
    monkeypatch.setattr(recorder, "ALL_BYTES", 65536)
    made = recorder.FrameRecorder(record, GRID, lambda codec: None)
    for size in (5_000, 20_000, 60_000):
        buffer = made._empty_buffer(0, size)
        assert size <= len(buffer.memory) < 2 * size
        made._give_back(buffer)
    assert made._empty_buffer(0, 60_000) is buffer
    assert made._empty_buffer(0, 60_000) is None


def test_a_disk_that_is_slower_than_the_stream_costs_frames_that_are_counted(
    dcu, record, monkeypatch, caplog
):
    """Room for one buffer, and a disk that takes none before the last frame is there."""
    pixels = frames(12)
    monkeypatch.setattr(recorder, "BUFFER_BYTES", 4096)
    monkeypatch.setattr(recorder, "ALL_BYTES", 4096)
    go_on = threading.Event()
    append = recorder.RasterFile.append
    monkeypatch.setattr(recorder.RasterFile, "append", lambda *a: go_on.wait(30) and append(*a))
    finish = recorder.FrameRecorder.finish
    monkeypatch.setattr(recorder.FrameRecorder, "finish", lambda *a: (go_on.set(), finish(*a))[1])
    dcu.send(series(pixels))
    (raster,) = take(dcu, record)
    recorded = raster.recorded
    assert np.isfinite(raster.outputs["vbf"]).all()
    assert 0 < recorded.frames < 12
    assert recorded.frames + recorded.unrecorded == 12
    assert "the disk is slower than the stream" in caplog.text
    with h5py.File(recorded.path) as file:
        good = file[STATES][()] == GOOD
        assert good.sum() == recorded.frames
        assert (file[STATES][~good] == UNRECORDED).all()
        assert file[STATES].attrs["flag_meanings"].split()[UNRECORDED] == "not_recorded"
        np.testing.assert_array_equal(file[FRAMES][:][good], pixels[good])


def test_a_method_that_fails_loses_no_frame(dcu, record, tmp_path):
    class Fails(Disk):
        def accumulator(self, series, scan, device):
            raise ValueError("no")

    pixels = frames(12)
    dcu.send(series(pixels))
    with pytest.raises(MethodFailed):
        take(dcu, record, methods=(Fails("vbf", center=(12, 16), radius=6),))
    with h5py.File(tmp_path / "scan_00001.h5") as file:
        np.testing.assert_array_equal(file[FRAMES], pixels)


def test_what_came_before_the_stream_broke_off_is_there(dcu, record, tmp_path):
    pixels = frames(12)
    dcu.send([start(number_of_images=12), *(image(pixels[n], n) for n in range(5))])
    (raster,) = take(dcu, record, timeout=0.5)
    assert raster.recorded.frames == 5
    with h5py.File(raster.recorded.path) as file:
        np.testing.assert_array_equal(file[FRAMES][:5], pixels[:5])


def test_a_series_that_brings_nothing_leaves_no_file(dcu, record, tmp_path):
    dcu.send([start(number_of_images=12), end()])
    with pytest.raises(NothingCame):
        take(dcu, record, timeout=0.5)
    assert not list(tmp_path.iterdir())


def test_without_recording_nothing_is_said_of_it(dcu):
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, None)
    assert raster.recorded is None
    with pytest.raises(ValueError, match="recorded"):
        raster.check(
            replace(
                AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, (DISK,)), record=Recording("/data/x.h5")
            ),
            0,
        )


FILE = RecordedFile("/data/x.h5", 12, 0, 0, (3, 4, 24, 32), "<u2")


@pytest.mark.parametrize(
    "said",
    [
        {"frames": -1}, {"path": 5}, {"dtype": "O"},
        {"dtype": ">u2"}, {"shape": (3, 4, 0, 32)}, {"shape": (3, 4, 1 << 20, 1 << 20)},
    ],
)  # fmt: skip
def test_what_an_engine_cannot_have_recorded_is_refused(said):
    with pytest.raises(ValueError, match=next(iter(said))):
        replace(FILE, **said)


@pytest.mark.parametrize(
    "said", [{"shape": (4, 3, 24, 32)}, {"frames": 13}, {"unrecorded": 97}, {"corrupt": 13}]
)
def test_what_was_not_asked_for_is_refused(dcu, record, said):
    dcu.send(series(frames(12)))
    (raster,) = take(dcu, record)
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, (DISK,), record=record)
    raster.check(request, 0)
    with pytest.raises(ValueError, match="is not of"):
        replace(raster, recorded=replace(raster.recorded, **said)).check(request, 0)
