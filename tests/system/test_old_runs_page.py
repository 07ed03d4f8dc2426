"""docs/how-to/old-runs.md: its blocks run, in order, against runs of the simulator, and do what the text says."""

import re
import shlex
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from click.testing import CliRunner

from live4d_ophyd.commands.main import live4d as live4d_command

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "old-runs.md"


def blocks():
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def session(tmp_path, monkeypatch):
    """What `make session` has: RE, live4d, defocus, plans; a fresh catalog with one run in it already."""
    import bluesky.plans as bp
    from bluesky import RunEngine
    from bluesky.preprocessors import SupplementalData

    from live4d_ophyd import Annulus, Disk, Live4D, ScanGrid, Simplon, open_catalog
    from live4d_ophyd.plans import focal_series
    from live4d_ophyd.sim import SimMicroscope, SimulatorProcess
    from live4d_ophyd.storage import record

    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LIVE4D_CATALOG", raising=False)
    monkeypatch.delenv("LIVE4D_PROFILE", raising=False)
    db = open_catalog(tmp_path / "catalog")
    RE = RunEngine({}, context_managers=[])
    record(RE, db)
    with SimulatorProcess(rows=32, cols=32) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(32, 32, step=simulator.step_nm, unit="nm"),
            methods=[
                Disk("vbf", center=simulator.bf_center, radius=simulator.bf_radius),
                Annulus("adf", inner=30, outer=80),
            ],
            control=Simplon(simulator.rest_url),
            timeout=60.0,
        )
        microscope = SimMicroscope(simulator.rest_url, name="microscope")
        sd = SupplementalData(baseline=[microscope])
        RE.preprocessors.append(sd)
        RE(bp.count([live4d]), operator="Ada")
        yield {
            "RE": RE,
            "sd": sd,
            "live4d": live4d,
            "defocus": microscope.defocus,
            "focal_series": focal_series,
        }
        live4d.close()
        microscope.destroy()
    RE.loop.call_soon_threadsafe(RE.loop.stop)
    RE._th.join(timeout=10)
    RE.loop.close()
    db.context.close()
    plt.close("all")


def test_the_page_runs(session, tmp_path):
    names, printed = session, {}
    clients = []
    for language, text in blocks():
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
            clients += [names[name] for name in ("db",) if name in names]
        elif language == "sh":
            for line in text.splitlines():
                command, *arguments = shlex.split(line, comments=True)
                assert command == "live4d"
                result = CliRunner().invoke(live4d_command, arguments)
                assert result.exit_code == 0, (line, result.output, result.exception)
                printed[line.partition("#")[0].strip()] = result.output
    try:
        # What the text says of it.
        assert names["description"]["scan"]["positions"].value == [32, 32]
        vbf = names["description"]["virtual detectors"]["vbf"].value
        assert vbf["radius_mrad"] == pytest.approx(1e3 * np.arctan(vbf["radius"] * 100e-6 / 0.16))
        assert names["description"]["beam"]["energy"].note == "column_beam_energy"
        assert printed["live4d show"].startswith("run\n  uid")
        assert names["which"] == [(2, "Ada")]
        assert names["vbf"].scan_x.attrs["units"] == "nm"
        assert names["stack"].shape == (3, 32, 32)
        assert names["table"].columns.size == 3
        np.testing.assert_array_equal(names["array"], names["series"].values[0])
        np.testing.assert_array_equal(names["dataset"].live4d_vbf.values, names["series"].values)
        np.testing.assert_array_equal(names["first"], names["series"].values[0])
        assert names["before"] == names["after"] == 160
        assert len(list((tmp_path / "pictures").glob("*.png"))) == 6
        assert matplotlib.image.imread(next((tmp_path / "pictures").glob("*_vbf_001.png"))).shape[1] == 768
        assert len(names["recent"]) == 1  # the run before
        assert names["configuration"]["live4d_vbf_radius"] == names["radius"][0]
        assert (names["names"][0], names["names"][-1]) == ("start", "stop")
    finally:
        for client in {id(client): client for client in clients}.values():
            client.context.close()


def test_a_search_by_a_dict_finds_nothing_and_warns(tmp_path, monkeypatch):
    """As the page says. When it finds something, the page can be friendlier."""
    from bluesky import RunEngine
    from bluesky import plans as bp
    from ophyd.sim import det
    from tiled.queries import Key

    from live4d_ophyd import open_catalog
    from live4d_ophyd.storage import record

    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    db = open_catalog(tmp_path / "catalog", name="dicts")
    RE = RunEngine({}, context_managers=[])
    record(RE, db)
    RE(bp.count([det]))
    with pytest.warns(UserWarning, match="RawMongo"):
        assert len(list(db.search({"plan_name": "count"}))) == 0
    assert len(list(db.search(Key("plan_name") == "count"))) == 1
    RE.loop.call_soon_threadsafe(RE.loop.stop)
    RE._th.join(timeout=10)
    RE.loop.close()
    db.context.close()
