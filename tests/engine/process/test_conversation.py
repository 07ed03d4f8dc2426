"""What an engine may say of an acquisition: the right messages pass, every other is refused by name."""

from dataclasses import asdict

import numpy as np
import pytest

from live4d_ophyd.decode import EngineUnavailable, GpuLost
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest, Losses, RasterResult, error_of
from live4d_ophyd.engine.process.conversation import Conversation, failure
from live4d_ophyd.engine.process.protocol import WireError
from live4d_ophyd.engine.series_record import SeriesRecord
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.rest import SimplonError, UnknownKey

GRID = ScanGrid(4, 4)
DETECTORS = (Disk("vbf", center=(2, 2), radius=1), Disk("bf", center=(2, 2), radius=2))


def request(methods=DETECTORS, **options):
    return AcquisitionRequest("tcp://dcu:31001", GRID, methods, **options)


def raster(index=0, **changes):
    good = RasterResult(
        index,
        {"vbf": np.ones((4, 4)), "bf": np.ones((4, 4))},
        Losses(16, 14, 1, 1),
        series_id=3,
        rate_hz=1e3,
        engine="cpu",
    )
    return {"kind": "raster", "generation": 7, "raster": {**good.to_dict(), **changes}}


def given(bf, **more):
    return raster(outputs={"vbf": np.ones((4, 4)), "bf": bf, **more})


def losses(**changes):
    counts = {"expected": 16, "received": 14, "lost": 1, "bad": 1, "foreign": 0, "duplicates": 0, "beyond": 0}
    return raster(losses={**counts, "saturated": 0, **changes})


def without(name):
    message = raster()
    del message["raster"][name]
    return message


def progress(outputs=None, **changes):
    far = {
        "frames_received": 3,
        "frames_expected": 16,
        "rate_hz": 1e3,
        "raster": 0,
        "saturated": 0,
        **changes,
    }
    return {"kind": "progress", "generation": 7, "progress": far, "outputs": outputs}


ARMED = {"kind": "armed", "generation": 7}
DONE = {"kind": "done", "generation": 7}


def test_done_without_armed_is_refused():
    """The device waits for what the detector was armed with."""
    said = Conversation(7, request())
    said.accept(raster())
    with pytest.raises(WireError, match="was not said to be armed"):
        said.accept(DONE)


def test_a_whole_conversation_passes():
    said = Conversation(7, request((*DETECTORS, MeanPattern()), rasters=2))
    outputs = {"vbf": np.ones((4, 4)), "bf": np.ones((4, 4)), "pattern": np.ones((24, 32))}
    for message in (
        ARMED,
        progress(frames_expected=32),
        progress({"bf": np.full((4, 4), np.nan)}, frames_expected=32, rate_hz=None),
        raster(0, outputs=outputs),
        raster(1, outputs=outputs, dropped=2, rate_hz=None),
        DONE,
    ):
        assert said.accept(message)


def test_what_comes_of_an_acquisition_before_is_left_alone():
    said = Conversation(7, request())
    assert not said.accept({**raster(), "generation": 6})
    with pytest.raises(WireError, match="0 of 1 rasters came before it"):
        said.accept(DONE)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (raster(outputs={"vbf": np.ones((4, 4))}), "the output 'bf' is missing; expected vbf, bf"),
        (
            given(np.ones((3, 5))),
            r"bf is an array \(3, 5\) of float64; expected an array \(4, 4\) of float64",
        ),
        (given(np.ones(16)), r"bf is an array \(16,\) of float64; expected an array \(4, 4\)"),
        (given(np.ones((4, 4), complex)), "bf is an array .* of complex128; expected .* of float64"),
        (given(np.ones((4, 4), "f4")), "bf is an array .* of float32; expected .* of float64"),
        (given([[1.0]]), "expected a map of arrays"),
        (raster(outputs=None), "outputs is None; expected a map"),
        (losses(lost=-5, received=20), "lost is -5; expected a whole number of at least 0"),
        (losses(bad=1.0), "bad is 1.0; expected a whole number"),
        (losses(received=True), "received is True"),
        (losses(received=15), "15 received, 1 lost and 1 bad are not the 16 expected"),
        (losses(expected=12, received=10), "expected 12 images; the grid has 16"),
        (losses(surprise=0), "'surprise' is not known"),
        (raster(losses=None), "losses is None; expected a map"),
        (raster(index=1), "its index is 1; expected 0"),
        (raster(index="0"), "index is '0'"),
        (raster(series_id=None), "series_id is None"),
        (raster(rate_hz=np.nan), "rate_hz is nan"),
        (raster(dropped=-1), "dropped is -1"),
        (raster(engine=5), "engine is 5; expected a text"),
        (
            given(np.ones((4, 4)), pattern=np.ones((3, 3))),
            "the output 'pattern' was not asked for; expected vbf, bf",
        ),
        (raster(surprise=1), "'surprise' is not known"),
        (without("outputs"), "it has no 'outputs'"),
        (without("losses"), "it has no 'losses'"),
        (losses(saturated=-1), "saturated is -1"),
        (raster(info={"unique_id": "U"}), "it has no 'channel'"),
        (
            raster(info={**asdict(SeriesRecord()), "energy": "200 keV"}),
            "energy is '200 keV'; expected a number",
        ),
        ({"kind": "raster", "generation": 7}, "it is None; expected a map"),
        ({**raster(), "generation": 8}, "the generation is 8; expected 7"),
        ({**raster(), "generation": None}, "the generation is None"),
        ({**raster(), "generation": True}, "the generation is True"),
        ({"kind": "done"}, "done: the generation is None"),
        (DONE, "0 of 1 rasters came before it"),
        (progress(frames_received=17), "17 of 16 images"),
        (progress(frames_expected=0), "3 of 0 images; 16 were asked for"),
        (progress(raster=1), "it is at raster 1 of 1"),
        (progress(rate_hz="fast"), "rate_hz is 'fast'"),
        (progress({"bf": np.ones((4, 3))}), r"expected an array \(4, 4\)"),
        (progress(b""), "expected a map of arrays"),
        ({"kind": "progress", "generation": 7, "outputs": None}, "it is None; expected a map"),
        ({"kind": "failed", "generation": 7}, "error is None; expected a text"),
        ({"kind": "failed", "generation": 7, "error": "ValueError", "reason": ""}, "reason is ''"),
        ({"kind": "surprise", "generation": 7}, "surprise: no such kind of message"),
    ],
)
def test_what_was_not_asked_for_is_refused_by_name(message, words):
    with pytest.raises(WireError, match=words):
        Conversation(7, request()).accept(message)


def test_a_pattern_that_was_asked_for_must_come():
    with pytest.raises(WireError, match="the output 'pattern' is missing"):
        Conversation(7, request((*DETECTORS, MeanPattern()))).accept(raster())


def test_rasters_come_in_order_and_no_more_than_asked_for():
    said = Conversation(7, request(rasters=2))
    with pytest.raises(WireError, match="its index is 1; expected 0"):
        said.accept(raster(1))
    said.accept(raster(0))
    with pytest.raises(WireError, match="its index is 0; expected 1"):
        said.accept(raster(0))
    with pytest.raises(WireError, match="1 of 2 rasters came before it"):
        said.accept(DONE)
    said.accept(raster(1))
    with pytest.raises(WireError, match="one more than the 2"):
        said.accept(raster(2))


def test_the_detector_is_armed_once():
    said = Conversation(7, request())
    said.accept(ARMED)
    with pytest.raises(WireError, match="armed before"):
        said.accept(ARMED)


@pytest.mark.parametrize(
    "error",
    [
        AcquisitionError("no image"),
        SimplonError("no answer"),
        ValueError("the mask does not fit"),
        EngineUnavailable("no GPU"),
        GpuLost("launch failure"),
    ],
)
def test_an_error_keeps_its_class_and_words(error):
    back = error_of({"kind": "failed", **failure(error)})
    assert (type(back), str(back)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (UnknownKey("no such key"), SimplonError, "no such key"),
        (KeyError("request"), AcquisitionError, "KeyError: 'request'"),
        (MemoryError(), AcquisitionError, "MemoryError: MemoryError"),
        (AcquisitionError(), AcquisitionError, "AcquisitionError"),
    ],
)
def test_other_errors_come_as_their_next_of_kin(error, kind, words):
    back = error_of({"kind": "failed", **failure(error)})
    assert (type(back), str(back)) == (kind, words)


def test_a_failure_that_says_nothing_is_an_error_all_the_same():
    assert isinstance(error_of({"kind": "failed"}), AcquisitionError)
    lost = AcquisitionError("gone")
    assert error_of({"kind": "lost", "error": lost}) is lost
