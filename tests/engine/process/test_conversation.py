"""What an engine may say of an acquisition: the right events pass, every other is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from live4d_ophyd.engine import AcquisitionRequest, Losses, RasterResult
from live4d_ophyd.engine.errors import ProtocolError
from live4d_ophyd.engine.process.conversation import Conversation
from live4d_ophyd.engine.process.protocol import Armed, Done, Failed, Failure, ProgressMade, RasterDone
from live4d_ophyd.engine.results import Progress
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource

GRID = ScanGrid(4, 4)
DETECTORS = (Disk("vbf", center=(2, 2), radius=1), Disk("bf", center=(2, 2), radius=2))
ARMED, DONE = Armed(7), Done(7)


def request(methods=DETECTORS, **options):
    return AcquisitionRequest(DectrisSource("tcp://dcu:31001"), GRID, methods, **options)


def raster(index=0, **changes):
    outputs = {"vbf": np.ones((4, 4)), "bf": np.ones((4, 4))}
    good = RasterResult(index, outputs, Losses(16, 14, 1, 1), series_id=3, rate_hz=1e3, backend="cpu")
    return RasterDone(7, replace(good, **changes))


def given(bf, **more):
    return raster(outputs={"vbf": np.ones((4, 4)), "bf": bf, **more})


def progress(outputs=None, **changes):
    return ProgressMade(7, replace(Progress(3, 16, 1e3, 0), **changes), outputs)


def test_done_without_armed_is_refused():
    """The device waits for what the detector was armed with."""
    said = Conversation(7, request())
    said.accept(raster())
    with pytest.raises(ProtocolError, match="was not said to be armed"):
        said.accept(DONE)


def test_a_whole_conversation_passes():
    said = Conversation(7, request((*DETECTORS, MeanPattern()), rasters=2))
    outputs = {"vbf": np.ones((4, 4)), "bf": np.ones((4, 4)), "pattern": np.ones((24, 32))}
    for event in (
        ARMED,
        progress(frames_expected=32),
        progress({"bf": np.full((4, 4), np.nan)}, frames_expected=32, rate_hz=None),
        raster(0, outputs=outputs),
        raster(1, outputs=outputs, dropped=2, rate_hz=None),
        DONE,
    ):
        assert said.accept(event)


def test_a_failure_passes_at_any_time():
    assert Conversation(7, request()).accept(Failed(7, Failure("NothingCame", "no frame")))


def test_what_comes_of_an_acquisition_before_is_left_alone():
    said = Conversation(7, request())
    assert not said.accept(RasterDone(6, raster().raster))
    with pytest.raises(ProtocolError, match="0 of 1 rasters came before it"):
        said.accept(DONE)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (raster(outputs={"vbf": np.ones((4, 4))}), "the output 'bf' is missing; expected vbf, bf"),
        (
            given(np.ones((3, 5))),
            r"bf is an array \(3, 5\) of float64; expected an array \(4, 4\) of float64",
        ),
        (given(np.ones(16)), r"bf is an array \(16,\) of float64; expected an array \(4, 4\)"),
        (given(np.ones((4, 4), "i8")), "bf is an array .* of int64; expected .* of float64"),
        (
            given(np.ones((4, 4)), pattern=np.ones((3, 3))),
            "the output 'pattern' was not asked for; expected vbf, bf",
        ),
        (raster(losses=Losses(12, 10, 1, 1)), "expected 12 frames; the grid has 16"),
        (raster(index=1), "its index is 1; expected 0"),
        (Armed(8), "Armed: the generation is 8; expected 7"),
        (DONE, "Done: 0 of 1 rasters came before it"),
        (progress(frames_received=17), "17 of 16 frames"),
        (progress(frames_expected=0), "3 of 0 frames; 16 were asked for"),
        (progress(raster=1), "it is at raster 1 of 1"),
        (progress({"bf": np.ones((4, 3))}), r"expected an array \(4, 4\)"),
        (progress({"bf": np.ones((4, 4), "i8")}), "of int64; expected an array .* of float64"),
    ],
)
def test_what_was_not_asked_for_is_refused_by_name(event, words):
    with pytest.raises(ProtocolError, match=words):
        Conversation(7, request()).accept(event)


def test_a_pattern_that_was_asked_for_must_come():
    with pytest.raises(ProtocolError, match="the output 'pattern' is missing"):
        Conversation(7, request((*DETECTORS, MeanPattern()))).accept(raster())


def test_rasters_come_in_order_and_no_more_than_asked_for():
    said = Conversation(7, request(rasters=2))
    with pytest.raises(ProtocolError, match="its index is 1; expected 0"):
        said.accept(raster(1))
    said.accept(raster(0))
    with pytest.raises(ProtocolError, match="its index is 0; expected 1"):
        said.accept(raster(0))
    with pytest.raises(ProtocolError, match="1 of 2 rasters came before it"):
        said.accept(DONE)
    said.accept(raster(1))
    with pytest.raises(ProtocolError, match="one more than the 2"):
        said.accept(raster(2))


def test_the_detector_is_armed_once():
    said = Conversation(7, request())
    said.accept(ARMED)
    with pytest.raises(ProtocolError, match="armed before"):
        said.accept(ARMED)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((16, 20, -5, 1), "lost is -5; expected a whole number of at least 0"),
        ((16, 15, 1, 1), "15 received, 1 lost and 1 bad are not the 16 expected"),
        ((16, 14, 1, 1, 0, 0, 0, -1), "saturated is -1"),
    ],
)
def test_losses_add_up(counts, words):
    with pytest.raises(ValueError, match=words):
        Losses(*counts)


@pytest.mark.parametrize(
    ("make", "change", "words"),
    [
        (raster, {"rate_hz": np.nan}, "rate_hz is nan"),
        (raster, {"rate_hz": -1.0}, "rate_hz is -1.0"),
        (raster, {"dropped": -1}, "dropped is -1"),
        (raster, {"series_id": -1}, "series_id is -1"),
        (progress, {"rate_hz": np.inf}, "rate_hz is inf"),
        (progress, {"saturated": -1}, "saturated is -1"),
    ],
)
def test_counts_and_rates_are_not_negative(make, change, words):
    with pytest.raises(ValueError, match=words):
        make(**change)
