"""Raw frames: recorded by a plan, found in another process, there after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import forked
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd import Signal
from served_engine import served_engine

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon, open_catalog
from live4d_ophyd.recording.frame_sets import FRAMES, STATES
from live4d_ophyd.recording.template import COMPLETE, GOOD, LOST
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.storage import record

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

SCAN = """
import sys, json
from contextlib import closing
from dataclasses import replace
from bluesky import RunEngine, plan_stubs as bps, plans as bp
from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid, Simplon, open_catalog
from live4d_ophyd.plans import movie
from live4d_ophyd.storage import record
stream, rest, catalog, path, rows, cols, row, col, radius = sys.argv[1:10]
RE = RunEngine({}, call_returns_result=False)
record(RE, open_catalog(catalog))
center = float(row), float(col)
live4d = Live4D(stream, name="live4d", scan=ScanGrid(int(rows), int(cols), step=0.25, unit="nm"), control=Simplon(rest),
                backend="cpu", record=path, methods=[Disk("vbf", center=center, radius=float(radius)),
                Annulus("adf", center=center, inner=float(radius), outer=2 * float(radius))])
RE.subscribe(live4d.note_run)
with closing(live4d):
    PLAN
"""

READ_BACK = """
import json, sys, time
import numpy as np
from databroker import catalog
from live4d_ophyd import Annulus
center, radius, *runs = sys.argv[1:]
found = []
for uid, stream in zip(runs[::2], runs[1::2]):
    primary = catalog["live4d"][uid][stream]
    raw = primary["live4d_raw"]
    begin = time.monotonic()
    pattern = raw[1, 3, 5]
    took = time.monotonic() - begin
    data = primary.read()
    adf = Annulus("adf", center=json.loads(center), inner=float(radius), outer=2 * float(radius))
    weights = adf.weights(raw.shape[-2:])
    sums = np.stack([(raw[n].astype(float) * weights).sum(axis=(-2, -1)) for n in range(raw.shape[0])])
    found.append({
        "shape": raw.shape, "dims": raw.dims, "took": took, "lazy": type(data["live4d_raw"].data).__module__,
        "equal": bool((sums == data["live4d_adf"].values).all()), "pattern": pattern.tolist(),
        "row": bool((raw[0, 2, 1:7:2] == raw[0, 2][1:7:2]).all()),
        "recorded": data["live4d_frames_recorded"].values.tolist(),
        "unrecorded": data["live4d_frames_unrecorded"].values.tolist(),
        "files": data["live4d_recorded_file"].values.tolist(),
    })
print(json.dumps(found))
"""


def arguments(simulator, home, path):
    shape = simulator.rows, simulator.cols
    geometry = (*shape, *simulator.bf_center, simulator.bf_radius)
    return [simulator.stream_endpoint, simulator.rest_url, home / "catalog", path, *geometry]


def in_new_process(code, *words):
    done = forked.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, words)], capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_series_and_a_movie_are_recorded_and_their_frames_are_found_through_databroker(home):
    """Three Events, and a movie of five rasters: Event n is in file n, however many were collected at once.

    Another process picks patterns, and computes annular dark field from the frames.
    """
    plan = """(series,) = RE(bp.count([live4d], 3))
    (rasters,) = RE(movie(live4d, 5))
    print(json.dumps([series, rasters]))"""
    template = home / "raw" / "{date}" / "{scan_id}_{plan_name}.h5"
    with SimulatorProcess(rows=10, cols=12, rate=5e3) as sim:
        series, rasters = in_new_process(SCAN.replace("PLAN", plan), *arguments(sim, home, template))
        center, radius = json.dumps(sim.bf_center), sim.bf_radius
    both = in_new_process(READ_BACK, center, radius, series, "primary", rasters, "live4d_movie")
    for found, events, name in zip(both, (3, 5), ("1_count", "2_movie")):
        assert found["shape"][:3] == [events, 10, 12]
        assert found["dims"] == ["time", "scan_y", "scan_x", "q_y", "q_x"]
        assert found["recorded"] == [120] * events
        assert found["unrecorded"] == [0] * events
        assert found["equal"]
        assert found["row"]
        assert found["lazy"].startswith("dask"), "read() must not load the frames"
        names = [os.path.basename(path) for path in found["files"]]
        assert names == [f"{name}_0000{n}.h5" for n in range(1, events + 1)]
        with h5py.File(found["files"][1]) as file:
            np.testing.assert_array_equal(file[FRAMES][3 * 12 + 5], found["pattern"])
            assert file["/entry/instrument/beam/incident_energy"][()] > 0
    with h5py.File(both[0]["files"][1]) as file:
        notes = json.loads(file["/entry/recording/notes"][()])
        assert (notes["plan_name"], notes["uid"]) == ("count", series)


def test_after_a_kill_in_the_middle_of_a_raster_the_file_opens_with_all_but_the_last_second(home):
    """Of the session and its engine; whoever opens the file needs nothing but HDF5."""
    plan = "print('begun', flush=True); RE(bp.count([live4d]))"
    with SimulatorProcess(rows=100, cols=100, rate=1e3) as sim:
        command = [*arguments(sim, home, home / "scan.h5")]
        session = forked.Popen(
            [sys.executable, "-W", "ignore", "-c", SCAN.replace("PLAN", plan), *map(str, command)],
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        with session:
            path = home / "scan_00001.h5"
            deadline = time.monotonic() + 240  # a new machine compiles its kernels first
            while not (path.exists() and _recorded(path) > 2500):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(session.pid, signal.SIGKILL)
    with h5py.File(path) as file:
        states = file[STATES][()]
        assert set(np.unique(states)) == {LOST, GOOD}
        good = np.flatnonzero(states == GOOD)
        assert 2500 < len(good) < 10_000
        assert (good == np.arange(len(good))).all()
        assert file[COMPLETE][0] == 0
        assert file[FRAMES][good[-1]].any()
        assert all(frame.any() for frame in file[FRAMES][: len(good) : 50])


def _recorded(path):
    """Frames that the file says it has, while it is written."""
    try:
        with h5py.File(path) as file:
            return int((file[STATES][()] == GOOD).sum())
    except OSError:  # it is getting longer just now
        return 0


@pytest.fixture(scope="module")
def simulator():
    """For tests that leave its settings alone."""
    with SimulatorProcess(rows=4, cols=5, rate=2e3) as simulator:
        yield simulator


def test_a_movie_whose_stream_is_not_declared_names_the_files(simulator, home):
    """Bluesky takes documents of frames in declared streams only."""
    documents = []

    def movie():
        yield from bps.open_run()
        yield from bps.kickoff(live4d, wait=True)
        yield from bps.complete(live4d, wait=True)
        yield from bps.collect(live4d)
        yield from bps.close_run()

    with closing(device(simulator, home / "m.h5")) as live4d:
        live4d.movie_rasters.put(3)
        RE = RunEngine({})
        RE.subscribe(live4d.note_run)
        RE(
            bpp.stage_wrapper(movie(), [live4d]),
            lambda name, doc: documents.append((name, doc)),
        )
    (page,) = (doc for name, doc in documents if name == "event_page")
    files = page["data"]["live4d_recorded_file"]
    assert [os.path.basename(path) for path in files] == [f"m_0000{n}.h5" for n in (1, 2, 3)]
    assert not [name for name, _ in documents if name.startswith("stream")]


@pytest.mark.parametrize("options", [(), ("--record-in", "elsewhere"), ("--record-in", "raw/../elsewhere")])
def test_an_engine_that_was_started_by_hand_records_only_where_it_may(simulator, home, options):
    (home / "raw").mkdir()
    options = [home / word if "elsewhere" in word else word for word in options]
    with (
        served_engine("--backend", "cpu", *options) as engine,
        closing(device(simulator, home / "raw" / "x.h5", server=engine.endpoint)) as live4d,
        pytest.raises(FailedStatus, match=r"this engine does not record at .*raw: "),
    ):
        RunEngine({})(bp.count([live4d]))
    assert not list((home / "raw").iterdir())


def test_files_of_an_engine_elsewhere_are_seen_where_they_are_mounted(simulator, home):
    (home / "there").mkdir()
    (home / "here").symlink_to(home / "there")
    files = []
    with (
        served_engine("--backend", "cpu", "--record-in", home / "there") as engine,
        closing(device(simulator, home / "there" / "x.h5", server=engine.endpoint)) as live4d,
    ):
        RE = RunEngine({})
        live4d.record_map.put(f"{home}/there={home}/nowhere")
        with pytest.raises(ValueError, match=r"there is no folder .*nowhere here"):
            RE(bp.count([live4d]))
        live4d.record_map.put(f"{home}/there={home}/here")
        RE(
            bp.count([live4d]),
            lambda name, doc: files.append(doc["uri"]) if name == "stream_resource" else None,
        )
    assert files == [f"file://localhost{home}/here/x_00001.h5"]
    with h5py.File(home / "here" / "x_00001.h5") as file:
        assert (file[STATES][()] == GOOD).all()


def test_a_baseline_is_in_the_notes_of_the_files(simulator, home):
    """Waveforms of a few numbers, too; what is no such thing is left out."""
    waveform = Signal(name="waveform", value=np.arange(5.0))
    ragged = Signal(name="ragged", value=[[1, 2], [3]])
    with closing(device(simulator, home / "x.h5")) as live4d:
        RE = RunEngine({})
        RE.subscribe(live4d.note_run)
        RE(bpp.baseline_wrapper(bp.count([live4d], 2), [waveform, ragged]))
    with h5py.File(home / "x_00001.h5") as file:
        baseline = json.loads(file["/entry/recording/notes"][()])["baseline"]
    assert baseline == {"waveform": [0, 1, 2, 3, 4]}


def test_a_device_in_its_own_baseline_has_its_frames_in_both_streams(home):
    """Bluesky asks for the baseline's keys before the first raster; the detector says how large frames are."""
    catalog = open_catalog(home / "catalog")
    with (
        SimulatorProcess(rows=4, cols=5, rate=2e3) as simulator,
        closing(device(simulator, home / "x.h5")) as live4d,
    ):
        RE = RunEngine({})
        record(RE, catalog)
        RE.subscribe(live4d.note_run)
        RE(bps.mv(live4d.detector.binning_mode, "2x2", live4d.detector.pixel_format, "uint32"))
        RE(bpp.baseline_wrapper(bp.count([live4d], 3), [live4d]))
    run = catalog[-1]
    for stream, numbers in (("baseline", (1, 5)), ("primary", (2, 3, 4))):
        raw = run[stream]["live4d_raw"]
        assert raw.shape == (len(numbers), 4, 5, 48, 48)
        assert raw.dtype == np.uint32
        for event, number in enumerate(numbers):
            with h5py.File(home / f"x_0000{number}.h5") as file:
                np.testing.assert_array_equal(raw[event], file["/entry/scan/data"])


def test_frames_of_another_kind_are_refused_in_the_same_run(simulator, home):
    """Catalogs would read them as those of the first Event: 70000 as 4464."""
    with closing(device(simulator, home / "x.h5")) as live4d:
        RE = RunEngine({})
        RE.subscribe(live4d.note_run)
        raster_done = live4d._raw.raster_done

        def deeper(file, flying):
            other = replace(file, recorded=replace(file.recorded, dtype="<u4"))
            raster_done(file if file.path.endswith("1.h5") else other, flying=flying)

        live4d._raw.raster_done = deeper
        with pytest.raises(FailedStatus, match=r"of <u4 after Events of .* of <u2 in the same run"):
            RE(bp.count([live4d], 2))


def device(simulator, path, **options):
    return Live4D(
        simulator.stream_endpoint, name="live4d", scan=ScanGrid(4, 5), control=Simplon(simulator.rest_url),
        methods=[Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius)], record=str(path), **options,
    )  # fmt: skip
