"""What crosses between session and engine comes out as it went in; anything else is refused by name."""

import math
from dataclasses import asdict, fields
from typing import get_args

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from live4d_ophyd.engine import AcquisitionRequest, Losses, RasterResult
from live4d_ophyd.engine.errors import PUBLIC, NoMethod, ProtocolError
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.previews import Rows
from live4d_ophyd.engine.process.values import DTYPES
from live4d_ophyd.engine.results import Progress
from live4d_ophyd.engine.series_record import SeriesRecord
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import DectrisSource

SESSION, ENGINE = get_args(protocol.FromSession), get_args(protocol.FromEngine)

# Strategies: of the types, where a value of the type is always one of the class -------------------

counts = st.integers(0, 1 << 40)
rates = st.none() | st.floats(0, 1e9)
known_or_not = st.floats(allow_infinity=False) | st.just(math.nan)
texts = st.text(max_size=20)
lengths = st.floats(1, 100)
points = st.none() | st.tuples(lengths, lengths)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
images = npst.arrays(np.float64, npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
dtypes = st.sampled_from(DTYPES).map(np.dtype)
outputs = st.dictionaries(texts, images, max_size=3)
disks = st.builds(Disk, st.just("vbf"), center=points, radius=lengths, soft=st.booleans())
rings = st.builds(Annulus, st.just("adf"), center=points, inner=st.floats(0, 0.5), outer=lengths)
masses = st.builds(CenterOfMass, st.just("com"), st.builds(Disk, st.just("bf"), radius=lengths))
segments = st.builds(Segments, st.just("dpc"), center=points, inner=st.floats(0, 0.5), outer=lengths)
grids = st.builds(
    ScanGrid,
    *(st.integers(1, 9), st.integers(1, 9)),
    serpentine=st.booleans(),
    flyback=st.integers(0, 3),
    step=st.tuples(lengths, lengths),
    unit=texts,
    last_flyback=st.just(True),
)
controls = st.none() | st.builds(
    Simplon,
    st.just("http://dcu"),
    trigger_mode=st.sampled_from(("exts", "exte", "ints")),
    restore_settings=st.booleans(),
    settings=st.lists(st.tuples(texts, plain), max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
    login=texts,
)
sources = st.builds(DectrisSource, st.just("tcp://dcu:31001"), st.integers(1, 4), texts, controls)
requests = st.builds(
    AcquisitionRequest,
    sources,
    grids,
    st.lists(
        disks | rings | masses | segments | st.just(MeanPattern()),
        min_size=1,
        max_size=3,
        unique_by=lambda method: method.name,
    ).map(tuple),
    rasters=st.integers(1, 3),
    nodata=st.booleans(),
    pixel_mask=st.none() | npst.arrays(st.sampled_from((np.bool_, np.uint8, np.int64)), (3, 4)),
    gain=st.none() | npst.arrays(np.float64, (3, 4), elements=st.floats(-10, 10)),
    frame_time=st.none() | lengths,
    notes=st.dictionaries(texts, plain, max_size=3),
)
infos = st.builds(
    SeriesRecord,
    texts,
    texts,
    texts,
    *[known_or_not] * 5,
    pixels_masked=counts,
    pixels_spread=counts,
    pixel_mask=texts,
)
losses = st.tuples(counts, counts, counts, counts).map(lambda n: Losses(sum(n[:3]), *n[:3], saturated=n[3]))
rasters = st.builds(RasterResult, counts, outputs, losses, counts, rates, texts, st.none() | counts, infos)
progress = st.builds(Progress, counts, counts, rates, counts, counts)
failures = st.sampled_from(sorted(PUBLIC)).flatmap(
    lambda kind: st.builds(
        protocol.Failure,
        st.just(kind),
        st.text(min_size=1),
        **dict.fromkeys(getattr(PUBLIC[kind], "details", ()), texts),
    )
)
rows = npst.arrays(np.float32, npst.array_shapes(min_dims=1, max_dims=3, max_side=3)).flatmap(
    lambda part: st.builds(
        Rows,
        st.just(1),
        st.just(len(part)),
        st.just(1),
        st.just((part.shape[0] + 2, *part.shape[1:])),
        st.just(part),
    )
)
for kind, strategy in (
    (Rows, rows),
    (AcquisitionRequest, requests),
    (RasterResult, rasters),
    (Progress, progress),
    (protocol.Failure, failures),
    (np.ndarray, images),
):
    st.register_type_strategy(kind, strategy)
generations = st.integers(-(1 << 63), (1 << 63) - 1)


def any_of(kind):
    """Messages of this class."""
    whole = {f.name: generations for f in fields(kind) if f.type == "int"}
    whole |= {"size": st.integers(0, protocol.MOST_PROBED)} if kind is protocol.Probe else {}
    whole |= {"level": st.integers(10, 50)} if kind is protocol.LogLine else {}
    return st.builds(
        kind, **whole, **({"generation": st.none() | generations} if kind is protocol.Refused else {})
    )


def read(message, raw):
    return protocol.from_session(raw) if isinstance(message, SESSION) else protocol.from_engine(raw)


def assert_same(back, message):
    assert type(back) is type(message)
    np.testing.assert_equal(asdict(back), asdict(message))
    assert repr(back) == repr(message)  # tuples are tuples, whole numbers whole


@pytest.mark.parametrize("kind", [*SESSION, *ENGINE], ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_wire(kind, data):
    message = data.draw(any_of(kind))
    assert_same(read(message, protocol.encode(message)), message)


@given(npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)))
def test_an_array_comes_back_with_its_dtype_shape_and_every_bit(array):
    back = protocol.from_engine(
        protocol.encode(protocol.ProgressMade(1, Progress(0, 1, None, 0), {"a": array}))
    ).outputs["a"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert back.flags.writeable


@pytest.mark.parametrize("dtype", [">f8", "f4", "f2", ">u2", ">i8"])
def test_arrays_of_other_byte_orders_and_short_floats_keep_their_values(dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)[:, ::2]
    back = protocol.from_engine(
        protocol.encode(protocol.ProgressMade(1, Progress(0, 1, None, 0), {"a": array}))
    ).outputs["a"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == (np.float32 if array.dtype == np.float16 else array.dtype.newbyteorder("<"))


@pytest.mark.parametrize(
    "array", [np.array([None]), np.array(["a"]), np.ones(2, complex), np.ones(1, "M8[s]")]
)
def test_other_arrays_cannot_be_sent(array):
    with pytest.raises(TypeError, match="cannot be sent"):
        protocol.encode(protocol.ProgressMade(1, Progress(0, 1, None, 0), {"a": array}))


@pytest.mark.parametrize("thing", [object(), {1: 2}, np.ones(2), {"a": {1, 2}}])
def test_objects_do_not_cross(thing):
    request = AcquisitionRequest(
        DectrisSource("tcp://dcu:31001"), ScanGrid(2, 2), (Disk("a", radius=1),), notes={"a": thing}
    )
    with pytest.raises(TypeError, match="cannot be sent"):
        protocol.encode(protocol.Acquire(1, request))


def test_numbers_of_numpy_arrive_as_plain_ones():
    request = AcquisitionRequest(
        DectrisSource("tcp://dcu:31001"),
        ScanGrid(2, 2),
        (Disk("a", radius=1),),
        notes={"n": (np.int64(3), np.float32(0.5))},
    )
    assert protocol.from_session(protocol.encode(protocol.Acquire(1, request))).request.notes == {
        "n": [3, 0.5]
    }
    there = Progress(np.int64(3), np.int64(16), np.float64(1.5), 0)
    back = protocol.from_engine(protocol.encode(protocol.ProgressMade(1, there))).progress
    assert [type(value) for value in (back.frames_received, back.rate_hz)] == [int, float]


# What is refused, by name -------------------------------------------------------------------------

GRID = ScanGrid(4, 4)
REQUEST = AcquisitionRequest(
    DectrisSource("tcp://dcu:31001", simplon=Simplon("http://user:secret@dcu")),
    GRID,
    (Disk("vbf", radius=1), Annulus("adf", inner=1, outer=2)),
    pixel_mask=np.zeros((2, 2), bool),
)
RASTER = RasterResult(
    0, {"vbf": np.ones((2, 4, 4))}, Losses(16, 14, 1, 1), series_id=3, rate_hz=1e3, backend="cpu", dropped=0
)
TAKEN, ASKED = protocol.RasterDone(1, RASTER), protocol.Acquire(1, REQUEST)
FAILURE = protocol.Failure("NothingCame", "no frame")
MESSAGES = (
    protocol.Hello("cpu"), ASKED, protocol.Cancel(1), protocol.Preview(), protocol.Received(3, 1), protocol.Release(),
    protocol.Bye(), protocol.Probe(7),
    protocol.Ready(1, "cpu", "", ""), protocol.Refused(FAILURE, 1), protocol.Released(),
    protocol.Probed(np.zeros(3, np.uint8)),
    protocol.Alive(), protocol.LogLine(30, "full"),
    protocol.Armed(1), protocol.ProgressMade(1, Progress(3, 16, 1e3, 0), {"vbf": np.ones((4, 4))}), TAKEN,
    protocol.PreviewMade(1, 0, Progress(3, 16, 1e3, 0), {"vbf": Rows(0, 4, 2, (4, 4), np.ones((2, 2), np.float32))}),
    protocol.Done(1), protocol.Failed(1, FAILURE),
)  # fmt: skip


def paths(values, before=()):
    """Every place of a message: names of fields, one in the other."""
    for name, value in values.items():
        yield (*before, name)
        if isinstance(value, dict) and "dtype" not in value:
            yield from paths(value, (*before, name))


def in_words(path):
    """``raster.outputs['vbf']``"""
    return ".".join(path).replace("outputs.vbf", "outputs['vbf']")


def places(message):
    return [path for path in paths(cbor2.loads(protocol.encode(message))) if path not in [("v",), ("kind",)]]


def changed(message, path, change):
    """The message's bytes with ``change(map, name)`` done to the place."""
    values = cbor2.loads(protocol.encode(message))
    at = values
    for name in path[:-1]:
        at = at[name]
    change(at, path[-1])
    return cbor2.dumps(values)


def put(value):
    return lambda at, last: at.update({last: value})


def test_every_class_of_message_is_among_those_tried():
    assert {type(message) for message in MESSAGES} == {*SESSION, *ENGINE}


every_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


@every_message
def test_a_field_that_is_missing_is_named(message):
    for path in places(message):
        if path[-2:-1] == ("outputs",):  # a map's entry, which may be missing
            continue
        whole = in_words(path[:-1]) or "it"
        with pytest.raises(ProtocolError) as caught:
            read(message, changed(message, path, lambda at, last: at.pop(last)))
        lacks = f"{whole} has no {path[-1]!r}; its fields are"
        if path == ("request", "source", "kind"):  # which class it is of
            lacks = f"{whole} is a map of length 4; expected a map that says its kind"
        assert f"{type(message).__name__}: {lacks}" in str(caught.value)


@every_message
def test_a_field_of_another_type_is_named(message):
    for path in places(message):
        for wrong in (math.inf, cbor2.undefined, [[]], {"surprise": 1}):
            if path[-1] == "notes" and isinstance(wrong, dict):
                continue
            with pytest.raises(ProtocolError) as caught:
                read(message, changed(message, path, put(wrong)))
            named = path[:-1] if path == ("request", "source", "kind") else path
            assert f"{type(message).__name__}: {in_words(named)}" in str(caught.value)


@every_message
def test_a_field_that_is_not_known_is_named(message):
    with pytest.raises(
        ProtocolError, match=f"{type(message).__name__}: it has 'surprise', which is not known"
    ):
        read(message, changed(message, ("surprise",), lambda at, last: at.update({last: 1})))


@pytest.mark.parametrize(
    ("message", "path", "value", "words"),
    [
        (TAKEN, "raster.losses.bad", 1.0, "raster.losses.bad is 1.0; expected a whole number"),
        (TAKEN, "raster.losses.bad", True, "raster.losses.bad is True; expected a whole number"),
        (TAKEN, "raster.losses.bad", 1 << 63, "bad is 9223372036854775808; expected a whole"),
        (TAKEN, "raster.losses.bad", -1, "raster.losses: bad is -1; expected a whole number of"),
        (TAKEN, "raster.losses.bad", 2, "14 received, 1 lost and 2 bad are not the 16 expected"),
        (TAKEN, "raster.rate_hz", math.nan, "raster.rate_hz is nan; expected a number"),
        (TAKEN, "raster.rate_hz", -1.0, "raster: rate_hz is -1.0; expected a rate in Hz"),
        (TAKEN, "raster.dropped", -1, "raster: dropped is -1; expected a whole number"),
        (TAKEN, "raster.index", -1, "raster: index is -1; expected a whole number"),
        (TAKEN, "raster.info.energy", math.inf, "raster.info.energy is inf; expected a number, N"),
        (TAKEN, "raster.info.pixels_masked", -1, "raster.info: pixels_masked is -1"),
        (TAKEN, "raster.outputs.vbf.dtype", "|O8", r"vbf'\] is an array of '\|O8'; expected one"),
        (TAKEN, "raster.outputs.vbf.dtype", "<c16", r"vbf'\] is an array of '<c16'"),
        (TAKEN, "raster.outputs.vbf.dtype", ["<f8"], r"vbf'\] is an array of a list"),
        (TAKEN, "raster.outputs.vbf.shape", [2, -4, -4], r"vbf'\] is an array whose shape is a l"),
        (TAKEN, "raster.outputs.vbf.shape", [2.0, 4, 4], r"vbf'\] is an array whose shape is a l"),
        (TAKEN, "raster.outputs.vbf.shape", [1] * 33, "expected at most 32 lengths"),
        (TAKEN, "raster.outputs.vbf.shape", [1 << 62] * 9, "whose data is bytes of length 256"),
        (TAKEN, "raster.outputs.vbf.data", b"1" * 255, r"vbf'\] is an array \(2, 4, 4\) of float"),
        (TAKEN, "raster.outputs.vbf.data", "1" * 256, "whose data is '111"),
        (TAKEN, "raster.outputs.vbf", [[1.0]], r"vbf'\] is a list of length 1; expected an array"),
        (ASKED, "request.pixel_mask.data", b"\0\1\2\0", "request.pixel_mask is an array of bool with"),
        (ASKED, "request.source.simplon.url", 5, "request.source.simplon.url is 5; expected a text"),
        (ASKED, "request.source.simplon", ["secret"], "request.source.simplon is a list of length 1; expected a map"),
        (ASKED, "request.grid.step", "wide", "request.grid.step is 'wide'; expected a number or a l"),
        (ASKED, "request.grid.step", [1.0], "request.grid.step is a list of length 1; expected a n"),
        (ASKED, "request.methods", "ab", "request.methods is 'ab'; expected a list"),
        (ASKED, "request.notes", {"a": cbor2.undefined}, r"request.notes\['a'\] is undefined; expected"),
        (ASKED, "request.source.connections", 99, "request.source: connections is 99; expected a whole number from"),
        (protocol.Failed(1, FAILURE), "failure.reason", "", "failure: reason is ''; expected a text"),
        (
            protocol.Failed(1, FAILURE), "failure.kind", "SystemExit",
            "failure: kind is 'SystemExit'; expected one of Acqui",
        ),
        (protocol.Failed(1, FAILURE), "failure.method", "com", "failure: method is 'com'; a NothingCame has none"),
        (protocol.Failed(1, protocol.Failure("ValueError", "no")), "failure.remedy", "do", "a ValueError has none"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_expected(message, path, value, words):
    with pytest.raises(ProtocolError, match=f"^{type(message).__name__}: .*{words}") as caught:
        read(message, changed(message, path.split("."), put(value)))
    assert "secret" not in str(caught.value)


def test_a_method_that_cannot_be_had_or_made_is_refused_by_name():
    def method(change):
        return changed(ASKED, ("request", "methods"), lambda at, last: change(at[last][1]))

    for change, kind, words in (
        (lambda ring: ring.update(kind="star"), NoMethod, "'star' is not installed where the engine runs"),
        (lambda ring: ring.update(kind="os:system"), NoMethod, "this engine does not take methods by module"),
        (
            lambda ring: ring.pop("kind"),
            ProtocolError,
            r"methods\[1\] is a map of length 7; expected a map that says",
        ),
        (lambda ring: ring.update(inner="1"), ProtocolError, r"methods\[1\].inner is '1'; expected a number"),
        (
            lambda ring: ring.update(inner=9),
            ProtocolError,
            r"methods\[1\]: detector adf reaches from 9 to 2 px",
        ),
        (
            lambda ring: ring.pop("soft"),
            ProtocolError,
            r"methods\[1\] has no 'soft'; its fields are name, enabled, center",
        ),
    ):
        with pytest.raises(kind, match=words):
            protocol.from_session(method(change))


def test_modules_are_imported_only_where_it_is_allowed():
    raw = changed(ASKED, ("request", "methods"), lambda at, last: at[last][1].update(kind="os:system"))
    with pytest.raises(NoMethod, match="os:system is no imaging method: it is no dataclass"):
        protocol.from_session(raw, allow_modules=True)


def test_a_message_of_the_other_direction_is_none():
    with pytest.raises(ProtocolError, match="'Cancel' is no message; expected one of Ready, "):
        protocol.from_engine(protocol.encode(protocol.Cancel(1)))
    with pytest.raises(ProtocolError, match="'Done' is no message; expected one of Hello, "):
        protocol.from_session(protocol.encode(protocol.Done(1)))


@pytest.mark.parametrize("version", [3, 99, True, "4", None, 4.0, {}])
def test_another_version_is_refused_before_anything_else(version):
    with pytest.raises(
        ProtocolError, match=rf"speaks version .*, this one {protocol.VERSION}: install the same live4d"
    ) as caught:
        protocol.from_engine(cbor2.dumps({"v": version, "kind": "Surprise"}))
    assert caught.value.remedy == "install the same live4d-ophyd on both"


def test_the_acquisition_of_a_message_that_cannot_be_used_is_known_if_it_says_so():
    assert (
        protocol.generation_of(cbor2.dumps({"v": protocol.VERSION, "kind": "Acquire", "generation": 7})) == 7
    )
    for generation in (None, True, "7", [7]):
        values = {"v": protocol.VERSION, "kind": "Acquire", "generation": generation}
        assert protocol.generation_of(cbor2.dumps(values)) is None
    assert protocol.generation_of(b"noise") is None


# Hostile bytes ------------------------------------------------------------------------------------


def refuses_or_reads(raw):
    for read_one, kinds in ((protocol.from_session, SESSION), (protocol.from_engine, ENGINE)):
        try:
            message = read_one(raw)
        except (ProtocolError, NoMethod):
            continue
        assert type(message) in kinds
    protocol.generation_of(raw)


@given(st.binary(max_size=200))
def test_noise_is_refused(raw):
    refuses_or_reads(raw)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([protocol.encode(message) for message in MESSAGES]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_damaged_messages_are_refused_or_valid(raw, damages, cut):
    damaged = bytearray(raw)
    for where, value in damages:
        damaged[int(where * len(damaged))] = value
    refuses_or_reads(bytes(damaged[: len(damaged) - cut]))


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.builds(cbor2.CBORTag, st.integers(0, 1 << 32), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([(message, path) for message in MESSAGES for path in places(message)]), hostile)
def test_hostile_values_in_any_field_are_refused_or_valid(place, value):
    refuses_or_reads(changed(*place, put(value)))


def test_no_tag_makes_an_object():
    whole = changed(ASKED, ("request", "notes"), put({}))
    head = cbor2.dumps({"notes": {}})[1:-1]
    assert head + b"\xa0" in whole
    for tag in (*range(0, 64), 100, 256, 258, 260, 261, 1004, 43000, 55799, 1 << 60):
        for content in (b"\x00", b"\x60", b"\x80", b"\x82\x01\x02", b"\x40", b"\x61("):
            tagged = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + content
            with pytest.raises(ProtocolError, match="not a message of the engine's protocol"):
                protocol.from_session(whole.replace(head + b"\xa0", head + tagged))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",  # a list of 2**63 - 1
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",  # bytes of as many
        b"\x81" * 100_000 + b"\x00",  # lists in lists
        cbor2.dumps({"v": 4, "kind": "Acquire", "request": None})[:-1] + b"\xa1\x61a" * 100_000 + b"\x00",
        b"\xa3" + cbor2.dumps({"v": 4, "kind": "Alive"})[1:] + b"\x61v\x04",  # v twice
        b"\xbf",
        b"",
    ],
)
def test_bytes_that_ask_for_much_get_nothing(raw):
    for read_one in (protocol.from_session, protocol.from_engine):
        with pytest.raises(ProtocolError, match="not a message of the engine's protocol"):
            read_one(raw)
