"""`MethodTests` passes for methods that keep the contract, and fails for each way of breaking it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

from live4d_ophyd.imaging.accumulators import on_host
from live4d_ophyd.imaging.method import PATTERN, SCAN, Images, Output, Patterns, Sums
from live4d_ophyd.testing import MethodTests


@dataclass(frozen=True)
class Counts:
    """Counts of each frame under two maps: the left half, with weight 1 and with weight 1/3."""

    name: str
    weight: float = 1 / 3

    def demand(self, series, scan):
        half = np.ones((series.format.rows, series.format.cols), np.int64)
        half[:, series.format.cols // 2 :] = 0
        return Sums(("left", "weighted"), ((0, half), (2, half[2:-1] * self.weight)))

    def outputs(self, series, scan):
        return {key: Output(SCAN, scan.shape, "counts") for key in ("left", "weighted")}

    def accumulator(self, series, scan, device):
        return _Scatter(scan)

    def results(self, series, scan, parts):
        # A position is in one of the parts at most.
        image = np.fmax.reduce([np.full((scan.size, 2), np.nan), *(part.sums for part in parts)])
        return {"left": image[:, 0].reshape(scan.shape), "weighted": image[:, 1].reshape(scan.shape)}


class _Scatter:
    def __init__(self, scan):
        self.scan, self.sums = scan, np.full((scan.size, 2), np.nan)

    def add(self, positions, values):
        self.sums[on_host(positions)] = on_host(values)


@dataclass(frozen=True)
class Mean:
    """Mean of all patterns."""

    name: str

    def demand(self, series, scan):
        return Patterns()

    def outputs(self, series, scan):
        return {"mean": Output(PATTERN, (0, 0) if series is None else series.format.shape)}

    def accumulator(self, series, scan, device):
        return _Sum(series.format.shape)

    def results(self, series, scan, parts):
        total, n = sum(part.total for part in parts), sum(part.n for part in parts)
        return {"mean": total / n if n else np.full(series.format.shape, np.nan)}


class _Sum:
    def __init__(self, shape):
        self.lock, self.total, self.n = threading.Lock(), np.zeros(shape), 0

    def add(self, positions, values):
        with self.lock:
            self.total = self.total + on_host(values).astype(np.float64).sum(axis=0)
            self.n += len(positions)


@dataclass(frozen=True)
class Difference:
    """Of two images of other methods."""

    name: str

    def demand(self, series, scan):
        return Images(("a", "b"))

    def outputs(self, series, scan):
        return {"difference": Output(SCAN, scan.shape)}

    def accumulator(self, series, scan, device):
        raise NotImplementedError

    def results(self, series, scan, parts):
        return {"difference": parts["a"] - parts["b"]}


class TestCounts(MethodTests):
    def method(self):
        return Counts("counts")

    def expected(self, frames, scan, series):
        left = frames[..., : frames.shape[-1] // 2]
        return {"left": left.sum((2, 3)), "weighted": left[:, :, 2:-1].sum((2, 3)) / 3}


class TestMean(MethodTests):
    def method(self):
        return Mean("mean")

    def expected(self, frames, scan, series):
        here = frames[np.isfinite(frames[..., 0, 0])]
        return {"mean": here.mean(axis=0) if len(here) else np.full(self.shape, np.nan)}


class TestDifference(MethodTests):
    def method(self):
        return Difference("difference")

    def images(self, frames, scan, series):
        return {"a": frames.sum((2, 3)), "b": frames[..., 0, 0]}

    def expected(self, frames, scan, series):
        return {"difference": frames.sum((2, 3)) - frames[..., 0, 0]}


# What breaks the contract ----------------------------------------------------------------------------


@dataclass
class Changeable:
    """Not frozen."""

    name: str
    weight: float = 1 / 3


class OtherKeys(Counts):
    def outputs(self, series, scan):
        return {"other": Output(SCAN, scan.shape)}


class Transposed(Counts):
    def results(self, series, scan, parts):
        return {key: image.T for key, image in super().results(series, scan, parts).items()}


class SinglePrecision(Counts):
    def results(self, series, scan, parts):
        return {key: image.astype(np.float32) for key, image in super().results(series, scan, parts).items()}


class NeedsTheSeries(Counts):
    def outputs(self, series, scan):
        return {} if series is None else super().outputs(series, scan)


class InOrderOfArrival(Counts):
    def accumulator(self, series, scan, device):
        class Accumulator(_Scatter):
            at = 0

            def add(self, positions, values):
                self.sums[self.at : self.at + len(values)] = values
                self.at += len(values)

        return Accumulator(scan)


class FirstLaneOnly(Counts):
    def results(self, series, scan, parts):
        return super().results(series, scan, parts[:1])


class ZeroWhereNothingCame(Counts):
    def results(self, series, scan, parts):
        return {key: np.nan_to_num(image) for key, image in super().results(series, scan, parts).items()}


class NeedsAFrame(Counts):
    def accumulator(self, series, scan, device):
        class Accumulator(_Scatter):
            def add(self, positions, values):
                positions[0]
                super().add(positions, values)

        return Accumulator(scan)


class SnapshotThatGrows(Counts):
    def results(self, series, scan, parts):
        if len(parts) < 2:
            return super().results(series, scan, parts)
        for part in parts[1:]:
            parts[0].sums = np.fmax(parts[0].sums, part.sums, out=parts[0].sums)
        return {
            key: parts[0].sums[:, n].reshape(parts[0].scan.shape)
            for n, key in enumerate(("left", "weighted"))
        }


class KeepsTheBatch(Counts):
    def accumulator(self, series, scan, device):
        class Accumulator(_Scatter):
            def __init__(self, scan):
                self.scan, self.batches = scan, []

            def add(self, positions, values):
                self.batches.append((positions, values))

            @property
            def sums(self):
                scatter = _Scatter(self.scan)
                for batch in self.batches:
                    scatter.add(*batch)
                return scatter.sums

        return Accumulator(scan)


class OneAccumulatorForAll(Counts):
    parts: dict = {}  # noqa: RUF012

    def accumulator(self, series, scan, device):
        return self.parts.setdefault(scan, _Scatter(scan))


class OneThreadAtATime(Counts):
    def accumulator(self, series, scan, device):
        class Accumulator(_Scatter):
            def __init__(self, scan):
                super().__init__(scan)
                self.busy = threading.Lock()

            def add(self, positions, values):
                assert self.busy.acquire(blocking=False), "two threads at the same time"
                try:
                    if len(positions) == 1:
                        together.wait(0.5)  # for another one that is here, too
                    super().add(positions, values)
                except threading.BrokenBarrierError:
                    super().add(positions, values)
                finally:
                    self.busy.release()

        together = threading.Barrier(2)
        return Accumulator(scan)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Changeable, "its_parameters_are_fields_of_a_frozen_dataclass"),
        (OtherKeys, "its_results_have_the_keys_shapes_and_type_that_it_announces"),
        (Transposed, "its_results_have_the_keys_shapes_and_type_that_it_announces"),
        (SinglePrecision, "its_results_have_the_keys_shapes_and_type_that_it_announces"),
        (NeedsTheSeries, "before_a_series_is_known_it_announces_the_same"),
        (Transposed, "all_frames_in_order"),
        (InOrderOfArrival, "the_order_of_arrival_makes_no_difference"),
        (NeedsAFrame, "batches_of_any_size"),
        (FirstLaneOnly, "split_over_lanes"),
        (ZeroWhereNothingCame, "lost_and_bad_frames_are_missing"),
        (ZeroWhereNothingCame, "nothing_is_known_before_the_first_frame"),
        (SnapshotThatGrows, "snapshots_in_mid_raster_are_what_is_known_so_far_and_stay"),
        (KeepsTheBatch, "an_accumulator_keeps_nothing_of_the_batch"),
        (OneAccumulatorForAll, "rasters_know_nothing_of_each_other"),
        (OneThreadAtATime, "several_threads_add_at_the_same_time"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_method_that_breaks_the_contract_is_noticed(broken, test):
    class Suite(TestCounts):
        def method(self):
            return broken("counts")

    with pytest.raises((AssertionError, IndexError)):
        getattr(Suite(), f"test_{test}")()


def test_on_another_device_the_method_gets_what_was_decoded_there():
    """With tensors of torch, where there is one, without a GPU."""

    class Tensor(np.ndarray):
        pass

    class Device:
        @staticmethod
        def as_tensor(values, device):
            assert device == "there"
            return values.view(Tensor)

    seen = []

    class Looking(Counts):
        def accumulator(self, series, scan, device):
            part = _Scatter(scan)
            add = part.add
            part.add = lambda positions, values: (seen.append((device, type(values))), add(positions, values))
            return part

    class Suite(TestCounts):
        def method(self):
            return Looking("counts")

    Suite().check_on("there", Device)
    assert set(seen) == {("there", Tensor)}


def test_a_method_needs_what_the_suite_is_told():
    with pytest.raises(NotImplementedError, match="define method"):
        MethodTests().test_all_frames_in_order()
