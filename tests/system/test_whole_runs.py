"""Whole runs as a user makes them: commands, real processes and sockets, and a new process that reads back."""

import json
import shlex
import subprocess
import sys
from contextlib import contextmanager

import forked
import numpy as np
import pytest
from captures import EIGER2_500K, needs_captures

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.sources.dectris.messages import read_message

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

LIVE4D = [sys.executable, "-c", "from live4d_ophyd.commands.main import main; main()"]


def run(*command, **options):
    done = forked.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_new_process(code, *arguments):
    """What ``code`` prints as JSON in a process that knows nothing of this one."""
    return json.loads(run(sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)))


#: before what only reads: Tiled's modules are not garbage, and to look for some among them is a third of such a process
AT_ONCE = "import gc; gc.disable()\n"

READ_BACK = """
import json, sys
from databroker import catalog
image = catalog[sys.argv[1]][sys.argv[2]].primary.read(["live4d_vbf"])["live4d_vbf"]
print(json.dumps({"dims": image.dims, "dtype": image.dtype.str, "values": image.values.tolist()}))
"""


@contextmanager
def replayed(*arguments):
    """`live4d replay` in its process; yields its endpoint."""
    command = [*LIVE4D, "replay", *map(str, arguments)]
    with forked.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["stream_endpoint"]
        finally:
            process.terminate()


def capture_sums(weights):
    """Sums of threshold_1 of the three captured frames by the slow general decoder, no-data pixels left out."""
    sums = []
    for path in sorted(EIGER2_500K.glob("*.cbor"))[:3]:
        frame = decode_array(read_message(path.read_bytes()).channels["threshold_1"]).astype(np.int64)
        sums.append(int((np.where(frame == 65535, 0, frame) * weights).sum()))
    return sums


def test_the_demo_prints_how_to_get_its_image_back_and_that_works(home):
    out = home / "out"
    text = run(*LIVE4D, "demo", "--out", str(out), "--scan", "24", cwd=home)
    uid = next(line.split()[-1] for line in text.splitlines() if line.startswith("run uid"))
    assert (out / "vbf.png").stat().st_size > 5000
    assert "growing.png" in text
    assert (out / "growing.gif").read_bytes().startswith(b"GIF")
    assert f'catalog["live4d-demo"]["{uid[:8]}"]' in text
    back = in_new_process(AT_ONCE + READ_BACK, "live4d-demo", uid)
    assert (back["dims"], back["dtype"]) == (["time", "scan_y", "scan_x"], "<f8")
    again = run(*LIVE4D, "demo", "--out", "again", "--scan", "8", cwd=home)
    assert f"live4d-demo is {home / 'again' / 'catalog'} now" in again
    hint = again.splitlines()[-1]
    assert uid in run(*LIVE4D, *shlex.split(hint)[1:], cwd=home)  # where the first demo's run still is
    image = np.array(back["values"])
    assert image.shape == (1, 24, 24)
    assert np.isfinite(image).all()
    assert image.std() / image.mean() > 0.02  # there is something to see


def test_what_a_plan_moves_is_read_back_with_the_images_it_was_moved_for(home):
    """Settings of the device and of the detector, scanned and moved between Events."""
    code = """
import sys, json
from contextlib import closing
from bluesky import RunEngine, plan_stubs as bps, plans as bp
from live4d_ophyd import Live4D, Disk, ScanGrid, Simplon, open_catalog
from live4d_ophyd.storage import record
RE = RunEngine({}, call_returns_result=False)
record(RE, open_catalog(sys.argv[3]))
device = Live4D(sys.argv[2], name="live4d", scan=ScanGrid(4, 5), control=Simplon(sys.argv[1]), backend="cpu",
                methods=[Disk("vbf", center=(20.0, 20.0), radius=9.0)])

def one_step(detectors, motor, step):
    yield from bps.mv(device.vbf_radius, 10 + 1e4 * step)
    yield from bps.one_1d_step(detectors, motor, step)

with closing(device):
    (uid,) = RE(bp.list_scan([device], device.detector.frame_time, [1e-4, 2e-4, 4e-4], per_step=one_step))
print(json.dumps(uid))
"""
    read_back = """
import json, sys
from databroker import catalog
run = catalog["live4d"][sys.argv[1]].primary.read()
print(json.dumps({key: run[f"live4d_{key}"].values.tolist() for key in (
    "vbf_radius", "detector_frame_time", "series_frame_time", "vbf_center_row", "scan_unit", "nodata")}))
"""
    with SimulatorProcess(rows=4, cols=5, rate=2e3) as sim:
        uid = in_new_process(code, sim.rest_url, sim.stream_endpoint, home / "catalog")
    assert in_new_process(AT_ONCE + read_back, uid) == {
        "vbf_radius": [11, 12, 14],
        "detector_frame_time": [1e-4, 2e-4, 4e-4],
        "series_frame_time": [1e-4, 2e-4, 4e-4],
        "vbf_center_row": [20, 20, 20],
        "scan_unit": ["px"] * 3,
        "nodata": [True] * 3,
    }


@needs_captures
def test_captured_messages_go_through_a_count_into_the_catalog(home):
    code = """
import sys, json
from contextlib import closing
from bluesky import RunEngine, plans as bp
from live4d_ophyd import Live4D, Disk, ScanGrid, open_catalog
from live4d_ophyd.storage import record
RE = RunEngine({}, call_returns_result=False)
record(RE, open_catalog(sys.argv[2]))
device = Live4D(sys.argv[1], name="live4d", scan=ScanGrid(1, 3),
                methods=[Disk("vbf", center=(256.0, 514.0), radius=200.0)], channel="threshold_1")
with closing(device):
    (uid,) = RE(bp.count([device]))
print(json.dumps(uid))
"""
    from live4d_ophyd.imaging.virtual_detectors import Disk

    with replayed(EIGER2_500K, "--make-start", "--rate", "100") as endpoint:
        uid = in_new_process(code, endpoint, home / "catalog")
    expected = capture_sums(Disk("vbf", center=(256, 514), radius=200).weights((514, 1030)))
    assert in_new_process(AT_ONCE + READ_BACK, "live4d", uid)["values"] == [[expected]]


@needs_captures
def test_listen_takes_captured_messages_without_bluesky(home):
    from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk

    with replayed(EIGER2_500K, "--make-start", "--rate", "100") as endpoint:
        text = run(
            *LIVE4D, "listen", endpoint, "--scan", "1x3", "--disk", "256,514,200",
            "--annulus", "256,514,200,250", "--out", str(home / "image.npy"), "--json",
        )  # fmt: skip
    counts = json.loads(text)
    assert counts.pop("rate_hz") > 0
    assert counts == {
        "frames_expected": 3, "frames_received": 3, "frames_lost": 0, "frames_bad": 0, "backend": "cpu",
    }  # fmt: skip
    shape = (514, 1030)
    disk = Disk("d", center=(256, 514), radius=200).weights(shape)
    ring = Annulus("a", center=(256, 514), inner=200, outer=250).weights(shape)
    assert np.load(home / "image-disk1.npy").tolist() == [capture_sums(disk)]
    assert np.load(home / "image-annulus1.npy").tolist() == [capture_sums(ring)]


def test_listen_arms_the_simulator_and_counts_what_it_drops(home):
    with SimulatorProcess(rows=16, cols=16, drop="3,17,200") as simulator:
        row, col = simulator.bf_center
        text = run(
            *LIVE4D, "listen", simulator.stream_endpoint, "--scan", "16x16", "--simplon", simulator.rest_url,
            "--disk", f"{row},{col},{simulator.bf_radius}", "--connections", "2", "--out",
            str(home / "vbf.npy"), "--json",
        )  # fmt: skip
    counts = json.loads(text)
    assert (counts["frames_received"], counts["frames_lost"], counts["frames_bad"]) == (253, 3, 0)
    image = np.load(home / "vbf.npy")
    assert np.flatnonzero(np.isnan(image)).tolist() == [3, 17, 200]


def test_inspect_exits_with_1_when_a_message_is_refused(tmp_path):
    (tmp_path / "bad.cbor").write_bytes(b"noise")
    done = forked.run([*LIVE4D, "inspect", str(tmp_path), "--json"], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert "error" in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["tcp://127.0.0.1:9", "--scan", "4x4", "--disk", "1,1,1", "--timeout", "0.3"],
            "nothing answers at tcp://127",
        ),
        (["tcp://127.0.0.1:9", "--scan", "4by4", "--disk", "1,1,1"], "is not ROWSxCOLS"),
        (["tcp://127.0.0.1:9", "--scan", "4x4", "--disk", "1,1"], "is not ROW,COL,RADIUS"),
        (["tcp://127.0.0.1:9", "--scan", "4x4"], "no detector"),
        (
            ["nonsense", "--scan", "4x4", "--disk", "1,1,1"],
            "endpoint is 'nonsense'; expected an address like tcp://dcu:31001",
        ),
    ],
)
def test_listen_says_what_is_wrong(arguments, words):
    done = forked.run([*LIVE4D, "listen", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
