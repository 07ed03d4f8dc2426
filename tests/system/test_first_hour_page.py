"""docs/how-to/first-hour.md, followed word for word against the simulated detector and microscope."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from live4d_ophyd.sim import SimulatorProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "how-to" / "first-hour.md"


def test_the_first_hour(tmp_path, new_user):
    with SimulatorProcess(rows=16, cols=16, defocus=60.0) as simulator:
        profile = tmp_path / "profile"
        shutil.copytree(
            REPOSITORY / "profile_collection", profile, ignore=shutil.ignore_patterns("*.sqlite*")
        )
        lines = []
        for name, code in re.findall(r"^```python ?(\S*)\n(.*?)^```", PAGE.read_text(), re.M | re.S):
            code = code.replace("http://tem:8080", simulator.rest_url.rstrip("/"))
            if name:
                (profile / "startup" / name).write_text(code)
            else:
                lines.append(code)
        assert sorted(path.name for path in (profile / "startup").iterdir())[1] == "05-scan-generator.py"
        script = tmp_path / "hour.py"
        facts = (
            "import json\n"
            "print('FACTS', json.dumps(dict(\n"
            "    shape=list(image.shape), plans=[r.metadata['start']['plan_name'] for r in db.values()],\n"
            "    defocus=defocus.get(), center=list(live4d.vbf_center.get()), adf=live4d.adf_inner.get(),\n"
            "    sample=run.metadata['start']['sample'],\n"
            "    energy=float(run.baseline.read()['tem_beam_energy'][0]),\n"
            "    step=run.primary.read(['live4d_scan_step_x'])['live4d_scan_step_x'].values.tolist(),\n"
            ")))\n"
        )
        script.write_text("\n".join([*lines, facts]))
        done = subprocess.run(
            [sys.executable, "-m", "IPython", f"--profile-dir={profile}", "--colors=NoColor", str(script)],
            env=new_user
            | {
                "LIVE4D_DCU": simulator.rest_url,
                "LIVE4D_STREAM": simulator.stream_endpoint,
                "MPLBACKEND": "agg",
                "TERM": "dumb",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
        )
    said = done.stdout + done.stderr
    assert "FACTS" in said, said
    facts = json.loads(said.partition("FACTS ")[2].splitlines()[0])
    assert facts["plans"] == ["count", "calibrate_bright_field", "autofocus", "count", "count"]
    assert facts["shape"] == [16, 16]
    assert facts["center"] == pytest.approx([46.8, 48.9], abs=0.2)  # the simulator's truth
    assert abs(facts["defocus"]) < 60
    assert (facts["adf"], facts["sample"], facts["energy"]) == (20.0, "gold on carbon", 100.0)
    assert facts["step"] == [0.25]
