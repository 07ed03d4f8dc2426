"""A recorded run, reprocessed in another process: the live images bit for bit, in a run that reads like a live one."""

import pytest
from test_recording import SCAN, arguments, in_new_process

from live4d_ophyd.sim import SimulatorProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

PLAN = """
    from ophyd.sim import motor
    (uid,) = RE(bp.scan([live4d], motor, -1, 1, 3), sample="MoS2"); print(json.dumps(uid))
"""

REPROCESS = """
import sys, json
from live4d_ophyd import Annulus, reprocess
if __name__ == "__main__":
    same = reprocess(sys.argv[1], backend="cpu", quiet=True)
    wide = reprocess(same, [Annulus("wide", inner=20, outer=45)], event=2, backend="cpu", quiet=True)
    print(json.dumps([run.metadata["start"]["uid"] for run in (same, wide)]))
"""

READ = '''
import json, sys, subprocess
from pathlib import Path
import numpy as np
from databroker import catalog
from live4d_ophyd import Annulus, describe, export_run, image, images
live, same, wide = (catalog["live4d"][uid] for uid in sys.argv[1:4])
equal = {}
for name in ("live4d_vbf", "live4d_adf"):
    before, after = live.primary.read([name])[name].values, same.primary.read([name])[name].values
    equal[name] = bool((before == after).all()) and before.shape == (3, 10, 12)
raw = live.primary["live4d_raw"][1].astype(float)
weights = np.asarray(Annulus("wide", inner=20, outer=45).weights(raw.shape[-2:]), float)
said = describe(same)
names = """scan_rows scan_step_x scan_unit nodata saturated pixel_mask vbf_radius vbf_center_row adf_outer vbf_mean
adf_contrast series_energy series_threshold series_channel series_detector series_unique_id series_saturation
series_pixel_mask recorded_file frames_received"""
keys = [f"live4d_{name}" for name in names.split()]
old, new = live.primary.read(keys), same.primary.read(keys)
start = same.metadata["start"]
start = {key: start[key] for key in ("plan_name", "original_uid", "original_scan_id", "sample", "files")}
picture = image(same, "vbf", 2)
print(json.dumps({
    "equal": equal, "start": start, "original of wide": wide.metadata["start"]["original_uid"],
    "wide": bool((image(wide, "wide").values == (raw * weights).sum(axis=(-2, -1))).all()),
    "motor": images(same, "vbf").coords["motor"].values.tolist(),
    "step": [picture.coords["scan_y"].attrs["step"], picture.coords["scan_y"].attrs["units"]],
    "radius": picture.attrs["detector_radius"], "frames": said["frames"]["received"].value,
    "scan_id": [run.metadata["start"]["scan_id"] for run in (live, same, wide)],
    "ended": said["run"]["ended"].value,
    "exported": sorted(path.suffix for path in export_run(same, "tiff", Path(sys.argv[4]))),
    "other settings": [key for key in keys if not (old[key].values == new[key].values).all()],
}))
'''


def test_images_of_a_reprocessed_run_are_the_live_ones(home):
    with SimulatorProcess(rows=10, cols=12, rate=5e3) as sim:
        told = arguments(sim, home, home / "raw" / "{scan_id}.h5")
        uid = in_new_process(SCAN.replace("    PLAN", PLAN), *told)
        radius = sim.bf_radius
    same, wide = in_new_process(REPROCESS, uid)
    found = in_new_process(READ, uid, same, wide, home / "exported")
    assert found["equal"] == {"live4d_vbf": True, "live4d_adf": True}
    assert found["wide"]
    start = found["start"]
    assert (start["plan_name"], start["original_uid"], start["original_scan_id"]) == ("reprocess", uid, 1)
    assert start["sample"] == "MoS2"
    assert len(start["files"]) == 3
    assert found["original of wide"] == same
    assert found["scan_id"] == [1, 2, 3]
    assert found["motor"] == [-1, 0, 1]
    assert found["step"] == [0.25, "nm"]
    assert found["radius"] == radius
    assert found["frames"] == 360
    assert found["ended"] == "success"
    assert found["exported"] == [".tif", ".tif"]
    assert found["other settings"] == []
