"""Parts of a raster that several processes took are together what one process makes."""

import pickle
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import pytest
from recorded_file import recorded_file

from live4d_ophyd.cluster import stretches_of
from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.errors import MethodFailed, NothingCame
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.partial import acquire_part, merge
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.method import SCAN, Images, Output
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.testing.small_dcu import frames

GRID = ScanGrid(4, 5)
DISK = Disk("vbf", center=(12, 16), radius=6)


@dataclass(frozen=True)
class Inverted:
    """Made of the whole of another image: of a part it would be something else."""

    name: str = "inverted"

    def demand(self, series, scan):
        return Images(("vbf",))

    def outputs(self, series, scan) -> Mapping[str, Output]:
        return {self.name: Output(SCAN, scan.shape)}

    def results(self, series, scan, parts):
        return {self.name: np.nanmax(parts["vbf"]) - parts["vbf"]}


@dataclass(frozen=True)
class Failing(MeanPattern):
    name: str = "failing"

    def accumulator(self, series, scan, device):
        raise RuntimeError("not today")


METHODS = (DISK, CenterOfMass("com", DISK), MeanPattern(), Segments("dpc", inner=2, outer=9), Inverted())


def whole(request):
    with closing(OpenStream(request.source)) as opened:
        return next(Acquisition(request, opened).run())


def parts_of(request, tasks):
    """As they come from other processes, in any order."""
    parts = [
        pickle.loads(
            pickle.dumps(
                acquire_part(
                    replace(request, source=replace(request.source, begin=begin, end=end)), CpuBackend()
                )
            )
        )
        for begin, end in stretches_of(request.grid, tasks)
    ]
    return parts[::-1]


@pytest.fixture
def few_frames(monkeypatch):
    """Tasks of few frames are worth it."""
    monkeypatch.setattr("live4d_ophyd.cluster._FEWEST_FRAMES", 1)


def request_for(path, grid=GRID, methods=METHODS):
    return AcquisitionRequest(FileSource((str(path),)), grid, methods, timeout=20.0)


@pytest.mark.usefixtures("few_frames")
@pytest.mark.parametrize("tasks", [1, 3, 4])
@pytest.mark.parametrize("lost", [(), (7, 8, 9), (0, 1, 2, 3, 4, 19)])
def test_the_raster_is_that_of_one_process(tmp_path, tasks, lost):
    """Also where a row has no frame at all."""
    pixels = frames(20)
    path = recorded_file(tmp_path / "a.h5", pixels, GRID, lost=lost)
    request = request_for(path)
    expected, found = whole(request), merge(request, parts_of(request, tasks), 2.0)
    assert found.outputs.keys() == expected.outputs.keys()
    for name, array in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], array, err_msg=name)
    sums = np.einsum("nij,ij->n", pixels, DISK.weights((24, 32)).astype(float))
    sums[list(lost)] = np.nan
    np.testing.assert_array_equal(found.outputs["vbf"].reshape(-1), sums)
    assert found.losses == expected.losses
    assert found.losses.lost == len(lost)
    assert (found.info.pixels_masked, found.series_id, found.backend) == (0, expected.series_id, "cpu")
    assert found.rate_hz == (20 - len(lost)) / 2.0


@pytest.mark.usefixtures("few_frames")
def test_bad_frames_are_counted_once(tmp_path, caplog):
    """Those of a part that has no other frame, too."""
    path = damaged(tmp_path, range(5, 10))
    request = request_for(path, methods=(DISK,))
    found = merge(request, parts_of(request, 4), 1.0)
    assert (found.losses.received, found.losses.lost, found.losses.bad) == (15, 0, 5)
    assert np.isnan(found.outputs["vbf"][1]).all()
    assert "5 bad frames: " in caplog.text
    with pytest.raises(NothingCame, match=r"a\.h5 has no frame that can be read"):
        merge(request, parts_of(request_for(damaged(tmp_path / "all", range(20))), 4), 1.0)


def damaged(folder, numbers):
    """A file of which these frames do not decode."""
    folder.mkdir(exist_ok=True)
    path = recorded_file(folder / "a.h5", frames(20), GRID)
    with closing(FileSource((str(path),)).open(None)) as opened:
        (part,) = opened.frames.parts
        places = part.at[list(numbers)]
    with open(path, "r+b") as file:
        for place in places:
            file.seek(int(place) + 8)
            file.write(b"\xff" * 20)
    return path


@pytest.mark.usefixtures("few_frames")
def test_a_method_that_fails_in_a_part_is_named(tmp_path):
    request = request_for(recorded_file(tmp_path / "a.h5", frames(20), GRID), methods=(Failing(),))
    with pytest.raises(MethodFailed, match=r"the method failing \(Failing\) failed: RuntimeError: not today"):
        parts_of(request, 2)


@pytest.mark.usefixtures("few_frames")
@pytest.mark.parametrize(
    "grid", [GRID, ScanGrid(7, 3, flyback=2, lead_in=4), ScanGrid(5, 2, flyback=1, last_flyback=False)]
)
@pytest.mark.parametrize("tasks", [1, 2, 5, 100])
def test_each_task_takes_whole_rows_and_each_row_is_of_one_task(grid, tasks):
    stretches = stretches_of(grid, tasks)
    assert len(stretches) == min(tasks, grid.rows)
    assert (stretches[0][0], stretches[-1][1]) == (0, None)
    rows = []
    for n, (begin, end) in enumerate(stretches):
        assert n == 0 or begin == stretches[n - 1][1]
        positions = grid.positions(np.arange(begin, grid.frames if end is None else end))
        rows.append(sorted(set((positions[positions >= 0] // grid.cols).tolist())))
    assert all(rows)
    assert [row for some in rows for row in some] == list(range(grid.rows))


def test_a_small_file_is_one_task():
    assert stretches_of(ScanGrid(128, 255), 100) == [(0, None)]
    assert len(stretches_of(ScanGrid(128, 256), 100)) == 2
