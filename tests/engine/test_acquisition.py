"""One series from a real socket to images: what arrives is summed exactly, what does not is NaN and counted."""

import gc
import os
import threading
import time
import weakref
from contextlib import closing, contextmanager
from dataclasses import dataclass

import cbor2
import numpy as np
import pytest
import zmq
from fake_control import FakeControl

from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest, acquisition
from live4d_ophyd.engine.acquisition import STRAGGLER_S, OpenStream
from live4d_ophyd.engine.errors import Cancelled, DetectorInUse, NoStream, NothingCame
from live4d_ophyd.engine.series import Series
from live4d_ophyd.frames.batch import BatchMemory
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.method import SCAN, Output, Patterns
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.rest import SimplonError
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import Frames
from live4d_ophyd.testing.late_backend import LateBackend
from live4d_ophyd.testing.small_dcu import end, frames, image, series, start

DISK = Disk("vbf", center=(12, 16), radius=6)
GRID = ScanGrid(3, 4)


@pytest.fixture(
    params=[(CpuBackend, "libzmq"), (LateBackend, "libzmq"), (LateBackend, "zmtp")],
    ids=["at-once", "late", "late-zmtp"],
    autouse=True,
)
def backend(request, monkeypatch):
    """All of this holds when a batch's sums come while the next ones are received, and with either receiver."""
    backend, receiver = request.param
    monkeypatch.setattr("live4d_ophyd.engine.acquisition.CpuBackend", backend)
    monkeypatch.setattr("live4d_ophyd.sources.dectris.stream.RECEIVER", receiver)


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def take(dcu, grid=GRID, methods=(DISK,), timeout=2.0, stream=None, connections=1, control=None, **options):
    source = DectrisSource(dcu.endpoint, connections, simplon=control)
    request = AcquisitionRequest(source, grid, tuple(methods), timeout=timeout, **options)
    if stream is not None:
        return list(Acquisition(request, stream).run())
    with closing(OpenStream(request.source)) as own:
        return list(Acquisition(request, own).run())


def expected(pixels, grid=GRID, detector=DISK):
    """The image by the definition, in float64 NumPy."""
    weights = detector.weights(pixels.shape[1:])
    return (pixels.astype(np.float64) * weights).sum(axis=(1, 2)).reshape(grid.shape)


def masked_series(pixels, *bad):
    """A series whose detector calls the pixels at these (row, col) bad."""
    mask = np.zeros(pixels.shape[1:], "<u4")
    mask[tuple(np.transpose(bad))] = 16
    encoded = cbor2.CBORTag(40, [list(mask.shape), cbor2.CBORTag(70, mask.tobytes())])
    return [start(number_of_images=len(pixels), pixel_mask={"threshold_1": encoded}), *series(pixels)[1:]]


def test_every_position_has_the_sum_of_its_frame(dcu, pixels):
    dcu.send(series(pixels))
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert (raster.losses.expected, raster.losses.received) == (12, 12)
    assert (raster.losses.lost, raster.losses.bad) == (0, 0)
    assert raster.series_id == 1
    assert raster.rate_hz > 0


def test_several_detectors_are_several_images(dcu, pixels):
    ring = Annulus("adf", center=None, inner=7, outer=11)
    dcu.send(series(pixels))
    (raster,) = take(dcu, methods=[DISK, ring])
    np.testing.assert_array_equal(raster.outputs["adf"], expected(pixels, detector=ring))


@dataclass(frozen=True)
class Brightest:
    """A user's method, of patterns: the brightest pixel of each."""

    name: str

    def demand(self, series, scan):
        return Patterns()

    def outputs(self, series, scan):
        return {self.name: Output(SCAN, scan.shape)}

    def accumulator(self, series, scan, device):
        scatter = Scatter(scan, 1, device)
        add = scatter.add
        scatter.add = lambda positions, patterns: add(positions, patterns.max(axis=(1, 2))[:, None])
        return scatter

    def results(self, series, scan, parts):
        return {self.name: Scatter.merged(parts, scan, 1)[0]}


class Counting:
    """Batches of a few frames; keeps the backend's decoders, and how many entries each was given at a time."""

    def __init__(self, backend):
        self._backend, self.name, self.in_flight = backend, backend.name, backend.in_flight
        self.decoders, self.submitted = [], []

    memory = BatchMemory(6000)

    def of_lane(self, lane):
        return self

    def decoder(self, frame, *, saturation):
        decoder = self._backend.decoder(frame, saturation=saturation)
        submit = decoder.submit

        def submit_and_count(batch, entries, demand):
            self.submitted.append(len(entries))
            return submit(batch, entries, demand)

        decoder.submit = submit_and_count
        self.decoders.append(decoder)
        return decoder


def test_a_batch_is_decoded_once_for_methods_of_all_kinds(dcu, pixels, monkeypatch):
    # The other receiver lends its own memory, in batches as large as what has come.
    monkeypatch.setattr("live4d_ophyd.sources.dectris.stream.RECEIVER", "libzmq")
    batches = []
    accept_items = Series.accept

    def counted(series, items, backend):
        items = list(items)
        batches.extend(item for item in items if isinstance(item, Frames) and len(item.entries))
        return accept_items(series, iter(items), backend)

    monkeypatch.setattr(Series, "accept", counted)
    backend = Counting(acquisition.CpuBackend())
    methods = (
        DISK,
        Segments("dpc", center=(12, 16), inner=0, outer=9),
        CenterOfMass("com", Disk("com_disk", center=(12, 16), radius=6)),
        MeanPattern(),
        Brightest("peak"),
    )
    dcu.send(series(pixels))
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, methods, timeout=20.0)
    with closing(OpenStream(request.source)) as stream:
        (raster,) = Acquisition(request, stream, backend).run()
    (decoder,) = backend.decoders
    assert len(batches) > 1
    assert decoder.decodes == len(backend.submitted) == len(batches)
    assert sum(backend.submitted) == len(pixels)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    np.testing.assert_array_equal(raster.outputs["com_sum"], expected(pixels))
    assert np.isfinite([raster.outputs[key] for key in raster.outputs if key.startswith("dpc")]).all()
    np.testing.assert_allclose(raster.outputs["pattern"], pixels.mean(axis=0))
    np.testing.assert_array_equal(raster.outputs["peak"], pixels.max(axis=(1, 2)).reshape(GRID.shape))


def test_soft_detectors_match_float64_sums(dcu, pixels):
    soft = Disk("soft", center=(12.3, 15.7), radius=6.4, soft=True)
    dcu.send(series(pixels))
    (raster,) = take(dcu, methods=[soft])
    np.testing.assert_allclose(raster.outputs["soft"], expected(pixels, detector=soft), rtol=1e-12)


def test_lost_frames_are_nan_and_counted(dcu, pixels):
    messages = series(pixels)
    del messages[5], messages[1]  # images 4 and 0
    dcu.send(messages)
    (raster,) = take(dcu)
    truth = expected(pixels)
    truth.flat[[0, 4]] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)
    assert (raster.losses.received, raster.losses.lost, raster.losses.bad) == (10, 2, 0)


def test_order_and_repetition_do_not_matter(dcu, pixels):
    first, *images, last = series(pixels)
    order = np.random.default_rng(1).permutation(len(images))
    *early, latest = (images[n] for n in order)
    # The repeated one comes before the raster is whole: behind that nothing is waited for.
    dcu.send([first, *early, early[3], latest, last])
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert (raster.losses.duplicates, raster.losses.received, raster.losses.lost) == (1, 12, 0)


def test_a_frame_that_does_not_decode_is_bad_and_nothing_else(dcu, pixels, caplog):
    messages = series(pixels)
    broken = bytearray(messages[3])
    broken[-20:] = bytes(20)
    messages[3] = bytes(broken)
    dcu.send(messages)
    (raster,) = take(dcu)
    truth = expected(pixels)
    truth.flat[2] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)
    assert (raster.losses.received, raster.losses.lost, raster.losses.bad) == (11, 0, 1)
    assert "bad frame" in caplog.text


def test_an_unreadable_message_is_bad_not_lost(dcu, pixels):
    messages = series(pixels)
    messages[3] = messages[3][:100]
    dcu.send(messages)
    (raster,) = take(dcu)
    assert np.isnan(raster.outputs["vbf"].flat[2])
    assert (raster.losses.received, raster.losses.lost, raster.losses.bad) == (11, 0, 1)


def test_frames_of_another_shape_are_bad(dcu, pixels):
    messages = series(pixels)
    messages[4] = image(frames(1, (32, 24))[0], 3)
    dcu.send(messages)
    (raster,) = take(dcu)
    assert raster.losses.bad == 1
    assert np.isnan(raster.outputs["vbf"].flat[3])


def test_an_end_that_cannot_be_read_is_no_bad_image(dcu, pixels, caplog):
    dcu.send([*series(pixels)[:-1], end()[:-5]])
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert (raster.losses.received, raster.losses.bad) == (12, 0)
    assert "the end message cannot be used: the message is cut off" in caplog.text
    assert "bad frame" not in caplog.text


def test_a_start_that_cannot_be_read_is_no_bad_image_and_named_in_the_error(dcu, pixels, caplog):
    dcu.send([start(series_id="one"), *series(pixels)[1:]])
    words = "the start message that came cannot be used: start message: series_id is text 'one'"
    with pytest.raises(NothingCame, match=words):
        take(dcu, timeout=0.4)
    assert "bad frame" not in caplog.text


def test_legal_but_unusual_messages_are_taken_all_the_same(dcu, pixels):
    messages = series(pixels)
    messages[2] = image(pixels[1], 1, user_data={1.5: {"a": [None, 2**70]}})
    dcu.send(messages)
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))


def test_a_field_of_start_that_is_not_understood_costs_a_line_not_the_scan(dcu, pixels, caplog):
    messages = series(pixels)
    messages[0] = start(number_of_images=12, arm_date="yesterday", saturation_value=-1, goniometer=[])
    messages[5] = image(pixels[4], 4, real_time=[0, 0], series_date="today")
    dcu.send(messages)
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    (line,) = [record.message for record in caplog.records if "not understood" in record.message]
    assert "arm_date is text 'yesterday'" in line
    assert "saturation_value is -1" in line
    assert "goniometer is an array" in line


def test_masked_pixels_count_as_nothing(dcu, pixels):
    pixels = pixels.copy()
    pixels[:, 12, 16] = 65535  # no data
    pixels[:, 10, 16] = 40000  # hot, and in the user's mask
    mask = np.zeros(pixels.shape[1:], bool)
    mask[10, 16] = True
    dcu.send(series(pixels))
    (raster,) = take(dcu, pixel_mask=mask)
    clean = pixels.copy()
    clean[:, 12, 16] = clean[:, 10, 16] = 0
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(clean))


def test_the_detectors_own_pixel_mask_is_used(dcu, pixels):
    dcu.send(masked_series(pixels, (11, 15)))
    (raster,) = take(dcu)
    clean = pixels.copy()
    clean[:, 11, 15] = 0
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(clean))


@pytest.mark.parametrize("detectors", [True, False], ids=["beside the detector's", "alone"])
def test_the_users_pixel_mask_holds_for_images_and_mean_pattern(dcu, pixels, detectors):
    """Both masks, or its own: those pixels are in no sum and have no mean."""
    users = np.zeros(pixels.shape[1:], bool)
    users[12, 16] = users[2, 3] = True
    bad = users.copy()
    if detectors:
        bad[11, 15] = bad[20, 20] = True
    dcu.send(masked_series(pixels, (11, 15), (20, 20)) if detectors else series(pixels))
    (raster,) = take(dcu, pixel_mask=users, methods=[DISK, MeanPattern()])
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels * ~bad))
    np.testing.assert_allclose(
        raster.outputs["pattern"], np.where(bad, np.nan, pixels.mean(axis=0)), rtol=1e-12
    )


def test_gain_weighs_pixels(dcu, pixels):
    gain = np.random.default_rng(3).uniform(0.8, 1.2, pixels.shape[1:])
    dcu.send(series(pixels))
    (raster,) = take(dcu, gain=gain)
    np.testing.assert_allclose(raster.outputs["vbf"], expected(pixels * gain), rtol=1e-12)


def test_the_mean_pattern_leaves_no_data_out(dcu, pixels):
    pixels = pixels.copy()
    pixels[0, 5, 5] = 65535
    pixels[:, 6, 6] = 65535
    dcu.send(series(pixels))
    (raster,) = take(dcu, methods=[DISK, MeanPattern()])
    truth = np.where(pixels == 65535, np.nan, pixels.astype(float))
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(truth).sum(axis=0)
        mean = np.where(counts > 0, np.nansum(truth, axis=0) / np.maximum(counts, 1), np.nan)
    np.testing.assert_allclose(raster.outputs["pattern"], mean, rtol=1e-12)
    assert np.isnan(raster.outputs["pattern"][6, 6])


def test_without_nodata_the_mean_pattern_counts_every_value(dcu, pixels):
    pixels = pixels.copy()
    pixels[0, 5, 5] = pixels[3, 12, 16] = 65535
    dcu.send(series(pixels))
    (raster,) = take(dcu, methods=[DISK, MeanPattern()], nodata=False)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    np.testing.assert_allclose(raster.outputs["pattern"], pixels.mean(axis=0), rtol=1e-12)


def test_a_pixel_that_held_a_count_in_one_frame_only_has_that_for_its_mean(dcu, pixels):
    pixels = pixels.copy()
    pixels[:, 5, 5] = 65535
    pixels[7, 5, 5] = 3
    dcu.send(series(pixels))
    (raster,) = take(dcu, methods=[DISK, MeanPattern()])
    assert raster.outputs["pattern"][5, 5] == 3


def test_flyback_and_serpentine_scans(dcu):
    grid = ScanGrid(3, 4, serpentine=True, flyback=2, lead_in=1)
    pixels = frames(grid.frames)
    dcu.send(series(pixels))
    (raster,) = take(dcu, grid)
    sums = expected(pixels, ScanGrid(1, grid.frames)).ravel()
    np.testing.assert_array_equal(raster.outputs["vbf"][0], sums[1:5])
    np.testing.assert_array_equal(raster.outputs["vbf"][1], sums[7:11][::-1])
    assert raster.losses.received == grid.frames


@pytest.mark.parametrize("rasters", [1, 3])
def test_a_scan_without_flyback_after_its_last_line_is_whole_with_its_last_position(dcu, rasters):
    """The detector waits for no pulse more: `end` comes, or the raster is over without it."""
    grid = ScanGrid(3, 4, flyback=2, last_flyback=False)
    pixels = frames(rasters * grid.frames)
    dcu.send(series(pixels)[:-1])
    sums = expected(pixels, ScanGrid(rasters, grid.frames))
    for raster, line in zip(take(dcu, grid, rasters=rasters, timeout=30), sums):
        np.testing.assert_array_equal(raster.outputs["vbf"], np.stack([line[0:4], line[6:10], line[12:16]]))
        assert (raster.losses.expected, raster.losses.lost) == (16, 0)


def test_a_movie_is_one_series_of_rasters(dcu):
    pixels = frames(3 * GRID.frames)
    dcu.send(series(pixels))
    rasters = take(dcu, rasters=3)
    for n, raster in enumerate(rasters):
        part = pixels[n * GRID.frames : (n + 1) * GRID.frames]
        assert raster.index == n
        np.testing.assert_array_equal(raster.outputs["vbf"], expected(part))


def test_a_movie_holds_the_rasters_that_are_not_over_only(dcu):
    """What is yielded is the caller's; a movie of thousands of rasters would fill the memory."""
    pixels = frames(3 * GRID.frames)
    dcu.send(series(pixels))
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, (DISK,), timeout=2.0, rasters=3)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        acquisition = Acquisition(request, stream)
        for raster in acquisition.run():
            imaging = acquisition.series.projection.imaging
            for over in range(raster.index):
                assert np.isnan(imaging.result(over)["vbf"]).all()
            np.testing.assert_array_equal(imaging.result(raster.index)["vbf"], raster.outputs["vbf"])
    assert raster.index == 2
    assert acquisition.series.projection.imaging is None


def test_a_movie_counts_losses_by_raster(dcu):
    pixels = frames(3 * GRID.frames)
    messages = series(pixels)
    del messages[1 + 14], messages[1 + 2]
    dcu.send(messages)
    assert [r.losses.lost for r in take(dcu, rasters=3)] == [1, 1, 0]


def test_several_connections_share_the_work(dcu):
    grid = ScanGrid(16, 16)
    pixels = frames(grid.frames)
    with closing(OpenStream(DectrisSource(dcu.endpoint, connections=3))) as stream:
        assert stream.connected(2)
        dcu.send(series(pixels))
        (raster,) = take(dcu, grid, stream=stream, connections=3)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels, grid))


def test_several_connections_do_without_a_start(dcu, pixels, caplog):
    with closing(OpenStream(DectrisSource(dcu.endpoint, connections=2))) as stream:
        assert stream.connected(2)
        request = AcquisitionRequest(DectrisSource(dcu.endpoint, connections=2), GRID, (DISK,), timeout=3.0)
        acquisition = Acquisition(request, stream)
        acquisition.series.source.expect((1, 0))  # as if armed
        dcu.send(series(pixels)[1:])
        (raster,) = acquisition.run()
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert "no start message came" in caplog.text


def test_one_odd_first_image_does_not_spoil_the_rest(dcu, pixels):
    messages = series(pixels)
    announced = {"image_size_x": 32, "image_size_y": 24, "image_dtype": "uint16"}
    messages[0] = start(number_of_images=12, **announced)
    messages[1] = image(np.zeros((4, 4), "uint32"), 0)
    dcu.send(messages)
    (raster,) = take(dcu)
    assert (raster.losses.received, raster.losses.bad) == (11, 1)
    np.testing.assert_array_equal(raster.outputs["vbf"].flat[1:], expected(pixels).flat[1:])


def test_a_mask_that_does_not_decode_costs_the_mask_not_the_scan(dcu, pixels, caplog):
    broken = cbor2.CBORTag(40, [[24, 32], cbor2.CBORTag(70, cbor2.CBORTag(56500, ["bslz4", 4, bytes(30)]))])
    messages = series(pixels)
    messages[0] = start(number_of_images=12, pixel_mask={"threshold_1": broken})
    dcu.send(messages)
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert "pixel mask is not used" in caplog.text


def test_noise_on_the_stream_does_not_keep_a_wait_alive(dcu):
    done = threading.Event()

    def noise():
        while not done.is_set():
            yield b"{}"

    dcu.send(message for message, _ in zip(noise(), range(200_000)))
    try:
        with pytest.raises(NothingCame):
            take(dcu, timeout=0.3)
    finally:
        done.set()
        dcu.stop_sending()


@pytest.mark.parametrize(
    ("kept", "last"),
    [(slice(None), "arm"), (slice(0, 8), "disarm"), (slice(0, 1), "abort")],
    ids=["whole series", "silence after half", "no frame"],
)
def test_the_detector_is_released_however_the_series_ends(dcu, pixels, kept, last):
    control = FakeControl()
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        assert stream.connected(2)
        request = AcquisitionRequest(DectrisSource(dcu.endpoint, simplon=control), GRID, (DISK,), timeout=0.4)
        dcu.send(series(pixels)[kept])
        try:
            list(Acquisition(request, stream).run())
        except NothingCame:
            assert last == "abort"
    assert control.heard[-2:] == [last, "put back"]


def test_a_detector_that_was_never_armed_gets_its_settings_back(dcu, pixels):
    control = FakeControl()
    dead = "tcp://127.0.0.1:9"
    with closing(OpenStream(DectrisSource(dead))) as stream:
        request = AcquisitionRequest(DectrisSource(dead, simplon=control), GRID, (DISK,), timeout=0.2)
        with pytest.raises(NoStream, match="Nothing was armed: is that its address"):
            list(Acquisition(request, stream).run())
    assert control.heard == ["configure 1 x 12", "put back"]


class SoftwareTriggered(FakeControl):
    """Its trigger fails as when the control unit dies, once ``dies`` is set."""

    software_triggered = True

    def __init__(self):
        super().__init__()
        self.dies = threading.Event()

    def trigger(self):
        assert self.dies.wait(20)
        raise SimplonError("PUT trigger: connection reset")


def take_triggered(dcu, control, messages, dies_after, timeout=1.0):
    """The raster of ``messages``, the control unit dying when ``dies_after`` of its frames have come."""
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        assert stream.connected(2)
        request = AcquisitionRequest(
            DectrisSource(dcu.endpoint, simplon=control), GRID, (DISK,), timeout=timeout
        )
        acquisition = Acquisition(request, stream)
        acquisition.on_progress = lambda: (
            control.dies.set() if acquisition.progress().frames_received >= dies_after else None
        )
        dcu.send(messages)
        (raster,) = acquisition.run()
    return raster


def test_a_control_unit_that_dies_during_its_trigger_costs_only_what_did_not_come(dcu, pixels, caplog):
    """After ``timeout`` of silence, as when pulses trigger the detector."""
    control = SoftwareTriggered()
    raster = take_triggered(dcu, control, series(pixels)[:6], dies_after=5)
    truth = expected(pixels)
    truth.flat[5:] = np.nan
    np.testing.assert_array_equal(raster.outputs["vbf"], truth)
    assert (raster.losses.received, raster.losses.lost, raster.losses.bad) == (5, 7, 0)
    assert "the software trigger failed: PUT trigger: connection reset" in caplog.text
    assert control.heard[-2:] == ["disarm", "put back"]


def test_images_that_come_on_after_the_trigger_has_failed_are_taken(dcu, pixels):
    control = SoftwareTriggered()

    def messages():
        yield from series(pixels)[:6]
        assert control.dies.wait(20)
        time.sleep(STRAGGLER_S + 0.2)  # a silence after which nothing that came would have been thrown away
        yield from series(pixels)[6:]

    raster = take_triggered(dcu, control, messages(), dies_after=5, timeout=10.0)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))


@pytest.mark.parametrize("ended", [False, True], ids=["silence", "an end message"])
def test_when_nothing_came_the_failed_trigger_is_the_reason(dcu, pixels, ended):
    messages = [series(pixels)[0], end()] if ended else series(pixels)[:1]
    control = SoftwareTriggered()
    control.dies.set()
    began = time.monotonic()
    with pytest.raises(SimplonError, match="connection reset"):
        take_triggered(dcu, control, messages, dies_after=0, timeout=20.0)
    assert time.monotonic() - began < 10
    assert control.heard[-1] == "put back"


class SlowControl(FakeControl):
    """A detector that answers `arm` when the test lets it."""

    def __init__(self):
        super().__init__()
        self.asked, self.answer = threading.Event(), threading.Event()

    def arm(self):
        self.heard.append("arm")
        self.asked.set()
        assert self.answer.wait(10)
        return 1


@contextmanager
def arming(dcu, control):
    """An acquisition that waits for the answer to `arm`, its stream, and where its error will be."""
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        request = AcquisitionRequest(DectrisSource(dcu.endpoint, simplon=control), GRID, (DISK,), timeout=2.0)
        acquisition, errors = Acquisition(request, stream), []

        def run():
            try:
                list(acquisition.run())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert control.asked.wait(60)
        yield acquisition, stream, errors
        control.answer.set()
        thread.join(10)
        assert not thread.is_alive()


def test_connections_are_dropped_at_once_also_while_the_detector_is_asked(dcu):
    control = SlowControl()
    with arming(dcu, control) as (acquisition, stream, errors):
        assert dcu._socket.poll(2000, zmq.POLLOUT)
        acquisition.cancel()
        stream.close()
        assert not stream.connected()
        assert not control.answer.is_set()
        deadline = time.monotonic() + 5
        while dcu._socket.poll(0, zmq.POLLOUT):  # a stream that somebody is connected to
            assert time.monotonic() < deadline
    assert [type(error) for error in errors] == [Cancelled]
    assert control.heard[-2:] == ["abort", "put back"]


def test_a_series_that_another_session_armed_meanwhile_is_not_ended(dcu, caplog):
    control = SlowControl()
    with arming(dcu, control) as (acquisition, _, errors):
        acquisition.cancel()
        control.header = '{"engine":"another"}'
    assert [type(error) for error in errors] == [Cancelled]
    assert control.heard[-1] == "arm"
    assert "http://fake has been armed by another session meanwhile: it is left as it is" in caplog.text


def test_a_detector_without_a_header_is_released_all_the_same(dcu):
    control = SlowControl()
    control.get = lambda *_: ""
    with arming(dcu, control) as (acquisition, *_):
        acquisition.cancel()
    assert control.heard[-2:] == ["abort", "put back"]


def test_an_engine_waits_for_another_that_has_the_detector(dcu, pixels, caplog):
    first, second = SlowControl(), FakeControl()
    done = []
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        request = AcquisitionRequest(DectrisSource(dcu.endpoint, simplon=second), GRID, (DISK,), timeout=2.0)
        waiting = threading.Thread(target=lambda: done.extend(Acquisition(request, stream).run()))
        with arming(dcu, first) as (acquisition, theirs, _):
            waiting.start()
            while "used by another engine" not in caplog.text:
                assert waiting.is_alive()
            acquisition.cancel()
            theirs.close()
            dcu.wait_for_leaving(1)  # else half of the frames went its way
            assert second.heard == []
        dcu.send(series(pixels))
        waiting.join(10)
    assert first.heard[-2:] == ["abort", "put back"]
    np.testing.assert_array_equal(done[0].outputs["vbf"], expected(pixels))
    assert f"is used by another engine on this machine (process {os.getpid()}): waiting for it" in caplog.text


def test_an_engine_that_keeps_the_detector_is_named(dcu, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.engine.acquisition.CLAIM_TIMEOUT_S", 0.1)
    request = AcquisitionRequest(
        DectrisSource(dcu.endpoint, simplon=FakeControl()), GRID, (DISK,), timeout=2.0
    )
    words = rf"used by another engine on this machine \(process {os.getpid()}\), for more than 0.1 s"
    with arming(dcu, SlowControl()) as (acquisition, stream, _):
        acquisition.cancel()
        with pytest.raises(DetectorInUse, match=words):
            list(Acquisition(request, stream).run())


def test_an_armed_series_beside_another_one_says_so_in_one_text(dcu, pixels, caplog):
    control = FakeControl()
    control.arm = lambda: 2
    dcu.send(series(pixels, 1, "A"))
    words = r"series 2 was armed and brought no frame within 0\.4 s, but 12 frames of series 1 came from tcp"
    with pytest.raises(NothingCame, match=words):
        take(dcu, timeout=0.4, control=control)
    assert not [record for record in caplog.records if "series 1" in record.message]


def test_frames_of_an_earlier_series_of_the_same_number_are_left_alone(dcu, pixels):
    """A restarted detector counts its series from 1 again, and frames of the old one may still be under way."""
    control = FakeControl()
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        assert stream.connected(2)
        request = AcquisitionRequest(DectrisSource(dcu.endpoint, simplon=control), GRID, (DISK,), timeout=2.0)
        old = series(pixels[::-1], unique_id="01OLDSERIESOLDSERIESOLDSER")
        dcu.send(old)
        list(Acquisition(request, stream).run())
        dcu.send([*old[1:5], *series(pixels)])
        (raster,) = Acquisition(request, stream).run()
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert raster.losses.foreign == 4


def test_rates_of_a_movie_are_those_of_its_rasters(dcu):
    pixels = frames(3 * GRID.frames)
    dcu.send(series(pixels))
    rates = [raster.rate_hz for raster in take(dcu, rasters=3)]
    assert all(rate > 0 for rate in rates)


def test_a_preview_of_a_finished_raster_is_still_that_raster(dcu, pixels):
    dcu.send(series(pixels))
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, (DISK,), timeout=2.0)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        acquisition = Acquisition(request, stream)
        for _ in acquisition.run():
            np.testing.assert_array_equal(acquisition.preview()["vbf"], expected(pixels))


def test_images_of_other_series_are_left_alone(dcu, pixels):
    strays = [image(pixels[0] * 7, n, series_id=99, unique_id="OLD") for n in range(5)]
    first, *rest = series(pixels)
    dcu.send([*strays, first, *strays, *rest])
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert raster.losses.foreign == 10


def test_a_series_that_is_over_holds_nothing_that_was_made_for_its_frames(dcu, pixels):
    """Gigabytes, for large frames; and the search for garbage may not come by for long."""
    source = DectrisSource(dcu.endpoint)
    request = AcquisitionRequest(source, GRID, (DISK,), timeout=2.0)
    gc.disable()
    try:
        with closing(OpenStream(source)) as stream:
            acquisition = Acquisition(request, stream)
            dcu.send(series(pixels))
            list(acquisition.run())
            made, kept = weakref.ref(stream.preparation), acquisition.series
        del stream, acquisition
        assert made() is None
    finally:
        gc.enable()
    assert kept.name  # who took it may keep it


def test_late_images_of_a_finished_series_do_not_leak_into_the_next(dcu, pixels):
    other = frames(GRID.frames, seed=5)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(series(pixels, 1, "A"))
        take(dcu, stream=stream)
        late = [start(1, "A", 12), *(image(pixels[0] * 3, n, 1, "A") for n in range(12))]
        dcu.send([*late, *series(other, 1, "B")])  # a restarted detector counts from 1 again
        (raster,) = take(dcu, stream=stream)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(other))


def test_no_end_message_costs_a_moment_not_the_image(dcu, pixels):
    dcu.send(series(pixels)[:-1])
    (raster,) = take(dcu, timeout=30)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))


def test_a_stream_that_stops_gives_what_came(dcu, pixels, caplog):
    dcu.send(series(pixels)[:8])
    (raster,) = take(dcu, timeout=0.5)
    assert (raster.losses.received, raster.losses.lost) == (7, 5)
    assert "without an end message" in caplog.text


def test_a_second_start_ends_the_series(dcu, pixels, caplog):
    dcu.send([*series(pixels)[:6], *series(pixels, 2, "B")])
    (raster,) = take(dcu)
    assert (raster.series_id, raster.losses.received, raster.losses.lost) == (1, 5, 7)
    assert "series 2 began before series 1 was over" in caplog.text


def test_what_follows_a_series_is_there_for_the_next_acquisition(dcu, pixels):
    other = frames(GRID.frames, seed=5)
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send([*series(pixels, 1, "A")[:-3], *series(other, 2, "B"), *series(pixels, 3, "C")])
        (cut_off,) = take(dcu, stream=stream)
        rasters = [take(dcu, stream=stream)[0] for _ in range(2)]
        assert stream._opened.memory.left_over == []  # taken once, and freed
    assert cut_off.losses.lost == 2
    np.testing.assert_array_equal([r.outputs["vbf"] for r in rasters], [expected(other), expected(pixels)])
    assert [raster.losses.foreign for raster in rasters] == [0, 0]


def test_a_start_without_images_gives_way_to_the_next(dcu, pixels):
    dcu.send([start(1, "A", 12), *series(pixels, 2, "B")])
    (raster,) = take(dcu)
    assert raster.series_id == 2
    assert raster.losses.received == 12


def test_more_images_than_the_grid_holds_are_ignored_and_said(dcu, caplog):
    pixels = frames(GRID.frames + 5)
    first, *images, last = series(pixels)
    dcu.send([first, *images[::-1], last])  # the frames beyond come before the raster is whole
    (raster,) = take(dcu)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels[: GRID.frames]))
    assert raster.losses.beyond == 5
    assert "does the scan grid match" in caplog.text


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no series began"),
        ([start()], "brought no frame"),
        ([start(), end()], "ended without a frame"),
        ([image(frames(1)[0], 0)], "1 frames of other series"),
        ([start(), image(frames(1)[0], 0)[:80], end()], "1 were refused"),
        ([[b'{"htype":"dheader-1.0"}', b"{}"]], "stream v1"),
        ([start(), image(frames(1)[0], 400), end()], "beyond the 12 of the grid"),
    ],
)
def test_nothing_to_show_is_an_error_that_says_why(dcu, messages, words):
    dcu.send(messages)
    with pytest.raises(NothingCame, match=words):
        take(dcu, timeout=0.4)


def test_a_dead_endpoint_is_an_error_that_names_it():
    request = AcquisitionRequest(DectrisSource("tcp://127.0.0.1:9"), GRID, (DISK,), timeout=0.3)
    with (
        closing(OpenStream(request.source)) as stream,
        pytest.raises(NothingCame, match=r"127\.0\.0\.1:9"),
    ):
        list(Acquisition(request, stream).run())


def test_the_next_acquisition_works_after_a_failed_one(dcu, pixels):
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        with pytest.raises(NothingCame):
            take(dcu, timeout=0.2, stream=stream)
        dcu.send(series(pixels))
        (raster,) = take(dcu, stream=stream)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))


def test_cancel_ends_the_wait_and_what_came_does_not_leak(dcu, pixels):
    with closing(OpenStream(DectrisSource(dcu.endpoint))) as stream:
        dcu.send(series(pixels, 1, "A")[:5])
        request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, (DISK,), timeout=30)
        acquisition = Acquisition(request, stream)
        acquisition.on_progress = lambda: acquisition.cancel() if acquisition.tracker.finished == 4 else None
        with pytest.raises(Cancelled):
            list(acquisition.run())
        dcu.send([*series(pixels, 1, "A")[5:], *series(pixels, 2, "B")])
        (raster,) = take(dcu, stream=stream)
    assert raster.series_id == 2
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels))
    assert raster.losses.foreign == 8


def test_no_thread_is_left_behind(dcu, pixels):
    dcu.send(series(pixels))
    take(dcu)
    dcu.wait()
    assert not [t for t in threading.enumerate() if t.name.startswith("live4d-receive")]


def test_a_detector_off_the_frame_is_refused_by_name(dcu, pixels):
    dcu.send(series(pixels))
    with pytest.raises(ValueError, match="far"):
        take(dcu, methods=[Disk("far", center=(500, 500), radius=3)])


def test_a_message_larger_than_the_buffer_arrives_whole(dcu):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60000, (2, 3000, 4000)).astype("uint16")  # does not compress: 24 MB a message
    big = Disk("vbf", center=(1500, 2000), radius=800)
    dcu.send(series(pixels))
    (raster,) = take(dcu, ScanGrid(1, 2), [big], timeout=20)
    np.testing.assert_array_equal(raster.outputs["vbf"], expected(pixels, ScanGrid(1, 2), big))
