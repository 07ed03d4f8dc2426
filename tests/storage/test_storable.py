"""A run's documents on their way to the catalog and its backup: what of them goes to neither, and why."""

import datetime
import math
from enum import StrEnum
from pathlib import Path

import event_model
import numpy as np
import pytest

from live4d_ophyd.storage import Unstorable
from live4d_ophyd.storage.storable import Storable, storable_metadata


class Run:
    """Composes documents as a RunEngine does; ``passed`` are those that may be stored."""

    def __init__(self, **metadata):
        self.passed = []
        self.storable = Storable(lambda name, doc: self.passed.append((name, doc)))
        self._composed = event_model.compose_run(metadata=metadata)
        self.storable("start", self._composed.start_doc)

    def stream(self, name="primary", configuration=None, **data_keys):
        data_keys = {
            key: {"source": "s", "dtype": "number", "shape": []} | value for key, value in data_keys.items()
        }
        composed = self._composed.compose_descriptor(name, data_keys, configuration=configuration or {})
        self.storable("descriptor", composed.descriptor_doc)
        return composed

    def event(self, stream, timestamp=1.0, **data):
        timestamps = dict.fromkeys(data, timestamp)
        self.storable("event", stream.compose_event(data=data, timestamps=timestamps))

    @property
    def data(self):
        return [doc["data"] for name, doc in self.passed if name == "event"]


def array(*shape, **others):
    return {"dtype": "array", "shape": list(shape), **others}


def test_a_refusal_names_stream_and_key_and_the_run_goes_on_as_if_nothing_had_come():
    run = Run()
    stream = run.stream("tiles", x={"dtype": "integer"}, image=array(2, 2))
    run.event(stream, x=1, image=np.ones((2, 2)))
    with pytest.raises(Unstorable, match=r"stream 'tiles', key 'image': an array of shape \(3, 2\) came"):
        run.event(stream, x=0.5, image=np.ones((3, 2)))
    run.event(stream, x=2, image=np.ones((2, 2)))
    assert [data["x"] for data in run.data] == [1, 2]
    assert type(run.data[-1]["x"]) is int


def test_a_stream_keeps_its_shape_over_a_new_descriptor():
    run = Run()
    run.event(run.stream(image=array(2)), image=[1.0, 2.0])
    after_configure = run.stream(image=array(3))
    with pytest.raises(Unstorable, match=r"shape \(3,\) came, and the Events before have shape \(2,\)"):
        run.event(after_configure, image=[1.0, 2.0, 3.0])
    other = run.stream("other", image=array(3))
    run.event(other, image=[1.0, 2.0, 3.0])
    assert [len(data["image"]) for data in run.data] == [2, 3]


def test_pages_of_events_come_out_one_by_one_up_to_the_first_that_cannot_be_stored():
    run = Run()
    stream = run.stream(x={"dtype": "integer"})
    page = stream.compose_event_page(
        data={"x": [0, 12.5, "text", 3]},
        timestamps={"x": [1, 2, 3, 4]},
        seq_num=[1, 2, 3, 4],
        time=[1, 2, 3, 4],
    )
    with pytest.raises(Unstorable, match="key 'x'"):
        run.storable("event_page", page)
    assert run.data == [{"x": 0}, {"x": 12.5}]


def test_timestamps_are_float64_from_the_first_one_on():
    run = Run()
    stream = run.stream(x={})
    run.event(stream, timestamp=0, x=1.0)
    run.event(stream, timestamp=None, x=1.0)
    times = [doc["timestamps"]["x"] for name, doc in run.passed if name == "event"]
    assert times == [0.0, pytest.approx(math.nan, nan_ok=True)]
    assert type(times[0]) is float
    with pytest.raises(Unstorable, match="timestamp of 'x': 'now' is text"):
        run.event(stream, timestamp="now", x=1.0)


def test_keys_of_external_data_are_left_alone():
    run = Run()
    run.event(run.stream(raw=array(2, 2, external="FILESTORE:")), raw="id of a datum")
    assert run.data == [{"raw": "id of a datum"}]


def test_an_array_without_elements_is_left_out():
    run = Run()
    run.event(run.stream(x={}, found=array(0)), x=1, found=[])
    assert run.data == [{"x": 1}]


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"phase": 1j}, ["'phase'", "1j", "complex"]),
        ({"sample": {"phases": [1.0, 1j]}}, ["'sample.phases[1]'", "complex"]),
        ({"phases": np.array([1j])}, ["'phases[0]'", "complex"]),
        ({"found": {1, 2}}, ["'found'", "set"]),
        ({"device": object()}, ["'device'", "object"]),
        ({"raw": b"abc"}, ["'raw'", "bytes"]),
        ({"score": math.nan}, ["'score'", "nan", "float", "finite"]),
        ({"limits": (0, math.inf)}, ["'limits[1]'", "inf", "finite"]),
        ({"score": np.float32("nan")}, ["'score'", "float"]),
        ({"scores": np.array([1, math.nan])}, ["'scores[1]'", "nan"]),
        ({"scores": np.array([1, math.inf], "f4")}, ["'scores[1]'", "inf"]),
        ({"key": 2**65}, ["'key'", "int", "64 bits"]),
        ({"sample": {3: "a"}}, ["'sample'", "the key 3 of type int"]),
        ({"file": "\udce9"}, ["'file'", "str"]),
    ],
)
def test_metadata_that_cannot_be_stored_are_named_with_their_type(metadata, told):
    with pytest.raises(Unstorable) as refused:
        storable_metadata(metadata)
    for part in told:
        assert part in str(refused.value)


def test_a_run_whose_metadata_cannot_be_stored_is_not_begun():
    with pytest.raises(Unstorable, match="'phase'"):
        Run(phase=1j)


def test_metadata_that_json_has_come_through():
    given = {
        "none": None, "yes": True, "n": 3, "x": 2.5, "text": "ü", "rows": (1, [2.5, {"a": "b"}]),
        "numpy": np.array([[1, 2], [3, 4]]), "scalar": np.float64(2.5), "zero-d": np.array(3),
        "mask": np.array([True, False]), "names": np.array(["a", "b"]), "range": range(2),
        "day": datetime.date(2026, 1, 2), "path": Path("a/b"),
    }  # fmt: skip
    assert storable_metadata(given) == {
        **given, "rows": [1, [2.5, {"a": "b"}]], "numpy": [[1, 2], [3, 4]], "scalar": 2.5, "zero-d": 3,
        "mask": [True, False], "names": ["a", "b"], "range": [0, 1],
    }  # fmt: skip


def test_an_enumeration_is_stored_as_its_value():
    """The process that writes the catalog does not know the class."""

    class Mode(StrEnum):
        FAST = "fast"

    stored = storable_metadata({"mode": Mode.FAST})["mode"]
    assert stored == "fast"
    assert type(stored) is str


@pytest.mark.parametrize("size", [2**53 - 1, 2**53, 2**63 - 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_that_the_catalogs_writer_would_cut_off_come_through_whole(size, sign):
    """It cuts off whole numbers from 2**53 on, of Python and in lists."""
    number = sign * size
    stored = storable_metadata({"n": number, "all": np.array([0, number]), "x": 2.0**60 * sign})
    for value, was in [(stored["n"], number), (stored["all"][1], number), (stored["x"], 2.0**60 * sign)]:
        assert value == was
        assert (type(value) in (int, float)) == (abs(was) < 2**53)
    assert type(stored["all"][0]) is int


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
def test_whole_numbers_of_64_bits_are_the_largest(number):
    assert storable_metadata({"n": number})["n"] == number
    with pytest.raises(Unstorable, match="64 bits"):
        storable_metadata({"n": number + (1 if number > 0 else -1)})


def test_a_value_that_cannot_be_stored_is_shown_in_60_characters():
    for shown in (60, 61):
        text = repr(b"a" * (shown - 3))
        assert len(text) == shown
        with pytest.raises(Unstorable) as refused:
            storable_metadata({"raw": b"a" * (shown - 3)})
        assert f"cannot be stored: {text[:60]}{'...' if shown > 60 else ''} is of type" in str(refused.value)


def test_what_a_device_does_not_know_of_its_configuration_is_null():
    run = Run()
    values = {"dwell": math.nan, "limit": math.inf}
    keys = {key: {"source": "s", "dtype": "number", "shape": []} for key in values}
    run.stream(
        configuration={"d": {"data": values, "timestamps": dict.fromkeys(values, 1.0), "data_keys": keys}},
        x={},
    )
    (_, descriptor) = run.passed[-1]
    assert descriptor["configuration"]["d"]["data"] == {"dwell": None, "limit": None}


def test_a_configuration_that_cannot_be_stored_is_named():
    with pytest.raises(Unstorable, match=r"stream 'primary': 'configuration\.d\.data\.gain' .* complex"):
        Run().stream(configuration={"d": {"data": {"gain": 1j}, "timestamps": {}, "data_keys": {}}}, x={})


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b", "a#b", "a%20b", "a\nb"])
def test_a_stream_that_the_catalog_could_not_find_again_is_refused(name):
    with pytest.raises(Unstorable, match="Rename it"):
        Run().stream(name, x={})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"motor(1)": {}}, "forbidden character"),
        ({"1st": {}}, "Malformed"),
        ({"_x": {}}, "begins with '_'"),
        ({"x" * 61: {}}, "max bytes is 63"),
        ({"x" * 61: array(2)}, "max bytes is 63"),
        ({"X": {}, "x": {}}, "one column"),
        ({"x": {}, "ts_x": {}}, "one column"),
        ({"a?b": array(2)}, "holds '?'"),
    ],
)
def test_data_keys_that_no_table_can_have_are_refused_before_the_first_event(keys, told):
    run = Run()
    with pytest.raises(Unstorable, match=r"stream 'primary' cannot be stored") as refused:
        run.stream(**keys)
    assert told in str(refused.value)


def test_data_keys_of_common_names_are_not_refused():
    Run().stream(
        **{key: {} for key in ("time", "seq_num", "select", "a b", "a-b", "x:y", "a?b", "Üx"[1:], "x" * 60)}
    )


@pytest.mark.parametrize("uid", ["../../x", "", "a/b", ".hidden"])
def test_a_uid_that_would_name_another_folder_is_refused(uid):
    with pytest.raises(Unstorable, match="it names a file"):
        Storable(None)("start", {"uid": uid, "time": 1.0})


def test_a_document_of_a_refused_descriptor_is_refused_too():
    run = Run()
    with pytest.raises(Unstorable):
        run.stream(**{"motor(1)": {}})
    with pytest.raises(Unstorable, match="descriptor that could not be stored"):
        run.storable("event", {"descriptor": "unknown"})
