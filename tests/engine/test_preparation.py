"""Weights are made before the frames come, once for all series that want the same, and never count as silence."""

import threading
import time
from contextlib import closing, suppress

import cbor2
import numpy as np
import pytest

from live4d_ophyd.decode import FrameFormat
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine import preparation as module
from live4d_ophyd.engine.acquisition import OpenStream
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.engine.frame_format import BELIEVED_PIXELS
from live4d_ophyd.engine.projection import Projection
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing.small_dcu import SmallDcu, end, frames, image, series, start

GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.fixture
def stream():
    with closing(SmallDcu()) as small, closing(OpenStream(DectrisSource(small.endpoint))) as stream:
        stream.dcu = small
        yield stream


@pytest.fixture
def made(monkeypatch):
    """The methods of each time that weights were made."""
    made = []
    really = module._prepared

    def prepare(request, *args):
        made.append(request.methods)
        return really(request, *args)

    monkeypatch.setattr(module, "_prepared", prepare)
    return made


@pytest.fixture
def pixels():
    return frames(GRID.frames)


def acquisition(stream, timeout=20.0, disk=DISK, **options):
    return Acquisition(AcquisitionRequest(stream.source, GRID, (disk,), timeout=timeout, **options), stream)


def sums(pixels, disk=DISK):
    return (pixels * disk.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape).astype(float)


def mask_of(*bad):
    mask = np.zeros((24, 32), "<u4")
    for row, col in bad:
        mask[row, col] = 1
    return {"threshold_1": cbor2.CBORTag(40, [[24, 32], cbor2.CBORTag(70, mask.tobytes())])}


def test_preparing_is_not_silence(stream, pixels, monkeypatch):
    """However long it takes: every frame is there."""
    prepared = threading.Event()
    really = module._prepared

    def prepare(*args):
        assert prepared.wait(60)
        return really(*args)

    monkeypatch.setattr(module, "_prepared", prepare)
    scan = acquisition(stream, timeout=0.2)
    began = time.monotonic()
    scan.on_progress = lambda: prepared.set() if time.monotonic() - began > 0.8 else None
    stream.dcu.send(series(pixels))
    (raster,) = scan.run()
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))


def test_what_start_tells_is_prepared_before_the_first_image(stream, pixels, made):
    scan = acquisition(stream)
    images = [image(frame, n) for n, frame in enumerate(pixels)]

    def send_images_when_all_is_prepared():
        if made and images:
            assert not scan.tracker.begun
            stream.dcu.send([*images, end()])
            images.clear()

    scan.on_progress = send_images_when_all_is_prepared
    stream.dcu.send(
        [
            start(
                number_of_images=12,
                channels=["threshold_1"],
                image_size_x=32,
                image_size_y=24,
                image_dtype="uint16",
            )
        ]
    )
    (raster,) = scan.run()
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))
    assert len(made) == 1


def test_nothing_is_prepared_before_it_is_known_whose_mask_holds(stream, pixels, made):
    """Without a channel in start, the first frame names it."""
    said = {"image_size_x": 32, "image_size_y": 24, "pixel_mask": mask_of((12, 16))}
    stream.dcu.send([start(number_of_images=12, **said), *series(pixels)[1:]])
    (raster,) = acquisition(stream).run()
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels) - pixels[:, 12, 16].reshape(GRID.shape))
    assert len(made) == 1


def test_connections_that_bring_the_first_images_together_prepare_once(pixels, monkeypatch):
    """Images that were summed under the other's weights would be lost with them."""
    made, together = [], threading.Barrier(2)
    came, both_came, begun = set(), threading.Event(), threading.Event()
    really, really_accept = module._prepared, Projection.accept

    def messages():
        begin, *others = series(pixels)
        yield begin
        assert begun.wait(10)  # what overtakes it comes in with it, on its connection
        yield from others

    def accept(*args):
        came.add(threading.get_ident())
        if len(came) == 2:
            both_came.set()
        assert both_came.wait(10)
        return really_accept(*args)

    def prepare(*args):
        made.append(args)
        with suppress(threading.BrokenBarrierError):
            together.wait(0.5)  # for the other connection, unless a lock keeps it out
        return really(*args)

    monkeypatch.setattr(Projection, "prepare_early", lambda projection: begun.set())
    monkeypatch.setattr(Projection, "accept", accept)
    monkeypatch.setattr(module, "_prepared", prepare)
    with (
        closing(SmallDcu()) as dcu,
        closing(OpenStream(DectrisSource(dcu.endpoint, connections=2))) as stream,
    ):
        assert stream.connected(10)
        scan = acquisition(stream)
        dcu.send(messages(), clients=2)
        (raster,) = scan.run()
    assert len(made) == 1
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))


def odd_gain():
    gain = np.ones((24, 32))
    gain[0, 0] = np.nan  # on no detector
    return gain


@pytest.mark.parametrize(
    "asked",
    [
        dict,
        lambda: {"pixel_mask": np.eye(24, 32, k=-20, dtype=bool)},
        lambda: {"pixel_mask": np.eye(24, 32, k=-20, dtype=np.uint32)},
        lambda: {"gain": odd_gain()},
        lambda: {"gain": np.ones((24, 32), np.float32), "pixel_mask": np.zeros((24, 32), int)},
    ],
    ids=["nothing", "a mask", "a mask of bits", "a gain with NaN", "both"],
)
def test_series_that_want_the_same_share_it(stream, pixels, made, asked):
    """Also where the arrays are others of the same elements."""
    for number in (1, 2, 3):
        stream.dcu.send(series(pixels, number, f"ID{number}"))
        (raster,) = acquisition(stream, **asked()).run()
        np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))
    assert len(made) == 1


def test_whatever_changes_is_made_anew(stream, pixels, made):
    bad = np.zeros((24, 32), bool)
    bad[13, 16] = True
    other = Disk("vbf", center=(10, 14), radius=5)
    gain = np.full((24, 32), 2.0)
    cases = [
        ({}, {}, sums(pixels)),
        ({"pixel_mask": mask_of((12, 16))}, {}, sums(pixels) - pixels[:, 12, 16].reshape(GRID.shape)),
        ({"pixel_mask": mask_of((11, 16))}, {}, sums(pixels) - pixels[:, 11, 16].reshape(GRID.shape)),
        ({}, {"pixel_mask": bad}, sums(pixels) - pixels[:, 13, 16].reshape(GRID.shape)),
        ({}, {}, sums(pixels)),
        ({}, {"gain": gain}, 2 * sums(pixels)),
        ({}, {"gain": 2 * gain}, 4 * sums(pixels)),
        ({}, {"disk": other}, sums(pixels, other)),
    ]
    for number, (said, asked, expected) in enumerate(cases, 1):
        stream.dcu.send(
            [start(number, f"ID{number}", 12, **said), *series(pixels, number, f"ID{number}")[1:]]
        )
        (raster,) = acquisition(stream, **asked).run()
        np.testing.assert_array_equal(raster.outputs["vbf"], expected)
    assert len(made) == len(cases)


@pytest.mark.parametrize(
    ("said", "asked", "warned"),
    [
        ({}, {}, "does not say that the detector applies"),
        ({"pixel_mask_enabled": False}, {}, "denies that the detector applies"),
        ({"pixel_mask_enabled": True}, {}, None),
        ({"pixel_mask": mask_of((12, 16))}, {}, None),
        ({"pixel_mask": {"other": mask_of()["threshold_1"]}}, {}, "no pixel mask of channel 'threshold_1'"),
        ({}, {"pixel_mask": np.zeros((24, 32), bool)}, None),
    ],
    ids=["nothing known", "switched off", "applied", "sent", "sent for another channel", "given"],
)
def test_that_no_pixel_is_masked_is_said_once(stream, pixels, caplog, said, asked, warned):
    for number in (1, 2):
        stream.dcu.send(
            [start(number, f"ID{number}", 12, **said), *series(pixels, number, f"ID{number}")[1:]]
        )
        list(acquisition(stream, **asked).run())
    lines = [record.message for record in caplog.records if "no pixel is masked" in record.message]
    assert len(lines) == (0 if warned is None else 1)
    if warned is not None:
        assert warned in lines[0]


def test_another_detector_is_made_for_the_frames_of_the_last_series_before_arming(stream, made, pixels):
    stream.dcu.send(series(pixels, 1, "A"))
    list(acquisition(stream).run())
    moved = Disk("vbf", center=(10, 10), radius=4)
    stream.preparation.prepare_again(acquisition(stream, disk=moved).request)
    assert made == [(DISK,), (moved,)]
    stream.dcu.wait()
    stream.dcu.send(series(pixels, 2, "B"))
    (raster,) = acquisition(stream, disk=moved).run()
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels, moved))
    assert made == [(DISK,), (moved,)]


def test_a_detector_that_does_not_fit_the_last_series_is_not_refused_before_the_next(stream, pixels):
    """The frames may be others by then."""
    stream.dcu.send(series(pixels, 1, "A"))
    list(acquisition(stream).run())
    stream.preparation.prepare_again(
        acquisition(stream, disk=Disk("vbf", center=(500, 500), radius=4)).request
    )


def test_a_method_that_is_slow_is_not_silence(stream, pixels, monkeypatch):
    """However long it takes with a frame: every frame is there."""
    from live4d_ophyd.imaging.accumulators import Scatter

    really, slept = Scatter.add, threading.Event()

    def add(self, *args):
        if not slept.is_set():
            time.sleep(0.5)
            slept.set()
        really(self, *args)

    monkeypatch.setattr(Scatter, "add", add)
    stream.dcu.send(series(pixels)[:-1])  # no `end`: the series is over when it has been silent
    (raster,) = acquisition(stream, timeout=0.25).run()
    assert slept.is_set()
    np.testing.assert_array_equal(raster.outputs["vbf"], sums(pixels))


def known(rows, cols):
    return SeriesInfo(key=(1, 0), format=FrameFormat(rows, cols, np.dtype("<u2")), frames=None)


def test_what_was_made_for_a_huge_detector_is_freed_when_none_of_its_frames_came():
    preparation = module.Preparation()
    request = AcquisitionRequest(DectrisSource("tcp://127.0.0.1:1"), GRID, (Disk("vbf", radius=3),))
    preparation.prepare(request, known(1, BELIEVED_PIXELS + 1), {})
    assert preparation.knows((1, BELIEVED_PIXELS + 1))
    preparation.free_if_large()
    assert preparation._prepared is None
    assert not preparation.knows((1, BELIEVED_PIXELS + 1))


def test_outputs_may_be_as_large_as_a_raster_may_have_and_no_larger(monkeypatch):
    request = AcquisitionRequest(DectrisSource("tcp://127.0.0.1:1"), GRID, (DISK,))
    monkeypatch.setattr(module, "MAX_OUTPUTS_BYTES", 8 * GRID.size)
    module.Preparation().prepare(request, known(24, 32), {})
    monkeypatch.setattr(module, "MAX_OUTPUTS_BYTES", 8 * GRID.size - 1)
    with pytest.raises(ValueError, match="the outputs of vbf are 0 MiB; a raster may have"):
        module.Preparation().prepare(request, known(24, 32), {})


def test_what_was_made_for_a_usual_detector_stays_for_the_next_series():
    preparation = module.Preparation()
    request = AcquisitionRequest(DectrisSource("tcp://127.0.0.1:1"), GRID, (Disk("vbf", radius=3),))
    preparation.prepare(request, known(24, 32), {})
    preparation.free_if_large()
    assert preparation.knows((24, 32))


def test_an_image_that_cannot_be_what_it_claims_is_bad_and_does_not_tell_the_format(stream, made, pixels):
    blob = cbor2.CBORTag(56500, ["bslz4", 2, bytes(28)])
    data = {"threshold_1": cbor2.CBORTag(40, [[8192, 8192], cbor2.CBORTag(69, blob)])}
    stream.dcu.send(
        [start(), image(pixels[0], 0, data=data), *(image(p, n) for n, p in enumerate(pixels) if n), end()]
    )
    run = acquisition(stream, timeout=1.0)
    (raster,) = run.run()
    assert (raster.losses.lost, raster.losses.bad) == (0, 1)
    assert "its 28 bytes cannot be 8192 x 8192 px" in run.series.reasons
    np.testing.assert_array_equal(raster.outputs["vbf"].ravel()[1:], sums(pixels).ravel()[1:])


@pytest.mark.parametrize(
    ("content", "early"), [(28, False), (1 << 20, True)], ids=["in 28 bytes", "in as many bytes as it needs"]
)
def test_a_huge_detector_is_prepared_for_early_only_with_a_mask_of_its_size(stream, made, content, early):
    side = 4096
    blob = cbor2.CBORTag(56500, ["bslz4", 4, (side * side * 4).to_bytes(8, "big") + bytes(content - 8)])
    mask = cbor2.CBORTag(40, [[side, side], cbor2.CBORTag(70, blob)])
    size = {"image_size_x": side, "image_size_y": side, "image_dtype": "uint16", "channels": ["threshold_1"]}
    stream.dcu.send([start(pixel_mask={"threshold_1": mask}, **size), end()])
    with suppress(NothingCame):
        next(acquisition(stream, timeout=1.0).run())
    assert bool(made) is early


def test_a_frame_of_an_algorithm_that_is_not_known_is_bad_and_names_it(stream, made, pixels):
    blob = cbor2.CBORTag(56500, ["rot13", 2, pixels[0].tobytes()])
    data = {"threshold_1": cbor2.CBORTag(40, [list(pixels[0].shape), cbor2.CBORTag(69, blob)])}
    for at in (0, 5):  # before the format is known, and after
        sent = [
            image(frame, n, at + 1, **({"data": data} if n == at else {})) for n, frame in enumerate(pixels)
        ]
        stream.dcu.send([start(at + 1), *sent, end(at + 1)])
        run = acquisition(stream, timeout=1.0)
        (raster,) = run.run()
        assert (raster.losses.lost, raster.losses.bad) == (0, 1)
        assert "unknown compression algorithm: rot13" in run.series.reasons
