"""Signals of the device: what a setting takes and how it is recorded, previews of one moment, progress of a raster."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from fake_clock import set_clock
from rival import Rival

from live4d_ophyd.device.method_signals import OutputArray, array_key
from live4d_ophyd.device.pixel_array import PixelArray
from live4d_ophyd.device.preview import LivePreview
from live4d_ophyd.device.signals import Choice, Flag, Number, Text, Value, Vector, Whole
from live4d_ophyd.device.statuses import RasterStatus
from live4d_ophyd.engine.results import Progress
from live4d_ophyd.engine.series_record import digest
from live4d_ophyd.imaging.method import PATTERN, SCAN, Output

# What a setting takes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "options", "taken"),
    [
        (Number, {}, [0, -1e300, 1e300, np.float32(0.5), 5e-324]),
        (Number, {"positive": True}, [2.3e-308, 1e9]),
        (Number, {"least": -2, "most": 3}, [-2, 3, 0.5]),
        (Number, {"nan": True, "least": 1}, [math.nan, 1]),
        (Whole, {"least": 1, "most": 7}, [1, 7, 2.0, np.int64(3)]),
        (Flag, {}, [True, False, np.True_, 1, 0]),
        (Text, {}, ["", "any"]),
        (Choice, {"choices": ("cpu", "gpu")}, ["cpu", "gpu"]),
    ],
)
def test_what_is_taken_is_read(of, options, taken):
    signal = of(name="it", value=None, **options)
    for value in taken:
        status = signal.set(value)
        assert status.done
        assert status.success
        np.testing.assert_equal(signal.get(), value)


def test_a_plan_may_ask_for_time_to_settle():
    signal = Number(name="it")
    status = signal.set(1, settle_time=0.2, timeout=30)
    assert (status.settle_time, status.timeout, status.done) == (0.2, 30, False)
    assert signal.get() == 1
    status.wait(10)


@pytest.mark.parametrize(
    ("of", "options", "value", "words"),
    [
        (Number, {}, math.nan, "it = nan: expected a number"),
        (Number, {}, -math.inf, "it = -inf: expected a number"),
        (Number, {}, "1", "it = '1': expected a number"),
        (Number, {}, True, "it = True: expected a number"),
        (Number, {}, np.True_, "it = .*True.*: expected a number"),
        (Number, {}, 10**400, "expected a number"),
        (Number, {"nan": True}, math.inf, "it = inf: expected a number or NaN"),
        (Number, {"nan": True, "least": 0}, -1, "it = -1: expected a number of at least 0$"),
        (Number, {"positive": True}, 0, "it = 0: expected a number above 0$"),
        (Number, {"positive": True, "units": "px"}, -1, "it = -1: expected a number above 0 px$"),
        (
            Number,
            {"positive": True, "most": 9, "units": "s"},
            10,
            "expected a number above 0 s and up to 9 s$",
        ),
        (Number, {"least": 2, "units": "s"}, 1.9, "it = 1.9: expected a number of at least 2 s$"),
        (Number, {"least": 2, "most": 5, "units": "s"}, 5.1, "it = 5.1: expected a number from 2 to 5 s$"),
        (Whole, {"least": 1}, 1.5, "it = 1.5: expected a whole number of at least 1$"),
        (Whole, {"least": 1}, 0, "it = 0: expected a number of at least 1$"),
        (Flag, {}, 2, "it = 2: expected True or False"),
        (Flag, {}, 1.0, "it = 1.0: expected True or False"),
        (Flag, {}, "on", "it = 'on': expected True or False"),
        (Text, {}, 3, "it = 3: expected text"),
        (Choice, {"choices": ("cpu", "gpu")}, "tpu", "it = 'tpu': expected one of cpu, gpu"),
        (Choice, {"choices": ("cpu", "gpu")}, ["cpu"], "expected one of cpu, gpu"),
        (Vector, {"units": "px"}, (1, 2, 3), r"it takes 2 numbers, \(row, col\) in px, got \(1, 2, 3\)"),
        (Vector, {"units": "px"}, "12", r"it takes 2 numbers, \(row, col\) in px, got '12'"),
        (Vector, {"units": "px"}, (1, "a"), "it takes 2 numbers"),
        (Vector, {}, (math.nan, 1), "expected two finite numbers, or NaN in both"),
        (Vector, {}, (1, math.nan), "expected two finite numbers, or NaN in both"),
        (Vector, {}, (math.inf, 1), "expected two finite numbers, or NaN in both"),
        (Vector, {}, (1, -math.inf), "expected two finite numbers, or NaN in both"),
    ],
)
def test_what_is_refused_is_said_with_what_was_expected_and_changes_nothing(of, options, value, words):
    signal = of(name="it", value="before", **options)
    for way in (signal.put, signal.set, signal.check_value):
        with pytest.raises(ValueError, match=words):
            way(value)
    assert signal.get() == "before"


def test_values_are_kept_in_the_type_that_is_recorded():
    for signal, value, kind in [
        (Number(name="it"), 1, float), (Whole(name="it"), 2.0, int), (Flag(name="it"), 1, bool),
        (Vector(name="it"), np.array([1, 2]), tuple),
    ]:  # fmt: skip
        signal.put(value)
        assert type(signal.get()) is kind


def test_the_check_of_a_text_refuses_it_by_the_name_of_the_signal():
    def check(text):
        if not text.startswith("tcp://"):
            raise ValueError(f"{text!r} is no endpoint")

    signal = Text(name="live4d_endpoint", check=check)
    signal.put("tcp://here:1")
    with pytest.raises(ValueError, match=r"^live4d_endpoint: 'here' is no endpoint$"):
        signal.put("here")
    assert signal.get() == "tcp://here:1"


# How it is recorded -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "entry"),
    [
        (True, {"dtype": "boolean"}),
        (3, {"dtype": "integer", "dtype_numpy": "<i8"}),
        (3.0, {"dtype": "number", "dtype_numpy": "<f8"}),
        ("text", {"dtype": "string"}),
        ((1.0, 2.0, 3.0), {"dtype": "array", "shape": [3], "dtype_numpy": "<f8"}),
    ],
)
def test_a_value_is_described_by_its_type(value, entry):
    (key,) = Value(name="it", value=value, units="px").describe().values()
    assert {name: key[name] for name in entry} == entry
    assert (key["source"], key["units"]) == ("live4d:it", "px")
    assert "units" not in Value(name="it", value=value).describe()["it"]


def test_a_vector_is_two_numbers_in_events_and_one_in_the_configuration():
    signal = Vector(name="center", units="px", value=(1.0, 2.0))
    assert {key: reading["value"] for key, reading in signal.read().items()} == {
        "center_row": 1,
        "center_col": 2,
    }
    described = signal.describe()
    assert list(described) == ["center_row", "center_col"]
    for key in described.values():
        assert (key["dtype"], key["shape"], key["units"]) == ("number", [], "px")
    assert signal.hints == {"fields": ["center_row", "center_col"]}
    assert signal.read_configuration()["center"]["value"] == (1.0, 2.0)
    assert signal.describe_configuration()["center"]["shape"] == [2]
    (timestamp,) = {reading["timestamp"] for reading in signal.read().values()}
    assert timestamp == signal.timestamp


def no_check(array):
    pass


def test_an_array_is_recorded_as_its_size_source_and_digest(tmp_path):
    gain, mask = np.full((2, 3), 0.5), np.array([[0, 2, 0], [1, 0, 0]])
    signal = PixelArray(name="gain", check=no_check)
    assert signal.read()["gain"]["value"] == "none"
    signal.put(gain)
    assert signal.read()["gain"] == {
        "value": f"2 x 3 px, sha256 {digest(gain)}", "timestamp": signal.timestamp,
    }  # fmt: skip
    signal.put(None)
    assert signal.get() is None
    assert signal.read()["gain"]["value"] == "none"
    np.save(tmp_path / "mask.npy", mask)
    signal = PixelArray(name="mask", check=no_check, mask=True)
    signal.put(str(tmp_path / "mask.npy"))
    words = f"2 of 2 x 3 px from {tmp_path / 'mask.npy'}, sha256 {digest(mask != 0)}"
    assert signal.read()["mask"]["value"] == words
    assert signal.describe() == {"mask": {"source": "live4d:mask", "dtype": "string", "shape": []}}
    signal.put(mask)
    assert signal.read()["mask"]["value"] == f"2 of 2 x 3 px, sha256 {digest(mask != 0)}"


def test_an_array_is_kept_as_it_was_when_it_was_put():
    gain = np.ones((2, 3))
    signal = PixelArray(name="gain", check=no_check)
    signal.put(gain)
    gain[:] = 7
    np.testing.assert_array_equal(signal.get(), np.ones((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        signal.get()[0, 0] = 1


def test_an_array_is_checked_and_digested_beside_the_caller():
    """A plan sets it in the RunEngine's loop, and millions of pixels take a while."""
    checking, go_on = threading.Event(), threading.Event()

    def check(array):
        checking.set()
        go_on.wait(10)

    signal = PixelArray(name="gain", check=check)
    status = signal.set(np.ones((2, 3)))
    assert checking.wait(10)
    assert not status.done
    assert signal.get() is None
    go_on.set()
    status.wait(10)
    np.testing.assert_array_equal(signal.get(), np.ones((2, 3)))


def test_an_array_is_checked_once():
    checked = []
    PixelArray(name="gain", check=checked.append).put(np.ones((2, 3)))
    assert len(checked) == 1


def test_a_plan_that_sets_an_array_that_cannot_be_reads_why(tmp_path):
    signal = PixelArray(name="gain", check=no_check)
    status = signal.set(tmp_path / "none.npy")
    with pytest.raises(ValueError, match=r"gain: .*none.npy cannot be read"):
        status.wait(10)
    assert str(status).startswith("gain: ")
    assert signal.read()["gain"]["value"] == "none"


def test_an_array_that_cannot_be_is_refused_by_the_name_of_the_signal(tmp_path):
    def check(array):
        raise ValueError("a gain of another kind")

    with pytest.raises(
        ValueError, match=r"^gain: a gain of another kind, or the path of a \.npy file that holds"
    ):
        PixelArray(name="gain", check=check).put(np.ones(3))
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for file in ("none.npy", "bad.npy", "objects.npy"):
        with pytest.raises(ValueError, match=rf"^gain: .*{file} cannot be read as a \.npy file: "):
            PixelArray(name="gain", check=no_check).put(tmp_path / file)


def test_an_output_is_described_with_the_shape_that_the_next_one_has():
    outputs = {"vbf": Output(SCAN, (3, 4), "counts"), "pattern": Output(PATTERN, (0, 0), "counts")}
    parent = SimpleNamespace(output=outputs.__getitem__, name="live4d", channel_said=lambda output: {})
    image, pattern = (OutputArray(name=f"live4d_{name}", attr_name=name) for name in outputs)
    image._parent = pattern._parent = parent
    assert image.describe() == {
        "live4d_vbf": {
            "source": "live4d:live4d_vbf", "dtype": "array", "dtype_numpy": "<f8", "shape": [3, 4],
            "dims": ["scan_y", "scan_x"], "units": "counts",
        }
    }  # fmt: skip
    assert np.isnan(image.get()).all()
    pattern.put(np.zeros((5, 6)))  # how large it is the detector has said
    assert pattern.describe()["live4d_pattern"]["shape"] == [5, 6]
    assert pattern.describe()["live4d_pattern"]["dims"] == ["q_y", "q_x"]


# Previews ---------------------------------------------------------------------------------------


class Parent:
    name = "live4d"

    def __init__(self):
        self.asked = 0

    def preview_keys(self):
        image = Output(SCAN, (2, 3), "counts")
        return {name: array_key("live4d", name, image, image.shape) for name in ("vbf", "adf")}

    def request_preview(self):
        self.asked += 1


def values_of(preview):
    return {key: reading["value"] for key, reading in preview.read().items()}


def test_a_preview_has_the_newest_images_how_far_they_are_and_asks_for_the_next():
    preview = LivePreview(Parent())
    before = values_of(preview)
    assert list(before) == list(preview.describe())
    assert np.isnan([before["live4d_vbf"], before["live4d_adf"]]).all()
    assert np.shape(before["live4d_adf"]) == (2, 3)
    assert (before["live4d_live_fraction"], before["live4d_live_saturated"]) == (0.0, 0)
    assert preview.parent.asked == 1
    images = {"vbf": np.arange(6.0).reshape(2, 3), "adf": np.ones((2, 3))}
    preview.update(images, 0.5, 4)
    after = values_of(preview)
    np.testing.assert_array_equal([after["live4d_vbf"], after["live4d_adf"]], list(images.values()))
    assert (after["live4d_live_fraction"], after["live4d_live_saturated"]) == (0.5, 4)
    assert preview.parent.asked == 2
    preview.clear()
    np.testing.assert_equal(values_of(preview), before)
    assert {reading["timestamp"] for reading in preview.read().values()} == {preview._time}
    preview.update(images, 1.0)
    assert values_of(preview)["live4d_live_saturated"] == 0


def test_a_preview_is_described_as_its_images_and_two_numbers():
    described = LivePreview(Parent()).describe()
    image = {
        "dtype": "array", "dtype_numpy": "<f8", "shape": [2, 3], "dims": ["scan_y", "scan_x"], "units": "counts",
    }  # fmt: skip
    source = "live4d:live4d_live"
    assert described == {
        "live4d_vbf": {"source": "live4d:live4d_vbf", **image},
        "live4d_adf": {"source": "live4d:live4d_adf", **image},
        "live4d_live_fraction": {"source": source, "dtype": "number", "dtype_numpy": "<f8", "shape": []},
        "live4d_live_saturated": {
            "source": source, "dtype": "integer", "dtype_numpy": "<i8", "shape": [], "units": "frames",
        },
    }  # fmt: skip


class OfPattern(Parent):
    def preview_keys(self):
        pattern = Output(PATTERN, (0, 0), "counts")
        return super().preview_keys() | {"mean": array_key("live4d", "mean", pattern, pattern.shape)}


def described_shapes(preview):
    return {key: entry["shape"] for key, entry in preview.describe().items() if entry["dtype"] == "array"}


def test_a_pattern_is_in_the_preview_when_its_size_is_known_and_stays_as_it_was_described():
    images = {"live4d_vbf": [2, 3], "live4d_adf": [2, 3]}
    preview = LivePreview(OfPattern())
    assert "live4d_mean" not in values_of(preview)  # as a plan does, before the first frame
    preview.update({"mean": np.arange(20.0).reshape(4, 5)}, 0.5)
    read = values_of(preview)
    np.testing.assert_array_equal(read["live4d_mean"], np.arange(20.0).reshape(4, 5))
    assert described_shapes(preview) == images | {"live4d_mean": [4, 5]}
    preview.clear()
    assert np.isnan(values_of(preview)["live4d_mean"]).all()
    preview.update({"mean": np.ones((2, 2))}, 0.5)  # a region of interest, within the run
    assert values_of(preview)["live4d_mean"].shape == (4, 5)
    preview.begin()
    assert values_of(preview)["live4d_mean"].shape == (2, 2)
    assert described_shapes(preview) == images | {"live4d_mean": [2, 2]}


def test_a_pattern_that_comes_after_the_stream_was_described_is_in_the_next_run_s():
    preview = LivePreview(OfPattern())
    values_of(preview)
    assert "live4d_mean" not in described_shapes(preview)
    preview.update({"mean": np.ones((2, 2))}, 0.5)
    assert "live4d_mean" not in values_of(preview)
    preview.begin()
    assert "live4d_mean" in values_of(preview)


def test_a_preview_that_is_read_while_the_next_one_comes_is_of_one_moment():
    class Preview(LivePreview):
        @property
        def _fraction(self):
            value = self.fraction
            rival.come_in()
            return value

        @_fraction.setter
        def _fraction(self, value):
            self.fraction = value

    preview = Preview(Parent())
    preview.update({"vbf": np.full((2, 3), 1.0)}, 0.1, 1)
    rival = Rival(lambda: preview.update({"vbf": np.full((2, 3), 2.0)}, 0.2, 2))
    read = values_of(preview)
    rival.finish()
    assert (read["live4d_vbf"][0, 0], read["live4d_live_fraction"], read["live4d_live_saturated"]) == (
        1,
        0.1,
        1,
    )
    assert values_of(preview)["live4d_live_saturated"] == 2


# Progress ---------------------------------------------------------------------------------------


@pytest.fixture
def status():
    status = RasterStatus(SimpleNamespace(name="live4d"))
    yield status
    if not status.done:
        status.set_finished()
    status.wait(10)


def test_progress_is_what_progress_bars_expect(status, monkeypatch):
    told = []
    status.watch(lambda **values: told.append(values))
    set_clock(monkeypatch, "live4d_ophyd.device.statuses", lambda: status._started + 6.0)
    status.report(Progress(30, 120, 5.0, 0, 0))
    status.report(Progress(120, 120, 20.0, 0, 0))
    common = {
        "name": "live4d",
        "initial": 0,
        "unit": "frames",
        "precision": 0,
        "target": 120,
        "time_elapsed": 6.0,
    }
    assert told == [
        {**common, "current": 30, "fraction": 0.75, "time_remaining": 18.0, "rate": 5.0},
        {**common, "current": 120, "fraction": 0.0, "time_remaining": 0.0, "rate": 20.0},
    ]


def test_before_the_first_frame_nobody_knows_how_long_it_takes(status):
    told = []
    status.watch(lambda **values: told.append(values))
    status.report(Progress(0, 120, None, 0, 0))
    assert (told[0]["fraction"], told[0]["time_remaining"], told[0]["rate"]) == (1.0, None, None)
    status.report(Progress(0, 0, None, 0, 0))
    assert told[1]["fraction"] is None


def test_a_watcher_that_knows_no_rate_gets_none(status):
    told = []

    def bluesky(*, name, current, initial, target, unit, precision, fraction, time_elapsed, time_remaining):
        told.append(current)

    status.watch(bluesky)
    status.watch(lambda current, rate=0, **_: told.append(rate))
    status.watch(lambda current, rate, name, initial, target, unit, precision, fraction, time_elapsed,
                 time_remaining: told.append(rate))  # fmt: skip
    status.report(Progress(7, 120, 3.0, 0, 0))
    assert told == [7, 3.0, 3.0]


def test_who_begins_to_watch_while_others_are_told_is_told_the_next_time(status):
    told = []

    def first(current, **_):
        told.append(("first", current))
        if current == 1:
            status.watch(lambda current, **_: told.append(("second", current)))

    status.watch(first)
    status.report(Progress(1, 9, None, 0, 0))
    assert told == [("first", 1)]
    status.report(Progress(2, 9, None, 0, 0))
    assert told == [("first", 1), ("first", 2), ("second", 2)]


def test_a_status_says_in_its_text_how_it_ended(status):
    assert str(status) == repr(status) == "live4d running"
    status.set_finished()
    status.wait(10)
    assert str(status) == "live4d done"
    failed = RasterStatus(SimpleNamespace(name="live4d"))
    failed.set_exception(RuntimeError("no series began"))
    with pytest.raises(RuntimeError):
        failed.wait(10)
    assert str(failed) == repr(failed) == "live4d failed: no series began"
