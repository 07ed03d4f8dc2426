"""The whole path: a flood, a disk, a name; a later process loads the name, scans, and its run says so."""

import json
import sys
from contextlib import closing

import bluesky.plan_stubs as bps
import forked
import numpy as np
import pytest
from bluesky import RunEngine

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon, describe, open_catalog
from live4d_ophyd.plans import calibrate_bright_field, measure_flat_field, save_calibration
from live4d_ophyd.sim import SimMicroscope, SimulatorProcess
from live4d_ophyd.sim.flaws import Flaws
from live4d_ophyd.sim.specimen import Detector
from live4d_ophyd.storage import record

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

FLAWS = {"hot_pixels": 6, "cold_pixels": 12, "gain_spread": 0.03}

LATER = """
import json, sys
from contextlib import closing
from bluesky import RunEngine, plans as bp
from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon, calibrations, open_catalog
from live4d_ophyd.plans import load_calibration
from live4d_ophyd.storage import record
rest, stream, catalog, name = sys.argv[1:]
RE = RunEngine({}, call_returns_result=False)
record(RE, open_catalog(catalog))
device = Live4D(stream, name="live4d", scan=ScanGrid(16, 16), control=Simplon(rest), backend="cpu",
                methods=[Disk("vbf", radius=5)])
with closing(device):
    device.wait_for_connection()
    RE(load_calibration(device, name))
    (uid,) = RE(bp.count([device]))
print(json.dumps({"uid": uid, "names": [stored.name for stored in calibrations()]}))
"""


def test_a_calibration_is_kept_across_sessions_and_recorded_with_later_runs(home, tmp_path):
    catalog, RE = tmp_path / "catalog", RunEngine({}, call_returns_result=True)
    db = open_catalog(catalog)
    record(RE, db)
    options = {"rows": 16, "cols": 16, "bf_center": (44.3, 50.6), "bf_radius": 15.2, "bf_ellipticity": 1.04}
    with SimulatorProcess(**options, bf_ellipse_angle=30.0, **FLAWS) as sim:
        microscope = SimMicroscope(sim.rest_url)
        device = Live4D(
            sim.stream_endpoint, name="live4d", scan=ScanGrid(16, 16), control=Simplon(sim.rest_url),
            methods=[Disk("vbf", radius=5)], backend="cpu",
        )  # fmt: skip
        with closing(device):
            RE(bps.mv(microscope.flood, 1, microscope.beam_current, 200))
            found = RE(measure_flat_field(device, num=3)).plan_result
            flat_uid = db[-1].metadata["start"]["uid"]
            RE(bps.mv(microscope.flood, 0, microscope.beam_current, 100))
            fit = RE(calibrate_bright_field(device, semiangle=10.0)).plan_result
            stored = RE(save_calibration(device)).plan_result
            vbf = device.vbf_mean.get()
        microscope.destroy()
        assert stored.name.endswith(" 100 kV 10 mrad")
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            LATER,
            sim.rest_url,
            sim.stream_endpoint,
            catalog,
            stored.name,
        ]
        done = forked.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        later = json.loads(done.stdout.splitlines()[-1])
    # What the first session found is what the simulator has.
    np.testing.assert_allclose(fit.center, (44.3, 50.6), atol=0.1)
    np.testing.assert_allclose(fit.semiaxes, 15.2 * np.array([1.04**0.5, 1.04**-0.5]), atol=0.1)
    true = Flaws(**FLAWS).response(Detector(96, 96), 0)
    bad = np.zeros((96, 96), bool)
    bad.flat[true.hot] = True
    assert np.array_equal(found.hot, bad)
    assert np.array_equal(found.dead, true.efficiency == 0)
    # The later session has it by name, and its run says so.
    assert later["names"] == [stored.name]
    run = db[later["uid"]]
    said = run["primary"].metadata["configuration"]["live4d"]["data"]
    assert said["live4d_calibration_name"] == stored.name
    assert said["live4d_calibration_uid"] == stored.uid
    assert said["live4d_calibration_runs"] == stored.runs
    assert stored.runs.split()[0] == f"flat_field={flat_uid}"
    assert said["live4d_bad_pixels"] == "spread"
    assert describe(run)["virtual detectors"]["calibration_name"].value == stored.name
    numbers = run["primary"].read(["live4d_vbf_mean", "live4d_vbf_radius", "live4d_calibration_mrad_per_px",
                                   "live4d_series_pixels_spread"])  # fmt: skip
    assert float(numbers["live4d_vbf_radius"][0]) == fit.radius
    assert float(numbers["live4d_calibration_mrad_per_px"][0]) == 10.0 / fit.radius
    assert int(numbers["live4d_series_pixels_spread"][0]) == 18
    # Corrected, the disk has the electrons that hit it, as seen with pixels of a mean efficiency.
    assert float(numbers["live4d_vbf_mean"][0]) > vbf
    # The run that measured it has the arrays.
    flat = db[flat_uid]["flat_field"].read()
    np.testing.assert_array_equal(flat["live4d_flat_field_gain"][0], stored.gain)
    np.testing.assert_array_equal(flat["live4d_flat_field_bad"][0], stored.pixel_mask)
    assert flat["live4d_flat_field_gain"].dims == ("time", "q_y", "q_x")
