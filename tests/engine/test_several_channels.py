"""Several thresholds of one stream, each with images of its own: exact sums, honest counts, each decoded once."""

from collections import Counter
from contextlib import closing
from dataclasses import replace

import cbor2
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from live4d_ophyd import reprocess
from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.decode.cpu.decoder import CpuDecoder
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.engine.recorder import Recording
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.dpc import DPC
from live4d_ophyd.imaging.drawn_detectors import Mask
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.of_channel import OfChannel, on_channels
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.compress import compress
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.late_backend import LateBackend
from live4d_ophyd.testing.small_dcu import end, frames, image, start

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)
METHODS = (DISK, CenterOfMass("com", DISK), DPC("dpc"), MeanPattern("pacbed"))
BOTH = on_channels(METHODS, ["difference"])


@pytest.fixture(params=[CpuBackend, LateBackend], autouse=True)
def backend(request, monkeypatch):
    """Sums come at once, or while the next batch is received."""
    monkeypatch.setattr("live4d_ophyd.engine.acquisition.CpuBackend", request.param)


@pytest.fixture
def low():
    return frames(GRID.frames)


@pytest.fixture
def high():
    return frames(GRID.frames, seed=7) // 2


def take(dcu, methods=BOTH, connections=1, **options):
    source = DectrisSource(dcu.endpoint, connections, channel="threshold_1")
    request = AcquisitionRequest(source, GRID, methods, timeout=20.0, **options)
    with closing(OpenStream(source)) as stream:
        return list(Acquisition(request, stream).run())


def images(low, high, **more):
    names = "threshold_1", "threshold_2", "difference"
    for n, (first, last) in enumerate(zip(low, high)):
        yield image(None, n, channels=dict(zip(names, (first, first + 1, last))), **more)


def bad_pixel(row, col):
    mask = np.zeros((24, 32), "<u4")
    mask[row, col] = 1
    return cbor2.CBORTag(40, [list(mask.shape), cbor2.CBORTag(70, mask.tobytes())])


def plain(pixels, mask=None):
    """Images of the methods by their definitions, in NumPy alone."""
    pixels = pixels.astype(float)
    weights = DISK.weights(pixels.shape[1:]) * (1 if mask is None else ~mask)
    rows, cols = np.indices(weights.shape)
    total = (pixels * weights).sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        y, x = ((pixels * weights * (at - c)).sum(axis=(1, 2)) / total for at, c in ((rows, 12), (cols, 16)))
    return {"vbf": total.reshape(GRID.shape), "com_y": y.reshape(GRID.shape), "com_x": x.reshape(GRID.shape)}


def check(outputs, pixels, end="", mask=None):
    for name, wanted in plain(pixels, mask).items():
        exact = name == "vbf"
        np.testing.assert_allclose(outputs[name + end], wanted, rtol=0, atol=0 if exact else 1e-10)
    pattern = pixels.astype(float).mean(axis=0)
    if mask is not None:
        pattern[mask] = np.nan
    np.testing.assert_allclose(outputs[f"pacbed{end}"], pattern, rtol=1e-13)


@pytest.mark.parametrize("connections", [1, 3])
def test_each_channel_has_its_own_images_with_its_own_mask(dcu, low, high, connections):
    masks = {"threshold_1": bad_pixel(12, 15), "difference": bad_pixel(10, 17)}
    dcu.send([start(number_of_images=12, pixel_mask=masks), *images(low, high), end()])
    (raster,) = take(dcu, connections=connections)
    for end_, pixels, at in (("", low, (12, 15)), ("_difference", high, (10, 17))):
        mask = np.zeros((24, 32), bool)
        mask[at] = True
        check(raster.outputs, pixels, end_, mask)
    # What is made of images is made of the channel's own: equal to a series that has no other.
    dcu.wait_for_leaving(connections)  # else some of the next series goes their way
    alone = start(2, "B", 12, pixel_mask={"threshold_1": masks["difference"]})
    dcu.send([alone, *(image(frame, n, 2, "B") for n, frame in enumerate(high)), end(2, "B")])
    (other,) = take(dcu, METHODS)
    for name, array in other.outputs.items():
        np.testing.assert_allclose(raster.outputs[f"{name}_difference"], array, rtol=1e-13, err_msg=name)
    assert not np.array_equal(raster.outputs["dpc_magnitude"], other.outputs["dpc_magnitude"])
    there = raster.further["difference"]
    assert (there.losses.received, there.losses.lost, there.losses.bad) == (12, 0, 0)
    assert (there.info.channel, there.info.pixels_masked) == ("difference", 1)
    assert there.info.detector_mask != raster.info.detector_mask


def test_bad_pixels_are_spread_by_the_mask_of_each_channel(dcu, low, high):
    """As if each had the mean of its good neighbours; one at the edge has fewer, and other divisors."""
    places = {"": (12, 15), "_difference": (0, 16)}
    masks = dict(zip(("threshold_1", "difference"), (bad_pixel(*at) for at in places.values())))
    everything = Disk("all", center=(12, 16), radius=40)
    methods = on_channels((DISK, everything), ["difference"])
    dcu.send([start(number_of_images=12, pixel_mask=masks), *images(low, high), end()])
    (raster,) = take(dcu, methods, bad_pixels="spread")
    for pixels, (end_, (row, col)) in zip((low, high), places.items()):
        around = (
            pixels[:, max(0, row - 1) : row + 2, col - 1 : col + 2].sum(axis=(1, 2)) - pixels[:, row, col]
        )
        repaired = pixels.astype(float)
        repaired[:, row, col] = around / (8 if row else 5)
        for disk in (DISK, everything):
            sums = (repaired * disk.weights(pixels.shape[1:])).sum(axis=(1, 2))
            np.testing.assert_allclose(raster.outputs[f"{disk.name}{end_}"].ravel(), sums, rtol=1e-14)
    infos = raster.info, raster.further["difference"].info
    assert [info.pixels_spread for info in infos] == [1, 1]


def test_a_frame_is_decoded_once_for_each_channel_that_is_imaged(dcu, low, high, monkeypatch, tmp_path):
    """However many methods there are, and though the file has all three channels."""
    seen = Counter()
    submit = CpuDecoder.submit

    def counted(decoder, batch, entries, demand):
        seen[batch.channel or b"threshold_1"] += batch.count if entries is None else len(entries)
        return submit(decoder, batch, entries, demand)

    monkeypatch.setattr(CpuDecoder, "submit", counted)
    dcu.send([start(number_of_images=12), *images(low, high), end()])
    (raster,) = take(dcu, record=Recording(str(tmp_path / "a.h5"), {}))
    assert seen == {b"threshold_1": 12, b"threshold_2": 12, b"difference": 12}
    assert raster.recorded.unrecorded == 0
    with h5py.File(raster.recorded.path) as file:
        np.testing.assert_array_equal(file["entry/data_difference/data_000001"][()], high)
        np.testing.assert_array_equal(file["entry/data_threshold_2/data_000001"][()], low + 1)


def test_counts_are_of_each_channel_and_missing_positions_are_nan_in_it(dcu, low, high, caplog):
    messages = list(images(low, high))
    messages[2] = image(None, 2, channels={"threshold_1": low[2], "threshold_2": low[2]})
    blob = compress(high[5], "bslz4")
    assert messages[5].count(blob) == 1
    messages[5] = messages[5].replace(blob, blob[:12] + b"\xff" * 8 + blob[20:])
    messages[7] = image(None, 7, channels={"difference": high[7]})
    del messages[9]
    dcu.send([start(number_of_images=12), *messages, end()])
    (raster,) = take(dcu)
    losses, there = raster.losses, raster.further["difference"].losses
    assert (losses.received, losses.bad, losses.lost) == (10, 1, 1)
    assert (there.received, there.bad, there.lost) == (8, 3, 1)
    assert np.flatnonzero(np.isnan(raster.outputs["vbf"])).tolist() == [7, 9]
    assert np.flatnonzero(np.isnan(raster.outputs["vbf_difference"])).tolist() == [2, 5, 7, 9]
    known = ~np.isnan(raster.outputs["vbf_difference"])
    np.testing.assert_array_equal(raster.outputs["vbf_difference"][known], plain(high)["vbf"][known])
    assert "channel 'difference': the frame does not have it" in caplog.text


def test_saturated_frames_are_counted_in_their_channel(dcu, low, high):
    high[3, 12, 16] = np.iinfo(high.dtype).max
    dcu.send([start(number_of_images=12), *images(low, high), end()])
    (raster,) = take(dcu, saturated="nan")
    assert (raster.losses.saturated, raster.further["difference"].losses.saturated) == (0, 1)
    assert np.isnan(raster.outputs["vbf_difference"].flat[3])
    assert not np.isnan(raster.outputs["vbf"]).any()


def test_a_channel_that_the_frames_do_not_have_is_refused_by_name(dcu, low, high):
    dcu.send([start(number_of_images=12), *images(low, high), end()])
    with pytest.raises(
        ValueError,
        match="series 1 has no channel 'diff', which is to be imaged: its frames have threshold_1, threshold_2, "
        "difference",
    ):
        take(dcu, on_channels(METHODS, ["diff"]))


def test_methods_may_be_of_one_channel_each(dcu, low, high):
    ring = OfChannel(replace(DISK, name="ring", radius=3), "threshold_2")
    dcu.send([start(number_of_images=12), *images(low, high), end()])
    (raster,) = take(dcu, (DISK, ring))
    assert set(raster.outputs) == {"vbf", "ring_threshold_2"}
    wanted = ((low + 1.0) * replace(DISK, radius=3).weights((24, 32))).sum(axis=(1, 2)).reshape(GRID.shape)
    np.testing.assert_array_equal(raster.outputs["ring_threshold_2"], wanted)


def test_flyback_is_of_no_image_of_any_channel(dcu):
    grid = ScanGrid(3, 4, flyback=2)
    low, high = frames(grid.frames), frames(grid.frames, seed=7)
    dcu.send([start(number_of_images=len(low)), *images(low, high), end()])
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), grid, BOTH, timeout=20.0)
    with closing(OpenStream(request.source)) as stream:
        (raster,) = Acquisition(request, stream).run()
    on_scan = grid.positions(np.arange(grid.frames)) >= 0
    np.testing.assert_array_equal(raster.outputs["vbf_difference"], plain(high[on_scan])["vbf"])
    assert raster.further["difference"].losses.received == grid.frames


@pytest.mark.parametrize("workers", [1, 3])
def test_the_recorded_file_gives_the_images_of_every_channel_again(dcu, low, high, tmp_path, workers):
    masks = {"threshold_1": bad_pixel(12, 15), "difference": bad_pixel(10, 17)}
    messages = list(images(low, high))
    del messages[4]
    dcu.send([start(number_of_images=12, pixel_mask=masks), *messages, end()])
    drawn = OfChannel(
        Mask("drawn", DISK.weights((24, 32)) > 0), "difference"
    )  # its array is in the file, too
    (live,) = take(dcu, (*BOTH, drawn), record=Recording(str(tmp_path / "a.h5"), {}))
    again = reprocess(live.recorded.path, backend="cpu", quiet=True, workers=workers)
    assert set(again.outputs) == set(live.outputs)
    for name, array in live.outputs.items():
        np.testing.assert_allclose(again.outputs[name], array, rtol=1e-13, err_msg=name)
    there = again.further["difference"]
    assert (there.losses.received, there.losses.lost) == (11, 1)
    assert there.info.pixel_mask == live.further["difference"].info.pixel_mask
