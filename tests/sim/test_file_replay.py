"""Frames of a recorded file back onto the wire: the same frames, and the same image."""

from contextlib import closing

import numpy as np
import pytest
from recorded_file import recorded_file

from live4d_ophyd.decode import decode_array
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.offline import reprocess_file
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.file_replay import FileReplay
from live4d_ophyd.sources.dectris.messages import read_message
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, frames

SCAN = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.mark.parametrize("codec", ["bslz4", "lz4", ""])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_each_message_is_one_of_the_stream(tmp_path, codec, dtype):
    pixels = frames(12, dtype=dtype)
    mask = np.zeros((24, 32), np.uint32)
    mask[2, 3] = 1
    known = {
        "energy": 3e5,
        "count_time": 2e-5,
        "frame_time": 2.5e-5,
        "pixel_mask": mask,
        "channel": "threshold_2",
    }
    path = recorded_file(tmp_path / "a.h5", pixels, SCAN, codec=codec, lost=[3], **known)
    with closing(FileReplay(path)) as replay:
        start, *images, end = [read_message(message) for message, _ in replay]
    assert (start.incident_energy, start.count_time, start.number_of_images) == (3e5, 2e-5, 12)
    np.testing.assert_array_equal(decode_array(start.pixel_mask["threshold_2"]), mask)
    assert [image.image_id for image in images] == [n for n in range(12) if n != 3]
    for image in images:
        np.testing.assert_array_equal(decode_array(image.channels["threshold_2"]), pixels[image.image_id])
    assert end.series_id == start.series_id


def test_all_channels_are_sent(tmp_path):
    first, second = frames(12), frames(12, seed=1)
    known = {"channel": "threshold_1", "others": {"threshold_2": second}, "lost": [3, 17]}
    path = recorded_file(tmp_path / "a.h5", first, SCAN, **known)
    with closing(FileReplay(path)) as replay:
        start, *images, _ = [read_message(message) for message, _ in replay]
    assert start.channels == ("threshold_1", "threshold_2")
    assert [image.image_id for image in images] == [n for n in range(12) if n != 3]
    for image in images:
        n = image.image_id
        there = {"threshold_1": first[n]} | ({} if n == 5 else {"threshold_2": second[n]})
        assert image.channels.keys() == there.keys()
        for name, pixels in there.items():
            np.testing.assert_array_equal(decode_array(image.channels[name]), pixels)


def test_recorded_replayed_and_reprocessed_images_are_equal(tmp_path):
    pixels = frames(12)
    path = recorded_file(tmp_path / "a.h5", pixels, SCAN, lost=[7])
    truth = (pixels * DISK.weights((24, 32))).sum(axis=(1, 2)).astype(float)
    truth[7] = np.nan
    with closing(SmallDcu()) as dcu, closing(FileReplay(path)) as replay:
        dcu.send(message for message, _ in replay)
        request = AcquisitionRequest(DectrisSource(dcu.endpoint), SCAN, (DISK,), timeout=5.0)
        with closing(OpenStream(request.source)) as stream:
            (raster,) = Acquisition(request, stream).run()
    np.testing.assert_array_equal(raster.outputs["vbf"].ravel(), truth)
    again = reprocess_file(path, [DISK], quiet=True)
    np.testing.assert_array_equal(again.outputs["vbf"].ravel(), truth)
    assert again.losses.lost == 1


def test_frames_that_are_stored_otherwise_are_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=frames(12), chunks=(4, 24, 32), compression=1)
    with pytest.raises(ValueError, match="cannot be replayed as they are"):
        FileReplay(tmp_path / "a.h5")
