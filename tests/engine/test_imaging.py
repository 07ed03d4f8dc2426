"""Imaging: methods together, each frame once; one that fails is named, and leaves the others alone."""

import asyncio
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
from rival import Rival, dict_read_before, dict_walked_beside

from live4d_ophyd.decode.decoder import Part
from live4d_ophyd.decode.errors import GpuMemoryError
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import MethodFailed
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.method import SCAN, Images, Output, Patterns, Sums
from live4d_ophyd.imaging.of_channel import OfChannel
from live4d_ophyd.imaging.pattern_statistics import LastPattern, MaxPattern, StdPattern
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesInfo

GRID = ScanGrid(2, 3)
SHAPE = (8, 10)
SERIES = SeriesInfo((1, 0), FrameFormat(*SHAPE, np.dtype("uint16")), saturation=65535)
DISK, BIG = Disk("vbf", (3, 4), radius=2), Disk("bf", (3, 4), radius=3)


def frames(count=GRID.size, seed=0):
    return np.random.default_rng(seed).integers(0, 99, (count, *SHAPE)).astype(np.uint16)


def imaging_of(*methods, grid=GRID, **options):
    request = AcquisitionRequest(DectrisSource("tcp://dcu:1"), grid, methods)
    return Imaging(Preparation().prepare(request, SERIES, {}), grid, **options)


def part_of(imaging, pixels, bad=(), saturated=None):
    """What a decoder makes of frames."""
    maps = imaging.prepared.channels[""].demand.maps
    status = np.zeros(len(pixels), np.int64)
    status[list(bad)] = -109
    sums = None if maps is None else np.einsum("nyx,myx->nm", pixels.astype(np.int64), maps.maps)
    if sums is not None:
        sums[list(bad)] = 0
        saturated = np.zeros(sums.shape, bool) if saturated is None else saturated
    flagged = np.zeros(len(pixels), bool) if saturated is None else saturated.any(axis=1)
    patterns = pixels if imaging.prepared.channels[""].demand.patterns else None
    return Part(np.arange(len(pixels)), status, flagged, sums, saturated, patterns)


def image(pixels, disk, grid=GRID):
    return (pixels * disk.weights(SHAPE)).sum(axis=(1, 2)).reshape(grid.shape).astype(float)


@dataclass(frozen=True)
class Broken:
    """Fails where it is told to."""

    name: str
    where: str

    def demand(self, series, scan):
        return Patterns()

    def outputs(self, series, scan):
        return {self.name: Output(SCAN, scan.shape)}

    def accumulator(self, series, scan, device):
        if self.where == "accumulator":
            raise RuntimeError("no memory for it")
        return self

    def add(self, positions, values):
        if self.where == "add":
            raise RuntimeError("it cannot add")

    def results(self, series, scan, parts):
        if self.where == "results":
            raise RuntimeError("it has no result")
        shape = (1, 1) if self.where == "shape" else scan.shape
        return {"other" if self.where == "names" else self.name: np.zeros(shape)}


@dataclass(frozen=True)
class Difference:
    name: str
    of: tuple[str, str]

    def demand(self, series, scan):
        return Images(self.of)

    def outputs(self, series, scan):
        return {self.name: Output(SCAN, scan.shape)}

    def results(self, series, scan, parts):
        return {self.name: parts[self.of[0]] - parts[self.of[1]]}


def test_each_method_reads_its_own_columns_and_patterns():
    imaging = imaging_of(DISK, CenterOfMass("com", BIG), MeanPattern(), BIG)
    pixels = frames()
    imaging.add(np.arange(GRID.size), part_of(imaging, pixels))
    outputs = imaging.result(0)
    assert list(outputs) == ["vbf", "com_sum", "com_y", "com_x", "pattern", "bf"]
    np.testing.assert_array_equal(outputs["vbf"], image(pixels, DISK))
    np.testing.assert_array_equal(outputs["bf"], image(pixels, BIG))
    np.testing.assert_array_equal(outputs["com_sum"], image(pixels, BIG))
    np.testing.assert_allclose(outputs["pattern"], pixels.mean(axis=0))
    assert list(imaging.preview(0)) == ["vbf", "com_sum", "com_y", "com_x", "pattern", "bf"]


def test_bad_frames_are_nan_and_in_no_mean():
    imaging = imaging_of(DISK, MeanPattern())
    pixels = frames()
    imaging.add(np.arange(GRID.size), part_of(imaging, pixels, bad=[1, 4]))
    expected = image(pixels, DISK)
    expected.flat[[1, 4]] = np.nan
    outputs = imaging.result(0)
    np.testing.assert_array_equal(outputs["vbf"], expected)
    np.testing.assert_allclose(outputs["pattern"], np.delete(pixels, [1, 4], axis=0).mean(axis=0))


def test_frames_of_several_rasters_in_one_batch_go_to_their_own():
    imaging = imaging_of(DISK, MeanPattern())
    pixels = frames(2 * GRID.size)
    order = np.random.default_rng(2).permutation(2 * GRID.size)
    imaging.add(order, part_of(imaging, pixels[order], bad=[3]))
    lost = int(order[3])
    for raster in (0, 1):
        own = np.arange(GRID.size) + raster * GRID.size
        expected = image(pixels[own], DISK)
        expected.flat[own == lost] = np.nan
        outputs = imaging.result(raster)
        np.testing.assert_array_equal(outputs["vbf"], expected)
        np.testing.assert_allclose(outputs["pattern"], pixels[own[own != lost]].mean(axis=0))
    imaging.release(0)
    assert np.isnan(imaging.result(0)["vbf"]).all()
    assert not np.isnan(imaging.result(1)["vbf"]).all()
    assert [raster for raster, *_ in imaging._accumulators] == [1]


def test_sums_with_saturated_pixels_are_nan_where_that_is_asked_for():
    imaging = imaging_of(DISK, BIG, saturated_is_nan=True)
    pixels, saturated = frames(), np.zeros((GRID.size, 2), bool)
    saturated[2, 1] = True
    imaging.add(np.arange(GRID.size), part_of(imaging, pixels, saturated=saturated))
    outputs = imaging.result(0)
    np.testing.assert_array_equal(outputs["vbf"], image(pixels, DISK))
    assert np.flatnonzero(np.isnan(outputs["bf"])).tolist() == [2]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("accumulator", "RuntimeError: no memory for it"),
        ("add", "RuntimeError: it cannot add"),
        ("results", "RuntimeError: it has no result"),
        ("shape", r"ValueError: odd has the shape \(1, 1\), its output \(2, 3\)"),
        ("names", r"ValueError: its results are \['other'\], its outputs \['odd'\]"),
    ],
)
def test_a_method_that_fails_is_named_and_leaves_the_others_alone(where, words):
    imaging = imaging_of(DISK, Broken("odd", where), Difference("from_odd", ("vbf", "odd")))
    pixels = frames()
    for first in (0, 3):
        positions = np.arange(first, first + 3)
        imaging.add(positions, part_of(imaging, pixels[positions]))
    shown = imaging.preview(0)
    np.testing.assert_array_equal(shown["vbf"], image(pixels, DISK))
    assert list(shown) == ["vbf"]
    with pytest.raises(MethodFailed, match=rf"the method odd \(Broken\) failed: {words}"):
        imaging.result(0)


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError("enough")])
@pytest.mark.parametrize("where", ["accumulator", "add", "results"])
def test_what_would_end_a_thread_is_a_failure_of_the_method(where, error, monkeypatch):
    def ends(*_):
        raise error

    monkeypatch.setattr(Broken, where, ends)
    imaging = imaging_of(Broken("odd", "nowhere"))
    imaging.add(np.arange(GRID.size), part_of(imaging, frames()))
    with pytest.raises(MethodFailed, match=rf"the method odd \(Broken\) failed: {type(error).__name__}"):
        imaging.result(0)


def test_outputs_of_outputs_are_made_behind_what_they_are_made_of():
    imaging = imaging_of(Difference("c", ("b", "vbf")), Difference("b", ("bf", "vbf")), DISK, BIG)
    pixels = frames()
    imaging.add(np.arange(GRID.size), part_of(imaging, pixels))
    difference = image(pixels, BIG) - image(pixels, DISK)
    np.testing.assert_array_equal(imaging.result(0)["b"], difference)
    np.testing.assert_array_equal(imaging.result(0)["c"], difference - image(pixels, DISK))


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (("vbf", "nothing"), "the method d is made from 'nothing', which no method gives"),
        (("vbf", "d"), "the method d is made from 'd', which is made from it"),
    ],
)
def test_outputs_that_cannot_be_made_are_refused_by_name(of, words):
    with pytest.raises(ValueError, match=words):
        imaging_of(DISK, Difference("d", of))


def test_a_method_takes_in_frames_of_a_further_channel_with_the_pixel_mask_of_that_channel(monkeypatch):
    masks = []
    monkeypatch.setattr(
        Broken, "accumulator", lambda self, series, scan, device: masks.append(series.pixel_mask)
    )
    method = OfChannel(Broken("odd", "nowhere"), "high")
    request = AcquisitionRequest(DectrisSource("tcp://dcu:1"), GRID, (method,))
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 4] = 1
    sent = {"high": EncodedArray(SHAPE, mask.dtype, "", 0, mask.tobytes())}
    imaging, every = Imaging(Preparation().prepare(request, SERIES, sent), GRID), np.arange(GRID.size)
    imaging.add(every, Part(every, 0 * every, every < 0, None, None, frames()), "high")
    np.testing.assert_array_equal(masks, [mask])


def test_a_scatter_is_made_once_for_threads_that_come_at_the_same_time():
    imaging = imaging_of(DISK)
    pixels = frames(2)
    rival = Rival(lambda: imaging.add(np.array([1]), part_of(imaging, pixels[1:])))
    imaging._accumulators = dict_read_before(rival, imaging._accumulators)
    imaging.add(np.array([0]), part_of(imaging, pixels[:1]))
    rival.finish()
    expected = (pixels * DISK.weights(SHAPE)).sum(axis=(1, 2))
    assert imaging.result(0)["vbf"].flat[:2].tolist() == expected.tolist()


def test_a_scatter_that_one_thread_makes_is_waited_for_by_the_other(monkeypatch):
    imaging, make = imaging_of(DISK), Disk.accumulator
    pixels = frames(2)
    rival = Rival(lambda: imaging.add(np.array([1]), part_of(imaging, pixels[1:])))

    def slowly_made(*args):
        made = make(*args)
        rival.come_in()
        return made

    monkeypatch.setattr(Disk, "accumulator", slowly_made)
    imaging.add(np.array([0]), part_of(imaging, pixels[:1]))
    rival.finish()
    expected = (pixels * DISK.weights(SHAPE)).sum(axis=(1, 2))
    assert imaging.result(0)["vbf"].flat[:2].tolist() == expected.tolist()


@pytest.mark.parametrize(("what", "way"), [("result", "keys"), ("result", "items"), ("release", "items")])
def test_a_raster_may_begin_while_the_one_before_is_read_or_freed(what, way):
    imaging, pixels = imaging_of(DISK), frames(GRID.size + 1)
    imaging.add(np.arange(GRID.size), part_of(imaging, pixels[:-1]))
    rival = Rival(lambda: imaging.add(np.array([GRID.size]), part_of(imaging, pixels[-1:])))
    imaging._accumulators = dict_walked_beside(rival, imaging._accumulators, way)
    getattr(imaging, what)(0)
    rival.finish()
    first = (pixels[-1] * DISK.weights(SHAPE)).sum()
    assert imaging.result(1)["vbf"].flat[0] == first


@dataclass(frozen=True)
class Weighted:
    """Any map; asks how often it was asked."""

    name: str
    weights: np.ndarray

    def demand(self, series, scan):
        ASKED.append(series)
        return Sums.of_maps([self.name], self.weights[np.newaxis])

    def outputs(self, series, scan):
        if self.name == "broken":
            raise KeyError("radius")
        return {self.name: Output(SCAN, scan.shape)}

    def accumulator(self, series, scan, device):
        return Scatter(scan, 1, device)

    def results(self, series, scan, parts):
        return {self.name: Scatter.merged(parts, scan, 1)[0]}


ASKED = []


def test_a_demand_is_made_again_for_other_maps_and_not_for_another_run():
    """What it may depend on decides that, with arrays in it; the run's note is none of it."""
    ASKED.clear()
    preparation, maps = Preparation(), np.eye(8, 10)
    for series, weights in [
        (SERIES, maps),
        (replace(SERIES, key=(2, 5), frames=7, note={"uid": "x"}), maps.copy()),
        (SERIES, maps[::-1]),
    ]:
        request = AcquisitionRequest(DectrisSource("tcp://dcu:1"), GRID, (Weighted("w", weights),))
        prepared = preparation.prepare(request, series, {})
        assert prepared.channels[""].series.note == series.note
        np.testing.assert_array_equal(prepared.channels[""].demand.maps.maps[0], weights)
    assert len(ASKED) == 2
    assert {(series.key, series.frames, len(series.note)) for series in ASKED} == {((0, 0), None, 0)}


def test_a_method_that_cannot_say_what_it_needs_is_named():
    request = AcquisitionRequest.__new__(AcquisitionRequest)
    values = {
        **vars(AcquisitionRequest(DectrisSource("tcp://dcu:1"), GRID, (DISK,))),
        "methods": (Weighted("broken", np.ones(SHAPE)),),
    }
    for name, value in values.items():
        object.__setattr__(request, name, value)
    with pytest.raises(
        MethodFailed,
        match=r"the method broken \(Weighted\) failed: KeyError: 'radius' \(line \d+ of test_imaging.py\)",
    ) as failed:
        Preparation().prepare(request, SERIES, {})
    assert failed.value.method == "broken"


@pytest.mark.parametrize(
    ("says", "kind", "words"),
    [
        (
            "operands could not be broadcast",
            MethodFailed,
            r"the method odd \(Broken\) failed: ValueError: operands",
        ),
        ("odd wants frames of 64 x 64 px", ValueError, "^odd wants frames of 64 x 64 px$"),
    ],
)
def test_a_value_error_that_does_not_say_of_which_method_gets_its_name(says, kind, words, monkeypatch):
    def raises(*_):
        raise ValueError(says)

    request = AcquisitionRequest(DectrisSource("tcp://dcu:1"), GRID, (Broken("odd", "nowhere"),))
    monkeypatch.setattr(Broken, "demand", raises)
    with pytest.raises(kind, match=words):
        Preparation().prepare(request, SERIES, {})
    monkeypatch.setattr(Broken, "outputs", raises)
    with pytest.raises(kind, match=words):
        AcquisitionRequest(DectrisSource("tcp://dcu:1"), GRID, (Broken("odd", "nowhere"),))


@dataclass(frozen=True)
class Hidden(MeanPattern):
    """A pattern that is not shown."""

    def outputs(self, series, scan):
        return {
            name: replace(output, preview=False) for name, output in super().outputs(series, scan).items()
        }

    def results(self, series, scan, parts):
        pytest.fail("it is not shown")


def test_a_preview_makes_nothing_that_is_not_shown():
    imaging = imaging_of(DISK, Hidden())
    imaging.add(np.arange(GRID.size), part_of(imaging, frames()))
    assert list(imaging.preview(0)) == ["vbf"]


PATTERNS = (MeanPattern("mean"), MaxPattern("highest"), StdPattern("deviation"), LastPattern("last"))


def test_a_preview_has_patterns_of_the_frames_so_far_twice_a_second_and_images_always(monkeypatch):
    now = 100.0
    monkeypatch.setattr("live4d_ophyd.engine.imaging.time.monotonic", lambda: now)
    imaging = imaging_of(DISK, *PATTERNS, grid=ScanGrid(2, 4))
    empty = imaging.preview(0)
    assert all(np.isnan(array).all() for array in empty.values())
    pixels = frames(8)
    seen = {}
    for count, later in ((3, 0.0), (5, 0.49), (7, 0.51), (8, 0.99)):
        before = max((n for n, _ in seen.values()), default=0)
        imaging.add(np.arange(before, count), part_of(imaging, pixels[before:count]))
        now = 100.0 + later
        seen[later] = count, imaging.preview(0)
    for later, of in ((0.0, 3), (0.49, 3), (0.51, 7), (0.99, 7)):
        count, shown = seen[later]
        assert np.isfinite(shown["vbf"]).sum() == count  # images are as of now
        so_far = pixels[:of].astype(float)
        np.testing.assert_allclose(shown["mean"], so_far.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(shown["highest"], so_far.max(axis=0))
        np.testing.assert_allclose(shown["deviation"], so_far.std(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(shown["last"], so_far[-1])
        assert list(shown) == ["vbf", "mean", "highest", "deviation", "last"]
    assert np.isnan(imaging.preview(1)["mean"]).all()  # another raster has its own at once


def test_what_takes_long_is_shown_again_for_three_times_as_long_and_the_rest_is_new(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("live4d_ophyd.engine.imaging.time.monotonic", lambda: clock[0])
    slow = Disk("slow", center=(1, 1), radius=1)
    results = Disk.results

    def slowly(self, *given):
        clock[0] += self.name == "slow"
        return results(self, *given)

    monkeypatch.setattr(Disk, "results", slowly)
    imaging, pixels = imaging_of(DISK, slow), frames()
    seen = []
    for number, later in enumerate((0.0, 0.9, 2.9, 3.1)):
        imaging.add(np.array([number]), part_of(imaging, pixels[number : number + 1]))
        clock[0] = 100.0 + later
        shown = imaging.preview(0)
        seen.append([int(np.isfinite(shown[name]).sum()) for name in ("vbf", "slow")])
        if not number:
            clock[0] = 100.0  # the second that it took is over at 101
    assert seen == [[1, 1], [2, 1], [3, 1], [4, 1]]
    clock[0] = 104.1
    assert np.isfinite(imaging.preview(0)["slow"]).sum() == 4
    imaging.release(0)
    assert imaging._previewed == {}


@dataclass(frozen=True)
class Level(Broken):
    """An image made of a pattern."""

    def demand(self, series, scan):
        return Images((self.where,))

    def results(self, series, scan, parts):
        return {self.name: np.full(scan.shape, parts[self.where].mean())}


def test_what_is_made_of_a_pattern_is_as_new_as_other_images(monkeypatch):
    monkeypatch.setattr("live4d_ophyd.engine.imaging.time.monotonic", lambda: 100.0)  # nothing takes time
    imaging = imaging_of(MeanPattern("mean"), Level("level", "mean"))
    pixels = frames()
    for first in (0, 3):
        imaging.add(np.arange(first, first + 3), part_of(imaging, pixels[first : first + 3]))
        shown = imaging.preview(0)
        assert shown["level"][0, 0] == pytest.approx(pixels[: first + 3].mean())


class _Device:
    """Where values are, but not in NumPy."""

    type = "other"


def test_off_the_cpu_each_thread_has_accumulators_of_its_own(monkeypatch):
    """Nothing orders the streams of two threads: what one makes another must not write to."""
    imaging, device, made = imaging_of(DISK), _Device(), []
    monkeypatch.setattr(Disk, "accumulator", lambda self, series, scan, where: Scatter(scan, 1))
    together = threading.Barrier(4)

    def first_frames(where):
        made.append((where, id(imaging._of_raster(0, where))))
        together.wait(10)  # all four live: the number of a thread that has ended is given again

    threads = [threading.Thread(target=first_frames, args=(where,)) for where in (None, None, device, device)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    by_place = [{of_raster for at, of_raster in made if at is where} for where in (None, device)]
    assert list(map(len, by_place)) == [1, 2]  # one for both threads of the CPU


@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("saturated_is_nan", [False, True])
def test_sums_with_spread_weights_are_divided_where_they_are(tensors, saturated_is_nan):
    mask = np.zeros(SHAPE, bool)
    mask[3, 4] = True
    request = AcquisitionRequest(
        DectrisSource("tcp://dcu:1"),
        GRID,
        (BIG, Disk("far", (6, 8), radius=1)),
        bad_pixels="spread",
        pixel_mask=mask,
    )
    prepared = Preparation().prepare(request, SERIES, {})
    assert prepared.channels[""].divisors.tolist() == [8, 1]
    assert prepared.channels[""].pixels_spread == 1
    imaging, pixels = Imaging(prepared, GRID, saturated_is_nan=saturated_is_nan), frames()
    saturated = np.zeros((GRID.size, 2), bool)
    saturated[2, 0] = True
    part = part_of(imaging, pixels, saturated=saturated)
    if tensors:
        torch = pytest.importorskip("torch")
        part = replace(part, sums=torch.from_numpy(part.sums), saturated=torch.from_numpy(part.saturated))
    imaging.add(np.arange(GRID.size), part)
    repaired = pixels.astype(float)
    near = [(r, c) for r in (2, 3, 4) for c in (3, 4, 5) if (r, c) != (3, 4)]
    repaired[:, 3, 4] = np.mean([pixels[:, r, c] for r, c in near], axis=0)
    expected = image(repaired, BIG)
    if saturated_is_nan:
        expected[0, 2] = np.nan
    found = imaging.result(0)
    np.testing.assert_array_equal(found["bf"], expected)
    np.testing.assert_array_equal(found["far"], image(pixels, Disk("far", (6, 8), radius=1)))


class TestErrorsOfTheGpu:
    """Of a method's add, on tensors."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.fixture
    def imaging(self, torch, monkeypatch):
        imaging = imaging_of(DISK, BIG)

        def add(*_):
            raise self.error

        monkeypatch.setattr(Scatter, "add", add)
        return imaging

    def feed(self, imaging, torch):
        sums = torch.zeros((GRID.size, 2), dtype=torch.int64)
        part = Part(
            np.arange(GRID.size), np.zeros(GRID.size, int), np.zeros(GRID.size, bool), sums, None, None
        )
        imaging.add(np.arange(GRID.size), part)

    def test_a_full_gpu_is_no_fault_of_the_method(self, imaging, torch, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1 << 20, 2 << 20))
        self.error = torch.cuda.OutOfMemoryError("full")
        with pytest.raises(
            GpuMemoryError, match=r"the GPU's memory is full \(1 of 2 MiB free\): end what else uses it"
        ):
            self.feed(imaging, torch)

    def test_other_errors_are(self, imaging, torch):
        self.error = RuntimeError("shapes do not fit")
        self.feed(imaging, torch)
        with pytest.raises(MethodFailed, match=r"method vbf .* failed: RuntimeError: shapes do not fit"):
            imaging.result(0)
