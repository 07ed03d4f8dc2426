"""UDF: LiberTEM's own functions run live, and give what LiberTEM gives offline on the same frames."""

import pickle
from contextlib import closing

import numpy as np
import pytest

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.errors import MethodFailed
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.libertem import UDF
from live4d_ophyd.imaging.registry import class_of, kind_of
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing import MethodTests, small_dcu

GRID = ScanGrid(5, 7)
SERIES = SeriesInfo((1, 0), FrameFormat(12, 16, np.dtype("uint16")))
DISK = {"cy": 5.5, "cx": 7.0, "r": 5.0}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: UDF("u", "json"),
            "make of u is 'json', which the engine, a process of its own, cannot import",
        ),
        (lambda: UDF("u", 5), "make of u is 5; expected the class of a UDF, or a function that returns one"),
        (lambda: UDF("u", lambda: None), "make of u is .*<lambda>.*, which the engine"),
        (
            lambda: UDF("u", "m:f", {"a": np.eye(2)}),
            "parameters of u are no plain values .*: give a function of a",
        ),
        (lambda: UDF("u", "m:f", enabled=3), "u.enabled is 3; expected True or False"),
        (lambda: UDF("a b", "m:f"), "named 'a b'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_it_is_found_by_module_only_as_it_calls_what_it_is_told():
    kind = kind_of(UDF("u", "m:f"))
    assert kind == "live4d_ophyd.imaging.libertem:UDF"
    with pytest.raises(ValueError, match="this engine does not take methods by module"):
        class_of(kind)
    assert class_of(kind, allow_modules=True) is UDF


api = pytest.importorskip("libertem.api", reason="LiberTEM is not installed")

from libertem.udf import UDF as LiberTEMs  # noqa: E402
from libertem.udf.com import CoMUDF  # noqa: E402
from libertem.udf.masks import ApplyMasksUDF  # noqa: E402
from libertem.udf.stddev import StdDevUDF  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def two_masks(radius):
    """Of a module that can be imported: masks are functions, which do not cross to an engine."""
    row, col = np.indices((12, 16))
    disk = (np.hypot(row - 5.5, col - 7) <= radius).astype(np.float32)
    return ApplyMasksUDF(
        mask_factories=[lambda: disk, lambda: 1 - disk], use_sparse=False, mask_dtype=np.float32
    )


class Brightest(LiberTEMs):
    """The simplest kind, frame by frame: a number a position, a pattern, and numbers of the whole."""

    def get_result_buffers(self):
        return {
            "highest": self.buffer(kind="nav", dtype="float64"),
            "count": self.buffer(kind="single", dtype="int64"),
            "both": self.buffer(kind="single", extra_shape=(2,), dtype="float64"),
            "inner": self.buffer(kind="nav", dtype="float32", use="private"),
            "sum": self.buffer(kind="sig", dtype="float64"),
        }

    def process_frame(self, frame):
        self.results.highest[:] = frame.max()
        self.results.count[:] += 1
        self.results.both[:] += (frame.sum(), 1)
        self.results.sum[:] += frame

    def merge(self, dest, src):
        dest.highest[:] = src.highest
        for name in ("count", "both", "sum"):
            getattr(dest, name)[:] += getattr(src, name)


class WholePartitions(LiberTEMs):
    """Partition by partition, with where its frames are."""

    def get_result_buffers(self):
        return {
            "row": self.buffer(kind="nav", dtype="int64"),
            "mean": self.buffer(kind="nav", dtype="float64"),
        }

    def process_partition(self, partition):
        self.results.row[:] = self.meta.coordinates[:, 0]
        self.results.mean[:] = partition.mean(axis=(1, 2))


class Raises(LiberTEMs):
    def get_result_buffers(self):
        return {"none": self.buffer(kind="nav", dtype="float32")}

    def process_frame(self, frame):
        raise RuntimeError("no licence")


class Complex(LiberTEMs):
    def get_result_buffers(self):
        return {"wave": self.buffer(kind="nav", dtype="complex64")}


class Private(LiberTEMs):
    def get_result_buffers(self):
        return {"x": self.buffer(kind="nav", dtype="float32", use="private")}


@pytest.fixture(scope="module")
def context():
    return api.Context.make_with("inline")


@pytest.fixture(scope="module")
def frames():
    return (
        np.random.default_rng(1).poisson(3.0 + np.arange(35)[:, None, None], (35, 12, 16)).astype(np.uint16)
    )


def live(method, frames, order):
    """Its results, of batches in this order, over two accumulators."""
    parts = [method.accumulator(SERIES, GRID, None) for _ in range(2)]
    for number, positions in enumerate(np.array_split(order, 4)):
        parts[number % 2].add(positions, frames[positions])
    return method.results(SERIES, GRID, parts)


@pytest.mark.parametrize(
    "method",
    [
        UDF("u", CoMUDF.with_params, DISK),
        UDF("u", CoMUDF.with_params, {**DISK, "regression": 1}),
        UDF("u", StdDevUDF),
        UDF("u", two_masks, {"radius": 4.0}),
        UDF("u", Brightest),
        UDF("u", WholePartitions),
    ],
    ids=["CoM", "CoM with descan", "StdDev", "ApplyMasks", "frames", "partitions"],
)
def test_it_gives_what_libertem_gives_offline_on_the_same_frames(context, frames, method):
    dataset = context.load("memory", data=frames.reshape(5, 7, 12, 16), sig_dims=2)
    offline = context.run_udf(dataset, method._new())
    found = live(method, frames, np.random.default_rng(2).permutation(35))
    expected = {}
    for buffer, wrapped in offline.items():
        data = np.asarray(wrapped.data, float)
        if wrapped.kind == "nav" and data.ndim == 3:
            expected |= {f"u_{buffer}_{n}": data[..., n] for n in range(data.shape[2])}
        else:
            expected[f"u_{buffer}"] = data[0] if data.shape == (1,) else data
    assert set(found) == set(expected) == set(method.outputs(None, GRID))
    for key, values in expected.items():
        # Both have some sums in float32, whose order differs.
        np.testing.assert_allclose(found[key], values, rtol=2e-5, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("make", [StdDevUDF, Brightest])
def test_what_it_has_so_far_goes_to_another_process(frames, make):
    method = UDF("u", make)
    parts = [method.accumulator(SERIES, GRID, None) for _ in range(3)]  # one without a frame
    for part, here in zip(parts, np.array_split(np.arange(35), 2)):
        part.add(here, frames[here])
    found = method.results(SERIES, GRID, pickle.loads(pickle.dumps(parts)))
    for key, values in method.results(SERIES, GRID, parts).items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)


class _Functions(MethodTests):
    rtol = 2e-5
    pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class TestFrames(_Functions):
    def method(self):
        return UDF("u", Brightest)

    def expected(self, frames, scan, series):
        here = frames[np.isfinite(frames[..., 0, 0])]
        known = {
            "count": float(len(here)),
            "both_0": 0,
            "sum": here.sum(axis=0),
        }
        none = {key: np.full(np.shape(value), np.nan) for key, value in known.items()}
        used = known if len(here) else none
        return {
            "u_highest": frames.max(axis=(2, 3)),
            "u_count": used["count"],
            "u_both": np.array([here.sum(), len(here)]) if len(here) else np.full(2, np.nan),
            "u_sum": used["sum"],
        }


class TestTiles(_Functions):
    def method(self):
        return UDF("u", two_masks, {"radius": 4.0})

    def expected(self, frames, scan, series):
        row, col = np.indices(self.shape)
        disk = np.hypot(row - 5.5, col - 7) <= 4
        return {f"u_intensity_{n}": (frames * m).sum(axis=(2, 3)) for n, m in enumerate((disk, ~disk))}


class TestPartitions(_Functions):
    def method(self):
        return UDF("u", WholePartitions)

    def expected(self, frames, scan, series):
        mean = frames.mean(axis=(2, 3))
        return {"u_mean": mean, "u_row": np.where(np.isnan(mean), np.nan, np.indices(scan.shape)[0])}


def test_pixels_that_hold_no_count_are_0_for_it(frames):
    frames = frames.copy()
    frames[:, 2, 3], frames[:, 4, 5] = 65535, 9
    mask = np.zeros((12, 16), bool)
    mask[4, 5] = True
    series = SeriesInfo((1, 0), SERIES.format, saturation=65535, pixel_mask=mask)
    method = UDF("u", Brightest)
    part = method.accumulator(series, GRID, None)
    part.add(np.arange(35), frames)
    assert method.results(series, GRID, [part])["u_sum"][[2, 4], [3, 5]].tolist() == [0, 0]
    assert frames[0, 2, 3] == 65535  # of a batch that others read, too


def test_a_udf_that_raises_fails_the_acquisition_by_its_name(frames):
    with (
        closing(small_dcu.SmallDcu()) as dcu,
        closing(OpenStream(DectrisSource(dcu.endpoint))) as stream,
    ):
        dcu.wait_for_clients(1)
        messages = [small_dcu.image(frame, number) for number, frame in enumerate(frames)]
        dcu.send([small_dcu.start(number_of_images=35), *messages, small_dcu.end()])
        methods = Disk("vbf", radius=4), UDF("u", Raises)
        request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, methods, timeout=20.0)
        with pytest.raises(MethodFailed, match=r"the method u \(UDF\) failed: RuntimeError: no licence"):
            list(Acquisition(request, stream).run())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("json:dumps", r"dumps\(\) missing 1 required|json:dumps gives"),
        ("no_such_module:f", "no_such_module:f cannot be imported: ModuleNotFoundError"),
        ("json:nothing", "json:nothing cannot be imported: AttributeError"),
        ("collections:OrderedDict", "collections:OrderedDict gives .*; expected a UDF of LiberTEM"),
        (Complex, "u: the buffer wave has the dtype .*; expected real numbers"),
        (Private, "gives nothing: all of its buffers are private"),
    ],
)
def test_what_makes_no_udf_is_refused_by_name(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        UDF("u", make).outputs(None, GRID)
