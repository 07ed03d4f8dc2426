"""MethodTests: what the engine relies on in every method, as a pytest class.

In: a method, and plain NumPy that says what it gives. The suite feeds accumulators as the engine does, without an
engine: values of all frames once, in any order, in batches of any size, split over lanes, and asks for results so far
and at the end. One test sends a stream through an engine in this process.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.method import Images, Method, Patterns, Sums, refits
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing import small_dcu

#: s; a method that takes longer for a few small frames hangs
_PATIENCE_S = 60.0


class MethodTests:
    """Inherit, and define `method` and `expected`; a method that demands `Images` needs `images`, too.

    Examples
    --------
    >>> class TestTotalCounts(MethodTests):
    ...     def method(self):
    ...         return TotalCounts("total")
    ...
    ...     def expected(self, frames, scan, series):
    ...         return {"total": frames.sum(axis=(2, 3))}
    """

    #: of the scan; not square, so that no axes can be mistaken for each other
    scan = ScanGrid(5, 7, step=(0.5, 0.25), unit="nm")
    #: of the frames
    shape = (12, 16)
    dtype = "uint16"
    #: relative difference that the order of arrival may make; 0 where all sums are exact
    rtol = 1e-12
    #: scan positions whose frames are lost in the tests of lost frames
    lost = (0, 9, 10, 34)

    # What a user says -----------------------------------------------------------------------------

    def method(self) -> Method:
        """The method, with parameters that fit `shape`."""
        raise NotImplementedError("define method()")

    def expected(self, frames: np.ndarray, scan: ScanGrid, series: SeriesInfo) -> Mapping[str, np.ndarray]:
        """Its results by plain NumPy, from frames (scan_y, scan_x, q_y, q_x) float64; a missing frame is NaN."""
        raise NotImplementedError("define expected()")

    def images(self, frames: np.ndarray, scan: ScanGrid, series: SeriesInfo) -> Mapping[str, np.ndarray]:
        """The results of other methods that it demands."""
        raise NotImplementedError("the method demands Images: define images()")

    def series(self) -> SeriesInfo:
        """What the series says of itself."""
        return SeriesInfo(
            (1, 0), FrameFormat(*self.shape, np.dtype(self.dtype)), self.scan.size, energy=300e3
        )

    def frames(self) -> np.ndarray:
        """Frames by scan position, (scan_y * scan_x, q_y, q_x): Poisson counts, brighter along the scan."""
        rng = np.random.default_rng(0)
        means = 3.0 + np.arange(self.scan.size)
        return rng.poisson(means[:, None, None], (self.scan.size, *self.shape)).astype(self.dtype)

    # How it is fed --------------------------------------------------------------------------------

    def values(self, frames: np.ndarray) -> np.ndarray:
        """What a decoder gives the method of these frames: sums (n, maps), or the frames themselves."""
        demand = self.method().demand(self.series(), self.scan)
        if isinstance(demand, Patterns):
            return frames
        assert isinstance(demand, Sums), f"the method demands {demand!r}"
        columns = []
        for first, weights in demand.bands:
            kind = np.int64 if np.asarray(weights).dtype.kind in "iub" else np.float64
            band = frames[:, first : first + len(weights)].astype(kind)
            assert band.shape[1:] == np.shape(weights), f"weights {np.shape(weights)} on frames {self.shape}"
            columns.append((band * np.asarray(weights, kind)).sum(axis=(1, 2), dtype=kind))
        return np.stack(columns, axis=1) if columns else np.empty((len(frames), 0), np.int64)

    def accumulate(self, batches: Sequence[np.ndarray], lanes: int = 1) -> list[Any]:
        """Accumulators that were given these positions, batch by batch and in turn."""
        frames = self.frames()
        parts = [self.method().accumulator(self.series(), self.scan, None) for _ in range(lanes)]
        for number, positions in enumerate(batches):
            positions = np.asarray(positions, np.int64)
            parts[number % lanes].add(positions, self.values(frames[positions]))
        return parts

    def results(self, parts: Any) -> Mapping[str, np.ndarray]:
        """What the method makes of accumulators, or of other methods' images."""
        method: Any = self.method()
        if not refits(method):
            return method.results(self.series(), self.scan, parts)
        fit = method.refit(self.series(), self.scan, parts, None, lambda: False)
        return method.results(self.series(), self.scan, parts, fit)

    def results_of(self, positions: Sequence[int] | np.ndarray) -> Mapping[str, np.ndarray]:
        """What is expected when the frames at these scan positions have come, and no others."""
        frames = np.full((self.scan.size, *self.shape), np.nan)
        here = np.asarray(positions, np.int64)
        frames[here] = self.frames()[here]
        return self.expected(frames.reshape(*self.scan.shape, *self.shape), self.scan, self.series())

    def check(self, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
        """Raises AssertionError unless both have the same keys and values."""
        assert set(found) == set(expected)
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, rtol=self.rtol, atol=self.rtol, err_msg=key)

    def _needs_frames(self) -> None:
        import pytest

        if isinstance(self.method().demand(self.series(), self.scan), Images):
            pytest.skip("the method is made from other methods' images")

    def _shuffled(self, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).permutation(self.scan.size)

    # The contract ---------------------------------------------------------------------------------

    def test_its_parameters_are_fields_of_a_frozen_dataclass(self) -> None:
        method = self.method()
        assert dataclasses.is_dataclass(method)
        assert type(method).__dataclass_params__.frozen
        assert isinstance(method.name, str)
        assert method.name
        values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
        assert type(method)(**values) == method

    def test_its_results_have_the_keys_shapes_and_type_that_it_announces(self) -> None:
        method, series = self.method(), self.series()
        announced = method.outputs(series, self.scan)
        if isinstance(method.demand(series, self.scan), Images):
            results = self.results(self.images(self._whole(), self.scan, series))
        else:
            results = self.results(self.accumulate([np.arange(self.scan.size)]))
        assert set(results) == set(announced)
        for key, output in announced.items():
            assert np.shape(results[key]) == output.shape, key
            assert len(output.dims) == len(output.shape), key
            assert isinstance(results[key], np.ndarray), key
            assert results[key].dtype == np.float64, key

    def test_before_a_series_is_known_it_announces_the_same(self) -> None:
        known = self.method().outputs(self.series(), self.scan)
        before = self.method().outputs(None, self.scan)
        assert set(before) == set(known)
        for key, output in before.items():
            assert output.dims == known[key].dims, key
            assert all(length in (0, there) for length, there in zip(output.shape, known[key].shape)), key

    def test_from_images_of_other_methods(self) -> None:
        import pytest

        method, series, frames = self.method(), self.series(), self._whole()
        if not isinstance(demand := method.demand(series, self.scan), Images):
            pytest.skip("the method is made from frames")
        images = self.images(frames, self.scan, series)
        assert set(demand.names) <= set(images)
        self.check(self.results(images), self.expected(frames, self.scan, series))

    def _whole(self) -> np.ndarray:
        return self.frames().astype(float).reshape(*self.scan.shape, *self.shape)

    def test_all_frames_in_order(self) -> None:
        self._needs_frames()
        everything = np.arange(self.scan.size)
        self.check(self.results(self.accumulate([everything])), self.results_of(everything))

    def test_the_order_of_arrival_makes_no_difference(self) -> None:
        self._needs_frames()
        everything = self._shuffled()
        self.check(self.results(self.accumulate([everything])), self.results_of(everything))

    def test_batches_of_any_size(self) -> None:
        self._needs_frames()
        everything = self._shuffled()
        batches = np.split(everything, [0, 1, 2, 2, 11, self.scan.size])  # empty ones, and of one frame
        self.check(self.results(self.accumulate(batches)), self.results_of(everything))

    def test_split_over_lanes(self) -> None:
        self._needs_frames()
        everything = self._shuffled()
        batches = np.array_split(everything, 9)
        for lanes in (2, 3, 20):  # and with lanes that got nothing
            self.check(self.results(self.accumulate(batches, lanes)), self.results_of(everything))

    def test_lost_and_bad_frames_are_missing(self) -> None:
        """The engine gives a method nothing of either."""
        self._needs_frames()
        here = np.setdiff1d(self._shuffled(), self.lost)
        for lanes in (1, 2):
            results = self.results(self.accumulate(np.array_split(here, 4), lanes))
            self.check(results, self.results_of(here))

    def test_nothing_is_known_before_the_first_frame(self) -> None:
        self._needs_frames()
        for parts in ([], self.accumulate([])):
            results = self.results(parts)
            for key, output in self.method().outputs(self.series(), self.scan).items():
                assert np.shape(results[key]) == output.shape, key
            self.check(results, self.results_of([]))

    def test_snapshots_in_mid_raster_are_what_is_known_so_far_and_stay(self) -> None:
        self._needs_frames()
        method, frames, order = self.method(), self.frames(), self._shuffled()
        parts = [method.accumulator(self.series(), self.scan, None) for _ in range(2)]
        snapshots = []
        for number, here in enumerate(np.array_split(order, 6)):
            parts[number % 2].add(here, self.values(frames[here]))
            snapshots.append(self.results(parts))
        for number, snapshot in enumerate(snapshots):
            known = np.concatenate(np.array_split(order, 6)[: number + 1])
            self.check(snapshot, self.results_of(known))

    def test_an_accumulator_keeps_nothing_of_the_batch(self) -> None:
        """A lane receives the next batch into the same memory."""
        self._needs_frames()
        method, everything = self.method(), np.arange(self.scan.size)
        part = method.accumulator(self.series(), self.scan, None)
        positions, values = everything.copy(), self.values(self.frames()).copy()
        part.add(positions, values)
        positions[:], values[:] = 0, 0
        self.check(self.results([part]), self.results_of(everything))

    def test_rasters_know_nothing_of_each_other(self) -> None:
        self._needs_frames()
        first, second = np.arange(10), np.arange(10, self.scan.size)
        one, other = self.accumulate([first])[0], self.accumulate([second])[0]
        self.check(self.results([one]), self.results_of(first))
        self.check(self.results([other]), self.results_of(second))

    def test_several_threads_add_at_the_same_time(self) -> None:
        self._needs_frames()
        method, frames = self.method(), self.frames()
        part = method.accumulator(self.series(), self.scan, None)
        together, failures = threading.Barrier(4), []

        def lane(mine: np.ndarray) -> None:
            try:
                batches = [(at[None], self.values(frames[at[None]])) for at in mine]
                together.wait(_PATIENCE_S)
                for positions, values in batches:
                    part.add(positions, values)
            except BaseException as error:
                failures.append(error)

        lanes = [threading.Thread(target=lane, args=(mine,)) for mine in np.array_split(self._shuffled(), 4)]
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join(_PATIENCE_S)
        assert not failures, failures[0]
        self.check(self.results([part]), self.results_of(np.arange(self.scan.size)))

    def test_through_an_engine_with_faults_in_the_stream(self) -> None:
        """Out of order, split over connections; some frames twice, some lost, some damaged."""
        self._needs_frames()
        frames, bad = self.frames(), self._shuffled()[:2]
        order = np.setdiff1d(self._shuffled(), self.lost)
        np.random.default_rng(2).shuffle(order)
        missing = np.union1d(self.lost, bad)
        messages = [small_dcu.image(frames[n], int(n)) for n in order]
        for at in np.flatnonzero(np.isin(order, bad)):
            messages[at] = small_dcu.damaged_image(frames[order[at]], int(order[at]))
        messages += messages[-3:]
        with (
            closing(small_dcu.SmallDcu()) as dcu,
            closing(OpenStream(DectrisSource(dcu.endpoint, connections=2))) as stream,
        ):
            dcu.wait_for_clients(2)
            start = small_dcu.start(number_of_images=len(frames), incident_energy=self.series().energy)
            dcu.send([start, *messages, small_dcu.end()])
            request = AcquisitionRequest(
                DectrisSource(dcu.endpoint, connections=2), self.scan, (self.method(),), timeout=_PATIENCE_S,
                calibration=self.series().calibration,
            )  # fmt: skip
            (raster,) = Acquisition(request, stream).run()
        losses = raster.losses
        here = np.setdiff1d(np.arange(self.scan.size), missing)
        lost = len(self.lost)
        assert (losses.received, losses.lost, losses.bad) == (len(here), lost, len(missing) - lost)
        self.check(raster.outputs, self.results_of(here))

    def test_with_tensors_the_numbers_are_those_of_arrays(self) -> None:
        """In torch, on the CPU: most of what can go wrong on a GPU goes wrong here, too."""
        self._needs_frames()
        import pytest

        torch = pytest.importorskip("torch", reason="torch is not installed")
        self.check_on(torch.device("cpu"), torch)

    def test_on_a_gpu_the_numbers_are_those_of_the_cpu(self) -> None:
        self._needs_frames()
        import pytest

        torch = pytest.importorskip("torch", reason="torch is not installed")
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        self.check_on(torch.device("cuda"), torch)

    def check_on(self, device: Any, torch: Any) -> None:
        """Feed tensors on ``device``; raises AssertionError unless results are as on the CPU."""
        frames, order = self.frames(), self._shuffled()
        part = self.method().accumulator(self.series(), self.scan, device)
        for positions in np.array_split(order, 3):
            values = self.values(frames[positions])
            part.add(torch.as_tensor(positions, device=device), torch.as_tensor(values, device=device))
        self.check(self.results([part]), self.results_of(order))
