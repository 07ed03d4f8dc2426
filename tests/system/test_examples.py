"""The examples of docstrings run, with the names that a session has. Those that show no result may have any.

Those that need another specimen, other methods or a screen say +SKIP; what they show has tests of its own.
"""

import doctest
import importlib
import os
import tomllib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]


def modules_with_examples():
    for package in PACKAGES:
        for folder, _, names in sorted(os.walk(ROOT / package, followlinks=True)):
            for path in (Path(folder) / name for name in sorted(names) if name.endswith(".py")):
                if ">>> " in path.read_text():
                    yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


class ResultsAreShownWhereTheyMatter(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="module")
def session(tmp_path_factory, catalogs_are_copies):
    """RE, db, live4d, a simulated microscope and its axes, as `make session` has them."""
    import bluesky.plan_stubs as bps
    import bluesky.plans as bp
    from bluesky import RunEngine

    from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon, calibrations, live_preview, open_catalog
    from live4d_ophyd.sim import SimMicroscope, SimulatorProcess
    from live4d_ophyd.storage import record

    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch, SimulatorProcess(rows=8, cols=8, defocus=30.0) as simulator:
        patch.setattr("tiled.profiles.paths", [folder / "profiles"])
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.delenv("LIVE4D_CATALOG", raising=False)
        patch.setenv("LIVE4D_PROFILE", "examples")
        db = open_catalog(folder / "catalog", name="examples")
        RE = RunEngine({}, context_managers=[])
        record(RE, db)
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(8, 8, step=simulator.step_nm, unit="nm"),
            methods=[Disk("vbf", center=simulator.bf_center, radius=15)],
            control=Simplon(simulator.rest_url),
            timeout=60.0,
        )
        microscope = SimMicroscope(simulator.rest_url, name="microscope")
        axes = {axis: getattr(microscope, axis) for axis in ("defocus", "stage_x", "stage_y")}
        RE(bp.count([live4d]))
        yield {
            "RE": RE,
            "db": db,
            "bp": bp,
            "bps": bps,
            "live4d": live4d,
            "live_preview": live_preview,
            "calibrations": calibrations,
            **axes,
        }
        live4d.close()
        microscope.destroy()
        RE.loop.call_soon_threadsafe(RE.loop.stop)
        RE._th.join(timeout=10)
        RE.loop.close()
        db.context.close()


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_run(name, session, capsys):
    # Each with settings and preprocessors of its own: one must not need what another has done.
    before, live4d, RE = list(session["RE"].preprocessors), session["live4d"], session["RE"]
    center, radius = live4d.vbf_center.get(), live4d.vbf_radius.get()
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(checker=ResultsAreShownWhereTheyMatter())
    names = {**vars(module), **session}
    tests = [test for test in doctest.DocTestFinder().find(module, name, globs=names) if test.examples]
    assert tests
    try:
        for test in tests:
            runner.run(test)
    finally:
        RE.preprocessors[:] = before
        live4d.vbf_center.put(center)
        live4d.vbf_radius.put(radius)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
